"""Max pooling (exact), and averages: average pooling, adaptive average pooling, mean."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from precisionkit.arithmetic import Arithmetic
from precisionkit.enclosure import Bounded, Enclosure
from precisionkit.formats import ufp
from precisionkit.ops._store import internal_error
from precisionkit.ops.adjoint import Lines, autograd_transpose, linear_by
from precisionkit.ops.record import Attributes, Operator, every_activation
from precisionkit.outward import TINY, add_up, mul_up, own_error, sum_of_products_up


def _places(x: Any) -> Tensor:
    """Numbers 1 ... m of the entries of one example, as a batch of one; 0 is left for padding."""
    return torch.arange(1, x[0].size + 1, dtype=torch.float64).reshape(1, *x.shape[1:])


def _call(function: Callable[..., Tensor], names: tuple[str, ...], attributes: Attributes, x: Tensor) -> Tensor:
    given = {name: attributes[name] for name in names if name in attributes}
    if given.get("stride") in ([], ()):  # the schema's way to say "as the kernel"
        del given["stride"]
    return function(x, **given)


# ---------------------------------------------------------------------------------------------------------- max pooling
_MAX = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")


def _max_pool(attributes: Attributes, x: Tensor) -> Tensor:
    return _call(F.max_pool2d, _MAX, attributes, x)


def _max_pool_rule(arithmetic: Arithmetic, attributes: Attributes, x: Enclosure) -> Bounded:
    """A maximum lies between the maxima of the lower and of the upper ends, and moves by at most the window's largest radius."""
    centre = _max_pool(attributes, x.centre)
    widest = _max_pool(attributes, x.radius)
    upper = _max_pool(attributes, x.centre + x.radius) - centre
    lower = centre - _max_pool(attributes, x.centre - x.radius)
    # four roundings of numbers no larger than |centre| + 2 widest lie between the exact ends and these
    slack = mul_up(add_up(centre.abs(), widest, widest), 8 * 2.0**-53)
    carried = torch.minimum(widest, add_up(torch.maximum(upper, lower).clamp_min(0), slack))
    return Bounded(centre, carried, None, arithmetic.storage)


def _max_pool_exact(engine: Any, attributes: Attributes, x: Any) -> Any:
    """The place of a maximum: torch pools the ranks of the entries, which order them exactly."""
    flat = x.reshape(x.shape[0], -1)
    rows = []
    for row in flat:
        order = sorted(range(row.size), key=lambda i: engine.upper(row[i]))
        ranks = np.empty(row.size)
        ranks[order] = np.arange(row.size)
        pooled = _max_pool(attributes, torch.from_numpy(ranks).reshape(1, *x.shape[1:]))[0]
        rows.append(row[np.asarray(order)[pooled.long().numpy()]])
    return np.stack(rows)


def _max_pool_lines(attributes: Attributes, x: Enclosure) -> Lines:
    """The centre's winner w moves the maximum with slope 1 from below; from above the others can add what they reach beyond it.

    ``max_k (c_k + d_k) - c_w = d_w + max(0, max_{k != w} (c_k + d_k - c_w - d_w))``, or the constant ``max_k high_k - c_w``.
    """
    low, high = x.ends()
    centre, chosen = _call(partial(F.max_pool2d, return_indices=True), _MAX, attributes, x.centre)
    windows, places = _windows(attributes, high, -torch.inf), _windows(attributes, _flat_places(x.centre), -1.0)
    others = torch.where(places == chosen.flatten(2)[:, :, None].to(places.dtype), -torch.inf, windows).amax(2).reshape(centre.shape)
    winner_low = low.flatten(2).gather(2, chosen.flatten(2)).reshape(centre.shape)
    widest = _max_pool(attributes, x.radius)
    slack = (centre.abs() + 2 * widest) * 2.0**-50
    overtaken = torch.where(others >= winner_low, (others - winner_low) + slack, torch.zeros_like(slack))
    constant = (windows.amax(2).reshape(centre.shape) - centre).clamp_min(0) + slack
    tracks = overtaken <= constant
    return Lines(
        torch.where(tracks, 1.0, 0.0).to(centre.dtype),
        torch.ones_like(centre),
        torch.where(tracks, overtaken, constant),
        torch.zeros_like(centre),
        widest,
        torch.where(tracks, torch.zeros_like(widest), widest),
        chosen,
    )


def _flat_places(x: Tensor) -> Tensor:
    height, width = x.shape[2:]
    return torch.arange(height * width, dtype=x.dtype, device=x.device).reshape(1, 1, height, width).expand(x.shape)


