"""Storing numbers in a format, and the error of it."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from precisionkit.formats import BFLOAT16, BINARY16, BINARY32, BINARY64, Format, round_to_nearest, ufp
from precisionkit.outward import add_up, mul_up

DTYPES = {BINARY16: torch.float16, BFLOAT16: torch.bfloat16, BINARY32: torch.float32, BINARY64: torch.float64}
"""The torch dtype of each format: elementwise ``+`` and ``*`` of these are correctly rounded."""


def store(values: Tensor, fmt: Format) -> Tensor:
    """Round binary32 values to the format, ties to even, once; carried in binary32."""
    return values.to(DTYPES[fmt]).float() if fmt != BINARY32 else values


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


def parameter_error(storage: Format, internal: Format, value: Tensor) -> Tensor:
    """How far backends round a Python number on its way: to the storage format, to binary32, or through binary32 to the storage format."""
    single, short = ((round_to_nearest(value, fmt) - value).abs() for fmt in (internal, storage))
    return cast(Tensor, single) if storage == internal else cast(Tensor, short + 2 * single)
