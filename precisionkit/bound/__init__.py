"""Methods that bound what every run of a program can compute."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from precisionkit.arithmetic import Arithmetic
from precisionkit.bound.adjoint import CONFIDENCE, adjoint
from precisionkit.bound.interval import interval
from precisionkit.bound.result import LogitBounds
from precisionkit.bound.substitution import EFFORT, substitution
from precisionkit.errors import UnsupportedArithmeticError

Method = Callable[..., LogitBounds]
"""Takes a program, a batch of stored inputs and the classes in question."""

METHODS = ("interval", "zonotope", "adjoint")
"""Names, the cheapest first."""


@dataclass(frozen=True)
class Ladder:
    """Methods to try one after the other.

    Attributes
    ----------
    proofs : tuple of (name, method)
        Their bounds hold for every run; the cheapest first.
    likely : method or None
        Its bounds hold under the model of random rounding, with a probability; tried on what no proof decides.
    """

    proofs: tuple[tuple[str, Method], ...]
    likely: Method | None

    @classmethod
    def of(cls, name: str, arithmetic: Arithmetic, effort: float = EFFORT, confidence: float = CONFIDENCE) -> Ladder:
        """Return the methods that a name stands for: one, interval before adjoint, or for ``auto`` all that the arithmetic allows.

        Raises
        ------
        UnsupportedArithmeticError
            The adjoint method is asked for, and its model covers neither the sums of the arithmetic nor their stores.
        """
        methods: dict[str, Method] = {"interval": interval, "zonotope": partial(substitution, effort=effort)}
        likely = partial(adjoint, effort=effort, confidence=confidence / 2) if arithmetic.random_stores else None
        if name == "auto":
            return cls(tuple(methods.items()), likely)
        if name != "adjoint":
            return cls(((name, methods[name]),), None)
        if likely is None:
            raise UnsupportedArithmeticError(
                f"The adjoint method takes rounding errors for unbiased, and the sums of {arithmetic.name} are not: they truncate or swamp "
                "their terms, and their results are not rounded to a shorter format. Choose --order any, or --method zonotope."
            )
        return cls((("interval", interval),), likely)


__all__ = ["CONFIDENCE", "EFFORT", "METHODS", "Ladder", "LogitBounds", "Method", "adjoint", "interval", "substitution"]
