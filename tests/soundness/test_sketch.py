"""Cauchy sketches: the failure probability of their bounds, and that they bound exact row sums and every run."""

import math
from dataclasses import replace

import pytest
import torch
from scipy.stats import binom
from torch import nn

from precisionkit.arithmetic import parse_arithmetic
from precisionkit.bound import substitution as module_function
from precisionkit.bound.adjoint import FINE, Claimed
from precisionkit.bound.interval import interval, stored
from precisionkit.bound.pulling import direct_sums
from precisionkit.bound.sketch import CauchySketch, NormalSketch, _State, normal_factor, rank_and_factor
from precisionkit.bound.substitution import CONFIRMED, FAILURE, PILOT, SAMPLES, Screened
from precisionkit.bound.walk import Costs, bounds, relied_on, row_sums
from precisionkit.capture import capture
from precisionkit.enclosure import Bounded
from precisionkit.evaluate import Program, execute
from precisionkit.mixed import Keep
from precisionkit.ops.adjoint import Lines

from .test_networks import NETWORKS, adversary, assert_inside, program

ARITHMETICS = [parse_arithmetic(*a) for a in (("fp16",), ("bf16",), ("fp32",), ("fp16", "fp16", "pairwise"))]


@pytest.mark.parametrize("samples", [8, 32, SAMPLES])
@pytest.mark.parametrize("failure", [1e-3, 1e-12, 1e-19])
def test_the_factor_holds_with_the_stated_probability(samples, failure):
    rank, factor = rank_and_factor(samples, failure)
    tail = binom.sf(rank - 1, samples, 2 / math.pi * math.atan(1 / factor))
    assert tail <= failure
    if factor < math.inf:  # a hundredth less would not do
        assert binom.sf(rank - 1, samples, 2 / math.pi * math.atan(1.2 / factor)) > failure


def test_a_factor_for_a_large_failure_fails_as_often_as_that():
    """The bound is a bound only with its probability: 30 % failures are seen when 30 % are allowed, and not more."""
    rank, factor = rank_and_factor(24, 0.3)
    generator = torch.Generator().manual_seed(5)
    rows = torch.rand(1, 400, generator=generator, dtype=torch.float64)
    trials = torch.empty(4000, 24, 400, dtype=torch.float64).cauchy_(generator=generator)
    statistic = (trials * rows).sum(2).abs().sort(1).values[:, rank - 1]
    failed = int((factor * statistic < rows.sum()).sum())
    # the stated 15 % (half of what is allowed is kept in reserve), at a significance of 1e-6 on both sides
    assert binom.ppf(1e-6, 4000, 0.14) <= failed <= binom.isf(1e-6, 4000, 0.16)


class Watched(Screened):
    """Keeps what the sketch says in front of every nonlinear operator, and the exact row sums."""

    def __init__(self, costs, seen):
        super().__init__(costs, math.inf)
        self.seen = seen

    def before(self, trace, name, enclosure, kinks):
        places = torch.ones_like(enclosure.centre, dtype=torch.bool).flatten(1).nonzero()
        exact = torch.maximum(*row_sums(trace, name, enclosure, places, symmetric=True))
        bound = self._sketch.bound(name, trace.most_underflow)
        assert torch.equal(self._sketch.confirms(name, bound * (1 + 2.0**-40), trace.most_underflow), bound < torch.inf)
        assert not (self._sketch.confirms(name, bound * (1 - 2.0**-20), trace.most_underflow) & (bound > 2.0**-60)).any()
        self.seen.append((bound.flatten(), self._sketch.estimate(name).flatten(), exact))
        return super().before(trace, name, enclosure, kinks)


def screened(made, row, classes, strategy=None):
    costs = Costs(made.graph)
    with direct_sums():
        return bounds(made, row, classes, strategy or Screened(costs, math.inf))


@pytest.mark.parametrize("name", NETWORKS)
def test_sketches_bound_exact_row_sums_and_estimate_them(name):
    made, inputs = program(name, parse_arithmetic("fp16"), batch=2)
    classes, seen = interval(made, inputs).classes, []
    for row in range(2):
        screened(made, inputs[row : row + 1], classes[row : row + 1], Watched(Costs(made.graph), seen))
    bound, estimate, exact = (torch.cat(parts) for parts in zip(*seen, strict=True))
    # exact row sums are rounded up by less than what a claim must exceed the sketch's bound by
    assert (exact * CONFIRMED <= bound).all()
    ratio = (estimate / exact)[exact > 2.0**-30]
    assert 0.7 <= ratio.median() <= 1.4
    assert (bound / exact)[exact > 2.0**-30].median() < 8


