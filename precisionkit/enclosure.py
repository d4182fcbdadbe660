"""What is known of a stored tensor over every run: a centre and a radius, and what one operator adds to it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from precisionkit.formats import Format


@dataclass(frozen=True)
class Enclosure:
    """Every run stores a tensor that differs from `centre` by at most `radius`, element by element.

    Attributes
    ----------
    centre : (batch, ...) binary64 tensor
        The network in binary64, with the program's own (rounded) weights; its own rounding errors are part of the radius.
    radius : tensor of the same shape, non-negative
        NaN or inf stands for "no bound".
    low, high : tensors of the same shape, or None
        Sharper ends of the stored values, where a method found them; None stands for ``centre -+ radius``.
    """

    centre: Tensor
    radius: Tensor
    low: Tensor | None = None
    high: Tensor | None = None

    @classmethod
    def exact(cls, values: Tensor) -> Enclosure:
        """Enclosure of values that every run has exactly."""
        return cls(values, torch.zeros_like(values))

    def occupied(self) -> Tensor:
        """0 where every run stores zero, else 1."""
        return ((self.centre != 0) | (self.radius != 0)).to(self.centre.dtype)

    def ends(self) -> tuple[Tensor, Tensor]:
        """Ends of the stored values, rounded to nearest: their signs are exact, and each is off by at most one rounding."""
        low = self.centre - self.radius if self.low is None else self.low
        return low, self.centre + self.radius if self.high is None else self.high


@dataclass(frozen=True)
class Bounded:
    """The result of one operator over every run, before its store.

    Attributes
    ----------
    centre : (batch, ...) binary64 tensor
        The operator applied to the centres of its operands, in binary64.
    carried : non-negative tensor of the same shape
        How far the deviations of the operands can move the result.
    fresh : non-negative tensor of the same shape, or None
        What the operator's own roundings can add, over the whole enclosure, and the binary64 error of `centre`; None where the
        result consists of numbers that were stored before, and zeros.
    form : Format or None
        The format whose numbers the result consists of; None for a real number that is still to be rounded.
    peak : non-negative tensor, broadcastable, or None
        Bound on the magnitude of every intermediate result; None where there is none beside the result.
    peak_format : Format or None
        Format of those intermediate results.
    reach : non-negative tensor or None
        Bound of what the linear part alone can move the result by, ``|J| e``, where `carried` may be less; None where it is not.
    stored_before : non-negative tensor or None
        Bound on the magnitude of an intermediate result that may be stored in the storage format.
    bias : non-negative tensor or None
        The part of `fresh` that the model of random rounding does not cover; None where that is all of it.
    spread : non-negative tensor or None
        Root of the sum of squares of bounds of the roundings in `fresh` that it does cover; None where no less than their sum is known.
    second_order : non-negative tensor or None
        The part of `carried` that is not linear in the deviations of the activations: of products and quotients of activations, and
        of Python numbers, which backends may round.
    """

    centre: Tensor
    carried: Tensor
    fresh: Tensor | None
    form: Format | None
    peak: Tensor | None = None
    peak_format: Format | None = None
    second_order: Tensor | None = None
    reach: Tensor | None = None
    bias: Tensor | None = None
    stored_before: Tensor | None = None
    spread: Tensor | None = None

    @property
    def linear_reach(self) -> Tensor:
        """Bound of ``|J| e``."""
        return self.carried if self.reach is None else self.reach
