"""Bounding node by node, with a strategy that sharpens enclosures in front of nonlinear operators on the way."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor

from precisionkit.bound.backward import gap_errors, pull_back, pull_back_both, rows_at_once
from precisionkit.bound.interval import stored
from precisionkit.bound.pulling import Pulling, pulling_for
from precisionkit.bound.result import LogitBounds
from precisionkit.bound.trace import Step, Trace, make_step
from precisionkit.enclosure import Bounded, Enclosure
from precisionkit.evaluate import Program
from precisionkit.graph import Graph, Node
from precisionkit.outward import add_up

NEAREST = 8
"""Classes whose gaps are always pulled back, where there are many."""


def has_many_classes(graph: Graph) -> bool:
    """Whether radii of the logits are sharpened first, so that not every gap has to be pulled back."""
    return graph.classes > 4 * NEAREST


class GivenUp(Exception):  # noqa: N818 - no error: it ends one way of bounding, and another remains
    """The work on an input ends without a bound; the message says why."""


class Costs:
    """What pulling a functional back from each node to the input costs, in forward passes."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.kinks: dict[str, tuple[float, ...]] = {}
        for node in graph.nodes:
            for name in node.operands:
                if name is not None and (kinks := node.record.kinks(node.attributes)):
                    self.kinks[name] = tuple(dict.fromkeys((*self.kinks.get(name, ()), *kinks)))
        total, before = 0.0, {}
        for node in graph.nodes:
            total += graph.multiplications(node)
            before[node.name] = total
        self._of = {name: cost / max(total, 1.0) for name, cost in before.items()}

    def of(self, name: str) -> float:
        """Of one functional of one node."""
        return self._of.get(name, 0.0)


class Strategy(Protocol):
    """How enclosures in front of nonlinear operators are sharpened on the way."""

    def before(self, trace: Trace, name: str, enclosure: Enclosure, kinks: tuple[float, ...]) -> Enclosure:
        """Sharpen the enclosure of a node in front of a nonlinear operator, whose slope jumps at `kinks`."""

    def after(self, trace: Trace, step: Step, result: Bounded, radius: Tensor) -> None:
        """Take note of a node."""


def bounds(program: Program, inputs: Tensor, classes: Tensor, strategy: Strategy, deviate: float | None = None) -> LogitBounds:
    """Bound node by node, then the gaps; `deviate` as for `pull_back`."""
    trace, logits, overflow, certain_overflow = walk(program, inputs, strategy)
    nearest = None
    if has_many_classes(program.graph):
        nearest, logits = NEAREST, strategy.before(trace, program.graph.output, logits, ())
    return LogitBounds.of(logits, classes, gap_errors(trace, logits, classes, deviate, nearest), overflow, certain_overflow)


def walk(program: Program, inputs: Tensor, strategy: Strategy, pulling: Pulling | None = None) -> tuple[Trace, Enclosure, Tensor, Tensor]:
    """Bound node by node: the trace, the logits, and the places of the first possible and the first certain overflow.

    `pulling` is the format in which functionals will be pulled back, by default that of `pulling_for`.
    """
    graph = program.graph
    constants = {name: value.double() for name, value in program.constants.items()}
    values: dict[str, Enclosure] = {graph.input: Enclosure.exact(inputs.double())}
    overflow = torch.full((inputs.shape[0],), -1, dtype=torch.int64, device=inputs.device)
    certain_overflow = overflow.clone()
    done: set[tuple[str, tuple[float, ...]]] = set()
    trace = Trace(
        graph, pulling or pulling_for(program), fan_out={name: sum(n.operands.count(name) for n in graph.nodes) for name in graph.names}
    )
    for place, node in enumerate(graph.nodes):
        operands = tuple(None if name is None else values.get(name, constants.get(name)) for name in node.operands)
        for name, kinks in sharpened_for(graph, node, operands):
            if (name, kinks) not in done:
                done.add((name, kinks))
                values[name] = strategy.before(trace, name, values[name], kinks)
        operands = tuple(None if name is None else values.get(name, constants.get(name)) for name in node.operands)
        arithmetic = program.arithmetic_of(node)
        result = node.record.error_rule(arithmetic, node.attributes, *operands)
        store = stored(arithmetic, result, unstored=node.name in program.unstored)
        certain_overflow = torch.where((overflow < 0) & store.certain & (certain_overflow < 0), place, certain_overflow)
        overflow = torch.where((overflow < 0) & ~store.excluded, place, overflow)
        values[node.name] = Enclosure(result.centre, store.radius)
        step = make_step(trace, node, operands, result, store)
        trace.add(step)
        strategy.after(trace, step, result, store.radius)
        if node.name == graph.output:
            break
    return trace, values[graph.output], overflow, certain_overflow


