"""Backward substitution: functionals of a stored tensor are pulled back to the input and collect the local errors on the way.

Every rounded coordinate is one noise symbol: at each node a run's stored value differs from what the node makes of its stored
operands by at most the node's local error.  A functional of a tensor's deviation is pulled back node by node, exactly through
affine operators and between enclosing lines through the others, and collects ``sum |g| r`` on the way.  That is the radius of a
zonotope whose generators are never formed, with separate upper and lower lines (CROWN).  Proofs: proofs/bounds.md, theorems 16
to 18.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from precisionkit.bound.interval import Stored
from precisionkit.bound.pulling import IN_BINARY64, Errors, Pulling, Slopes, Weights
from precisionkit.enclosure import Bounded, Enclosure
from precisionkit.graph import Graph, Node
from precisionkit.ops.adjoint import Lines
from precisionkit.outward import U, add_up, mul_up

ROW_BYTES = 2**23
"""Largest size aimed at for the rows of one node."""
_SQUARE = 2.0**-600
"""More than the square of a functional's entry below the normal range contributes, times that of any local error."""


@dataclass(frozen=True)
class Step:
    """What backward substitution needs of one node.

    Attributes
    ----------
    operands : tuple
        Enclosures of activations, constants, None.
    errors : Errors
        Local errors, and the rounding of pulling functionals back through this node.
    absorbing : Errors
        The same, with those of the operands that the node absorbs.
    lines : Lines or None
        For a nonlinear operator.
    underflow : (batch,) tensor
        What products below the normal range can lose when functionals are pulled back through this node.
    weights : Weights
        `absorbing`, in the format of pulling back.
    slopes : Slopes or None
        The lines, in the same format.
    """

    node: Node
    operands: tuple[Any, ...]
    errors: Errors
    absorbing: Errors
    lines: Lines | None
    underflow: Tensor
    weights: Weights
    slopes: Slopes | None


@dataclass
class Trace:
    """The nodes bounded so far, in order.

    Attributes
    ----------
    absorbed, absorbed_by_slopes : set of str
        Nodes whose local errors are counted by the only node that uses them, a pointwise one: linear, or nonlinear with one slope.
    """

    graph: Graph
    pulling: Pulling = IN_BINARY64
    steps: dict[str, Step] = field(default_factory=dict)
    fan_out: dict[str, int] = field(default_factory=dict)
    absorbed: set[str] = field(default_factory=set)
    absorbed_by_slopes: set[str] = field(default_factory=set)

    @property
    def underflow(self) -> Tensor:
        """Of all steps; (batch,)."""
        steps = list(self.steps.values())
        return add_up(torch.zeros_like(steps[0].underflow), *(step.underflow for step in steps))

    @property
    def most_underflow(self) -> float:
        """More than any functional that is pulled back loses below the normal range, for a batch of one; 0 before the first node."""
        terms = sum(8 * step.errors.error.numel() + 8 * sum(o.radius.numel() for o in _enclosed(step)) for step in self.steps.values())
        return 2 * (float(self.underflow.amax()) + terms * self.pulling.tiny) if self.steps else 0.0


def _enclosed(step: Step) -> list[Enclosure]:
    return [operand for operand in step.operands if isinstance(operand, Enclosure)]


def pull_back(trace: Trace, name: str, g: Tensor, rows: Tensor, deviate: float | None = None) -> Tensor:
    """Upper bounds of ``sum g * (run - centre)`` over every run, for functionals of one node's stored result.

    Parameters
    ----------
    name : str
        The node.
    g : (rows, ...) tensor
        One functional a row.
    rows : (rows,) int64 tensor
        The image that each belongs to.
    deviate : float or None
        None: no run exceeds the bound.  A number t: under the model of random rounding, a run exceeds it with a probability of at
        most ``exp(-t**2 / 2)`` (theorem 20).
    """
    return _pull(trace, name, g, rows, deviate, symmetric=False)[0]


