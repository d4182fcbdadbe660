"""Elementwise activations: ReLU (exact) and the logistic sigmoid (under a contract on its error)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from precisionkit.arithmetic import SIGMOID_ULPS, Arithmetic
from precisionkit.enclosure import Bounded, Enclosure
from precisionkit.formats import BINARY64
from precisionkit.ops.adjoint import Lines, slope_in_binary32
from precisionkit.ops.record import Attributes, Operator
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
    bound="e, or max(c + e, 0) where the centre c is negative; no rounding",
    source="proofs/bounds.md, theorem 8",
)


def _sigmoid_rule(arithmetic: Arithmetic, attributes: Attributes, x: Enclosure) -> Bounded:
    """The slope is at most 1/4, and s(1 - s) <= min(s, 1 - s); both ends of the enclosure are monotone images."""
    centre = torch.sigmoid(x.centre)
    own = _contract(BINARY64.unit_roundoff, BINARY64.smallest_normal, centre)
    upper, lower = torch.sigmoid(x.centre + x.radius), torch.sigmoid(x.centre - x.radius)
    ends = torch.maximum(upper - centre, centre - lower)
    # three evaluations, each with its own error, and the rounding of centre +- radius, which moves a sigmoid by u |x| / 4
    moved = mul_up(add_up(x.centre.abs(), x.radius), BINARY64.unit_roundoff)
    slack = add_up(own, _contract(BINARY64.unit_roundoff, BINARY64.smallest_normal, upper), moved, mul_up(ends, 2.0**-52))
    carried = torch.minimum(add_up(ends, slack), mul_up(x.radius, 0.25))
    largest = add_up(centre, own, carried)
    fresh = add_up(own, _contract(arithmetic.internal.unit_roundoff, arithmetic.internal.smallest_normal, largest))
    return Bounded(centre, carried, fresh, arithmetic.internal)


def _contract(unit_roundoff: float, underflow: float, value: Tensor) -> Tensor:
    """An ulp is at most 2 u relative to the value; below the normal range a backend may return zero."""
    return add_up(mul_up(value, 2 * (SIGMOID_ULPS + 1) * unit_roundoff), underflow)


def _exact_sigmoid(engine: Any, _: Attributes, x: Any) -> Any:
    return np.vectorize(lambda v: 1 / (1 + engine.exp(-v)), otypes=[object])(x)


def _sigmoid_lines(attributes: Attributes, x: Enclosure) -> Lines:
    """The tangent: ``|s(c + d) - s(c) - s'(c) d| <= max|s''| d^2 / 2``, max|s''| = 1 / (6 sqrt 3) < 0.0963, or ``|d| / 4``."""
    value = torch.sigmoid(x.centre)
    tangent = value * (1 - value)
    slope = slope_in_binary32(tangent)
    radius = x.radius
    remainder = torch.minimum(mul_up(mul_up(radius, radius), 0.0963 / 2), mul_up(radius, 0.25))
    # the slope's own error, with the contract on the sigmoid, acts on the deviation
    remainder = add_up(remainder, mul_up(radius, 16 * BINARY64.unit_roundoff), mul_up(radius, (slope - tangent).abs() * (1 + 2.0**-50)))
    return Lines(slope, slope, remainder, remainder, mul_up(radius, 0.25), remainder)


SIGMOID = Operator(
    name="sigmoid",
    targets=("aten.sigmoid.default",),
    operands=("self",),
    apply=lambda _, x: torch.sigmoid(x),
    error_rule=_sigmoid_rule,
    exact=_exact_sigmoid,
    relax=_sigmoid_lines,
    pointwise=True,
    bound=f"min(e / 4, reach of the enclosure) + {SIGMOID_ULPS} ulps of the internal format",
    source="proofs/bounds.md, theorem 9; the ulp contract is an assumption",
)
