"""Operators that are read as several nodes, each of which has a record.

Every function takes the reader, the node and its arguments, and returns the value of the node.  Where a kernel rounds less often
than these nodes do, its runs lie within their bounds as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from precisionkit.capture.layout import Layout, Value
from precisionkit.errors import UnsupportedOperatorError

if TYPE_CHECKING:
    from precisionkit.capture.reader import Reader

Expansion = Callable[["Reader", fx.Node, dict[str, Any]], Any]


def _refused(reader: Reader, node: fx.Node, why: str) -> UnsupportedOperatorError:
    return UnsupportedOperatorError(f"This use of {reader.describe(node)} is not supported: {why}.")


def _regular(shape: tuple[int, ...]) -> Layout:
    return Layout((1, *shape), True, (False,) + (True,) * len(shape))


def _one_input(reader: Reader, node: fx.Node, value: Any) -> Value:
    if not isinstance(value, Value) or value.constant is not None or not value.layout.regular:
        raise _refused(reader, node, "its input must be a tensor whose first dimension is the batch")
    return value


def _images(reader: Reader, node: fx.Node, value: Any, dims: int) -> Value:
    """Batches of channels of so many dimensions."""
    x = _one_input(reader, node, value)
    if len(x.layout.single) != dims + 2:
        raise _refused(reader, node, f"only batches of {dims + 2} dimensions are supported")
    return x


# ------------------------------------------------------------------------------------------------------------ attention
def _attention(reader: Reader, node: fx.Node, given: dict[str, Any]) -> Any:
    """A boolean or causal mask becomes one of zeros and minus infinities."""
    mask, query, key = given.get("attn_mask"), given["query"], given["key"]
    if isinstance(mask, Value) and mask.constant is None:
        raise _refused(reader, node, "its mask depends on the input")
    if given.get("is_causal"):
        shape = (query.layout.single[-2], key.layout.single[-2])
        mask = reader.hold(f"{node.name}_causal", torch.ones(shape, dtype=torch.bool).tril())
    if isinstance(mask, Value) and mask.constant is not None and mask.constant.dtype == torch.bool:
        hidden = torch.zeros(mask.constant.shape).masked_fill(~mask.constant, -math.inf)
        mask = reader.hold(f"{mask.name}_scores", hidden)
    kept = {name: given[name] for name in ("query", "key", "value", "scale", "dropout_p", "enable_gqa") if name in given}
    return reader.operation(node, "attention", kept | ({} if mask is None else {"attn_mask": mask}))


# --------------------------------------------------------------------------------------------------- transposed convolution
def _each(value: Any, dims: int) -> list[int]:
    values = [value] if isinstance(value, int) else list(value)
    return values if len(values) == dims else values[:1] * dims


def _conv_transpose(dims: int) -> Expansion:
    def expand(reader: Reader, node: fx.Node, given: dict[str, Any]) -> Any:
        """A convolution of the input with zeros between its entries, with the kernel turned around."""
        x, weight = _images(reader, node, given["input"], dims), given["weight"].constant
        if weight is None:
            raise _refused(reader, node, "its weight depends on the input")
        stride, padding, dilation, extra = (
            _each(given.get(name, default), dims)
            for name, default in (("stride", 1), ("padding", 0), ("dilation", 1), ("output_padding", 0))
        )
        groups, kernel = int(given.get("groups", 1)), weight.shape[2:]
        spread = [(n - 1) * s + 1 for n, s in zip(x.layout.single[2:], stride, strict=True)]
        before = [d * (k - 1) - p for d, k, p in zip(dilation, kernel, padding, strict=True)]
        behind = [b + e for b, e in zip(before, extra, strict=True)]
        if min(before) < 0:
            raise _refused(reader, node, "its padding exceeds the reach of its kernel")
        channels = x.layout.single[1]
        total = [b + n + e for b, n, e in zip(before, spread, behind, strict=True)]
        index = torch.zeros(channels, *total, dtype=torch.int64)
        places = tuple(slice(b, b + n, s) for b, n, s in zip(before, spread, stride, strict=True))
        index[(slice(None), *places)] = 1 + torch.arange(math.prod(x.layout.shape)).reshape(x.layout.shape)
        widened = reader.add(
            node, "_spread", "rearrange", [x], {"index": index, "fills": (0.0,), "batched": (True,)}, _regular(tuple(index.shape))
        )
        turned = weight.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1).flip(tuple(range(2, 2 + dims)))
        kernels = reader.hold(f"{node.name}_turned", turned.contiguous())
        attributes = {"stride": (1,) * dims, "padding": (0,) * dims, "dilation": tuple(dilation), "groups": groups}
        return reader.add(
            node, "", f"conv_transpose{dims}d", [widened, kernels, given.get("bias")], attributes, reader.layout_of(node.meta["val"].shape)
        )

    return expand


# ------------------------------------------------------------------------------------------------------------- pooling
def _pool1d(record: str, names: tuple[str, ...]) -> Expansion:
    def expand(reader: Reader, node: fx.Node, given: dict[str, Any]) -> Any:
        """Pooling in two dimensions of images that are one pixel high."""
        x = _images(reader, node, given.get("self", given.get("input")), 1)
        neutral = {"kernel_size": 1, "stride": 1, "padding": 0, "dilation": 1, "output_size": 1}
        attributes: dict[str, Any] = {
            name: (neutral[name], *_each(given[name], 1)) if name in neutral else given[name]
            for name in names
            if given.get(name) not in (None, [], ())
        }
        high = reader.viewed(node, x, (x.layout.shape[0], 1, x.layout.shape[1]))
        layout = reader.layout_of(node.meta["val"].shape)
        pooled = reader.add(node, "_flat", record, [high], attributes, _regular((layout.shape[0], 1, layout.shape[1])))
        return reader.viewed(node, pooled, layout.shape, name=node.name)

    return expand


def _pool1d_with_places(reader: Reader, node: fx.Node, given: dict[str, Any]) -> Any:
    """The largest of each window in one dimension; the places are another result, which nothing may read."""
    x = _images(reader, node, given["self"], 1)
    channels, size = x.layout.shape
    layout = reader.layout_of(node.meta["val"][0].shape)
    if "output_size" in given:
        (outputs,) = _each(given["output_size"], 1)
        if size % outputs:
            raise _refused(reader, node, f"images of {size} do not divide into windows for {outputs}")
        attributes: dict[str, Any] = {"kernel_size": (1, size // outputs), "stride": (1, size // outputs)}
    else:
        neutral = {"kernel_size": 1, "stride": 1, "padding": 0, "dilation": 1}
        attributes = {name: (before, *_each(given[name], 1)) for name, before in neutral.items() if given.get(name) not in (None, [], ())}
        attributes["ceil_mode"] = bool(given.get("ceil_mode"))
    high = reader.viewed(node, x, (channels, 1, size))
    pooled = reader.add(node, "_flat", "max_pool2d", [high], attributes, _regular((layout.shape[0], 1, layout.shape[1])))
    return [reader.viewed(node, pooled, layout.shape, name=node.name)]


def _adaptive_max(reader: Reader, node: fx.Node, given: dict[str, Any]) -> Any:
    """Windows of equal size are those of max pooling."""
    x = _images(reader, node, given["self"], 2)
    sizes, outputs = x.layout.single[2:], _each(given["output_size"], 2)
    if any(n % o for n, o in zip(sizes, outputs, strict=True)):
        raise _refused(reader, node, f"images of {sizes} do not divide into windows for {tuple(outputs)}")
    kernel = tuple(n // o for n, o in zip(sizes, outputs, strict=True))
    first = node.meta["val"][0]
    return [reader.add(node, "", "max_pool2d", [x], {"kernel_size": kernel, "stride": kernel}, reader.layout_of(first.shape))]


def _adaptive_average3d(reader: Reader, node: fx.Node, given: dict[str, Any]) -> Any:
    """To a single voxel: the mean."""
    x = _one_input(reader, node, given["self"])
    if any(o != 1 for o in _each(given["output_size"], 3)):
        raise _refused(reader, node, "only an output of one voxel is supported")
    return reader.add(node, "", "mean", [x], {"dim": (2, 3, 4), "keepdim": True}, reader.layout_of(node.meta["val"].shape))


# --------------------------------------------------------------------------------------------------------- elementwise
def _prelu(reader: Reader, node: fx.Node, given: dict[str, Any]) -> Any:
    """``relu(x) - w relu(-x)``: one of the two is zero, so the subtraction is exact."""
    x, weight = _one_input(reader, node, given["self"]), given["weight"].constant
    if weight is None:
        raise _refused(reader, node, "its weight depends on the input")
    layout = x.layout
    positive = reader.add(node, "_positive", "relu", [x], {}, layout)
    turned = reader.add(node, "_turned", "neg", [x], {}, layout)
    negative = reader.add(node, "_negative", "relu", [turned], {}, layout)
    slopes = reader.hold(f"{node.name}_slopes", weight.reshape(-1, *[1] * (len(layout.shape) - 1)) if weight.numel() > 1 else weight)
    scaled = reader.add(node, "_scaled", "mul", [negative, slopes], {}, layout)
    return reader.add(node, "", "sub", [positive, scaled], {}, layout)


def _glu(reader: Reader, node: fx.Node, given: dict[str, Any]) -> Any:
    """``a sigmoid(b)`` for the two halves."""
    x = _one_input(reader, node, given["self"])
    dim = given.get("dim", -1) % len(x.layout.single)
    if dim == 0:
        raise _refused(reader, node, "it acts on the batch dimension")
    half = x.layout.single[dim] // 2
    layout = reader.layout_of(node.meta["val"].shape)
    parts = [reader.add(node, f"_half{i}", "slice", [x], {"dim": dim, "start": i * half, "end": (i + 1) * half}, layout) for i in (0, 1)]
    gate = reader.add(node, "_gate", "sigmoid", [parts[1]], {}, layout)
    return reader.add(node, "", "mul", [parts[0], gate], {}, layout)


_POWERS = {0.5: "sqrt", -0.5: "rsqrt", -1.0: "reciprocal"}
"""Exponents for which torch's kernels of powers call another kernel."""


