"""The adjoint method: bounds that hold except with a stated probability, under the model of random rounding.

The model: rounding errors of stores, dot products and other sums have mean zero given all earlier ones, and are bounded as ever.  A
functional of them then exceeds ``t sqrt(sum (g r)**2)`` with a probability of at most ``exp(-t**2 / 2)`` (Azuma 1967; Higham and
Mary 2019; Connolly, Higham and Mary 2021).  Errors that the model does not cover, and what lies between the lines around a
neuron whose sign is open, enter in the worst case.  Every neuron whose enclosure is relied on is counted in the union bound.
Proof: proofs/bounds.md, theorem 20.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from precisionkit.arithmetic import Arithmetic
from precisionkit.bound.interval import interval
from precisionkit.bound.pulling import direct_sums
from precisionkit.bound.result import LogitBounds
from precisionkit.bound.sketch import CauchySketch, NormalSketch
from precisionkit.bound.substitution import EFFORT, Doubts, Settled
from precisionkit.bound.trace import Step, Trace
from precisionkit.bound.walk import Costs, GivenUp, bends, bounds, distance, relied_on, row_sums, sharpened
from precisionkit.enclosure import Bounded, Enclosure
from precisionkit.evaluate import Program
from precisionkit.graph import Graph


def model_of_rounding(arithmetic: Arithmetic) -> str:
    """What a `probable` verdict takes for granted beside the assumptions of the arithmetic."""
    dots = (
        ", of dot products"
        if arithmetic.unbiased_sums
        else ", of dot products that sum in binary32 to nearest (the reference program's, and those of nodes kept in binary32)"
    )
    worst = "" if arithmetic.unbiased_sums else " Errors of the half program's other dot products count in the worst case."
    return (
        f"For 'probable' verdicts, a model of rounding: the rounding errors of stores{dots} and of other sums have mean zero given all "
        f"earlier ones.{worst}"
    )


@dataclass(frozen=True)
class Samples:
    """How to sketch.

    Attributes
    ----------
    pilot, random, worst : int
        Numbers of samples: that choose what is claimed, and that test it for random and for worst-case errors.
    claim : float
        At most this is claimed of a neuron, in units of what its estimate would prove: the less, the sharper; the more, the fewer
        claims fail.
    bend : float
        The same in front of operators that bend between kinks, whose second order grows with the square of what is claimed.
    symmetric : bool
        Settle both directions of a neuron in one pass, with one slope; else in two, with lines: sharper, at twice the price.
    """

    pilot: int
    random: int
    worst: int
    claim: float
    bend: float
    symmetric: bool = True

    @property
    def total(self) -> int:
        """Forward passes of both sketches."""
        return 2 * self.pilot + self.random + self.worst


FINE = Samples(32, 96, 192, claim=2.0, bend=1.5)
"""For the first attempt."""
FINEST = replace(FINE, claim=2.5, bend=1.8, symmetric=False)
"""For what is left undecided."""
CONFIDENCE = 1e-6
"""Default of the largest probability that a `probable` verdict is wrong; each of the two programs gets half of it."""
_DOUBT = 1.25
"""A neuron is in doubt below this, in units of what its estimate would prove."""
_FLOOR = 0.75
"""Least estimate, in units of the mean of a channel."""
_TYPICAL = 2.3
"""What a Cauchy sketch typically proves, in units of its estimate."""


def adjoint(
    program: Program, inputs: Tensor, classes: Tensor | None = None, effort: float = EFFORT, confidence: float = CONFIDENCE / 2
) -> LogitBounds:
    """Bound the logits and the gaps of a batch under the model of random rounding; other arguments and result as for `interval`.

    Parameters
    ----------
    program, inputs, classes
        As for `interval`.
    effort : float
        Limit of the work for one input, in forward passes.  An input that would cost more keeps the bounds of the interval method.
    confidence : float
        Probability with which any bound of one input may fail.

    Notes
    -----
    A second, sharper attempt is made where the first does not keep the class; each may fail with half of the probability, or with a
    third where operators bend between kinks, and settling doubtful neurons alone is an attempt of its own.
    Of that, half is left to the gaps, a quarter to neurons that are settled one by one, a quarter to sketches.
    Assumes: the model, beside `Arithmetic.assumptions`.
    """
    costs = Costs(program.graph)
    doubts = Doubts(costs, inputs)
    base = interval(program, inputs, classes, observe=doubts.count)
    attempts = (FINE, FINEST)
    each = confidence / (len(attempts) + bends(program.graph))  # whether they are made or not
    with direct_sums():
        cheap = doubts.passes <= min(effort, attempts[0].total)
        within = cheap.nonzero().flatten()
        alone = confidence if not bends(program.graph) else each
        if len(within):
            deviations = _Deviations.of(program.graph, alone)
            found = bounds(program, inputs[within], base.classes[within], Settled(deviations.neurons), deviations.gaps)
            base = base.sharpened(within, _likely(found, alone))
        left = ~cheap | (~base.keeps_class() if bends(program.graph) else torch.zeros_like(cheap))
        for row in left.nonzero().flatten():
            one = row[None]
            for samples in attempts:
                found_or_not = _claimed(program, inputs[one], base.classes[one], costs, samples, effort, each)
                if found_or_not is not None:
                    base = base.sharpened(one, found_or_not)
                if base.keeps_class()[row]:
                    break
    return base


def _claimed(
    program: Program, inputs: Tensor, classes: Tensor, costs: Costs, samples: Samples, effort: float, confidence: float
) -> LogitBounds | None:
    """One attempt at one input; None where it costs more than the effort, or claimed too little."""
    deviations = _Deviations.of(program.graph, confidence)
    strategy = Claimed(costs, samples, effort, deviations.neurons, confidence / 4)
    try:
        return _likely(bounds(program, inputs, classes, strategy, deviations.gaps), confidence)
    except GivenUp:
        return None


def _likely(found: LogitBounds, confidence: float) -> LogitBounds:
    nowhere = torch.full_like(found.certain_overflow, -1)
    return replace(found, certain_overflow=nowhere, failure=torch.full_like(found.failure, confidence))


@dataclass(frozen=True)
class _Deviations:
    """How many standard deviations to allow for."""

    neurons: float
    gaps: float

    @classmethod
    def of(cls, graph: Graph, confidence: float) -> _Deviations:
        """Both directions of each neuron in front of a nonlinear operator, and of each gap."""
        return cls(deviate_for(confidence / 4 / max(2 * relied_on(graph), 1)), deviate_for(confidence / 2 / (2 * graph.classes)))


def deviate_for(failure: float) -> float:
    """Return t with ``exp(-t**2 / 2) <= failure``, for `backward.pull_back`."""
    return math.sqrt(-2 * math.log(failure)) * (1 + 2.0**-40)


class Claimed:
    """A radius is claimed of each neuron from pilot samples, and tested; neurons in doubt are settled one by one.

    Whether a neuron is in doubt, what is claimed of it, and so every slope and radius depend on the pilot samples alone; a claim
    that neither the test nor an exact row sum confirms ends the work on the input (theorem 20).
    """

    def __init__(self, costs: Costs, samples: Samples, effort: float, deviate: float, failure: float) -> None:
        self._costs, self._deviate, self._left = costs, deviate, effort - samples.total
        self._claim, self._bend, self._symmetric = samples.claim, samples.bend, samples.symmetric
        self._random = NormalSketch(costs.graph, samples.pilot, samples.random, failure / 2)
        self._worst = CauchySketch(costs.graph, samples.pilot, samples.worst, failure / 2)

    def before(self, trace: Trace, name: str, enclosure: Enclosure, kinks: tuple[float, ...]) -> Enclosure:
        """Settle what is in doubt, claim and test the rest."""
        size, radius = distance(enclosure, kinks), enclosure.radius
        estimate = _smoothed(self._random.estimate(name)) + _TYPICAL * _smoothed(self._worst.estimate(name))
        doubtful = torch.fmin(_DOUBT * estimate, radius) > size
        claim = (self._claim if kinks else self._bend) * estimate
        claim = torch.fmin(torch.fmin(claim, size), radius)
        tested = self._random.bound(name, trace.most_underflow) + self._worst.bound(name, trace.most_underflow)
        failed = ~doubtful & ~(claim >= radius) & ~(tested * (1 + 2.0**-50) <= claim)
        settled = (doubtful | failed).flatten(1).nonzero()
        self._left -= len(settled) * self._costs.of(name) * (1 if self._symmetric else 2)
        if self._left < 0:
            raise GivenUp("the effort is spent")
        claimed = Enclosure(enclosure.centre, torch.where(doubtful, radius, claim))
        if not len(settled):
            return claimed
        up, down = row_sums(trace, name, enclosure, settled, symmetric=self._symmetric, deviate=self._deviate)
        image, neuron = settled[:, 0], settled[:, 1]
        open_ = doubtful.flatten(1)[image, neuron]
        if not (open_ | (torch.maximum(up, down) <= claim.flatten(1)[image, neuron])).all():
            raise GivenUp("what was claimed of a neuron turned out to be too little")
        return sharpened(claimed, settled[open_], up[open_], down[open_])

    def after(self, trace: Trace, step: Step, result: Bounded, radius: Tensor) -> None:
        """Carry both sketches on."""
        self._random.step(step.node, step.operands, radius, step.errors.unbiased, result.linear_reach, step.lines)
        self._worst.step(step.node, step.operands, radius, step.errors.bias, result.linear_reach, step.lines)


def _smoothed(estimate: Tensor) -> Tensor:
    """Raise estimates that are far below those of the other neurons of their channel or row: few samples scatter."""
    dims = {3: (2,), 4: (2, 3), 5: (2, 3, 4)}.get(estimate.dim())
    return estimate if dims is None else torch.maximum(estimate, _FLOOR * estimate.mean(dims, keepdim=True))
