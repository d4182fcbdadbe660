"""What the checker knows of each operator: its values and errors over an enclosure, and how a functional is pulled back through it.

Everything speaks of deviations from the *computed* binary64 centre ``mid``, so that the centre's own rounding is one more local error.
For a run's values x of the operands and y of the result, ``|x - mid| <= radius``, and ``y - mid`` is what the operator makes of
``x - mid``, at most `carried` in magnitude, and local errors.  Theorems are those of proofs/bounds.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from precisionkit.checker import shapes
from precisionkit.checker.rounding import BINARY32, TINY, Floats, Format, U, add_up, mul_up, sum_up, ufp, weighted_up

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
class Rounded:
    """The result of an operator that rounds, before its store.

    Attributes
    ----------
    mid : (batch, ...) array
    carried : (batch, ...) array
        How far the operands' deviations move it.
    fresh : (batch, ...) array
        Rounding errors of the runs, and of `mid`.
    form : Format
        That it was computed in.
    peak : (batch, ...) array
        Largest magnitude on the way.
    kept : tuple of arrays
        For `Operator.pull`.
    """

    mid: Floats
    carried: Floats
    fresh: Floats
    form: Format
    peak: Floats
    kept: tuple[NDArray[Any], ...] = ()


@dataclass(frozen=True)
class Exact:
    """The result of an operator that gives numbers which were stored before, or zero; `kept` is for `Operator.pull`."""

    ball: Ball
    kept: tuple[NDArray[Any], ...] = ()


Result = Rounded | Exact
Multiply = Callable[[Floats, Floats], Floats]
"""Inputs and weights to dot products."""
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
    optional_bias : bool
        The last constant may be absent.
    attributes : mapping of str to callable
        Names, and the check of each value.

    Notes
    -----
    All three functions get the same arguments for every operator, whether it needs them or not.
    """

    shape: Callable[..., shapes.Shape]
    forward: Callable[..., Result]
    pull: Callable[..., Pulled]
    constants: int = 0
    activations: int = 1
    optional_bias: bool = False
    attributes: Mapping[str, Callable[[Any], bool]] = field(default_factory=dict)


# ------------------------------------------------------------------------------------------------------------- dot products
def _dot_products(rule: Rule, x: Ball, multiply: Multiply, weight: Floats, bias: Floats | None, n: int) -> Rounded:
    """Sums of n products and a bias in any order, with or without FMA (theorem 3).

    They carry ``|W| e``.  Products that are zero in every run do not count; the others err by E in all.  Each of the m - 1 additions errs
    by ``v ufp`` of the largest sum of a subset of the terms, which is at most ``L = (S + |c|) / 2 + |W| e + E`` and what was lost before,
    ``(m - 1) v (S + |W| e + E)``.
    """
    accumulate, terms = rule.accumulate, n + (bias is not None)
    offset = 0.0 if bias is None else bias
    nonzero = multiply(((x.mid != 0) | (x.radius != 0)).astype(np.float64), (weight != 0).astype(np.float64))  # exact: whole numbers
    gamma = np.maximum(nonzero + (bias is not None) - 1, 0.0) * accumulate.unit_roundoff  # (m - 1) v
    mid = multiply(x.mid, weight) + offset  # c
    magnitude = sum_up(multiply(np.abs(x.mid), np.abs(weight)) + np.abs(offset), terms)  # S
    carried = sum_up(multiply(x.radius, np.abs(weight)), n)  # |W| e
    own = add_up(mul_up(magnitude, terms * U), terms * TINY)  # error of c itself
    whole = add_up(magnitude, carried)
    exact = 2 * rule.storage.precision <= accumulate.precision
    products = add_up(mul_up(whole, 0.0 if exact else accumulate.unit_roundoff), nonzero * accumulate.eta)  # E
    largest = add_up(mul_up(add_up(magnitude, np.abs(mid), own), 0.5), carried, products)  # L
    classical = mul_up(add_up(whole, products), gamma)
    additions = np.minimum(classical, mul_up(ufp(add_up(largest, classical)), gamma))
    return Rounded(mid, carried, add_up(products, additions, own), accumulate, add_up(largest, additions))


def _multiply_rows(x: Floats, weight: Floats) -> Floats:
    return np.asarray(x @ weight.T)


def _linear(rule: Rule, attributes: Attributes, x: Ball, weight: Floats, bias: Floats | None) -> Rounded:
    return _dot_products(rule, x, _multiply_rows, weight, bias, weight.shape[1])


def _pull_linear(attributes: Attributes, g: Floats, rows: Rows, result: Rounded, x: Ball, weight: Floats, bias: Floats | None) -> Pulled:
    return (g @ weight,), _lost(g, rows, result, x, len(weight))


def _lost(g: Floats, rows: Rows, result: Rounded, x: Ball, terms: int) -> Floats:
    """What the rounding of ``W^T g`` costs: each entry errs by ``n U |W|^T |g| + n TINY``, on deviations of x."""
    radius = x.radius.reshape(len(x.mid), -1)
    below = mul_up(sum_up(radius.sum(axis=1), radius.shape[1]), terms * TINY)[rows]
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


