"""Rounding a rational number into a format, from integers alone."""

from fractions import Fraction

import numpy as np


def rounded_fraction(exact, fmt, *, truncate=False):
    """The number of the format nearest to a rational number, ties to even, or the nearest towards zero; from integers alone."""
    if exact == 0:
        return 0.0
    exponent = _floor_log2(abs(exact))
    unit = Fraction(2) ** (max(exponent, fmt.emin) - fmt.precision + 1)
    units = int(abs(exact) / unit) if truncate else round(abs(exact) / unit)
    value = units * unit
    if value > Fraction(fmt.max):
        value = Fraction(fmt.max) if truncate else None
    if value is None:
        return float("nan") if fmt.without_infinities else np.inf * np.sign(float(exact > 0) - 0.5)
    return float(value) * (1 if exact > 0 else -1)


def _floor_log2(x):
    exponent = x.numerator.bit_length() - x.denominator.bit_length()
    return exponent if Fraction(2) ** exponent <= x else exponent - 1
