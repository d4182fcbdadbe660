"""How much of its bound each operator reaches: the figures are the least shares, so a bound that is too small fails.

Fresh: runs of exact inputs, by kernels in binary32 and half, or built from what the assumptions allow, such as an exponential at the end
of its contract.  Carried: exact results at the ends of the operands' enclosures, chosen by the signs of the derivative.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch

from precisionkit.arithmetic import REFERENCE, parse_arithmetic
from precisionkit.contracts import EXP, LOG, SQRT
from precisionkit.enclosure import Enclosure
from precisionkit.formats import BFLOAT16, BINARY16, BINARY32, round_to_nearest
from precisionkit.ops import BY_NAME, run_rounded
from precisionkit.ops._store import DTYPES
from tests.contracts import NOT_ZERO, POSITIVE, USES

from .cases import Case
from .harness import JUDGE, MP, bounded, distance, enclosed, exact
from .test_slopes import USES as FUNCTIONS
from .test_slopes import defined, function_of, identity

V = BINARY32.unit_roundoff


def tensor(values):
    return torch.as_tensor(values, dtype=torch.float64)


def shares(deviation, bound):
    """Deviations as shares of their bounds, none above 1."""
    found = np.array([float(d / MP.mpf(b)) if b else 0.0 for d, b in zip(deviation.flat, bound.flatten().tolist(), strict=True)])
    assert found.max() <= 1
    return found


# ------------------------------------------------------------------------------------------- functions under a contract
POINTS = tensor([-9.3, -3.1, -1.3, -0.4, -(2.0**-9), 2.0**-7, 0.3, 0.8, 1.1, 1.9, 4.7, 11.0])


def points_of(use):
    x = round_to_nearest(POINTS, BINARY32)
    return (x.abs() if use.function in POSITIVE else x)[None]


def formula(use, x, value):
    """What the rule makes of a contract in rational arithmetic: one roundoff more, since it speaks of the exact result."""
    c, v = use.contract, MP.mpf(V)
    argument = (c.argument + 1) * v * abs(x) if c.argument else 0
    return (c.result + 1) * v * abs(value) + argument + c.absolute * v + MP.mpf(c.offset) + MP.mpf(BINARY32.smallest_normal)


@pytest.mark.parametrize("use", USES, ids=str)
def test_fresh_errors_are_what_the_contract_says(use):
    x = points_of(use)
    result = BY_NAME[use.function].error_rule(REFERENCE, use.attributes, Enclosure.exact(x))
    truth = BY_NAME[use.function].exact(JUDGE, use.attributes, JUDGE.array(x))
    for point, value, fresh in zip(JUDGE.array(x).flat, truth.flat, result.fresh.flatten().tolist(), strict=True):
        least = formula(use, point, value)
        parameters = 2 * MP.mpf(V) * abs(value) if set(use.attributes) & {"negative_slope", "alpha"} else 0
        # the centre in binary64 may be off by the offset as well
        assert least <= fresh <= (least + parameters + MP.mpf(use.contract.offset)) * (1 + MP.mpf(2) ** -20)


LEAST_OF_CONTRACTS = {"pow": 0.24, "leaky_relu": 0.24, "reciprocal": 0.49, "hardsigmoid": 0.6}
"""A roundoff each is spent on no error; contracts of few roundoffs have few numbers to end at."""


@pytest.mark.parametrize("use", USES, ids=str)
def test_results_at_the_end_of_their_contract_reach_the_fresh_error(use):
    """The number of binary32 within the contract that lies furthest from the exact result."""
    x = points_of(use)
    fresh = BY_NAME[use.function].error_rule(REFERENCE, use.attributes, Enclosure.exact(x)).fresh
    value = tensor([float(v) for v in BY_NAME[use.function].exact(JUDGE, use.attributes, JUDGE.array(x)).flat])[None]
    c = use.contract
    allowed = V * (c.result * value.abs() + c.argument * x.abs() + c.absolute) + c.offset
    end = round_to_nearest(value + allowed, BINARY32)
    inside = torch.where(end - value > allowed, torch.nextafter(end.float(), tensor(-torch.inf).float()).double(), end)
    assert ((inside - value).abs() / fresh).max() >= LEAST_OF_CONTRACTS.get(use.function, 0.75)
    assert ((inside - value).abs() <= fresh).all()


# ----------------------------------------------------------------------------------------------------------- fresh errors
@dataclass(frozen=True)
class Run:
    """A use of an operator on exact inputs, a run of it before the store, and the least share of what it may err by."""

    operator: str
    values: tuple[Any, ...]
    run: Callable[..., torch.Tensor]
    least: float
    attributes: Mapping[str, Any] = field(default_factory=dict)
    storage: str = "fp32"
    constants: tuple[int, ...] = ()

    @property
    def case(self):
        shapes = {i: None if v is None else tuple(v.shape) for i, v in enumerate(self.values)}
        active = tuple(s for i, s in shapes.items() if i not in self.constants)
        return Case(self.operator, dict(self.attributes), active, {i: shapes[i] for i in self.constants})


def in_order(run, arithmetic):
    """Sums in sequence, in binary32."""
    return run_rounded(BY_NAME[run.operator], arithmetic, run.attributes, *(None if v is None else v.float() for v in run.values)).double()


def by_kernel(run, arithmetic):
    """Torch's kernel in binary32."""
    return BY_NAME[run.operator].apply(run.attributes, *(None if v is None else v.float() for v in run.values)).double()


