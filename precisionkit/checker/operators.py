"""What the checker knows of each operator: its values and errors over an enclosure, and how a functional is pulled back through it.

Everything speaks of deviations from the *computed* binary64 centre ``mid``, so that the centre's own rounding is one more local error.
For a run's values x of the operands and y of the result, ``|x - mid| <= radius``, and ``y - mid`` is what the operator makes of
``x - mid``, at most `carried` in magnitude, and local errors.  Theorems are those of proofs/bounds.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from precisionkit.checker import shapes
from precisionkit.checker.rounding import BINARY32, TINY, Floats, Format, U, add_up, mul_up, ufp, weighted_up, widened

Attributes = Mapping[str, Any]
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Rule:
    """The arithmetic of one program: formats of stored numbers and of sums, which are made in any order, with or without FMA."""

    storage: Format
    accumulate: Format

    @property
    def name(self) -> str:
        """In words."""
        return f"{self.storage.name}, sums in {self.accumulate.name} in any order"


REFERENCE = Rule(BINARY32, BINARY32)


@dataclass(frozen=True)
class Ball:
    """A stored tensor over every run.

    Attributes
    ----------
    mid : (batch, ...) array
        Computed centre.
    up, down : (batch, ...) arrays
        No run lies farther above or below the centre.
    """

    mid: Floats
    up: Floats
    down: Floats

    @property
    def radius(self) -> Floats:
        """The larger of both."""
        return np.maximum(self.up, self.down)


@dataclass(frozen=True)
class Result:
    """An operator's result before its store.

    Attributes
    ----------
    mid, carried : (batch, ...) arrays
    fresh : (batch, ...) array or None
        Rounding errors of the runs and of `mid`; None for operators that return stored numbers.
    form : Format
        That the result was computed in.
    peak : (batch, ...) array
        Largest magnitude on the way.
    up, down : (batch, ...) arrays or None
        For operators without `fresh`: sharper than `carried`.
    kept : tuple of arrays
        For `pull`.
    """

    mid: Floats
    carried: Floats
    fresh: Floats | None
    form: Format
    peak: Floats
    up: Floats | None = None
    down: Floats | None = None
    kept: tuple[NDArray[Any], ...] = ()


Pulled = tuple[tuple[Floats, ...], Floats]
"""A functional of each operand that is an activation, and what pulling back cost each row."""


@dataclass(frozen=True)
class Operator:
    """What the checker knows of one.

    Attributes
    ----------
    shape : callable
        ``shape(attributes, *shapes) -> shape`` of one input, or a ValueError.
    forward : callable
        ``forward(rule, attributes, *operands) -> Result``, with balls for activations and arrays, or None, for constants.
    pull : callable
        ``pull(attributes, g, rows, result, *operands) -> Pulled``: row k belongs to image ``rows[k]``.
    constants, activations : int
        Numbers of operands: first the activations, then the constants.
    attributes : mapping of str to callable
        Names, and the check of each value.
    """

    shape: Callable[..., shapes.Shape]
    forward: Callable[..., Result]
    pull: Callable[..., Pulled]
    constants: int = 0
    activations: int = 1
    attributes: Mapping[str, Callable[[Any], bool]] | None = None


# ------------------------------------------------------------------------------------------------------------- dot products
def _dot_products(rule: Rule, x: Ball, multiply: Callable[[Floats, Floats], Floats], weight: Floats, bias: Floats | None, n: int) -> Result:
    """Sums of n products and a bias, m terms, in any order, with or without FMA (theorem 3).

    They carry ``|W| e``.  Products err by E in all; each of the m - 1 additions by ``v ufp`` of the largest sum of a subset of the terms,
    which is at most ``(S + |c|) / 2 + |W| e + E`` and what was lost before, ``(m - 1) v (S + |W| e + E)``.  Products that are zero in
    every run do not count.
    """
    accumulate, m = rule.accumulate, n + (bias is not None)
    count = multiply(((x.mid != 0) | (x.radius != 0)).astype(np.float64), (weight != 0).astype(np.float64))  # exact: whole numbers
    lost = np.maximum(count + (m - n - 1), 0.0) * accumulate.unit_roundoff
    size, offset = np.abs(weight), 0.0 if bias is None else np.abs(bias)
    mid = multiply(x.mid, weight) + (0.0 if bias is None else bias)
    magnitude = widened(multiply(np.abs(x.mid), size) + offset, m)
    carried = widened(multiply(x.radius, size), n)
    own = add_up(mul_up(magnitude, m * U), m * TINY)
    whole = add_up(magnitude, carried)
    exact = 2 * rule.storage.precision <= accumulate.precision
    products = add_up(mul_up(whole, 0.0 if exact else accumulate.unit_roundoff), count * accumulate.eta)
    largest = add_up(mul_up(add_up(magnitude, np.abs(mid), own), 0.5), carried, products)
    classical = mul_up(add_up(whole, products), lost)
    additions = np.minimum(classical, mul_up(ufp(add_up(largest, classical)), lost))
    return Result(mid, carried, add_up(products, additions, own), accumulate, add_up(largest, additions))


def _multiply_rows(x: Floats, weight: Floats) -> Floats:
    return np.asarray(x @ weight.T)


def _linear(rule: Rule, attributes: Attributes, x: Ball, weight: Floats, bias: Floats | None) -> Result:
    return _dot_products(rule, x, _multiply_rows, weight, bias, weight.shape[1])


def _pull_linear(attributes: Attributes, g: Floats, rows: Rows, result: Result, x: Ball, weight: Floats, bias: Floats | None) -> Pulled:
    return (g @ weight,), _lost(g, rows, result, x, len(weight))


def _lost(g: Floats, rows: Rows, result: Result, x: Ball, terms: int) -> Floats:
    """What the rounding of ``W^T g`` costs: each entry errs by ``n U |W|^T |g| + n TINY``, on deviations of x."""
    radius = x.radius.reshape(len(x.mid), -1)
    below = mul_up(widened(radius.sum(axis=1), radius.shape[1]), terms * TINY)[rows]
    return add_up(mul_up(weighted_up(np.abs(g), result.carried[rows]), terms * U), below)


def _pairs(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(type(v) is int and 0 <= v < 2**16 for v in value)


def _positive_pair(value: Any) -> bool:
    return _pairs(value) and min(value) > 0


def _taps(shape: tuple[int, ...], attributes: Attributes) -> list[tuple[int, int, slice, slice]]:
    """Kernel positions, and the entries of the padded image that each reads for every output position."""
    height, width, out_height, out_width = shape
    (sh, sw), (dh, dw) = attributes["stride"], attributes["dilation"]
    return [
        (i, j, slice(i * dh, i * dh + sh * (out_height - 1) + 1, sh), slice(j * dw, j * dw + sw * (out_width - 1) + 1, sw))
        for i in range(height)
        for j in range(width)
    ]


def _padded(x: Floats, padding: tuple[int, int], value: float) -> Floats:
    (ph, pw) = padding
    return np.pad(x, ((0, 0), (0, 0), (ph, ph), (pw, pw)), constant_values=value)


def _windows(x: Floats, kernel: tuple[int, int], attributes: Attributes, value: float) -> Floats:
    """(batch, channels, taps, height, width): what each output position reads."""
    out = shapes.positions(x.shape[1:], kernel, attributes)
    padded = _padded(x, attributes["padding"], value)
    return np.stack([padded[:, :, rows, columns] for _, _, rows, columns in _taps((*kernel, *out), attributes)], axis=2)


def _convolve(x: Floats, weight: Floats, attributes: Attributes) -> Floats:
    groups, kernel = attributes["groups"], (weight.shape[2], weight.shape[3])
    windows = _windows(x, kernel, attributes, 0.0)
    batch, _, _, height, width = windows.shape
    columns = windows.reshape(batch, groups, -1, height * width)
    matrix = weight.reshape(groups, len(weight) // groups, -1)
    return np.asarray(np.matmul(matrix, columns)).reshape(batch, len(weight), height, width)


def _conv(rule: Rule, attributes: Attributes, x: Ball, weight: Floats, bias: Floats | None) -> Result:
    """As `_dot_products`; a kernel may store the sum once more before it adds the bias (theorem 6)."""
    n = int(np.prod(weight.shape[1:]))

    def multiply(values: Floats, matrix: Floats) -> Floats:
        return _convolve(values, matrix, attributes)

    found = _dot_products(rule, x, multiply, weight, None if bias is None else bias[:, None, None], n)
    if bias is None or rule.storage == rule.accumulate:
        return found
    assert found.fresh is not None
    store = rule.storage.store_error(found.peak)
    extra = add_up(store, mul_up(add_up(found.peak, store), rule.accumulate.unit_roundoff))
    return Result(found.mid, found.carried, add_up(found.fresh, extra), found.form, add_up(found.peak, extra))


def _pull_conv(attributes: Attributes, g: Floats, rows: Rows, result: Result, x: Ball, weight: Floats, bias: Floats | None) -> Pulled:
    groups, (outputs, inputs, height, width) = attributes["groups"], weight.shape
    matrix = weight.reshape(groups, outputs // groups, -1).swapaxes(1, 2)
    pieces = np.matmul(matrix, g.reshape(len(g), groups, outputs // groups, -1))
    pieces = pieces.reshape(len(g), groups * inputs, height * width, *g.shape[2:])
    terms = outputs // groups * height * width
    return (_spread(pieces, x.mid.shape[1:], (height, width), attributes),), _lost(g, rows, result, x, terms)


def _spread(pieces: Floats, shape: tuple[int, ...], kernel: tuple[int, int], attributes: Attributes) -> Floats:
    """The transpose of `_windows`."""
    (ph, pw), (channels, height, width) = attributes["padding"], shape
    padded = np.zeros((len(pieces), channels, height + 2 * ph, width + 2 * pw))
    for tap, (_, _, rows, columns) in enumerate(_taps((*kernel, *pieces.shape[3:]), attributes)):
        padded[:, :, rows, columns] += pieces[:, :, tap]
    return padded[:, :, ph : ph + height, pw : pw + width]


# ------------------------------------------------------------------------------------------------------------- normalisation
_CHAIN = 11
"""Roundings between x and y in every usual evaluation of batch normalisation, roots and their reciprocals within two ulps (theorem 7)."""


def _batch_norm(rule: Rule, attributes: Attributes, x: Ball, weight: Floats, bias: Floats, mean: Floats, var: Floats) -> Result:
    """``|a| e + (k + 1) v (|x| + |mean|) |a| + 3 v |b| + eta (|x| + |mean| + |w| + 4)`` (theorem 7), and the same of binary64 for `mid`."""
    inverse = 1 / np.sqrt(var + attributes["eps"])

    def of_channel(values: Floats) -> Floats:
        return values.reshape(-1, *[1] * (x.mid.ndim - 2))

    scale = of_channel(inverse * weight)
    size = mul_up(np.abs(scale), 1 + 16 * U)
    mid = (x.mid - of_channel(mean)) * scale + of_channel(bias)
    inputs = add_up(np.abs(x.mid), x.radius, of_channel(np.abs(mean)))
    product, offset = mul_up(inputs, size), of_channel(np.abs(bias))
    below = mul_up(add_up(inputs, of_channel(np.abs(weight)), 4.0), BINARY32.eta)
    chain = add_up(mul_up(product, (_CHAIN + 1) * (BINARY32.unit_roundoff + U)), mul_up(offset, 3 * (BINARY32.unit_roundoff + U)))
    fresh = add_up(chain, below, 2.0**-1000)
    factors = add_up(of_channel(inverse), size, mul_up(of_channel(np.abs(mean)), size), offset)
    normalised = mul_up(inputs, of_channel(mul_up(inverse, 1 + 16 * U)))
    peak = add_up(np.maximum(np.maximum(add_up(product, offset), normalised), np.maximum(inputs, factors)), fresh)
    return Result(mid, mul_up(x.radius, size), fresh, BINARY32, peak, kept=(scale,))


def _pull_batch_norm(attributes: Attributes, g: Floats, rows: Rows, result: Result, x: Ball, *constants: Floats) -> Pulled:
    """The scale has an error of at most 5 roundings, and the product one."""
    below = mul_up(widened(x.radius.reshape(len(x.mid), -1).sum(axis=1), x.mid[0].size), TINY)[rows]
    return (g * result.kept[0],), add_up(mul_up(weighted_up(np.abs(g), result.carried[rows]), 16 * U), below)


# ------------------------------------------------------------------------------------------------------ exact and elementwise
def _add(rule: Rule, attributes: Attributes, a: Ball, b: Ball) -> Result:
    """One rounding in binary32, or in the storage format (theorem 11)."""
    mid = a.mid + b.mid
    own = mul_up(np.abs(mid), U)
    carried = add_up(a.radius, b.radius)
    magnitude = add_up(np.abs(mid), own, carried)
    rounding = BINARY32.store_error(magnitude)
    return Result(mid, carried, add_up(own, rounding), BINARY32, add_up(magnitude, rounding))


def _pull_add(attributes: Attributes, g: Floats, rows: Rows, result: Result, a: Ball, b: Ball) -> Pulled:
    return (g, g), np.zeros(len(g))


def _relu(rule: Rule, attributes: Attributes, x: Ball) -> Result:
    """Exact (theorem 8); lines around an open neuron (theorem 17)."""
    mid = np.maximum(x.mid, 0.0)
    inside = x.mid > 0
    up = np.where(inside, x.up, np.maximum(np.nextafter(x.mid + x.up, np.inf), 0.0))
    down = np.where(inside, np.minimum(x.down, mid), 0.0)
    on, off = x.mid >= x.down, x.mid <= -x.up
    above_zero, below_zero = x.mid + x.up, x.down - x.mid
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = np.clip(above_zero / (above_zero + below_zero), 0.0, 1.0)
    slope = np.where(on, 1.0, np.where(off, 0.0, slope))
    left = np.nextafter(np.nextafter(slope * x.down, np.inf) - mid, np.inf)
    right = np.nextafter(np.nextafter(np.nextafter(1 - slope, np.inf) * x.up, np.inf) + np.minimum(x.mid, 0.0), np.inf)
    above = np.where(on | off, 0.0, np.maximum(left, right))
    lower = np.where(on, 1.0, np.where(off, 0.0, inside.astype(np.float64)))
    zero = np.zeros_like(mid)
    return Result(mid, np.maximum(up, down), None, rule.storage, zero, up, down, kept=(slope, lower, above))


def _pull_relu(attributes: Attributes, g: Floats, rows: Rows, result: Result, x: Ball) -> Pulled:
    slope, lower, above = (part[rows] for part in result.kept)
    positive = np.maximum(g, 0.0)
    pulled = np.where(g > 0, g * slope, g * lower)
    return (pulled,), add_up(weighted_up(positive, above), _product_lost(pulled, rows, x))


def _product_lost(pulled: Floats, rows: Rows, x: Ball) -> Floats:
    """What one rounding of every entry costs."""
    return weighted_up(add_up(mul_up(np.abs(pulled), U), TINY), x.radius[rows])


def _max_pool(rule: Rule, attributes: Attributes, x: Ball) -> Result:
    """A maximum moves at least like the entry at the centre's maximum, and at most by the largest excess more (theorem 17)."""
    kernel = tuple(attributes["kernel_size"])
    mids, ups, downs = (_windows(part, kernel, attributes, value) for part, value in ((x.mid, -np.inf), (x.up, 0.0), (x.down, 0.0)))
    winner = mids.argmax(axis=2)[:, :, None]
    mid = np.take_along_axis(mids, winner, 2)
    excess = np.nextafter(np.nextafter(mids - mid, np.inf) + ups, np.inf)  # of the upper ends over the centre's maximum
    best_down = np.take_along_axis(downs, winner, 2)
    others = np.where(np.arange(mids.shape[2])[None, None, :, None, None] == winner, -np.inf, excess)
    rival = others.max(axis=2)
    above = np.maximum(np.nextafter(rival + best_down[:, :, 0], np.inf), 0.0)
    up = np.maximum(excess.max(axis=2), 0.0)
    mid, down = mid[:, :, 0], best_down[:, :, 0]
    return Result(mid, np.maximum(up, down), None, rule.storage, np.zeros_like(mid), up, down, (winner, above))


