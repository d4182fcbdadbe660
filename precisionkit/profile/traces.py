"""Backward substitution of one input, ready to bound single entries of any node."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from precisionkit.bound.interval import interval
from precisionkit.bound.pulling import direct_sums
from precisionkit.bound.substitution import PILOT, SAMPLES, Doubts, Predicted, Screened, Settled
from precisionkit.bound.trace import Step, Trace
from precisionkit.bound.walk import Costs, GivenUp, Strategy, row_sums, walk
from precisionkit.enclosure import Bounded, Enclosure
from precisionkit.evaluate import Program
from precisionkit.formats import BINARY32
from precisionkit.graph import Node


class Unsharpened:
    """Enclosures in front of nonlinear operators stay those of their operands."""

    def before(self, trace: Trace, name: str, enclosure: Enclosure, kinks: tuple[float, ...]) -> Enclosure:
        """Leave it."""
        return enclosure

    def after(self, trace: Trace, step: Step, result: Bounded, radius: Tensor) -> None:
        """Nothing to note."""


@dataclass(frozen=True)
class Traced:
    """One input.

    Attributes
    ----------
    overflow : int
        Place of the first node whose overflow neither this nor the interval method excludes; the number of nodes where there is none.
    sketched : bool
        Enclosures rest on a sketch, which is wrong with the probability `substitution.FAILURE`.
    """

    trace: Trace
    overflow: int
    sketched: bool

    def bounds(self, node: Node, entries: Tensor, deviate: float | None = None) -> Tensor:
        """Bound how far each of some entries of a node is from its centre, in every run; `deviate` as for `backward.pull_back`."""
        places = torch.stack([torch.zeros_like(entries), entries], 1)
        like = Enclosure.exact(torch.zeros(1, *node.shape, dtype=torch.float64, device=entries.device))
        with direct_sums():
            return torch.maximum(*row_sums(self.trace, node.name, like, places, symmetric=False, deviate=deviate))


def trace_of(program: Program, inputs: Tensor, effort: float) -> Traced:
    """Walk through a program on one input, as the zonotope method does: settle or screen neurons, or neither beyond the effort."""
    costs = Costs(program.graph)
    doubts = Doubts(costs, inputs)
    base = interval(program, inputs, observe=doubts.count)
    with direct_sums():
        trace, overflow, sketched = _walked(program, inputs, costs, float(doubts.passes), effort)
    found = {int(base.overflow[0]), overflow}
    return Traced(trace, len(program.graph.nodes) if -1 in found else max(found), sketched)


def _walked(program: Program, inputs: Tensor, costs: Costs, passes: float, effort: float) -> tuple[Trace, int, bool]:
    strategy: Strategy = Settled() if passes <= effort else Unsharpened()
    if passes > effort > PILOT + SAMPLES:
        try:
            if program.arithmetic.storage.precision < BINARY32.precision:  # where work without an end is likely
                walk(program, inputs, Predicted(costs, effort - PILOT - SAMPLES))
            trace, _, overflow, _ = walk(program, inputs, Screened(costs, effort))
            return trace, int(overflow[0]), True
        except GivenUp:
            pass
    trace, _, overflow, _ = walk(program, inputs, strategy)
    return trace, int(overflow[0]), False
