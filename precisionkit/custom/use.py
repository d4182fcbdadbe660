"""Uses of an operator that its record is checked on, and the numbers that are tried."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from precisionkit.errors import InvalidOperatorError
from precisionkit.formats import Format, round_to_nearest
from precisionkit.ops import Operator

LARGEST = 256
"""Numbers of one operand: every one is computed with 100 digits, many times."""


@dataclass(frozen=True)
class Use:
    """One use of an operator.

    Attributes
    ----------
    shapes : tuple of (tuple of int or None)
        Of the operands, in the record's order; activations with a batch of at least two in front; None for an absent one.
    attributes : mapping
        Its other arguments, by the names of its schema.
    constants : tuple of int
        Places of the operands that are weights.
    low, high : float
        Where numbers are taken from, for operators that are not defined everywhere.
    """

    shapes: tuple[tuple[int, ...] | None, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    constants: tuple[int, ...] = ()
    low: float = -math.inf
    high: float = math.inf

    def is_activation(self, place: int) -> bool:
        """Whether an operand is one."""
        return place not in self.constants and self.shapes[place] is not None

    @property
    def activations(self) -> tuple[int, ...]:
        """Places of the operands that are activations."""
        return tuple(place for place in range(len(self.shapes)) if self.is_activation(place))


@dataclass(frozen=True)
class Custom:
    """A record of one's own with the uses that it is checked on; those of an operator of one operand may be left out."""

    record: Operator
    uses: tuple[Use, ...] = ()


def uses_of(record: Operator, uses: tuple[Use, ...]) -> tuple[Use, ...]:
    """Return the uses, or one of two rows of twelve numbers.

    Raises
    ------
    InvalidOperatorError
        There are none for an operator of several operands, or one does not fit the operator.
    """
    several = len(record.operands) > 1 or record.operands[0].startswith("*")
    if not uses and several:
        raise InvalidOperatorError(
            f"The record of operator '{record.name}' has several operands: say what to check it on, as Custom(record, (Use(shapes),))."
        )
    for use in uses:
        shapes = [shape for shape in use.shapes if shape is not None]
        counted = len(use.shapes) >= len(record.operands) - record.operands[-1].startswith("*")
        batches = {use.shapes[place][:1] for place in use.activations}  # type: ignore[index]
        if not counted or len(batches) != 1 or batches in ({()}, {(1,)}) or any(not 0 < math.prod(shape) <= LARGEST for shape in shapes):
            raise InvalidOperatorError(
                f"The use {use.shapes} of operator '{record.name}' is none to check it on: give a shape, or None, for each of "
                f"{', '.join(record.operands)}, of at most {LARGEST} numbers, with the same batch of at least two in front of activations."
            )
    return uses or (Use(((2, 12),)),)


FEW_BITS = "short"
Draw = Callable[[np.random.Generator, tuple[int, ...], Format], Any]
FAMILIES: Mapping[str, Draw] = {
    FEW_BITS: lambda rng, shape, fmt: rng.choice([0.0, 1.0, -1.0, 1 + fmt.eps, 0.5, -2.0, 3.0, fmt.eps], shape),
    "normal": lambda rng, shape, fmt: rng.standard_normal(shape),
    "of many sizes": lambda rng, shape, fmt: rng.choice([-1.0, 1.0], shape) * 2.0 ** rng.uniform(-10, 4, shape),
    "subnormal": lambda rng, shape, fmt: fmt.smallest_subnormal * rng.integers(-40, 40, shape),
    "large": lambda rng, shape, fmt: rng.choice([-1.0, 1.0], shape) * fmt.max ** rng.choice([0.5, 0.4, 0.3, 0.2], shape),
}
"""Kinds of numbers that are tried; short ones have few bits."""


def draw(use: Use, family: str, rng: np.random.Generator, fmt: Format, kinks: tuple[float, ...]) -> list[Tensor | None]:
    """Operands of a use that hold numbers of a format, in binary64; some of them at kinks and beside them."""
    return [None if shape is None else _drawn(use, family, rng, shape, fmt, kinks) for shape in use.shapes]


def _drawn(use: Use, family: str, rng: np.random.Generator, shape: tuple[int, ...], fmt: Format, kinks: tuple[float, ...]) -> Tensor:
    values = np.asarray(FAMILIES[family](rng, shape, fmt), dtype=np.float64)
    if kinks:
        beside = rng.choice(kinks, shape) + rng.integers(-2, 3, shape) * 2.0 ** rng.uniform(-12, 0, shape)
        values = np.where(rng.random(shape) < 0.25, beside, values)
    stored = round_to_nearest(within(use, torch.from_numpy(values)).numpy(), fmt)
    return torch.from_numpy(np.clip(stored, max(use.low, -fmt.max), min(use.high, fmt.max)))


def within(use: Use, values: Tensor) -> Tensor:
    """Reflect numbers at the ends of where the operator is defined."""
    if use.low > -math.inf:
        values = use.low + (values - use.low).abs()
    if use.high < math.inf:
        values = use.high - (use.high - values).abs()
    return values.clamp(use.low, use.high)