def sharpened_for(graph: Graph, node: Node, operands: tuple[Any, ...]) -> list[tuple[str, tuple[float, ...]]]:
    """The operands whose enclosures a node needs sharp, each with the places where its slope jumps."""
    kinks = node.record.kinks(node.attributes)
    names = [node.operands[place] for place in node.record.curved(node.attributes, *operands)]
    return [(name, kinks) for name in names if name is not None and name != graph.input]


def bends(graph: Graph) -> bool:
    """Whether some operator is curved between its kinks, so that enclosures matter that no neuron's doubt tells of."""
    return any(
        node.record.relax is None and not kinks for node in graph.nodes for _, kinks in sharpened_for(graph, node, _stand_ins(graph, node))
    )


def _stand_ins(graph: Graph, node: Node) -> tuple[Any, ...]:
    """Operands of which it matters alone whether they are activations."""
    point = Enclosure.exact(torch.zeros(1, 1, 1, device="cpu"))
    return tuple(None if name is None or name in graph.constants else point for name in node.operands)


def relied_on(graph: Graph) -> int:
    """Number of coordinates whose enclosures are sharpened, each as often as that is done."""
    shapes = {node.name: math.prod(node.shape) for node in graph.nodes}
    found = {pair for node in graph.nodes for pair in sharpened_for(graph, node, _stand_ins(graph, node))}
    if has_many_classes(graph):
        found.add((graph.output, ()))
    return sum(shapes[name] for name, _ in found)


def distance(enclosure: Enclosure, kinks: tuple[float, ...]) -> Tensor:
    """How far the centre is from the nearest kink; infinite without any.  Rounded down."""
    nearest = torch.full_like(enclosure.centre, torch.inf)
    for kink in kinks:
        nearest = torch.minimum(nearest, (enclosure.centre - kink).abs())
    return nearest if set(kinks) <= {0.0} else nearest * (1 - 2.0**-50)


def doubtful(enclosure: Enclosure, kinks: tuple[float, ...]) -> Tensor:
    """Where the enclosure has a kink inside."""
    low, high = enclosure.ends()
    inside = torch.zeros_like(enclosure.centre, dtype=torch.bool)
    for kink in kinks:
        inside = inside | ~((low >= kink) | (high <= kink))
    return inside


def row_sums(
    trace: Trace, name: str, enclosure: Enclosure, places: Tensor, *, symmetric: bool, deviate: float | None = None
) -> tuple[Tensor, Tensor]:
    """Bounds of the deviations of single neurons, upwards and downwards, from functionals that are pulled back to the input."""
    size = enclosure.centre[0].numel()
    ups, downs = [], []
    for some in places.split(rows_at_once(trace)):
        image, neuron = some[:, 0], some[:, 1]
        g = torch.zeros(len(some), size, dtype=trace.pulling.dtype, device=places.device)
        g[torch.arange(len(some), device=places.device), neuron] = 1.0
        g = g.reshape(-1, *enclosure.centre.shape[1:])
        up, down = (
            pull_back_both(trace, name, g, image, deviate)
            if symmetric
            else (pull_back(trace, name, sign, image, deviate) for sign in (g, -g))
        )
        ups.append(up)
        downs.append(down)
    return torch.cat(ups), torch.cat(downs)


def sharpened(enclosure: Enclosure, places: Tensor, up: Tensor, down: Tensor) -> Enclosure:
    """Intersect the enclosures of single neurons with the bounds of their deviations, upwards and downwards."""
    low, high = (end.flatten(1).clone() for end in enclosure.ends())
    image, neuron = places[:, 0], places[:, 1]
    middle = enclosure.centre.flatten(1)[image, neuron]
    slack = (middle.abs() + up + down) * 2.0**-51
    high[image, neuron] = torch.fmin(high[image, neuron], middle + up + slack)  # a NaN leaves what was there
    low[image, neuron] = torch.fmax(low[image, neuron], middle - down - slack)
    shape = enclosure.centre.shape
    return _with_ends(enclosure, low.reshape(shape), high.reshape(shape))


def _with_ends(enclosure: Enclosure, low: Tensor, high: Tensor) -> Enclosure:
    reach = torch.maximum(high - enclosure.centre, enclosure.centre - low).clamp_min(0)
    radius = torch.fmin(enclosure.radius, add_up(reach, (enclosure.centre.abs() + reach) * 2.0**-51))
    return replace(enclosure, radius=radius, low=low, high=high)
