"""One trial of a record: numbers for a use in an arithmetic, what the record makes of them, and how to complain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from precisionkit.arithmetic import Arithmetic
from precisionkit.custom.use import Use, draw
from precisionkit.enclosure import Enclosure
from precisionkit.errors import InvalidOperatorError
from precisionkit.ops import Operator
from precisionkit.truth import Mpmath
from precisionkit.user_code import brief

JUDGE = Mpmath(100)
"""Digits enough for formulas that cancel near zero."""


@dataclass(frozen=True)
class Tried:
    """Numbers for one use of a record.

    Attributes
    ----------
    operators : list
        Torch's operators that the record is for.
    values : list of tensor or None
        Operands, numbers of the storage format, in binary64.
    """

    record: Operator
    use: Use
    operators: list[Any]
    arithmetic: Arithmetic
    family: str
    rng: np.random.Generator
    values: list[Tensor | None]

    @classmethod
    def drawn(
        cls, record: Operator, use: Use, operators: list[Any], arithmetic: Arithmetic, family: str, rng: np.random.Generator
    ) -> Tried:
        """Draw the numbers."""
        values = draw(use, family, rng, arithmetic.storage, record.kinks(use.attributes))
        return cls(record, use, operators, arithmetic, family, rng, values)

    def fail(self, what: str, part: str) -> NoReturn:
        """Complain of a part of the record."""
        raise InvalidOperatorError(
            f"The record of operator '{self.record.name}' is wrong: {what} ({self.family} numbers, {self.arithmetic.name}, "
            f"shapes {self.use.shapes}, attributes {dict(self.use.attributes)}); correct its {part}."
        )

    def ask(self, part: str, *arguments: Any) -> Any:
        """Call a function of the record."""
        function: Callable[..., Any] = getattr(self.record, part)
        try:
            return function(*arguments)
        except Exception as error:  # the user's own code may raise anything
            self.fail(f"{part} fails with {brief(error)}", part)

    def exact(self, values: Sequence[Tensor | None]) -> np.ndarray[Any, Any]:
        """The operator over numbers of 100 digits."""
        arrays = [None if v is None else JUDGE.array(v) for v in values]
        found = self.ask("exact", JUDGE, self.use.attributes, *arrays)
        if not isinstance(found, np.ndarray) or any(not isinstance(v, JUDGE.context.mpf) for v in found.flat):
            self.fail("exact does not give an array of the engine's real numbers", "exact")
        return found

    def enclosed(self, centres: Sequence[Tensor | None], radii: Sequence[Tensor | None] | None = None) -> list[Any]:
        """Activations as enclosures, constants as they are."""
        result: list[Any] = []
        for place, centre in enumerate(centres):
            radius = None if radii is None else radii[place]
            if centre is None or not self.use.is_activation(place):
                result.append(centre)
            else:
                result.append(Enclosure(centre, torch.zeros_like(centre) if radius is None else radius))
        return result

    def at(self, index: tuple[int, ...], shape: torch.Size) -> str:
        """The place of an entry, with the operand there where that is plain."""
        first = self.values[self.use.activations[0]]
        assert first is not None
        return f"entry {index}" + (f", where the operand is {float(first[index])!r}," if first.shape == shape else "")


def beyond(computed: Tensor, reference: Any, bound: Tensor) -> tuple[tuple[int, ...], str] | None:
    """The first entry at which ``|computed - reference|`` exceeds the bound, and by how far they are apart there.

    Where binary64 cannot tell, 100 digits do.
    """
    mp, found = JUDGE.context, computed.double().numpy()
    exact = reference.numpy() if isinstance(reference, Tensor) else reference
    limits = np.broadcast_to(bound.numpy(), found.shape)
    with np.errstate(all="ignore"):
        near = np.asarray(exact, dtype=np.float64)
        plain = abs(found - near) + (abs(found) + abs(near)) * 2.0**-52 + 2.0**-1060 <= limits
    for index in map(tuple, np.argwhere(~plain).tolist()):
        apart = abs(mp.mpf(float(found[index])) - mp.mpf(exact[index])) if np.isfinite(found[index]) else mp.inf
        if not apart <= mp.mpf(float(limits[index])):
            return index, str(mp.nstr(apart, 5))
    return None
