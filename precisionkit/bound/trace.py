"""What is kept of every node while a program is bounded: local errors, lines, and how they weigh when functionals are pulled back.

Proofs: proofs/bounds.md, theorems 16 and 17.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from precisionkit.bound.interval import Stored
from precisionkit.bound.pulling import Errors, NarrowLines, Pulling, Weights
from precisionkit.enclosure import Bounded, Enclosure
from precisionkit.graph import Graph, Node
from precisionkit.ops.adjoint import Lines
from precisionkit.outward import add_up, mul_up

_TINIEST = 2.0**-100
"""Lines are not closer together than this, unless they are the same."""


@dataclass(frozen=True)
class Step:
    """What backward substitution needs of one node.

    Attributes
    ----------
    operands : tuple
        Enclosures of activations, constants, None.
    errors : Errors
        Local errors, and the rounding of pulling functionals back through this node.
    charge : tensor
        That rounding alone.
    lines : Lines or None
        For a nonlinear operator.
    underflow : (batch,) tensor
        What products below the normal range can lose when functionals are pulled back through this node.
    """

    node: Node
    operands: tuple[Any, ...]
    errors: Errors
    charge: Tensor
    lines: Lines | None
    underflow: Tensor


@dataclass(frozen=True)
class Prepared:
    """What pulling back needs of a node, made when it is first used.

    Attributes
    ----------
    absorbing : Errors
        The node's local errors, with those of the operands that it absorbs.
    weights : Weights
        The same in the format of pulling back.
    lines : NarrowLines or None
        The lines in that format.
    """

    absorbing: Errors
    weights: Weights
    lines: NarrowLines | None


@dataclass
class Trace:
    """The nodes bounded so far, in order.

    Attributes
    ----------
    underflow : (batch,) tensor or None
        Of all steps; None before the first.
    terms : int
        More than the products and sums of one functional's way back.
    absorbs : bool
        Local errors of a linear operand that a pointwise node alone uses are counted with that node; set before anything is pulled back.
    """

    graph: Graph
    pulling: Pulling
    steps: dict[str, Step] = field(default_factory=dict)
    fan_out: dict[str, int] = field(default_factory=dict)
    underflow: Tensor | None = None
    terms: int = 0
    absorbs: bool = True
    _prepared: dict[str, Prepared] = field(default_factory=dict)

    def prepared(self) -> dict[str, Prepared]:
        """Of all steps."""
        for name, step in self.steps.items():
            if name not in self._prepared:
                self._prepared[name] = _prepare(self, step)
        return self._prepared

    def add(self, step: Step) -> None:
        """Add the next node."""
        self.steps[step.node.name] = step
        self.underflow = step.underflow if self.underflow is None else add_up(self.underflow, step.underflow)
        self.terms += 8 * (step.errors.error.numel() + sum(o.radius.numel() for o in step.operands if isinstance(o, Enclosure)))

    @property
    def most_underflow(self) -> float:
        """More than any functional that is pulled back loses below the normal range, for a batch of one; 0 before the first node."""
        return 0.0 if self.underflow is None else 2 * (float(self.underflow.amax()) + self.terms * self.pulling.tiny)


def make_step(trace: Trace, node: Node, operands: tuple[Any, ...], result: Bounded, store: Stored) -> Step:
    """Charge the rounding of pulling back to the node's local error, and absorb operands.

    A pulled-back functional ``g' = W^T g + delta`` with ``|delta| <= k v |W|^T |g|`` loses ``delta d``, at most
    ``k v |g| |W| e = k v |g| carried``; k counts the roundings of one entry, of adding functionals that meet, of a constant and of
    the result to the format of pulling back.
    """
    record, pulling = node.record, trace.pulling
    meets = max((trace.fan_out[name] for name in node.operands if name in trace.fan_out), default=1)
    lines: Lines | None = None
    if record.relax is not None:
        lines = _not_tiny(record.relax(node.attributes, operands[0]))
        # every window may select the same entry
        area = 1 if lines.chosen is None else result.centre[0, 0].numel()
        roundings = 6 + area + meets
        charge = mul_up(lines.reach, roundings * pulling.unit)
    else:
        roundings = record.transposed_terms(node.attributes, *operands) + meets + 4
        charge = mul_up(result.linear_reach, roundings * pulling.unit)
        if result.second_order is not None:
            charge = add_up(charge, result.second_order.expand_as(charge))
    errors = Errors(add_up(store.local, charge), store.unbiased, add_up(store.bias, charge))
    return Step(node, operands, errors, charge, lines, _underflow(pulling, operands, roundings))


def _not_tiny(lines: Lines) -> Lines:
    """Raise tiny distances between lines, so that their middle rounds relative to them in every format."""
    distance = lines.above + lines.under
    return replace(lines, above=torch.where((distance > 0) & (distance < _TINIEST), _TINIEST, lines.above))


def _prepare(trace: Trace, step: Step) -> Prepared:
    if step.lines is not None:
        return Prepared(step.errors, Weights.of(trace.pulling, step.errors, frozenset()), _prepared_lines(trace, step, step.lines))
    absorbing, absorbed = _absorbing(trace, step)
    return Prepared(absorbing, Weights.of(trace.pulling, absorbing, absorbed), None)


def _absorbable(trace: Trace, node: Node, name: str | None) -> bool:
    """Whether an operand is linear, and its functional is the node's, entry by entry, times a factor."""
    step = None if name is None or not trace.absorbs else trace.steps.get(name)
    return step is not None and step.lines is None and trace.fan_out[step.node.name] == 1 and trace.graph.is_pointwise(node)


def _absorbing(trace: Trace, step: Step) -> tuple[Errors, frozenset[str]]:
    """The node's local errors, with those of operands that it alone uses: ``|g a| r = |g| (|a| r)`` for a factor a."""
    node, record, operands, errors = step.node, step.node.record, step.operands, step.errors
    names = [name for name in node.operands if name is not None and record.linear is not None and _absorbable(trace, node, name)]
    for name in names:
        assert record.linear is not None
        place = node.operands.index(name)
        ones = tuple(torch.ones_like(operands[place].centre) if i == place else None for i in range(len(operands)))
        images = torch.arange(errors.error.shape[0], device=errors.error.device)
        # the functional's own rounding, and that of the factor
        slack = 1 + (2 * record.linear_terms(node.attributes, *operands) + 8) * trace.pulling.unit
        factor = mul_up(record.linear(node.attributes, ones, images, *operands).abs(), slack)
        errors = errors.plus(trace._prepared[name].absorbing.times(factor))
    return errors, frozenset(names)


def _prepared_lines(trace: Trace, step: Step, lines: Lines) -> NarrowLines:
    """The same for a nonlinear node that is passed with the slope `upper`."""
    name = step.node.operands[0]
    if name is None or not _absorbable(trace, step.node, name):
        return NarrowLines.of(trace.pulling, lines, step.errors, frozenset())
    factor = mul_up(lines.upper, 1 + 8 * trace.pulling.unit)
    return NarrowLines.of(trace.pulling, lines, step.errors.plus(trace._prepared[name].absorbing.times(factor)), frozenset({name}))


def _underflow(pulling: Pulling, operands: tuple[Any, ...], roundings: int) -> Tensor:
    """``k eta sum e`` over the operands, with twice eta for the sum's own rounding."""
    radii = [operand.radius.flatten(1).sum(1) for operand in operands if isinstance(operand, Enclosure)]
    return mul_up(add_up(torch.zeros_like(radii[0]), *radii), roundings * pulling.tiny)
