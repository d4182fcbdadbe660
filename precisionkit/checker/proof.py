"""Derive the least gaps of a program: enclosures forward, functionals backward.

A *run* is any execution that a `Rule` allows.  For a class c and every other class j, ``z_c - z_j`` of every run is at least the gap of
the computed centres minus what the run's deviations can take from it; if that is positive for every j, every run predicts c (theorem 13).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from precisionkit.checker.operators import OPERATORS, Ball, Exact, Result, Rows, Rule
from precisionkit.checker.rounding import Floats, U, add_up, mul_up, weighted_up
from precisionkit.checker.shapes import Shape, require, require_small

METHODS = ("interval", "substitution", "settled")
"""Cheapest first: radii node by node; gaps pulled back to the input; the same, with the neurons in doubt pulled back before."""
_ROW_ENTRIES = 2**21
"""Entries aimed at for the functionals of one node."""
_ENTRIES, _MOST_INPUTS = 2**23, 32
"""Entries aimed at for a batch, and the largest one."""


@dataclass(frozen=True)
class Node:
    """One operator: its operands are the input, nodes before it, and constants (None for an absent bias)."""

    name: str
    operator: str
    operands: tuple[str | None, ...]
    attributes: Mapping[str, Any]


@dataclass(frozen=True)
class Network:
    """A classifier; the last node gives the logits."""

    input: str
    nodes: tuple[Node, ...]
    constants: Mapping[str, NDArray[Any]]

    def rounded(self, rule: Rule) -> Network:
        """With its constants in the storage format.

        Raises
        ------
        OverflowError
            One lies beyond its range.
        """
        return Network(self.input, self.nodes, {name: rule.storage.round(value) for name, value in self.constants.items()})

    def shapes(self, inputs: Shape) -> dict[str, Shape]:
        """Shapes of the input and of every node, of one input; the last has one entry a class.

        Raises
        ------
        ValueError
            They do not fit; the node is named.
        """
        known: dict[str, Shape] = {self.input: inputs} | {name: value.shape for name, value in self.constants.items()}
        for node in self.nodes:
            try:
                found = OPERATORS[node.operator].shape(node.attributes, *(None if n is None else known[n] for n in node.operands))
                require_small(found)
            except ValueError as error:
                raise ValueError(f"at node '{node.name}', {error}") from None
            known[node.name] = found
        last = known[self.nodes[-1].name]
        require(len(last) == 1 and last[0] >= 2, f"the last node gives a tensor of the shape {last}, and no number for each class")
        return {name: known[name] for name in (self.input, *(node.name for node in self.nodes))}

    def batch(self, inputs: Shape) -> int:
        """How many inputs to take at once, so that the memory is bounded; for networks whose shapes fit."""
        widest = max(map(math.prod, self.shapes(inputs).values()))
        return max(1, min(_MOST_INPUTS, _ENTRIES // (widest * max(map(self._window, self.nodes)))))

    def _window(self, node: Node) -> int:
        """How many times a sliding window takes an entry of an image, at most."""
        weight = self.constants[node.operands[1]].shape[2:] if node.operator == "conv2d" and node.operands[1] else ()
        return math.prod(node.attributes.get("kernel_size", weight))


@dataclass(frozen=True)
class _Trace:
    """What is known of every node for one batch, filled node by node; `in_range` tells for which inputs overflow is excluded."""

    network: Network
    in_range: NDArray[np.bool_]
    balls: dict[str, Ball]
    results: dict[str, Result] = field(default_factory=dict)
    local: dict[str, Floats] = field(default_factory=dict)

    def operands(self, node: Node) -> list[Any]:
        """Balls, constants, and None for an absent bias."""
        return [None if name is None else self._known(name) for name in node.operands]

    def _known(self, name: str) -> Any:
        return self.balls[name] if name in self.balls else self.network.constants[name]

    @property
    def last(self) -> str:
        """Name of the node that gives the logits."""
        return self.network.nodes[-1].name

    @property
    def rows(self) -> int:
        """How many functionals to pull back at once."""
        return max(1, _ROW_ENTRIES // max(math.prod(ball.mid.shape[1:]) for ball in self.balls.values()))


def least_gaps(network: Network, rule: Rule, inputs: NDArray[Any], classes: NDArray[np.int64], method: str) -> tuple[Floats, Floats]:
    """Lower bounds of the gaps between a class and all others, in every run of the program.

    Parameters
    ----------
    network : Network
        With constants of the storage format, see `Network.rounded`.
    inputs : (batch, ...) array
        Of any format: they are rounded to the storage format here.
    classes : (batch,) int array
    method : str
        One of `METHODS`.

    Returns
    -------
    least : (batch,) array
        The least of the lower bounds; NaN or -inf where nothing is proved.
    scale : (batch,) array
        Magnitude of the numbers that it is a difference of.

    Raises
    ------
    OverflowError
        An input lies beyond the range of the format.
    ValueError
        Shapes do not fit, or there is no such method.
    """
    network.shapes(inputs.shape[1:])
    require(method in METHODS, f"there is no method '{method}'")
    with np.errstate(all="ignore"):
        trace = _forward(network, rule, rule.storage.round(inputs), settle=method == "settled")
        logits, row = trace.balls[trace.last], np.arange(len(classes))
        gaps = logits.mid[row, classes][:, None] - logits.mid
        apart = add_up(logits.down[row, classes][:, None], logits.up)
        taken = apart if method == "interval" else _pulled_gaps(trace, classes)
        lower = np.nextafter(np.nextafter(gaps, -np.inf) - taken, -np.inf)
        lower[row, classes] = np.inf
        rival = lower.argmin(axis=1)  # which takes a NaN before everything
        least = np.where(trace.in_range, lower[row, rival], -np.inf)
        return least, np.abs(gaps[row, rival]) + taken[row, rival]


def _forward(network: Network, rule: Rule, inputs: Floats, *, settle: bool) -> _Trace:
    """Enclosures of every node, from its operands' (theorem 14); with `settle`, sharper ones in front of ReLU (theorem 18)."""
    zero = np.zeros_like(inputs)
    trace = _Trace(network, np.ones(len(inputs), dtype=np.bool_), {network.input: Ball(inputs, zero, zero)})
    for node in network.nodes:
        first = node.operands[0]
        if settle and node.operator == "relu" and first is not None and first != network.input:
            trace.balls[first] = _settled(trace, first)
        result = OPERATORS[node.operator].forward(rule, node.attributes, *trace.operands(node))
        trace.results[node.name] = result
        trace.balls[node.name], trace.local[node.name], inside = _stored(rule, result)
        np.logical_and(trace.in_range, inside.reshape(len(inputs), -1).all(axis=1), out=trace.in_range)
    return trace


