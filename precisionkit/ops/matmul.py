"""Products of matrices of which both, or a batch of them, depend on the input."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from precisionkit.arithmetic import Arithmetic
from precisionkit.enclosure import Bounded, Enclosure
from precisionkit.ops._dot import Dots, Sums, bounded, dot_errors, tensor_core_steps
from precisionkit.ops._runs import run_dots
from precisionkit.ops.adjoint import at_rows
from precisionkit.ops.record import Attributes, Operator, several_activations
from precisionkit.outward import sum_of_products_up


def enclosed(operand: Enclosure | Tensor) -> Enclosure:
    """A constant as an enclosure without radius, for a batch of any size."""
    return operand if isinstance(operand, Enclosure) else Enclosure.exact(operand)


def stacks(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, torch.Size]:
    """Both as one stack of matrices, (G, m, k) and (G, k, n), and the shape of the stack."""
    lead = torch.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    return (
        a.expand(*lead, *a.shape[-2:]).reshape(-1, *a.shape[-2:]),
        b.expand(*lead, *b.shape[-2:]).reshape(-1, *b.shape[-2:]),
        lead,
    )


def rounded(arithmetic: Arithmetic, attributes: Attributes, a: Tensor, b: Tensor) -> Tensor:
    """A run in the order of the arithmetic."""
    left, right, lead = stacks(a, b)
    return run_dots(arithmetic, left, right[None], None)[0].reshape(*lead, a.shape[-2], b.shape[-1])


def exact(engine: Any, attributes: Attributes, a: Any, b: Any) -> Any:
    """Over exact numbers."""
    lead = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    left = np.broadcast_to(a, (*lead, *a.shape[-2:])).reshape(-1, *a.shape[-2:])
    right = np.broadcast_to(b, (*lead, *b.shape[-2:])).reshape(-1, *b.shape[-2:])
    products = [engine.dot(x, y) for x, y in zip(left, right, strict=True)]
    return np.stack(products).reshape(*lead, a.shape[-2], b.shape[-1])


def sums_of(a: Enclosure, b: Enclosure) -> tuple[Sums, Tensor]:
    """The sums, and what is of second order in them, ``e_a e_b``."""
    products = a.centre.shape[-1]
    size_a, size_b = a.centre.abs(), b.centre.abs()
    both = a.radius @ b.radius
    carried = size_a @ b.radius + a.radius @ size_b + both
    count = a.occupied() @ b.occupied()
    sums = Sums.of(a.centre @ b.centre, size_a @ size_b, carried, 3 * products, count, bias=False)
    return sums, sum_of_products_up(both, products)


def matmul_rule(arithmetic: Arithmetic, attributes: Attributes, first: Any, second: Any, most: float = 1.0) -> Bounded:
    """``|a'b' - ab| <= |a| e_b + e_a |b| + e_a e_b``, and the rounding of a dot product of factors of up to `most` times that size."""
    a, b = enclosed(first), enclosed(second)
    sums, both = sums_of(a, b)
    products = a.centre.shape[-1]
    dots = _dots(a, b) if arithmetic.order.is_tree else None
    steps = tensor_core_steps(arithmetic.order, products, 1)
    largest = most * torch.maximum(*((o.centre.abs() + o.radius).amax((-2, -1), keepdim=True) for o in (a, b)))
    found = bounded(arithmetic, sums, dot_errors(arithmetic, sums, dots, steps, largest))
    return replace(found, second_order=both) if isinstance(first, Enclosure) and isinstance(second, Enclosure) else found


def _dots(a: Enclosure, b: Enclosure) -> Dots:
    left, right, _ = stacks(a.centre, b.centre)
    left_radius, right_radius, _ = stacks(a.radius, b.radius)
    return Dots(left, right[None], right_radius[None], None, left_radius)


def _at(operand: Any, rows: Tensor) -> Tensor:
    return at_rows(operand.centre, rows) if isinstance(operand, Enclosure) else operand


def _fitted(g: Tensor, operand: Any) -> Tensor | None:
    return g.sum_to_size((g.shape[0], *operand.centre.shape[1:])) if isinstance(operand, Enclosure) else None


def transpose(attributes: Attributes, g: Tensor, rows: Tensor, a: Any, b: Any) -> tuple[Tensor | None, ...]:
    """Pull functionals back to both factors."""
    g = g.double()
    to_a = g @ _at(b, rows).transpose(-1, -2) if isinstance(a, Enclosure) else None
    to_b = _at(a, rows).transpose(-1, -2) @ g if isinstance(b, Enclosure) else None
    return (None if to_a is None else _fitted(to_a, a)), (None if to_b is None else _fitted(to_b, b))


def linear(attributes: Attributes, d: tuple[Tensor | None, ...], rows: Tensor, a: Any, b: Any) -> Tensor:
    """``d_a b + a d_b``."""
    parts = []
    if d[0] is not None:
        parts.append(d[0] @ _at(b, rows).to(d[0].dtype))
    if d[1] is not None:
        parts.append(_at(a, rows).to(d[1].dtype) @ d[1])
    total: Tensor = sum(parts[1:], parts[0])
    return total


def _terms(attributes: Attributes, a: Any, b: Any) -> int:
    """A dot product along one of the three dimensions, summed over what was broadcast."""
    left, right = enclosed(a).centre, enclosed(b).centre
    lead = torch.broadcast_shapes(left.shape[1:-2], right.shape[1:-2])
    return int(2 * (left.shape[-1] + max(left.shape[-2], right.shape[-1])) * max(1, lead.numel()) + 4)


def _check(attributes: Attributes, shapes: Any) -> str | None:
    if any(len(shape or ()) < 2 for shape in shapes):
        return "both factors must be matrices or batches of them"
    return None


MATMUL = Operator(
    name="matmul",
    targets=("aten.matmul.default", "aten.bmm.default", "aten.mm.default"),
    operands=("self", "other"),
    apply=lambda attributes, a, b: torch.matmul(a, b),
    error_rule=matmul_rule,
    exact=exact,
    rounded=rounded,
    transpose=transpose,
    transposed_terms=_terms,
    linear=linear,
    linear_terms=_terms,
    curved=several_activations,
    check=_check,
    products=lambda shape, shapes: math.prod(shape) * shapes[0][-1],
    bound="|a| e_b + e_a |b| + e_a e_b, and the rounding of linear's dot products",
    source="proofs/bounds.md, theorems 2 to 5, 21 and 23",
)
