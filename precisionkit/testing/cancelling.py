"""Strategies for sums and dot products whose condition number is chosen.

The condition number of a sum is ``sum |x| / |sum x|``, that of a dot product ``2 sum |x y| / |sum x y|``: how many times larger the
relative error of the result is than those of the terms.  The construction follows Ogita, Rump and Oishi, SIAM J. Sci. Comput. 26 (2005),
section 6, in rational arithmetic: some terms are drawn, and the last ones bring the exact sum down to what was chosen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from precisionkit.errors import UsageError
from precisionkit.formats import Format, round_to_nearest
from precisionkit.testing.numbers import numbers

Floats = NDArray[np.float64]
_LARGEST = 1000


@dataclass(frozen=True)
class DotProduct:
    """Two vectors of numbers of a format.

    Attributes
    ----------
    x, y : (length,) binary64 arrays
    exact : Fraction
        Their dot product.
    condition : float
        ``2 sum |x y| / |exact|``.
    """

    x: Floats
    y: Floats

    @property
    def exact(self) -> Fraction:
        """The dot product."""
        return sum((Fraction(a) * Fraction(b) for a, b in zip(self.x.tolist(), self.y.tolist(), strict=True)), Fraction(0))

    @property
    def condition(self) -> float:
        """The condition number; infinite for a dot product of zero."""
        size = sum((abs(Fraction(a) * Fraction(b)) for a, b in zip(self.x.tolist(), self.y.tolist(), strict=True)), Fraction(0))
        return float(2 * size / abs(self.exact)) if self.exact else math.inf


def greatest_condition(fmt: Format, *, products: bool) -> float:
    """Largest condition number that can be asked for: of dot products with `products`, else of sums."""
    smallest = 2 * fmt.emin if products else fmt.emin - fmt.precision + 1
    return 2.0 ** min(_LARGEST, -smallest - 12)


def _ending(fmt: Format, length: int, condition: float, *, products: bool) -> int:
    """How many terms the end of the sum needs.

    Raises
    ------
    UsageError
        The format or the length allows no such sum.
    """
    most = greatest_condition(fmt, products=products)
    if not 2 <= condition <= most:
        raise UsageError(f"A condition number of {condition:g} cannot be had in {fmt.name}: choose one from 2 to {most:g}.")
    steps = math.ceil((math.log2(condition) + 3) / (fmt.precision - 1))
    if length < steps + 1:
        raise UsageError(
            f"A sum of {length} numbers of {fmt.name} with the condition number {condition:g} needs {steps + 1} or more terms."
        )
    return steps


def _nearest(value: Fraction, fmt: Format) -> float:
    return float(round_to_nearest(np.array([float(value)]), fmt)[0])


def _factor(rest: Fraction, fmt: Format) -> float:
    """A power of two about the root of what is left, so that both factors are in the middle of the range."""
    if not rest:
        return 1.0
    exponent = (math.frexp(float(abs(rest)))[1] - 1) // 2
    return math.ldexp(1, max(exponent, fmt.emin))


@st.composite
def _terms(draw: st.DrawFn, fmt: Format, length: int, condition: float, products: bool) -> DotProduct:
    steps = _ending(fmt, length, condition, products=products)
    some = numbers(fmt, ["moderate"])
    head = length - steps
    y = draw(st.lists(some, min_size=head, max_size=head))
    x = draw(st.lists(some, min_size=head, max_size=head)) if products else [1.0] * head
    terms = [Fraction(a) * Fraction(b) for a, b in zip(x, y, strict=True)]
    total, size = sum(terms, Fraction(0)), sum(map(abs, terms), Fraction(0))
    # with the end, the sum of magnitudes is at most about twice that of the head
    goal = size / Fraction(condition) / (1 if products else 2)
    for _ in range(steps):
        rest = goal - total
        factor = _factor(rest, fmt) if products else 1.0
        x.append(factor)
        y.append(_nearest(rest / Fraction(factor), fmt))
        total += Fraction(x[-1]) * Fraction(y[-1])
    order = draw(st.permutations(range(length)))
    return DotProduct(np.array(x)[order], np.array(y)[order])


def dot_products(fmt: Format, length: int, condition: float) -> st.SearchStrategy[DotProduct]:
    """Draw two vectors whose dot product has a condition number between the chosen one and eight times that.

    Parameters
    ----------
    fmt : Format
    length : int
    condition : float
        From 2 to `greatest_condition`.

    Raises
    ------
    UsageError
        The format or the length allows no such vectors.
    """
    _ending(fmt, length, condition, products=True)
    return _terms(fmt, length, condition, True)


def cancelling(fmt: Format, length: int, condition: float) -> st.SearchStrategy[Floats]:
    """Draw a vector whose sum has a condition number between the chosen one and eight times that; arguments as for `dot_products`."""
    _ending(fmt, length, condition, products=False)
    return _terms(fmt, length, condition, False).map(lambda drawn: drawn.y)
