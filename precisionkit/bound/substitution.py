"""Backward substitution: correlations kept from every rounding to the gaps of the logits (``--method zonotope``).

Every rounded coordinate is one noise symbol: at each node a run's stored value differs from what the node makes of its stored
operands by at most the node's local error.  A functional of a tensor's deviation is pulled back node by node, exactly through
affine operators and between enclosing lines through the others, and collects ``sum |g| r`` on the way.  That is the radius of a
zonotope whose generators are never formed, with separate upper and lower lines (CROWN).  Proofs: proofs/bounds.md, theorems 16
to 18.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from precisionkit.bound.interval import interval, stored
from precisionkit.bound.result import LogitBounds
from precisionkit.enclosure import Bounded, Enclosure
from precisionkit.evaluate import Program
from precisionkit.graph import Graph, Node
from precisionkit.ops.adjoint import Lines
from precisionkit.outward import TINY, U, add_up, mul_up

EFFORT = 3000.0
"""Default limit of the work for one input, in forward passes."""
_ROW_BYTES = 2**23
"""Largest size aimed at for the rows of one node."""


@dataclass(frozen=True)
class Step:
    """What backward substitution needs of one node.

    Attributes
    ----------
    operands : tuple
        Enclosures of activations, constants, None.
    error : (batch, ...) tensor
        Local error, and the rounding of pulling functionals back through this node.
    lines : Lines or None
        For a nonlinear operator.
    underflow : (batch,) tensor
        What products below the normal range can lose when functionals are pulled back through this node.
    """

    node: Node
    operands: tuple[Any, ...]
    error: Tensor
    lines: Lines | None
    underflow: Tensor


@dataclass
class Trace:
    """The nodes bounded so far, in order."""

    graph: Graph
    steps: list[Step] = field(default_factory=list)
    fan_out: dict[str, int] = field(default_factory=dict)

    @property
    def underflow(self) -> Tensor:
        """Of all steps; (batch,)."""
        return add_up(torch.zeros_like(self.steps[0].underflow), *(step.underflow for step in self.steps))


def pull_back(trace: Trace, name: str, g: Tensor, rows: Tensor) -> Tensor:
    """Upper bounds of ``sum g * (run - centre)`` over every run, for functionals of one node's stored result.

    Parameters
    ----------
    name : str
        The node.
    g : (rows, ...) tensor
        One functional a row.
    rows : (rows,) int64 tensor
        The image that each belongs to.
    """
    functionals: dict[str, Tensor] = {name: g}
    total = torch.zeros(g.shape[0], dtype=g.dtype, device=g.device)
    terms = 0
    for step in reversed(trace.steps):
        g_here = functionals.pop(step.node.name, None)
        if g_here is None:
            continue
        total += (g_here.abs() * step.error[rows]).flatten(1).sum(1)
        terms += g_here[0].numel() + 2
        if step.lines is not None:
            cost, g_here = _through_lines(step.lines, g_here, rows, step.operands[0])
            total += cost
            terms += 2 * g_here[0].numel() + 4
            pulled: tuple[Tensor | None, ...] = (g_here,)
        elif all(operand == trace.graph.input for operand in step.node.operands if operand not in trace.graph.constants):
            continue  # every run starts from the same input
        else:
            assert step.node.record.transpose is not None
            pulled = step.node.record.transpose(step.node.attributes, g_here, rows, *step.operands)
        for operand, part in zip(step.node.operands, pulled, strict=True):
            if operand is None or part is None or operand == trace.graph.input:
                continue
            functionals[operand] = functionals[operand] + part if operand in functionals else part
    return mul_up(add_up(total, terms * TINY, trace.underflow[rows]), 1 + 4 * terms * U)


def _through_lines(lines: Lines, g: Tensor, rows: Tensor, operand: Enclosure) -> tuple[Tensor, Tensor]:
    """``g f(d) <= g+ (upper S d + above) - g- (lower S d - below)`` with g = g+ - g-."""
    positive, negative = g.clamp_min(0), (-g).clamp_min(0)
    cost = (positive * lines.above[rows] + negative * lines.below[rows]).flatten(1).sum(1)
    scaled = positive * lines.upper[rows] - negative * lines.lower[rows]
    if lines.chosen is not None:
        flat = torch.zeros((g.shape[0], *operand.centre.shape[1:]), dtype=g.dtype, device=g.device).flatten(2)
        scaled = flat.scatter_add(2, lines.chosen[rows].flatten(2), scaled.flatten(2)).reshape(g.shape[0], *operand.centre.shape[1:])
    return cost, scaled


def substitution(program: Program, inputs: Tensor, classes: Tensor | None = None, effort: float = EFFORT) -> LogitBounds:
    """Bound the logits and the gaps of a batch by backward substitution; other arguments and result as for `interval`.

    Parameters
    ----------
    effort : float
        Limit of the work for one input, in forward passes: each neuron whose sign the interval method leaves in doubt costs two
        passes back to the input.  An input that would cost more keeps the bounds of the interval method.

    Notes
    -----
    Never worse than `interval`.  Enclosures start as intervals from the operands' enclosures; a neuron in front of a ReLU whose
    sign they leave in doubt gets the exact row sums of its own functional and of its negative.
    """
    work = _Work(program.graph, torch.zeros(inputs.shape[0], dtype=torch.float64, device=inputs.device))
    base = interval(program, inputs, classes, observe=work.count)
    within = (work.passes <= effort).nonzero().flatten()
    if not len(within):
        return base
    with torch.no_grad(), torch.backends.cudnn.flags(enabled=False):
        sharper = _substitute(program, inputs[within], base.classes[within])
    return base.sharpened(within, sharper)


class _Work:
    """Counts what settling the doubtful neurons would cost, in forward passes, from the interval method's enclosures."""

    def __init__(self, graph: Graph, passes: Tensor) -> None:
        self._graph, self.passes = graph, passes
        self._before: dict[str, float] = {}
        self._rectified = {node.operands[0] for node in graph.nodes if node.operator == "relu"}
        total = 0.0
        for node in graph.nodes:
            total += graph.multiplications(node)
            self._before[node.name] = total
        self._total = max(total, 1.0)

    def count(self, node: Node, enclosure: Enclosure) -> None:
        """Add the cost of the neurons of one node that a ReLU follows."""
        if node.name in self._rectified:
            low, high = enclosure.ends()
            doubtful = (~((low >= 0) | (high <= 0))).flatten(1).sum(1)
            self.passes = self.passes + 2 * doubtful * (self._before[node.name] / self._total)


