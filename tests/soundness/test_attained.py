"""Inputs that nearly attain each bound: the figure is the least share of the bound that must be reached, so a bound that is too small fails."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from precisionkit.arithmetic import parse_arithmetic
from precisionkit.bound.interval import stored
from precisionkit.enclosure import Enclosure
from precisionkit.formats import BFLOAT16, BINARY16, BINARY32
from precisionkit.ops import BY_NAME
from precisionkit.ops._store import store_error

from .cases import Case
from .harness import MP, bounded, distance, enclosed, exact, kept, runs


def column(*values):
    return torch.tensor([values], dtype=torch.float64)


def share(deviation, bound):
    """Largest deviation as a share of its bound; a share above 1 is a violation."""
    shares = [float(d / MP.mpf(float(b))) for d, b in zip(deviation.flat, bound.numpy().flat, strict=True) if b > 0]
    assert max(shares) <= 1
    return max(shares)


def dot(weights, x, arithmetic, bias=None):
    """Run a dot product and compare what it errs by, before the store, with its fresh error."""
    case = Case("linear", {}, (tuple(x.shape),), {1: tuple(weights.shape), 2: None})
    values = [x, weights, bias]
    result, _, excluded = bounded(case, arithmetic, enclosed(case, values))
    assert excluded.all()
    run = runs(case, arithmetic, values, np.random.default_rng(0))[0]
    return share(distance(run, exact(case, values)), result.fresh)


@pytest.mark.parametrize("fmt", [BINARY16, BFLOAT16, BINARY32], ids=lambda f: f.name)
@pytest.mark.parametrize("value", ["tie", "subnormal"])
def test_a_store_attains_its_bound(fmt, value):
    exactly = 1 + fmt.unit_roundoff if value == "tie" else fmt.smallest_subnormal * 2.5
    rounded = 1.0 if value == "tie" else fmt.smallest_subnormal * 2
    assert abs(rounded - exactly) == store_error(fmt, torch.tensor(exactly, dtype=torch.float64)).item()


@pytest.mark.parametrize("order", ["any", "sequential", "blocked:40"])
@pytest.mark.parametrize(("storage", "accumulate"), [("fp16", "fp16"), ("bf16", "bf16"), ("fp16", "fp32"), ("fp32", "fp32")])
def test_a_sum_that_loses_every_addition_attains_the_bound(storage, accumulate, order):
    """1 + v + v + ...: each addition is a tie that goes back to 1."""
    arithmetic = parse_arithmetic(storage, accumulate, order)
    v = arithmetic.accumulate.unit_roundoff
    factor = 2.0**-12 if accumulate == "fp32" else v
    x = torch.full((1, 33), v / factor, dtype=torch.float64)
    w = torch.full((1, 33), factor, dtype=torch.float64)
    x[0, 0] = w[0, 0] = 1.0
    # products that are rounded are charged for it, although these are exact: one v of 33 in all, and one for the store's sake
    least = 0.9999 if arithmetic.product_roundoff == 0 else 0.96
    assert dot(w, x, arithmetic) >= least


@pytest.mark.parametrize("zeros", ["inputs", "weights"])
@pytest.mark.parametrize(("storage", "accumulate"), [("fp16", "fp16"), ("fp16", "fp32"), ("fp32", "fp32")])
def test_products_with_zero_do_not_count(storage, accumulate, zeros):
    """The sum of the test above among twice as many zeros."""
    arithmetic = parse_arithmetic(storage, accumulate)
    v = arithmetic.accumulate.unit_roundoff
    factor = 2.0**-12 if accumulate == "fp32" else v
    x, w = torch.ones(1, 99, dtype=torch.float64), torch.ones(1, 99, dtype=torch.float64)
    (x if zeros == "inputs" else w).zero_()
    x[0, ::3], w[0, ::3] = v / factor, factor
    x[0, 0] = w[0, 0] = 1.0
    assert dot(w, x, arithmetic) >= (0.9999 if arithmetic.product_roundoff == 0 else 0.96)


@pytest.mark.parametrize("operator", ["linear", "conv2d"])
@pytest.mark.parametrize(("storage", "accumulate"), [("fp16", "fp16"), ("fp16", "fp32"), ("fp32", "fp32")])
def test_a_bias_that_swallows_every_product_attains_the_bound(operator, storage, accumulate):
    """In any order, so perhaps the bias first: 1 + v + ... is 1, and every addition of the 32 a tie."""
    arithmetic = replace(parse_arithmetic(storage, accumulate), fused=True)  # no store before the bias
    v = arithmetic.accumulate.unit_roundoff
    factor = 2.0**-12 if accumulate == "fp32" else v
    shape = {"linear": (1, 32), "conv2d": (1, 32, 1, 1)}[operator]
    x, w = (torch.full(shape, value, dtype=torch.float64) for value in (v / factor, factor))
    result = BY_NAME[operator].error_rule(arithmetic, {}, Enclosure.exact(x), w, torch.ones(1, dtype=torch.float64))
    least = 0.9999 if arithmetic.product_roundoff == 0 else 0.96
    assert least * result.fresh.item() <= 32 * v <= result.fresh.item()


@pytest.mark.parametrize("order", ["any", "sequential"])
@pytest.mark.parametrize(("storage", "accumulate"), [("fp16", "fp16"), ("fp16", "fp32"), ("fp32", "fp32")])
def test_a_sum_of_terms_that_are_known_by_their_radius_alone_attains_the_bound(storage, accumulate, order):
    """Centres of zero; the run at the upper ends is 1 + v + ..., and carries exactly what may be carried."""
    arithmetic = parse_arithmetic(storage, accumulate, order)
    v = arithmetic.accumulate.unit_roundoff
    factor = 2.0**-12 if accumulate == "fp32" else v
    radius, w = (torch.full((1, 33), value, dtype=torch.float64) for value in (v / factor, factor))
    radius[0, 0] = w[0, 0] = 1.0
    case = Case("linear", {}, ((1, 33),), {1: (1, 33), 2: None})
    result, _, _ = bounded(case, arithmetic, [Enclosure(torch.zeros_like(radius), radius), w, None])
    run = runs(case, arithmetic, [radius, w, None], np.random.default_rng(0))[0]
    assert share(distance(run, exact(case, [radius, w, None])), result.fresh) >= 0.9


@pytest.mark.parametrize("storage", ["fp16", "bf16"])
def test_the_bias_of_a_named_tree_rounds_last(storage):
    """1 + v, a tie of the last addition; the inputs are not quite known, so that the tree's nodes are bounded one by one."""
    arithmetic = parse_arithmetic(storage, storage, "sequential")
    v = arithmetic.accumulate.unit_roundoff
    one, radius = torch.ones(1, 1, dtype=torch.float64), torch.full((1, 1), 2.0**-40, dtype=torch.float64)
    result = BY_NAME["linear"].error_rule(arithmetic, {}, Enclosure(one, radius), one * v, torch.ones(1, dtype=torch.float64))
    assert v <= result.fresh.item() <= 1.1 * v


