"""The interval method: a componentwise running error bound, the baseline of every table.

Every node's enclosure is its binary64 centre and the radius ``carried + fresh + store``; correlations between neurons are
dropped, save in the last linear layer, where the difference of two logits is bounded by the difference of their rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from precisionkit.arithmetic import Arithmetic
from precisionkit.bound.pulling import direct_sums
from precisionkit.bound.result import LogitBounds
from precisionkit.enclosure import Bounded, Enclosure
from precisionkit.evaluate import Program
from precisionkit.graph import Node, interpret
from precisionkit.ops._store import store_error
from precisionkit.outward import U, add_up, hypot_up, mul_up, sum_of_products_up

_LEAST = 2.0**-300
"""Least radius that is not zero; far below the smallest number of every format."""


@dataclass(frozen=True)
class _Last:
    """The operands of the node that gives the logits, and its errors."""

    node: Node
    operands: tuple[Any, ...]
    local: Tensor


@dataclass(frozen=True)
class Stored:
    """An operator's result after its store.

    Attributes
    ----------
    radius : tensor
        Deviation of every stored value from the centre.
    local : tensor
        The part of it that this operator added.
    unbiased, bias : tensors
        The same in two parts, together at least `local`: a sum of roundings of mean zero under the model of random rounding, and
        the rest.
    excluded : (batch,) bool tensor
        Overflow is excluded, of the store and of every intermediate result.
    certain : (batch,) bool tensor
        Some stored value overflows in every run.
    """

    radius: Tensor
    local: Tensor
    unbiased: Tensor
    bias: Tensor
    excluded: Tensor
    certain: Tensor


def stored(arithmetic: Arithmetic, result: Bounded, *, unstored: bool = False) -> Stored:
    """Add the store to an operator's result; with `unstored` there is none, and the result stays in the format it was computed in."""
    nothing = torch.zeros_like(result.carried)
    if result.fresh is None:
        no = torch.zeros((), dtype=torch.bool, device=result.centre.device).expand(result.centre.shape[0])
        return Stored(_not_tiny(result.carried), nothing, nothing, nothing, ~no, no)
    # scores that a mask takes out, on purpose: minus infinity in every run
    masked = (result.centre == -torch.inf) & (result.carried == 0) & (result.fresh == 0)
    before = add_up(result.carried, result.fresh).masked_fill(masked, 0.0)
    size = result.centre.abs().masked_fill(masked, 0.0)
    magnitude = add_up(size, before)
    storage = result.form if unstored and result.form is not None else arithmetic.storage
    store = nothing if result.form == storage else store_error(storage, magnitude)
    local = result.fresh if result.form == storage else add_up(result.fresh, store).masked_fill(masked, 0.0)
    unbiased, bias = (store, result.fresh) if result.bias is None else (_spread(result.fresh, result.spread, store), result.bias)
    excluded = (magnitude < storage.overflow_threshold).flatten(1).all(1)
    if result.peak is not None and result.peak_format is not None:
        excluded = excluded & (result.peak <= result.peak_format.max).flatten(1).all(1)
    if result.stored_before is not None:
        excluded = excluded & (result.stored_before < storage.overflow_threshold).flatten(1).all(1)
    least = size * (1 - 2.0**-50) - before
    certain = (least >= storage.overflow_threshold).flatten(1).any(1)
    same = masked | ((result.carried == 0) & (local == 0))
    radius = _not_tiny(add_up(result.carried, local).masked_fill(same, 0.0))
    return Stored(radius, local, unbiased, bias, excluded, certain)


def _not_tiny(radius: Tensor) -> Tensor:
    """Raise radii that have no reciprocal, save zeros: sketches measure their samples by radii."""
    return torch.where(radius == 0, 0.0, radius.clamp_min(_LEAST))


def _spread(fresh: Tensor, spread: Tensor | None, store: Tensor) -> Tensor:
    """Of an operator's own roundings and of the store behind them."""
    return hypot_up(fresh if spread is None else torch.minimum(fresh, spread), store)  # NaN stays


