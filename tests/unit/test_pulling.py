"""The arithmetic of pulling back: which one is chosen, what it counts, and torch's switches around it."""

import dataclasses
from fractions import Fraction
from itertools import pairwise
from operator import mul

import pytest
import torch
from torch import nn

from precisionkit.arithmetic import REFERENCE
from precisionkit.bound import adjoint, interval, pulling, substitution
from precisionkit.bound.pulling import IN_BINARY32, IN_BINARY64, direct_sums, pulling_for
from precisionkit.bound.substitution import CONFIRMED, Settled
from precisionkit.bound.walk import walk
from precisionkit.capture import capture
from precisionkit.enclosure import Enclosure
from precisionkit.errors import UsageError
from precisionkit.evaluate import Program
from precisionkit.ops import BY_NAME
from precisionkit.ops.adjoint import slope_in_binary32


def test_functionals_are_pulled_back_in_binary32():
    assert pulling_for(Program.of(capture(nn.Linear(3, 2), (3,)), REFERENCE)) == IN_BINARY32


def test_large_tensors_are_pulled_back_in_binary64():
    graph = dataclasses.replace(capture(nn.Linear(3, 2), (3,)), input_shape=(2**16 + 1,))
    assert pulling_for(Program.of(graph, REFERENCE)) == IN_BINARY64


@pytest.mark.parametrize("precision", ["highest", "medium"])
def test_the_users_precision_of_products_is_put_aside_and_restored(precision):
    """With `medium`, a CPU that can multiplies in bfloat16."""
    before = torch.get_float32_matmul_precision()
    x = torch.full((64, 64), 1 + 2.0**-20)
    try:
        torch.set_float32_matmul_precision(precision)
        with direct_sums():
            assert torch.equal(x @ torch.eye(64), x)
            assert not torch.is_grad_enabled()
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision(before)


def test_autocast_does_not_reach_the_analysis():
    x = torch.full((8, 8), 1 + 2.0**-20)
    with torch.autocast("cpu", torch.bfloat16), direct_sums():
        assert torch.equal(x @ torch.eye(8), x)


def test_flushed_subnormal_numbers_are_refused():
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush subnormal numbers")
    try:
        with pytest.raises(UsageError, match=r"flushes subnormal numbers.*call torch\.set_flush_denormal\(False\)\.$"), direct_sums():
            pass
    finally:
        torch.set_flush_denormal(False)


def test_a_precision_that_cannot_be_restored_is_refused(monkeypatch):
    def mixed():
        raise RuntimeError("mix of the legacy and new APIs")

    monkeypatch.setattr(torch, "get_float32_matmul_precision", mixed)
    with (
        pytest.raises(UsageError, match=r"cannot be restored; call torch\.set_float32_matmul_precision\('highest'\) first\.$"),
        direct_sums(),
    ):
        pass


def test_shorter_formats_of_a_library_are_refused(monkeypatch):
    monkeypatch.setenv("ONEDNN_DEFAULT_FPMATH_MODE", "BF16")
    with pytest.raises(UsageError, match=r"^ONEDNN_DEFAULT_FPMATH_MODE=BF16 lets .*; unset it\.$"), direct_sums():
        pass


SPREADS = [
    ("adaptive_avg_pool2d", {"output_size": (48, 48)}, (1, 1)),
    ("upsample_bilinear2d", {"output_size": (64, 64), "align_corners": False}, (1, 1)),
    ("avg_pool2d", {"kernel_size": (5, 5), "stride": (1, 1), "padding": (2, 2)}, (6, 6)),
]


@pytest.mark.parametrize(("operator", "attributes", "size"), SPREADS, ids=[case[0] for case in SPREADS])
def test_every_rounding_of_a_transpose_is_counted(operator, attributes, size):
    """Functionals of which many meet at one entry, each too small for binary32 to notice."""
    record = BY_NAME[operator]
    x = Enclosure.exact(torch.zeros(1, 1, *size, dtype=torch.float64))
    shape = record.apply(attributes, x.centre).shape
    g = torch.full(shape, 2.0**-24)
    g.view(-1)[0] = 1.0
    rows = torch.zeros(1, dtype=torch.int64)
    (found,), (exact,) = (record.transpose(attributes, part, rows, x) for part in (g, g.double()))
    lost = (found.float().double() - exact).abs()
    counted = record.transposed_terms(attributes, x) + 2
    assert (lost <= counted * 2.0**-24 * exact).all()