def in_half(run, arithmetic):
    """Torch's kernel for halves, which stores its result."""
    values = (None if v is None else v.to(DTYPES[arithmetic.storage]) for v in run.values)
    return BY_NAME[run.operator].apply(run.attributes, *values).double()


def sequentially(run, arithmetic):
    """A sum of binary32 numbers along the first dimension behind the batch, in sequence."""
    total = torch.zeros_like(run.values[0][:, 0], dtype=torch.float32)
    for k in range(run.values[0].shape[1]):
        total = total + run.values[0][:, k].float()
    return total.double()


def exponentials(x, up):
    """Of numbers that are at most 0, each at the end of its contract that the sign says."""
    return torch.exp(x) * (1 + EXP.result * V * up)


def adverse_logsumexp(run, arithmetic):
    """Every exponential is too large."""
    return torch.log(exponentials(run.values[0], 1.0).sum(-1, keepdim=True))


def adverse_softmax(run, arithmetic):
    """The first exponential is too large, the others too small; the quotient is rounded."""
    up = torch.full_like(run.values[0], -1.0)
    up[..., 0] = 1.0
    powers = exponentials(run.values[0], up)
    return (powers / powers.sum(-1, keepdim=True)).float().double()


def adverse_attention(run, arithmetic):
    """Scores of zero; probabilities are too large where values are positive, else too small."""
    query, key, value, _ = run.values
    powers = exponentials(query @ key.transpose(-1, -2), value.sign().transpose(-1, -2))
    return (powers @ value / powers.sum(-1, keepdim=True)).float().double()


def adverse_log_softmax(run, arithmetic):
    """The sum is too large, and its logarithm as well."""
    total = exponentials(run.values[0], 1.0).sum(-1, keepdim=True)
    return (run.values[0] - torch.log(total) * (1 + LOG.result * V)).float().double()


def adverse_inverse(run, arithmetic):
    """The root at the end of its contract, and its reciprocal rounded."""
    x = run.values[0]
    distance = x - x.mean(-1, keepdim=True) if run.operator == "layer_norm_inverse" else x
    root = (distance.square().mean(-1, keepdim=True) + run.attributes["eps"]).sqrt() * (1 - SQRT.result * V)
    return (1 / root.float()).double()


def with_halves(run, arithmetic):
    """Python numbers rounded to the storage format."""

    def rounded(value):
        return value if not isinstance(value, float) else float(round_to_nearest(tensor(value), arithmetic.storage))

    attributes = {k: tuple(map(rounded, v)) if k == "fills" else rounded(v) for k, v in run.attributes.items()}
    return BY_NAME[run.operator].apply(attributes, *run.values)


def rounded_weights(run, arithmetic):
    """Exact probabilities, stored."""
    return round_to_nearest(torch.softmax(run.values[0], -1), arithmetic.storage)


def lost(*shape):
    """1 + v + v + ...: each addition is a tie that goes back to 1."""
    x = torch.full(shape, V, dtype=torch.float64)
    x.view(-1)[0] = 1.0
    return x


