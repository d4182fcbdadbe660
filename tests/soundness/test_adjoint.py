"""The model of random rounding: its bounds fail as rarely as stated, and not never; sketches, claims and verdicts that rest on it."""

import importlib
import math
from dataclasses import replace

import pytest
import torch
from scipy import integrate, stats
from scipy.stats import binom
from torch import nn

from precisionkit.arithmetic import parse_arithmetic
from precisionkit.bound import Ladder, adjoint
from precisionkit.bound.adjoint import FINE, Claimed, Samples
from precisionkit.bound.interval import interval
from precisionkit.bound.linearised import linearised
from precisionkit.bound.pulling import IN_BINARY64, direct_sums
from precisionkit.bound.sketch import CauchySketch, NormalSketch, normal_factor
from precisionkit.bound.substitution import Settled, substitution
from precisionkit.bound.walk import Costs, GivenUp, bounds, relied_on, row_sums, walk
from precisionkit.capture import capture
from precisionkit.errors import UnsupportedArithmeticError
from precisionkit.evaluate import Program, execute

from .test_networks import NETWORKS, adversary, assert_inside, deviation, mlp, program

COVERED = [parse_arithmetic(*a) for a in (("fp16",), ("bf16",), ("fp32",), ("fp16", "fp32", "gpu:hopper"), ("bf16", "fp32", "pairwise"))]
COARSE = Samples(8, 16, 32, claim=16.0, bend=8.0)
RUNS = 400


def random_runs(made, row, classes, target):
    """Runs with the spread of every coordinate's roundings as its error, and a random sign: the model's worst case."""
    return adversary(made, row.expand(RUNS, *row.shape[1:]), classes.expand(RUNS), target, seed=7, likely=True)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("deviate", [0.5, 1.0, 2.0])
def test_a_gap_leaves_its_bound_as_rarely_as_stated(name, deviate):
    made, inputs = program(name, parse_arithmetic("fp16"), batch=4)
    classes = interval(made, inputs).classes
    with direct_sums():
        found = bounds(made, inputs, classes, Settled(8.0), deviate)
    worst = 0.0
    for row in range(len(inputs)):
        one = replace(found, centre=found.centre[row : row + 1], classes=classes[row : row + 1], gap_error=found.gap_error[row : row + 1])
        left = deviation(one, random_runs(made, inputs[row : row + 1], classes[row : row + 1], 0)) > one.gap_error
        worst = max(worst, left.double().mean(0).max().item())
    # both directions are bounded, and looked at together; 80 gaps at a significance of 1e-6
    assert worst <= binom.isf(1e-6 / 80, RUNS, min(1.0, 2 * math.exp(-(deviate**2) / 2))) / RUNS
    if deviate < 2 and name not in ("transformer", "normed"):  # there, what is of second order outweighs the rest
        assert worst > 0.02  # the bound is not so wide that the test could not fail


@pytest.mark.parametrize("name", ["relu", "residual"])
def test_the_standard_deviation_is_nearly_attained(name):
    """Where all roundings have their full size, the root mean square of the errors is near the bound's one standard deviation."""
    made, inputs = program(name, parse_arithmetic("fp16"), batch=4)
    classes = interval(made, inputs).classes
    with direct_sums():
        found = bounds(made, inputs, classes, Settled(8.0), 1.0)
    one_sigma = linearised(made, inputs, classes).deviation
    shares, first_order = [], []
    for row in range(len(inputs)):
        one = replace(found, centre=found.centre[row : row + 1], classes=classes[row : row + 1])
        reached = deviation(one, random_runs(made, inputs[row : row + 1], classes[row : row + 1], 0)).square().mean(0).sqrt()
        others = torch.arange(len(reached)) != classes[row]
        shares.append((reached / found.gap_error[row])[others])
        first_order.append((reached / one_sigma[row])[others])
    assert torch.cat(shares).max() <= 1.1  # 400 runs scatter by 4 %
    assert torch.cat(shares).median() >= 0.7
    assert 0.8 <= torch.cat(first_order).median() <= 1.1


@pytest.mark.parametrize("arithmetic", COVERED, ids=lambda a: a.name)
@pytest.mark.parametrize("name", NETWORKS)
def test_runs_stay_inside(name, arithmetic):
    made, inputs = program(name, arithmetic)
    found = adjoint(made, inputs)
    assert ((found.failure > 0) & (found.failure <= 5e-7)).all()
    assert_inside(found, execute(made, inputs).logits)
    if arithmetic.storage.option != "fp32":
        assert_inside(found, execute(made, inputs, native=True).logits)
    for seed in (1, 2):
        assert_inside(found, adversary(made, inputs, found.classes, 0, seed, likely=True))


