"""Softmax and log-softmax, with the logarithm of the sum of exponentials as a statistic that a row shares.

A run's softmax is ``exp(x - L) (1 + small)``, where L is the logarithm of the sum that it computed, moved by the maximum that it
subtracted.  The error of L acts on the whole row alike, so it is a coordinate of its own.  Proofs: proofs/bounds.md, theorem 24.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from precisionkit.arithmetic import Arithmetic
from precisionkit.contracts import EXP, LOG
from precisionkit.enclosure import Bounded, Enclosure
from precisionkit.formats import BINARY64, Format
from precisionkit.ops._store import store_error
from precisionkit.ops.adjoint import at_rows
from precisionkit.ops.record import Attributes, Operator, Statistic, every_activation
from precisionkit.outward import add_up, mul_up

_SLACK = 2.0**-40
"""Relative error of a derivative at the centre in binary64, with much to spare."""
KEYS_A_BLOCK = 16
"""Fused attention rescales its sums at most once for so many keys."""


def dim_of(attributes: Attributes) -> int:
    """The dimension of a row."""
    return int(attributes.get("dim", -1))


def masked_out(x: Enclosure) -> Tensor:
    """Where every run has minus infinity."""
    return (x.centre == -torch.inf) & (x.radius == 0)


def _sizes(x: Enclosure) -> Tensor:
    """Magnitudes at the centre; zero for what is masked out."""
    return x.centre.abs().masked_fill(masked_out(x), 0.0)


def _argument_error(fmt: Format, x: Enclosure, dim: int) -> Tensor:
    """Error of ``x_j - max``, in any scaling: three roundings of numbers up to the largest magnitudes; one number a row."""
    largest = add_up(_sizes(x), x.radius).amax(dim, keepdim=True)
    return mul_up(largest, 6 * fmt.unit_roundoff)


def excess(t: Tensor, order: int) -> Tensor:
    """``exp(t) - 1`` for order 1, ``exp(t) - 1 - t`` for order 2; of non-negative numbers, rounded up."""
    if order == 1:
        return torch.expm1(t) * (1 + _SLACK)
    series = t * t * (0.5 + t / 6 + t * t / 24 * 1.1)
    far = torch.expm1(t) - t
    return torch.where(t < 0.1, series, far) * (1 + 2.0**-30)


def grown(relative: Tensor | float, limit: float = 0.5) -> Tensor:
    """``exp(k) - 1 <= k (1 + k)`` for a sum k of small relative errors, up to 1/2; no bound beyond."""
    k = relative if isinstance(relative, Tensor) else torch.tensor(relative, dtype=torch.float64, device="cpu")
    return torch.where(k <= limit, mul_up(k, 1 + k), torch.full_like(k, torch.inf))


# ------------------------------------------------------------------------------------------------------------ statistic
def _logsumexp(attributes: Attributes, x: Tensor) -> Tensor:
    return torch.logsumexp(x, dim_of(attributes), keepdim=True)


def _weights(attributes: Attributes, x: Enclosure) -> Tensor:
    return torch.softmax(x.centre, dim_of(attributes))


def _sum_error(fmt: Format, x: Enclosure, dim: int, blocks: int) -> tuple[Tensor, Tensor]:
    """Relative error of a computed sum of exponentials, one a row: of the exponentials alone, and all of it.

    The largest exponential is 1, so that what is lost below the normal range is relative to that.
    """
    count, v = x.centre.shape[dim], fmt.unit_roundoff
    contract = mul_up(add_up(_argument_error(fmt, x, dim), (EXP.result + 1) * v), 1.0 + blocks)
    return contract, add_up(contract, (count + 3 * blocks) * v + count * fmt.smallest_normal)


def _stored_before(arithmetic: Arithmetic, x: Enclosure, dim: int) -> float:
    """Relative error of exponentials that are stored before they are divided, as torch's CPU kernels do along inner dimensions."""
    last = dim % x.centre.dim() == x.centre.dim() - 1
    return 0.0 if last or arithmetic.storage == arithmetic.internal else 1.01 * arithmetic.storage.unit_roundoff