def test_a_product_of_activations_along_a_tree_rounds_where_both_are_largest():
    """Factors of (0.5 +- 0.5)(0.5 +- 0.5): partial sums reach 1 + 1, twice what one factor at its end gives."""
    arithmetic = parse_arithmetic("fp16", "fp16", "sequential")
    half = torch.full((1, 1, 2), 0.5, dtype=torch.float64)
    a, b = Enclosure(half, half), Enclosure(half.transpose(1, 2), half.transpose(1, 2))
    result = BY_NAME["matmul"].error_rule(arithmetic, {}, a, b)
    v = arithmetic.accumulate.unit_roundoff
    assert result.fresh.item() >= 2 * v + 2 * v  # a partial sum of 2, and two rounded products of 1


@pytest.mark.parametrize("order", ["any", "sequential"])
def test_a_convolution_may_be_stored_before_its_bias(order):
    """1 + u is a tie that goes to 1, and the bias takes 1 away: u is lost of u."""
    arithmetic = parse_arithmetic("fp16", "fp32", order)
    u = arithmetic.storage.unit_roundoff
    x, w = torch.ones(1, 2, 1, 1, dtype=torch.float64), torch.ones(1, 2, 1, 1, dtype=torch.float64)
    x[0, 1] = u
    result = BY_NAME["conv2d"].error_rule(arithmetic, {}, Enclosure.exact(x), w, torch.tensor([-1.0], dtype=torch.float64))
    assert u <= result.fresh.item() <= 1.01 * u
    assert u <= torch.hypot(result.spread, result.bias).item() <= 1.01 * u


