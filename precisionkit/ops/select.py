"""Operators that choose among numbers or pick constants: maxima and minima, embeddings, constants that every image has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from precisionkit.arithmetic import Arithmetic
from precisionkit.enclosure import Bounded, Enclosure
from precisionkit.errors import UnusableDataError
from precisionkit.ops.adjoint import at_rows
from precisionkit.ops.record import Attributes, Operator, every_activation
from precisionkit.outward import add_up

_SOURCE = "proofs/bounds.md, theorem 8"


# ---------------------------------------------------------------------------------------- the larger of two, elementwise
def _enclosed(operand: Enclosure | Tensor) -> Enclosure:
    return operand if isinstance(operand, Enclosure) else Enclosure.exact(operand)


def _first_wins(a: Tensor, b: Tensor, sign: float) -> Tensor:
    return sign * a >= sign * b


def _extremum_rule(sign: float) -> Callable[..., Bounded]:
    def rule(arithmetic: Arithmetic, attributes: Attributes, *operands: Any) -> Bounded:
        """The winner's deviation, and what the other can reach beyond it: ``max(a', b') - a' = max(0, b' - a')`` where a wins."""
        a, b = map(_enclosed, operands)
        wins = _first_wins(a.centre, b.centre, sign)
        centre = torch.where(wins, a.centre, b.centre)
        gap = (a.centre - b.centre).abs() * (1 - 2.0**-50)
        both = add_up(*torch.broadcast_tensors(a.radius, b.radius))
        second = (both - gap).clamp_min(0) + both * 2.0**-50
        second = torch.where(both == 0, 0.0, second)
        reach = torch.where(wins, a.radius, b.radius)
        carried = torch.fmin(add_up(reach, second), torch.maximum(a.radius, b.radius))
        return Bounded(centre, carried, None, arithmetic.storage, second_order=second, reach=add_up(reach, second))

    return rule


def _winners(sign: float, rows: Tensor, operands: tuple[Any, ...]) -> Tensor:
    a, b = (at_rows(o.centre, rows) if isinstance(o, Enclosure) else o for o in operands)
    return _first_wins(a, b, sign)


def _extremum(name: str, targets: tuple[str, ...], sign: float, apply: Callable[..., Tensor]) -> Operator:
    def transpose(attributes: Attributes, g: Tensor, rows: Tensor, *operands: Any) -> tuple[Tensor | None, ...]:
        wins = _winners(sign, rows, operands)
        parts = (g * wins.to(g.dtype), g * (~wins).to(g.dtype))
        shapes = [o.centre.shape[1:] if isinstance(o, Enclosure) else None for o in operands]
        return tuple(None if s is None else p.sum_to_size((g.shape[0], *s)) for p, s in zip(parts, shapes, strict=True))

    def linear(attributes: Attributes, d: tuple[Tensor | None, ...], rows: Tensor, *operands: Any) -> Tensor:
        like = next(part for part in d if part is not None)
        wins = _winners(sign, rows, operands)
        a, b = (like.new_zeros(()) if part is None else part for part in d)
        return torch.where(wins, a, b)

    def exact(engine: Any, attributes: Attributes, a: Any, b: Any) -> Any:
        return np.vectorize(lambda x, y: sign * engine.maximum(sign * x, sign * y), otypes=[object])(a, b)

    return Operator(
        name=name,
        targets=targets,
        operands=("self", "other"),
        apply=apply,
        error_rule=_extremum_rule(sign),
        exact=exact,
        transpose=transpose,
        transposed_terms=lambda attributes, *o: 4 + max(x.centre[0].numel() for x in o if isinstance(x, Enclosure)),
        linear=linear,
        linear_terms=lambda *_: 2,
        pointwise=True,
        stores=False,
        curved=every_activation,
        bound="the larger e, and what the loser reaches beyond the winner; no rounding",
        source=_SOURCE,
    )


MAXIMUM = _extremum("maximum", ("aten.maximum.default", "aten.max.other"), 1.0, lambda attributes, a, b: torch.maximum(a, b))
MINIMUM = _extremum("minimum", ("aten.minimum.default", "aten.min.other"), -1.0, lambda attributes, a, b: torch.minimum(a, b))


# -------------------------------------------------------------------------------------------- the largest along a dimension
def _dims(attributes: Attributes) -> tuple[int, ...]:
    dim = attributes["dim"]
    return (dim,) if isinstance(dim, int) else tuple(dim)


def _keep(attributes: Attributes) -> bool:
    return bool(attributes.get("keepdim", False))


def _one_dim(attributes: Attributes, shapes: Any) -> str | None:
    if "dim" not in attributes or len(_dims(attributes)) != 1:
        return "one dimension is needed"
    return "it acts on the batch dimension" if _dims(attributes)[0] % len(shapes[0]) == 0 else None


def _largest(sign: float) -> tuple[Callable[..., Tensor], Callable[..., Bounded], Callable[..., Tensor]]:
    def apply(attributes: Attributes, x: Tensor) -> Tensor:
        result: Tensor = sign * (sign * x).amax(_dims(attributes), _keep(attributes))
        return result

    def chosen(attributes: Attributes, x: Tensor) -> Tensor:
        return (sign * x).argmax(_dims(attributes)[0], keepdim=True)

    def rule(arithmetic: Arithmetic, attributes: Attributes, x: Enclosure) -> Bounded:
        """The deviation of the centre's winner, and what another entry reaches beyond it."""
        dim = _dims(attributes)[0]
        winner = chosen(attributes, x.centre)
        top, radius = x.centre.gather(dim, winner), x.radius.gather(dim, winner)
        gap = (top - x.centre).abs() * (1 - 2.0**-50)
        over = ((add_up(x.radius, radius.expand_as(x.radius)) - gap).clamp_min(0) + x.radius * 2.0**-50).scatter(dim, winner, 0.0)
        second = over.amax(dim, keepdim=True)
        reach = add_up(radius, second)
        carried = torch.fmin(reach, x.radius.amax(dim, keepdim=True))
        parts = (top, carried, second, reach)
        top, carried, second, reach = parts if _keep(attributes) else (p.squeeze(dim) for p in parts)
        return Bounded(top, carried, None, arithmetic.storage, second_order=second, reach=reach)

    return apply, rule, chosen