def test_every_window_that_selects_an_entry_is_counted():
    made = Program.of(
        capture(nn.Sequential(nn.Conv2d(1, 1, 1), nn.MaxPool2d(8, 1, 4), nn.Flatten(), nn.Linear(25, 2)), (1, 4, 4)), REFERENCE
    )
    trace, *_ = walk(made, torch.rand(1, 1, 4, 4), Settled())
    (step,) = (step for step in trace.steps.values() if step.node.operator == "max_pool2d")
    assert step.charge.amax() >= 25 * trace.pulling.unit * step.lines.reach.amax() > 0


@pytest.mark.parametrize("method", [substitution, adjoint])
def test_functionals_beyond_the_range_of_binary32_prove_nothing(method):
    """Deviations are amplified by 1e48 from inputs near 1e-34: no stored number overflows, functionals do."""
    torch.manual_seed(1)
    net = nn.Sequential(*(layer for n, m in pairwise((8, 64, 64, 64, 10)) for layer in (nn.Linear(n, m), nn.ReLU())))[:-1]
    for layer, scale in zip(net[::2], (1.0, 1e24, 1e24, 1.0), strict=True):
        layer.weight.data *= scale
        layer.bias.data.zero_()
    made = Program.of(capture(net, (8,)), REFERENCE)
    inputs = made.inputs(torch.randn(16, 8) * 1e-34)
    base, found = interval(made, inputs), method(made, inputs)
    others = torch.ones_like(base.gap_error, dtype=torch.bool).scatter(1, base.classes[:, None], False)
    assert (found.gap_error.nan_to_num(torch.inf)[others] >= base.gap_error[others] / 2).all()


def test_row_sums_of_the_largest_tensors_stay_within_what_claims_leave():
    """Theorem 19: rounding raises an exact row sum by less than a claim exceeds what the sketch must prove."""
    entries, steps = pulling._LARGEST, 1000
    raised = (1 + 2 * (entries + 4) * IN_BINARY32.unit) * (1 + 4 * (entries + steps + 4) * IN_BINARY32.unit) * (1 + 2.0**-20)
    assert raised * CONFIRMED < 1


def test_slopes_become_numbers_of_binary32():
    slopes = torch.tensor([0.0, 1.0, 1 / 3, 2.0**-120], dtype=torch.float64)
    found = slope_in_binary32(slopes)
    assert found.float().double().tolist() == found.tolist()
    assert found.tolist()[:2] == [0.0, 1.0]
    assert found[3] == 0
    assert abs(found[2] - slopes[2]) <= 2.0**-26


@pytest.mark.parametrize("arithmetic", [IN_BINARY32, IN_BINARY64], ids=["binary32", "binary64"])
@pytest.mark.parametrize("images", [1, 2])
def test_row_sums_are_rounded_up(arithmetic, images):
    generator = torch.Generator().manual_seed(0)
    rows = torch.arange(40) % images
    for size in (1, 2, 7, 300):
        g, values = (torch.rand(n, size, generator=generator, dtype=torch.float64).to(arithmetic.dtype) for n in (40, images))
        found = arithmetic.sum_up(g, values, rows)
        for row, image, bound in zip(g.tolist(), rows.tolist(), found.tolist(), strict=True):
            assert sum(map(mul, map(Fraction, row), map(Fraction, values[image].tolist()))) <= Fraction(bound)


def test_weights_are_rounded_up():
    generator = torch.Generator().manual_seed(0)
    errors = pulling.Errors(*(torch.rand(1, 100, generator=generator, dtype=torch.float64) for _ in range(3)))
    weights = pulling.Weights.of(IN_BINARY32, errors, frozenset())
    assert weights.error.dtype == torch.float32
    assert (weights.error.double() >= errors.error).all()
    assert (weights.bias.double() >= errors.bias).all()
    assert (weights.variance.double() >= errors.unbiased.square()).all()
    assert weights.largest >= weights.variance.double().amax() * (1 - 2.0**-22)
