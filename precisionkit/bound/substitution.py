"""The zonotope method: backward substitution from the gaps of the logits, with every doubtful neuron settled first.

Small networks are settled neuron by neuron.  Deep ones are screened first: a sketch bounds all neurons at once, and only those
whose sign it leaves in doubt are settled.  Proofs: proofs/bounds.md, theorems 16 to 19.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from precisionkit.bound.interval import interval
from precisionkit.bound.pulling import direct_sums
from precisionkit.bound.result import LogitBounds
from precisionkit.bound.sketch import CauchySketch, rank_and_factor
from precisionkit.bound.trace import Step, Trace
from precisionkit.bound.walk import Costs, GivenUp, bends, bounds, distance, doubtful, row_sums, sharpened, walk
from precisionkit.enclosure import Bounded, Enclosure
from precisionkit.evaluate import Program
from precisionkit.formats import BINARY32
from precisionkit.graph import Node
from precisionkit.outward import add_up, narrowed_up

EFFORT = 6000.0
"""Default limit of the work for one input, in forward passes."""
PILOT, SAMPLES = 20, 108
"""Samples of the sketch that choose what is claimed, and that test it."""
FAILURE = 1e-13
"""Probability that a sketch is wrong anywhere, for one input: 1e-9 for 10,000 inputs."""
_CLAIM = 20.0
"""What is claimed of a neuron's row sum, in units of its estimate."""
_BEND = 5.0
"""The same in front of operators that bend between kinks, whose second order grows with the square of what is claimed."""
_PREDICT = 8
"""Samples that predict the work."""
CONFIRMED = 1 - 2.0**-5
"""Share of a claim that a sketch must stay below: an exact row sum, with its rounding, then confirms the claim as well."""


def substitution(program: Program, inputs: Tensor, classes: Tensor | None = None, effort: float = EFFORT) -> LogitBounds:
    """Bound the logits and the gaps of a batch by backward substitution; other arguments and result as for `interval`.

    Parameters
    ----------
    program, inputs, classes
        As for `interval`.
    effort : float
        Limit of the work for one input, in forward passes.  An input that would cost more keeps the bounds of the interval method.

    Notes
    -----
    Never worse than `interval`.  Enclosures start as intervals from the operands' enclosures.  Where settling every neuron whose
    sign the interval method leaves in doubt is within the effort, that is done, and the bounds are certain.  Else a sketch
    screens the neurons first, and the bounds are wrong with the probability `FAILURE`, over the sketch's random numbers.
    """
    costs = Costs(program.graph)
    doubts = Doubts(costs, inputs)
    base = interval(program, inputs, classes, observe=doubts.count)
    with direct_sums():
        within = (doubts.passes <= effort).nonzero().flatten()
        if len(within):
            found = bounds(program, inputs[within], base.classes[within], Settled())
            base = base.sharpened(within, found)
        left = doubts.passes > effort
        if bends(program.graph):
            left = left | ~base.keeps_class()
        for row in left.nonzero().flatten():
            one = row[None]
            screened = _screened(program, inputs[one], base.classes[one], costs, effort)
            base = base if screened is None else base.sharpened(one, screened)
    return base


def _screened(program: Program, inputs: Tensor, classes: Tensor, costs: Costs, effort: float) -> LogitBounds | None:
    """Screen and settle one input; None where it would cost, or costs, more than the effort."""
    try:
        if program.arithmetic.storage.precision < BINARY32.precision:  # where work without an end is likely
            walk(program, inputs, Predicted(costs, effort - PILOT - SAMPLES))
        found = bounds(program, inputs, classes, Screened(costs, effort))
    except GivenUp:
        return None
    return replace(found, failure=torch.full_like(found.failure, FAILURE))


class Doubts:
    """Counts what settling the doubtful neurons would cost, from the interval method's enclosures."""

    def __init__(self, costs: Costs, inputs: Tensor) -> None:
        self._costs, self.passes = costs, torch.zeros(inputs.shape[0], dtype=torch.float64, device=inputs.device)

    def count(self, node: Node, enclosure: Enclosure) -> None:
        """Add the cost of the neurons of one node that a kink follows, forwards and backwards."""
        if kinks := self._costs.kinks.get(node.name):
            self.passes = self.passes + 2 * doubtful(enclosure, kinks).flatten(1).sum(1) * self._costs.of(node.name)


