"""Convolutions in one, two and three dimensions, with stride, padding, dilation and groups."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv1d_input, conv2d_input, conv3d_input

from precisionkit.arithmetic import Arithmetic
from precisionkit.enclosure import Bounded, Enclosure
from precisionkit.ops._dot import Dots, SumErrors, Sums, bounded, dot_errors, tensor_core_steps
from precisionkit.ops._runs import run_dots
from precisionkit.ops._store import store_error
from precisionkit.ops.record import Attributes, Operator
from precisionkit.outward import add_up, hypot_up, mul_up

_MANY = 8
"""Input channels from which on the transposed evaluation is faster."""


_CONVOLVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_INPUT_GRADIENT: dict[int, Any] = {1: conv1d_input, 2: conv2d_input, 3: conv3d_input}


def _each(value: Any, dims: int) -> tuple[int, ...]:
    """One number for every dimension."""
    values = [value] if isinstance(value, int) else list(value)
    return tuple(values) if len(values) == dims else (values[0],) * dims


def _dims(weight: Any) -> int:
    return len(weight.shape) - 2


def _arguments(attributes: Attributes) -> dict[str, Any]:
    return {name: attributes[name] for name in ("stride", "padding", "dilation", "groups") if name in attributes}


def _apply(attributes: Attributes, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    convolved: Tensor = _CONVOLVE[_dims(weight)](x, weight, bias, **_arguments(attributes))
    return convolved


def _convolve(attributes: Attributes, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The same in binary64, for the analysis: with stride 1 as the transpose of a convolution, which torch does several times faster."""
    dims, padding = _dims(weight), attributes.get("padding", 0)
    before = (-1,) * dims if isinstance(padding, str) else _each(padding, dims)
    dilation = _each(attributes.get("dilation", 1), dims)
    reach = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
    plain = (
        dims == 2
        and attributes.get("groups", 1) == 1
        and weight.shape[1] >= _MANY
        and _each(attributes.get("stride", 1), dims) == (1, 1)
        and x.device.type == "cpu"
    )
    if not plain or not all(0 <= b <= r for b, r in zip(before, reach, strict=True)):
        return _apply(attributes, x, weight, bias)
    size = (x.shape[0], weight.shape[0], *(n + 2 * b - r for n, b, r in zip(x.shape[2:], before, reach, strict=True)))
    mirrored = weight.transpose(0, 1).flip(2, 3)
    result: Tensor = conv2d_input(size, mirrored, x, padding=tuple(r - b for r, b in zip(reach, before, strict=True)), dilation=dilation)
    return result if bias is None else result + _by_channel(bias, result)