def _substitute(program: Program, inputs: Tensor, classes: Tensor) -> LogitBounds:
    graph = program.graph
    constants = {name: value.double() for name, value in program.constants.items()}
    values: dict[str, Enclosure] = {graph.input: Enclosure.exact(inputs.double())}
    overflow = torch.full((inputs.shape[0],), -1, dtype=torch.int64, device=inputs.device)
    certain_overflow = overflow.clone()
    trace = Trace(graph, fan_out={name: sum(n.operands.count(name) for n in graph.nodes) for name in graph.names})
    for place, node in enumerate(graph.nodes):
        if node.operator == "relu" and node.operands[0] is not None:
            values[node.operands[0]] = _settle(trace, node.operands[0], values[node.operands[0]])
        operands = tuple(None if name is None else values.get(name, constants.get(name)) for name in node.operands)
        result = node.record.error_rule(program.arithmetic, node.attributes, *operands)
        radius, local, excluded, certain = stored(program.arithmetic, result)
        certain_overflow = torch.where((overflow < 0) & certain & (certain_overflow < 0), place, certain_overflow)
        overflow = torch.where((overflow < 0) & ~excluded, place, overflow)
        values[node.name] = Enclosure(result.centre, radius)
        trace.steps.append(_step(trace, node, operands, result, local))
        if node.name == graph.output:
            break
    logits = values[graph.output]
    return LogitBounds(logits.centre, logits.radius, classes, _gap_errors(trace, logits, classes), overflow, certain_overflow)


