"""Upper bounds computed in binary64: every function returns a number that is not below the exact result.

For non-negative tensors.  The exact result of one rounding to nearest lies at or below the successor of the rounded one, so
each operation steps one number up; sums of products use the order-free bound of Jeannerod and Rump (2013), which holds
for every order, with and without FMA.  An infinite or NaN operand gives inf or NaN, and no comparison that proves
something holds for either.
"""

from __future__ import annotations

import torch
from torch import Tensor

U = 2.0**-53
"""Unit roundoff of binary64."""
TINY = 2.0**-1074
"""Smallest positive binary64 number; twice the largest error of a product below the normal range."""


def next_up(x: Tensor) -> Tensor:
    """Successor of non-negative binary64 numbers, 0.0 and -0.0 included; inf and NaN stay."""
    return _step(x + 0.0)


def _step(fresh: Tensor) -> Tensor:
    """Step a tensor that nobody else holds one number up, in place.

    Not by adding one to the encodings as integers, fast as that is: the NaN whose bits are all ones, which torch's vectorised minimum
    gives, would become 0.0.
    """
    return torch.nextafter(fresh, fresh.new_tensor(torch.inf), out=fresh)


def add_up(first: Tensor, *others: Tensor | float) -> Tensor:
    """Upper bound of a sum of non-negative terms (0.0, never -0.0)."""
    for other in others:
        first = _step(first + other)
    return first


def mul_up(a: Tensor, b: Tensor | float) -> Tensor:
    """Upper bound of a product of non-negative factors (0.0, never -0.0)."""
    return _step(a * b)


def hypot_up(a: Tensor, b: Tensor) -> Tensor:
    """Upper bound of ``sqrt(a**2 + b**2)``, for libraries within four ulps (glibc: one, CUDA: two)."""
    return mul_up(torch.hypot(a, b), 1 + 2.0**-50)


def narrowed_up(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Least numbers of binary32 (or binary64) that are not below non-negative binary64 numbers."""
    if dtype == torch.float64:
        return x
    near = x.to(dtype) + 0.0
    above = (near.view(torch.int32) + 1).view(dtype)
    return torch.where(near.double() < x, above, near)


def sum_of_products_up(computed: Tensor, terms: int) -> Tensor:
    """Upper bound of a sum of `terms` products of non-negative factors, given its binary64 evaluation in any order.

    computed >= exact (1 - n u) - n (1 + n u) TINY/2, by Jeannerod and Rump, so exact <= (computed + n TINY) / (1 - n u); the factor
    ``1 + 2 n u`` exceeds ``1 / (1 - n u)`` as long as ``n u <= 1/2``.
    """
    return mul_up(add_up(computed, terms * TINY), 1 + 2 * (terms + 1) * U)


def own_error(magnitude: Tensor, terms: int) -> Tensor:
    """Bound on the error of a binary64 sum of `terms` products, any order: ``n u sum|products| + n TINY``."""
    return add_up(mul_up(magnitude, terms * U), terms * TINY)