def pull_back_both(trace: Trace, name: str, g: Tensor, rows: Tensor, deviate: float | None = None) -> tuple[Tensor, Tensor]:
    """Upper bounds for g and for -g in one pass, with one slope for each nonlinear coordinate instead of two lines.

    With `deviate`, each of the two is exceeded with the probability of `pull_back`.
    """
    return _pull(trace, name, g, rows, deviate, symmetric=True)


def _pull(trace: Trace, name: str, g: Tensor, rows: Tensor, deviate: float | None, *, symmetric: bool) -> tuple[Tensor, Tensor]:
    pulling = trace.pulling
    absorbed = trace.absorbed | trace.absorbed_by_slopes if symmetric else trace.absorbed
    functionals: dict[str, Tensor] = {name: g}
    common = torch.zeros(g.shape[0], dtype=torch.float64, device=g.device)
    variance, middle, terms = torch.zeros_like(common), torch.zeros_like(common), 0
    for step in reversed(trace.steps.values()):
        g_here = functionals.pop(step.node.name, None)
        if g_here is None:
            continue
        if step.node.name == name or step.node.name not in absorbed:
            weights = step.slopes.symmetric if symmetric and step.slopes is not None else step.weights
            common += pulling.sum_up(g_here.abs(), weights.error if deviate is None else weights.bias, rows)
            if deviate is not None:
                variance += pulling.sum_up(g_here * g_here, weights.unbiased * weights.unbiased, rows)
        terms += 2 * g_here[0].numel() + 4
        if step.slopes is not None:
            if symmetric:
                middle += pulling.weighted(g_here, step.slopes.tilt, rows)
                g_here = g_here * _of(step.slopes.upper, rows)
            else:
                cost, g_here = _through_lines(pulling, step.slopes, g_here, rows)
                common += cost
            g_here = _to_chosen(step.lines, g_here, rows, step.operands[0])
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
            part = part.to(pulling.dtype)
            functionals[operand] = functionals[operand] + part if operand in functionals else part
    lost = add_up(trace.underflow[rows], terms * pulling.tiny)
    if deviate is not None:
        likely = mul_up(add_up(variance, terms * _SQUARE), 1 + 4 * terms * U).sqrt() * (1 + 2.0**-51)
        lost = add_up(lost, mul_up(likely, deviate))
    # the signed sums of `middle` may cancel: their rounding is relative to the sums of magnitudes, which `common` holds
    slack = 1 + 4 * (trace.graph.largest + 4) * pulling.unit if symmetric else 1.0
    common = common * slack
    up, down = (mul_up(add_up(common + sign * middle, lost), 1 + 4 * terms * U) for sign in (1, -1))
    return up, down


def _of(values: Tensor, rows: Tensor) -> Tensor:
    """The values of each row's image."""
    return values if values.shape[0] == 1 else values[rows]