def _pull_max_pool(attributes: Attributes, g: Floats, rows: Rows, result: Result, x: Ball) -> Pulled:
    kernel = tuple(attributes["kernel_size"])
    winner, above = (part[rows] for part in result.kept)
    pieces = np.zeros((*g.shape[:2], kernel[0] * kernel[1], *g.shape[2:]))
    np.put_along_axis(pieces, winner, g[:, :, None], 2)
    pulled = _spread(pieces, x.mid.shape[1:], kernel, attributes)
    terms = kernel[0] * kernel[1]
    lost = mul_up(weighted_up(np.abs(_spread(np.abs(pieces), x.mid.shape[1:], kernel, attributes)), x.radius[rows]), 2 * terms * U)
    return (pulled,), add_up(weighted_up(np.maximum(g, 0.0), above), lost)


def _view(rule: Rule, attributes: Attributes, x: Ball) -> Result:
    shape = (len(x.mid), *attributes["shape"])
    mid, up, down = (part.reshape(shape) for part in (x.mid, x.up, x.down))
    return Result(mid, np.maximum(up, down), None, rule.storage, np.zeros_like(mid), up, down)


def _pull_view(attributes: Attributes, g: Floats, rows: Rows, result: Result, x: Ball) -> Pulled:
    return (g.reshape(len(g), *x.mid.shape[1:]),), np.zeros(len(g))


def _sizes(value: Any) -> bool:
    return isinstance(value, list) and len(value) >= 1 and all(type(v) is int and v > 0 for v in value)


def _count(value: Any) -> bool:
    return type(value) is int and value > 0


def _normal(value: Any) -> bool:
    return isinstance(value, float) and (value == 0.0 or 2.0**-126 <= value < 1.0)


_SLIDING = {"stride": _positive_pair, "padding": _pairs, "dilation": _positive_pair}

OPERATORS = {
    "linear": Operator(shapes.linear, _linear, _pull_linear, constants=2),
    "conv2d": Operator(shapes.conv2d, _conv, _pull_conv, constants=2, attributes={**_SLIDING, "groups": _count}),
    "batch_norm": Operator(shapes.batch_norm, _batch_norm, _pull_batch_norm, constants=4, attributes={"eps": _normal}),
    "relu": Operator(shapes.relu, _relu, _pull_relu),
    "max_pool2d": Operator(shapes.max_pool2d, _max_pool, _pull_max_pool, attributes={**_SLIDING, "kernel_size": _positive_pair}),
    "add": Operator(shapes.add, _add, _pull_add, activations=2),
    "view": Operator(shapes.view, _view, _pull_view, attributes={"shape": _sizes}),
}