def _stored(rule: Rule, result: Result) -> tuple[Ball, Floats, NDArray[np.bool_]]:
    """After the store: the enclosure, the operator's local errors, and where overflow is excluded (theorems 1 and 14)."""
    if isinstance(result, Exact):
        ball = result.ball
        return ball, np.zeros_like(ball.mid), np.isfinite(ball.mid) & np.isfinite(ball.up) & np.isfinite(ball.down)
    magnitude = add_up(np.abs(result.mid), result.carried, result.fresh)
    local = result.fresh if result.form == rule.storage else add_up(result.fresh, rule.storage.store_error(magnitude))
    radius = add_up(result.carried, local)
    inside = (magnitude < rule.storage.overflow_threshold) & (result.peak <= result.form.largest)
    return Ball(result.mid, radius, radius), local, np.asarray(inside)


def _settled(trace: _Trace, name: str) -> Ball:
    """Pull every neuron whose sign is open back to the input, in both directions."""
    ball = trace.balls[name]
    up, down = ball.up.copy(), ball.down.copy()
    doubtful = np.nonzero((ball.mid < ball.down) & (ball.mid > -ball.up))
    for first in range(0, len(doubtful[0]), trace.rows):
        places = tuple(part[first : first + trace.rows] for part in doubtful)
        for sign, bound in ((1.0, up), (-1.0, down)):
            g = np.zeros((len(places[0]), *ball.mid.shape[1:]))
            g[(np.arange(len(g)), *places[1:])] = sign
            bound[places] = np.fmin(bound[places], _pull_back(trace, name, g, places[0]))
    return Ball(ball.mid, up, down)


def _pulled_gaps(trace: _Trace, classes: NDArray[np.int64]) -> Floats:
    """Upper bounds of ``(d_j - d_c)`` of the logits' deviations d, for every class j.  (batch, classes)."""
    count = trace.balls[trace.last].mid.shape[1]
    taken = np.zeros((len(classes), count))
    for first in range(0, taken.size, trace.rows):
        images, others = np.divmod(np.arange(first, min(first + trace.rows, taken.size)), count)
        g, row = np.zeros((len(images), count)), np.arange(len(images))
        g[row, others] = 1.0
        g[row, classes[images]] -= 1.0
        taken[images, others] = _pull_back(trace, trace.last, g, images)
    return taken


def _pull_back(trace: _Trace, name: str, g: Floats, rows: Rows) -> Floats:
    """Upper bounds of ``sum g (run - mid)`` for functionals of one node, over every run (theorems 16 and 17).

    Each node on the way costs ``sum |g| local``; what rounding the functionals loses is paid for at once, with the radii.
    """
    total = np.zeros(len(g))
    functionals = {name: g}
    for node in reversed(trace.network.nodes):
        here = functionals.pop(node.name, None)
        if here is None:
            continue
        total = add_up(total, weighted_up(np.abs(here), trace.local[node.name][rows]))
        operator = OPERATORS[node.operator]
        activations = node.operands[: operator.activations]
        if set(activations) == {trace.network.input}:
            continue  # every run starts from the same input
        pulled, lost = operator.pull(node.attributes, here, rows, trace.results[node.name], *trace.operands(node))
        total = add_up(total, lost)
        for operand, part in zip(activations, pulled, strict=True):
            if operand is None or operand == trace.network.input:
                continue
            if operand in functionals:
                part = functionals[operand] + part
                meeting = weighted_up(np.abs(part), trace.balls[operand].radius[rows])
                total = add_up(total, mul_up(meeting, 2 * U))  # the sum is rounded
            functionals[operand] = part
    return total