def claimed(made, row, classes, samples=FINE, deviate=6.0):
    with direct_sums():
        return bounds(made, row, classes, Claimed(Costs(made.graph), samples, math.inf, 8.0, 1e-7), deviate)


@pytest.mark.parametrize("samples", [FINE, COARSE], ids=["fine", "coarse"])
@pytest.mark.parametrize("name", NETWORKS)
def test_runs_stay_inside_what_sketches_prove(name, samples):
    made, inputs = program(name, parse_arithmetic("fp16"))
    classes = interval(made, inputs).classes
    some = 0
    for row in range(len(inputs)):
        one, class_ = inputs[row : row + 1], classes[row : row + 1]
        try:
            found = claimed(made, one, class_, samples)
        except GivenUp:
            continue
        some += 1
        assert_inside(found, execute(made, one).logits)
        assert_inside(replace(found, centre=found.centre.expand(RUNS, -1)), random_runs(made, one, class_, 0))
    assert some >= len(inputs) - 1


def test_claims_and_not_random_numbers_decide(monkeypatch):
    """Other numbers for the tests leave the bounds bit for bit as they are: theorem 20 rests on that."""
    made, inputs = program("residual", parse_arithmetic("fp16"), batch=1)
    classes = interval(made, inputs).classes
    first = claimed(made, inputs, classes)
    for law in (NormalSketch, CauchySketch):

        def fresh(self, name, shape, noise=law._noise):
            drawn, largest = noise(self, name, shape)
            generator = torch.Generator().manual_seed(len(name))
            other = torch.empty_like(drawn[FINE.pilot :])
            other = other.normal_(generator=generator) if isinstance(self, NormalSketch) else other.cauchy_(generator=generator)
            return torch.cat([drawn[: FINE.pilot], other]), torch.cat([largest[: FINE.pilot], other.flatten(1).abs().amax(1)])

        monkeypatch.setattr(law, "_noise", fresh)
    assert torch.equal(claimed(made, inputs, classes).gap_error, first.gap_error)


def test_a_claim_that_nothing_confirms_ends_the_work(monkeypatch):
    made, inputs = program("relu", parse_arithmetic("bf16"), batch=8)
    classes = interval(made, inputs).classes
    monkeypatch.setattr(NormalSketch, "estimate", lambda self, name: self._states[name].own * 0 + 1e-9)
    monkeypatch.setattr(CauchySketch, "estimate", lambda self, name: self._states[name].own * 0)
    everything = [(inputs[row : row + 1], classes[row : row + 1]) for row in range(8)]
    with pytest.raises(GivenUp, match="turned out to be too little"):
        _ = [claimed(made, *one) for one in everything]


@pytest.mark.parametrize("samples", [8, 32, 96])
@pytest.mark.parametrize("failure", [1e-2, 1e-6, 5e-13])
def test_the_normal_factor_holds_with_the_stated_probability(samples, failure):
    """``E 2 exp(-T**2 rms**2 / 2) <= failure / 2``, by quadrature over the chi-square distribution."""
    factor = normal_factor(samples, failure)
    tail, _ = integrate.quad(
        lambda x: 2 * math.exp(-(factor**2) * x / samples / 2) * stats.chi2.pdf(x, samples), 0, math.inf, epsabs=0, limit=200
    )
    assert 0.99 * failure / 2 <= tail <= failure / 2 * (1 + 1e-6)


class Watched(Claimed):
    """Keeps what the sketches say in front of every nonlinear operator, beside exact standard deviations and worst cases."""

    def __init__(self, costs, seen):
        super().__init__(costs, FINE, math.inf, 8.0, 1e-7)
        self.seen = seen

    def before(self, trace, name, enclosure, kinks):
        places = torch.ones_like(enclosure.centre, dtype=torch.bool).flatten(1).nonzero()
        worst = torch.maximum(*row_sums(trace, name, enclosure, places, symmetric=True, deviate=0.0))
        both = torch.maximum(*row_sums(trace, name, enclosure, places, symmetric=True, deviate=1e3))
        random = (both - worst) / 1e3 * self._random._factor
        parts = (self._random, random), (self._worst, worst)
        self.seen.append([(s.bound(name, trace.most_underflow).flatten(), s.estimate(name).flatten(), exact) for s, exact in parts])
        return super().before(trace, name, enclosure, kinks)