def ones(*shape):
    return torch.ones(shape, dtype=torch.float64)


def drawn(*shape, seed=11):
    """Numbers of every storage format."""
    return round_to_nearest(round_to_nearest(torch.from_numpy(np.random.default_rng(seed).standard_normal(shape)), BINARY16), BFLOAT16)


LAYER, GROUP, INSTANCE = {"normalized_shape": (8,), "eps": 1e-5}, {"num_groups": 2, "eps": 1e-5}, {"use_input_stats": True, "eps": 1e-5}
WIDE, PLANES = (drawn(200, 8), drawn(8, seed=1), drawn(8, seed=2)), (drawn(100, 4, 4), drawn(4, seed=1), drawn(4, seed=2))
HEADS = (drawn(4, 5, 8), drawn(4, 40, 8, seed=1), drawn(4, 40, 3, seed=2), None)
LEVEL = (torch.zeros(1, 1, 2).double(), ones(1, 2, 2), tensor([[[1.0], [-1.0]]]), None)
"""Two equal scores, and values that cancel."""
ROWS = (drawn(40, 5),)
FILL = {"index": torch.tensor([[0, 1]]), "fills": (0.1,), "batched": (True,)}
RUNS = {
    "sum": Run("sum", (lost(1, 256, 1),), sequentially, 0.97, {"dim": (1,)}),
    "matmul": Run("matmul", (lost(1, 1, 33), ones(1, 33, 1)), in_order, 0.96),
    "matmul by a constant": Run("matmul", (lost(1, 1, 33), ones(33, 1)), in_order, 0.96, constants=(1,)),
    "conv1d": Run("conv1d", (ones(1, 1, 33), lost(1, 1, 33), None), in_order, 0.96, constants=(1, 2)),
    "conv2d": Run("conv2d", (ones(1, 1, 3, 11), lost(1, 1, 3, 11), None), in_order, 0.96, constants=(1, 2)),
    "conv3d": Run("conv3d", (ones(1, 1, 3, 1, 11), lost(1, 1, 3, 1, 11), None), in_order, 0.96, constants=(1, 2)),
    "logsumexp": Run("logsumexp", (torch.zeros(1, 2).double(),), adverse_logsumexp, 0.72, {"dim": -1}),
    "logsumexp, kernel": Run("logsumexp", ROWS, by_kernel, 0.1, {"dim": -1}),
    "softmax": Run("softmax", (torch.zeros(1, 8).double(),), adverse_softmax, 0.46, {"dim": -1}),
    "softmax, kernel": Run("softmax", ROWS, by_kernel, 0.05, {"dim": -1}),
    "log_softmax": Run("log_softmax", (torch.zeros(1, 8).double(),), adverse_log_softmax, 0.6, {"dim": -1}),
    "log_softmax, kernel": Run("log_softmax", ROWS, by_kernel, 0.05, {"dim": -1}),
    "layer_norm_inverse": Run("layer_norm_inverse", (tensor([[-1.0, 1.0]]),), adverse_inverse, 0.12, LAYER | {"normalized_shape": (2,)}),
    "rms_norm_inverse": Run("rms_norm_inverse", (tensor([[1.0]]),), adverse_inverse, 0.28, LAYER | {"normalized_shape": (1,)}),
    "layer_norm, kernel": Run("layer_norm", WIDE, by_kernel, 0.02, LAYER, constants=(1, 2)),
    "rms_norm, kernel": Run("rms_norm", (*WIDE[:2], None), by_kernel, 0.05, LAYER, constants=(1, 2)),
    "group_norm, kernel": Run("group_norm", PLANES, by_kernel, 0.025, GROUP, constants=(1, 2)),
    "instance_norm, kernel": Run("instance_norm", PLANES, by_kernel, 0.02, INSTANCE, constants=(1, 2)),
    "layer_norm, half": Run("layer_norm", WIDE, in_half, 0.9, LAYER, "fp16", (1, 2)),
    "rms_norm, half": Run("rms_norm", (*WIDE[:2], None), in_half, 0.28, LAYER, "fp16", (1, 2)),
    "group_norm, half": Run("group_norm", PLANES, in_half, 0.35, GROUP, "bf16", (1, 2)),
    "instance_norm, half": Run("instance_norm", PLANES, in_half, 0.5, INSTANCE, "bf16", (1, 2)),
    "softmax, half": Run("softmax", ROWS, in_half, 0.9, {"dim": -1}, "bf16"),
    "log_softmax, half": Run("log_softmax", ROWS, in_half, 0.4, {"dim": -1}, "bf16"),
    "attention_scores": Run("attention_scores", (lost(1, 1, 33), ones(1, 1, 33), None), by_kernel, 0.7, {"scale": 0.5}, constants=(2,)),
    "attention_weights, half": Run("attention_weights", (drawn(40, 3, 7),), rounded_weights, 0.9, storage="fp16"),
    "attention": Run("attention", LEVEL, adverse_attention, 0.12, constants=(3,)),
    "attention, kernel": Run("attention", HEADS, by_kernel, 0.005, constants=(3,)),
    "attention, half": Run("attention", HEADS, in_half, 0.2, {}, "bf16", (3,)),
    "clamp": Run("clamp", (drawn(1, 9),), with_halves, 0.99, {"min": -0.1, "max": 0.3}, "bf16"),
    "hardtanh": Run("hardtanh", (drawn(1, 9),), with_halves, 0.99, {"min_val": -0.1, "max_val": 0.3}, "bf16"),
    "rearrange": Run("rearrange", (drawn(1, 9),), with_halves, 0.99, FILL, "fp16"),
}