def _conv(rule: Rule, attributes: Attributes, x: Ball, weight: Floats, bias: Floats | None) -> Rounded:
    """As `_dot_products`; a kernel may store the sum once more before it adds the bias (theorem 6)."""
    n = int(np.prod(weight.shape[1:]))

    def multiply(values: Floats, matrix: Floats) -> Floats:
        return _convolve(values, matrix, attributes)

    found = _dot_products(rule, x, multiply, weight, None if bias is None else bias[:, None, None], n)
    if bias is None or rule.storage == rule.accumulate:
        return found
    store = rule.storage.store_error(found.peak)
    extra = add_up(store, mul_up(add_up(found.peak, store), rule.accumulate.unit_roundoff))
    return Rounded(found.mid, found.carried, add_up(found.fresh, extra), found.form, add_up(found.peak, extra))


def _pull_conv(attributes: Attributes, g: Floats, rows: Rows, result: Rounded, x: Ball, weight: Floats, bias: Floats | None) -> Pulled:
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
"""Most roundings on the way from x to y, in every usual evaluation (theorem 7): eps to the format and var + eps (1, halved by the root),
the root (2, an ulp being 2 v) and its reciprocal (2), where two ulps are spent on one of them, w, the subtraction, the product, the sum
(1 each), and 2 for the second order of quotients."""
_SCALE = 1 + 16 * U
"""More than ``w / sqrt(var + eps)`` in binary64 is off by: five roundings, of U each."""


def _batch_norm(rule: Rule, attributes: Attributes, x: Ball, weight: Floats, bias: Floats, mean: Floats, var: Floats) -> Rounded:
    """``|a| e + (k + 1) v (|x| + |mean|) |a| + 3 v |b| + eta (|x| + |mean| + |w| + 4)`` (theorem 7), and the same of binary64 for `mid`."""
    inverse = 1 / np.sqrt(var + attributes["eps"])

    def of_channel(values: Floats) -> Floats:
        return values.reshape(-1, *[1] * (x.mid.ndim - 2))

    scale = of_channel(inverse * weight)
    size = mul_up(np.abs(scale), _SCALE)
    mid = (x.mid - of_channel(mean)) * scale + of_channel(bias)
    inputs = add_up(np.abs(x.mid), x.radius, of_channel(np.abs(mean)))
    product, offset = mul_up(inputs, size), of_channel(np.abs(bias))
    below = mul_up(add_up(inputs, of_channel(np.abs(weight)), 4.0), BINARY32.eta)  # far above the same with the eta of binary64 as well
    chain = add_up(mul_up(product, (_CHAIN + 1) * (BINARY32.unit_roundoff + U)), mul_up(offset, 3 * (BINARY32.unit_roundoff + U)))
    fresh = add_up(chain, mul_up(below, 1 + U))
    factors = add_up(of_channel(inverse), size, mul_up(of_channel(np.abs(mean)), size), offset)
    normalised = mul_up(inputs, of_channel(mul_up(inverse, _SCALE)))
    peak = add_up(np.maximum(np.maximum(add_up(product, offset), normalised), np.maximum(inputs, factors)), fresh)
    return Rounded(mid, mul_up(x.radius, size), fresh, BINARY32, peak, (scale,))


def _pull_batch_norm(attributes: Attributes, g: Floats, rows: Rows, result: Rounded, x: Ball, *constants: Floats) -> Pulled:
    """The scale errs by 5 roundings at most, and its product with g by one."""
    return (g * result.kept[0],), _lost(g, rows, result, x, 16)


# ------------------------------------------------------------------------------------------------------ exact and elementwise
def _add(rule: Rule, attributes: Attributes, a: Ball, b: Ball) -> Rounded:
    """One rounding in binary32, before the store (theorem 11)."""
    mid = a.mid + b.mid
    own = mul_up(np.abs(mid), U)
    carried = add_up(a.radius, b.radius)
    magnitude = add_up(np.abs(mid), own, carried)
    rounding = BINARY32.store_error(magnitude)
    return Rounded(mid, carried, add_up(own, rounding), BINARY32, add_up(magnitude, rounding))


def _pull_add(attributes: Attributes, g: Floats, rows: Rows, result: Rounded, a: Ball, b: Ball) -> Pulled:
    return (g, g), np.zeros(len(g))