def _extreme_along(name: str, targets: tuple[str, ...], sign: float) -> Operator:
    apply, rule, chosen = _largest(sign)

    def transpose(attributes: Attributes, g: Tensor, rows: Tensor, x: Enclosure) -> tuple[Tensor]:
        dim = _dims(attributes)[0]
        kept = g if _keep(attributes) else g.unsqueeze(dim)
        winner = at_rows(chosen(attributes, x.centre), rows).expand(kept.shape)
        return (g.new_zeros(g.shape[0], *x.centre.shape[1:]).scatter(dim, winner, kept),)

    def linear(attributes: Attributes, d: tuple[Tensor | None, ...], rows: Tensor, x: Enclosure) -> Tensor:
        assert d[0] is not None
        dim, winner = _dims(attributes)[0], at_rows(chosen(attributes, x.centre), rows)
        picked = d[0].gather(dim, winner.expand(d[0].shape[0], *winner.shape[1:]))
        return picked if _keep(attributes) else picked.squeeze(dim)

    def exact(engine: Any, attributes: Attributes, x: Any) -> Any:
        dim, keep = _dims(attributes)[0], _keep(attributes)
        moved = np.moveaxis(x, dim, -1)
        flat = [sign * _most(engine, [sign * v for v in row]) for row in moved.reshape(-1, moved.shape[-1])]
        result = np.empty(len(flat), dtype=object)
        result[:] = flat
        result = result.reshape(moved.shape[:-1])
        return np.expand_dims(result, dim) if keep else result

    return Operator(
        name=name,
        targets=targets,
        operands=("self",),
        apply=apply,
        error_rule=rule,
        exact=exact,
        transpose=transpose,
        linear=linear,
        linear_terms=lambda *_: 1,
        stores=False,
        curved=every_activation,
        check=_one_dim,
        bound="the largest e, and what another entry reaches beyond the winner; no rounding",
        source=_SOURCE,
    )