@pytest.mark.parametrize("arithmetic", ARITHMETICS, ids=lambda a: a.name)
@pytest.mark.parametrize("name", NETWORKS)
def test_runs_and_an_adversary_stay_inside_screened_bounds(name, arithmetic):
    made, inputs = program(name, arithmetic)
    plain = interval(made, inputs)
    found = [screened(made, row[None], plain.classes[i : i + 1]) for i, row in enumerate(inputs)]
    joined = replace(plain, **{field: torch.cat([getattr(b, field) for b in found]) for field in ("radius", "gap_error", "overflow")})
    assert_inside(joined, execute(made, inputs).logits)
    for target in range(2):
        for seed in range(2):
            assert_inside(joined, adversary(made, inputs, plain.classes, target, seed))


def test_claims_and_not_random_numbers_decide(monkeypatch):
    """Other numbers for the tests leave the bounds bit for bit as they are: theorem 19 rests on that."""
    made, inputs = program("residual", parse_arithmetic("fp16"), batch=1)
    classes = interval(made, inputs).classes
    first = screened(made, inputs, classes)
    noise = CauchySketch._noise

    def other(self, name, shape):
        drawn, largest = noise(self, name, shape)
        return torch.cat([drawn[:PILOT], drawn[PILOT:].flip(0) * -1]), torch.cat([largest[:PILOT], largest[PILOT:].flip(0)])

    def fresh(self, name, shape):
        drawn, largest = noise(self, name, shape)
        generator = torch.Generator().manual_seed(len(name))
        other = torch.empty_like(drawn[PILOT:]).cauchy_(generator=generator)
        return torch.cat([drawn[:PILOT], other]), torch.cat([largest[:PILOT], other.flatten(1).abs().amax(1)])

    for replacement in (other, fresh):
        monkeypatch.setattr(CauchySketch, "_noise", replacement)
        again = screened(made, inputs, classes)
        assert torch.equal(again.gap_error, first.gap_error)


def test_screening_is_used_beyond_the_effort_of_settling_and_says_so():
    made, inputs = program("relu", parse_arithmetic("bf16", "bf16", "any"), batch=16)
    plain = interval(made, inputs)
    found = module_function(made, inputs, effort=0.0)
    assert torch.equal(found.gap_error, plain.gap_error)
    assert (found.failure == 0).all()
    # too little to settle some of the inputs, enough to screen them
    costly = module_function(made, inputs, effort=8.0)
    assert (costly.gap_error <= plain.gap_error).all()
    assert set(costly.failure.tolist()) <= {0.0, FAILURE}


def test_a_program_whose_rounding_the_samples_cannot_bear_gets_no_bound():
    made, inputs = program("relu", parse_arithmetic("fp32"), batch=1)
    seen = []

    class Keeping(Watched):
        def __init__(self):
            super().__init__(Costs(made.graph), seen)
            self._sketch._shares.fill_(1.0)

    screened(made, inputs, interval(made, inputs).classes, Keeping())
    assert any(torch.isinf(bound).all() for bound, _, _ in seen[1:])


