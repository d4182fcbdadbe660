"""How far each logit of a run can be from the exact network: a tolerance for every element, derived and not guessed.

The logits are the neurons that are settled last: theorem 16 bounds the deviation of each, as theorem 18 does of those in front of a
nonlinear operator.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from precisionkit.bound.interval import interval
from precisionkit.bound.pulling import direct_sums
from precisionkit.bound.substitution import EFFORT, FAILURE, PILOT, SAMPLES, Doubts, Predicted, Screened, Settled
from precisionkit.bound.walk import Costs, GivenUp, Strategy, row_sums, sharpened, walk
from precisionkit.evaluate import Program
from precisionkit.formats import BINARY32


@dataclass(frozen=True)
class Outputs:
    """Bounds on the logits of every run of one program.

    Attributes
    ----------
    centre : (batch, classes) binary64 tensor
        The exact network, with the program's rounded weights and input; its own rounding errors are part of the radius.
    radius : (batch, classes) binary64 tensor
        Every run's logits differ from the centre by at most this; infinite where no bound holds.
    overflow : (batch,) int64 tensor
        Place in the graph of the first node whose overflow is not excluded; -1 where none is left.  Else the radii are infinite.
    failure : (batch,) binary64 tensor
        Probability, over the method's own random numbers, that a radius is wrong.
    """

    centre: Tensor
    radius: Tensor
    overflow: Tensor
    failure: Tensor


def enclose_outputs(program: Program, inputs: Tensor, effort: float = EFFORT) -> Outputs:
    """Bound the logits of a batch over every run of the program, each by itself.

    Parameters
    ----------
    inputs : (batch, ...) tensor
        Numbers of the storage format.
    effort : float
        Limit of the work for one input, in forward passes; an input that would cost more keeps the radii of the interval method,
        and 0 keeps all of them.
    """
    costs = Costs(program.graph)
    doubts = Doubts(costs, inputs)
    base = interval(program, inputs, observe=doubts.count)
    overflow = base.overflow.clone()
    radius, failure = base.radius.clone(), torch.zeros_like(base.failure)
    passes = doubts.passes + 2 * program.graph.classes
    with direct_sums():
        within = (passes <= effort).nonzero().flatten()
        if len(within):
            _sharpen(program, inputs, within, Settled(), radius, overflow)
        for row in (passes > effort).nonzero().flatten() if effort > PILOT + SAMPLES else ():
            try:
                if program.arithmetic.storage.precision < BINARY32.precision:  # where work without an end is likely
                    walk(program, inputs[row[None]], Predicted(costs, effort - PILOT - SAMPLES))
                _sharpen(program, inputs, row[None], Screened(costs, effort), radius, overflow)
            except GivenUp:
                continue
            failure[row] = FAILURE
    unbounded = (overflow >= 0)[:, None] | radius.isnan()
    return Outputs(base.centre, radius.masked_fill(unbounded, torch.inf), overflow, failure)


def _sharpen(program: Program, inputs: Tensor, rows: Tensor, strategy: Strategy, radius: Tensor, overflow: Tensor) -> None:
    """Sharpen the radii of some inputs, in place."""
    trace, logits, found, _ = walk(program, inputs[rows], strategy)
    places = torch.ones_like(logits.centre, dtype=torch.bool).nonzero()
    up, down = row_sums(trace, program.graph.output, logits, places, symmetric=False)
    radius[rows] = torch.fmin(radius[rows], sharpened(logits, places, up, down).radius)
    overflow[rows] = torch.where(found < 0, found, overflow[rows])