@pytest.mark.parametrize("name", NETWORKS)
def test_sketches_estimate_standard_deviations_and_worst_cases(name):
    made, inputs = program(name, parse_arithmetic("fp16"), batch=1)
    seen = []
    with direct_sums():
        walk(made, inputs, Watched(Costs(made.graph), seen))
    for kind in range(2):
        bound, estimate, exact = (torch.cat(parts) for parts in zip(*(pair[kind] for pair in seen), strict=True))
        large = exact > 2.0**-70
        assert 0.7 <= (estimate / exact)[large].median() <= 1.6
        assert 0.7 <= (bound / exact)[large].median() <= 4
    # exact row sums are themselves rounded up, in binary32
    assert all((pair[1][2] * (1 - 2.0**-5) <= pair[1][0]).all() for pair in seen)


def roundings(node, constants):
    """At most: products, additions and two stores of a dot product, or an operator's roundings together and a store."""
    if node.record.products is None:
        return 2
    weight = constants.get(node.operands[1])
    return 2 * (weight[0].numel() if weight is not None else 64) + 3


@pytest.mark.parametrize("name", NETWORKS)
def test_unbiased_roundings_and_the_rest_make_up_the_local_errors(name):
    made, inputs = program(name, parse_arithmetic("fp16"))
    with direct_sums():
        trace, *_ = walk(made, inputs, Settled(), IN_BINARY64)
    for step in trace.steps.values():
        root = math.sqrt(roundings(step.node, made.constants))  # Cauchy and Schwarz: a sum is at most that much above a root of squares
        assert ((root * step.errors.unbiased + step.errors.bias) * (1 + 2.0**-50) >= step.errors.error).all()
        assert (step.errors.unbiased <= step.errors.error).all()
    linear = [step for step in trace.steps.values() if step.node.operator in ("linear", "conv2d")]
    assert all((step.errors.bias <= 2.0**-30 * step.errors.unbiased.amax()).all() for step in linear)


def test_random_rounding_is_sharper_than_the_worst_case():
    torch.manual_seed(3)
    net = mlp(nn.ReLU, (6, 512, 512, 512, 4))
    for layer in net[::2]:
        nn.init.kaiming_normal_(layer.weight)
    made = Program.of(capture(net, (6,)), parse_arithmetic("fp16"))
    inputs = made.inputs(torch.randn(8, 6))
    worst, likely = substitution(made, inputs).gap_error, adjoint(made, inputs).gap_error
    known = worst > 2.0**-40
    assert (likely / worst)[known].median() < 0.7


@pytest.mark.parametrize("options", [("fp16", "fp16", "any"), ("fp32", "fp32", "sequential"), ("bf16", "bf16", "pairwise")])
def test_biased_sums_are_refused_or_left_to_proofs(options):
    arithmetic = parse_arithmetic(*options)
    assert not arithmetic.unbiased_sums
    assert Ladder.of("auto", arithmetic).likely is None
    with pytest.raises(UnsupportedArithmeticError, match=r"takes rounding errors for unbiased.*or --method zonotope\."):
        Ladder.of("adjoint", arithmetic)


def test_probabilities_of_failure_add_up():
    made, inputs = program("relu", parse_arithmetic("fp16"), batch=2)
    base = interval(made, inputs)
    likely = replace(base.sharpened(torch.tensor([0, 1]), base), failure=torch.tensor([1e-7, 3e-7]).double())
    twice = base.sharpened(torch.tensor([0, 1]), likely).sharpened(torch.tensor([1, 0]), likely)
    assert twice.failure.tolist() == pytest.approx([4e-7, 4e-7], rel=1e-12)


def test_each_program_gets_half_of_the_confidence():
    made, inputs = program("relu", parse_arithmetic("fp16"), batch=2)
    found = Ladder.of("auto", made.arithmetic, confidence=1e-4).likely(made, inputs)
    assert found.failure.tolist() == [0.5e-4] * 2


@pytest.mark.parametrize("name", ["residual", "transformer"])
def test_everything_that_may_fail_is_counted(name, monkeypatch):
    """Of one attempt: both directions of every neuron and of every gap, and all coordinates of both sketches."""
    made, inputs = program(name, parse_arithmetic("fp16"), batch=1)
    module, seen, neurons = importlib.import_module("precisionkit.bound.adjoint"), [], relied_on(made.graph)

    def watched(program, inputs, classes, strategy, deviate):
        seen.append((strategy, deviate))
        raise GivenUp

    monkeypatch.setattr(module, "bounds", watched)
    assert module._claimed(made, inputs, torch.tensor([0]), Costs(made.graph), FINE, math.inf, 1e-6) is None
    ((strategy, deviate),) = seen
    directions = 2 * neurons * math.exp(-(strategy._deviate**2) / 2) + 2 * made.graph.classes * math.exp(-(deviate**2) / 2)
    sketched = sum(normal_or_cauchy._failure for normal_or_cauchy in (strategy._random, strategy._worst)) * neurons
    assert 0.99e-6 <= directions + sketched <= 1e-6