class Dead(nn.Module):
    """Neurons that are zero in every run: cast, and added to one another."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.last = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 3)
        with torch.no_grad():
            self.first.bias[:4] = self.second.bias[:4] = -100

    def forward(self, x):
        y = torch.relu(self.first(x))
        return self.last(torch.relu(self.second(y)) + y)


@pytest.mark.parametrize(("arithmetic", "kept", "zeros"), [("fp16", ["linear"], "relu.cast"), ("fp32", [], "relu_1")])
def test_values_that_are_the_same_in_every_run_leave_a_sketch_its_bounds(arithmetic, kept, zeros):
    """No radius is so small that it has no reciprocal: all samples are measured by it."""
    made = Program.of(capture(Dead().eval(), (8,)), parse_arithmetic(arithmetic), keep=Keep.of(kept))
    inputs = made.inputs(torch.rand(1, 8, generator=torch.Generator().manual_seed(0)))
    radii = {}
    interval(made, inputs, observe=lambda node, enclosure: radii.update({node.name: enclosure.radius}))
    assert all((radius[radius != 0] >= 2.0**-300).all() for radius in radii.values())
    assert (radii[zeros] == 0).sum() >= 4
    strategy = Claimed(Costs(made.graph), FINE, 1e9, 6.0, 1e-7)
    with direct_sums():
        bounds(made, inputs, torch.tensor([0]), strategy)
    for sketch in (strategy._random, strategy._worst):
        assert sketch._shares.max() < 1e-9
        assert sketch.bound(made.graph.output, 0.0).isfinite().all()


@pytest.mark.parametrize(("carried", "radius"), [(0.0, 0.0), (5e-324, 2.0**-300), (1e-3, 1e-3)])
def test_what_moves_numbers_leaves_no_tiny_radius(carried, radius):
    moved = Bounded(torch.zeros(1, 1, dtype=torch.float64), torch.tensor([[carried]], dtype=torch.float64), None, None)
    assert stored(parse_arithmetic("fp16"), moved).radius.item() == radius


def test_a_sample_of_extreme_numbers_counts_as_infinite_and_the_others_still_bound(monkeypatch):
    """Its rounding would swamp the symbols of all coordinates, were all samples held to the worst of them."""
    made, inputs = program("residual", parse_arithmetic("fp16"), batch=1)
    noise = CauchySketch._noise

    def extreme(self, name, shape):
        drawn, largest = (part.clone() for part in noise(self, name, shape))
        drawn[PILOT + 5] *= 1e13
        largest[PILOT + 5] *= 1e13
        return drawn, largest

    monkeypatch.setattr(CauchySketch, "_noise", extreme)
    seen = []
    watched = Watched(Costs(made.graph), seen)
    screened(made, inputs, interval(made, inputs).classes, watched)
    assert (watched._sketch._factor * watched._sketch._shares > 1).sum() == 1
    bound, _, exact = (torch.cat(parts) for parts in zip(*seen, strict=True))
    assert (exact * CONFIRMED <= bound).all()
    assert bound.isfinite().all()


class Settling(Screened):
    """Every radius that is settled is confirmed by an exact row sum, or is that of the enclosure."""

    def before(self, trace, name, enclosure, kinks):
        places = torch.ones_like(enclosure.centre, dtype=torch.bool).flatten(1).nonzero()
        exact = torch.maximum(*row_sums(trace, name, enclosure, places, symmetric=True)).reshape(enclosure.radius.shape)
        found = super().before(trace, name, enclosure, kinks)
        assert (found.radius >= torch.fmin(exact * CONFIRMED, enclosure.radius)).all()
        return found


@pytest.mark.parametrize("name", ["relu", "sigmoid"])
def test_a_claim_that_is_too_small_is_replaced(name, monkeypatch):
    made, inputs = program(name, parse_arithmetic("fp16"), batch=1)
    estimate = CauchySketch.estimate
    monkeypatch.setattr(CauchySketch, "estimate", lambda self, name: estimate(self, name) * 2.0**-10)
    screened(made, inputs, interval(made, inputs).classes, Settling(Costs(made.graph), math.inf))


@pytest.mark.parametrize("name", ["relu", "sigmoid"])
def test_every_coordinate_of_a_sketch_is_counted(name):
    """Three layers of twelve neurons: the union bound."""
    graph = program(name, parse_arithmetic("fp16"))[0].graph
    assert relied_on(graph) == 36
    cauchy, normal = CauchySketch(graph, PILOT, SAMPLES, 1e-6), NormalSketch(graph, PILOT, SAMPLES, 1e-6)
    assert 36 * binom.sf(cauchy._rank - 1, SAMPLES, 2 / math.pi * math.atan(1 / cauchy._factor)) <= 1e-6
    assert normal._factor == normal_factor(SAMPLES, 1e-6 / 36)


def test_the_middle_between_lines_is_part_of_a_sketch():
    """It is the same in every sample, and is not random: the first sample holds it."""
    graph = program("relu", parse_arithmetic("fp16"))[0].graph
    sketch, one = CauchySketch(graph, PILOT, SAMPLES, 1e-6), torch.ones(1, 1, dtype=torch.float64)
    samples = torch.zeros(1 + PILOT + SAMPLES, 1, dtype=torch.float64)
    samples[0] = -2.0
    nothing = torch.zeros(len(samples), dtype=torch.float64)
    sketch._states["node"] = _State(samples, 0 * one, one, nothing, nothing)
    assert 2 <= sketch.bound("node", 0.0).item() <= 2.001
    assert sketch.confirms("node", 2.001 * one, 0.0).all()
    assert not sketch.confirms("node", 1.999 * one, 0.0).any()
    above, under = torch.tensor([[3.0]]).double(), torch.tensor([[0.5]]).double()
    radius, middle = sketch._of_lines(Lines(one, one, above, 0 * one, one, under))
    assert (middle + radius >= above).all()
    assert (middle - radius <= -under).all()
