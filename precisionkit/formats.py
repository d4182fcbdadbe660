"""Binary floating-point formats, and the one rounding of an exact value into them.

A format is a triple (p, emin, emax) in the sense of IEEE 754-2019, section 3.3: its finite numbers are the multiples of
``2**(emin - p + 1)`` and of ``2**(e - p + 1)`` with ``emin <= e <= emax`` and at most p significant bits.  Properties carry
numpy's ``finfo`` words.  The functions take numpy arrays and torch tensors of binary64 alike (one algorithm), and this
module does not import torch.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Any

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
    """

    name: str
    option: str
    precision: int
    emin: int
    emax: int

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
        return (2.0 - self.eps) * 2.0**self.emax

    @property
    def overflow_threshold(self) -> float:
        """Smallest magnitude that rounding to nearest takes to infinity: half an ulp above `max` (binary16: 65520)."""
        return (2.0 - self.unit_roundoff) * 2.0**self.emax

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
BINARY32 = Format("binary32", "fp32", 24, -126, 127)
BINARY64 = Format("binary64", "fp64", 53, -1022, 1023)

FORMATS = (BINARY16, BFLOAT16, BINARY32, BINARY64)


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


def _library(x: Any) -> ModuleType:
    return np if isinstance(x, np.ndarray) else sys.modules["torch"]


def ufp(x: Any) -> Any:
    """Unit in the first place, ``2**floor(log2|x|)``, of binary64 values; 0 for 0 and for binary64 subnormals, inf for inf.

    Exact: the exponent field of the binary64 encoding is kept and every other bit cleared.

    Parameters
    ----------
    x : binary64 array or tensor of any shape
    """
    library = _library(x)
    return (x.view(library.int64) & _EXPONENT_BITS).view(library.float64)


def round_to_nearest(x: Any, fmt: Format) -> Any:
    """Round binary64 values to nearest, ties to even, into `fmt`; the result is carried in binary64.

    A single rounding of the value given: subnormals are kept, values from `Format.overflow_threshold` on become infinite.

    Parameters
    ----------
    x : binary64 array or tensor of any shape
    fmt : Format
        Any format whose numbers are binary64 numbers.

    Notes
    -----
    Dividing by the power of two ``ulp`` and multiplying back are exact, so the only rounding is `rint` (ties to even).
    Source: IEEE 754-2019, sections 4.3.1 and 7.4.
    """
    if fmt == BINARY64:
        return x
    library = _library(x)
    rint = np.rint if library is np else library.round
    ulp = (ufp(x) * fmt.eps).clip(fmt.smallest_subnormal, 2.0**fmt.emax)
    rounded = rint(x / ulp) * ulp
    overflows = abs(x) >= fmt.overflow_threshold
    return library.where(overflows, library.copysign(library.full_like(x, np.inf), x), rounded)