def interval(
    program: Program, inputs: Tensor, classes: Tensor | None = None, observe: Callable[[Node, Enclosure], None] | None = None
) -> LogitBounds:
    """Bound the logits of a batch over every run of the program.

    Parameters
    ----------
    program : Program
    inputs : (batch, ...) tensor
        Numbers of the storage format, which every run starts from.
    classes : (batch,) int64 tensor or None
        The class of each input whose gaps to the others are bounded; None takes the centre's argmax.
    observe : callable or None
        Called with every node and the enclosure of its stored result.

    Returns
    -------
    LogitBounds

    Notes
    -----
    Bound: theorem 14 of proofs/bounds.md (composition), with the local theorems of each operator.
    Assumes: `Arithmetic.assumptions`.
    """
    graph = program.graph
    places = {node.name: place for place, node in enumerate(graph.nodes)}
    constants = {name: value.double() for name, value in program.constants.items()}
    overflow = torch.full((inputs.shape[0],), -1, dtype=torch.int64, device=inputs.device)
    certain_overflow = overflow.clone()
    last: _Last | None = None

    def run_node(node: Node, operands: tuple[Any, ...]) -> Enclosure:
        nonlocal overflow, certain_overflow, last
        arithmetic = program.arithmetic_of(node)
        result = node.record.error_rule(arithmetic, node.attributes, *operands)
        store = stored(arithmetic, result, unstored=node.name in program.unstored)
        place = places[node.name]
        certain_overflow = torch.where((overflow < 0) & store.certain & (certain_overflow < 0), place, certain_overflow)
        overflow = torch.where((overflow < 0) & ~store.excluded, place, overflow)
        if node.name == graph.output:
            last = _Last(node, operands, store.local)
        enclosure = Enclosure(result.centre, store.radius)
        if observe is not None:
            observe(node, enclosure)
        return enclosure

    with direct_sums():
        logits = interpret(graph, Enclosure.exact(inputs.double()), constants, run_node)
        classes = logits.centre.argmax(1) if classes is None else classes.to(inputs.device)
        gap_error = _gap_errors(logits, last, classes)
    return LogitBounds.of(logits, classes, gap_error, overflow, certain_overflow)


def _gap_errors(logits: Enclosure, last: _Last | None, classes: Tensor) -> Tensor:
    """Bound ``|(z_c - z_j)(run) - fl(z_c - z_j)|`` for all j: the difference of two rows carries less than the two rows."""
    errors = add_up(_of_class(logits.radius, classes), logits.radius)
    linear = _last_linear(last)
    if linear is not None and last is not None:
        carried = _carried_by_differences(*linear, classes)
        errors = torch.minimum(errors, add_up(carried, _of_class(last.local, classes), last.local))
    rounding = mul_up((_of_class(logits.centre, classes) - logits.centre).abs(), 2 * U)
    return add_up(errors, rounding)


def _of_class(values: Tensor, classes: Tensor) -> Tensor:
    return values.gather(1, classes[:, None])


def _carried_by_differences(weight: Tensor, deviation: Tensor, classes: Tensor) -> Tensor:
    """``sum_k |w_ck - w_jk| e_k`` for the class c of each row, rounded up."""
    carried = torch.empty(deviation.shape[0], weight.shape[0], dtype=torch.float64, device=deviation.device)
    for c in classes.unique():
        rows = mul_up((weight[c] - weight).abs(), 1 + 2.0**-52)
        mine = classes == c
        carried[mine] = deviation[mine] @ rows.T
    return sum_of_products_up(carried, weight.shape[1])


def _last_linear(last: _Last | None) -> tuple[Tensor, Tensor] | None:
    """Weight and input radius of a last linear layer."""
    if last is None:
        return None
    match last.node.operator:
        case "linear":
            return last.operands[1], last.operands[0].radius
        case "addmm":
            return last.operands[2].T, last.operands[1].radius
        case "mm":
            return last.operands[1].T, last.operands[0].radius
    return None
