"""Index arrays that count through the images of a batch.

PyTorch's exporter writes some averages as a flattened array from which entry ``image * stride + offset`` is gathered.  Such an
index is followed as a stride and its offsets; the gathering then takes the same places out of every image.
"""

from __future__ import annotations

import torch
from torch import Tensor

from precisionkit.models.onnx.graph import Refused
from precisionkit.models.onnx.lowering import Call, Lowered, Use, Value
from precisionkit.models.onnx.sizes import Size

_REFUSAL = "computes numbers from the batch size"


def counts(use: Use) -> bool:
    """Whether a node counts through the batch, or works on what does."""
    return any(value is not None and value.rows is not None for value in use.operands) or (
        use.node.kind == "Range" and use.operand(1).sizes is not None
    )


def on_rows(use: Use) -> Lowered:
    """Follow an index array through a node."""
    kind = use.node.kind
    if kind == "Range":
        limit = use.sizes(1)
        if limit != (Size(1),) or use.number(0) != 0 or use.number(2) != 1:
            raise Refused(_REFUSAL)
        return _value(use, 1, torch.zeros(1, dtype=torch.int64))
    if kind == "Gather" and use.operand(0).is_data and use.operand(1).rows is not None:
        stride, offsets = use.operand(1).rows or (0, torch.zeros(0))
        return gathered_rows(use, stride, offsets)
    stride, offsets, other = _operands(use)
    if kind == "Mul" and other is not None and other.numel() == 1 and other.dim() <= offsets.dim():
        return _value(use, stride * int(other), offsets * int(other))
    if kind == "Add" and other is not None and (other.dim() < offsets.dim() or other.shape[:1] == (1,)) and other.dim() <= offsets.dim():
        return _value(use, stride, offsets + other)
    axes = use.listed("axes", 1, 13) if kind == "Unsqueeze" else None
    if axes:
        for axis in sorted(use.axes(axes, offsets.dim() + len(axes))):
            if axis == 0:
                raise Refused(_REFUSAL)
            offsets = offsets.unsqueeze(axis)
        return _value(use, stride, offsets)
    raise Refused(_REFUSAL)


def _operands(use: Use) -> tuple[int, Tensor, Tensor | None]:
    """Stride and offsets, and the constant beside them."""
    rows = [value.rows for value in use.operands if value is not None and value.rows is not None]
    others = [value.tensor for value in use.operands if value is not None and value.rows is None]
    other = others[0] if len(others) == 1 else None
    if len(rows) != 1 or (other is not None and other.is_floating_point()):
        raise Refused(_REFUSAL)
    return (*rows[0], other)


def _value(use: Use, stride: int, offsets: Tensor) -> Value:
    return Value(use.node.outputs[0], (Size(1), *offsets.shape[1:]), torch.int64, rows=(stride, offsets))


def gathered_rows(use: Use, stride: int, offsets: Tensor) -> Call:
    """Take the same places out of every image of a flattened batch."""
    length = use.shape()[0]
    inside = offsets.numel() and int(offsets.min()) >= 0 and int(offsets.max()) < stride
    if use.attribute("axis", 0) or use.rank() != 1 or length != Size(stride) or not inside:
        raise Refused("takes places of one image out of another, or beyond all of them")
    size = (Size(1), *offsets.shape[1:])
    places = offsets.reshape(-1)
    if torch.equal(places, torch.arange(stride)):
        return Call(_apart, (use.operand(0), None), {"image": stride, "size": size})
    return Call(_apart, (use.operand(0), places), {"image": stride, "size": size})


def _apart(x: Tensor, places: Tensor | None, *, image: int, size: tuple[int, ...]) -> Tensor:
    if places is not None:
        x = x.reshape(size[0], image).index_select(1, places)
    return x.reshape(size)
