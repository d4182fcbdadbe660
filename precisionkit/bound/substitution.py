"""The zonotope method: backward substitution from the gaps of the logits, with every doubtful neuron settled first.

Small networks are settled neuron by neuron.  Deep ones are screened first: a sketch bounds all neurons at once, and only those
whose sign it leaves in doubt are settled.  Proofs: proofs/bounds.md, theorems 16 to 19.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from precisionkit.bound.backward import ROW_BYTES, Step, Trace, gap_errors, make_step, pull_back, pull_back_both
from precisionkit.bound.interval import interval, stored
from precisionkit.bound.result import LogitBounds
from precisionkit.bound.sketch import Sketch, rank_and_factor
from precisionkit.enclosure import Bounded, Enclosure
from precisionkit.evaluate import Program
from precisionkit.graph import Graph, Node
from precisionkit.outward import add_up

EFFORT = 3000.0
"""Default limit of the work for one input, in forward passes."""
PILOT, SAMPLES = 32, 96
"""Samples of the sketch that choose what is claimed, and that test it."""
FAILURE = 1e-13
"""Probability that a sketch is wrong anywhere, for one input: 1e-9 for 10,000 inputs."""
_CLAIM = 10.0
"""What is claimed of a neuron's row sum, in units of its estimate."""
_PREDICT = 8
"""Samples that predict the work."""
_OWN = 1 + 2.0**-10
"""Inflation of the sketch's symbols: an exact row sum, with its rounding, then never exceeds what the sketch bounds."""


def substitution(program: Program, inputs: Tensor, classes: Tensor | None = None, effort: float = EFFORT) -> LogitBounds:
    """Bound the logits and the gaps of a batch by backward substitution; other arguments and result as for `interval`.

    Parameters
    ----------
    effort : float
        Limit of the work for one input, in forward passes.  An input that would cost more keeps the bounds of the interval method.

    Notes
    -----
    Never worse than `interval`.  Enclosures start as intervals from the operands' enclosures.  Where settling every neuron whose
    sign the interval method leaves in doubt is within the effort, that is done, and the bounds are certain.  Else a sketch
    screens the neurons first, and the bounds are wrong with the probability `FAILURE`, over the sketch's random numbers.
    """
    costs = _Costs(program.graph)
    doubts = _Doubts(costs, inputs)
    base = interval(program, inputs, classes, observe=doubts.count)
    with torch.no_grad(), torch.backends.cudnn.flags(enabled=False):
        within = (doubts.passes <= effort).nonzero().flatten()
        if len(within):
            found = _bounds(program, inputs[within], base.classes[within], _Settled(costs))
            base = base.sharpened(within, found)
        for row in (doubts.passes > effort).nonzero().flatten():
            one = row[None]
            screened = _screened(program, inputs[one], base.classes[one], costs, effort)
            base = base if screened is None else base.sharpened(one, screened)
    return base


def _screened(program: Program, inputs: Tensor, classes: Tensor, costs: _Costs, effort: float) -> LogitBounds | None:
    """Screen and settle one input; None where it would cost, or costs, more than the effort."""
    try:
        _walk(program, inputs, _Predicted(costs, effort - PILOT - SAMPLES))
        found = _bounds(program, inputs, classes, _Screened(costs, effort))
    except _TooMuchWork:
        return None
    return replace(found, failure=torch.full_like(found.failure, FAILURE))


class _TooMuchWork(Exception):  # noqa: N818
    """The effort is spent."""


class _Costs:
    """What pulling a functional back from each node to the input costs, in forward passes."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.rectified = {node.operands[0] for node in graph.nodes if node.operator == "relu"}
        total, before = 0.0, {}
        for node in graph.nodes:
            total += graph.multiplications(node)
            before[node.name] = total
        self._of = {name: cost / max(total, 1.0) for name, cost in before.items()}

    def of(self, name: str) -> float:
        """Of one functional of one node."""
        return self._of.get(name, 0.0)


class _Doubts:
    """Counts what settling the doubtful neurons would cost, from the interval method's enclosures."""

    def __init__(self, costs: _Costs, inputs: Tensor) -> None:
        self._costs, self.passes = costs, torch.zeros(inputs.shape[0], dtype=torch.float64, device=inputs.device)

    def count(self, node: Node, enclosure: Enclosure) -> None:
        """Add the cost of the neurons of one node that a ReLU follows, forwards and backwards."""
        if node.name in self._costs.rectified:
            self.passes = self.passes + 2 * _doubtful(enclosure).flatten(1).sum(1) * self._costs.of(node.name)


