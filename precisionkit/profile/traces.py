"""Backward substitution of one input, ready to bound single entries of any node."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from precisionkit.bound.adjoint import FINE, Claimed, deviate_for
from precisionkit.bound.interval import interval
from precisionkit.bound.pulling import direct_sums
from precisionkit.bound.substitution import PILOT, SAMPLES, Doubts, Predicted, Screened, Settled
from precisionkit.bound.trace import Step, Trace
from precisionkit.bound.walk import Costs, GivenUp, Strategy, bends, relied_on, row_sums, walk
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
    sketched: bool = False

    def bounds(self, node: Node, entries: Tensor, deviate: float | None = None) -> Tensor:
        """Bound how far each of some entries of a node is from its centre, in every run; `deviate` as for `backward.pull_back`."""
        places = torch.stack([torch.zeros_like(entries), entries], 1)
        like = Enclosure.exact(torch.zeros(1, *node.shape, dtype=torch.float64, device=entries.device))
        with direct_sums():
            return torch.maximum(*row_sums(self.trace, node.name, like, places, symmetric=False, deviate=deviate))


class Tracer:
    """Walks through a program on one input after the other.

    Parameters
    ----------
    effort : float
        Limit of the work of one walk, in forward passes.
    """

    def __init__(self, program: Program, effort: float) -> None:
        self._program, self._effort, self._costs = program, effort, Costs(program.graph)
        self._bends = bends(program.graph)

    def proved(self, inputs: Tensor) -> Traced:
        """As the zonotope method does: settle neurons, or screen them; beyond the effort, neither."""
        passes, overflow = self._doubts(inputs)
        with direct_sums():
            if passes > self._effort or self._bends:
                try:
                    return self._screened(inputs, overflow)
                except GivenUp:
                    pass
            return self._walked(inputs, Settled() if passes <= self._effort else Unsharpened(), overflow)

    def likely(self, inputs: Tensor, failure: float) -> Traced | None:
        """As the adjoint method does: its enclosures hold, under the model of random rounding, save with the probability `failure`.

        None where that costs more than the effort, or too little was claimed of a neuron.
        """
        passes, overflow = self._doubts(inputs)
        neurons = max(2 * relied_on(self._program.graph), 1)
        settles = passes <= min(self._effort, FINE.total) and not self._bends
        with direct_sums():
            if settles:
                return self._walked(inputs, Settled(deviate_for(failure / neurons)), overflow)
            try:
                claimed = Claimed(self._costs, FINE, self._effort, deviate_for(failure / 2 / neurons), failure / 2)
                return self._walked(inputs, claimed, overflow)
            except GivenUp:
                return None

    def _doubts(self, inputs: Tensor) -> tuple[float, int]:
        """What settling doubtful neurons would cost, and where the interval method does not exclude overflow."""
        doubts = Doubts(self._costs, inputs)
        base = interval(self._program, inputs, observe=doubts.count)
        return float(doubts.passes), int(base.overflow[0])

    def _screened(self, inputs: Tensor, overflow: int) -> Traced:
        left = self._effort - PILOT - SAMPLES
        if left <= 0:
            raise GivenUp("the effort is spent")
        if self._program.arithmetic.storage.precision < BINARY32.precision:  # where work without an end is likely
            walk(self._program, inputs, Predicted(self._costs, left))
        return self._walked(inputs, Screened(self._costs, self._effort), overflow, sketched=True)

    def _walked(self, inputs: Tensor, strategy: Strategy, other: int, *, sketched: bool = False) -> Traced:
        trace, _, found, _ = walk(self._program, inputs, strategy)
        places = (other, int(found[0]))
        return Traced(trace, len(self._program.graph.nodes) if -1 in places else max(places), sketched)
