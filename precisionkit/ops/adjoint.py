"""How a linear functional of an operator's result is pulled back to its operands: transposes, and lines around nonlinear ones.

Used by backward substitution (proofs/bounds.md, theorems 16 to 18).  A functional is a batch of rows g; row k belongs to image
``rows[k]``, and stands for ``sum g * deviation`` over the entries of a tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from precisionkit.enclosure import Enclosure

Linear = Callable[..., Tensor]
"""``linear(attributes, deviations, rows, *operands)``: the image of deviations under the linear part, None for no deviation."""
Transpose = Callable[..., "tuple[Tensor | None, ...]"]
"""``transpose(attributes, g, rows, *operands)``: the functional on each operand that is an activation, None for the others."""


@dataclass(frozen=True)
class Lines:
    """Two lines that enclose the deviation of a nonlinear operator.

    For every deviation d within the operand's radius,
    ``lower * S d - below <= f(c + d) - f(c) <= upper * S d + above``, S a selection of entries (the identity for elementwise f).

    Attributes
    ----------
    upper, lower : (batch, ...) tensors
        Slopes, non-negative numbers of binary32 (`slope_in_binary32`), since functionals may be pulled back in that format.
    above, below : (batch, ...) tensors
        Offsets, non-negative, rounded up.
    reach : (batch, ...) tensor
        Upper bound of ``slope * |S d|``, which scales the rounding of pulling back.
    under : (batch, ...) tensor
        Upper bound of ``upper * S d - (f(c + d) - f(c))``, non-negative.
    chosen : (batch, ...) int64 tensor or None
        For each entry of the result, the flat index of the operand's entry that S selects within its channel; None for the identity.
    """

    upper: Tensor
    lower: Tensor
    above: Tensor
    below: Tensor
    reach: Tensor
    under: Tensor
    chosen: Tensor | None = None

    @property
    def remainder(self) -> Tensor:
        """Upper bound of ``|f(c + d) - f(c) - upper * S d|``."""
        return torch.maximum(self.above, self.under)

    def select(self, deviations: Tensor) -> Tensor:
        """``S d`` for a batch of deviations of one image."""
        if self.chosen is None:
            return deviations
        chosen = self.chosen.flatten(2).expand(deviations.shape[0], -1, -1)
        return deviations.flatten(2).gather(2, chosen).reshape(deviations.shape[0], *self.upper.shape[1:])


Relax = Callable[[Any, Enclosure], Lines]


def at_rows(values: Tensor, rows: Tensor) -> Tensor:
    """The values of the image that each row belongs to; of a single image as they are."""
    return values if values.shape[0] == 1 else values[rows]


def slope_in_binary32(slope: Tensor) -> Tensor:
    """A number of binary32 close to a slope, in binary64; zero for tiny slopes."""
    return torch.where(slope < 2.0**-100, 0.0, slope.float().double())


def linear_by(apply: Callable[..., Tensor]) -> Linear:
    """Linear part of an operator that is linear in all of its operands together."""

    def linear(attributes: Any, deviations: tuple[Tensor | None, ...], rows: Tensor, *operands: Any) -> Tensor:
        like = next(d for d in deviations if d is not None)
        shapes = [(o.centre if isinstance(o, Enclosure) else o).shape[1:] for o in operands]
        filled = [like.new_zeros(len(rows), *shape) if d is None else d for d, shape in zip(deviations, shapes, strict=True)]
        return apply(attributes, *filled)

    return linear


def autograd_transpose(apply: Callable[..., Tensor]) -> Transpose:
    """Transpose of an affine operator, by automatic differentiation."""

    def transpose(attributes: Any, g: Tensor, rows: Tensor, *operands: Any) -> tuple[Tensor | None, ...]:
        with torch.enable_grad():
            points = [
                torch.zeros((g.shape[0], *o.centre.shape[1:]), dtype=g.dtype, device=g.device, requires_grad=True)
                if isinstance(o, Enclosure)
                else o
                for o in operands
            ]
            result = apply(attributes, *points)
        wanted = [p for p, o in zip(points, operands, strict=True) if isinstance(o, Enclosure)]
        found: Sequence[Tensor] = torch.autograd.grad(result, wanted, g)
        gradients = iter(found)
        return tuple(next(gradients) if isinstance(o, Enclosure) else None for o in operands)

    return transpose
