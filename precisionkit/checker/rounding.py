"""Formats, and upper bounds of what binary64 computes.

Every function whose name ends in ``_up`` returns a number that is not below the exact result: `add_up` and `mul_up` for operands of any
sign, the others for non-negative ones.  An infinite or NaN operand gives inf or NaN, and no comparison that proves something holds for
either.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

U = 2.0**-53
"""Unit roundoff of binary64."""
TINY = 2.0**-1074
"""Smallest positive binary64 number."""


def ufp(values: Floats) -> Floats:
    """Largest power of two that is not above a positive number, 0 of 0; of inf and NaN inf."""
    _, exponent = np.frexp(values)
    return np.where(np.isfinite(values), np.where(values > 0, np.ldexp(1.0, exponent - 1), 0.0), np.inf)


@dataclass(frozen=True)
class Format:
    """A floating-point format with rounding to nearest, ties to even, and subnormal numbers."""

    name: str
    precision: int
    emin: int
    emax: int

    @property
    def unit_roundoff(self) -> float:
        """Largest relative error of a rounding in the normal range."""
        return float(2.0**-self.precision)

    @property
    def eta(self) -> float:
        """Half of the smallest positive number."""
        return float(2.0 ** (self.emin - self.precision))

    @property
    def largest(self) -> float:
        """Largest finite number."""
        return float((2 - 2.0 ** (1 - self.precision)) * 2.0**self.emax)

    @property
    def overflow_threshold(self) -> float:
        """Smallest magnitude that rounds to infinity."""
        return float((2 - self.unit_roundoff) * 2.0**self.emax)

    def round(self, values: NDArray[Any]) -> Floats:
        """Round to nearest, ties to even; exact in binary64 for formats up to binary32.

        Raises
        ------
        OverflowError
            A value overflows, or is infinite or NaN.
        """
        values = values.astype(np.float64)
        if not (np.abs(values) < self.overflow_threshold).all():
            raise OverflowError(f"a value lies beyond the range of {self.name}, or is infinite or NaN")
        _, exponent = np.frexp(values)
        place = np.maximum(exponent - 1, self.emin) - (self.precision - 1)
        return np.asarray(np.ldexp(np.rint(np.ldexp(values, -place)), place), dtype=np.float64)

    def store_error(self, magnitude: Floats) -> Floats:
        """Largest error of rounding a number of at most this magnitude: max(u ufp, eta).  Theorem 1."""
        error = np.maximum(ufp(magnitude) * self.unit_roundoff, self.eta)
        return np.where(magnitude < self.overflow_threshold, error, np.inf)


BINARY16 = Format("binary16", 11, -14, 15)
BFLOAT16 = Format("bfloat16", 8, -126, 127)
BINARY32 = Format("binary32", 24, -126, 127)
FORMATS = {fmt.name: fmt for fmt in (BINARY16, BFLOAT16, BINARY32)}


def add_up(first: Floats, *others: Floats | float) -> Floats:
    """Upper bound of a sum."""
    for other in others:
        first = np.nextafter(first + other, np.inf)
    return first


def mul_up(a: Floats, b: Floats | float) -> Floats:
    """Upper bound of a product."""
    return np.nextafter(a * b, np.inf)


def sum_up(computed: Floats, terms: int) -> Floats:
    """Upper bound of a sum of `terms` products, from its evaluation in any order, fused or not.  Theorem 15."""
    return mul_up(add_up(computed, terms * TINY), 1 + 2 * (terms + 2) * U)


def weighted_up(weights: Floats, values: Floats) -> Floats:
    """Upper bounds of ``sum_k weights[r, k] values[r, k]``, for every row r of a batch."""
    products = (weights * values).reshape(len(weights), -1)
    return sum_up(products.sum(axis=1), products.shape[1])