class _Strategy(Protocol):
    """How enclosures in front of nonlinear operators are sharpened on the way."""

    def before(self, trace: Trace, name: str, enclosure: Enclosure, *, rectified: bool) -> Enclosure:
        """Sharpen the enclosure of a node in front of a nonlinear operator."""

    def after(self, trace: Trace, step: Step, result: Bounded, radius: Tensor) -> None:
        """Take note of a node."""


def _bounds(program: Program, inputs: Tensor, classes: Tensor, strategy: _Strategy) -> LogitBounds:
    """Bound node by node, then the gaps."""
    trace, logits, overflow, certain_overflow = _walk(program, inputs, strategy)
    return LogitBounds.of(logits, classes, gap_errors(trace, logits, classes), overflow, certain_overflow)


def _walk(program: Program, inputs: Tensor, strategy: _Strategy) -> tuple[Trace, Enclosure, Tensor, Tensor]:
    """Bound node by node: the trace, the logits, and the places of the first possible and the first certain overflow."""
    graph = program.graph
    constants = {name: value.double() for name, value in program.constants.items()}
    values: dict[str, Enclosure] = {graph.input: Enclosure.exact(inputs.double())}
    overflow = torch.full((inputs.shape[0],), -1, dtype=torch.int64, device=inputs.device)
    certain_overflow = overflow.clone()
    trace = Trace(graph, fan_out={name: sum(n.operands.count(name) for n in graph.nodes) for name in graph.names})
    for place, node in enumerate(graph.nodes):
        name = node.operands[0]
        if node.record.relax is not None and name is not None and name != graph.input:
            values[name] = strategy.before(trace, name, values[name], rectified=node.operator == "relu")
        operands = tuple(None if name is None else values.get(name, constants.get(name)) for name in node.operands)
        result = node.record.error_rule(program.arithmetic, node.attributes, *operands)
        store = stored(program.arithmetic, result)
        certain_overflow = torch.where((overflow < 0) & store.certain & (certain_overflow < 0), place, certain_overflow)
        overflow = torch.where((overflow < 0) & ~store.excluded, place, overflow)
        values[node.name] = Enclosure(result.centre, store.radius)
        step = make_step(trace, node, operands, result, store)
        trace.steps.append(step)
        strategy.after(trace, step, result, store.radius)
        if node.name == graph.output:
            break
    return trace, values[graph.output], overflow, certain_overflow


class _Settled:
    """Every neuron in front of a ReLU whose sign is in doubt gets the exact row sums of its functional and of its negative."""

    def __init__(self, costs: _Costs) -> None:
        self._costs = costs

    def before(self, trace: Trace, name: str, enclosure: Enclosure, *, rectified: bool) -> Enclosure:
        """Sharpen the ends of the doubtful neurons."""
        places = _doubtful(enclosure).flatten(1).nonzero()
        if not rectified or not len(places):
            return enclosure
        low, high = (end.flatten(1).clone() for end in enclosure.ends())
        up, down = _row_sums(trace, name, enclosure, places, symmetric=False)
        image, neuron = places[:, 0], places[:, 1]
        middle = enclosure.centre.flatten(1)[image, neuron]
        slack = (middle.abs() + up + down) * 2.0**-51
        high[image, neuron] = torch.minimum(high[image, neuron], middle + up + slack)
        low[image, neuron] = torch.maximum(low[image, neuron], middle - down - slack)
        shape = enclosure.centre.shape
        return _with_ends(enclosure, low.reshape(shape), high.reshape(shape))

    def after(self, trace: Trace, step: Step, result: Bounded, radius: Tensor) -> None:
        """Nothing to note."""


