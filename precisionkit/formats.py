"""Binary floating-point formats, and the one rounding of an exact value into them.

A format is a triple (p, emin, emax) in the sense of IEEE 754-2019, section 3.3: its finite numbers are the multiples of
``2**(emin - p + 1)`` and of ``2**(e - p + 1)`` with ``emin <= e <= emax`` and at most p significant bits.  The OCP format E4M3
has fewer: its largest encodings are NaN, and there is no infinity.  Properties carry numpy's ``finfo`` words.  The functions take
numpy arrays and torch tensors of binary64 alike (one algorithm), and this module does not import torch.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

import numpy as np

from precisionkit.errors import UnsupportedArithmeticError

_EXPONENT_BITS = 0x7FF0_0000_0000_0000


@dataclass(frozen=True)
class Format:
    """A binary floating-point format with gradual underflow.

    Attributes
    ----------
    name : str
        Name in IEEE 754 style, as written into every report.
    option : str
        Name on the command line.
    precision : int
        Number p of significant bits, the implicit one included.
    emin, emax : int
        Exponents of the smallest normal number and of the largest binade.
    without_infinities : bool
        What is beyond the range is NaN, and so are the encodings with all bits set: the largest number is one ulp lower (OCP E4M3).
    """

    name: str
    option: str
    precision: int
    emin: int
    emax: int
    without_infinities: bool = False

    @property
    def unit_roundoff(self) -> float:
        """``u = 2**-p``: the largest relative error of one rounding to nearest, relative to ufp of the exact value."""
        return 2.0**-self.precision

    @property
    def eps(self) -> float:
        """Distance from 1 to the next larger number, ``2**(1 - p)``."""
        return 2.0 ** (1 - self.precision)

    @property
    def max(self) -> float:
        """Largest finite number."""
        return (2.0 - self.eps * (1 + self.without_infinities)) * 2.0**self.emax

    @property
    def overflow_threshold(self) -> float:
        """Half an ulp above `max`, where rounding to nearest overflows; the threshold itself goes to the even neighbour.

        That is infinity where there is one (binary16: 65520), and `max` where there is none (E4M3: 464 goes to 448).
        """
        return self.max + self.unit_roundoff * 2.0**self.emax

    @property
    def smallest_normal(self) -> float:
        """Smallest positive normal number."""
        return 2.0**self.emin

    @property
    def smallest_subnormal(self) -> float:
        """Smallest positive number; every number of the format is a multiple of it."""
        return 2.0 ** (self.emin - self.precision + 1)

    @property
    def eta(self) -> float:
        """Half the smallest subnormal: the largest error of one rounding to nearest below the normal range."""
        return self.smallest_subnormal / 2

    def products_exact_in(self, wider: Format) -> bool:
        """Whether a product of two numbers of this format that is normal in `wider` is a number of `wider`."""
        return 2 * self.precision <= wider.precision

    def products_never_underflow_in(self, wider: Format) -> bool:
        """Whether the last bit of every product of two numbers of this format is a multiple of `wider`'s smallest number."""
        return 2 * (self.emin - self.precision + 1) >= wider.emin - wider.precision + 1


BINARY16 = Format("binary16", "fp16", 11, -14, 15)
BFLOAT16 = Format("bfloat16", "bf16", 8, -126, 127)
TF32 = Format("tf32", "tf32", 11, -126, 127)
BINARY32 = Format("binary32", "fp32", 24, -126, 127)
BINARY64 = Format("binary64", "fp64", 53, -1022, 1023)
E5M2 = Format("e5m2", "e5m2", 3, -14, 15)
"""OCP 8-bit floating point (OFP8), revision 1.0: with infinities, as IEEE 754 would have it."""
E4M3 = Format("e4m3", "e4m3", 4, -6, 8, without_infinities=True)
"""OCP 8-bit floating point (OFP8), revision 1.0."""

FORMATS = (BINARY16, BFLOAT16, TF32, BINARY32, BINARY64, E5M2, E4M3)


def parse_format(option: str) -> Format:
    """Find the format that a command line names.

    Raises
    ------
    UnsupportedArithmeticError
        The name is not one of `FORMATS`.
    """
    for fmt in FORMATS:
        if option in (fmt.option, fmt.name):
            return fmt
    known = ", ".join(f.option for f in FORMATS)
    raise UnsupportedArithmeticError(f"The format '{option}' is not known; choose one of {known}.")