@pytest.mark.parametrize("order", ["sequential", "pairwise", "blocked:8"])
@pytest.mark.parametrize("storage", ["fp16", "bf16"])
def test_named_sums_of_known_products_are_known(storage, order):
    """Products with few bits are exact, fused or not: every run computes the same sum, and the bound is what it errs by."""
    arithmetic = parse_arithmetic(storage, storage, order)
    x = torch.from_numpy(np.random.default_rng(3).integers(0, 16, (6, 200)).astype(float)) * 2.0**-3
    w = torch.from_numpy(np.random.default_rng(4).integers(0, 16, (5, 200)).astype(float))
    case = Case("linear", {}, ((6, 200),), {1: (5, 200), 2: None})
    values = [x, w, None]
    result = bounded(case, arithmetic, enclosed(case, values))[0]
    errors = distance(runs(case, arithmetic, values, np.random.default_rng(0))[0], exact(case, values))
    assert max(errors.flat) > 0
    assert all(e <= MP.mpf(float(b)) <= e + MP.mpf(2) ** -30 for e, b in zip(errors.flat, result.fresh.flatten(), strict=True))


@pytest.mark.parametrize("storage", ["fp16", "bf16"])
def test_pairwise_sums_reach_half_an_ulp_of_every_partial_sum(storage):
    """Neighbours whose sums are ties at every level: 1 and v, then 1 + 1 + ..."""
    arithmetic = parse_arithmetic(storage, storage, "pairwise")
    v = arithmetic.accumulate.unit_roundoff
    x = column(*[1.0, v] * 2)
    # two ties of v each; the last sum, of 2 exact terms, is charged 2 v more, the products 2 v
    assert dot(torch.ones(1, 4, dtype=torch.float64), x, arithmetic) >= 0.3


def test_rounded_products_attain_their_bound():
    """(1 + 2 u)^2 = 1 + 4 u + 4 u^2 rounds to 1 + 4 u: not a tie; (1 + 2u)(1 + 2ku) comes close to one: u at 1.044."""
    arithmetic = parse_arithmetic("fp16", "fp16")
    u = BINARY16.unit_roundoff
    a = 1 + 2 * u * torch.arange(1, 40, dtype=torch.float64)
    best = max(dot(value.reshape(1, 1), column(float(other)), arithmetic) for value in a for other in a)
    assert best >= 0.95


def test_an_underflowing_bfloat16_product_attains_its_bound():
    arithmetic = parse_arithmetic("bf16", "fp32")
    x, w = column(2.0**-75), torch.full((1, 1), 2.0**-75, dtype=torch.float64)
    assert dot(w, x, arithmetic) >= 0.99


def test_subset_sums_beat_the_classical_bound_on_cancelling_terms():
    """P and N are half of S each, and a power of two apart from it."""
    arithmetic = parse_arithmetic("fp16", "fp32")
    x, w = torch.ones(1, 64, dtype=torch.float64), torch.ones(1, 64, dtype=torch.float64)
    w[0, ::2] = -1.0
    x *= 1.5
    result = BY_NAME["linear"].error_rule(arithmetic, {}, Enclosure.exact(x), w, None)
    classical = 63 * 2.0**-24 * 96
    assert result.fresh.item() <= classical / 2.9


