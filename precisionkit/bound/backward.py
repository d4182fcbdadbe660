"""Backward substitution: functionals of a stored tensor are pulled back to the input and collect the local errors on the way.

Every rounded coordinate is one noise symbol: at each node a run's stored value differs from what the node makes of its stored
operands by at most the node's local error.  A functional of a tensor's deviation is pulled back node by node, exactly through
affine operators and between enclosing lines through the others, and collects ``sum |g| r`` on the way.  That is the radius of a
zonotope whose generators are never formed, with separate upper and lower lines (CROWN).  Proofs: proofs/bounds.md, theorems 16
to 18.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from precisionkit.bound.interval import Stored
from precisionkit.enclosure import Bounded, Enclosure
from precisionkit.graph import Graph, Node
from precisionkit.ops.adjoint import Lines
from precisionkit.outward import TINY, U, add_up, mul_up

_SQUARE = 2.0**-600
"""More than the square of a functional's entry below the normal range contributes, times that of any local error."""
ROW_BYTES = 2**23
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
    unbiased, bias : (batch, ...) tensors
        The same in two parts: roundings of mean zero under the model of random rounding, and the rest.
    lines : Lines or None
        For a nonlinear operator.
    underflow : (batch,) tensor
        What products below the normal range can lose when functionals are pulled back through this node.
    """

    node: Node
    operands: tuple[Any, ...]
    error: Tensor
    unbiased: Tensor
    bias: Tensor
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
    return _pull(trace, name, g, rows, _through_lines, deviate)[0]


def pull_back_both(trace: Trace, name: str, g: Tensor, rows: Tensor, deviate: float | None = None) -> tuple[Tensor, Tensor]:
    """Upper bounds for g and for -g in one pass, with one slope for each nonlinear coordinate instead of two lines.

    With `deviate`, each of the two is exceeded with the probability of `pull_back`.
    """
    up, down = _pull(trace, name, g, rows, _through_slope, deviate)
    return up, down


Through = Callable[[Lines, Tensor, Tensor, Enclosure], tuple[tuple[Tensor, ...], Tensor]]
"""Costs of passing a nonlinear node, one for each bound that is sought, and the functional before it."""


def _pull(trace: Trace, name: str, g: Tensor, rows: Tensor, through: Through, deviate: float | None) -> tuple[Tensor, ...]:
    functionals: dict[str, Tensor] = {name: g}
    common = torch.zeros(g.shape[0], dtype=g.dtype, device=g.device)
    variance, terms = torch.zeros_like(common), 0
    offsets: tuple[Tensor, ...] = (torch.zeros_like(common),) * 2
    for step in reversed(trace.steps):
        g_here = functionals.pop(step.node.name, None)
        if g_here is None:
            continue
        common += _weighted(g_here.abs(), step.error if deviate is None else step.bias, rows)
        if deviate is not None:
            variance += _weighted(g_here * g_here, step.unbiased * step.unbiased, rows)
        terms += 2 * g_here[0].numel() + 4
        if step.lines is not None:
            costs, g_here = through(step.lines, g_here, rows, step.operands[0])
            offsets = tuple(offset + cost for offset, cost in zip(offsets, costs, strict=False))
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
    lost = add_up(trace.underflow[rows], terms * TINY)
    if deviate is not None:
        likely = mul_up(add_up(variance, terms * _SQUARE), 1 + 4 * terms * U).sqrt() * (1 + 2.0**-51)
        lost = add_up(lost, mul_up(likely, deviate))
    return tuple(mul_up(add_up(common + offset, lost), 1 + 4 * terms * U) for offset in offsets)


def _weighted(g: Tensor, values: Tensor, rows: Tensor) -> Tensor:
    """Sum of the products of each row with the values of its image."""
    if values.shape[0] == 1:
        return g.flatten(1) @ values.flatten()
    return (g * values[rows]).flatten(1).sum(1)


def _of(values: Tensor, rows: Tensor) -> Tensor:
    """The values of each row's image."""
    return values if values.shape[0] == 1 else values[rows]