class _Screened:
    """A radius is claimed of each neuron, tested by the sketch, and where the test fails replaced by the exact row sum.

    What is claimed depends on the pilot samples alone, and the outcome is the claim whether the test or the exact row sum confirms
    it; so all slopes and symbols are independent of the samples that test (theorem 19).
    """

    def __init__(self, costs: _Costs, effort: float) -> None:
        self._costs, self._left = costs, effort - PILOT - SAMPLES
        self._sketch = Sketch(costs.graph, PILOT, SAMPLES, FAILURE)

    def before(self, trace: Trace, name: str, enclosure: Enclosure, *, rectified: bool) -> Enclosure:
        """Claim, test, settle."""
        radius = enclosure.radius
        claim = _claim(enclosure, self._sketch.estimate(name), rectified=rectified)
        open_ = claim < radius
        failed = open_ & ~(self._sketch.bound(name) <= claim)
        places = failed.flatten(1).nonzero()
        self._left -= len(places) * self._costs.of(name)
        if self._left < 0:
            raise _TooMuchWork
        settled = torch.where(open_, claim, radius).flatten(1)
        if len(places):
            exact = torch.maximum(*_row_sums(trace, name, enclosure, places, symmetric=True))
            image, neuron = places[:, 0], places[:, 1]
            claimed = claim.flatten(1)[image, neuron]
            settled[image, neuron] = torch.where(exact <= claimed, claimed, torch.fmin(radius.flatten(1)[image, neuron], exact))
        return Enclosure(enclosure.centre, settled.reshape(radius.shape))

    def after(self, trace: Trace, step: Step, result: Bounded, radius: Tensor) -> None:
        """Carry the sketch on."""
        self._sketch.step(step.node, step.operands, radius, step.error * _OWN, result.carried, step.lines)


class _Predicted:
    """Believes the estimates of a small sketch, and counts what they say that settling will cost."""

    def __init__(self, costs: _Costs, effort: float) -> None:
        self._costs, self._left = costs, effort
        self._sketch = Sketch(costs.graph, _PREDICT, 0, FAILURE)
        _, factor = rank_and_factor(SAMPLES, FAILURE / 2**18)
        self._typical = 2 * factor

    def before(self, trace: Trace, name: str, enclosure: Enclosure, *, rectified: bool) -> Enclosure:
        """Believe the estimate."""
        estimate = self._sketch.estimate(name)
        if rectified:
            doubts = (torch.fmin(enclosure.radius, self._typical * estimate) > enclosure.centre.abs()).sum()
            self._left -= float(doubts) * self._costs.of(name)
            if self._left < 0:
                raise _TooMuchWork
        claim = torch.fmin(_claim(enclosure, estimate, rectified=False), torch.maximum(estimate, enclosure.centre.abs()))
        return Enclosure(enclosure.centre, torch.fmin(claim, enclosure.radius))

    def after(self, trace: Trace, step: Step, result: Bounded, radius: Tensor) -> None:
        """Carry the sketch on."""
        self._sketch.step(step.node, step.operands, radius, step.error, result.carried, step.lines)


def _claim(enclosure: Enclosure, estimate: Tensor, *, rectified: bool) -> Tensor:
    """A radius that the test will usually confirm, and that fixes the sign of a rectified neuron where that seems possible."""
    size = enclosure.centre.abs()
    claim = torch.maximum(_CLAIM * estimate, size / 4)
    return torch.fmin(torch.fmin(claim, size) if rectified else claim, enclosure.radius)


def _doubtful(enclosure: Enclosure) -> Tensor:
    low, high = enclosure.ends()
    return ~((low >= 0) | (high <= 0))


def _row_sums(trace: Trace, name: str, enclosure: Enclosure, places: Tensor, *, symmetric: bool) -> tuple[Tensor, Tensor]:
    """Bounds of the deviations of single neurons, upwards and downwards, from functionals that are pulled back to the input."""
    size = enclosure.centre[0].numel()
    ups, downs = [], []
    for some in places.split(max(1, ROW_BYTES // (8 * max(size, trace.graph.largest)))):
        image, neuron = some[:, 0], some[:, 1]
        g = torch.zeros(len(some), size, dtype=torch.float64, device=places.device)
        g[torch.arange(len(some)), neuron] = 1.0
        g = g.reshape(-1, *enclosure.centre.shape[1:])
        up, down = pull_back_both(trace, name, g, image) if symmetric else (pull_back(trace, name, s, image) for s in (g, -g))
        ups.append(up)
        downs.append(down)
    return torch.cat(ups), torch.cat(downs)


def _with_ends(enclosure: Enclosure, low: Tensor, high: Tensor) -> Enclosure:
    reach = torch.maximum(high - enclosure.centre, enclosure.centre - low).clamp_min(0)
    radius = torch.minimum(enclosure.radius, add_up(reach, (enclosure.centre.abs() + reach) * 2.0**-51))
    return replace(enclosure, radius=radius, low=low, high=high)
