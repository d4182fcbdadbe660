"""Addition, subtraction, multiplication and division, of two activations or of an activation and a constant."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from precisionkit.arithmetic import Arithmetic
from precisionkit.enclosure import Bounded, Enclosure
from precisionkit.formats import BINARY32, BINARY64
from precisionkit.ops._store import internal_error, parameter_error
from precisionkit.ops.adjoint import Linear, at_rows
from precisionkit.ops.record import Attributes, Operator, every_activation, several_activations
from precisionkit.outward import add_up, mul_up

Partial = Callable[..., tuple[Any, Any]]
"""``partial(attributes, rows, operands)``: derivatives of an operation with respect to its two operands, at the centre."""


def _number(arithmetic: Arithmetic, value: float, like: Tensor) -> Enclosure:
    """A Python number over every run: backends use it in binary64, rounded to binary32, or rounded to the storage format."""
    exact = torch.tensor(float(value), dtype=torch.float64, device=like.device)
    return Enclosure(exact, parameter_error(arithmetic.storage, BINARY32, exact))


def _operands(arithmetic: Arithmetic, attributes: Attributes, operands: tuple[Any, ...]) -> tuple[Enclosure, Enclosure]:
    """Both operands as enclosures."""
    like = next(o.centre for o in operands if isinstance(o, Enclosure))

    def enclosed(operand: Any, name: str) -> Enclosure:
        if operand is None:
            return _number(arithmetic, attributes[name], like)
        return operand if isinstance(operand, Enclosure) else Enclosure.exact(operand)

    a, b = (enclosed(o, name) for o, name in zip(operands, ("self", "other"), strict=True))
    return a, b


def _values(attributes: Attributes, operands: tuple[Any, ...]) -> tuple[Any, Any]:
    first, second = (attributes[n] if o is None else o for o, n in zip(operands, ("self", "other"), strict=True))
    return first, second


def _exact_values(engine: Any, attributes: Attributes, operands: tuple[Any, ...]) -> tuple[Any, Any]:
    first, second = (
        np.full((), engine.number(attributes[n]), dtype=object) if o is None else o
        for o, n in zip(operands, ("self", "other"), strict=True)
    )
    return first, second


def _rounding(arithmetic: Arithmetic, centre: Tensor, carried: Tensor, chain: int = 1) -> Bounded:
    """One operation in the internal format, then the store: two roundings, as a fused kernel's operands need not have been stored."""
    own = add_up(mul_up(centre.abs(), BINARY64.unit_roundoff), 2.0**-1074)
    magnitude = add_up(centre.abs(), own, carried)
    if chain == 1 and arithmetic.internal == arithmetic.storage:
        return Bounded(centre, carried, own, None, bias=own)
    fresh = add_up(own, internal_error(arithmetic.internal, magnitude, chain, chain * arithmetic.internal.eta))
    bias = own if chain == 1 else None
    return Bounded(centre, carried, fresh, arithmetic.internal, add_up(magnitude, fresh), arithmetic.internal, bias=bias)


def _scale_check(attributes: Attributes, shapes: Any) -> str | None:
    return "only alpha = 1 is supported" if attributes.get("alpha", 1) != 1 else None


def _spread(operands: tuple[Any, ...], a: Enclosure, b: Enclosure) -> Tensor:
    """Radius of a Python number, zero where there is none: no functional is pulled back to it."""
    numbers = [e.radius for o, e in zip(operands, (a, b), strict=True) if o is None]
    return numbers[0] if numbers else torch.zeros((), dtype=a.centre.dtype, device=a.centre.device)


def _sum_rule(arithmetic: Arithmetic, attributes: Attributes, operands: tuple[Any, ...], sign: float) -> Bounded:
    a, b = _operands(arithmetic, attributes, operands)
    carried = add_up(*torch.broadcast_tensors(a.radius, b.radius))
    result = _rounding(arithmetic, a.centre + sign * b.centre, carried)
    return replace(result, second_order=_spread(operands, a, b))


def _rsub_rule(arithmetic: Arithmetic, attributes: Attributes, *operands: Any) -> Bounded:
    """``other - self``: the mirror image of a subtraction."""
    result = _sum_rule(arithmetic, attributes, operands, -1.0)
    return replace(result, centre=-result.centre)


def _mul_rule(arithmetic: Arithmetic, attributes: Attributes, *operands: Any) -> Bounded:
    """``|a'b' - ab| <= |a| e_b + |b| e_a + e_a e_b``."""
    a, b = _operands(arithmetic, attributes, operands)
    both = mul_up(a.radius, b.radius)
    carried = add_up(mul_up(a.centre.abs(), b.radius), mul_up(b.centre.abs(), a.radius), both)
    factor = b.centre if operands[0] is None else a.centre
    second = add_up(both, mul_up(factor.abs(), _spread(operands, a, b)))
    return replace(_rounding(arithmetic, a.centre * b.centre, carried), second_order=second)


