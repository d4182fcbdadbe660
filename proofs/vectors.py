"""``python -m proofs.vectors FILE``: what the package computes, written as a Coq file that Flocq's floating-point numbers check.

Roundings and operations in every format with infinities, dot products along named trees, stores and steps of tensor cores.  An
``Example`` holds for all vectors of its kind; beside it stands one with a result that is one number off, which has to be rejected.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from precisionkit import operations
from precisionkit.arithmetic import TENSOR_CORES, Arithmetic, parse_run
from precisionkit.formats import BFLOAT16, BINARY16, BINARY32, E5M2, NEAREST, TF32, TOWARDS_ZERO, Format, Rounding, round_into
from precisionkit.ops._runs import run_dots, tensor_core_step
from precisionkit.ops._store import store

Floats = NDArray[np.float64]
Row = tuple[object, ...]

FORMATS = (BINARY16, BFLOAT16, TF32, BINARY32, E5M2)
DIRECTIONS = ((NEAREST, "mode_NE"), (TOWARDS_ZERO, "mode_ZR"))
OPERATIONS: dict[str, tuple[Callable[..., Any], int]] = {
    "round": (round_into, 1),
    "add": (operations.add, 2),
    "multiply": (operations.multiply, 2),
    "divide": (operations.divide, 2),
    "sqrt": (operations.sqrt, 1),
    "fma": (operations.fma, 3),
}
RANDOM = 50
"""Random operands of each operation, format and direction, beside the special ones."""
HEADER = """(** Written by proofs/vectors.py: what Python computes, checked by Flocq. *)
From Coq Require Import ZArith List.
From Flocq Require Import Core BinarySingleNaN.
From PrecisionKit Require Import Execute.
Import ListNotations.
Open Scope Z_scope.
"""


def literal(x: float) -> str:
    """A Coq literal for a binary64 number."""
    if math.isnan(x):
        return "NaN"
    sign = "true" if math.copysign(1, x) < 0 else "false"
    if math.isinf(x):
        return f"Inf {sign}"
    if x == 0:
        return f"Zero {sign}"
    numerator, denominator = x.as_integer_ratio()
    shift = (numerator & -numerator).bit_length() - 1
    return f"N ({numerator >> shift}) ({shift - (denominator.bit_length() - 1)})"


def term(value: object) -> str:
    """A Coq term for a number, a list or a tuple."""
    if isinstance(value, tuple):
        return f"({', '.join(map(term, value))})"
    if isinstance(value, list):
        return f"[{'; '.join(map(term, value))}]"
    assert isinstance(value, float)
    return literal(value)


def sizes(fmt: Format) -> str:
    """The format as Flocq has it, with the proofs that it is one."""
    return f"{fmt.precision} {fmt.emax + 1} eq_refl eq_refl"


def special(fmt: Format) -> Floats:
    """Both zeros, infinities, NaN, one, and the ends of the subnormal and of the normal range."""
    small, normal, large = fmt.smallest_subnormal, fmt.smallest_normal, fmt.max
    ends = [small, 2 * small, normal - small, normal, normal * (1 + fmt.eps), large / 2, large]
    positive = np.array([0, np.inf, np.nan, 1, 1 + fmt.eps, 3, *ends])
    return np.concatenate([positive, -positive])


def random(fmt: Format, count: int, generator: np.random.Generator) -> Floats:
    """Numbers of the format: any exponent, subnormal ones included, and any fraction."""
    low, high = fmt.emin - fmt.precision, fmt.emax
    exponents = generator.integers(low, high, count, endpoint=True) // generator.choice([1, 8], count)
    values = np.ldexp(generator.uniform(1, 2, count), exponents) * generator.choice([-1, 1], count)
    rounded: Floats = round_into(values, fmt, TOWARDS_ZERO)
    return rounded


def operands(fmt: Format, arity: int, generator: np.random.Generator) -> list[Floats]:
    """Random operands, half of them close to one another, so that sums cancel; and special ones, or a sample of their combinations."""
    drawn = [random(fmt, RANDOM, generator) for _ in range(arity)]
    with np.errstate(all="ignore"):
        near = [drawn[0], *(round_into(drawn[0] * generator.uniform(-4, 4, RANDOM), fmt) for _ in range(arity - 1))]
    half = RANDOM // 2
    mixed = [np.concatenate([a[:half], b[half:]]) for a, b in zip(drawn, near, strict=True)]
    grid = np.array(list(itertools.product(special(fmt), repeat=arity)))
    if len(grid) > RANDOM:
        grid = grid[generator.choice(len(grid), RANDOM, replace=False)]
    return [np.concatenate([m, s]) for m, s in zip(mixed, grid.T, strict=True)]


def to_be_rounded(fmt: Format, generator: np.random.Generator) -> Floats:
    """Binary64 numbers: numbers of the format, midpoints, their neighbours in binary64, and the threshold of overflow."""
    numbers = np.maximum(np.abs(random(fmt, RANDOM, generator)), fmt.smallest_subnormal)
    ulp = np.maximum(np.exp2(np.floor(np.log2(numbers)) + 1 - fmt.precision), fmt.smallest_subnormal)
    middle = numbers + ulp / 2
    ends = np.array([fmt.overflow_threshold, fmt.smallest_subnormal / 2, fmt.smallest_normal - fmt.smallest_subnormal / 2])
    points = np.concatenate([numbers, middle, ends])
    around = np.concatenate([points, np.nextafter(points, np.inf), np.nextafter(points, -np.inf), special(fmt)])
    return np.concatenate([around, -around])


def operation_rows(name: str, fmt: Format, direction: Rounding, generator: np.random.Generator) -> list[Row]:
    """Operands and what the package makes of them."""
    operation, arity = OPERATIONS[name]
    values = [to_be_rounded(fmt, generator)] if name == "round" else operands(fmt, arity, generator)
    with np.errstate(all="ignore"):
        results = operation(*values, fmt, direction)
    return [tuple(row) for row in zip(*(v.tolist() for v in values), results.tolist(), strict=True)]


def shape(run: str, terms: int, bias: bool) -> str:
    """The tree of a named order, in Execute.v's words."""
    order = parse_run(run)

    def value(part: int | str) -> str:
        return f"(P {part})" if isinstance(part, int) else part

    def add(a: int | str, b: int | str) -> int | str:
        return f"(F {b} {value(a)})" if order.fma and isinstance(b, int) else f"(A {value(a)} {value(b)})"

    leaves: Iterator[int | str] = iter(range(terms))
    total = value(order.fold(leaves, add))
    return f"(A {total} B)" if bias else total