def _through_lines(lines: Lines, g: Tensor, rows: Tensor, operand: Enclosure) -> tuple[tuple[Tensor, ...], Tensor]:
    """``g f(d) <= g+ (upper S d + above) - g- (lower S d - below)`` with g = g+ - g-."""
    positive, negative = g.clamp_min(0), (-g).clamp_min(0)
    cost = (positive * _of(lines.above, rows) + negative * _of(lines.below, rows)).flatten(1).sum(1)
    return (cost,), _to_chosen(lines, positive * _of(lines.upper, rows) - negative * _of(lines.lower, rows), rows, operand)


def _through_slope(lines: Lines, g: Tensor, rows: Tensor, operand: Enclosure) -> tuple[tuple[Tensor, ...], Tensor]:
    """``-under <= f(d) - upper S d <= above``: half the distance in either direction, and the middle with the sign of g."""
    # the sum with signs may cancel: its rounding is relative to the one without
    slack = 1 + 4 * (g[0].numel() + 4) * U
    half = _weighted(g.abs(), mul_up(add_up(lines.above, lines.under), 0.5 * (1 + 2.0**-50)), rows) * slack
    tilt = _weighted(g, (lines.above - lines.under) / 2, rows)
    return (half + tilt, half - tilt), _to_chosen(lines, g * _of(lines.upper, rows), rows, operand)


def _to_chosen(lines: Lines, g: Tensor, rows: Tensor, operand: Enclosure) -> Tensor:
    """The transpose of the selection."""
    if lines.chosen is None:
        return g
    flat = torch.zeros((g.shape[0], *operand.centre.shape[1:]), dtype=g.dtype, device=g.device).flatten(2)
    return flat.scatter_add(2, lines.chosen[rows].flatten(2), g.flatten(2)).reshape(g.shape[0], *operand.centre.shape[1:])


def make_step(trace: Trace, node: Node, operands: tuple[Any, ...], result: Bounded, store: Stored) -> Step:
    """Charge the binary64 rounding of pulling back to the node's local error.

    A pulled-back functional ``g' = W^T g + delta`` with ``|delta| <= k u |W|^T |g|`` loses ``delta d``, at most
    ``k u |g| |W| e = k u |g| carried``; k counts the roundings of one entry, and of adding functionals that meet.
    """
    record = node.record
    meets = max((trace.fan_out[name] for name in node.operands if name in trace.fan_out), default=1)
    lines: Lines | None = None
    if record.relax is not None:
        lines = record.relax(node.attributes, operands[0])
        # overlapping windows add up to as many functionals as a window has entries
        area = 1 if lines.chosen is None else operands[0].centre[0, 0].numel()
        roundings = 4 + area + meets
        charge = mul_up(lines.reach, roundings * U)
    else:
        roundings = record.transposed_terms(node.attributes, *operands) + meets + 1
        charge = mul_up(result.carried, roundings * U)
        if result.second_order is not None:
            charge = add_up(charge, result.second_order.expand_as(charge))
    error, bias = add_up(store.local, charge), add_up(store.bias, charge)
    return Step(node, operands, error, store.unbiased, bias, lines, _underflow(operands, roundings))


def _underflow(operands: tuple[Any, ...], roundings: int) -> Tensor:
    """``k eta sum e`` over the operands, with twice eta for the sum's own rounding."""
    radii = [operand.radius.flatten(1).sum(1) for operand in operands if isinstance(operand, Enclosure)]
    return mul_up(add_up(torch.zeros_like(radii[0]), *radii), roundings * TINY)


def gap_errors(trace: Trace, logits: Enclosure, classes: Tensor, deviate: float | None = None) -> Tensor:
    """Bound the gaps of each image's class, downwards and upwards; `deviate` as for `pull_back`."""
    batch, count = logits.centre.shape
    signs = torch.eye(count, dtype=torch.float64, device=logits.centre.device)
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
