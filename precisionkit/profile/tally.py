"""What is counted of one node over a data set, batch by batch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from precisionkit.enclosure import Enclosure
from precisionkit.formats import Format
from precisionkit.profile.condition import Conditions, condition_numbers, is_dot_product
from precisionkit.profile.enclosing import Enclosed


@dataclass
class Seen:
    """Magnitudes of a node's results in the half run.

    Attributes
    ----------
    least, largest : float
        Smallest but zero, and largest, among finite ones.
    subnormal, entries, beyond : int
        How many lie below the normal range and are not zero; how many there are; how many are infinite or NaN.
    """

    least: float = math.inf
    largest: float = -math.inf
    subnormal: int = 0
    entries: int = 0
    beyond: int = 0

    def add(self, values: Tensor, form: Format | None) -> None:
        """Look at a batch; `form` is None where the results are not stored."""
        finite = values.isfinite()
        size = values.abs().where(finite, 0.0)
        self.entries += size.numel()
        self.beyond += int((~finite).sum())
        if not size.numel():
            return
        self.largest = max(self.largest, float(size.amax()))
        self.least = min(self.least, float(size.masked_fill(size == 0, torch.inf).amin()))
        if form is not None:
            self.subnormal += int(((size > 0) & (size < form.smallest_normal)).sum())


@dataclass
class Proved:
    """What the interval method says of a node; a figure that does not hold for every input becomes NaN.

    Attributes
    ----------
    largest, headroom, fresh : float
        Largest magnitude; how many times larger it could be; largest error of its own roundings.
    normal, entries, masked : int
        How many results are zero or normal in every run; how many there are; how many are minus infinity on purpose.
    amplifications : list of tensors
        Of single inputs.
    """

    largest: float = 0.0
    headroom: float = math.inf
    fresh: float = 0.0
    normal: int = 0
    entries: int = 0
    masked: int = 0
    amplifications: list[Tensor] = field(default_factory=list)
    conditions: Conditions = field(default_factory=Conditions)

    def add(self, found: Enclosed) -> None:
        """Look at a batch."""
        known, masked = found.known, found.masked
        self.largest = _joined(max, self.largest, found.largest().where(known, torch.nan).amax())
        self.headroom = _joined(min, self.headroom, found.headroom().where(found.before, torch.nan).amin())
        self.fresh = _joined(max, self.fresh, found.store.local.flatten(1).amax(1).where(known, torch.nan).amax())
        self.normal += int((_normal(found) & known.reshape(-1, *[1] * (masked.dim() - 1))).sum())
        self.entries += masked.numel()
        self.masked += int(masked.sum())
        self.amplifications.append(_amplification(found))
        if is_dot_product(found.node):
            self.conditions.add(condition_numbers(found.node, found.operands, found.result.centre))

    @property
    def amplification(self) -> float | None:
        """The median over the inputs whose operands have an error."""
        ratios = torch.cat(self.amplifications) if self.amplifications else torch.zeros(0, device="cpu")
        return float(np.median(ratios.numpy())) if len(ratios) else None


def _joined(choose: Callable[[float, float], float], before: float, now: Tensor) -> float:
    value = float(now)
    return math.nan if math.isnan(before) or math.isnan(value) else choose(before, value)


def _normal(found: Enclosed) -> Tensor:
    """Where every run has zero, or a number that is not below the normal range."""
    size, radius = found.result.centre.abs(), found.store.radius
    least = size - radius
    least = torch.nextafter(least, torch.full_like(least, -torch.inf))  # the exact difference is not below
    return ((size == 0) & (radius == 0)) | ((least >= found.form.smallest_normal) & ~found.masked)


def _amplification(found: Enclosed) -> Tensor:
    """Largest error carried through, divided by the largest of the operands, of the inputs where these have one."""
    radii = [o.radius.flatten(1).amax(1) for o in found.operands if isinstance(o, Enclosure)]
    given = torch.stack([r.expand(len(found.known)) for r in radii]).amax(0)
    ratio = found.result.carried.masked_fill(found.masked, 0.0).flatten(1).amax(1) / given
    return ratio[(given > 0) & ratio.isfinite()].cpu()