def _windows(attributes: Attributes, x: Tensor, fill: float) -> Tensor:
    """Entries of every window of a max-pooling: (batch, channels, window, positions)."""
    kernel, padding, dilation = (
        _pair(attributes.get(name, default)) for name, default in (("kernel_size", 1), ("padding", 0), ("dilation", 1))
    )
    stride = _pair(attributes.get("stride") or kernel)
    height, width = _max_pool(attributes, torch.empty(x.shape, device="meta")).shape[2:]
    needed = [(n - 1) * s + d * (k - 1) + 1 for n, s, d, k in zip((height, width), stride, dilation, kernel, strict=True)]
    bottom, right = (max(n - size - p, 0) for n, size, p in zip(needed, x.shape[2:], padding, strict=True))
    padded = F.pad(x, (padding[1], right, padding[0], bottom), value=fill)[:, :, : needed[0], : needed[1]]
    windows: Tensor = F.unfold(padded, kernel, dilation=dilation, stride=stride).unflatten(1, (x.shape[1], -1))
    return windows


def _pair(value: Any) -> tuple[int, int]:
    values = [value] if isinstance(value, int) else list(value)
    return (values[0], values[-1])


def _max_pool_check(attributes: Attributes, shapes: Any) -> str | None:
    if len(shapes[0] or ()) != 4:
        return "only batches of images, four dimensions, are supported"
    if any(d > size for d, size in zip(_pair(attributes.get("dilation", 1)), shapes[0][2:], strict=True)):
        return "the dilation exceeds the image, so that windows may be empty"
    return None


MAX_POOL2D = Operator(
    name="max_pool2d",
    targets=("aten.max_pool2d.default", "aten.max_pool2d_with_indices.default"),
    operands=("self",),
    apply=_max_pool,
    error_rule=_max_pool_rule,
    exact=_max_pool_exact,
    relax=_max_pool_lines,
    check=_max_pool_check,
    stores=False,
    curved=every_activation,
    bound="the largest e of the window, or the reach of the window's enclosures; no rounding",
    source="proofs/bounds.md, theorem 8",
)


# ------------------------------------------------------------------------------------------------------------- averages
def average_rule(arithmetic: Arithmetic, average: Callable[[Tensor], Tensor], terms: int, x: Enclosure) -> Bounded:
    """Bound an average of at most `terms` numbers a window, summed in any order in the internal format.

    The sum of a window errs as in theorem 3 (subset sums), the division, in one step, in two, or by a rounded reciprocal, by at
    most four roundings, before or after the sum.  `average` must be the positive linear map that it is named after.
    """
    v, n = arithmetic.internal.unit_roundoff, terms
    centre = average(x.centre)
    sums = n + 4  # roundings on the way of each number in binary64: products, sums, divisions
    magnitude = sum_of_products_up(average(x.centre.abs()), sums)
    carried = sum_of_products_up(average(x.radius), sums)
    reach = add_up(magnitude, carried)
    total = mul_up(reach, float(n))
    underflow = 4 * n * arithmetic.internal.eta
    classical = mul_up(total, (n - 1) * v)
    subsets = mul_up(ufp(add_up(total, classical)), (n - 1) * v)
    additions = mul_up(torch.minimum(classical, subsets), (1 / n) * (1 + 2.0**-40))
    divisions = internal_error(arithmetic.internal, reach, 4, underflow)
    # the divisions also act on the additions' error, a second-order term: 5 v <= 2**-20 of it
    fresh = add_up(own_error(magnitude, 2 * sums), mul_up(additions, 1 + 2.0**-20), divisions, n * TINY)
    return Bounded(centre, carried, fresh, arithmetic.internal, add_up(total, mul_up(fresh, float(n))), arithmetic.internal)


def _average_exact(engine: Any, apply: Callable[[Tensor], Tensor], x: Any) -> Any:
    """Exact average: the weights are found by applying the map to unit vectors; each is a multiple of 1 / (number of terms)."""
    size = x[0].size
    units = torch.eye(size, dtype=torch.float64).reshape(size, *x.shape[1:])
    weights = apply(units).numpy()
    exact = np.vectorize(lambda w: engine.number(1) / round(1 / w) if w else engine.number(0), otypes=[object])(weights.reshape(size, -1))
    return engine.dot(x.reshape(x.shape[0], size), exact).reshape(x.shape[0], *weights.shape[1:])


_AVG = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")


def _avg_pool(attributes: Attributes, x: Tensor) -> Tensor:
    return _call(F.avg_pool2d, _AVG, attributes, x)


def _avg_pool_rule(arithmetic: Arithmetic, attributes: Attributes, x: Enclosure) -> Bounded:
    return average_rule(arithmetic, lambda t: _avg_pool(attributes, t), _window(attributes), x)


def _window(attributes: Attributes) -> int:
    height, width = _pair(attributes["kernel_size"])
    return height * width


AVG_POOL2D = Operator(
    name="avg_pool2d",
    targets=("aten.avg_pool2d.default",),
    operands=("self",),
    apply=_avg_pool,
    error_rule=_avg_pool_rule,
    exact=lambda engine, attributes, x: _average_exact(engine, lambda t: _avg_pool(attributes, t), x),
    transpose=autograd_transpose(_avg_pool),
    linear_terms=lambda attributes, x: 4 + _window(attributes),
    linear=linear_by(_avg_pool),
    transposed_terms=lambda attributes, x: 4 + _window(attributes),
    check=lambda attributes, _: "divisor_override is not supported" if attributes.get("divisor_override") else None,
    bound="mean of e + (n-1) v ufp(S + ...)/n + 5 v S/n",
    source="proofs/bounds.md, theorem 10",
)


