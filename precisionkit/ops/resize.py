"""Bilinear resizing: every output is a mean of four inputs with weights that depend on the position alone."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from precisionkit.arithmetic import Arithmetic
from precisionkit.enclosure import Bounded, Enclosure
from precisionkit.formats import BINARY64
from precisionkit.ops.adjoint import autograd_transpose, linear_by
from precisionkit.ops.record import Attributes, Operator
from precisionkit.outward import add_up, mul_up

_WIDEST = 2.0**-10
"""Share of the widest deviation of a channel that is carried, so that what weights lose is relative to it."""


def _apply(attributes: Attributes, x: Tensor) -> Tensor:
    size = attributes.get("output_size")
    factors = None if size is not None else attributes.get("scale_factors")
    return F.interpolate(
        x,
        size=None if size is None else list(size),
        scale_factor=None if factors is None else list(factors),
        mode="bilinear",
        align_corners=bool(attributes.get("align_corners")),
    )


def _error_rule(arithmetic: Arithmetic, attributes: Attributes, x: Enclosure) -> Bounded:
    """Bound a mean of four inputs whose weights are themselves computed in the internal format.

    A source coordinate ``scale (i + 1/2) - 1/2`` errs by at most 7 v times a number up to ``size + 1``; the interpolant is
    continuous and piecewise linear, with a slope of at most twice the largest magnitude M of the channel, so all coordinates
    together move the result by at most ``14 v (h + w + 2) M``.  The two interpolations make at most 8 roundings on M.
    """
    centre = _apply(attributes, x.centre)
    widest = x.radius.flatten(2).amax(2)[:, :, None, None]
    largest = add_up(x.centre.abs(), x.radius).flatten(2).amax(2)[:, :, None, None]
    roundings = _roundings(attributes, x)
    own = add_up(mul_up(largest, roundings * BINARY64.unit_roundoff), 2.0**-1000)
    v, eta = arithmetic.internal.unit_roundoff, arithmetic.internal.eta
    fresh = add_up(own, mul_up(largest, roundings * v), 8 * eta).expand_as(centre)
    # weights err absolutely, so that what they lose is relative to the widest deviation of the channel: _WIDEST of it is carried
    weights = mul_up(widest, 4 * roundings * BINARY64.unit_roundoff).expand_as(centre)
    averaged = add_up(_apply(attributes, x.radius), mul_up(widest, _WIDEST).expand_as(centre), weights)
    return Bounded(centre, averaged, fresh, arithmetic.internal, add_up(largest, fresh), arithmetic.internal, second_order=weights)


def _transpose(attributes: Attributes, g: Tensor, rows: Tensor, x: Enclosure) -> tuple[Tensor | None, ...]:
    """In binary64, whatever format the functional comes in: errors of the weights are in `second_order`."""
    return autograd_transpose(_apply)(attributes, g.double(), rows, x)


def _channel(attributes: Attributes, x: Enclosure) -> torch.Size:
    """Shape of one channel of the result."""
    return _apply(attributes, torch.empty(x.centre.shape, device="meta")).shape[-2:]


def _roundings(attributes: Attributes, x: Enclosure) -> int:
    return 9 + 14 * (sum(x.centre.shape[-2:]) + sum(_channel(attributes, x)) + 2)


def _coordinates(engine: Any, source: int, target: int, attributes: Attributes, axis: int) -> list[tuple[int, int, Any]]:
    """Lower and upper neighbour and the exact weight of the upper, for each target index."""
    if attributes.get("align_corners"):
        scale = Fraction(source - 1, target - 1) if target > 1 else Fraction(0)
        places = [scale * i for i in range(target)]
    else:
        factors = attributes.get("scale_factors")
        ratio = Fraction(source, target) if attributes.get("output_size") is not None or not factors else 1 / Fraction(factors[axis])
        half = Fraction(1, 2)
        places = [max(ratio * (i + half) - half, Fraction(0)) for i in range(target)]
    rows = []
    for place in places:
        low = min(int(place), source - 1)
        weight = place - low
        rows.append((low, min(low + 1, source - 1), engine.number(weight.numerator) / weight.denominator))
    return rows


def _exact(engine: Any, attributes: Attributes, x: Any) -> Any:
    height, width = _apply(attributes, torch.empty(x.shape, device="meta")).shape[-2:]
    rows = _coordinates(engine, x.shape[2], height, attributes, 0)
    columns = _coordinates(engine, x.shape[3], width, attributes, 1)
    across = np.stack([x[..., a] * (1 - t) + x[..., b] * t for a, b, t in columns], axis=-1)
    return np.stack([across[..., a, :] * (1 - t) + across[..., b, :] * t for a, b, t in rows], axis=-2)


BILINEAR = Operator(
    name="upsample_bilinear2d",
    targets=("aten.upsample_bilinear2d.vec", "aten.upsample_bilinear2d.default"),
    operands=("input",),
    apply=_apply,
    error_rule=_error_rule,
    exact=_exact,
    transpose=_transpose,
    linear=linear_by(_apply),
    linear_terms=lambda attributes, x: int(4 * _roundings(attributes, x) / _WIDEST),
    # an entry has at most four weights in each output
    transposed_terms=lambda attributes, x: 9 + 4 * _channel(attributes, x).numel(),
    bound="mean of e + 2^-10 max e + (9 + 14 (h + w + 2)) v max|x|, h and w of input and output together",
    source="proofs/bounds.md, theorem 12",
)
