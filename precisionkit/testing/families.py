"""Families of arrays that are hard on floating-point arithmetic, by numpy's random numbers: for arrays too large to draw one by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from precisionkit.formats import Format, round_to_nearest

Floats = NDArray[np.float64]
Family = Callable[[np.random.Generator, tuple[int, ...], Format], Any]


def _normal(rng: np.random.Generator, shape: tuple[int, ...], fmt: Format) -> Any:
    return rng.standard_normal(shape)


def _scales(rng: np.random.Generator, shape: tuple[int, ...], fmt: Format) -> Any:
    """Magnitudes over many binades: additions lose almost everything of some terms."""
    return rng.choice([-1.0, 1.0], shape) * 2.0 ** rng.uniform(-8, 4, shape)


def _cancelling(rng: np.random.Generator, shape: tuple[int, ...], fmt: Format) -> Any:
    """Neighbours of nearly equal magnitude and opposite sign."""
    flat = np.repeat(rng.standard_normal((int(np.prod(shape)) + 1) // 2), 2)[: int(np.prod(shape))]
    return (flat * np.where(np.arange(flat.size) % 2, -1.0, 1.0) * (1 + fmt.eps * rng.integers(0, 3, flat.size))).reshape(shape)


def _subnormal(rng: np.random.Generator, shape: tuple[int, ...], fmt: Format) -> Any:
    return fmt.smallest_subnormal * rng.integers(-40, 40, shape)


def _underflowing(rng: np.random.Generator, shape: tuple[int, ...], fmt: Format) -> Any:
    """Products fall below the normal range of the storage format."""
    return rng.standard_normal(shape) * 2.0 ** (fmt.emin / 2)


def _large(rng: np.random.Generator, shape: tuple[int, ...], fmt: Format) -> Any:
    """Sums come near the overflow threshold, on both sides."""
    return rng.choice([-1.0, 1.0], shape) * fmt.max ** float(rng.choice([0.5, 0.48, 0.44, 0.38, 0.3]))


def _ties(rng: np.random.Generator, shape: tuple[int, ...], fmt: Format) -> Any:
    """1, and odd multiples of u: sums and products lie halfway between numbers."""
    u = fmt.unit_roundoff
    return rng.choice([1.0, -1.0, 1 + 2 * u, 1 + 6 * u, u, 3 * u, -u, 0.5 + u], shape)


def _integers(rng: np.random.Generator, shape: tuple[int, ...], fmt: Format) -> Any:
    return rng.integers(-3, 4, shape) * rng.choice([1.0, 1 / fmt.eps], shape)


FAMILIES: dict[str, Family] = {
    "normal": _normal,
    "scales": _scales,
    "cancelling": _cancelling,
    "subnormal": _subnormal,
    "underflowing": _underflowing,
    "large": _large,
    "ties": _ties,
    "integers": _integers,
}
"""By name."""


def draw(family: str, rng: np.random.Generator, shape: tuple[int, ...], fmt: Format) -> Floats:
    """Finite numbers of a format.

    Parameters
    ----------
    family : str
        A name in `FAMILIES`.
    rng : np.random.Generator
    shape : tuple of int
    fmt : Format

    Returns
    -------
    binary64 array
    """
    found = round_to_nearest(np.asarray(FAMILIES[family](rng, shape, fmt), dtype=np.float64), fmt)
    clipped: Floats = np.clip(found, -fmt.max, fmt.max)
    return clipped
