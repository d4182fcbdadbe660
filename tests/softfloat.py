"""``python -m tests.softfloat [N]``: every operation, format and direction against Berkeley SoftFloat, on N random operands and all special ones.

Random operands are drawn from the encodings, half of them close to one another in size, so that sums cancel and round.
"""

from __future__ import annotations

import itertools
import sys

import numpy as np
import softfloatpy

from precisionkit import operations
from precisionkit.formats import BINARY16, BINARY32, BINARY64, NEAREST, TOWARDS_ZERO, round_into

TYPES = {BINARY16: (softfloatpy.Float16, np.uint16, np.float16), BINARY32: (softfloatpy.Float32, np.uint32, np.float32)}
TYPES[BINARY64] = (softfloatpy.Float64, np.uint64, np.float64)
OPERATIONS = {
    "add": (operations.add, 2),
    "multiply": (operations.multiply, 2),
    "divide": (operations.divide, 2),
    "sqrt": (operations.sqrt, 1),
}
OPERATIONS["fma"] = (operations.fma, 3)
NAMES = {"add": "add", "multiply": "mul", "divide": "div", "sqrt": "sqrt", "fma": "mul_add"}
DIRECTIONS = {NEAREST: softfloatpy.RoundingMode.NEAR_EVEN, TOWARDS_ZERO: softfloatpy.RoundingMode.MIN_MAG}
CASES = [
    (name, fmt, direction)
    for name, fmt, direction in itertools.product(OPERATIONS, TYPES, DIRECTIONS)
    if fmt != BINARY64 or (direction == NEAREST and name != "fma")
]


def special(fmt):
    """Both zeros, infinities, NaN, one, and the ends of the subnormal and of the normal range with their neighbours."""
    ends = [fmt.smallest_subnormal, fmt.smallest_normal, fmt.smallest_normal - fmt.smallest_subnormal, fmt.max, fmt.max / 2, 1, 1 + fmt.eps]
    positive = np.array([0, np.inf, np.nan, 3, 2 * fmt.smallest_subnormal, fmt.smallest_normal * (1 + fmt.eps), *ends])
    return np.concatenate([positive, -positive])


def random(fmt, count, generator):
    """Numbers of the format from random encodings; signalling NaN become quiet."""
    _, unsigned, float_ = TYPES[fmt]
    with np.errstate(invalid="ignore"):
        values = generator.integers(0, 2 ** (8 * np.dtype(unsigned).itemsize), count, dtype=unsigned).view(float_).astype(np.float64)
    values[np.isnan(values)] = np.nan
    return values


def operands(fmt, arity, count, generator):
    """Random operands, the later half of them within a factor of 4 of the first, and all special ones in every combination."""
    drawn = [random(fmt, count, generator) for _ in range(arity)]
    with np.errstate(all="ignore"):
        near = [drawn[0], *(round_into(drawn[0] * generator.uniform(-4, 4, count), fmt) for _ in range(arity - 1))]
    half = count // 2
    mixed = [np.concatenate([a[:half], b[half:]]) for a, b in zip(drawn, near, strict=True)]
    grid = np.array(list(itertools.product(special(fmt), repeat=arity))).T
    return [np.concatenate([m, s]) for m, s in zip(mixed, grid, strict=True)]


def judged(name, fmt, direction, values):
    """What SoftFloat gives."""
    type_, _, _ = TYPES[fmt]
    operation = getattr(type_, NAMES[name])
    softfloatpy.set_rounding_mode(DIRECTIONS[direction])
    convert = type_.from_float
    try:
        return np.array([operation(*map(convert, row)).to_float() for row in zip(*(v.tolist() for v in values), strict=True)])
    finally:
        softfloatpy.set_rounding_mode(softfloatpy.RoundingMode.NEAR_EVEN)


def disagreements(name, fmt, direction, count, seed=0):
    """The number of operands tried, and those on which the two differ, the signs of zeros included."""
    operation, arity = OPERATIONS[name]
    values = operands(fmt, arity, count, np.random.default_rng(seed))
    ours, theirs = operation(*values, fmt, direction), judged(name, fmt, direction, values)
    same = (np.isnan(ours) & np.isnan(theirs)) | ((ours == theirs) & (np.signbit(ours) == np.signbit(theirs)))
    return len(ours), [tuple(float(v[i]) for v in values) for i in np.flatnonzero(~same)]


def main(count: int) -> None:
    """Print one line a case."""
    for name, fmt, direction in CASES:
        tried, differ = disagreements(name, fmt, direction, count)
        print(f"{name:9}{fmt.name:10}{direction.direction:9}{tried:>10,} operands{len(differ):>6} differ {differ[:3] or ''}", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
