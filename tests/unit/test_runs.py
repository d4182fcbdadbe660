"""Emulated dot products: every order against plain loops over correctly rounded operations and exact fractions."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch

from precisionkit import operations
from precisionkit.arithmetic import TENSOR_CORES, Order, parse_arithmetic, parse_run
from precisionkit.errors import UnsupportedArithmeticError
from precisionkit.formats import BINARY16, round_to_nearest
from precisionkit.ops._runs import run_dots, tensor_core_step
from tests.rationals import rounded_fraction


def factors(fmt, shape, seed):
    """Numbers of a format, some of them zero, subnormal, or far larger than the others."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(shape) * 2.0 ** rng.integers(-9, 5, shape)
    values = np.where(rng.random(shape) < 0.1, rng.choice([0.0, fmt.smallest_subnormal, -3 * fmt.smallest_subnormal], shape), values)
    return torch.from_numpy(round_to_nearest(values, fmt))


def by_loop(arithmetic, w, x, bias):
    """Scalars, one operation after the other, along the tree."""
    fmt, order = arithmetic.accumulate, arithmetic.order

    def one(v):
        return np.array([float(v)])

    def value(a):
        return operations.multiply(*a, fmt) if isinstance(a, tuple) else a

    def add(a, b):
        if order.fma and isinstance(b, tuple):
            return operations.fma(*b, value(a), fmt)
        return operations.add(value(a), value(b), fmt)

    total = value(order.fold(((one(p), one(q)) for p, q in zip(w, x, strict=True)), add))
    return float((total if bias is None else operations.add(total, one(bias), fmt))[0])


TREES = [("fp16", "fp16"), ("bf16", "bf16"), ("fp16", "fp32"), ("fp32", "fp32")]


@pytest.mark.parametrize("run", ["sequential", "pairwise", "blocked:4", "sequential:fma", "pairwise:fma", "blocked:4:fma"])
@pytest.mark.parametrize(("storage", "accumulate"), TREES)
@pytest.mark.parametrize("biased", [False, True])
def test_sums_along_trees_are_those_of_scalar_operations(run, storage, accumulate, biased):
    arithmetic = parse_arithmetic(storage, accumulate, run.removesuffix(":fma"))
    arithmetic = replace(arithmetic, order=parse_run(run))
    fmt = arithmetic.storage
    w, x = factors(fmt, (2, 3, 13), 1), factors(fmt, (2, 2, 13, 4), 2)
    bias = factors(fmt, (2, 3), 3) if biased else None
    got = run_dots(arithmetic, w.float(), x.float(), None if bias is None else bias.float())
    assert got.shape == (2, 2, 3, 4)
    for b, g, o, p in np.ndindex(2, 2, 3, 4):
        assert got[b, g, o, p] == by_loop(arithmetic, w[g, o], x[b, g, :, p], None if bias is None else bias[g, o])


@pytest.mark.parametrize("accumulate", ["fp32", "fp16"])
@pytest.mark.parametrize("unit", TENSOR_CORES, ids=lambda u: u.name)
def test_the_fast_steps_of_tensor_cores_are_the_defined_ones(unit, accumulate):
    arithmetic = parse_arithmetic("fp16", accumulate, f"tensorcore:{unit.name}")
    w, x = factors(BINARY16, (1, 5, 45), 4), factors(BINARY16, (2, 1, 45, 33), 5)
    got = run_dots(arithmetic, w.float(), x.float(), None)
    for b in range(2):
        accumulator = torch.zeros(5, 33, dtype=torch.float64)
        for k in range(0, 45, unit.terms):
            a = w[0, :, k : k + unit.terms].T[:, :, None]
            accumulator = tensor_core_step(unit, a, x[b, 0, k : k + unit.terms, None], accumulator, BINARY16, arithmetic.accumulate)
        assert (got[b, 0].double() == accumulator).all()
    assert (got.double() != torch.einsum("gon,bgnl->bgol", w, x)).any()


def test_tiles_do_not_change_a_result(monkeypatch):
    arithmetic = parse_arithmetic("fp16", "fp16", "pairwise")
    w, x = factors(BINARY16, (1, 5, 9), 6).float(), factors(BINARY16, (2, 1, 9, 40), 7).float()
    whole = run_dots(arithmetic, w, x, None)
    monkeypatch.setattr("precisionkit.ops._runs._TILE", 1)
    assert (run_dots(arithmetic, w, x, None) == whole).all()