class Settled:
    """Every neuron in front of a nonlinear operator that is near a kink gets the exact row sums of its functional and of its negative."""

    def __init__(self, deviate: float | None = None) -> None:
        self._deviate = deviate

    def before(self, trace: Trace, name: str, enclosure: Enclosure, kinks: tuple[float, ...]) -> Enclosure:
        """Sharpen the ends of the doubtful neurons."""
        places = doubtful(enclosure, kinks).flatten(1).nonzero()
        if not len(places):
            return enclosure
        up, down = row_sums(trace, name, enclosure, places, symmetric=False, deviate=self._deviate)
        return sharpened(enclosure, places, up, down)

    def after(self, trace: Trace, step: Step, result: Bounded, radius: Tensor) -> None:
        """Nothing to note."""


class Screened:
    """A radius is claimed of each neuron, tested by the sketch, and where the test fails replaced by the exact row sum.

    What is claimed depends on the pilot samples alone, and the outcome is the claim whether the test or the exact row sum confirms
    it; so all slopes and symbols are independent of the samples that test (theorem 19).
    """

    def __init__(self, costs: Costs, effort: float) -> None:
        self._costs, self._left = costs, effort - PILOT - SAMPLES
        self._sketch = CauchySketch(costs.graph, PILOT, SAMPLES, FAILURE)

    def before(self, trace: Trace, name: str, enclosure: Enclosure, kinks: tuple[float, ...]) -> Enclosure:
        """Claim, test, settle."""
        radius = enclosure.radius
        claim = _claim(enclosure, self._sketch.estimate(name), kinks)
        open_ = claim < radius
        failed = open_ & ~self._sketch.confirms(name, claim * CONFIRMED, trace.most_underflow)
        places = failed.flatten(1).nonzero()
        self._left -= len(places) * self._costs.of(name)
        if self._left < 0:
            raise GivenUp("the effort is spent")
        settled = torch.where(open_, claim, radius).flatten(1)
        if len(places):
            exact = torch.maximum(*row_sums(trace, name, enclosure, places, symmetric=True))
            if not exact.isfinite().all():  # no outcome that the sketch could agree with
                raise GivenUp("a row sum is beyond the range of binary32")
            image, neuron = places[:, 0], places[:, 1]
            claimed = claim.flatten(1)[image, neuron]
            settled[image, neuron] = torch.where(exact <= claimed, claimed, torch.fmin(radius.flatten(1)[image, neuron], exact))
        return Enclosure(enclosure.centre, settled.reshape(radius.shape))

    def after(self, trace: Trace, step: Step, result: Bounded, radius: Tensor) -> None:
        """Carry the sketch on."""
        # functionals err by their rounding, which weighs the local errors behind them by at most the charge once more
        symbols = narrowed_up(add_up(step.errors.error, step.charge), trace.pulling.dtype).double()
        self._sketch.step(step.node, step.operands, radius, symbols, result.linear_reach, step.lines)


class Predicted:
    """Believes the estimates of a small sketch, and counts what they say that settling will cost."""

    def __init__(self, costs: Costs, effort: float) -> None:
        self._costs, self._left = costs, effort
        self._sketch = CauchySketch(costs.graph, _PREDICT, 0, FAILURE)
        _, factor = rank_and_factor(SAMPLES, FAILURE / 2**18)
        self._typical = 2 * factor

    def before(self, trace: Trace, name: str, enclosure: Enclosure, kinks: tuple[float, ...]) -> Enclosure:
        """Believe the estimate."""
        estimate = self._sketch.estimate(name)
        if kinks:
            doubts = (torch.fmin(enclosure.radius, self._typical * estimate) > distance(enclosure, kinks)).sum()
            self._left -= float(doubts) * self._costs.of(name)
            if self._left < 0:
                raise GivenUp("the effort is spent")
        claim = torch.fmin(_claim(enclosure, estimate, ()), torch.maximum(estimate, enclosure.centre.abs()))
        return Enclosure(enclosure.centre, torch.fmin(claim, enclosure.radius))

    def after(self, trace: Trace, step: Step, result: Bounded, radius: Tensor) -> None:
        """Carry the sketch on."""
        self._sketch.step(step.node, step.operands, radius, step.errors.error, result.linear_reach, step.lines)


def _claim(enclosure: Enclosure, estimate: Tensor, kinks: tuple[float, ...]) -> Tensor:
    """A radius that the test will usually confirm, and that keeps a neuron on one side of its kinks where that seems possible."""
    if not kinks:
        return torch.fmin(_BEND * estimate, enclosure.radius)
    claim = torch.fmin(torch.maximum(_CLAIM * estimate, enclosure.centre.abs() / 16), enclosure.radius)
    return torch.fmin(claim, distance(enclosure, kinks))
