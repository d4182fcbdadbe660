"""Backward substitution: functionals of a stored tensor are pulled back to the input and collect the local errors on the way.

Every rounded coordinate is one noise symbol: at each node a run's stored value differs from what the node makes of its stored
operands by at most the node's local error.  A functional of a tensor's deviation is pulled back node by node, exactly through
affine operators and between enclosing lines through the others, and collects ``sum |g| r`` on the way.  That is the radius of a
zonotope whose generators are never formed, with separate upper and lower lines (CROWN).  Proofs: proofs/bounds.md, theorems 16
to 18.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from precisionkit.bound.pulling import NarrowLines, Pulling, Weights
from precisionkit.bound.trace import Trace
from precisionkit.enclosure import Enclosure
from precisionkit.ops.adjoint import Lines
from precisionkit.outward import U, add_up, mul_up

_ROW_BYTES = 2**22
"""Largest size aimed at for the rows of one node."""


def pull_back(trace: Trace, name: str, g: Tensor, rows: Tensor, deviate: float | None = None) -> Tensor:
    """Upper bounds of ``sum g * (run - centre)`` over every run, for functionals of one node's stored result.

    Parameters
    ----------
    name : str
        The node.
    g : (rows, ...) tensor
        One functional a row, in the format of `trace.pulling`.
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


def contributions(trace: Trace, name: str, g: Tensor, rows: Tensor) -> dict[str, Tensor]:
    """What each node adds to the upper bounds of `pull_back`, in the order of the graph; one entry a row.

    The errors of a node that another one absorbs count with that one.  Not rounded up: to tell what a bound is made of.
    """
    reached: list[tuple[str, Tensor]] = []
    _pull(trace, name, g, rows, None, symmetric=False, reached=reached)
    return {node: after - before for (node, before), (_, after) in reversed(list(pairwise(reached)))}


@dataclass
class _Total:
    """What functionals have collected on their way, in binary64; one entry a row."""

    common: Tensor
    """Bounds of magnitudes, of both directions."""
    middle: Tensor
    """Middles of lines, with the functional's sign."""
    variance: Tensor
    squares_lost: float = 0.0
    terms: int = 0

    def collect(self, pulling: Pulling, g: Tensor, weights: Weights, rows: Tensor, *, random: bool) -> None:
        """Add a node's local errors; with `random`, the unbiased ones by their squares."""
        self.common += pulling.sum_up(g.abs(), weights.bias if random else weights.error, rows)
        if random:
            self.variance += pulling.sum_up(g * g, weights.variance, rows)
            self.squares_lost += g[0].numel() * (1 + 2 * weights.largest) * pulling.tiny

    def both(self, trace: Trace, rows: Tensor, deviate: float | None) -> tuple[Tensor, Tensor]:
        """Upper bounds of the functionals and of their negatives, with everything that was lost on the way."""
        pulling, rounding = trace.pulling, 1 + 4 * self.terms * U
        assert trace.underflow is not None
        lost = add_up(trace.underflow[rows], self.terms * pulling.tiny)
        if deviate is not None:
            likely = mul_up(add_up(self.variance, self.squares_lost), rounding).sqrt() * (1 + 2.0**-51)
            lost = add_up(lost, mul_up(likely, deviate))
        # signed sums may cancel: the rounding of `middle` is relative to the sums of magnitudes, which `common` holds
        common = self.common * (1 + 4 * (trace.graph.largest + len(trace.steps) + 4) * pulling.unit)
        up, down = (mul_up(add_up(common + sign * self.middle, lost), rounding) for sign in (1, -1))
        return up, down


