"""Constructed dot products: each suite lays bare one property of an arithmetic, in several orders of its terms."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from precisionkit.formats import BINARY32, Format, round_to_nearest

Terms = tuple[list[float], list[float]]
"""The factors of one dot product."""
QUARTER = "1 + 1.25 2^-24 - 1"
_ORDERS = 4
"""Orders of the terms: as they stand, reversed, and random ones."""


def _narrow(fmt: Format) -> bool:
    return fmt != BINARY32


def _absorbed(fmt: Format) -> Terms:
    """1 and many half ulps of the storage format: an accumulator of that format never leaves 1."""
    u = fmt.unit_roundoff if _narrow(fmt) else 2.0**-12
    return [1.0] + [1.0] * 255, [1.0] + [u] * 255


def _product(fmt: Format) -> Terms:
    """A product with twice the bits, less its rounded value: zero where products are rounded, or factors cut to fewer bits."""
    e = max(fmt.eps, 2.0**-12)
    return [1 + e, 1.0, 1.0], [1 + e, -1 - 2 * e, 0.0]


def _short_factors(fmt: Format) -> Terms:
    """For binary32: factors that tf32 and bfloat16 cut."""
    return [1 + 2.0**-13, -1.0, 0.0], [1.0, 1.0, 0.0]


def _beyond(fmt: Format) -> Terms:
    """Partial sums beyond the range of the storage format."""
    large = fmt.max / (4 if fmt.emax < BINARY32.emax else 8) if _narrow(fmt) else 2.0**100
    values = [large] * 6 + [-large] * 6 + [1.0 if _narrow(fmt) and fmt.emax < 100 else 0.0]
    return [1.0] * 13, [float(v) for v in _stored(values, fmt)]


def _cancelling(fmt: Format) -> Terms:
    """Two far halves that cancel to what a partial sum in the storage format would lose."""
    step = 1000 * fmt.eps
    first = [step * k / 8 for k in range(1, 65)]
    ones = [1000.0, *first[:32], -1000.0, *first[32:]]
    return [1.0] * len(ones), [float(v) for v in _stored(ones, fmt)]


def _small_factors(fmt: Format) -> Terms:
    """Subnormal factors."""
    return [fmt.smallest_subnormal * 3, 0.0, 1.0], [1.0, 1.0, 0.0]


def _small_result(fmt: Format) -> Terms:
    """A subnormal result of normal factors."""
    return [fmt.smallest_normal, 0.0], [0.5, 1.0]


def _beside_one(t: float) -> Callable[[Format], Terms]:
    """``1 + t - 1`` with t between half an ulp and an ulp of binary32: how the accumulator rounds, or what an alignment keeps."""
    scale = 2.0**9  # so that t is a product of two numbers of binary16
    return lambda fmt: ([scale, t * scale * 2.0**4, -scale], [1 / scale, 2.0**-4 / scale, 1 / scale])


def _with_zeros(terms: Terms) -> Terms:
    """Zeros in front of the last term, more than one step of any tensor core takes."""
    a, b = terms
    return [*a[:-1], *[0.0] * 48, a[-1]], [*b[:-1], *[1.0] * 48, b[-1]]


def _random(fmt: Format) -> Terms:
    rng = np.random.default_rng(7)
    a, b = (_stored(rng.standard_normal(576), fmt).tolist() for _ in range(2))
    return a, b


def _wide(fmt: Format) -> Terms:
    """Terms over many binades, with zero as the sum of the largest."""
    rng = np.random.default_rng(8)
    scale = 2.0 ** rng.integers(-8, 6, 300)
    a, b = _stored(rng.standard_normal(300) * scale, fmt), _stored(rng.standard_normal(300) * scale, fmt)
    return [float(v) for v in (*a, *a)], [float(v) for v in (*b, *-b)]


SUITES: Mapping[str, Callable[[Format], Terms]] = MappingProxyType(
    {
        "many half ulps beside 1": _absorbed,
        "a product with twice the bits": _product,
        "factors with 14 bits": _short_factors,
        "partial sums beyond the storage format's range": _beyond,
        "far halves that cancel": _cancelling,
        "subnormal factors": _small_factors,
        "a subnormal result": _small_result,
        QUARTER: _beside_one(1.25 * 2.0**-24),
        "1 + 1.5 2^-24 - 1": _beside_one(1.5 * 2.0**-24),
        "256 + 1.25 2^-16 - 256": lambda fmt: ([256.0, 1.25 * 2.0**-12, -256.0], [1.0, 2.0**-4, 1.0]),
        "1 + 1.5 2^-24, zeros, - 1": lambda fmt: _with_zeros(_beside_one(1.5 * 2.0**-24)(fmt)),
        "random terms": _random,
        "terms over many binades that cancel": _wide,
    }
)


def suites_for(fmt: Format) -> dict[str, tuple[Tensor, Tensor]]:
    """Rows (orders, n) and columns (orders, n) for every suite that says something about a format, as binary32 tensors."""
    return {name: _ordered(*make(fmt)) for name, make in SUITES.items() if name != "factors with 14 bits" or not _narrow(fmt)}


def _ordered(a: list[float], b: list[float]) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(len(a))
    orders = [np.arange(len(a)), np.arange(len(a))[::-1], *(rng.permutation(len(a)) for _ in range(_ORDERS - 2))]
    left, right = (torch.tensor(np.array([np.array(t)[order] for order in orders]), dtype=torch.float32) for t in (a, b))
    return left, right


def _stored(values: list[float] | NDArray[np.float64], fmt: Format) -> NDArray[np.float64]:
    rounded: NDArray[np.float64] = round_to_nearest(np.asarray(values, dtype=np.float64), fmt)
    return rounded