def _by_channel(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(1, -1, *[1] * (like.dim() - 2))


def _margins(attributes: Attributes, kernel: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """Zeros before and behind in each dimension; ``same`` puts the odd one behind, as torch does."""
    padding = attributes.get("padding", 0)
    if padding == "valid":
        padding = 0
    if padding == "same":
        dilation = _each(attributes.get("dilation", 1), len(kernel))
        totals = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        return tuple((total // 2, total - total // 2) for total in totals)
    return tuple((p, p) for p in _each(padding, len(kernel)))


def _columns(attributes: Attributes, x: Tensor, kernel: tuple[int, ...], groups: int) -> Tensor:
    """Inputs of every output position: (b, groups, n, positions)."""
    dims = len(kernel)
    windows = F.pad(x, [p for margin in reversed(_margins(attributes, kernel)) for p in margin])
    dilation, stride = _each(attributes.get("dilation", 1), dims), _each(attributes.get("stride", 1), dims)
    for d in range(dims):
        windows = windows.unfold(2 + d, dilation[d] * (kernel[d] - 1) + 1, stride[d])[..., :: dilation[d]]
    # (b, channels, positions ..., kernel ...)
    order = (0, 1, *range(2 + dims, 2 + 2 * dims), *range(2, 2 + dims))
    moved = windows.permute(order)
    return moved.reshape(x.shape[0], groups, -1, moved.shape[2 + dims :].numel())


def _dots(attributes: Attributes, x: Tensor, deviation: Tensor | None, weight: Tensor, bias: Tensor | None) -> Dots:
    groups, kernel = attributes.get("groups", 1), tuple(weight.shape[2:])
    rows = weight.flatten(1).unflatten(0, (groups, -1))
    deviations = None if deviation is None else _columns(attributes, deviation, kernel, groups)
    return Dots(rows, _columns(attributes, x, kernel, groups), deviations, None if bias is None else bias.unflatten(0, (groups, -1)))


def _output_shape(attributes: Attributes, x: Tensor, weight: Tensor) -> torch.Size:
    meta = _apply(attributes, torch.empty(x.shape, device="meta"), torch.empty(weight.shape, device="meta"))
    return meta.shape


def _rounded(arithmetic: Arithmetic, attributes: Attributes, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    dots = _dots(attributes, x, None, weight, bias)
    return run_dots(arithmetic, dots.weight, dots.columns, dots.bias).reshape(_output_shape(attributes, x, weight))


def _exact(engine: Any, attributes: Attributes, x: Any, weight: Any, bias: Any = None) -> Any:
    """Gather the inputs of every output by index (index 0 is a zero for the padding) and take exact inner products."""
    groups, shape = attributes.get("groups", 1), x.shape
    places = torch.arange(1, x[0].size + 1, dtype=torch.float64).reshape(1, *shape[1:])
    index = _columns(attributes, places, weight.shape[2:], groups)[0].long().numpy()
    padded = np.concatenate([np.full((shape[0], 1), engine.number(0), dtype=object), x.reshape(shape[0], -1)], axis=1)
    rows = weight.reshape(groups, -1, index.shape[1])
    parts = [np.stack([engine.dot(rows[g], padded[b][index[g]]) for g in range(groups)]) for b in range(shape[0])]
    y = np.stack(parts).reshape(shape[0], weight.shape[0], -1)
    if bias is not None:
        y = y + bias[None, :, None]
    return y.reshape(_output_shape(attributes, torch.empty(shape), torch.empty(weight.shape)))


def _error_rule(arithmetic: Arithmetic, attributes: Attributes, x: Enclosure, weight: Tensor, bias: Tensor | None = None) -> Bounded:
    products, size = weight[0].numel(), weight.abs()
    magnitude = _convolve(attributes, x.centre.abs(), size, None if bias is None else bias.abs())
    carried = _convolve(attributes, x.radius, size)
    count = _products_that_count(attributes, x, weight)
    sums = Sums.of(_convolve(attributes, x.centre, weight, bias), magnitude, carried, products, count, bias=bias is not None)
    dots = _dots(attributes, x.centre, x.radius, weight, bias) if arithmetic.order.is_tree else None
    steps = tensor_core_steps(arithmetic.order, weight.shape[1], weight[0, 0].numel())
    largest = torch.maximum((x.centre.abs() + x.radius).flatten(1).amax(1), size.max())
    errors = dot_errors(arithmetic, sums, dots, steps, largest.reshape(-1, *[1] * (x.centre.dim() - 1)))
    if bias is None or not arithmetic.stores_before_bias:
        return bounded(arithmetic, sums, errors)
    return _first_store(arithmetic, sums, errors, bias)


def _products_that_count(attributes: Attributes, x: Enclosure, weight: Tensor) -> Tensor:
    """Products at each position of which neither the weight nor, in every run, the input is zero; an upper bound."""
    groups = attributes.get("groups", 1)
    occupied = x.occupied().unflatten(1, (groups, -1)).sum(2)
    ones = torch.ones(groups, 1, *weight.shape[2:], dtype=weight.dtype, device=weight.device)
    inputs = _CONVOLVE[_dims(weight)](occupied, ones, **(_arguments(attributes) | {"groups": groups}))
    weights = (weight != 0).flatten(1).sum(1).to(weight.dtype)
    return torch.minimum(inputs.repeat_interleave(weight.shape[0] // groups, 1), _by_channel(weights, inputs))


def _first_store(arithmetic: Arithmetic, sums: Sums, errors: SumErrors, bias: Tensor) -> Bounded:
    """With one more store, of the sum without its bias: torch with cuDNN stores the convolution and then adds the bias.

    The sum itself, and the sum of what was stored and the bias, each differ by a rounding in the accumulator from what `errors`
    speaks of.
    """
    v = arithmetic.accumulate.unit_roundoff
    roundings = mul_up(add_up(sums.centre.abs(), sums.carried, errors.error), 2 * v)
    difference = (sums.centre - _by_channel(bias, sums.centre)).abs()
    magnitude = add_up(mul_up(difference, 1 + 2.0**-52), sums.carried, errors.error, roundings)
    first = store_error(arithmetic.storage, magnitude)
    rest = add_up(roundings, mul_up(first, 2 * v))
    random, bias = (add_up(first, rest), errors.bias) if arithmetic.unbiased_sums else (first, add_up(errors.bias, rest))
    spread = hypot_up(errors.spread, random)
    both = SumErrors(add_up(errors.error, first, rest), errors.peak, spread, bias)
    return replace(bounded(arithmetic, sums, both), stored_before=magnitude)


def _transpose(attributes: Attributes, g: Tensor, rows: Tensor, x: Enclosure, weight: Tensor, bias: Any = None) -> tuple[Any, ...]:
    """The gradient of the padded input, cropped."""
    margins, gradient = _margins(attributes, tuple(weight.shape[2:])), _INPUT_GRADIENT[_dims(weight)]
    arguments = {name: value for name, value in _arguments(attributes).items() if name != "padding"}
    if all(before == behind for before, behind in margins):
        padding = tuple(before for before, _ in margins)
        return (gradient((g.shape[0], *x.centre.shape[1:]), weight.to(g.dtype), g, padding=padding, **arguments), None, None)
    size = (g.shape[0], x.centre.shape[1], *(n + sum(margin) for n, margin in zip(x.centre.shape[2:], margins, strict=True)))
    padded = gradient(size, weight.to(g.dtype), g, padding=0, **arguments)
    for d, ((before, _), n) in enumerate(zip(margins, x.centre.shape[2:], strict=True)):
        padded = padded.narrow(2 + d, before, n)
    return (padded, None, None)


def _convolution(dims: int) -> Operator:
    return Operator(
        name=f"conv{dims}d",
        targets=(f"aten.conv{dims}d.default", f"aten.conv{dims}d.padding"),
        operands=("input", "weight", "bias"),
        apply=_apply,
        error_rule=_error_rule,
        exact=_exact,
        rounded=_rounded,
        transpose=_transpose,
        linear=lambda attributes, d, rows, x, weight, bias=None: _convolve(attributes, d[0], weight.to(d[0].dtype)),
        linear_terms=lambda attributes, x, weight, bias=None: weight[0].numel(),
        transposed_terms=lambda attributes, x, weight, bias=None: weight[:, 0].numel() // attributes.get("groups", 1),
        products=lambda shape, shapes: math.prod(shape) * math.prod(shapes[1][1:]),
        ends_fused=True,
        check=lambda _, shapes: None if len(shapes[0] or ()) == dims + 2 else f"only batches of {dims + 2} dimensions are supported",
        bound="as linear, over every position; one store more, without the bias, where there is a bias",
        source="proofs/bounds.md, theorems 2 to 6 and 21",
    )


CONV1D, CONV2D, CONV3D = _convolution(1), _convolution(2), _convolution(3)
_TRANSPOSED = (
    "Transposed convolutions are computed as convolutions of the input with zeros between its entries, stored once; torch's half kernels "
    "on a CPU store what every tap adds, which is not covered."
)
CONV_TRANSPOSES = tuple(
    replace(
        record,
        name=record.name.replace("conv", "conv_transpose"),
        targets=(f"precisionkit.{record.name.replace('conv', 'conv_transpose')}",),
        assumption=_TRANSPOSED,
    )
    for record in (CONV1D, CONV2D, CONV3D)
)
"""The same, on an input that was spread out."""