def limits(run, arithmetic):
    """What a run may err by: before the store, or with it, if the run stores."""
    values = [None if v is None else v for v in run.values]
    given = enclosed(run.case, values)
    if run.operator == "attention_weights":
        total = BY_NAME["attention_logsumexp"].error_rule(arithmetic, {}, given[0])
        given.append(Enclosure(total.centre, total.carried + total.fresh))
    result, radius, excluded = bounded(run.case, arithmetic, given)
    assert excluded.all()
    return radius if run.run is in_half or result.fresh is None else result.carried + result.fresh


@pytest.mark.parametrize("name", RUNS)
def test_a_run_reaches_a_share_of_what_it_may_err_by(name):
    run = RUNS[name]
    arithmetic = parse_arithmetic(run.storage, "fp32")
    deviation = distance(run.run(run, arithmetic), exact(run.case, list(run.values)))
    assert shares(deviation, limits(run, arithmetic)).max() >= run.least


@pytest.mark.parametrize("size", range(1, 10))
def test_no_window_of_adaptive_pooling_has_more_terms_than_are_counted(size):
    """The peak of an average of ones is their number; windows of 7 into 5 span 3, one more than 7 / 5 rounded up."""
    record, x = BY_NAME["adaptive_avg_pool2d"], ones(1, 1, size, 1)
    for outputs in range(1, size + 2):
        attributes = {"output_size": (outputs, 1)}
        units = torch.eye(size).double().reshape(size, 1, size, 1)
        largest = (record.apply(attributes, units) != 0).sum(0).max().item()
        assert record.error_rule(REFERENCE, attributes, Enclosure.exact(x)).peak.max().item() >= largest


# ---------------------------------------------------------------------------------------------------------- carried errors
@dataclass(frozen=True)
class Move:
    """A use of an operator on enclosures, and the least share of what it carries that some entry reaches at their ends."""

    operator: str
    centres: tuple[Any, ...]
    radius: float | tuple[float, ...]
    least: float
    attributes: Mapping[str, Any] = field(default_factory=dict)
    constants: tuple[int, ...] = ()

    @property
    def radii(self):
        sizes = self.radius if isinstance(self.radius, tuple) else (self.radius,) * len(self.centres)
        return [
            None if c is None or i in self.constants else torch.full_like(c, r)
            for i, (c, r) in enumerate(zip(self.centres, sizes, strict=True))
        ]

    @property
    def case(self):
        return Run(self.operator, self.centres, in_order, 0.0, self.attributes, constants=self.constants).case


def derivative(move, entry):
    """Of one entry of the result with respect to every operand."""
    leaves = [None if c is None else c.clone().requires_grad_(i not in move.constants) for i, c in enumerate(move.centres)]
    result = BY_NAME[move.operator].apply(move.attributes, *leaves)
    places = [leaf for leaf in leaves if leaf is not None and leaf.requires_grad]
    slopes = iter(torch.autograd.grad(result.flatten()[entry], places, allow_unused=True))
    return [None if r is None else next(slopes) for r in move.radii]