def _most(engine: Any, values: list[Any]) -> Any:
    total = values[0]
    for value in values[1:]:
        total = engine.maximum(total, value)
    return total


AMAX = _extreme_along("amax", ("aten.amax.default", "aten.max.dim"), 1.0)
AMIN = _extreme_along("amin", ("aten.amin.default", "aten.min.dim"), -1.0)


# ------------------------------------------------------------------------------------------------------------- constants
def _embedding(attributes: Attributes, weight: Tensor, indices: Tensor) -> Tensor:
    outside = (indices < 0) | (indices >= len(weight))
    if indices.device.type != "meta" and bool(outside.any()):
        raise UnusableDataError(
            f"An input holds the token {int(indices[outside][0])}, but the network has an embedding of {len(weight)} rows, for the tokens "
            f"0 to {len(weight) - 1}: use the network with the vocabulary that it was trained with."
        )
    return F.embedding(indices.long(), weight)


def _embedding_rule(arithmetic: Arithmetic, attributes: Attributes, weight: Tensor, indices: Enclosure) -> Bounded:
    """Rows of a table of stored numbers, chosen by tokens that every run has."""
    centre = _embedding(attributes, weight, indices.centre)
    moved = torch.where(indices.radius == 0, centre.new_zeros(()), centre.new_tensor(torch.inf))  # another row could be any
    radius = moved[..., None].expand_as(centre)
    return Bounded(centre, radius, None, arithmetic.storage)


def _no_deviation(attributes: Attributes, d: tuple[Tensor | None, ...], rows: Tensor, *operands: Any) -> Tensor:
    like = next(part for part in d if part is not None)
    weight, indices = operands
    return like.new_zeros(like.shape[0], *indices.centre.shape[1:], weight.shape[1])


def _exact_embedding(engine: Any, attributes: Attributes, weight: Any, indices: Any) -> Any:
    places = np.vectorize(int, otypes=[np.int64])(indices)
    return weight[places]


EMBEDDING = Operator(
    name="embedding",
    targets=("aten.embedding.default",),
    operands=("weight", "indices"),
    apply=_embedding,
    error_rule=_embedding_rule,
    exact=_exact_embedding,
    transpose=lambda attributes, g, rows, weight, indices: (None, None),
    linear=_no_deviation,
    stores=False,
    bound="0; no rounding",
    source=_SOURCE,
)


def _repeat(attributes: Attributes, like: Tensor, value: Tensor) -> Tensor:
    return value.expand(like.shape[0], *value.shape)


def _constant_rule(arithmetic: Arithmetic, attributes: Attributes, like: Enclosure, value: Tensor) -> Bounded:
    centre = _repeat(attributes, like.centre, value)
    return Bounded(centre, torch.zeros_like(centre), None, arithmetic.storage)


CONSTANT = Operator(
    name="constant",
    targets=("precisionkit.constant",),
    operands=("like", "value"),
    apply=_repeat,
    error_rule=_constant_rule,
    exact=lambda engine, attributes, like, value: np.broadcast_to(value, (like.shape[0], *value.shape)),
    transpose=lambda attributes, g, rows, like, value: (None, None),
    linear=lambda attributes, d, rows, like, value: next(p for p in d if p is not None).new_zeros(len(rows), *value.shape),
    stores=False,
    bound="0; the same in every run",
    source=_SOURCE,
)
SELECTIONS = (MAXIMUM, MINIMUM, AMAX, AMIN, EMBEDDING, CONSTANT)
