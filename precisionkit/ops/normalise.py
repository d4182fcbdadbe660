"""Normalisation over rows: layer, group, instance and RMS normalisation, with mean and inverse deviation as statistics.

Every use is brought to one layout: rows of n numbers, (batch, rows, n).  The errors of a row's mean and of its inverse deviation act
on the whole row alike, so they are coordinates of their own.  Proofs: proofs/bounds.md, theorem 25.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from precisionkit.arithmetic import Arithmetic
from precisionkit.contracts import SQRT
from precisionkit.enclosure import Bounded, Enclosure
from precisionkit.formats import BINARY32, BINARY64, Format
from precisionkit.ops._store import internal_error, parameter_error, store_error
from precisionkit.ops.adjoint import at_rows
from precisionkit.ops.record import Attributes, Operator, Statistic, every_activation
from precisionkit.outward import add_up, mul_up

ASSUMPTION = (
    "Normalisations over rows compute mean and variance in two passes, or by the updates of Welford and Chan, in the internal format; "
    "not as a difference of moments, as torch's group normalisation does on a CPU for tensors in channels_last layout."
)
_SLACK = 2.0**-40
"""Relative error of derivatives at the centre in binary64, with much to spare."""
_MOST = 2**17
"""Numbers in a row up to which sums grow by less than 1 % by rounding."""


@dataclass(frozen=True)
class Rows:
    """How a kind of normalisation arranges its operand in rows.

    Attributes
    ----------
    rows : callable
        ``rows(attributes, x)``: (batch, rows, n).
    factors : callable
        ``factors(attributes, x, values)``: weights or biases, broadcastable to the rows.
    centred : bool
        Whether the mean is subtracted.
    stored : bool
        Eps, mean and inverse deviation, and what they are combined to, may be stored in the storage format.
    """

    rows: Callable[[Attributes, Any], Any]
    factors: Callable[[Attributes, Any, Any], Any]
    centred: bool = True
    stored: bool = False


@dataclass(frozen=True)
class _Moments:
    """Of rows over every run, and what computing them can lose; (batch, rows, 1) tensors.

    Attributes
    ----------
    inverse, own : tensor
        ``1 / sqrt(var + eps)`` at the centre, and its binary64 error.
    mean_error : tensor
        Of a run's own mean.
    inverse_reach, inverse_second : tensor
        How far the operand's deviations move the inverse deviation: at first order, and beyond.
    largest : tensor
        Upper bound of the exact inverse deviation in any run.
    squares : tensor
        Upper bound of the sum of squares.
    unbiased, biased : tensor
        Relative error of a run's inverse deviation: of sums, and the rest.
    """

    inverse: Tensor
    own: Tensor
    mean_error: Tensor
    inverse_reach: Tensor
    inverse_second: Tensor
    largest: Tensor
    squares: Tensor
    unbiased: Tensor
    biased: Tensor


def _mean_error(fmt: Format, centre: Tensor, radius: Tensor) -> Tensor:
    """Two passes in any order, ``(n + 1) v mean|x|``, or updates, ``(n / 2 + 8 log2 n + 8) v max|x|``."""
    n = centre.shape[-1]
    size = add_up(centre.abs(), radius)
    passes = mul_up(size.mean(-1, keepdim=True), (n + 2) * fmt.unit_roundoff)
    updates = mul_up(size.amax(-1, keepdim=True), 1.01 * (n / 2 + 8 * math.log2(n) + 8) * fmt.unit_roundoff)
    error = add_up(torch.maximum(passes, updates), n * fmt.eta)
    return error if n <= _MOST else torch.full_like(error, torch.inf)


def _moments(arithmetic: Arithmetic, attributes: Attributes, kind: Rows, x: Enclosure) -> _Moments:
    c, e = kind.rows(attributes, x.centre), kind.rows(attributes, x.radius)
    n, fmt = c.shape[-1], arithmetic.internal
    number = torch.tensor(float(attributes["eps"]), dtype=torch.float64, device="cpu")
    eps_error = float(parameter_error(arithmetic.storage if kind.stored else fmt, fmt, number))
    eps = float(number)
    nothing = c.new_zeros(*c.shape[:-1], 1)
    mean = c.mean(-1, keepdim=True) if kind.centred else nothing
    mean_error = _mean_error(fmt, c, e) if kind.centred else nothing
    distance = c - mean
    variance = distance.square().mean(-1, keepdim=True)
    least = variance + eps
    inverse = least.rsqrt()
    average = e.mean(-1, keepdim=True) * (1 + 2.0**-40)
    # the binary64 error of the mean, and what it and the sums do to the variance
    off = c.abs().mean(-1, keepdim=True) * ((n + 4) * BINARY64.unit_roundoff) if kind.centred else nothing
    slack = (variance * ((n + 16) * BINARY64.unit_roundoff) + 2 * off * variance.sqrt() + 2 * off.square()) * (1 + 2.0**-20)
    slack = slack + least * 2.0**-50
    # the variance moves by 2 cov(c, d), at most q, and by var(d), between 0 and w
    q = 2 * ((distance.abs() * e).mean(-1, keepdim=True) + off * average) * (1 + 2.0**-30)
    w = e.square().mean(-1, keepdim=True) * (1 + 2.0**-40)
    lowest = torch.maximum((least - q - slack) * (1 - 2.0**-40), torch.full_like(least, max(eps - eps_error, 0.0) * (1 - 2.0**-40)))
    highest = (least + q + w + slack) * (1 + 2.0**-40)
    largest = lowest.rsqrt() * (1 + 2.0**-40)
    reach = 0.5 * q * inverse**3 * (1 + 2.0**-40)
    second = (0.5 * w * inverse**3 + 0.375 * (q + w + slack).square() * lowest**-2.5) * (1 + 2.0**-30)
    off_slope = off * average * inverse**3 + reach * (2 * slack / least + _SLACK)
    second = torch.where(e.amax(-1, keepdim=True) == 0, 0.0, add_up(second, off_slope * (1 + 2.0**-20)))
    own = mul_up(inverse, slack / least * (1 + slack / least) + 2.0**-49)
    own = torch.where(slack <= 0.25 * least, own, torch.inf)
    # of the two ways to compute the variance, updates lose more: the error of a mean, times distances from it
    v, levels = fmt.unit_roundoff, max(1.0, math.log2(n)) * (1 + 2.0**-40)
    sums = mul_up(highest, (n + 12) * v) + 2 * math.sqrt(levels) * mean_error * highest.sqrt() * (1 + 2.0**-40)
    squared = levels * mean_error.square() * (1 + 2.0**-40) + n * fmt.eta + eps_error
    unbiased, biased = sums / lowest, squared / lowest
    whole = unbiased + biased
    small = whole <= 0.25
    # a computed variance is not negative, so that no run's inverse deviation exceeds that of a variance of zero
    least_eps = max(eps - eps_error, 0.0)
    ceiling = 1.01 / math.sqrt(least_eps) / largest if least_eps else torch.full_like(largest, torch.inf)
    unbiased = torch.where(small, 0.5 * unbiased * (1 + 2 * whole) * (1 + 2.0**-40), ceiling)
    biased = torch.where(small, 0.5 * biased * (1 + 2 * whole) * (1 + 2.0**-40), 0.0) + (SQRT.result + 3) * v
    return _Moments(inverse, own, mean_error, reach, second, largest, n * (highest + squared), unbiased, biased)


# ----------------------------------------------------------------------------------------------------------- statistics
def _mean_rule(kind: Rows) -> Callable[..., Bounded]:
    def rule(arithmetic: Arithmetic, attributes: Attributes, x: Enclosure) -> Bounded:
        c, e = kind.rows(attributes, x.centre), kind.rows(attributes, x.radius)
        n = c.shape[-1]
        centre = c.mean(-1)
        own = c.abs().mean(-1) * ((n + 2) * BINARY64.unit_roundoff) + 2.0**-1070
        carried = e.mean(-1) * (1 + 2.0**-40)
        fresh = add_up(own, _mean_error(arithmetic.internal, c, e)[..., 0])
        before = add_up(centre.abs(), carried, fresh) if kind.stored else None
        if before is not None:
            fresh = add_up(fresh, store_error(arithmetic.storage, before))
        peak = mul_up(add_up(c.abs(), e).amax(-1), n * 1.01)
        bias = add_up(own, add_up(c.abs(), e).mean(-1) * (3 * arithmetic.internal.unit_roundoff))  # a rounded 1 / n is no random error
        return Bounded(centre, carried, fresh, arithmetic.internal, peak, arithmetic.internal, bias=bias, stored_before=before)

    return rule


def _inverse_rule(kind: Rows) -> Callable[..., Bounded]:
    def rule(arithmetic: Arithmetic, attributes: Attributes, x: Enclosure) -> Bounded:
        m = _moments(arithmetic, attributes, kind, x)
        exact = torch.isfinite(m.inverse)
        farthest = torch.maximum(m.inverse, m.largest - m.inverse)
        carried = torch.fmin(add_up(m.inverse_reach, m.inverse_second), farthest)
        store = 1.01 * arithmetic.storage.unit_roundoff if kind.stored else 0.0
        lost = arithmetic.storage.eta if kind.stored else 0.0
        unbiased, biased = add_up(mul_up(m.largest, m.unbiased + store), lost), add_up(mul_up(m.largest, m.biased), m.own)
        fresh = torch.where(exact, add_up(unbiased, biased), torch.inf)
        second = torch.fmin(m.inverse_second, add_up(m.inverse_reach, farthest))
        parts = (m.inverse, carried, fresh, second, biased, add_up(m.inverse_reach, second))
        centre, carried, fresh, second, biased, reach = (p[..., 0] for p in parts)
        peak = mul_up(m.squares, 1.01)[..., 0]
        internal = arithmetic.internal
        before = mul_up(m.largest, 1 + m.unbiased + m.biased)[..., 0] if kind.stored else None
        return Bounded(
            centre, carried, fresh, internal, peak, internal, second_order=second, bias=biased, reach=reach, stored_before=before
        )

    return rule


def _inverse_slope(kind: Rows, attributes: Attributes, x: Enclosure) -> Tensor:
    """``-(c - mean) / (n sigma^3)``, in rows."""
    c = kind.rows(attributes, x.centre)
    distance = c - c.mean(-1, keepdim=True) if kind.centred else c
    inverse = (distance.square().mean(-1, keepdim=True) + attributes["eps"]).rsqrt()
    slope: Tensor = -distance * inverse**3 / c.shape[-1]
    return slope


def _row_statistic(name: str, kind: Rows, *, inverse: bool) -> Operator:
    def value(attributes: Attributes, x: Tensor, *_: Any) -> Tensor:
        rows: Tensor = kind.rows(attributes, x)
        if not inverse:
            return rows.mean(-1)
        distance = rows - rows.mean(-1, keepdim=True) if kind.centred else rows
        inverse_deviation: Tensor = (distance.square().mean(-1) + attributes["eps"]).rsqrt()
        return inverse_deviation

    def exact(engine: Any, attributes: Attributes, x: Any) -> Any:
        mean, deviation = _exact_moments(engine, attributes, kind, x)
        return (deviation if inverse else mean)[..., 0]

    def slope(attributes: Attributes, rows: Tensor, x: Enclosure) -> Tensor:
        if inverse:
            return at_rows(_inverse_slope(kind, attributes, x), rows)
        c = kind.rows(attributes, x.centre)
        return torch.full((1, *c.shape[1:]), 1 / c.shape[-1], dtype=c.dtype, device=c.device)

    def linear(attributes: Attributes, d: tuple[Tensor | None, ...], rows: Tensor, x: Enclosure) -> Tensor:
        assert d[0] is not None
        image: Tensor = (kind.rows(attributes, d[0]) * slope(attributes, rows, x).to(d[0].dtype)).sum(-1)
        return image

    def transpose(attributes: Attributes, g: Tensor, rows: Tensor, x: Enclosure) -> tuple[Tensor | None, ...]:
        pulled = g.double()[..., None] * slope(attributes, rows, x)
        return (pulled.reshape(-1, *x.centre.shape[1:]),)

    return Operator(
        name=name,
        targets=(f"precisionkit.{name}",),
        operands=("input",),
        apply=value,
        error_rule=_inverse_rule(kind) if inverse else _mean_rule(kind),
        exact=exact,
        transpose=transpose,
        transposed_terms=lambda *_: 8,
        linear=linear,
        linear_terms=lambda attributes, x: kind.rows(attributes, x.centre).shape[-1] + 6,
        curved=every_activation,
        hidden=True,
        assumption=ASSUMPTION,
        bound="q / (2 s^3), q = 2 mean(|c - mean| e), and ((n + 12) v s^2 + 3 D s + D^2) / (2 s^3), D the mean's error"
        if inverse
        else "mean e and D = max((n + 2) v mean|x|, (n / 2 + 8 log2 n + 8) v max|x|)",
        source="proofs/bounds.md, theorem 25",
    )


def _exact_moments(engine: Any, attributes: Attributes, kind: Rows, x: Any) -> tuple[Any, Any]:
    rows = kind.rows(attributes, x)
    n = rows.shape[-1]
    mean = rows.sum(-1, keepdims=True) / n if kind.centred else np.full((*rows.shape[:-1], 1), engine.number(0), dtype=object)
    distance = rows - mean
    variance = (distance * distance).sum(-1, keepdims=True) / n + engine.number(attributes["eps"])
    return mean, np.vectorize(lambda v: 1 / engine.sqrt(v), otypes=[object])(variance)


# ------------------------------------------------------------------------------------------------------------ operators
def _split(kind: Rows, statistics: tuple[Enclosure, ...]) -> tuple[Enclosure | None, Enclosure]:
    return (statistics[0], statistics[1]) if kind.centred else (None, statistics[0])


def _parts(attributes: Attributes, kind: Rows, x: Enclosure, weight: Any, statistics: Any) -> tuple[Tensor, Tensor, Tensor]:
    """``c - mean``, the inverse deviation, and the weight, in rows."""
    mean, inverse = _split(kind, statistics)
    c = kind.rows(attributes, x.centre)
    distance = c if mean is None else c - mean.centre[..., None]
    factor = torch.ones((), dtype=c.dtype, device=c.device) if weight is None else kind.factors(attributes, x.centre, weight)
    return distance, inverse.centre[..., None], factor


def _normalised_rule(kind: Rows, *, stored: bool) -> Callable[..., Bounded]:
    def rule(
        arithmetic: Arithmetic, attributes: Attributes, x: Enclosure, weight: Tensor | None, bias: Tensor | None, *statistics: Enclosure
    ) -> Bounded:
        """``(x - m) s w + b`` with deviations of x, m and s: products of two deviations are of second order."""
        shape = x.centre.shape
        m = _moments(arithmetic, attributes, kind, x)
        mean, inverse = _split(kind, statistics)
        distance, s, w = _parts(attributes, kind, x, weight, statistics)
        e = kind.rows(attributes, x.radius)
        e_d = e if mean is None else add_up(e, mean.radius[..., None].expand_as(e))
        e_s, size_w = inverse.radius[..., None], w.abs()
        plain = distance * s
        centre = plain * w
        b = kind.factors(attributes, x.centre, bias) if bias is not None else torch.zeros_like(centre[:1, :1, :1])
        both = mul_up(mul_up(e_d, e_s), size_w)
        first = mul_up(add_up(mul_up(e_d, s), mul_up(distance.abs(), e_s)), size_w)
        reach = add_up(first, both)
        # a normalised number is at most sqrt(n), but for the errors of the mean and of the inverse deviation
        u = 1.01 * arithmetic.storage.unit_roundoff if kind.stored else 0.0
        growth = 1 + m.unbiased + m.biased + u
        moved_mean = (
            m.mean_error
            if mean is None or not kind.stored
            else m.mean_error + store_error(arithmetic.storage, (mean.centre.abs() + mean.radius)[..., None])
        )
        bounded = (math.sqrt(distance.shape[-1]) + moved_mean * m.largest) * growth * (1 + 2.0**-30)
        cap = add_up(plain.abs(), bounded)
        carried = torch.fmin(reach, mul_up(cap, size_w))
        second = torch.fmin(both, add_up(first, mul_up(cap, size_w)))
        chain_on = (
            add_up(kind.rows(attributes, x.centre).abs(), e) + (0 if mean is None else (mean.centre.abs() + mean.radius)[..., None])
        ) * m.largest
        chain_on = mul_up(chain_on * growth * (1 + 2.0**-40), size_w)
        own = add_up(internal_error(BINARY64, chain_on, 8), mul_up(b.abs(), 2.0**-52), 2.0**-1000)
        fresh = add_up(
            own,
            internal_error(arithmetic.internal, chain_on, 6, 8 * arithmetic.internal.eta),
            internal_error(arithmetic.internal, b.abs(), 2),
        )
        peak = add_up(chain_on, b.abs(), fresh)
        if kind.stored:  # so may be the factor and the term that each number is multiplied and added with
            combined = add_up(chain_on, b.abs())
            fresh = add_up(fresh, mul_up(combined, u), 2 * arithmetic.storage.eta)
        if stored:  # the normalised number may be stored before it is multiplied by the weight
            fresh = add_up(fresh, mul_up(store_error(arithmetic.storage, add_up(plain.abs(), cap)), size_w * (1 + 2.0**-20)))
        values = (centre + b, carried, fresh, second, reach, peak)
        full = [v.expand_as(centre).reshape(shape) for v in values]
        result = Bounded(full[0], full[1], full[2], arithmetic.internal, full[5], arithmetic.internal, second_order=full[3], reach=full[4])
        return replace(result, stored_before=full[5]) if kind.stored else result

    return rule


def _normalised_linear(kind: Rows) -> Callable[..., Tensor]:
    def linear(attributes: Attributes, d: tuple[Tensor | None, ...], rows: Tensor, x: Enclosure, *rest: Any) -> Tensor:
        weight, _, *statistics = rest
        distance, s, w = (
            at_rows(p, rows) if p.dim() == 3 and p.shape[0] > 1 else p for p in _parts(attributes, kind, x, weight, tuple(statistics))
        )
        like = next(part for part in d if part is not None)
        distance, s, w = (p.to(like.dtype) for p in (distance, s, w))
        total = like.new_zeros(())
        if d[0] is not None:
            total = total + kind.rows(attributes, d[0]) * s
        moved = list(d[3:])
        if kind.centred and (shift := moved.pop(0)) is not None:
            total = total - shift[..., None] * s
        if moved[0] is not None:
            total = total + moved[0][..., None] * distance
        image: Tensor = (total * w).expand(like.shape[0], *kind.rows(attributes, x.centre).shape[1:]).reshape(-1, *x.centre.shape[1:])
        return image

    return linear


def _normalised_transpose(kind: Rows) -> Callable[..., tuple[Tensor | None, ...]]:
    def transpose(attributes: Attributes, g: Tensor, rows: Tensor, x: Enclosure, *rest: Any) -> tuple[Tensor | None, ...]:
        weight, _, *statistics = rest
        distance, s, w = (
            at_rows(p, rows) if p.dim() == 3 and p.shape[0] > 1 else p for p in _parts(attributes, kind, x, weight, tuple(statistics))
        )
        weighted = kind.rows(attributes, g.double()) * w
        to_x = weighted * s
        to_mean = -to_x.sum(-1)
        to_inverse = (weighted * distance).sum(-1)
        found = (to_x.reshape(-1, *x.centre.shape[1:]), None, None)
        return (*found, to_mean, to_inverse) if kind.centred else (*found, to_inverse)

    return transpose


def _exact(kind: Rows) -> Callable[..., Any]:
    def exact(engine: Any, attributes: Attributes, x: Any, weight: Any, bias: Any, *_: Any) -> Any:
        mean, inverse = _exact_moments(engine, attributes, kind, x)
        y = (kind.rows(attributes, x) - mean) * inverse
        if weight is not None:
            y = y * kind.factors(attributes, x, weight)
        if bias is not None:
            y = y + kind.factors(attributes, x, bias)
        return y.reshape(x.shape)

    return exact


def _eps_objection(attributes: Attributes) -> str | None:
    eps = attributes.get("eps")
    if eps is None:
        return "its eps is that of the format, another network in every format; give a number"
    if eps < BINARY32.smallest_normal:
        return f"eps = {eps:g} is below {BINARY32.smallest_normal:g}, the normal range of binary32; choose a larger one"
    return None


def _operator(
    name: str, targets: tuple[str, ...], kind: Rows, apply: Callable[..., Tensor], check: Any, *, stored: bool = False
) -> tuple[Operator, ...]:
    inverse = _row_statistic(f"{name}_inverse", kind, inverse=True)
    mean = (_row_statistic(f"{name}_mean", kind, inverse=False),) if kind.centred else ()
    main = Operator(
        name=name,
        targets=targets,
        operands=("input", "weight", "bias"),
        statistics=tuple(Statistic(s.name, ("input",)) for s in (*mean, inverse)),
        apply=apply,
        error_rule=_normalised_rule(kind, stored=stored),
        exact=_exact(kind),
        transpose=_normalised_transpose(kind),
        transposed_terms=lambda attributes, x, *_: kind.rows(attributes, x.centre).shape[-1] + 10,
        linear=_normalised_linear(kind),
        linear_terms=lambda *_: 12,
        curved=every_activation,
        check=lambda attributes, shapes: _eps_objection(attributes) or check(attributes, shapes),
        assumption=ASSUMPTION,
        bound="|w| (s (e + e_m) + |x - m| e_s), at most |w| 2 sqrt n; 7 v (|x| + |m|) s |w| + 3 v |b|; m, s the statistics",
        source="proofs/bounds.md, theorem 25",
    )
    return (*mean, inverse, main)


def _layer_rows(attributes: Attributes, x: Any) -> Any:
    n = math.prod(attributes["normalized_shape"])
    return x.reshape(x.shape[0], -1, n)


def _layer_factors(attributes: Attributes, x: Any, values: Any) -> Any:
    return values.reshape(1, 1, -1)


def _layer_check(attributes: Attributes, shapes: Any) -> str | None:
    if len(attributes["normalized_shape"]) >= len(shapes[0]):
        return "it would mix the images of a batch"
    return None


LAYER_NORM = _operator(
    "layer_norm",
    ("aten.layer_norm.default", "aten.native_layer_norm.default"),
    Rows(_layer_rows, _layer_factors),
    lambda attributes, x, weight=None, bias=None, *_: F.layer_norm(x, attributes["normalized_shape"], weight, bias, attributes["eps"]),
    _layer_check,
)
RMS_NORM = _operator(
    "rms_norm",
    ("aten.rms_norm.default", "aten._fused_rms_norm.default"),
    Rows(_layer_rows, _layer_factors, centred=False),
    lambda attributes, x, weight=None, bias=None, *_: F.rms_norm(x, list(attributes["normalized_shape"]), weight, attributes["eps"]),
    _layer_check,
    stored=True,
)


def _groups(attributes: Attributes, x: Any) -> int:
    return int(attributes.get("num_groups", x.shape[1]))


def _group_rows(attributes: Attributes, x: Any) -> Any:
    return x.reshape(x.shape[0], _groups(attributes, x), -1)


def _group_factors(attributes: Attributes, x: Any, values: Any) -> Any:
    """One number a channel, for each of its places."""
    groups, channels = _groups(attributes, x), x.shape[1]
    places = math.prod(x.shape[2:])
    spread = values.reshape(1, groups, channels // groups, 1)
    if isinstance(values, np.ndarray):
        return np.broadcast_to(spread, (1, groups, channels // groups, places)).reshape(1, groups, -1)
    return spread.expand(1, groups, channels // groups, places).reshape(1, groups, -1)


GROUP_NORM = _operator(
    "group_norm",
    ("aten.group_norm.default",),
    Rows(_group_rows, _group_factors, stored=True),
    lambda attributes, x, weight=None, bias=None, *_: F.group_norm(x, attributes["num_groups"], weight, bias, attributes["eps"]),
    lambda attributes, shapes: None,
)
INSTANCE_NORM = _operator(
    "instance_norm",
    ("aten.instance_norm.default",),
    Rows(_group_rows, _group_factors, stored=True),
    lambda attributes, x, weight=None, bias=None, *_: F.instance_norm(x, None, None, weight, bias, True, 0.0, attributes["eps"]),
    lambda attributes, shapes: (
        None if attributes.get("use_input_stats") else "running statistics are not supported; use batch normalisation"
    ),
)
NORMALISATIONS = (*LAYER_NORM, *RMS_NORM, *GROUP_NORM, *INSTANCE_NORM)
