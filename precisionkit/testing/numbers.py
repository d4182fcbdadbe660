"""Strategies for formats, their numbers, arrays of them, and what lies halfway between two of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from precisionkit.arithmetic import STORAGE
from precisionkit.errors import UsageError
from precisionkit.formats import FORMATS, Format

_NEAR = 64
"""Numbers near the largest one, and near one, that are drawn."""
_MODERATE = 4
"""Largest exponent of moderate numbers."""


def formats(*, stored: bool = False) -> st.SearchStrategy[Format]:
    """Draw a format.

    Parameters
    ----------
    stored : bool
        Only formats that weights and results of a network can be stored in.
    """
    return st.sampled_from(STORAGE if stored else FORMATS)


def _signed(fmt: Format, magnitudes: st.SearchStrategy[float]) -> st.SearchStrategy[float]:
    return st.builds(math.copysign, magnitudes.filter(lambda x: x <= fmt.max), st.sampled_from((1.0, -1.0)))


def _in_binades(fmt: Format, least: int, most: int) -> st.SearchStrategy[float]:
    """Every significand in the binades from ``2**least`` to below ``2**(most + 1)``."""
    p = fmt.precision
    return st.builds(lambda m, e: math.ldexp(m, e - p + 1), st.integers(2 ** (p - 1), 2**p - 1), st.integers(least, most))


def _any(fmt: Format) -> st.SearchStrategy[float]:
    return st.just(0.0) | _in_binades(fmt, fmt.emin, fmt.emax) | _subnormal(fmt)


def _moderate(fmt: Format) -> st.SearchStrategy[float]:
    return _in_binades(fmt, -_MODERATE, _MODERATE)


def _subnormal(fmt: Format) -> st.SearchStrategy[float]:
    return st.integers(1, 2 ** (fmt.precision - 1) - 1).map(lambda k: math.ldexp(k, fmt.emin - fmt.precision + 1))


def _ties(fmt: Format) -> st.SearchStrategy[float]:
    """``1 + 2 k u`` and ``(2 k + 1) u``, whose sums lie halfway between numbers for every pair."""
    near = min(_NEAR, 2 ** (fmt.precision - 1) - 1)
    k = st.integers(0, near)
    odd = st.integers(0, min(_NEAR, 2 ** (fmt.precision - 1) - 1)).map(lambda k: (2 * k + 1) * fmt.unit_roundoff)
    return k.map(lambda k: 1 + k * fmt.eps) | odd.filter(lambda x: x >= fmt.smallest_subnormal)


def _large(fmt: Format) -> st.SearchStrategy[float]:
    """The largest numbers, and halves and quarters of them, whose sums and products pass the threshold of overflow or do not."""
    most = 2**fmt.precision - 1 - fmt.without_infinities
    steps = st.integers(0, min(_NEAR, most // 2)).map(lambda k: math.ldexp(most - k, fmt.emax - fmt.precision + 1))
    return steps | st.builds(math.ldexp, st.sampled_from((1.0, 1.5)), st.integers(fmt.emax - 3, fmt.emax))


def _integers(fmt: Format) -> st.SearchStrategy[float]:
    """Every one up to here is a number of the format."""
    return st.integers(0, min(2**fmt.precision, 2**11)).map(float)


_KINDS = {"integers": _integers, "moderate": _moderate, "ties": _ties, "subnormal": _subnormal, "large": _large, "any": _any}
KINDS = tuple(_KINDS)
"""Kinds of numbers of a format: small integers; magnitudes about one; such as sums of which lie halfway between numbers; below the normal
range; near overflow; all."""


def _checked(kinds: Sequence[str]) -> Sequence[str]:
    if unknown := [kind for kind in kinds if kind not in KINDS] or ([] if kinds else ["none"]):
        raise UsageError(f"There are no numbers of the kind '{unknown[0]}'; choose of {', '.join(KINDS)}.")
    return kinds


def numbers(fmt: Format, kinds: Sequence[str] = KINDS) -> st.SearchStrategy[float]:
    """Draw finite numbers of a format, as Python floats.

    Parameters
    ----------
    fmt : Format
    kinds : sequence of str
        Of `KINDS`.

    Raises
    ------
    UsageError
        There is no such kind.
    """
    return st.one_of([_signed(fmt, _KINDS[kind](fmt)) for kind in _checked(kinds)])


def halfway(fmt: Format) -> st.SearchStrategy[float]:
    """Draw binary64 numbers halfway between two neighbours of a format: ties for every rounding to nearest.

    Subnormal neighbours, the largest number and the threshold of overflow are among them.

    Raises
    ------
    UsageError
        The format is binary64, whose ties are no binary64 numbers.
    """
    if fmt.precision >= 53:
        raise UsageError(f"What lies halfway between numbers of {fmt.name} is no binary64 number; choose a shorter format.")

    def above(x: float) -> float:
        exponent = max(math.frexp(x)[1] - 1, fmt.emin) if x else fmt.emin
        return x + math.ldexp(1, exponent - fmt.precision)

    return st.builds(math.copysign, numbers(fmt).map(abs).map(above), st.sampled_from((1.0, -1.0)))


def arrays(
    fmt: Format, shape: int | tuple[int, ...] | st.SearchStrategy[tuple[int, ...]], kinds: Sequence[str] = KINDS
) -> st.SearchStrategy[NDArray[np.float64]]:
    """Draw binary64 arrays of numbers of a format: all of one kind, or of several.

    Parameters
    ----------
    fmt : Format
    shape : int, tuple of int, or strategy of them
    kinds : sequence of str
        Of `KINDS`.
    """
    several = [numbers(fmt, [kind]) for kind in _checked(kinds)]

    def of(elements: st.SearchStrategy[float]) -> st.SearchStrategy[Any]:
        return hnp.arrays(np.float64, shape, elements=elements, fill=st.nothing())

    return st.one_of([*map(of, several), *([of(numbers(fmt, kinds))] if len(several) > 1 else [])])
