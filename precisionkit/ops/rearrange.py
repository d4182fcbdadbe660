"""Any operator that moves, repeats or fills in numbers, as one index: what reshapes across the batch, rolls, windows and masks become."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from precisionkit.arithmetic import Arithmetic
from precisionkit.enclosure import Bounded, Enclosure
from precisionkit.ops._store import parameter_error
from precisionkit.ops.record import Attributes, Operator


def _source(parts: list[Tensor], fills: Tensor) -> Tensor:
    """Fills and the entries of every operand of each image, in one row; constants are the same for each image."""
    batch = max((p.shape[0] for p in parts), default=1)
    rows = [fills.expand(batch, -1), *(p.reshape(p.shape[0], -1).expand(batch, -1) for p in parts)]
    return torch.cat(rows, 1)


def _moved(attributes: Attributes, parts: list[Tensor], fills: Tensor) -> Tensor:
    index = attributes["index"].to(fills.device)
    moved: Tensor = _source(parts, fills)[:, index.flatten()]
    return moved.reshape(-1, *index.shape)


def _fills(attributes: Attributes, like: Tensor) -> Tensor:
    return torch.tensor(attributes["fills"], dtype=torch.float64, device=like.device).to(like.dtype)[None]


def _parts(operands: tuple[Any, ...], take: Any) -> list[Tensor]:
    """Operands as batches: of one for a constant."""
    return [take(o) if isinstance(o, Enclosure) else o[None] for o in operands]


def _apply(attributes: Attributes, *tensors: Tensor) -> Tensor:
    batched = attributes["batched"]
    parts = [t if b else t[None] for t, b in zip(tensors, batched, strict=True)]
    return _moved(attributes, parts, _fills(attributes, tensors[0]))


def _rule(arithmetic: Arithmetic, attributes: Attributes, *operands: Any) -> Bounded:
    """A number that is filled in is rounded to the storage format, to the internal one, or not at all: that is its radius."""
    like = next(o.centre for o in operands if isinstance(o, Enclosure))
    fills = _fills(attributes, like)
    finite = torch.where(fills.isfinite(), fills, torch.zeros_like(fills))
    spread = parameter_error(arithmetic.storage, arithmetic.internal, finite)
    centre = _moved(attributes, _parts(operands, lambda o: o.centre), fills)
    nothing = [torch.zeros_like(part) for part in _parts(operands, lambda o: o.centre)]
    filled = _moved(attributes, nothing, spread)
    radius = _moved(attributes, [o.radius if isinstance(o, Enclosure) else torch.zeros_like(o[None]) for o in operands], spread)
    return Bounded(centre, radius, None, arithmetic.storage, second_order=filled if bool(spread.any()) else None)


def _exact(engine: Any, attributes: Attributes, *arrays: Any) -> Any:
    batched = attributes["batched"]
    batch = max(a.shape[0] for a, b in zip(arrays, batched, strict=True) if b)
    fills = np.array([engine.number(f) for f in attributes["fills"]] + [None], dtype=object)[:-1]
    rows = []
    for i in range(batch):
        parts = [a[i].reshape(-1) if b else a.reshape(-1) for a, b in zip(arrays, batched, strict=True)]
        rows.append(np.concatenate([fills, *parts])[attributes["index"].numpy()])
    return np.stack(rows)


def _linear(attributes: Attributes, deviations: tuple[Tensor | None, ...], rows: Tensor, *operands: Any) -> Tensor:
    like = next(d for d in deviations if d is not None)

    def part(deviation: Tensor | None, operand: Any) -> Tensor:
        if deviation is not None:
            return deviation
        shape = operand.centre.shape[1:] if isinstance(operand, Enclosure) else operand.shape
        return like.new_zeros(1, *shape)

    parts = [part(d, o) for d, o in zip(deviations, operands, strict=True)]
    return _moved(attributes, parts, like.new_zeros(1, len(attributes["fills"])))


def _transpose(attributes: Attributes, g: Tensor, rows: Tensor, *operands: Any) -> tuple[Tensor | None, ...]:
    """Add what came from the same entry."""
    shapes = [o.centre.shape[1:] if isinstance(o, Enclosure) else o.shape for o in operands]
    sizes = [len(attributes["fills"]), *(shape.numel() for shape in shapes)]
    total = g.new_zeros(g.shape[0], sum(sizes)).index_add_(1, attributes["index"].flatten().to(g.device), g.flatten(1))
    parts = total.split(sizes, 1)[1:]
    return tuple(
        part.reshape(-1, *shape) if isinstance(o, Enclosure) else None for part, shape, o in zip(parts, shapes, operands, strict=True)
    )


def _repeats(attributes: Attributes, *_: Any) -> int:
    """How often the most used entry occurs."""
    return int(torch.bincount(attributes["index"].flatten()).max()) if attributes["index"].numel() else 1


REARRANGE = Operator(
    name="rearrange",
    targets=("precisionkit.rearrange",),
    operands=("*tensors",),
    apply=_apply,
    error_rule=_rule,
    exact=_exact,
    transpose=_transpose,
    transposed_terms=_repeats,
    linear=_linear,
    stores=False,
    bound="e moves along; a number that is filled in and that the format does not hold has its rounding as radius",
    source="proofs/bounds.md, theorem 8",
)