@pytest.mark.parametrize("operator", ["linear", "conv2d"])
def test_what_inputs_carry_is_attained_at_the_ends_of_their_enclosures(operator):
    rng = np.random.default_rng(3)
    arithmetic = parse_arithmetic("fp16", "fp32")
    shapes = {"linear": ((1, 8), (1, 8)), "conv2d": ((1, 2, 2, 2), (1, 2, 2, 2))}[operator]
    w = torch.from_numpy(rng.integers(-9, 10, shapes[1]).astype(float))
    c = torch.from_numpy(rng.integers(-9, 10, shapes[0]).astype(float))
    e = torch.full(shapes[0], 0.25, dtype=torch.float64)
    case = Case(operator, {}, (shapes[0],), {1: shapes[1], 2: None})
    result, _, _ = bounded(case, arithmetic, [Enclosure(c, e), w, None])
    moved = exact(case, [c + e * w.sign().reshape(shapes[0]), w, None])
    assert share(distance(result.centre, moved), result.carried) >= 1 - 1e-12


@pytest.mark.parametrize("storage", ["fp16", "bf16"])
def test_partial_sums_that_all_round_down_reach_a_good_part_of_the_bound(storage):
    """Two parts of 1 + u, ties that go to 1, and their sum with a third, 3 + 2 u, a tie of its own that goes down: 4 u of a bound of 12 u."""
    arithmetic = parse_arithmetic(storage, "fp32", "splitk:3")
    u = arithmetic.storage.unit_roundoff
    x = column(1.0, u, 1.0, u, 1.0, u)
    assert dot(torch.ones_like(x), x, arithmetic) >= 0.24


@pytest.mark.parametrize("storage", ["fp16", "bf16"])
def test_an_exact_dot_product_attains_the_bound_of_its_one_rounding(storage):
    arithmetic = parse_arithmetic(storage, "fp32", "exact")
    x = column(1.0, arithmetic.storage.unit_roundoff)
    assert dot(torch.ones_like(x), x, arithmetic) >= 1 - 1e-12


def test_relu_and_max_pooling_attain_their_bounds():
    arithmetic = parse_arithmetic()
    c, e = column(1.0, -1.0, -3.0, 0.5), column(0.5, 1.5, 1.0, 2.0)
    result = BY_NAME["relu"].error_rule(arithmetic, {}, Enclosure(c, e))
    reached = torch.maximum(((c + e).clamp_min(0) - c.clamp_min(0)).abs(), ((c - e).clamp_min(0) - c.clamp_min(0)).abs())
    assert torch.all((result.carried >= reached) & (result.carried <= reached * (1 + 2.0**-49)))
    x = torch.tensor([[[[1.0, 0.5], [0.0, -1.0]]]], dtype=torch.float64)
    e = torch.tensor([[[[0.25, 1.5], [0.0, 0.5]]]], dtype=torch.float64)
    pooled = BY_NAME["max_pool2d"].error_rule(arithmetic, {"kernel_size": (2, 2)}, Enclosure(x, e))
    assert 1.0 <= pooled.carried.item() <= 1.0 + 2.0**-45  # 0.5 + 1.5 - 1


def test_an_average_comes_close_to_its_bound():
    """1 + v + ... in binary32, divided by n: the additions attain theirs, the division is charged five roundings."""
    arithmetic = parse_arithmetic("fp32", "fp32")
    n = 256
    x = torch.full((1, n), 2.0**-24, dtype=torch.float64)
    x[0, 0] = 1.0
    result = BY_NAME["mean"].error_rule(arithmetic, {"dim": (1,)}, Enclosure.exact(x))
    total = torch.tensor(0.0)
    for value in x[0].float():
        total = total + value
    run = (total / n).double().reshape(1)
    truth = exact(Case("mean", {"dim": (1,)}, ((1, n),)), [x])
    assert share(distance(run, truth), result.fresh) >= 0.9


def test_a_stored_addition_attains_its_bound():
    arithmetic = parse_arithmetic("fp16", "fp32")
    a, b = column(1.0), column(BINARY16.unit_roundoff)
    result = BY_NAME["add"].error_rule(arithmetic, {}, Enclosure.exact(a), Enclosure.exact(b))
    radius = stored(arithmetic, result).radius
    case = Case("add", {}, ((1, 1), (1, 1)))
    run = kept(case, arithmetic, runs(case, arithmetic, [a, b], np.random.default_rng(0))[0])
    # the bound counts the rounding of the sum in binary32 as well, 2**-13 of the store's
    assert share(distance(run, exact(case, [a, b])), radius) >= 1 - 2.0**-11