def reached(move, entry):
    """Farthest exact change of an entry with the operands at the ends that its derivative, or its opposite, says."""
    at_centre, slopes = exact(move.case, list(move.centres)).flat[entry], derivative(move, entry)
    found = []
    for sign in (1.0, -1.0):
        there = [
            c if r is None else c + sign * r * (torch.ones_like(c) if s is None else torch.where(s < 0, -1.0, 1.0))
            for c, r, s in zip(move.centres, move.radii, slopes, strict=True)
        ]
        found.append(abs(exact(move.case, there).flat[entry] - at_centre))
    return max(found)


def share_carried(move, tried=12):
    """The largest share over some entries of the result."""
    result, _, _ = bounded(move.case, REFERENCE, enclosed(move.case, list(move.centres), move.radii, list(move.centres)))
    entries = range(0, result.carried.numel(), max(1, result.carried.numel() // tried))
    found = np.array([reached(move, k) for k in entries], dtype=object)
    return shares(found, result.carried.flatten()[list(entries)]).max()


SMALL = 2.0**-10
MOVES = {
    "sum": Move("sum", (drawn(1, 6),), 0.5, 0.999, {"dim": (1,), "keepdim": True}),
    "matmul": Move("matmul", (drawn(1, 2, 4).abs(), drawn(1, 4, 3, seed=1).abs()), (0.5, 0.25), 0.999),
    "matmul, signs": Move("matmul", (drawn(1, 2, 4), drawn(1, 4, 3, seed=1)), SMALL, 0.99),
    "conv1d": Move("conv1d", (drawn(1, 2, 6), drawn(3, 2, 3), None), 0.5, 0.999, {"padding": 1}, (1, 2)),
    "conv3d": Move("conv3d", (drawn(1, 2, 2, 2, 2), drawn(3, 2, 1, 2, 2), None), 0.5, 0.999, {}, (1, 2)),
    "logsumexp": Move("logsumexp", (drawn(2, 5),), 0.5, 0.99, {"dim": -1}),
    "softmax": Move("softmax", (drawn(3, 9),), SMALL, 0.97, {"dim": -1}),
    "softmax, wide": Move("softmax", (drawn(3, 9),), 1.0, 0.85, {"dim": -1}),
    "log_softmax": Move("log_softmax", (drawn(3, 9),), SMALL, 0.97, {"dim": -1}),
    "layer_norm": Move("layer_norm", (drawn(4, 8), drawn(8), None), SMALL, 0.85, LAYER, (1, 2)),
    "layer_norm, wide": Move("layer_norm", (drawn(4, 8), drawn(8), None), 0.1, 0.73, LAYER, (1, 2)),
    "rms_norm": Move("rms_norm", (drawn(4, 8), drawn(8), None), SMALL, 0.99, LAYER, (1, 2)),
    "group_norm": Move("group_norm", (drawn(2, 4, 4), drawn(4), None), SMALL, 0.85, GROUP, (1, 2)),
    "instance_norm": Move("instance_norm", (drawn(2, 4, 4), drawn(4), None), SMALL, 0.65, INSTANCE, (1, 2)),
    "layer_norm_mean": Move("layer_norm_mean", (drawn(4, 8),), 0.5, 0.999, LAYER),
    "layer_norm_inverse": Move("layer_norm_inverse", (drawn(4, 8),), SMALL, 0.99, LAYER),
    "rms_norm_inverse": Move("rms_norm_inverse", (drawn(4, 8),), SMALL, 0.99, LAYER),
    "attention_scores": Move("attention_scores", (drawn(1, 2, 4), drawn(1, 3, 4, seed=1), None), SMALL, 0.99, {}, (2,)),
    "attention, values": Move("attention", (*HEADS[:3], None), (0.0, 0.0, 0.5, 0.0), 0.99, {}, (3,)),
    "attention": Move("attention", (drawn(1, 2, 4), drawn(1, 5, 4, seed=1), drawn(1, 5, 3, seed=2), None), SMALL, 0.59, {}, (3,)),
    "maximum": Move("maximum", (drawn(2, 6), drawn(2, 6, seed=1)), (0.25, 1.0), 0.999),
    "minimum": Move("minimum", (drawn(2, 6), drawn(2, 6, seed=1)), (0.25, 1.0), 0.999),
    "amax": Move("amax", (drawn(2, 6),), 1.0, 0.999, {"dim": (1,), "keepdim": True}),
    "amin": Move("amin", (drawn(2, 6),), 1.0, 0.999, {"dim": (1,), "keepdim": True}),
}


@pytest.mark.parametrize("name", MOVES)
def test_the_ends_of_enclosures_reach_a_share_of_what_is_carried(name):
    assert share_carried(MOVES[name]) >= MOVES[name].least


@pytest.mark.parametrize("e", [2.0**-20, 2.0**-6])
def test_the_logarithm_of_a_sum_bends_most_at_equal_scores(e):
    """Of two of them, one goes up and one down: ``log cosh e``, without any first order."""
    centre = torch.zeros(1, 2, dtype=torch.float64)
    result = BY_NAME["logsumexp"].error_rule(REFERENCE, {"dim": -1}, Enclosure(centre, torch.full_like(centre, e)))
    found, least = MP.mpf(result.second_order.item()), MP.log(MP.cosh(MP.mpf(e)))
    assert least <= found <= 1.001 * least + MP.mpf(2) ** -39 * e  # the weights' own error


@pytest.mark.parametrize("name", ["softmax", "layer_norm", "rms_norm_inverse", "attention_scores", "amax"])
def test_a_carried_bound_that_is_too_small_is_found(name):
    move = MOVES[name]
    wider = replace(move, radius=4 * move.radius)  # what moves the result more than the rule was told of
    result, _, _ = bounded(move.case, REFERENCE, enclosed(move.case, list(move.centres), move.radii, list(move.centres)))
    assert any(reached(wider, k) > MP.mpf(result.carried.flatten()[k].item()) for k in range(result.carried.numel()))


# --------------------------------------------------------------------------------------------------- elementwise functions
def function_shares(use, radius, centre):
    """Largest shares of what is carried, and of what is beyond first order, that the ends of enclosures reach."""
    name, attributes = use
    record, radii = BY_NAME[name], torch.full_like(centre, radius)
    radii = radii * centre.abs() if name in (*POSITIVE, *NOT_ZERO) else radii
    given = Enclosure(centre, radii)
    result = record.error_rule(REFERENCE, attributes, given)
    slope = JUDGE.array(record.linear(attributes, (torch.ones_like(centre),), torch.arange(len(centre)), given))
    at_centre, moved, beyond = record.exact(JUDGE, attributes, JUDGE.array(centre)), [], []
    for there in (centre + radii, centre - radii):
        change = record.exact(JUDGE, attributes, JUDGE.array(there)) - at_centre
        moved.append(abs(change))
        beyond.append(abs(change - slope * (JUDGE.array(there) - JUDGE.array(centre))))
    less = 1 - MP.mpf(2) ** -44  # the ends are rounded
    return [shares(np.maximum(*found) * less, bound).max() for found, bound in ((moved, result.carried), (beyond, result.second_order))]


@pytest.mark.parametrize(("radius", "carried", "second"), [(2.0**-12, 0.999, 0.98), (0.25, 0.83, 0.56)])
@pytest.mark.parametrize("use", [use for use in FUNCTIONS if use[0] != "neg"], ids=identity)
def test_functions_reach_what_they_carry_and_what_is_beyond_first_order(use, radius, carried, second):
    centre = defined(use[0], torch.linspace(-6, 6, 193, dtype=torch.float64))[None]
    found = function_shares(use, radius, centre)
    assert found[0] >= carried
    assert found[1] >= second


KINKED = [(use, place, side) for use in FUNCTIONS for place, _ in function_of(use[0]).kinks(use[1]) for side in (-0.4, 0.4)]


@pytest.mark.parametrize(("use", "place", "side"), KINKED, ids=lambda v: identity(v) if isinstance(v, tuple) else str(v))
def test_functions_reach_their_bounds_around_a_kink(use, place, side):
    radius = 2.0**-10
    carried, second = function_shares(use, radius, tensor([[place + side * radius]]))
    assert carried >= 0.49
    assert second >= 0.35