def _power(reader: Reader, node: fx.Node, given: dict[str, Any]) -> Any:
    """Roots and reciprocals by their own operators; the first power is the number itself."""
    exponent = given["exponent"]
    if exponent == 1 and isinstance(given["self"], Value):
        return given["self"]
    if exponent in _POWERS:
        return reader.place(node, _POWERS[exponent], [given["self"]], {})
    return reader.operation(node, "pow", given)


def _clamped(reader: Reader, node: fx.Node, given: dict[str, Any]) -> Any:
    """The minimum of the upper end and of the maximum of the lower end, in this order."""
    value = given["self"]
    ends = [(record, given[name]) for name, record in (("min", "maximum"), ("max", "minimum")) if isinstance(given.get(name), Value)]
    for number, (record, end) in enumerate(ends):
        last = number == len(ends) - 1
        value = reader.place(node, record, [value, end], {}, suffix="" if last else "_raised")
    return value


def _along_several(record: str) -> Expansion:
    def expand(reader: Reader, node: fx.Node, given: dict[str, Any]) -> Any:
        """One dimension after the other: the largest of the largest."""
        dims = _each(given["dim"], 1) if isinstance(given.get("dim"), int) else list(given.get("dim") or ())
        if len(dims) == 1:
            return reader.operation(node, record, given)
        x = _one_input(reader, node, given["self"])
        sizes = list(x.layout.single)
        places = sorted(d % len(sizes) for d in dims)
        if not places or places[0] == 0:
            raise _refused(reader, node, "it acts on the batch dimension")
        for place in places:
            sizes[place] = 1
            x = reader.add(node, f"_{place}", record, [x], {"dim": (place,), "keepdim": True}, _regular(tuple(sizes[1:])))
        return reader.viewed(node, x, reader.layout_of(node.meta["val"].shape).shape, name=node.name)

    return expand