def test_batch_normalisation_is_within_a_small_factor_of_its_bound():
    """No run is known that makes every rounding of the chain in the same direction; the largest share seen is a tenth."""
    arithmetic = parse_arithmetic("fp32", "fp32")
    case = Case("batch_norm", {"eps": 1e-5}, ((400, 1),), {1: (1,), 2: (1,), 3: (1,), 4: (1,)})
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.standard_normal((400, 1)).astype(np.float32).astype(float))
    parameters = [torch.tensor([v], dtype=torch.float32).double() for v in (1.3, 0.1, 0.7, 0.9)]
    values = [x, *parameters]
    result, _, _ = bounded(case, arithmetic, enclosed(case, values))
    shares = [share(distance(run, exact(case, values)), result.fresh) for run in runs(case, arithmetic, values, rng)]
    assert max(shares) >= 0.1


OVERFLOWS = {
    "the store of a convolution before its bias": (
        Case("conv2d", {}, ((1, 1, 1, 1),), {1: (2, 1, 1, 1), 2: (2,)}),
        ("fp16",),
        ([[[[258.0]]]], [[[[256.0]]], [[[250.0]]]], [-3000.0, 0.0]),
    ),
    "the store of one of several parts": (
        Case("linear", {}, ((1, 2),), {1: (1, 2), 2: None}),
        ("fp16", "fp32", "splitk:2"),
        ([[258.0, 258.0]], [[256.0, -256.0]], None),
    ),
    "normalising before scaling": (
        Case("batch_norm", {"eps": 1e-5, "training": False}, ((1, 1),), {1: (1,), 2: (1,), 3: (1,), 4: (1,)}),
        ("fp32",),
        ([[2.0**121]], [1e-3], [0.0], [0.0], [0.0]),
    ),
    "the reciprocal of a tiny number": (
        Case("div", {"other": 2.0**-140}, ((1, 1),), {1: None}),
        ("fp32",),
        ([[2.0**-142]], None),
    ),
}


@pytest.mark.parametrize("name", OVERFLOWS)
def test_overflow_on_the_way_is_not_excluded(name):
    """A permitted evaluation overflows in the middle, although the result is small enough."""
    case, arithmetic, values = OVERFLOWS[name]
    tensors = [None if v is None else torch.tensor(v, dtype=torch.float64) for v in values]
    _, _, excluded = bounded(case, parse_arithmetic(*arithmetic), enclosed(case, tensors))
    assert not excluded.any()


def test_a_subnormal_reciprocal_is_covered():
    a, b = 1.348055803143616e30, 3.4001946632765593e38
    case = Case("div", {"other": b}, ((1, 1),), {1: None})
    result, radius, excluded = bounded(case, parse_arithmetic("fp32"), enclosed(case, [torch.tensor([[a]], dtype=torch.float64), None]))
    run = torch.tensor(a, dtype=torch.float32) * (1 / torch.tensor(b, dtype=torch.float64)).float()
    assert excluded.all()
    assert abs(run.item() - result.centre.item()) <= radius.item()


def test_the_line_of_a_maximum_whose_ends_seem_to_meet():
    """The rounded ends of two entries are equal, the exact ones cross: the maximum may move, by less than an ulp."""
    c = -13.829217099145081
    centre = torch.tensor([c, c], dtype=torch.float64).reshape(1, 1, 1, 2)
    radius = torch.tensor([0.0, 3.77e-16], dtype=torch.float64).reshape(1, 1, 1, 2)
    lines = BY_NAME["max_pool2d"].relax({"kernel_size": (1, 2)}, Enclosure(centre, radius))
    assert lines.above.item() >= 3.77e-16
    assert lines.remainder.item() >= 3.77e-16
