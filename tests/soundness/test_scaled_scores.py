"""Attention whose kernels scale the queries in front of the sum: errors below the normal range do not scale (theorem 26)."""

import numpy as np
import pytest
import torch

from precisionkit.arithmetic import parse_arithmetic
from precisionkit.enclosure import Enclosure
from precisionkit.formats import BINARY16, round_to_nearest
from precisionkit.ops.attention import ATTENTION_SCORES

WIDTH = 64
SCALE = 0.125


def factors(query, key):
    return (torch.full((1, 1, WIDTH), value, dtype=torch.float64) for value in (query, key))


def rule(arithmetic, query, key):
    return ATTENTION_SCORES.error_rule(arithmetic, {}, Enclosure.exact(query), Enclosure.exact(key))


def half(value):
    return float(round_to_nearest(np.asarray(value), BINARY16))


def test_products_of_scaled_queries_may_vanish_in_half():
    query, key = factors(2.0**-11 * (1 - 2.0**-10), 2.0**-11)
    found = rule(parse_arithmetic("fp16", "fp16"), query, key)
    total = 0.0
    for q, k in zip(query[0, 0].tolist(), key[0, 0].tolist(), strict=True):
        total = half(total + half(q * SCALE * k))
    error = abs(total - float(query[0, 0] @ key[0, 0]) * SCALE)
    assert 0.9 * found.fresh.item() <= error <= found.fresh.item()


def test_parts_of_scaled_queries_may_vanish():
    query, key = factors(0.0, 2.0**-11)
    query[..., [0, 32]] = 2.0**-11 * 1.5
    found = rule(parse_arithmetic("fp16", "fp32", "splitk:2"), query, key)
    parts = [half(float(query[0, 0, p] @ key[0, 0, p]) * SCALE) for p in (slice(0, 32), slice(32, 64))]
    error = abs(half(sum(parts)) - float(query[0, 0] @ key[0, 0]) * SCALE)
    assert 0.2 * found.fresh.item() <= error <= found.fresh.item()


@pytest.mark.parametrize("order", ["sequential", "blocked:16", "gpu:hopper", "tensorcore:ampere"])
def test_biased_sums_are_no_random_errors_in_scores(order):
    """Nor are those of a kernel that scales first, whose tree is another."""
    query, key = (torch.randn(1, 8, WIDTH, generator=torch.Generator().manual_seed(s)).half().double() for s in (0, 1))
    arithmetic = parse_arithmetic("fp16", "fp32", order)
    found = rule(arithmetic, query, key)
    mask_alone = arithmetic.internal.unit_roundoff * (4 * (query.abs() @ key.abs().transpose(-1, -2)) * SCALE)
    assert (found.spread <= mask_alone).all()
    assert (found.fresh - found.bias <= found.spread * (1 + 2.0**-40)).all()
