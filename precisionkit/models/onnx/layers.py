"""Operators of ONNX with weights or windows as torch functions: convolutions, products, normalisations, pooling."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from precisionkit.models.onnx.graph import Refused
from precisionkit.models.onnx.lowering import Call, Lower, Lowered, Operand, Use
from precisionkit.models.onnx.sizes import Dims, Size

_MOST_TERMS = 30  # operands, and letters, of an einsum
_CONV: Mapping[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_CONV_TRANSPOSE: Mapping[int, Callable[..., Tensor]] = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
_MAX_POOL: Mapping[int, Callable[..., Tensor]] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVG_POOL: Mapping[int, Callable[..., Tensor]] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
_ADAPTIVE: Mapping[int, Callable[..., Tensor]] = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}


def spatial(use: Use) -> int:
    """Number of dimensions behind batch and channels."""
    count = use.rank() - 2
    if count not in _CONV:
        raise Refused(f"works on an operand of {use.rank()} dimensions, but 3 to 5 are supported")
    return count


def _each(use: Use, name: str, count: int, default: int = 1, least: int = 1) -> tuple[int, ...]:
    values = tuple(use.attribute(name) or (default,) * count)
    if len(values) != count or min(values) < least or max(values) >= 2**31:
        raise Refused(f"has the {name} {list(values[:6])}, which does not fit {count} dimensions")
    return values


def _padding(use: Use, kernel: tuple[int, ...], strides: tuple[int, ...], dilations: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """Numbers of entries added before and after each dimension."""
    count = len(kernel)
    mode = use.attribute("auto_pad", "NOTSET")
    if mode == "NOTSET":
        pads = _each(use, "pads", 2 * count, default=0, least=0)
        return tuple(zip(pads[:count], pads[count:], strict=True))
    if mode == "VALID":
        return ((0, 0),) * count
    if mode not in ("SAME_UPPER", "SAME_LOWER"):
        raise Refused(f"has the auto_pad {mode}, which is not known")
    found = []
    for i in range(count):
        size = use.static(i + 2)
        total = max((math.ceil(size / strides[i]) - 1) * strides[i] + (kernel[i] - 1) * dilations[i] + 1 - size, 0)
        small, large = total // 2, total - total // 2
        found.append((small, large) if mode == "SAME_UPPER" else (large, small))
    return tuple(found)


def _split(pads: Sequence[tuple[int, int]], *, always: bool = False) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
    """Split padding into what the operator itself adds, and what must be padded before it, in the order of `F.pad`."""
    if not always and all(before == after for before, after in pads):
        return tuple(before for before, _ in pads), None
    return (0,) * len(pads), tuple(size for pair in reversed(pads) for size in pair)


def _padded(x: Tensor, *rest: Any, function: Callable[..., Tensor], before: tuple[int, ...], value: float, **options: Any) -> Tensor:
    return function(F.pad(x, before, value=value), *rest, **options)


def _windowed(function: Callable[..., Tensor], operands: tuple[Operand, ...], pads: Any, value: float, options: dict[str, Any]) -> Call:
    own, before = _split(pads)
    options = {**options, "padding": own}
    if before is None:
        return Call(function, operands, options)
    return Call(_padded, operands, {**options, "function": function, "before": before, "value": value})


def _conv(use: Use) -> Lowered:
    count = spatial(use)
    kernel = tuple(use.static(i + 2, 1) for i in range(count))
    if use.rank(1) != count + 2 or (use.attribute("kernel_shape") or kernel) != kernel:
        raise Refused(f"has weights of the shape {_show(use.shape(1))}, which is not that of its kernel")
    _check_bias(use, use.static(0, 1))
    strides, dilations = _each(use, "strides", count), _each(use, "dilations", count)
    options = {"stride": strides, "dilation": dilations, "groups": use.attribute("group", 1)}
    operands = (use.operand(0), use.operand(1), use.optional(2))
    return _windowed(_CONV[count], operands, _padding(use, kernel, strides, dilations), 0.0, options)


def _check_bias(use: Use, channels: int) -> None:
    """Torch itself looks at it only when numbers are computed."""
    bias = use.optional(2)
    if bias is not None and bias.shape != (channels,):
        raise Refused(f"has a bias of the shape {_show(bias.shape)} for {channels} channels")


def _conv_transpose(use: Use) -> Lowered:
    count = spatial(use)
    _check_bias(use, use.static(1, 1) * use.attribute("group", 1))
    if use.attribute("output_shape") or use.attribute("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise Refused("derives its padding from the shape of its result, but explicit pads are needed")
    pads = _each(use, "pads", 2 * count, default=0, least=0)
    if pads[:count] != pads[count:]:
        raise Refused("pads its two sides differently")
    options = {
        "stride": _each(use, "strides", count),
        "padding": pads[:count],
        "output_padding": _each(use, "output_padding", count, default=0, least=0),
        "groups": use.attribute("group", 1),
        "dilation": _each(use, "dilations", count),
    }
    return Call(_CONV_TRANSPOSE[count], (use.operand(0), use.operand(1), use.optional(2)), options)


def _show(shape: Dims) -> str:
    return f"({', '.join(map(str, shape))})"


def _gemm(use: Use) -> Lowered:
    left, right = use.operand(0), use.operand(1)
    scaled = use.attribute("alpha", 1.0) != 1 or (use.optional(2) is not None and use.attribute("beta", 1.0) != 1)
    bias = _bias(use, right.shape[0 if use.attribute("transB", 0) else 1] if len(right.shape) == 2 else 0)
    if left.is_data and right.tensor is not None and not use.attribute("transA", 0) and not scaled and bias is not _OTHER:
        weight: Operand = right if use.attribute("transB", 0) else right.tensor.t().contiguous()
        return Call(F.linear, (left, weight, bias))
    options = {name: use.attribute(name, default) for name, default in (("alpha", 1.0), ("beta", 1.0), ("transA", 0), ("transB", 0))}
    return Call(_general_product, (left, right, use.optional(2)), options)


_OTHER = object()


def _bias(use: Use, width: int | Size) -> Any:
    """The constant third operand as a vector over the columns, None without one, `_OTHER` if it is something else."""
    value = use.optional(2)
    if value is None:
        return None
    if value.tensor is None or not isinstance(width, int) or len(value.shape) > 2 or value.tensor.numel() not in (1, width):
        return _OTHER
    if value.shape == (width,):
        return value
    if value.tensor.numel() == width and value.shape[-1:] != (width,):
        return _OTHER
    return value.tensor.reshape(-1).expand(width).contiguous()


def _general_product(a: Tensor, b: Tensor, c: Tensor | None, *, alpha: float, beta: float, transA: int, transB: int) -> Tensor:
    product = torch.matmul(a.t() if transA else a, b.t() if transB else b)
    if alpha != 1:
        product = product * alpha
    if c is None:
        return product
    return product + (c if beta == 1 else c * beta)


def _matmul(use: Use) -> Lowered:
    left, right = use.operand(0), use.operand(1)
    if left.is_data and right.tensor is not None and len(right.shape) == 2 and len(left.shape) >= 2 and right.dtype == torch.float32:
        return Call(F.linear, (left, right.tensor.t().contiguous(), None))
    return Call(torch.matmul, (left, right))


def _einsum(use: Use) -> Lowered:
    equation = use.attribute("equation")
    if len(equation) > 10 * _MOST_TERMS or len(set(equation)) > _MOST_TERMS or len(use.operands) > _MOST_TERMS:
        raise Refused("has an equation of too many letters")
    return Call(_einsum_of, tuple(use.operands), {"equation": equation})


def _einsum_of(*operands: Tensor, equation: str) -> Tensor:
    return torch.einsum(equation, *operands)


def _batch_norm(use: Use) -> Lowered:
    use.only_result()
    if use.attribute("training_mode", 0):
        raise Refused("normalises by the batch's own statistics: export the network in evaluation mode")
    x, scale, bias, mean, variance = (use.operand(i) for i in range(5))
    options = {"training": False, "momentum": 0.0, "eps": use.attribute("epsilon", 1e-5)}
    return Call(F.batch_norm, (x, mean, variance, scale, bias), options, {1: "running_mean", 2: "running_var"})


def _instance_norm(use: Use) -> Lowered:
    options = {"eps": use.attribute("epsilon", 1e-5)}
    return Call(normalised_instances, (use.operand(0), use.operand(1), use.operand(2)), options)


def normalised_instances(x: Tensor, weight: Tensor, bias: Tensor, *, eps: float) -> Tensor:
    """Instance normalisation without running statistics."""
    return F.instance_norm(x, weight=weight, bias=bias, eps=eps)


def _layer_norm(use: Use) -> Lowered:
    use.only_result()
    axis = use.axis(use.attribute("axis", -1))
    shape = tuple(use.static(i) for i in range(axis, use.rank()))
    scale, bias = (None if use.optional(i) is None else _of_shape(use, i, shape, "scale" if i == 1 else "bias") for i in (1, 2))
    return Call(normalised_layer, (use.operand(0), scale, bias), {"shape": shape, "eps": use.attribute("epsilon", 1e-5)})


def _of_shape(use: Use, index: int, shape: tuple[int, ...], what: str) -> Operand:
    value = use.operand(index)
    if value.shape == shape:
        return value
    try:
        return use.constant(index).expand(shape).contiguous()
    except RuntimeError:
        raise Refused(f"has a {what} of the shape {_show(value.shape)}, which does not fit {shape}") from None


def normalised_layer(x: Tensor, weight: Tensor | None, bias: Tensor | None, *, shape: tuple[int, ...], eps: float) -> Tensor:
    """Layer normalisation over the last dimensions, of one shape."""
    return F.layer_norm(x, shape, weight, bias, eps)


def _group_norm(use: Use) -> Lowered:
    groups, channels = use.attribute("num_groups"), use.static(1)
    if groups < 1 or channels % groups:
        raise Refused(f"has {groups} groups, which do not divide {channels} channels")
    scale, bias = use.operand(1), use.operand(2)
    operands: tuple[Operand, ...] = (use.operand(0), scale, bias)
    if use.opset < 21:  # one scale for each group
        operands = (use.operand(0), *(use.constant(i).repeat_interleave(channels // groups) for i in (1, 2)))
    return Call(normalised_groups, operands, {"groups": groups, "eps": use.attribute("epsilon", 1e-5)})


def normalised_groups(x: Tensor, weight: Tensor, bias: Tensor, *, groups: int, eps: float) -> Tensor:
    """Group normalisation."""
    return F.group_norm(x, groups, weight, bias, eps)


def _pool_windows(use: Use) -> tuple[int, tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[tuple[int, int], ...]]:
    count = spatial(use)
    kernel, strides = _each(use, "kernel_shape", count), _each(use, "strides", count)
    dilations = _each(use, "dilations", count)
    return count, kernel, strides, dilations, _padding(use, kernel, strides, dilations)


def _rounds_up(use: Use, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], pads: Any) -> bool:
    """Whether ``ceil_mode`` adds windows; where torch would leave the last one out, the versions of ONNX disagree."""
    if not use.attribute("ceil_mode", 0):
        return False
    adds = False
    for i, (before, after) in enumerate(pads):
        size = use.static(i + 2)
        room = size + before + after - dilations[i] * (kernel[i] - 1) - 1
        if room % strides[i] == 0:
            continue
        adds = True
        if (room // strides[i] + 1) * strides[i] >= size + before:
            raise Refused("has a last window that lies in the padding alone, which versions of ONNX treat differently")
    return adds


def _max_pool(use: Use) -> Lowered:
    use.only_result()
    count, kernel, strides, dilations, pads = _pool_windows(use)
    if use.attribute("storage_order", 0):
        raise Refused("stores columns first")
    rounds_up = _rounds_up(use, kernel, strides, dilations, pads)
    if any(before != after for before, after in pads) and rounds_up:
        raise Refused("pads its two sides differently, with ceil_mode")
    options = {"kernel_size": kernel, "stride": strides, "dilation": dilations, "ceil_mode": rounds_up}
    return _windowed(_MAX_POOL[count], (use.operand(0),), pads, -math.inf, options)


def _avg_pool(use: Use) -> Lowered:
    count, kernel, strides, dilations, pads = _pool_windows(use)
    if max(dilations) > 1:
        raise Refused("has dilations, which torch's average pooling lacks")
    rounds_up = _rounds_up(use, kernel, strides, dilations, pads)
    counts = bool(use.attribute("count_include_pad", 0))
    uneven = any(before != after for before, after in pads)
    if (uneven and (not counts or rounds_up)) or (rounds_up and counts and any(map(any, pads))):
        raise Refused("pads such that its averages have different numbers of terms in torch")
    options = {"kernel_size": kernel, "stride": strides, "ceil_mode": rounds_up, "count_include_pad": counts or not any(map(any, pads))}
    return _windowed(_AVG_POOL[count], (use.operand(0),), pads, 0.0, options)


def _global_average(use: Use) -> Lowered:
    return Call(_ADAPTIVE[spatial(use)], (use.operand(0),), {"output_size": 1})


def _global_max(use: Use) -> Lowered:
    return Call(torch.amax, (use.operand(0),), {"dim": tuple(range(2, spatial(use) + 2)), "keepdim": True})


def _reduce(function: Callable[..., Tensor], since: int = 18) -> Lower:
    def lower(use: Use) -> Lowered:
        axes = use.listed("axes", 1, since)
        if not axes and use.attribute("noop_with_empty_axes", 0):
            return use.operand(0)
        dims = use.axes(axes) if axes else tuple(range(use.rank()))
        return Call(function, (use.operand(0),), {"dim": dims, "keepdim": bool(use.attribute("keepdims", 1))})

    return lower


LAYERS: Mapping[str, Lower] = {
    "AveragePool": _avg_pool,
    "BatchNormalization": _batch_norm,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Einsum": _einsum,
    "Gemm": _gemm,
    "GlobalAveragePool": _global_average,
    "GlobalMaxPool": _global_max,
    "GroupNormalization": _group_norm,
    "InstanceNormalization": _instance_norm,
    "LayerNormalization": _layer_norm,
    "MatMul": _matmul,
    "MaxPool": _max_pool,
    "ReduceMax": _reduce(torch.amax),
    "ReduceMean": _reduce(torch.mean),
    "ReduceMin": _reduce(torch.amin),
    "ReduceSum": _reduce(torch.sum, since=13),
}
"""Lowerings by ONNX name."""
