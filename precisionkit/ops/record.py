"""The record of an operator: exact meaning, rounded reference and error rule in one value.

A record is checked when it is made, and `precisionkit.ops` lists them all.  To add an operator, write its file and name its
record there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from precisionkit.arithmetic import Arithmetic
from precisionkit.enclosure import Bounded, Enclosure
from precisionkit.ops.adjoint import Linear, Relax, Transpose

Attributes = Mapping[str, Any]
"""The arguments of an operator that are not tensors, by the names of its schema."""
Operand = Enclosure | Tensor | None
"""An activation over every run, a constant (weights, in binary64), or an absent optional argument."""

Apply = Callable[..., Tensor]
ErrorRule = Callable[..., Bounded]
Exact = Callable[..., "np.ndarray[Any, Any]"]
Rounded = Callable[..., Tensor]
Shape = tuple[int, ...]
Check = Callable[[Attributes, Sequence[tuple[int, ...] | None]], str | None]


def no_objection(attributes: Attributes, shapes: Sequence[tuple[int, ...] | None]) -> str | None:
    """Accept every use of an operator."""
    return None


def straight(attributes: Attributes, *operands: Operand) -> tuple[int, ...]:
    """No operand: the operator is affine, or is bounded without them."""
    return ()


def every_activation(attributes: Attributes, *operands: Operand) -> tuple[int, ...]:
    """Every operand that is an activation."""
    return tuple(place for place, operand in enumerate(operands) if isinstance(operand, Enclosure))


def several_activations(attributes: Attributes, *operands: Operand) -> tuple[int, ...]:
    """Every operand that is an activation, if there are two or more: products are affine in each factor."""
    places = every_activation(attributes, *operands)
    return places if len(places) > 1 else ()


def no_kinks(attributes: Attributes) -> tuple[float, ...]:
    """None."""
    return ()


def one_term(attributes: Attributes, *operands: Operand) -> int:
    """Roundings of a transpose that moves or scales entries."""
    return 1


@dataclass(frozen=True)
class Statistic:
    """Something that a kernel computes on the way, and whose error many results share, such as the mean of a row.

    Attributes
    ----------
    operator : str
        Name of its record, a hidden one.
    operands : tuple of str
        Names of the operator's operands, or of statistics before it.
    given : bool
        The operator's own functions take its result, behind the operands.
    """

    operator: str
    operands: tuple[str, ...]
    given: bool = True


@dataclass(frozen=True)
class Operator:
    """All that the toolkit knows of one operator.

    Attributes
    ----------
    name : str
        Name in reports and messages.
    targets : tuple of str
        The overloads of torch's operator library that it stands for, e.g. ``aten.linear.default``.
    operands : tuple of str
        The schema names of its tensor arguments, in the order in which the functions below take them; ``*tensors`` for a list.
    apply : callable
        ``apply(attributes, *tensors) -> tensor``: the meaning in whatever dtype the tensors have.  A fast run and the binary64
        centre use it.
    error_rule : callable
        ``error_rule(arithmetic, attributes, *operands) -> Bounded``.
    exact : callable
        ``exact(engine, attributes, *arrays) -> array``: the meaning over numpy object arrays of exact numbers; `engine` is an
        engine of `precisionkit.truth`, which gives square roots, exponentials, maxima and matrix products.
    rounded : callable or None
        ``rounded(arithmetic, attributes, *tensors) -> tensor``: a run that is bit-exact by definition, in binary32 and before the
        store; None where that is `apply` in binary64, rounded to binary32.
    stores : bool
        False for operators that round nothing: their results are numbers that were stored before, or zero.
    check : callable
        ``check(attributes, shapes) -> str | None``: why this use is not supported, if it is not.
    transpose : callable or None
        For an operator without `relax`: ``transpose(attributes, g, rows, *operands)`` pulls functionals back, see
        `precisionkit.ops.adjoint`.
    transposed_terms : callable
        ``transposed_terms(attributes, *operands) -> int``: an upper bound of the roundings of one entry of the transpose.
    linear : callable or None
        For an operator without `relax`: ``linear(attributes, deviations, rows, *operands)``, the image of deviations of the operands
        (None for no deviation) under its derivative at the centre; row k belongs to image ``rows[k]``.
    linear_terms : callable
        ``linear_terms(attributes, *operands) -> int``: an upper bound of the roundings of one entry of that image.
    products : callable or None
        For a dot product: ``products(shape, shapes) -> int``, its multiplications for one input, from the shapes of the result and of
        the operands; None for other operators.
    ends_fused : bool
        Whether kernels of ``--fuse epilogue`` compute it together with what follows.
    pointwise : bool
        Each entry of the result depends on the same entry of the operands alone, as long as these have the result's shape.
    relax : callable or None
        For a nonlinear operator of one operand: ``relax(attributes, operand) -> Lines``.
    curved : callable
        ``curved(attributes, *operands) -> places`` of the operands whose deviations matter beyond the first order, so that a method
        does well to sharpen their enclosures first.
    kinks : callable
        ``kinks(attributes) -> numbers`` at which the slope of an elementwise operator jumps.
    statistics : tuple of Statistic
        What a kernel computes on the way; runs and exact meanings get None for it.
    hidden : bool
        Such an operator: its result stays in the internal format, and no run makes it.
    assumption : str
        What the error rule takes for granted of a backend, beside the arithmetic, in one sentence.
    bound : str
        The error rule in one line of mathematics, for the documentation.
    source : str
        Where it is proved.
    """

    name: str
    targets: tuple[str, ...]
    operands: tuple[str, ...]
    apply: Apply
    error_rule: ErrorRule
    exact: Exact
    bound: str
    source: str
    rounded: Rounded | None = None
    stores: bool = True
    check: Check = no_objection
    transpose: Transpose | None = None
    transposed_terms: Callable[..., int] = one_term
    linear: Linear | None = None
    linear_terms: Callable[..., int] = one_term
    products: Callable[[Shape, Sequence[Shape]], int] | None = None
    ends_fused: bool = False
    pointwise: bool = False
    relax: Relax | None = None
    curved: Callable[..., tuple[int, ...]] = straight
    kinks: Callable[[Attributes], tuple[float, ...]] = no_kinks
    statistics: tuple[Statistic, ...] = ()
    hidden: bool = False
    assumption: str = ""

    def __post_init__(self) -> None:
        if not self.targets or not self.operands or not self.bound or not self.source:
            raise ValueError(f"The record of operator '{self.name}' is incomplete: targets, operands, bound and source are required.")


def run_rounded(operator: Operator, arithmetic: Arithmetic, attributes: Attributes, *tensors: Tensor | None) -> Tensor:
    """One run of an operator that is defined to the last bit, before its store; in binary32.

    Dot products by `Operator.rounded`; everything else in binary64, rounded once to binary32.  That is the correctly rounded result of
    a sum, product or quotient of two numbers, and of averages of halves; of other functions, unless binary64's own rounding crosses a
    tie, about once in 2**29 times.
    """
    if operator.rounded is not None:
        return operator.rounded(arithmetic, attributes, *tensors)
    return operator.apply(attributes, *(None if t is None else t.double() for t in tensors)).float()
