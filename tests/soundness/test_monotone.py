"""A wider enclosure never has a smaller bound: what is carried, and the radius behind the store, grow with the radius."""

import torch
from hypothesis import assume, given, settings, strategies

from precisionkit.arithmetic import parse_arithmetic
from precisionkit.bound.interval import stored
from precisionkit.enclosure import Enclosure
from precisionkit.ops import BY_NAME

from .harness import POSITIVE
from .test_slopes import USES

ARITHMETICS = [parse_arithmetic(storage, "fp32") for storage in ("fp16", "bf16", "fp32")]
centres = strategies.floats(-50, 50)
radii = strategies.one_of(strategies.just(0.0), strategies.floats(2.0**-40, 10))
ROUNDING = 1 + 2.0**-40
"""Curvatures and slopes are computed in binary64, each with its own rounding."""


@settings(max_examples=400)
@given(strategies.sampled_from(USES), strategies.sampled_from(ARITHMETICS), centres, radii, strategies.floats(1, 100))
def test_bounds_grow_with_the_enclosure(use, arithmetic, centre, radius, factor):
    name, attributes = use
    assume(name not in (*POSITIVE, "reciprocal") or abs(centre) > 2.0**-20)
    centre = abs(centre) if name in POSITIVE else centre
    found = []
    for size in (radius, radius * factor + 2.0**-60):
        enclosure = Enclosure(*(torch.tensor([[value]], dtype=torch.float64) for value in (centre, size)))
        result = BY_NAME[name].error_rule(arithmetic, attributes, enclosure)
        found.append([bound.nan_to_num(torch.inf).item() for bound in (result.carried, stored(arithmetic, result).radius)])
    for narrow, wide in zip(*found, strict=True):
        assert narrow <= wide * ROUNDING