def _adaptive(attributes: Attributes, x: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(x, attributes["output_size"])


def _adaptive_rule(arithmetic: Arithmetic, attributes: Attributes, x: Enclosure) -> Bounded:
    """The largest window of torch's adaptive pooling spans ``ceil(size / outputs) + 1`` entries, or exactly size / outputs."""
    terms = 1
    outputs = _adaptive(attributes, torch.empty(x.centre.shape, device="meta")).shape[-2:]
    for size, count in zip(x.centre.shape[-2:], outputs, strict=True):
        terms *= size // count if size % count == 0 else min(size, -(-size // count) + 1)
    return average_rule(arithmetic, lambda t: _adaptive(attributes, t), terms, x)


ADAPTIVE_AVG_POOL2D = Operator(
    name="adaptive_avg_pool2d",
    targets=("aten.adaptive_avg_pool2d.default", "aten._adaptive_avg_pool2d.default"),
    operands=("self",),
    apply=_adaptive,
    error_rule=_adaptive_rule,
    exact=lambda engine, attributes, x: _average_exact(engine, lambda t: _adaptive(attributes, t), x),
    transpose=autograd_transpose(_adaptive),
    linear_terms=lambda attributes, x: 4 + x.centre[0, 0].numel(),
    linear=linear_by(_adaptive),
    # an entry is in as many windows as there are outputs, at most
    transposed_terms=lambda attributes, x: 4 + x.centre[0, 0].numel() + _adaptive(attributes, x.centre[:1, :1]).numel(),
    bound="as avg_pool2d",
    source="proofs/bounds.md, theorem 10",
)


def _mean(attributes: Attributes, x: Tensor) -> Tensor:
    return torch.mean(x, dim=attributes["dim"], keepdim=attributes.get("keepdim", False))


def _mean_rule(arithmetic: Arithmetic, attributes: Attributes, x: Enclosure) -> Bounded:
    terms = 1
    for dimension in attributes["dim"]:
        terms *= x.centre.shape[dimension]
    return average_rule(arithmetic, lambda t: _mean(attributes, t), terms, x)


def _mean_check(attributes: Attributes, shapes: Any) -> str | None:
    if not attributes.get("dim"):
        return "a mean over every dimension would mix the images of a batch"
    if any(d % (len(shapes[0])) == 0 for d in attributes["dim"]):
        return "a mean over the batch would mix its images"
    return "a mean in another dtype is not supported" if attributes.get("dtype") is not None else None


MEAN = Operator(
    name="mean",
    targets=("aten.mean.dim",),
    operands=("self",),
    apply=_mean,
    error_rule=_mean_rule,
    exact=lambda engine, attributes, x: _average_exact(engine, lambda t: _mean(attributes, t), x),
    transpose=autograd_transpose(_mean),
    linear_terms=lambda attributes, x: 4 + x.centre[0].numel(),
    linear=linear_by(_mean),
    transposed_terms=lambda attributes, x: 4,
    check=_mean_check,
    bound="as avg_pool2d",
    source="proofs/bounds.md, theorem 10",
)


def _sum(attributes: Attributes, x: Tensor) -> Tensor:
    return torch.sum(x, dim=attributes["dim"], keepdim=attributes.get("keepdim", False))


def _terms(attributes: Attributes, x: Enclosure) -> int:
    return math.prod(x.centre.shape[d] for d in attributes["dim"])


def _sum_rule(arithmetic: Arithmetic, attributes: Attributes, x: Enclosure) -> Bounded:
    """The rule of an average, times the number of terms."""
    terms = _terms(attributes, x)
    average = average_rule(arithmetic, lambda t: _sum(attributes, t) / terms, terms, x)
    assert average.fresh is not None
    factor = terms * (1 + 2.0**-50)
    centre = _sum(attributes, x.centre)
    own = mul_up(_sum(attributes, x.centre.abs()), (terms + 4) * 2.0**-52)
    fresh = add_up(mul_up(average.fresh, factor), own)
    return replace(average, centre=centre, carried=mul_up(average.carried, factor), fresh=fresh)


SUM = Operator(
    name="sum",
    targets=("aten.sum.dim_IntList",),
    operands=("self",),
    apply=_sum,
    error_rule=_sum_rule,
    exact=lambda engine, attributes, x: x.sum(axis=tuple(attributes["dim"]), keepdims=attributes.get("keepdim", False)),
    transpose=autograd_transpose(_sum),
    linear_terms=lambda attributes, x: 4 + _terms(attributes, x),
    linear=linear_by(_sum),
    transposed_terms=lambda attributes, x: 4,
    check=_mean_check,
    bound="as avg_pool2d, times the number of terms",
    source="proofs/bounds.md, theorem 10",
)
