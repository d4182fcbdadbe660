"""Resizing of ONNX as torch functions, where torch has the same coordinates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from precisionkit.models.onnx.graph import Refused
from precisionkit.models.onnx.layers import spatial
from precisionkit.models.onnx.lowering import Call, Lower, Lowered, Use
from precisionkit.models.onnx.sizes import Size

_LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


def _upsample(use: Use) -> Lowered:
    if use.node.kind == "Upsample" and use.opset >= 10:
        raise Refused(f"is an operator that version {use.opset} of ONNX no longer has: Resize took its place")
    scales = use.constant(1).reshape(-1).tolist()
    return _resized(use, _target(use, scales, tuple(range(use.rank()))), "asymmetric", "floor")


def _resize(use: Use) -> Lowered:
    if use.opset < 11:
        return _upsample(use)
    for name, usual in (("antialias", 0), ("keep_aspect_ratio_policy", "stretch"), ("exclude_outside", 0)):
        if use.attribute(name, usual) != usual:
            raise Refused(f"has the {name} {use.attribute(name)}, which is not supported")
    axes = use.axes(use.attribute("axes") or tuple(range(use.rank())))
    scales = use.optional(2)
    if scales is not None and scales.shape != (0,):
        target = _target(use, use.constant(2).reshape(-1).tolist(), axes)
    else:
        sizes = use.sizes(3)
        if sizes is None or len(sizes) != len(axes):
            raise Refused("has neither scales nor sizes for its axes")
        target = dict(zip(axes, sizes, strict=True))
    return _resized(
        use, target, use.attribute("coordinate_transformation_mode", "half_pixel"), use.attribute("nearest_mode", "round_prefer_floor")
    )


def _target(use: Use, scales: Sequence[float], axes: Sequence[int]) -> dict[int, int | Size]:
    if len(scales) != len(axes):
        raise Refused(f"has {len(scales)} scales for {len(axes)} axes")
    target: dict[int, int | Size] = {}
    for axis, scale in zip(axes, scales, strict=True):
        size = use.shape()[axis]
        if scale == 1:
            target[axis] = size
            continue
        exact = use.static(axis) * scale if math.isfinite(scale) else 0
        # torch scales by the ratio of the sizes, ONNX by the given scale: they must be the same
        if not 0.5 < exact < 2**31 or abs(exact - round(exact)) > 1e-3:
            raise Refused(f"scales {size} entries by {scale:g}, which gives no whole number of them")
        target[axis] = round(exact)
    return target


def _resized(use: Use, target: Mapping[int, int | Size], coordinates: str, rounding: str) -> Lowered:
    count = spatial(use)
    if any(target.get(axis, use.shape()[axis]) not in (use.shape()[axis], use.written(axis)) for axis in (0, 1)):
        raise Refused("resizes the batch or the channels")
    before = tuple(use.static(i + 2) for i in range(count))
    after = tuple(int(size) for i in range(count) if not isinstance(size := target.get(i + 2, before[i]), Size))
    if len(after) != count or min(after) < 1:
        raise Refused("resizes to nothing, or to the batch")
    if before == after:
        return use.operand(0)
    mode = use.attribute("mode", "nearest")
    if mode == "nearest":
        return _nearest(use, before, after, coordinates, rounding)
    if mode not in ("linear", "bilinear"):
        raise Refused(f"resizes in the mode {mode}, but nearest and linear are supported")
    aligned = coordinates == "align_corners"
    if not aligned and coordinates not in ("half_pixel", "pytorch_half_pixel"):
        raise Refused(f"interpolates with the coordinates {coordinates}, which torch lacks")
    if coordinates == "pytorch_half_pixel" and 1 in after:
        raise Refused("interpolates down to one entry, where torch takes other coordinates")
    return Call(F.interpolate, (use.operand(0),), {"size": after, "mode": _LINEAR[count], "align_corners": aligned})


def _nearest(use: Use, before: tuple[int, ...], after: tuple[int, ...], coordinates: str, rounding: str) -> Lowered:
    sources = [_sources(m, n, coordinates, rounding) for m, n in zip(before, after, strict=True)]
    if all(s == [min(i * m // n, m - 1) for i in range(n)] for s, m, n in zip(sources, before, after, strict=True)):
        return Call(F.interpolate, (use.operand(0),), {"size": after, "mode": "nearest"})
    return Call(_taken, (use.operand(0), *(torch.tensor(s) for s in sources)))


def _sources(size: int, target: int, coordinates: str, rounding: str) -> list[int]:
    """Where each entry of a result comes from, in exact arithmetic: coordinates are halves of the ratio's numerators."""
    if target > 2**20:
        raise Refused(f"resizes to {target} entries")
    found = []
    for i in range(target):
        # the coordinate is numerator / denominator
        if coordinates == "asymmetric":
            numerator, denominator = i * size, target
        elif coordinates in ("half_pixel", "pytorch_half_pixel"):
            numerator, denominator = (2 * i + 1) * size - target, 2 * target
            if coordinates == "pytorch_half_pixel" and target == 1:
                numerator = 0
        elif coordinates == "align_corners":
            numerator, denominator = i * (size - 1), max(target - 1, 1)
        else:
            raise Refused(f"takes the nearest entries with the coordinates {coordinates}, which are not supported")
        found.append(min(max(_rounded(numerator, denominator, rounding), 0), size - 1))
    return found


def _rounded(numerator: int, denominator: int, rounding: str) -> int:
    if rounding == "floor":
        return numerator // denominator
    if rounding == "ceil":
        return -(-numerator // denominator)
    if rounding == "round_prefer_floor":
        return -((denominator - 2 * numerator) // (2 * denominator))
    if rounding == "round_prefer_ceil":
        return (2 * numerator + denominator) // (2 * denominator)
    raise Refused(f"rounds coordinates by {rounding}, which is not known")


def _taken(x: Tensor, *places: Tensor) -> Tensor:
    for i, index in enumerate(places):
        x = x.index_select(i + 2, index)
    return x


RESIZING: Mapping[str, Lower] = {"Resize": _resize, "Upsample": _upsample}
"""Lowerings by ONNX name."""
