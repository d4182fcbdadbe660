"""The operations of IEEE 754 in any narrow format, correctly rounded, subnormal numbers and all directions of rounding included.

The exact result is rounded to odd in binary64 (truncated, with a last bit of 1 where anything was cut off), and then once into the
format.  That equals one rounding of the exact result as long as binary64 has two bits more than the format and no less range
(Boldo and Melquiond, IEEE Trans. Comput. 57, 2008).  So the formats are those with at most `WIDEST` bits; operations of binary64
itself are the library's.  Operands are binary64 arrays or tensors that hold numbers of the format.  Stochastic rounding goes up with
the probability that belongs to the value rounded to odd, which differs from the exact one's by less than 2**(p - 52).
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np

from precisionkit.errors import UnsupportedArithmeticError, UsageError
from precisionkit.formats import BINARY64, NEAREST, Format, Rounding, library_of, round_into

WIDEST = 24
"""Bits of the widest format: products must be exact in binary64, and quotients and roots are checked by exact products."""


def add(a: Any, b: Any, fmt: Format, rounding: Rounding = NEAREST, uniform: Any = None) -> Any:
    """Round ``a + b`` once.

    Parameters
    ----------
    a, b : binary64 arrays or tensors
        Numbers of the format.
    fmt, rounding, uniform
        As for `round_into`.
    """
    with _quiet(a):
        if fmt == BINARY64 and rounding == NEAREST:
            return a + b
        _check(fmt)
        return round_into(_odd_sum(a, b), fmt, rounding, uniform)


def multiply(a: Any, b: Any, fmt: Format, rounding: Rounding = NEAREST, uniform: Any = None) -> Any:
    """Round ``a b`` once."""
    with _quiet(a):
        if fmt == BINARY64 and rounding == NEAREST:
            return a * b
        _check(fmt)
        return round_into(a * b, fmt, rounding, uniform)  # binary64 holds the product


def fma(a: Any, b: Any, c: Any, fmt: Format, rounding: Rounding = NEAREST, uniform: Any = None) -> Any:
    """Round ``a b + c`` once."""
    with _quiet(a):
        _check(fmt)
        return round_into(_odd_sum(a * b, c), fmt, rounding, uniform)


def divide(a: Any, b: Any, fmt: Format, rounding: Rounding = NEAREST, uniform: Any = None) -> Any:
    """Round ``a / b`` once."""
    with _quiet(a):
        if fmt == BINARY64 and rounding == NEAREST:
            return a / b
        _check(fmt)
        quotient = a / b
        high, low = _halves(quotient)
        rest = (a - high * b) - low * b
        return round_into(_odd(quotient, rest * library_of(a).sign(b)), fmt, rounding, uniform)


def sqrt(a: Any, fmt: Format, rounding: Rounding = NEAREST, uniform: Any = None) -> Any:
    """Round the square root once."""
    with _quiet(a):
        root = library_of(a).sqrt(a)
        if fmt == BINARY64 and rounding == NEAREST:
            return root
        _check(fmt)
        high, low = _halves(root)
        rest = ((a - high * high) - 2 * high * low) - low * low
        return round_into(_odd(root, rest), fmt, rounding, uniform)


def _check(fmt: Format) -> None:
    if fmt.precision > WIDEST:
        raise UnsupportedArithmeticError(
            f"{fmt.name} has {fmt.precision} bits; correctly rounded operations are made for formats of at most {WIDEST} bits, and "
            "for binary64 to nearest."
        )


def _quiet(x: Any) -> Any:
    """Infinities and NaN are results here, not mishaps.

    Raises
    ------
    UsageError
        The operand is no array or tensor of binary64.
    """
    if not hasattr(x, "dtype") or str(x.dtype).removeprefix("torch.") != "float64":
        raise UsageError(
            "Operands are numpy arrays or torch tensors of binary64, whatever the format of their numbers; convert them first."
        )
    return np.errstate(all="ignore") if isinstance(x, np.ndarray) else nullcontext()


def _odd_sum(a: Any, b: Any) -> Any:
    """``a + b`` rounded to odd; TwoSum (Knuth) finds what binary64 loses exactly."""
    total = a + b
    moved = total - a
    return _odd(total, (a - (total - moved)) + (b - moved))


def _odd(nearest: Any, rest: Any) -> Any:
    """Round to odd, from the result to nearest and what has the sign of the rest: an even last bit gives way towards the rest."""
    library = library_of(nearest)
    even = (nearest.view(library.int64) & 1) == 0
    inexact = (rest != 0) & (abs(nearest) < np.inf) & (rest == rest)
    towards = library.copysign(library.full_like(nearest, np.inf), rest)
    return library.where(even & inexact, library.nextafter(nearest, towards), nearest)


def _halves(x: Any) -> tuple[Any, Any]:
    """Split into a part of 26 bits and the rest, of 27: products of either with a number of 24 bits are exact."""
    library = library_of(x)
    high = (x.view(library.int64) & -(2**27)).view(library.float64)
    return high, x - high