@pytest.mark.parametrize("storage", ["fp16", "bf16"])
def test_exact_dot_products_are_rounded_once(storage):
    arithmetic = parse_arithmetic(storage, "fp32", "exact")
    fmt = arithmetic.storage
    w, x, bias = factors(fmt, (1, 3, 21), 8), factors(fmt, (1, 1, 21, 7), 9), factors(fmt, (1, 3), 10)
    # a tie of the format, decided by a term that binary64 would lose beside the others
    w[0, 0] = 0
    w[0, 0, :3] = torch.tensor([1.0, fmt.unit_roundoff, 2.0**-14])
    x[0, 0, :, 0] = 0
    x[0, 0, :3, 0] = torch.tensor([1.0, 1.0, fmt.smallest_subnormal])
    bias[0, 0] = 0
    got = run_dots(arithmetic, w.float(), x.float(), bias.float())[0, 0]
    assert got[0, 0] == 1 + fmt.eps
    for o, p in np.ndindex(3, 7):
        exact = sum(
            (Fraction(float(a)) * Fraction(float(b)) for a, b in zip(w[0, o], x[0, 0, :, p], strict=True)), Fraction(float(bias[0, o]))
        )
        assert got[o, p] == rounded_fraction(exact, fmt)


def test_parts_are_rounded_to_the_storage_format_and_added_in_it():
    arithmetic = parse_arithmetic("fp16", "fp32", "splitk:2")
    w = torch.ones(1, 1, 4)
    x = torch.tensor([1.0, 2.0**-11, 1.0, 2.0**-11 + 2.0**-20]).reshape(1, 1, 4, 1)
    got = run_dots(arithmetic, w, x, torch.full((1, 1), 2.0**-12))
    # 1 + 2**-11 goes to 1, a little more to 1 + 2**-10, and 2 + 2**-10 to 2; the bias is added in binary32
    assert got.item() == 2 + 2.0**-12


ANY_RUN = [
    *((storage, "fp32", order) for storage in ("fp16", "bf16") for order in ("exact", "sequential", "pairwise", "splitk:2")),
    *(("fp16", accumulate, f"tensorcore:{unit}") for accumulate in ("fp32", "fp16") for unit in ("volta", "hopper")),
    ("bf16", "fp32", "tensorcore:ampere"),
]


@pytest.mark.parametrize(("storage", "accumulate", "order"), ANY_RUN)
def test_sums_with_infinities_stay_infinite_or_nan(storage, accumulate, order):
    cases = [
        ([torch.inf, 1.0, 2.0], torch.inf),
        ([torch.inf, -torch.inf, 1.0], torch.nan),
        ([1.0, torch.nan, 1.0], torch.nan),
        ([1.0, 2.0, 3.0], 6.0),
    ]
    x = torch.tensor([terms for terms, _ in cases]).T.reshape(1, 1, 3, len(cases))
    got = run_dots(parse_arithmetic(storage, accumulate, order), torch.ones(1, 1, 3), x, None).flatten()
    torch.testing.assert_close(got, torch.tensor([expected for _, expected in cases]), equal_nan=True)
    negative = run_dots(parse_arithmetic(storage, accumulate, order), -torch.ones(1, 1, 3), x, None).flatten()
    assert negative[0] == -torch.inf


def test_an_accumulator_that_overflowed_stays_infinite():
    """In binary16 at the second step; in binary32, where steps truncate the significand alone, beyond 2**128."""
    half = parse_arithmetic("fp16", "fp16", "tensorcore:volta")
    w = torch.tensor([6e4, 6e4, 0.0, 0.0, 0.0]).half().float()
    assert run_dots(half, w[None, None], torch.ones(1, 1, 5, 1), None).item() == torch.inf
    single = parse_arithmetic("bf16", "fp32", "tensorcore:ampere")
    w = torch.tensor([1.0, 1.0, *[0.0] * 6, -1.0])
    assert run_dots(single, w[None, None], torch.full((1, 1, 9, 1), 2.0**127), None).item() == torch.inf


def test_a_binary64_accumulator_is_refused():
    with pytest.raises(
        UnsupportedArithmeticError, match=r"^A run with a binary64 accumulator is not supported; choose --accumulate fp32\.$"
    ):
        run_dots(parse_arithmetic("fp16", "fp64"), torch.ones(1, 1, 1), torch.ones(1, 1, 1, 1), None)


def test_any_order_runs_sequentially():
    arithmetic = parse_arithmetic("fp16", "fp16")
    assert arithmetic.order == Order("any")
    w, x = factors(BINARY16, (1, 2, 9), 11).float(), factors(BINARY16, (1, 1, 9, 3), 12).float()
    assert (run_dots(arithmetic, w, x, None) == run_dots(parse_arithmetic("fp16", "fp16", "sequential"), w, x, None)).all()
