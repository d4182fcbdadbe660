"""Filling in where a mask says so that every run has, such as one of tokens.  No rounding.  Proofs: proofs/bounds.md, theorem 8."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from precisionkit.arithmetic import Arithmetic
from precisionkit.enclosure import Bounded, Enclosure
from precisionkit.ops._store import parameter_error
from precisionkit.ops.adjoint import at_rows
from precisionkit.ops.record import Attributes, Operator


def _apply(attributes: Attributes, mask: Tensor, kept: Tensor, filled: Tensor | None) -> Tensor:
    return torch.where(mask != 0, kept.new_tensor(attributes["fill"]) if filled is None else filled, kept)


def _number(attributes: Attributes, arithmetic: Arithmetic, like: Tensor) -> Enclosure:
    """A Python number, which a backend may round to the storage format, to the internal one, or not at all."""
    fill = torch.tensor(attributes["fill"], dtype=torch.float64, device=like.device)
    spread = parameter_error(arithmetic.storage, arithmetic.internal, fill) if fill.isfinite() else torch.zeros_like(fill)
    return Enclosure(fill, spread)


def _as_enclosure(operand: Any) -> Enclosure:
    return operand if isinstance(operand, Enclosure) else Enclosure.exact(operand)


def _rule(arithmetic: Arithmetic, attributes: Attributes, mask: Enclosure, kept: Any, filled: Any) -> Bounded:
    """The deviation of what is chosen; no bound where the mask itself could deviate."""
    chosen, kept = mask.centre != 0, _as_enclosure(kept)
    given = _number(attributes, arithmetic, mask.centre) if filled is None else _as_enclosure(filled)
    radius = torch.where(mask.radius == 0, torch.where(chosen, given.radius, kept.radius), torch.inf)
    spread = torch.where(chosen, given.radius, 0.0).expand_as(radius) if filled is None else None
    return Bounded(torch.where(chosen, given.centre, kept.centre), radius, None, arithmetic.storage, second_order=spread)


def _linear(attributes: Attributes, d: tuple[Tensor | None, ...], rows: Tensor, mask: Enclosure, kept: Any, filled: Any) -> Tensor:
    like = next(part for part in d if part is not None)
    shapes = [o.centre.shape[1:] if isinstance(o, Enclosure) else o.shape for o in (mask, kept, filled) if o is not None]
    of_kept, of_filled = (like.new_zeros(()) if part is None else part for part in d[1:])
    moved: Tensor = torch.where(at_rows(mask.centre, rows) != 0, of_filled, of_kept)
    return moved.expand(len(rows), *torch.broadcast_shapes(*shapes))


def _transpose(
    attributes: Attributes, g: Tensor, rows: Tensor, mask: Enclosure, kept: Any, filled: Any
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    chosen = (at_rows(mask.centre, rows) != 0).to(g.dtype)

    def to(operand: Any, share: Tensor) -> Tensor | None:
        return (g * share).sum_to_size((g.shape[0], *operand.centre.shape[1:])) if isinstance(operand, Enclosure) else None

    return None, to(kept, 1 - chosen), to(filled, chosen)


def _exact(engine: Any, attributes: Attributes, mask: Any, kept: Any, filled: Any) -> Any:
    chosen = np.vectorize(lambda v: v != engine.number(0), otypes=[bool])(mask)
    return np.where(chosen, engine.number(attributes["fill"]) if filled is None else filled, kept)


def _terms(attributes: Attributes, *operands: Any) -> int:
    return 4 + max(o.centre[0].numel() for o in operands if isinstance(o, Enclosure))


MASKED = Operator(
    name="masked",
    targets=("precisionkit.masked",),
    operands=("mask", "kept", "filled"),
    apply=_apply,
    error_rule=_rule,
    exact=_exact,
    transpose=_transpose,
    transposed_terms=_terms,
    linear=_linear,
    linear_terms=lambda *_: 1,
    pointwise=True,
    stores=False,
    bound="e of what is kept or filled in; the mask is the same in every run; a number that the format does not hold has its rounding",
    source="proofs/bounds.md, theorem 8",
)