def _step(trace: Trace, node: Node, operands: tuple[Any, ...], result: Bounded, local: Tensor) -> Step:
    """Charge the binary64 rounding of pulling back to the node's local error.

    A pulled-back functional ``g' = W^T g + delta`` with ``|delta| <= k u |W|^T |g|`` loses ``delta d``, at most
    ``k u |g| |W| e = k u |g| carried``; k counts the roundings of one entry, and of adding functionals that meet.
    """
    record = node.record
    meets = max((trace.fan_out[name] for name in node.operands if name in trace.fan_out), default=1)
    if record.relax is not None:
        lines = record.relax(node.attributes, operands[0])
        # overlapping windows add up to as many functionals as a window has entries
        area = 1 if lines.chosen is None else operands[0].centre[0, 0].numel()
        roundings = 4 + area + meets
        return Step(node, operands, add_up(local, mul_up(lines.reach, roundings * U)), lines, _underflow(operands, roundings))
    terms = record.transposed_terms(node.attributes, *operands) + meets + 1
    error = add_up(local, mul_up(result.carried, terms * U))
    if result.second_order is not None:
        error = add_up(error, result.second_order.expand_as(error))
    return Step(node, operands, error, None, _underflow(operands, terms))


def _underflow(operands: tuple[Any, ...], roundings: int) -> Tensor:
    """``k eta sum e`` over the operands, with twice eta for the sum's own rounding."""
    radii = [operand.radius.flatten(1).sum(1) for operand in operands if isinstance(operand, Enclosure)]
    return mul_up(add_up(torch.zeros_like(radii[0]), *radii), roundings * TINY)


def _settle(trace: Trace, name: str, enclosure: Enclosure) -> Enclosure:
    """Sharpen the ends of the neurons whose sign is in doubt."""
    if not trace.steps:
        return enclosure
    low, high = (end.clone() for end in enclosure.ends())
    doubt = ~((low >= 0) | (high <= 0))
    places = doubt.flatten(1).nonzero()
    if not len(places):
        return enclosure
    size = low[0].numel()
    flat_low, flat_high, centre = low.flatten(1), high.flatten(1), enclosure.centre.flatten(1)
    for some in places.split(max(1, _ROW_BYTES // (8 * max(size, trace.graph.largest)))):
        image, neuron = some[:, 0], some[:, 1]
        g = torch.zeros(len(some), size, dtype=torch.float64, device=low.device)
        g[torch.arange(len(some)), neuron] = 1.0
        g = g.reshape(-1, *low.shape[1:])
        middle = centre[image, neuron]
        up, down = pull_back(trace, name, g, image), pull_back(trace, name, -g, image)
        slack = (middle.abs() + up + down) * 2.0**-51
        flat_high[image, neuron] = torch.minimum(flat_high[image, neuron], middle + up + slack)
        flat_low[image, neuron] = torch.maximum(flat_low[image, neuron], middle - down - slack)
    low, high = flat_low.reshape(low.shape), flat_high.reshape(high.shape)
    reach = torch.maximum(high - enclosure.centre, enclosure.centre - low).clamp_min(0)
    radius = torch.minimum(enclosure.radius, add_up(reach, (enclosure.centre.abs() + reach) * 2.0**-51))
    return replace(enclosure, radius=radius, low=low, high=high)


def _gap_errors(trace: Trace, logits: Enclosure, classes: Tensor) -> Tensor:
    """Bound the gaps of each image's class, downwards and upwards."""
    batch, count = logits.centre.shape
    signs = torch.eye(count, dtype=torch.float64, device=logits.centre.device)
    g = (signs[classes][:, None, :] - signs[None, :, :]).flatten(0, 1)
    rows = torch.arange(batch, device=logits.centre.device).repeat_interleave(count)
    found = []
    for some, image in zip(g.split(chunk := max(1, _ROW_BYTES // (8 * trace.graph.largest))), rows.split(chunk), strict=True):
        both = torch.cat([some, -some])
        bounds = pull_back(trace, trace.graph.output, both, torch.cat([image, image]))
        found.append(torch.maximum(*bounds.chunk(2)))
    errors = torch.cat(found).reshape(batch, count)
    difference = (logits.centre.gather(1, classes[:, None]) - logits.centre).abs()
    return add_up(errors, mul_up(difference, 2 * U))
