"""ReLU, exact, between two lines where its sign is open."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from precisionkit.arithmetic import Arithmetic
from precisionkit.enclosure import Bounded, Enclosure
from precisionkit.ops.adjoint import Lines, slope_in_binary32
from precisionkit.ops.record import Attributes, Operator, every_activation
from precisionkit.outward import add_up, mul_up


def _relu_rule(arithmetic: Arithmetic, attributes: Attributes, x: Enclosure) -> Bounded:
    """ReLU is nondecreasing: its result lies between the images of the ends, and within e of its value at the centre."""
    low, high = x.ends()
    centre = x.centre.clamp_min(0)
    upward = add_up((high - centre).clamp_min(0), (high.abs() + centre) * 2.0**-51)
    downward = (centre - low.clamp_min(0)).clamp_min(0)
    ends = torch.maximum(upward, add_up(downward, (centre + low.abs()) * 2.0**-51))
    carried = torch.where(high <= 0, torch.zeros_like(centre), torch.minimum(x.radius, ends))
    return Bounded(centre, carried, None, arithmetic.storage)


def _relu_lines(attributes: Attributes, x: Enclosure) -> Lines:
    """Exact where the sign is certain; else the chord from above and, from below, the line through the centre's own side.

    ``relu(y) - s (y - c) - relu(c)`` is convex in y, so its maximum over the enclosure lies at an end; ``relu(y) >= y`` and
    ``relu(y) >= 0`` touch relu at the centre, so the lower line has no offset.
    """
    low, high = x.ends()
    positive, negative = low >= 0, high <= 0
    doubtful = ~(positive | negative)
    on = x.centre > 0
    chord = slope_in_binary32(torch.where(doubtful, high / (high - low), torch.zeros_like(high)).clamp(0, 1))
    relu = x.centre.clamp_min(0)
    at_low = add_up(mul_up(chord, (x.centre - low).clamp_min(0) * (1 + 2.0**-50)), 0.0) - relu
    at_high = (high - x.centre) * (1 + 2.0**-50) * (1 - chord) + x.centre.clamp_max(0)
    above = torch.maximum(at_low, at_high).clamp_min(0)
    above = add_up(above, (relu + x.centre.abs() + high - low) * 2.0**-48)
    # relu(c + d) - relu(c) - chord d is least at the kink, d = -c
    kink = torch.where(on, (1 - chord) * x.centre, -chord * x.centre) * (1 + 2.0**-50)
    slope = torch.where(positive, 1.0, 0.0).to(chord.dtype)
    nothing = torch.zeros_like(chord)
    return Lines(
        torch.where(doubtful, chord, slope),
        torch.where(doubtful, on.to(chord.dtype), slope),
        torch.where(doubtful, above, nothing),
        nothing,
        torch.where(negative, nothing, x.radius),
        torch.where(doubtful, kink, nothing),
    )


def _exact_relu(engine: Any, _: Attributes, x: Any) -> Any:
    zero = engine.number(0)
    return np.vectorize(lambda v: engine.maximum(v, zero), otypes=[object])(x)


RELU = Operator(
    name="relu",
    targets=("aten.relu.default",),
    operands=("self",),
    apply=lambda _, x: torch.relu(x),
    error_rule=_relu_rule,
    exact=_exact_relu,
    stores=False,
    relax=_relu_lines,
    pointwise=True,
    curved=every_activation,
    kinks=lambda _: (0.0,),
    bound="e, or max(c + e, 0) where the centre c is negative; no rounding",
    source="proofs/bounds.md, theorem 8",
)
