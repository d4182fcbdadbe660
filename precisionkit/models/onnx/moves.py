"""Operators of ONNX that move numbers as torch functions: reshaping, slicing, gathering, padding."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from precisionkit.models.onnx.graph import Refused
from precisionkit.models.onnx.lowering import Call, Lower, Lowered, Use, Value
from precisionkit.models.onnx.rows import gathered_rows
from precisionkit.models.onnx.sizes import Dims, Size, numel

_END = 2**24  # from here on, a number stands for the end of the batch
_LARGEST = 2**31 - 1
_PAD_MODES = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}


def _reshape(use: Use) -> Lowered:
    target = use.sizes(1)
    assert target is not None  # the operand is required
    return _viewed(use, _free(use, _filled(use, target)))


def _filled(use: Use, target: Dims) -> Dims:
    """Put in the sizes that are copied (0) or left over (-1), as they are in the file."""
    follows = any(isinstance(size, Size) for size in target)
    own = use.shape() if follows else tuple(use.written(i) for i in range(use.rank()))
    if not use.attribute("allowzero", 0):
        if any(size == 0 and i >= len(own) for i, size in enumerate(target)):
            raise Refused("copies a size that its operand lacks")
        target = tuple(own[i] if size == 0 else size for i, size in enumerate(target))
    if target.count(-1) > 1 or any(isinstance(size, int) and size < -1 for size in target):
        raise Refused(f"has the shape {tuple(map(str, target))}, which is none")
    if -1 not in target:
        return target
    rest, whole = numel(tuple(size for size in target if size != -1)), numel(own)
    if rest == 0:
        raise Refused("leaves a size of an empty array open")
    left: Any = whole
    if isinstance(whole, int) and (isinstance(rest, Size) or whole % rest):
        raise Refused(f"makes {whole} numbers out of a multiple of {rest}")
    return tuple(left // rest if size == -1 else size for size in target)


def _free(use: Use, target: Dims) -> Dims:
    """In a file for one batch alone, find the size that follows the batch.

    As many numbers lie before the images of the target as before those of the operand.  Where the target has merged what lies
    before with the batch, the batch stays a dimension of its own: linear layers and elementwise operators do not mind, and
    whether the others do is found by running the network.
    """
    shape = use.shape()
    place = next((i for i, size in enumerate(shape) if isinstance(size, Size)), None)
    if use.fixed is None or place is None or any(isinstance(size, Size) for size in target):
        return target
    before = numel(shape[:place])
    for i, size in enumerate(target):
        if numel(target[:i]) == before and (i + 1 < len(target) or i == 0) and isinstance(size, int) and size and size % use.fixed == 0:
            return (*target[:i], Size(size // use.fixed), *target[i + 1 :])
    if use.fixed == 1:
        for i in range(1, len(target)):
            if numel(target[:i]) == before:
                return (*target[:i], Size(1), *target[i:])
    raise Refused(f"makes the shape {tuple(map(str, target))} of {tuple(map(str, shape))}, which mixes the images of a batch")


def _viewed(use: Use, target: Dims) -> Lowered:
    if numel(target) != numel(use.shape()):
        raise Refused(f"makes the shape ({', '.join(map(str, target))}) of ({', '.join(map(str, use.shape()))})")
    return Call(_view, (use.operand(0),), {"size": target})


def _view(x: Tensor, *, size: tuple[int, ...]) -> Tensor:
    return x.reshape(size)


def _flatten(use: Use) -> Lowered:
    axis = use.attribute("axis", 1)
    axis = use.axis(axis) if axis < use.rank() else use.rank()
    if axis == 1:
        return Call(torch.flatten, (use.operand(0),), {"start_dim": 1})
    return _viewed(use, (numel(use.shape()[:axis]), numel(use.shape()[axis:])))


def _transpose(use: Use) -> Lowered:
    order = use.attribute("perm") or tuple(reversed(range(use.rank())))
    if len(use.axes(order)) != use.rank():
        raise Refused(f"orders {len(order)} axes of {use.rank()}")
    return Call(torch.permute, (use.operand(0),), {"dims": tuple(order)})


def _squeeze(use: Use) -> Lowered:
    axes = use.listed("axes", 1, 13)
    dims = use.axes(axes) if axes is not None else tuple(i for i, size in enumerate(use.shape()) if size == 1)
    if any(use.shape()[i] != 1 for i in dims):
        raise Refused("removes a dimension that is not 1")
    return Call(torch.squeeze, (use.operand(0),), {"dim": dims}) if dims else use.operand(0)


def _unsqueeze(use: Use) -> Lowered:
    axes = use.listed("axes", 1, 13) or ()
    return Call(_expanded_dims, (use.operand(0),), {"axes": tuple(sorted(use.axes(axes, use.rank() + len(axes))))})


def _expanded_dims(x: Tensor, *, axes: tuple[int, ...]) -> Tensor:
    for axis in axes:
        x = x.unsqueeze(axis)
    return x


def _expand(use: Use) -> Lowered:
    target = use.sizes(1)
    assert target is not None  # the operand is required
    shape = use.shape()
    rank = max(len(shape), len(target))
    own, wanted = ((1,) * (rank - len(dims)) + dims for dims in (shape, target))
    size = tuple(o if w in (1, use.fixed if isinstance(o, Size) else 1) else w for o, w in zip(own, wanted, strict=True))
    return use.operand(0) if size == shape else Call(_expanded, (use.operand(0),), {"size": size})


def _expanded(x: Tensor, *, size: tuple[int, ...]) -> Tensor:
    return x.expand(size)


def _tile(use: Use) -> Lowered:
    repeats = use.sizes(1)
    if repeats is None or len(repeats) != use.rank() or any(isinstance(r, int) and r < 0 for r in repeats):
        raise Refused("repeats another number of dimensions than its operand has")
    return Call(torch.tile, (use.operand(0),), {"dims": repeats})


def _concat(use: Use) -> Lowered:
    values = [use.operand(i) for i in range(len(use.operands))]
    axis = use.axis(use.attribute("axis"))
    shape = next((v.shape for v in values if any(isinstance(size, Size) for size in v.shape)), None)
    if use.fixed is None or shape is None:
        return Call(_joined, tuple(values), {"dim": axis, "sizes": (None,) * len(values)})
    return Call(_joined, tuple(values), {"dim": axis, "sizes": tuple(_grown(use, v, shape, axis) for v in values)})


def _grown(use: Use, value: Value, shape: Dims, axis: int) -> Dims | None:
    """Shape to which a constant is repeated, in a file for one batch alone, to go with what follows the batch."""
    if len(value.shape) != len(shape) or any(isinstance(size, Size) for size in value.shape):
        return None
    wanted = tuple(o if i == axis or not isinstance(s, Size) else s for i, (o, s) in enumerate(zip(value.shape, shape, strict=True)))
    return None if wanted == value.shape else wanted


def _joined(*parts: Tensor, dim: int, sizes: tuple[tuple[int, ...] | None, ...]) -> Tensor:
    return torch.cat([part if size is None else part.expand(size) for part, size in zip(parts, sizes, strict=True)], dim)


def _split(use: Use) -> Lowered:
    axis = use.axis(use.attribute("axis", 0))
    size, count = use.static(axis), len(use.node.outputs)
    parts = use.listed("split", 1, 13)
    if parts is None:
        whole = -(-size // count)
        parts = tuple(max(min(whole, size - i * whole), 0) for i in range(count))
        if use.opset < 18 and size % count:
            raise Refused(f"splits {size} into {count} equal parts")
    if len(parts) != count or sum(parts) != size or min(parts) < 0:
        raise Refused(f"splits {size} into the parts {parts[:6]}")
    return Call(_parts, (use.operand(0),), {"sizes": parts, "dim": axis})


def _parts(x: Tensor, *, sizes: tuple[int, ...], dim: int) -> tuple[Tensor, ...]:
    return torch.split(x, list(sizes), dim)


def _slice(use: Use) -> Lowered:
    starts, ends = use.listed("starts", 1, 10), use.sizes(2) if use.opset >= 10 else use.attribute("ends")
    axes = use.listed("axes", 3, 10)
    steps = (use.integers(4) if use.opset >= 10 else None) or (1,) * len(starts or ())
    if starts is None or ends is None or len({len(starts), len(ends), len(steps), len(starts if axes is None else axes)}) != 1:
        raise Refused("has different numbers of starts, ends, axes and steps")
    dims = use.axes(axes if axes is not None else tuple(range(len(starts))))
    ranges: list[tuple[int, int, int, int]] = []
    for axis, start, end, step in zip(dims, starts, ends, steps, strict=True):
        size = use.shape()[axis]
        if isinstance(size, Size):
            if start or step != 1 or not (end == size or (isinstance(end, int) and end >= _END) or end == use.written(axis) != size):
                raise Refused("takes a part of the batch")
            continue
        if isinstance(end, Size) or step == 0:
            raise Refused("slices up to the batch size, or in steps of zero")
        begin, stop, _ = slice(start, end if step > 0 or end >= -size else None, step).indices(size)
        if (begin, stop, step) != (0, size, 1):
            ranges.append((axis, begin, stop, step))
    return Call(_sliced, (use.operand(0),), {"ranges": tuple(ranges)}) if ranges else use.operand(0)


def _sliced(x: Tensor, *, ranges: tuple[tuple[int, int, int, int], ...]) -> Tensor:
    for axis, begin, stop, step in ranges:
        if step > 0:
            x = x[(slice(None),) * axis + (slice(begin, stop, step),)]
        else:
            # torch has no negative steps: turn the dimension round, and count from its other end
            size = x.shape[axis]
            x = x.flip(axis)[(slice(None),) * axis + (slice(size - 1 - begin, size - 1 - stop, -step),)]
    return x


def _gather(use: Use) -> Lowered:
    axis = use.axis(use.attribute("axis", 0))
    data, places = use.operand(0), use.operand(1)
    if isinstance(length := data.shape[axis], Size) and use.fixed == 1 and len(data.shape) == 1:
        return gathered_rows(use, length.times, use.constant(1))
    if places.tensor is None:
        if axis or len(data.shape) != 2 or data.tensor is None or data.dtype != torch.float32:
            raise Refused("takes places that the input chooses, which is supported for the rows of a constant matrix alone")
        return Call(_embedded, (places, data))
    index = _wrapped(use, axis)
    if not index.dim():
        return Call(torch.select, (data,), {"dim": axis, "index": int(index)})
    return Call(_selected, (data, index.reshape(-1)), {"axis": axis, "shape": tuple(index.shape)})


def _wrapped(use: Use, axis: int) -> Tensor:
    """Constant places, counted from the front."""
    index, size = use.constant(1).long(), use.static(axis)
    if index.numel() and not (-size <= int(index.min()) and int(index.max()) < size):
        raise Refused(f"takes a place beyond {size}")
    return torch.where(index < 0, index + size, index)


def _embedded(tokens: Tensor, weight: Tensor) -> Tensor:
    return F.embedding(tokens, weight)


def _selected(x: Tensor, index: Tensor, *, axis: int, shape: tuple[int, ...]) -> Tensor:
    found = x.index_select(axis, index)
    return found if len(shape) == 1 else found.unflatten(axis, shape)


def _gather_elements(use: Use) -> Lowered:
    axis = use.axis(use.attribute("axis", 0))
    return Call(_gathered, (use.operand(0), _wrapped(use, axis)), {"axis": axis})


def _gathered(x: Tensor, index: Tensor, *, axis: int) -> Tensor:
    return torch.gather(x, axis, index)


def _scatter_nd(use: Use) -> Lowered:
    data, places, updates = (use.operand(i) for i in range(3))
    if use.attribute("reduction", "none") != "none" or use.constant(1).shape[-1:] == () or data.tensor is None or updates.tensor is None:
        raise Refused("writes into what depends on the input, or adds to it")
    return Call(_scattered, (data, places, updates))


def _scattered(data: Tensor, places: Tensor, updates: Tensor) -> Tensor:
    return data.index_put(places.long().unbind(-1), updates)


def _pad(use: Use) -> Lowered:
    pads = use.listed("pads", 1, 11)
    fill = use.number(2) if use.opset >= 11 else use.attribute("value", 0.0)
    if use.opset >= 11 and use.optional(2) is not None and fill is None:
        raise Refused("pads with a number that is no constant")
    listed = use.integers(3) if use.opset >= 18 else None
    axes = use.axes(listed) if listed is not None else tuple(range(use.rank()))
    if pads is None or len(pads) != 2 * len(axes) or max(map(abs, pads), default=0) >= _LARGEST:
        raise Refused(f"has {len(pads or ())} pads for {len(axes)} axes")
    mode = use.attribute("mode", "constant")
    if mode not in _PAD_MODES:
        raise Refused(f"pads in the mode {mode}, which is not known")
    pairs = {axis: (pads[i], pads[i + len(axes)]) for i, axis in enumerate(axes)}
    flat = [size for axis in reversed(range(use.rank())) for size in pairs.get(axis, (0, 0))]
    while flat and flat[-2:] == [0, 0]:
        del flat[-2:]
    if not flat:
        return use.operand(0)
    if len(flat) == 2 * use.rank() and isinstance(use.shape()[0], Size):
        raise Refused("pads the batch")
    options: dict[str, Any] = {"pad": tuple(flat), "mode": _PAD_MODES[mode]}
    return Call(F.pad, (use.operand(0),), {**options, "value": fill or 0.0} if mode == "constant" else options)


def _depth_to_space(use: Use) -> Lowered:
    block = _block(use)
    if use.attribute("mode", "DCR") == "CRD":
        return Call(F.pixel_shuffle, (use.operand(0),), {"upscale_factor": block})
    return Call(_deep_to_wide, (use.operand(0),), {"block": block})


def _block(use: Use) -> int:
    block = use.attribute("blocksize")
    if use.rank() != 4 or not 1 <= block < 2**15:
        raise Refused(f"takes blocks of {block} in {use.rank()} dimensions")
    return int(block)


def _deep_to_wide(x: Tensor, *, block: int) -> Tensor:
    n, c, h, w = x.shape
    x = x.reshape(n, block, block, c // block**2, h, w).permute(0, 3, 4, 1, 5, 2)
    return x.reshape(n, c // block**2, h * block, w * block)


def _space_to_depth(use: Use) -> Lowered:
    return Call(_wide_to_deep, (use.operand(0),), {"block": _block(use)})


def _wide_to_deep(x: Tensor, *, block: int) -> Tensor:
    n, c, h, w = x.shape
    x = x.reshape(n, c, h // block, block, w // block, block).permute(0, 3, 5, 1, 2, 4)
    return x.reshape(n, c * block**2, h // block, w // block)


def _triangle(use: Use) -> Lowered:
    diagonal = use.number(1) or 0
    if use.optional(1) is not None and use.number(1) is None:
        raise Refused("takes its diagonal from the input")
    function: Callable[..., Tensor] = torch.triu if use.attribute("upper", 1) else torch.tril
    return Call(function, (use.operand(0),), {"diagonal": int(max(min(diagonal, _LARGEST), -_LARGEST))})


def _constant_of_shape(use: Use) -> Lowered:
    target = use.sizes(0)
    value = use.attribute("value", torch.zeros(1))
    if target is None or value.numel() != 1 or any(isinstance(size, int) and size < 0 for size in target):
        raise Refused("has no shape, or not one number to fill it with")
    return Call(_expanded, (value.reshape(()),), {"size": target})


def _range(use: Use) -> Lowered:
    start, limit, step = (use.constant(i) for i in range(3))
    ends = [float(t) for t in (start, limit, step)]
    if not step or not all(map(math.isfinite, ends)) or (ends[1] - ends[0]) / ends[2] > 10 * 2**20:
        raise Refused("counts in steps of zero, or too far")
    count = max(math.ceil((ends[1] - ends[0]) / ends[2]), 0)
    return Call(_itself, (start + step * torch.arange(count, dtype=start.dtype),))


def _itself(x: Tensor) -> Tensor:
    return x


MOVES: Mapping[str, Lower] = {
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "DepthToSpace": _depth_to_space,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "Pad": _pad,
    "Range": _range,
    "Reshape": _reshape,
    "ScatterND": _scatter_nd,
    "Slice": _slice,
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Trilu": _triangle,
    "Unsqueeze": _unsqueeze,
}
"""Lowerings by ONNX name."""