def _div_rule(arithmetic: Arithmetic, attributes: Attributes, *operands: Any) -> Bounded:
    """``|a'/b' - a/b| <= (e_a + |a / b| e_b) / (|b| - e_b)``; some backends multiply by a rounded reciprocal: two roundings.

    ``a'/b' - a/b = (d_a - (a/b) d_b) / b - (a'/b' - a/b) d_b / b``: the last term is of second order.
    """
    a, b = _operands(arithmetic, attributes, operands)
    centre, size = a.centre / b.centre, b.centre.abs()
    least = (size - b.radius) * (1 - 2.0**-50)
    moved = add_up(a.radius, mul_up(mul_up(centre.abs(), 1 + 2.0**-50), b.radius))
    carried = torch.where(least > 0, mul_up(moved / least, 1 + 2.0**-50), torch.full_like(moved / least, torch.inf))
    second = mul_up(mul_up(carried, b.radius) / size, 1 + 2.0**-50)
    factor = torch.ones_like(centre) if operands[0] is None else mul_up(centre.abs(), 1 + 2.0**-50)
    second = add_up(second, mul_up(mul_up(factor, _spread(operands, a, b)) / size, 1 + 2.0**-50))
    result = _rounding(arithmetic, centre, carried, chain=2)
    if result.fresh is None or result.peak is None:
        return replace(result, second_order=second)
    # a reciprocal below the normal range errs by eta, and a reciprocal of a tiny number overflows
    reciprocal = torch.where(least > 0, (1 / least) * (1 + 2.0**-50), torch.full_like(least, torch.inf))
    fresh = add_up(result.fresh, mul_up(add_up(a.centre.abs(), a.radius), 2 * arithmetic.internal.eta))
    return replace(result, fresh=fresh, peak=torch.maximum(result.peak, reciprocal), second_order=second)


def _divisor(attributes: Attributes, *operands: Any) -> tuple[int, ...]:
    return every_activation(attributes, *operands) if isinstance(operands[1], Enclosure) else ()


def _div_check(attributes: Attributes, shapes: Any) -> str | None:
    if attributes.get("rounding_mode") is not None:
        return "division with a rounding mode is not supported"
    return None if shapes[1] is not None or attributes.get("other") else "division by zero"


def _fit(g: Tensor, operand: Any) -> Tensor | None:
    """Sum a pulled-back functional over what was broadcast; None for a constant."""
    if not isinstance(operand, Enclosure):
        return None
    return g.sum_to_size((g.shape[0], *operand.centre.shape[1:]))


def _add_transpose(attributes: Attributes, g: Tensor, rows: Tensor, *operands: Any) -> tuple[Tensor | None, ...]:
    return tuple(_fit(g, o) for o in operands)


def _sub_transpose(attributes: Attributes, g: Tensor, rows: Tensor, *operands: Any) -> tuple[Tensor | None, ...]:
    return _fit(g, operands[0]), _fit(-g, operands[1])


def _factors(attributes: Attributes, rows: Tensor, operands: tuple[Any, ...]) -> tuple[Any, Any]:
    """Both operands at the centre, for every row, in binary64, whatever format they meet."""

    def factor(operand: Any, name: str) -> Any:
        if operand is None:
            return float(attributes[name])
        return at_rows(operand.centre, rows) if isinstance(operand, Enclosure) else operand

    return factor(operands[0], "self"), factor(operands[1], "other")


def _mul_transpose(attributes: Attributes, g: Tensor, rows: Tensor, *operands: Any) -> tuple[Tensor | None, ...]:
    a, b = _factors(attributes, rows, operands)
    g = g.double()
    return _fit(g * b, operands[0]), _fit(g * a, operands[1])


def _div_transpose(attributes: Attributes, g: Tensor, rows: Tensor, *operands: Any) -> tuple[Tensor | None, ...]:
    a, b = _factors(attributes, rows, operands)
    g = g.double()
    return _fit(g / b, operands[0]), _fit(-g * (a / b) / b, operands[1])


def _quotient_slopes(attributes: Attributes, rows: Tensor, operands: tuple[Any, ...]) -> tuple[Any, Any]:
    a, b = _factors(attributes, rows, operands)
    return 1 / b, -(a / b) / b