def _through_lines(pulling: Pulling, slopes: Slopes, g: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """``g f(d) <= g+ (upper S d + above) - g- (lower S d - below)`` with g = g+ - g-."""
    positive, negative = g.clamp_min(0), (-g).clamp_min(0)
    cost = pulling.sum_up(positive, slopes.above, rows) + pulling.sum_up(negative, slopes.below, rows)
    return cost, positive * _of(slopes.upper, rows) - negative * _of(slopes.lower, rows)


def _to_chosen(lines: Lines | None, g: Tensor, rows: Tensor, operand: Enclosure) -> Tensor:
    """The transpose of the selection."""
    if lines is None or lines.chosen is None:
        return g
    flat = torch.zeros((g.shape[0], *operand.centre.shape[1:]), dtype=g.dtype, device=g.device).flatten(2)
    return flat.scatter_add(2, lines.chosen[rows].flatten(2), g.flatten(2)).reshape(g.shape[0], *operand.centre.shape[1:])


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
        lines = record.relax(node.attributes, operands[0])
        # overlapping windows add up to as many functionals as a window has entries
        area = 1 if lines.chosen is None else operands[0].centre[0, 0].numel()
        roundings = 6 + area + meets
        charge = mul_up(lines.reach, roundings * pulling.unit)
    else:
        roundings = record.transposed_terms(node.attributes, *operands) + meets + 4
        charge = mul_up(result.carried, roundings * pulling.unit)
        if result.second_order is not None:
            charge = add_up(charge, result.second_order.expand_as(charge))
    errors = Errors(add_up(store.local, charge), store.unbiased, add_up(store.bias, charge))
    if lines is None:
        absorbing, slopes = _absorbing(trace, node, operands, errors), None
    else:
        absorbing, slopes = errors, Slopes.of(pulling, lines, _absorbing_operand(trace, node, lines, errors))
    return Step(node, operands, errors, absorbing, lines, _underflow(pulling, operands, roundings), Weights.of(pulling, absorbing), slopes)


def _absorbable(trace: Trace, node: Node, name: str | None) -> Step | None:
    """The step of a linear operand whose functional is the node's, entry by entry, times a factor."""
    step = None if name is None else trace.steps.get(name)
    alone = step is not None and step.lines is None and trace.fan_out[step.node.name] == 1
    return step if alone and trace.graph.is_pointwise(node) else None


def _absorbing(trace: Trace, node: Node, operands: tuple[Any, ...], errors: Errors) -> Errors:
    """The node's local errors, with those of operands that it alone uses: ``|g a| r = |g| (|a| r)`` for a factor a."""
    record = node.record
    for place, name in enumerate(node.operands):
        step = _absorbable(trace, node, name)
        if step is None or record.linear is None:
            continue
        ones = tuple(torch.ones_like(operands[place].centre) if i == place else None for i in range(len(operands)))
        images = torch.arange(errors.error.shape[0], device=errors.error.device)
        # the functional's own rounding, and that of the factor
        slack = 1 + (2 * record.linear_terms(node.attributes, *operands) + 8) * trace.pulling.unit
        factor = mul_up(record.linear(node.attributes, ones, images, *operands).abs(), slack)
        errors = errors.plus(step.absorbing.times(factor))
        trace.absorbed.add(step.node.name)
    return errors


def _absorbing_operand(trace: Trace, node: Node, lines: Lines, errors: Errors) -> Errors:
    """The same for a nonlinear node that is passed with the slope `upper`."""
    step = _absorbable(trace, node, node.operands[0])
    if step is None:
        return errors
    trace.absorbed_by_slopes.add(step.node.name)
    return errors.plus(step.absorbing.times(mul_up(lines.upper, 1 + 8 * trace.pulling.unit)))


def _underflow(pulling: Pulling, operands: tuple[Any, ...], roundings: int) -> Tensor:
    """``k eta sum e`` over the operands, with twice eta for the sum's own rounding."""
    radii = [operand.radius.flatten(1).sum(1) for operand in operands if isinstance(operand, Enclosure)]
    return mul_up(add_up(torch.zeros_like(radii[0]), *radii), roundings * pulling.tiny)


def gap_errors(trace: Trace, logits: Enclosure, classes: Tensor, deviate: float | None = None) -> Tensor:
    """Bound the gaps of each image's class, downwards and upwards; `deviate` as for `pull_back`."""
    batch, count = logits.centre.shape
    signs = torch.eye(count, dtype=trace.pulling.dtype, device=logits.centre.device)
    g = (signs[classes][:, None, :] - signs[None, :, :]).flatten(0, 1)
    rows = torch.arange(batch, device=logits.centre.device).repeat_interleave(count)
    found = []
    for some, image in zip(g.split(chunk := max(1, ROW_BYTES // (8 * trace.graph.largest))), rows.split(chunk), strict=True):
        both = torch.cat([some, -some])
        bounds = pull_back(trace, trace.graph.output, both, torch.cat([image, image]), deviate)
        found.append(torch.maximum(*bounds.chunk(2)))
    errors = torch.cat(found).reshape(batch, count)
    difference = (logits.centre.gather(1, classes[:, None]) - logits.centre).abs()
    return add_up(errors, mul_up(difference, 2 * U))