def _relu(rule: Rule, attributes: Attributes, x: Ball) -> Exact:
    """Exact (theorem 8); lines around an open neuron (theorem 17).

    With ``c = mid``, ``relu(c + d) - relu(c)`` lies below ``slope d + above``, which an end of the enclosure meets, and above ``lower d``.
    """
    mid, high = np.maximum(x.mid, 0.0), x.mid + x.up
    inside, on, off = x.mid > 0, x.mid >= x.down, x.mid <= -x.up
    up = np.where(inside, x.up, np.maximum(np.nextafter(high, np.inf), 0.0))
    down = np.where(inside, np.minimum(x.down, mid), 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):  # where nothing deviates
        slope = np.where(on, 1.0, np.where(off, 0.0, np.clip(high / (high + (x.down - x.mid)), 0.0, 1.0)))
    left = add_up(mul_up(slope, x.down), -mid)
    right = add_up(mul_up(np.nextafter(1 - slope, np.inf), x.up), np.minimum(x.mid, 0.0))
    above = np.where(on | off, 0.0, np.maximum(left, right))
    lower = (on | inside).astype(np.float64)
    return Exact(Ball(mid, up, down), (slope, lower, above))


def _pull_relu(attributes: Attributes, g: Floats, rows: Rows, result: Exact, x: Ball) -> Pulled:
    slope, lower, above = (part[rows] for part in result.kept)
    positive = np.maximum(g, 0.0)
    pulled = np.where(g > 0, g * slope, g * lower)
    return (pulled,), add_up(weighted_up(positive, above), _product_lost(pulled, rows, x))


def _product_lost(pulled: Floats, rows: Rows, x: Ball) -> Floats:
    """What one rounding of every entry costs."""
    return weighted_up(add_up(mul_up(np.abs(pulled), U), TINY), x.radius[rows])


def _max_pool(rule: Rule, attributes: Attributes, x: Ball) -> Exact:
    """A maximum moves at least like the entry at the centre's maximum, and at most by the largest excess more (theorem 17)."""
    kernel = tuple(attributes["kernel_size"])
    mids, ups, downs = (_windows(part, kernel, attributes, value) for part, value in ((x.mid, -np.inf), (x.up, 0.0), (x.down, 0.0)))
    winner = mids.argmax(axis=2)[:, :, None]
    mid = np.take_along_axis(mids, winner, 2)
    excess = add_up(mids, -mid, ups)  # of upper ends over the centre's maximum
    others = np.where(np.arange(mids.shape[2])[None, None, :, None, None] == winner, -np.inf, excess)
    down = np.take_along_axis(downs, winner, 2)[:, :, 0]
    above = np.maximum(add_up(others.max(axis=2), down), 0.0)
    return Exact(Ball(mid[:, :, 0], np.maximum(excess.max(axis=2), 0.0), down), (winner, above))


def _pull_max_pool(attributes: Attributes, g: Floats, rows: Rows, result: Exact, x: Ball) -> Pulled:
    kernel, shape = tuple(attributes["kernel_size"]), x.mid.shape[1:]
    taps = kernel[0] * kernel[1]
    winner, above = (part[rows] for part in result.kept)
    pieces = np.zeros((*g.shape[:2], taps, *g.shape[2:]))
    np.put_along_axis(pieces, winner, g[:, :, None], 2)
    sizes = _spread(np.abs(pieces), shape, kernel, attributes)
    lost = mul_up(weighted_up(sizes, x.radius[rows]), 2 * taps * U)  # fewer than so many functionals meet in an entry, with their rounding
    return (_spread(pieces, shape, kernel, attributes),), add_up(weighted_up(np.maximum(g, 0.0), above), lost)


def _view(rule: Rule, attributes: Attributes, x: Ball) -> Exact:
    shape = (len(x.mid), *attributes["shape"])
    return Exact(Ball(x.mid.reshape(shape), x.up.reshape(shape), x.down.reshape(shape)))


def _pull_view(attributes: Attributes, g: Floats, rows: Rows, result: Exact, x: Ball) -> Pulled:
    return (g.reshape(len(g), *x.mid.shape[1:]),), np.zeros(len(g))


def _sizes(value: Any) -> bool:
    return isinstance(value, list) and len(value) >= 1 and all(type(v) is int and v > 0 for v in value)


def _count(value: Any) -> bool:
    return type(value) is int and value > 0


def _normal(value: Any) -> bool:
    return isinstance(value, float) and (value == 0.0 or 2.0**-126 <= value < 1.0)


_SLIDING = {"stride": _positive_pair, "padding": _pairs, "dilation": _positive_pair}

OPERATORS = {
    "linear": Operator(shapes.linear, _linear, _pull_linear, constants=2, optional_bias=True),
    "conv2d": Operator(shapes.conv2d, _conv, _pull_conv, constants=2, optional_bias=True, attributes={**_SLIDING, "groups": _count}),
    "batch_norm": Operator(shapes.batch_norm, _batch_norm, _pull_batch_norm, constants=4, attributes={"eps": _normal}),
    "relu": Operator(shapes.relu, _relu, _pull_relu),
    "max_pool2d": Operator(shapes.max_pool2d, _max_pool, _pull_max_pool, attributes={**_SLIDING, "kernel_size": _positive_pair}),
    "add": Operator(shapes.add, _add, _pull_add, activations=2),
    "view": Operator(shapes.view, _view, _pull_view, attributes={"shape": _sizes}),
}