def _linear(partial: Partial) -> Linear:
    """Sum of the deviations times the partial derivatives at the centre."""

    def linear(attributes: Attributes, deviations: tuple[Tensor | None, ...], rows: Tensor, *operands: Any) -> Tensor:
        slopes = partial(attributes, rows, operands)
        parts = [d * slope for d, slope in zip(deviations, slopes, strict=True) if d is not None]
        shape = torch.broadcast_shapes(
            *(p.shape for p in parts), *((len(rows), *o.centre.shape[1:]) for o in operands if isinstance(o, Enclosure))
        )
        total: Tensor = sum(parts[1:], parts[0])
        return total.expand(shape)

    return linear


def _broadcast_terms(attributes: Attributes, *operands: Any) -> int:
    """Three products or quotients, and a sum over what was broadcast."""
    shapes = [(o.centre if isinstance(o, Enclosure) else o).shape for o in operands if o is not None]
    sizes = [o.centre.numel() for o in operands if isinstance(o, Enclosure)]
    largest: int = torch.broadcast_shapes(*shapes).numel()
    return 3 + largest // min(sizes)


ADD = Operator(
    name="add",
    targets=("aten.add.Tensor", "aten.add.Scalar"),
    operands=("self", "other"),
    apply=lambda attributes, *o: torch.add(*_values(attributes, o)),
    error_rule=lambda arithmetic, attributes, *o: _sum_rule(arithmetic, attributes, o, 1.0),
    transpose=_add_transpose,
    transposed_terms=_broadcast_terms,
    linear=_linear(lambda *_: (1.0, 1.0)),
    linear_terms=lambda *_: 6,
    pointwise=True,
    exact=lambda engine, attributes, *o: np.add(*_exact_values(engine, attributes, o)),
    check=_scale_check,
    bound="e_a + e_b, one rounding and the store",
    source="proofs/bounds.md, theorem 11",
)
SUB = Operator(
    name="sub",
    targets=("aten.sub.Tensor", "aten.sub.Scalar"),
    operands=("self", "other"),
    apply=lambda attributes, *o: torch.sub(*_values(attributes, o)),
    error_rule=lambda arithmetic, attributes, *o: _sum_rule(arithmetic, attributes, o, -1.0),
    transpose=_sub_transpose,
    transposed_terms=_broadcast_terms,
    linear=_linear(lambda *_: (1.0, -1.0)),
    linear_terms=lambda *_: 6,
    pointwise=True,
    exact=lambda engine, attributes, *o: np.subtract(*_exact_values(engine, attributes, o)),
    check=_scale_check,
    bound="e_a + e_b, one rounding and the store",
    source="proofs/bounds.md, theorem 11",
)
RSUB = Operator(
    name="rsub",
    targets=("aten.rsub.Scalar", "aten.rsub.Tensor"),
    operands=("self", "other"),
    apply=lambda attributes, *o: torch.rsub(*_values(attributes, o)),
    error_rule=_rsub_rule,
    transpose=lambda attributes, g, rows, *o: _sub_transpose(attributes, -g, rows, *o),
    transposed_terms=_broadcast_terms,
    linear=_linear(lambda *_: (-1.0, 1.0)),
    linear_terms=lambda *_: 6,
    pointwise=True,
    exact=lambda engine, attributes, *o: -np.subtract(*_exact_values(engine, attributes, o)),
    check=_scale_check,
    bound="e_a + e_b, one rounding and the store",
    source="proofs/bounds.md, theorem 11",
)
MUL = Operator(
    name="mul",
    targets=("aten.mul.Tensor", "aten.mul.Scalar"),
    operands=("self", "other"),
    apply=lambda attributes, *o: torch.mul(*_values(attributes, o)),
    error_rule=_mul_rule,
    transpose=_mul_transpose,
    transposed_terms=_broadcast_terms,
    linear=_linear(lambda *o: _factors(*o)[::-1]),
    linear_terms=lambda *_: 6,
    pointwise=True,
    curved=several_activations,
    exact=lambda engine, attributes, *o: np.multiply(*_exact_values(engine, attributes, o)),
    bound="|a| e_b + |b| e_a + e_a e_b, one rounding and the store",
    source="proofs/bounds.md, theorem 11",
)
DIV = Operator(
    name="div",
    targets=("aten.div.Tensor", "aten.div.Scalar"),
    operands=("self", "other"),
    apply=lambda attributes, *o: torch.div(*_values(attributes, o)),
    error_rule=_div_rule,
    transpose=_div_transpose,
    transposed_terms=_broadcast_terms,
    linear=_linear(_quotient_slopes),
    linear_terms=lambda *_: 6,
    pointwise=True,
    curved=_divisor,
    exact=lambda engine, attributes, *o: np.divide(*_exact_values(engine, attributes, o)),
    check=_div_check,
    bound="(e_a + |a/b| e_b) / (|b| - e_b) + 3 v |a/b|",
    source="proofs/bounds.md, theorem 11",
)
