"""Operators that move numbers and round nothing: view, permute, slice, cat, pad and their kin."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from precisionkit.arithmetic import Arithmetic
from precisionkit.enclosure import Bounded, Enclosure
from precisionkit.ops._store import parameter_error
from precisionkit.ops.adjoint import autograd_transpose, linear_by
from precisionkit.ops.record import Attributes, Check, Operator, no_objection

Move = Callable[..., Tensor]


def _rule(move: Move) -> Callable[..., Bounded]:
    def rule(arithmetic: Arithmetic, attributes: Attributes, *operands: Enclosure | Tensor) -> Bounded:
        enclosed = [o if isinstance(o, Enclosure) else Enclosure.exact(o) for o in operands]
        centre, radius = move(attributes, *(o.centre for o in enclosed)), move(attributes, *(o.radius for o in enclosed))
        return Bounded(centre, radius, None, arithmetic.storage)

    return rule


def _exact(move: Move) -> Callable[..., Any]:
    """Move the places of the entries, then look the entries up."""

    def exact(engine: Any, attributes: Attributes, *arrays: Any) -> Any:
        starts = np.cumsum([0, *(a.size for a in arrays)])
        places = [torch.arange(s, s + a.size, dtype=torch.float64).reshape(a.shape) for s, a in zip(starts, arrays, strict=False)]
        return np.concatenate([a.reshape(-1) for a in arrays])[move(attributes, *places).long().numpy()]

    return exact


def _moving(
    name: str, targets: tuple[str, ...], move: Move, operands: tuple[str, ...] = ("self",), check: Check = no_objection
) -> Operator:
    return Operator(
        name=name,
        targets=targets,
        operands=operands,
        apply=move,
        error_rule=_rule(move),
        exact=_exact(move),
        transpose=autograd_transpose(move),
        linear=linear_by(move),
        stores=False,
        check=check,
        bound="e moves along; no rounding",
        source="proofs/bounds.md, theorem 8",
    )


def _view(attributes: Attributes, x: Tensor) -> Tensor:
    """The first entry of the size is the batch, whatever it was at capture."""
    return x.reshape(x.shape[0], *attributes["size"][1:])


def _not_batch(attributes: Attributes, shapes: Any) -> str | None:
    rank = len(shapes[0])
    dims = [attributes[name] for name in ("dim", "dim0", "dim1") if isinstance(attributes.get(name), int)]
    return "it acts on the batch dimension" if any(d % max(rank, 1) == 0 for d in dims) else None


def _squeeze(attributes: Attributes, x: Tensor) -> Tensor:
    dims = attributes["dim"]
    return torch.squeeze(x, dims if isinstance(dims, int) else tuple(dims))


def _unsqueeze_check(attributes: Attributes, shapes: Any) -> str | None:
    return "it acts on the batch dimension" if attributes["dim"] % (len(shapes[0]) + 1) == 0 else None


def _permute_check(attributes: Attributes, shapes: Any) -> str | None:
    return "it moves the batch dimension" if attributes["dims"][0] % len(shapes[0]) else None


def _slice(attributes: Attributes, x: Tensor) -> Tensor:
    index = [slice(None)] * x.dim()
    index[attributes.get("dim", 0)] = slice(attributes.get("start"), attributes.get("end"), attributes.get("step", 1))
    return x[tuple(index)]


def _pad(attributes: Attributes, x: Tensor) -> Tensor:
    return F.pad(x, tuple(attributes["pad"]), attributes.get("mode", "constant"), attributes.get("value"))


def _zero_pad(attributes: Attributes, x: Tensor) -> Tensor:
    return _pad({**attributes, "value": None if attributes.get("mode", "constant") != "constant" else 0.0}, x)


def _pad_rule(arithmetic: Arithmetic, attributes: Attributes, x: Enclosure) -> Bounded:
    """The padded value is rounded to the storage format, to nothing, or to binary32 on its way: its spread is its radius."""
    value = float(attributes.get("value") or 0.0)
    exact = torch.tensor(value, dtype=torch.float64, device="cpu")
    spread = float(parameter_error(arithmetic.storage, arithmetic.internal, exact))
    centre = _pad(attributes, x.centre)
    radius = _zero_pad(attributes, x.radius)
    padded = (1 - _zero_pad(attributes, torch.ones_like(x.centre))) * spread
    return Bounded(centre, radius + padded, None, arithmetic.storage, second_order=padded)


def _pad_exact(engine: Any, attributes: Attributes, x: Any) -> Any:
    places = torch.arange(1, x.size + 1, dtype=torch.float64).reshape(x.shape)
    fill = np.full(1, engine.number(attributes.get("value") or 0.0), dtype=object)
    return np.concatenate([fill, x.reshape(-1)])[_zero_pad(attributes, places).long().numpy()]


def _pad_check(attributes: Attributes, shapes: Any) -> str | None:
    if len(attributes["pad"]) > 2 * (len(shapes[0]) - 1):
        return "it pads the batch dimension"
    return None


SHAPE_OPERATORS = (
    _moving("view", ("aten.view.default", "aten.reshape.default", "aten._unsafe_view.default"), _view),
    _moving("flatten", ("aten.flatten.using_ints",), lambda a, x: torch.flatten(x, a.get("start_dim", 0), a.get("end_dim", -1))),
    _moving("permute", ("aten.permute.default",), lambda a, x: x.permute(a["dims"]), check=_permute_check),
    _moving("transpose", ("aten.transpose.int",), lambda a, x: x.transpose(a["dim0"], a["dim1"]), check=_not_batch),
    _moving("unsqueeze", ("aten.unsqueeze.default",), lambda a, x: x.unsqueeze(a["dim"]), check=_unsqueeze_check),
    _moving("squeeze", ("aten.squeeze.dim", "aten.squeeze.dims"), _squeeze, check=_not_batch),
    _moving("slice", ("aten.slice.Tensor",), _slice, check=lambda a, s: _not_batch({"dim": a.get("dim", 0)}, s)),
    _moving("select", ("aten.select.int",), lambda a, x: x.select(a["dim"], a["index"]), check=_not_batch),
    _moving(
        "cat",
        ("aten.cat.default", "aten.concat.default"),
        lambda a, *xs: torch.cat(xs, a.get("dim", 0)),
        operands=("*tensors",),
        check=lambda a, s: _not_batch({"dim": a.get("dim", 0)}, s),
    ),
    _moving(
        "clone",
        ("aten.clone.default", "aten.alias.default", "aten.detach.default", "aten.contiguous.default", "aten.dropout.default"),
        lambda _, x: x,
        operands=("self",),
    ),
    Operator(
        name="pad",
        targets=("aten.pad.default", "aten.constant_pad_nd.default"),
        operands=("self",),
        apply=_pad,
        error_rule=_pad_rule,
        exact=_pad_exact,
        transpose=autograd_transpose(_zero_pad),
        transposed_terms=lambda attributes, x: math.prod(1 + abs(p) for p in attributes["pad"]),
        linear=linear_by(_zero_pad),
        check=_pad_check,
        bound="e moves along; a padded constant that the format does not hold has its rounding as radius",
        source="proofs/bounds.md, theorem 8",
    ),
)
