"""Elementwise functions of one operand: one rule for all, from slope, curvature and kinks (proofs/bounds.md, theorem 22)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from precisionkit.arithmetic import Arithmetic
from precisionkit.contracts import Contract
from precisionkit.enclosure import Bounded, Enclosure
from precisionkit.formats import BINARY32, BINARY64
from precisionkit.ops._store import parameter_error
from precisionkit.ops.adjoint import at_rows
from precisionkit.ops.record import Attributes, Check, Operator, every_activation, no_objection
from precisionkit.outward import add_up, mul_up

_SLACK = 2.0**-40
"""Relative error of slopes and curvatures in binary64, with much to spare: each is a handful of operations and contracts."""

Kinks = Callable[[Attributes], "tuple[tuple[float, float], ...]"]
"""Places at which the slope jumps, and by how much at most."""


@dataclass(frozen=True)
class Range:
    """Where an operand may lie, entry by entry, and how near to zero."""

    centre: Tensor
    low: Tensor
    high: Tensor
    nearest: Tensor

    @classmethod
    def of(cls, x: Enclosure) -> Range:
        """Round outwards."""
        widened = mul_up(x.radius, 1 + 2.0**-40)
        low, high = x.centre - widened, x.centre + widened
        slack = (x.centre.abs() + x.radius) * 2.0**-50
        low, high = low - slack, high + slack
        exact = x.radius == 0
        low, high = torch.where(exact, x.centre, low), torch.where(exact, x.centre, high)
        nearest = torch.where((low <= 0) & (high >= 0), 0.0, torch.minimum(low.abs(), high.abs()))
        return cls(x.centre, low, high, nearest)


@dataclass(frozen=True)
class Function:
    """What is known of an elementwise function f.

    Attributes
    ----------
    value : callable
        ``value(attributes, x)``: torch's function, in any dtype.
    slope : callable
        ``slope(attributes, x)``: the derivative, one-sided at kinks.
    steepest : callable
        ``steepest(attributes, range)``: upper bound of ``|f'|``.
    curvature : callable
        ``curvature(attributes, range)``: upper bound of ``|f''|`` off the kinks.
    exact : callable
        ``exact(engine, attributes, number)``.
    contract : Contract or None
        None: nothing is rounded, the result is a number that was stored before, zero, or a parameter.
    kinks : callable
    parameters : tuple of str
        Attributes that multiply the result, and that a backend may round to binary32 or to the storage format.
    ends : tuple of str
        Attributes that are results themselves, rounded likewise.
    stores_on_the_way : bool
        A backend may store an intermediate result of the same relative error in the storage format.
    largest : float
        Intermediate results are at most this many times the larger of argument and result.
    """

    value: Callable[[Attributes, Tensor], Tensor]
    slope: Callable[[Attributes, Tensor], Tensor]
    steepest: Callable[[Attributes, Range], Tensor | float]
    curvature: Callable[[Attributes, Range], Tensor | float]
    exact: Callable[[Any, Attributes, Any], Any]
    contract: Contract | None
    kinks: Kinks = lambda _: ()
    parameters: tuple[str, ...] = ()
    ends: tuple[str, ...] = ()
    stores_on_the_way: bool = False
    largest: float = 1.0


def _rounding_of(arithmetic: Arithmetic, attributes: Attributes, names: tuple[str, ...]) -> tuple[float, float]:
    """How far parameters may be rounded on their way: absolutely, and relative to them."""
    absolute = relative = 0.0
    for name in names:
        value = attributes.get(name)
        if value is None:
            continue
        exact = torch.tensor(float(value), dtype=torch.float64, device="cpu")
        error = float(parameter_error(arithmetic.storage, BINARY32, exact))
        absolute = max(absolute, error)
        relative += error / abs(float(exact)) if error else 0.0
    return absolute, relative


def _remainder(function: Function, attributes: Attributes, x: Enclosure, where: Range, slope: Tensor) -> tuple[Tensor, Tensor]:
    """Upper bounds of ``|f(c + d) - f(c) - s d|`` and of ``|f(c + d) - f(c)|`` for all ``|d| <= e``."""
    e = x.radius
    curvature = torch.as_tensor(function.curvature(attributes, where), dtype=e.dtype, device=e.device)
    rest = mul_up(mul_up(e, e), 0.5 * curvature * (1 + _SLACK))
    for place, jump in function.kinks(attributes):
        beyond = (e - (x.centre - place).abs()).clamp_min(0) + e * 2.0**-50
        reached = (where.low <= place) & (where.high >= place)
        rest = add_up(rest, torch.where(reached, beyond * (jump * (1 + _SLACK)), torch.zeros_like(e)))
    steepest = torch.as_tensor(function.steepest(attributes, where), dtype=e.dtype, device=e.device) * (1 + _SLACK)
    steepest = torch.maximum(steepest.expand_as(e), slope.abs())
    # the slope's own error, relative to the steepest
    rest = torch.fmin(add_up(rest, mul_up(e, steepest * _SLACK)), mul_up(e, add_up(steepest, slope.abs())))
    moved = torch.fmin(mul_up(e, steepest), add_up(mul_up(e, slope.abs()), rest))
    still = e == 0
    return torch.where(still, 0.0, rest), torch.where(still, 0.0, moved)


def _rule(function: Function) -> Callable[..., Bounded]:
    def rule(arithmetic: Arithmetic, attributes: Attributes, x: Enclosure) -> Bounded:
        centre, where = function.value(attributes, x.centre), Range.of(x)
        rest, carried = _remainder(function, attributes, x, where, function.slope(attributes, x.centre))
        ends, _ = _rounding_of(arithmetic, attributes, function.ends)
        if function.contract is None:
            spread = torch.full_like(rest, ends * (1 + 2.0**-40))
            return Bounded(centre, add_up(carried, spread) if ends else carried, None, arithmetic.storage, second_order=rest + spread)
        _, relative = _rounding_of(arithmetic, attributes, function.parameters)
        if function.stores_on_the_way and arithmetic.storage != arithmetic.internal:
            relative += 1.01 * arithmetic.storage.unit_roundoff
        argument = add_up(x.centre.abs(), x.radius)
        own = function.contract.error(BINARY64, x.centre.abs(), mul_up(centre.abs(), 1 + 2.0**-40))
        result = add_up(centre.abs(), own, carried)
        rounding = function.contract.error(arithmetic.internal, argument, result)
        fresh = add_up(own, rounding, mul_up(result, relative * (1 + 2.0**-40)))
        peak = mul_up(torch.maximum(argument, add_up(result, fresh)), function.largest)
        return Bounded(centre, carried, fresh, arithmetic.internal, peak, arithmetic.internal, second_order=rest)

    return rule


def function_operator(
    name: str,
    targets: tuple[str, ...],
    function: Function,
    bound: str,
    check: Check = no_objection,
    operands: tuple[str, ...] = ("self",),
    assumption: str = "",
) -> Operator:
    """Build the record of an elementwise function."""

    def slopes(attributes: Attributes, rows: Tensor, x: Enclosure) -> Tensor:
        return at_rows(function.slope(attributes, x.centre), rows)

    return Operator(
        name=name,
        targets=targets,
        operands=operands,
        apply=function.value,
        error_rule=_rule(function),
        exact=lambda engine, attributes, x: np.vectorize(lambda v: function.exact(engine, attributes, v), otypes=[object])(x),
        # in binary64, whatever format the functional comes in: a slope need not be a number of it
        transpose=lambda attributes, g, rows, x: (g.double() * slopes(attributes, rows, x),),
        transposed_terms=lambda *_: 6,
        linear=lambda attributes, d, rows, x: d[0] * slopes(attributes, rows, x).to(d[0].dtype),
        linear_terms=lambda *_: 6,
        pointwise=True,
        stores=function.contract is not None,
        curved=every_activation,
        kinks=lambda attributes: tuple(place for place, _ in function.kinks(attributes)),
        check=check,
        assumption=assumption,
        bound=bound,
        source="proofs/bounds.md, theorem 22",
    )