def blocks_of(keys: int) -> int:
    """How often the sums over so many keys are rescaled at most."""
    return -(-keys // KEYS_A_BLOCK)


def _lse_rule(arithmetic: Arithmetic, attributes: Attributes, x: Enclosure, blocks: int = 0) -> Bounded:
    """``log sum exp`` is convex and moves by ``sum y d``, plus at most ``min(max e^2 / 2, sum y excess(e + sum y e))``.

    The sum errs by ``n`` roundings, the exponentials by their contract and by the error of their arguments; each of `blocks`
    rescalings by an exponential and two roundings.
    """
    dim = dim_of(attributes)
    count = x.centre.shape[dim]
    y, centre = _weights(attributes, x), _logsumexp(attributes, x.centre)
    widest = x.radius.amax(dim, keepdim=True)
    reach = mul_up((y * x.radius).sum(dim, keepdim=True), 1 + 2.0**-40)
    spread = mul_up((y * excess(x.radius + reach, 2)).sum(dim, keepdim=True), 1 + 2.0**-40)
    second = torch.fmin(mul_up(mul_up(widest, widest), 0.5), spread)
    second = add_up(second, mul_up(reach, _SLACK))
    carried = torch.fmin(add_up(reach, second), widest)
    contract, total = _sum_error(arithmetic.internal, x, dim, blocks)
    own = add_up(grown(_argument_error(BINARY64, x, dim) + (count + 32) * BINARY64.unit_roundoff), mul_up(centre.abs(), 2.0**-50))
    fresh = add_up(own, grown(total), _stored_before(arithmetic, x, dim))
    biased = add_up(own, mul_up(contract, 1 + total), mul_up(total, total))
    empty = ~(centre > -torch.inf)
    fresh = torch.where(empty, torch.full_like(fresh, torch.inf), fresh)
    return Bounded(
        centre, carried, fresh, arithmetic.internal, second_order=second, bias=biased, reach=torch.maximum(add_up(reach, second), carried)
    )


def _lse_linear(attributes: Attributes, d: tuple[Tensor | None, ...], rows: Tensor, x: Enclosure) -> Tensor:
    assert d[0] is not None
    weighted: Tensor = (d[0] * at_rows(_weights(attributes, x), rows).to(d[0].dtype)).sum(dim_of(attributes), keepdim=True)
    return weighted


def exact_logsumexp(engine: Any, attributes: Attributes, x: Any) -> Any:
    """Over exact numbers."""
    exponentials = np.vectorize(lambda v: exact_exp(engine, v), otypes=[object])(x)
    total = exponentials.sum(axis=dim_of(attributes), keepdims=True)
    return np.vectorize(engine.log, otypes=[object])(total)


def exact_exp(engine: Any, value: Any) -> Any:
    """Zero for minus infinity."""
    return engine.number(0) if value == engine.number(-math.inf) else engine.exp(value)


def statistic(name: str, rescalings: Callable[[int], int]) -> Operator:
    """Build the record of the logarithm of a sum of exponentials; ``rescalings(keys)`` of them are made on the way."""

    def rule(arithmetic: Arithmetic, attributes: Attributes, x: Enclosure) -> Bounded:
        return _lse_rule(arithmetic, attributes, x, rescalings(x.centre.shape[dim_of(attributes)]))

    return Operator(
        name=name,
        targets=(f"precisionkit.{name}",),
        operands=("self",),
        apply=_logsumexp,
        error_rule=rule,
        exact=exact_logsumexp,
        transpose=lambda attributes, g, rows, x: (g.double() * at_rows(_weights(attributes, x), rows),),
        transposed_terms=lambda *_: 6,
        linear=_lse_linear,
        linear_terms=lambda attributes, x: x.centre.shape[dim_of(attributes)] + 4,
        curved=every_activation,
        hidden=True,
        assumption=EXP.sentence("Exponentials"),
        bound="sum y e + min(max e^2, ...) / 2; (n + 3 b + (1 + b) (6 max|x| + 9)) v, y the softmax, b rescalings (attention)",
        source="proofs/bounds.md, theorem 24",
    )


LOGSUMEXP = statistic("logsumexp", lambda keys: 0)
ATTENTION_LOGSUMEXP = statistic("attention_logsumexp", blocks_of)


# -------------------------------------------------------------------------------------------------------------- softmax
def softmax_rule(arithmetic: Arithmetic, attributes: Attributes, x: Enclosure, total: Enclosure, blocks: int = 0) -> Bounded:
    """``exp(x - L)`` with deviations of both: ``y (exp(t) - 1)``, ``t = e_x + e_L``, and never more than 1 away.

    Each of `blocks` rescalings multiplies an exponential by another one, which errs by its contract.
    """
    v, dim = arithmetic.internal.unit_roundoff, dim_of(attributes)
    y = torch.exp(x.centre - total.centre)
    masked = masked_out(x)
    most = y.clamp_min(BINARY64.smallest_normal)  # y may have been lost below binary64's range
    t = add_up(x.radius, total.radius).masked_fill(masked, 0.0)
    own = mul_up(most, grown(add_up(_argument_error(BINARY64, x, dim), total.centre.abs() * 2.0**-52, 2.0**-49)))
    own = add_up(own, BINARY64.smallest_normal).masked_fill(masked, 0.0)
    reach = mul_up(most, t)
    second = torch.where(t == 0, 0.0, mul_up(most, excess(t, 2)))
    # exp(x) is at most the exact sum of exponentials, so a run's exp(x - L) is at most 1 and the error of its L
    exponentials, error = _sum_error(arithmetic.internal, x, dim, blocks)
    farthest = torch.maximum(y, add_up(1 - y, grown(error)) + 2.0**-30)
    carried = torch.fmin(add_up(reach, second), farthest)
    # before exp(t) grows without limit, the difference is at most what both reach
    second = add_up(torch.fmin(second, add_up(reach, farthest)), mul_up(reach, _SLACK))
    relative = grown(add_up(exponentials, (4 + blocks) * v))
    largest = add_up(y, own, carried)
    before = _stored_before(arithmetic, x, dim)
    rounding = add_up(mul_up(largest, relative), mul_up(largest, before), arithmetic.storage.eta if before else 0.0)
    fresh = add_up(own, rounding, 2 * arithmetic.internal.smallest_normal).masked_fill(masked, 0.0)
    return Bounded(centre=y, carried=carried, fresh=fresh, form=arithmetic.internal, second_order=second, reach=add_up(reach, second))


def _softmax_linear(attributes: Attributes, d: tuple[Tensor | None, ...], rows: Tensor, x: Enclosure, total: Enclosure) -> Tensor:
    like = next(part for part in d if part is not None)
    y = at_rows(torch.exp(x.centre - total.centre), rows).to(like.dtype)
    return y * _difference(attributes, d, rows, x, total)


def _softmax_transpose(attributes: Attributes, g: Tensor, rows: Tensor, x: Enclosure, total: Enclosure) -> tuple[Tensor, ...]:
    pulled = g.double() * at_rows(torch.exp(x.centre - total.centre), rows)
    return pulled, -pulled.sum(dim_of(attributes), keepdim=True)


def exact_softmax(engine: Any, attributes: Attributes, x: Any, *_: Any) -> Any:
    """Over exact numbers."""
    exponentials = np.vectorize(lambda v: exact_exp(engine, v), otypes=[object])(x)
    return exponentials / exponentials.sum(axis=dim_of(attributes), keepdims=True)


def on_batch(attributes: Attributes, shapes: Any) -> str | None:
    """Refuse rows along the batch."""
    return "it acts on the batch dimension" if dim_of(attributes) % len(shapes[0]) == 0 else None


def _row_terms(attributes: Attributes, x: Enclosure, total: Enclosure) -> int:
    return x.centre.shape[dim_of(attributes)] + 6


SOFTMAX = Operator(
    name="softmax",
    targets=("aten.softmax.int", "aten._softmax.default"),
    operands=("self",),
    statistics=(Statistic("logsumexp", ("self",)),),
    apply=lambda attributes, x, *_: torch.softmax(x, dim_of(attributes)),
    error_rule=softmax_rule,
    exact=exact_softmax,
    transpose=_softmax_transpose,
    transposed_terms=_row_terms,
    linear=_softmax_linear,
    linear_terms=lambda *_: 6,
    curved=every_activation,
    check=on_batch,
    assumption=EXP.sentence("Exponentials"),
    bound="y (exp(t) - 1), t = e + e_L, at most 1; (6 max|x| + 14) v y and what the logarithm of the sum adds",
    source="proofs/bounds.md, theorem 24",
)


# ---------------------------------------------------------------------------------------------------------- log-softmax
def _log_softmax_rule(arithmetic: Arithmetic, attributes: Attributes, x: Enclosure, total: Enclosure) -> Bounded:
    """``x - L``: the differences from the maximum round, the logarithm of the sum has a contract and is at most log n, then one more."""
    dim = dim_of(attributes)
    carried = add_up(*torch.broadcast_tensors(x.radius, total.radius))
    centre = x.centre - total.centre
    own = mul_up(add_up(_sizes(x), total.centre.abs().expand_as(centre)), 2 * BINARY64.unit_roundoff)
    largest = add_up(centre.abs(), own, carried)
    most = centre.new_tensor(math.log(x.centre.shape[dim]))
    logarithm = LOG.error(arithmetic.internal, torch.zeros_like(most), most)
    argument = _argument_error(arithmetic.internal, x, dim)
    fresh = add_up(own, mul_up(largest, 2 * arithmetic.internal.unit_roundoff), argument.expand_as(centre), float(logarithm))
    if arithmetic.storage != arithmetic.internal:
        # the sum, the difference from the maximum, the logarithm, or both together may be stored before they are subtracted
        difference = add_up(largest, math.log(x.centre.shape[dim]) * (1 + 2.0**-40))
        together = add_up(total.centre.abs(), total.radius, largest * 2.0**-20).expand_as(centre)
        parts = store_error(arithmetic.storage, difference), store_error(arithmetic.storage, together)
        fresh = add_up(fresh, *parts, 1.01 * arithmetic.storage.unit_roundoff)
    return Bounded(centre, carried, fresh, arithmetic.internal)


def _difference(attributes: Attributes, d: tuple[Tensor | None, ...], rows: Tensor, x: Enclosure, total: Enclosure) -> Tensor:
    like = next(part for part in d if part is not None)
    own = d[0] if d[0] is not None else like.new_zeros(())
    shared = d[1] if d[1] is not None else like.new_zeros(())
    return (own - shared).expand(-1, *x.centre.shape[1:])


LOG_SOFTMAX = Operator(
    name="log_softmax",
    targets=("aten.log_softmax.int", "aten._log_softmax.default"),
    operands=("self",),
    statistics=(Statistic("logsumexp", ("self",)),),
    apply=lambda attributes, x, *_: torch.log_softmax(x, dim_of(attributes)),
    error_rule=_log_softmax_rule,
    exact=lambda engine, attributes, x, *_: x - exact_logsumexp(engine, attributes, x),
    transpose=lambda attributes, g, rows, x, total: (g, -g.sum(dim_of(attributes), keepdim=True)),
    transposed_terms=_row_terms,
    linear=_difference,
    linear_terms=lambda *_: 4,
    check=on_batch,
    assumption=LOG.sentence("Logarithms"),
    bound="e + e_L, (6 max|x| + 2 |y|) v and 9 v log n",
    source="proofs/bounds.md, theorem 24",
)
