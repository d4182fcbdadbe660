"""Elementwise activations: ReLU (exact) and the logistic sigmoid (under a contract on its error)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from precisionkit.arithmetic import SIGMOID_ULPS, Arithmetic
from precisionkit.enclosure import Bounded, Enclosure
from precisionkit.formats import BINARY64
from precisionkit.ops.record import Attributes, Operator
from precisionkit.outward import add_up, mul_up


def _relu_rule(arithmetic: Arithmetic, attributes: Attributes, x: Enclosure) -> Bounded:
    """ReLU is 1-Lipschitz, and constant below zero: |relu(x) - relu(c)| <= max(min(e, c + e), 0) for c <= 0, and e for c > 0."""
    centre = x.centre.clamp_min(0)
    reached = torch.where(x.centre > 0, x.radius, add_up((x.centre + x.radius).clamp_min(0), 0.0))
    carried = torch.where(x.centre + x.radius <= 0, torch.zeros_like(centre), torch.minimum(x.radius, reached))
    return Bounded(centre, carried, None, arithmetic.storage)


RELU = Operator(
    name="relu",
    targets=("aten.relu.default",),
    operands=("self",),
    apply=lambda _, x: torch.relu(x),
    error_rule=_relu_rule,
    exact=lambda context, _, x: np.where(x > 0, x, context.mpf(0)),
    stores=False,
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


def _exact_sigmoid(context: Any, _: Attributes, x: Any) -> Any:
    return np.vectorize(lambda v: 1 / (1 + context.exp(-v)), otypes=[object])(x)


SIGMOID = Operator(
    name="sigmoid",
    targets=("aten.sigmoid.default",),
    operands=("self",),
    apply=lambda _, x: torch.sigmoid(x),
    error_rule=_sigmoid_rule,
    exact=_exact_sigmoid,
    bound=f"min(e / 4, reach of the enclosure) + {SIGMOID_ULPS} ulps of the internal format",
    source="proofs/bounds.md, theorem 9; the ulp contract is an assumption",
)