def _pull(
    trace: Trace,
    name: str,
    g: Tensor,
    rows: Tensor,
    deviate: float | None,
    *,
    symmetric: bool,
    reached: list[tuple[str, Tensor]] | None = None,
) -> tuple[Tensor, Tensor]:
    """Pull functionals back to the input; `reached` takes each node with what was collected before it, and what was in the end."""
    pulling, prepared = trace.pulling, trace.prepared()
    functionals: dict[str, Tensor] = {name: g}
    counted: set[str] = set()
    nothing = torch.zeros(g.shape[0], dtype=torch.float64, device=g.device)
    total = _Total(nothing, nothing.clone(), nothing.clone())
    for step in reversed(trace.steps.values()):
        g_here = functionals.pop(step.node.name, None)
        if g_here is None:
            continue
        if reached is not None:
            reached.append((step.node.name, total.common.clone()))
        lines = prepared[step.node.name].lines
        weights = lines.symmetric if symmetric and lines is not None else prepared[step.node.name].weights
        if step.node.name not in counted:
            total.collect(pulling, g_here, weights, rows, random=deviate is not None)
        counted |= weights.absorbed
        total.terms += 2 * g_here[0].numel() + 4
        if lines is not None:
            if symmetric:
                total.middle += pulling.weighted(g_here, lines.middle, rows)
                g_here = g_here * _of(lines.upper, rows)
            else:
                cost, g_here = _between_lines(pulling, lines, g_here, rows)
                total.common += cost
            g_here = _to_chosen(step.lines, g_here, rows, step.operands[0])
            total.terms += 2 * g_here[0].numel() + 4
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
    if reached is not None:
        reached.append(("", total.common))
    return total.both(trace, rows, deviate)


def _of(values: Tensor, rows: Tensor) -> Tensor:
    """The values of each row's image."""
    return values if values.shape[0] == 1 else values[rows]


def _between_lines(pulling: Pulling, lines: NarrowLines, g: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """``g f(d) <= g+ (upper S d + above) - g- (lower S d - below)`` with g = g+ - g-."""
    positive, negative = g.clamp_min(0), (-g).clamp_min(0)
    cost = pulling.sum_up(positive, lines.above, rows) + pulling.sum_up(negative, lines.below, rows)
    return cost, positive * _of(lines.upper, rows) - negative * _of(lines.lower, rows)


def _to_chosen(lines: Lines | None, g: Tensor, rows: Tensor, operand: Enclosure) -> Tensor:
    """The transpose of the selection."""
    if lines is None or lines.chosen is None:
        return g
    flat = torch.zeros((g.shape[0], *operand.centre.shape[1:]), dtype=g.dtype, device=g.device).flatten(2)
    return flat.scatter_add(2, lines.chosen[rows].flatten(2), g.flatten(2)).reshape(g.shape[0], *operand.centre.shape[1:])


def rows_at_once(trace: Trace) -> int:
    """Functionals to pull back together, so that they stay in a processor's cache."""
    return max(1, _ROW_BYTES // (trace.pulling.dtype.itemsize * trace.graph.largest))


def gap_errors(trace: Trace, logits: Enclosure, classes: Tensor, deviate: float | None = None, nearest: int | None = None) -> Tensor:
    """Bound the gaps of each image's class, downwards and upwards; `deviate` as for `pull_back`.

    Parameters
    ----------
    nearest : int or None
        None pulls back the gaps to all classes.  A number: to those nearest ones, and to others whose gap the radii of the two
        logits do not prove; the sum of the two radii bounds the rest.
    """
    of_class, radius = logits.centre.gather(1, classes[:, None]), logits.radius.gather(1, classes[:, None])
    difference = (of_class - logits.centre).abs()
    errors = add_up(radius, logits.radius)
    asked = torch.ones_like(errors, dtype=torch.bool)
    if nearest is not None:
        close = difference.topk(min(nearest + 1, difference.shape[1]), dim=1, largest=False).indices
        asked = (~(difference * (1 - 2.0**-50) > errors)).scatter(1, close, True)
    rows, others = asked.nonzero().unbind(1)
    signs = torch.eye(errors.shape[1], dtype=trace.pulling.dtype, device=logits.centre.device)
    found = []
    for image, other in zip(rows.split(chunk := rows_at_once(trace)), others.split(chunk), strict=True):
        some = signs[classes[image]] - signs[other]
        bounds = pull_back(trace, trace.graph.output, torch.cat([some, -some]), torch.cat([image, image]), deviate)
        found.append(torch.maximum(*bounds.chunk(2)))
    errors[rows, others] = torch.cat(found) if nearest is None else torch.fmin(errors[rows, others], torch.cat(found))
    return add_up(errors, mul_up(difference, 2 * U))