def _interpolated(reader: Reader, node: fx.Node, given: dict[str, Any]) -> Any:
    """``a + w (b - a)``, and for weights from 1/2 on ``b - (1 - w) (b - a)``, as torch's kernels compute it."""
    start, end, weight = given["self"], given["end"], float(given["weight"])
    near = 0 <= weight < 0.5
    if not 0 <= weight <= 1:
        raise _refused(reader, node, f"its weight {weight:g} is not between 0 and 1")
    if not near and float(torch.tensor(1 - weight).to(torch.bfloat16)) != 1 - weight:
        raise _refused(reader, node, f"its weight {weight:g} is 1/2 or more, and kernels round what it lacks to 1 in different ways")
    step = reader.place(node, "sub", [end, start], {}, suffix="_step")
    scaled = reader.place(node, "mul", [step, None], {"other": weight if near else 1 - weight}, suffix="_scaled")
    return reader.place(node, "add" if near else "sub", [start if near else end, scaled], {})


def masks_out(given: Mapping[str, Any]) -> bool:
    """Whether a constant that holds minus infinities is added."""
    return any(isinstance(v, Value) and v.constant is not None and bool((v.constant == -math.inf).any()) for v in given.values())


def added_mask(reader: Reader, node: fx.Node, given: dict[str, Any]) -> Any:
    """Add what is finite, then fill in the minus infinities."""
    first, second = given["self"], given["other"]
    x, mask = (first, second) if isinstance(second, Value) and second.constant is not None else (second, first)
    x, values = _one_input(reader, node, x), mask.constant
    assert values is not None
    layout = reader.layout_of(node.meta["val"].shape)
    if x.layout.shape != layout.shape or not layout.regular:
        raise _refused(reader, node, "a mask with infinities is added to a tensor of another shape")
    hidden = torch.isinf(values).expand(layout.single)[0]
    finite = reader.hold(f"{mask.name}_finite", values.masked_fill(torch.isinf(values), 0.0))
    total = x if finite.constant is None or not bool(finite.constant.any()) else reader.add(node, "_finite", "add", [x, finite], {}, layout)
    index = torch.where(hidden, 0, 1 + torch.arange(hidden.numel()).reshape(hidden.shape))
    return reader.add(node, "", "rearrange", [total], {"index": index, "fills": (-math.inf,), "batched": (True,)}, layout)