@dataclass(frozen=True)
class Rounding:
    """How an exact value becomes a number of a format.

    Attributes
    ----------
    direction : {"nearest", "zero", "stochastic"}
        To nearest with ties to even; towards zero (truncation); to one of the two neighbours, to the larger in magnitude with the
        probability by which the value exceeds the smaller, in units of their distance.
    flush : bool
        Results below the normal range become zero, with their sign; decided after rounding.
    saturate : bool
        Beyond the range, the largest number instead of infinity or NaN.  Rounding towards zero does so always.
    """

    direction: Literal["nearest", "zero", "stochastic"] = "nearest"
    flush: bool = False
    saturate: bool = False


NEAREST = Rounding()
TOWARDS_ZERO = Rounding("zero")
STOCHASTIC = Rounding("stochastic")


def library_of(x: Any) -> ModuleType:
    """Return numpy for an array, torch for a tensor."""
    return np if isinstance(x, np.ndarray) else sys.modules["torch"]


def ufp(x: Any) -> Any:
    """Unit in the first place, ``2**floor(log2|x|)``, of binary64 values; 0 for 0 and for binary64 subnormals, inf for inf.

    Exact: the exponent field of the binary64 encoding is kept and every other bit cleared.

    Parameters
    ----------
    x : binary64 array or tensor of any shape
    """
    library = library_of(x)
    return (x.view(library.int64) & _EXPONENT_BITS).view(library.float64)


def round_to_nearest(x: Any, fmt: Format) -> Any:
    """Round binary64 values to nearest, ties to even, into `fmt`; the result is carried in binary64.

    A single rounding of the value given: subnormals are kept, values from `Format.overflow_threshold` on become infinite.

    Parameters
    ----------
    x : binary64 array or tensor of any shape
    fmt : Format
        Any format whose numbers are binary64 numbers.
    """
    return round_into(x, fmt)


def round_into(x: Any, fmt: Format, rounding: Rounding = NEAREST, uniform: Any = None) -> Any:
    """Round binary64 values into `fmt`, once; the result is carried in binary64.

    Parameters
    ----------
    x : binary64 array or tensor of any shape
    fmt : Format
        Any format whose numbers are binary64 numbers.
    rounding : Rounding
    uniform : like x, or None
        For stochastic rounding: independent random numbers, uniform in [0, 1).

    Raises
    ------
    UnsupportedArithmeticError
        Stochastic rounding without random numbers.

    Notes
    -----
    Dividing by the power of two ``ulp`` and multiplying back are exact, so the only rounding is that to an integer.  Beyond the
    largest number it goes on as if the exponent had no end (IEEE 754-2019, sections 4.3 and 7.4; OCP OFP8, section 5.2).
    """
    if fmt == BINARY64 and rounding == NEAREST:
        return x
    library = library_of(x)
    ulp = (ufp(x) * fmt.eps).clip(fmt.smallest_subnormal, 2.0**fmt.emax)
    rounded = _to_integer(library, x / ulp, rounding, uniform) * ulp
    magnitude = abs(rounded)
    if rounding.flush:
        rounded = library.where(magnitude < fmt.smallest_normal, library.copysign(library.zeros_like(x), x), rounded)
    limit = library.copysign(library.full_like(x, fmt.max), x)
    beyond = library.full_like(x, np.nan if fmt.without_infinities else np.inf)
    if rounding.saturate:
        beyond = limit
    elif rounding.direction == "zero":
        beyond = library.where(abs(x) < np.inf, limit, beyond)
    return library.where(magnitude > fmt.max, library.copysign(beyond, x), rounded)


def _to_integer(library: ModuleType, x: Any, rounding: Rounding, uniform: Any) -> Any:
    """Of magnitudes below ``2**p``, in units of the last place."""
    if rounding.direction == "zero":
        return library.trunc(x)
    if rounding.direction == "stochastic":
        if uniform is None:
            raise UnsupportedArithmeticError("Stochastic rounding needs random numbers: give `uniform`, one in [0, 1) for each value.")
        share = np.modf(abs(x))[0] if library is np else abs(x).frac()
        return library.copysign(library.trunc(abs(x)) + (uniform < share), x)
    return np.rint(x) if library is np else library.round(x)