def dot_rows(arithmetic: Arithmetic, terms: int, generator: np.random.Generator) -> list[Row]:
    """Factors, bias and the sum that `run_dots` gives, before the store."""
    rows: list[Row] = []
    for scale in (1.0, 2.0 ** (arithmetic.storage.emin // 2), 2.0 ** (arithmetic.storage.emax / 2 - 1)):
        drawn = [torch.tensor(generator.normal(0, scale, size)).float() for size in ((1, 4, terms), (2, 1, terms, 3), (1, 4))]
        weight, inputs, bias = (store(numbers, arithmetic.storage) for numbers in drawn)
        sums = run_dots(arithmetic, weight, inputs, bias)
        for b, o, place in itertools.product(range(2), range(4), range(3)):
            factors: tuple[list[float], list[float]] = (weight[0, o].tolist(), inputs[b, 0, :, place].tolist())
            rows.append((*factors, float(bias[0, o]), float(sums[b, 0, o, place])))
    return rows


def step_rows(unit: Any, storage: Format, fmt: Format, generator: np.random.Generator) -> list[Row]:
    """Factors, accumulators and what one step of a tensor core gives."""
    count = RANDOM
    exponents = generator.integers(-6, 7, (2, unit.terms, count)) * generator.choice([0, 1, 2], (2, 1, count))
    factors = np.ldexp(generator.uniform(1, 2, exponents.shape) * generator.choice([-1, 1], exponents.shape), exponents)
    factors[generator.uniform(size=factors.shape) < 0.1] = 0
    if storage == BINARY16:
        factors[generator.uniform(size=factors.shape) < 0.05] *= 2.0**-16
    a, b = (torch.as_tensor(round_into(f, storage)) for f in factors)
    accumulator = torch.as_tensor(round_into(np.ldexp(generator.normal(0, 1, count), generator.integers(-12, 8, count)), fmt))
    accumulator[: count // 8] = 0
    results = tensor_core_step(unit, a.float(), b.float(), accumulator, storage, fmt)
    return [([*zip(a[:, k].tolist(), b[:, k].tolist(), strict=True)], float(accumulator[k]), float(results[k]) + 0.0) for k in range(count)]


def store_rows(fmt: Format, generator: np.random.Generator) -> list[Row]:
    """Binary32 numbers and what `store` makes of them."""
    numbers = to_be_rounded(fmt, generator)
    with np.errstate(all="ignore"):
        numbers = round_into(numbers, BINARY32)
    results = store(torch.as_tensor(numbers).float(), fmt)
    return [*zip(numbers.tolist(), results.double().tolist(), strict=True)]


def spoiled(rows: Sequence[Row], fmt: Format) -> list[Row]:
    """The first row with a finite result that is neither zero nor the largest, one number of the format off."""
    for *given, result in rows:
        assert isinstance(result, float)
        if 0 < abs(result) < fmt.max / 2:
            ulp = max(2.0 ** (math.floor(math.log2(abs(result))) + 1 - fmt.precision), fmt.smallest_subnormal)
            return [(*given, result + math.copysign(ulp, result))]
    raise AssertionError("no row can be spoiled")


def examples() -> Iterator[tuple[str, str, list[Row], Format]]:
    """Name, check, rows and the format of the results of every example."""
    generator = np.random.default_rng(0)
    for name, fmt, (direction, mode) in itertools.product(OPERATIONS, FORMATS, DIRECTIONS):
        yield f"{name}_{fmt.name}_{mode}", f"{name}_ok {sizes(fmt)} {mode}", operation_rows(name, fmt, direction, generator), fmt
    for fmt in (BINARY16, BFLOAT16):
        check = f"store_ok {BINARY32.precision} {BINARY32.emax + 1} {fmt.precision} {fmt.emax + 1} eq_refl eq_refl eq_refl eq_refl"
        yield f"store_{fmt.name}", check, store_rows(fmt, generator), fmt
    pairs = ((BINARY16, BINARY16), (BINARY16, BINARY32), (BFLOAT16, BINARY32), (BINARY32, BINARY32))
    arithmetics = [Arithmetic(storage, fmt) for storage, fmt in pairs]
    runs = [f"{order}{fused}" for order in ("sequential", "pairwise", "blocked:3") for fused in ("", ":fma")]
    for arithmetic, run in itertools.product(arithmetics, runs):
        rows = dot_rows(replace(arithmetic, order=parse_run(run)), 7, generator)
        name = f"dot_{arithmetic.storage.name}_{arithmetic.accumulate.name}_{run.replace(':', '_')}"
        yield name, f"dot_ok {sizes(arithmetic.accumulate)} {shape(run, 7, bias=True)}", rows, arithmetic.accumulate
    for unit in TENSOR_CORES:
        for storage, fmt in unit.formats:
            mode = "mode_ZR" if fmt == BINARY32 else "mode_NE"
            check = f"step_ok {sizes(fmt)} {mode} {unit.fraction_bits} ({storage.emin}) ({fmt.emin})"
            yield f"step_{unit.name}_{storage.name}_{fmt.name}", check, step_rows(unit, storage, fmt, generator), fmt


def write(path: Path) -> tuple[int, int]:
    """Write the Coq file; return the number of examples and of vectors."""
    count = vectors = 0
    with path.open("w") as file:
        file.write(HEADER)
        for name, check, rows, fmt in examples():
            for suffix, some, verdict in (("", rows, "true"), ("_wrong", spoiled(rows, fmt), "false")):
                listed = ";\n  ".join(map(term, some))
                statement = f"forallb ({check}) [\n  {listed}] = {verdict}"
                file.write(f"\nExample {name}{suffix} : {statement}.\nProof. vm_compute. reflexivity. Qed.\n")
                count, vectors = count + 1, vectors + len(some)
    return count, vectors


if __name__ == "__main__":
    print("{} examples of {} vectors".format(*write(Path(sys.argv[1]))))