EXPANSIONS: Mapping[str, Expansion] = {
    "aten.scaled_dot_product_attention.default": _attention,
    "aten.conv_transpose1d.default": _conv_transpose(1),
    "aten.conv_transpose2d.input": _conv_transpose(2),
    "aten.conv_transpose3d.input": _conv_transpose(3),
    "aten.max_pool1d.default": _pool1d("max_pool2d", ("kernel_size", "stride", "padding", "dilation", "ceil_mode")),
    "aten.avg_pool1d.default": _pool1d("avg_pool2d", ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad")),
    "aten.adaptive_avg_pool1d.default": _pool1d("adaptive_avg_pool2d", ("output_size",)),
    "aten.adaptive_max_pool2d.default": _adaptive_max,
    "aten.adaptive_avg_pool3d.default": _adaptive_average3d,
    "aten.max_pool1d_with_indices.default": _pool1d_with_places,
    "aten.adaptive_max_pool1d.default": _pool1d_with_places,
    "aten.amax.default": _along_several("amax"),
    "aten.amin.default": _along_several("amin"),
    "aten.clamp.Tensor": _clamped,
    "aten.clamp_min.Tensor": _clamped,
    "aten.clamp_max.Tensor": _clamped,
    "aten.lerp.Scalar": _interpolated,
    "aten.pow.Tensor_Scalar": _power,
    "aten.prelu.default": _prelu,
    "aten.glu.default": _glu,
}

READ_AS: Mapping[str, str] = {
    "aten.scaled_dot_product_attention.default": "attention, its mask as scores of 0 and minus infinity",
    "aten.conv_transpose1d.default": "rearrange, with zeros between entries, and a convolution with the kernel turned around",
    "aten.conv_transpose2d.input": "rearrange, with zeros between entries, and a convolution with the kernel turned around",
    "aten.conv_transpose3d.input": "rearrange, with zeros between entries, and a convolution with the kernel turned around",
    "aten.max_pool1d.default": "max_pool2d of images that are one pixel high",
    "aten.avg_pool1d.default": "avg_pool2d of images that are one pixel high",
    "aten.adaptive_avg_pool1d.default": "adaptive_avg_pool2d of images that are one pixel high",
    "aten.adaptive_max_pool2d.default": "max_pool2d, where all windows have one size",
    "aten.adaptive_avg_pool3d.default": "mean, where the output is one voxel",
    "aten.max_pool1d_with_indices.default": "max_pool2d of images that are one pixel high; the places must not be used",
    "aten.adaptive_max_pool1d.default": "max_pool2d of images that are one pixel high, where all windows have one size",
    "aten.clamp.Tensor": "maximum and minimum",
    "aten.clamp_min.Tensor": "maximum",
    "aten.clamp_max.Tensor": "minimum",
    "aten.amax.default": "amax, one dimension after the other",
    "aten.amin.default": "amin, one dimension after the other",
    "aten.pow.Tensor_Scalar": "pow for the exponent 2; sqrt, rsqrt and reciprocal for 1/2, -1/2 and -1; nothing for 1",
    "aten.lerp.Scalar": "sub, mul and add; from a weight of 1/2 on, sub, mul and sub",
    "aten.prelu.default": "relu of the input and of its negative, mul and sub",
    "aten.glu.default": "slice, sigmoid and mul",
}
"""The same in words."""
