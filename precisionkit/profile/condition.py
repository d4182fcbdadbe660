"""Condition numbers of sums: ``(|W| |x| + |b|) / |W x + b|``, entry by entry, at the binary64 centre."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from precisionkit.enclosure import Enclosure
from precisionkit.graph import Node

_PER_OCTAVE, _OCTAVES = 64, 1100
"""Of the histogram that a median is taken from: it is exact to half a bin, about half a per cent."""


def is_dot_product(node: Node) -> bool:
    """Whether a node is nothing but dot products: attention, which is more, and what it computes on the way are not."""
    record = node.record
    return record.products is not None and not record.statistics and not record.hidden


def condition_numbers(node: Node, operands: tuple[Any, ...], centre: Tensor) -> Tensor:
    """Condition numbers of all entries, the bias included on both sides, those of sums without terms left out.

    Infinite where terms cancel to zero.  In binary64, not rounded up.
    """
    sizes = (o.centre.abs() if isinstance(o, Enclosure) else None if o is None else o.abs() for o in operands)
    magnitude: Tensor = node.record.apply(node.attributes, *sizes)
    return (magnitude / centre.abs())[magnitude > 0].clamp_min(1.0)


@dataclass
class Conditions:
    """Median and largest of many condition numbers, in bounded memory."""

    worst: float = 0.0
    _counts: Tensor = field(default_factory=lambda: torch.zeros(_PER_OCTAVE * _OCTAVES, dtype=torch.int64, device="cpu"))

    def add(self, numbers: Tensor) -> None:
        """Count them; those without a value are left out."""
        numbers = numbers[~numbers.isnan()]
        if not numbers.numel():
            return
        self.worst = max(self.worst, float(numbers.amax()))
        bins = (numbers.log2() * _PER_OCTAVE).clamp(0, len(self._counts) - 1).long()
        self._counts += torch.bincount(bins.flatten(), minlength=len(self._counts)).cpu()

    @property
    def median(self) -> float | None:
        """To half a per cent; None without numbers."""
        total = int(self._counts.sum())
        if not total:
            return None
        place = int(torch.searchsorted(self._counts.cumsum(0), torch.tensor((total + 1) // 2, device="cpu")))
        if place == len(self._counts) - 1:
            return math.inf
        return min(math.exp2((place + 0.5) / _PER_OCTAVE), self.worst)
