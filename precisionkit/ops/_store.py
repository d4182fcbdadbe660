"""The error of storing a real number in a format."""

from __future__ import annotations

from torch import Tensor

from precisionkit.formats import Format, ufp
from precisionkit.outward import add_up, mul_up


def store_error(fmt: Format, magnitude: Tensor) -> Tensor:
    """Largest error of rounding to nearest a number of at most this magnitude: ``u ufp(magnitude)``, and eta below the normal range.

    Proof: proofs/bounds.md, theorem 1.  Exact in binary64 for formats up to binary32.
    """
    error: Tensor = (ufp(magnitude) * fmt.unit_roundoff).clamp_min(fmt.eta)
    return error


def internal_error(fmt: Format, magnitude: Tensor, relative: int, absolute: Tensor | float = 0.0) -> Tensor:
    """Error of at most `relative` roundings in a chain, each ``1 + d`` with ``|d| <= u``, plus `absolute`.

    ``(1 + u)**k - 1 <= k u / (1 - k u) <= (k + 1) u`` as long as ``k (k + 1) u <= 1``, which holds for binary16 and k <= 40.
    """
    return add_up(mul_up(magnitude, (relative + 1) * fmt.unit_roundoff), absolute)
