"""Tensor cores: one step against results recorded on real units, bit for bit, and the bound over all of them."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from precisionkit.arithmetic import TENSOR_CORES, parse_arithmetic, parse_order
from precisionkit.enclosure import Enclosure
from precisionkit.formats import BINARY16, round_to_nearest
from precisionkit.ops import BY_NAME
from precisionkit.ops._dot import Sums, in_parts, tensor_core, tensor_core_steps
from precisionkit.ops._runs import tensor_core_step

RECORDED = (
    ("V100_fp16", "volta", "fp16", "fp32"),
    ("V100_fp16", "volta", "fp16", "fp16"),
    ("A100_fp16", "ampere", "fp16", "fp32"),
    ("A100_fp16", "ampere", "fp16", "fp16"),
    ("A100_bf16", "ampere", "bf16", "fp32"),
)
UNITS = {unit.name: unit for unit in TENSOR_CORES}


def recorded(shared, name, accumulate):
    """Factors (n, k), accumulators (n,) and results (n,), in binary64; an accumulator of binary16 was given rounded."""
    arrays = np.load(shared / "vectors" / f"tensorcore_{name}.npz")
    result = "d_fp32" if accumulate == "fp32" else "d_fp16_as_fp32"
    a, b, c, d = (torch.from_numpy(arrays[key].view(np.float32).astype(np.float64)) for key in ("a", "b", "c", result))
    return a, b, c if accumulate == "fp32" else round_to_nearest(c, BINARY16), d


@pytest.mark.real
@pytest.mark.parametrize(("name", "unit", "storage", "accumulate"), RECORDED)
def test_the_emulated_step_is_the_recorded_one(shared, name, unit, storage, accumulate):
    a, b, c, d = recorded(shared, name, accumulate)
    arithmetic = parse_arithmetic(storage, accumulate)
    step = tensor_core_step(UNITS[unit], a.T, b.T, c, arithmetic.storage, arithmetic.accumulate)
    assert (step != d).sum().item() == 0


@pytest.mark.real
@pytest.mark.parametrize(("name", "unit", "storage", "accumulate"), RECORDED)
def test_no_recorded_step_exceeds_the_bound(shared, name, unit, storage, accumulate):
    a, b, c, d = recorded(shared, name, accumulate)
    arithmetic = parse_arithmetic(storage, accumulate, f"tensorcore:{unit}")
    # the accumulator is one term more, which is multiplied by one
    terms = a.shape[1] + 1
    w, x = torch.cat([a, c[:, None]], 1), torch.cat([b, torch.ones_like(c)[:, None]], 1)
    centre = (w * x).sum(1)
    sums = Sums.of(centre, (w * x).abs().sum(1), torch.zeros_like(c), terms, torch.full_like(c, terms), bias=False)
    operand_max = torch.maximum(w.abs().amax(1), x.abs().amax(1))
    error, _ = tensor_core(arithmetic, arithmetic.order.tensor_core, sums, 1, operand_max)
    finite = d.isfinite() & (centre.abs() < 2.0**120)
    assert finite.sum() > 4000
    assert ((d - centre).abs() <= error + sums.own)[finite].all()


def test_constants_are_those_of_the_literature():
    """Fasi et al. 2021 (Volta, Ampere); Khattak and Mikaitis 2025; MMA-Sim, arXiv 2511.10909, table of FP16 instructions."""
    constants = {unit.name: (unit.terms, unit.fraction_bits) for unit in TENSOR_CORES}
    assert constants == {"volta": (4, 23), "ampere": (8, 24), "ada": (8, 24), "hopper": (16, 25), "blackwell": (16, 25)}


@pytest.mark.parametrize("known", [True, False], ids=["known", "by radius"])
@pytest.mark.parametrize("unit", TENSOR_CORES, ids=lambda u: u.name)
def test_truncation_in_a_step_reaches_a_good_part_of_the_bound(unit, known):
    """K - 1 products that lose almost a unit of the alignment, below one large product."""
    arithmetic = parse_arithmetic("fp16", "fp32", f"tensorcore:{unit.name}")
    small = (2.0**-unit.fraction_bits) * (1 - 2.0**-10)
    x = torch.full((1, unit.terms), small * 2.0**12, dtype=torch.float64)
    w = torch.full((1, unit.terms), 2.0**-12, dtype=torch.float64)
    x[0, 0] = w[0, 0] = 1.0
    run = tensor_core_step(unit, w.T, x.T, torch.zeros(1).double(), arithmetic.storage)
    centre = (w * x).sum(1)
    nothing, count = torch.zeros_like(centre), torch.full_like(centre, unit.terms)
    sums = Sums.of(*((centre, centre, nothing) if known else (nothing, nothing, centre)), unit.terms, count, bias=False)
    error, _ = tensor_core(arithmetic, unit, sums, 1, torch.ones(1, dtype=torch.float64))
    share = ((centre - run.flatten()).abs() / error).item()
    least = (unit.terms - 1) / (unit.terms + 1 + 2.0 ** (unit.fraction_bits - 22)) * 0.99
    assert least <= share <= 1


def sums_of(rng, terms):
    """Random sums: the numbers as fractions, P and N among them, and what the rules take."""
    w, x = (torch.from_numpy(round_to_nearest(rng.standard_normal((1, terms)) * 2.0 ** rng.integers(-6, 3), BINARY16)) for _ in range(2))
    products = [Fraction(float(a)) * Fraction(float(b)) for a, b in zip(w[0], x[0], strict=True)]
    positive, negative = sum(p for p in products if p > 0), -sum(p for p in products if p < 0)
    centre = (w * x).sum(1)
    count = torch.full_like(centre, terms)
    sums = Sums.of(centre, (w * x).abs().sum(1), torch.zeros_like(centre), terms, count, bias=False)
    return sums, max(positive, negative), positive + negative, torch.maximum(w.abs().amax(1), x.abs().amax(1))


@pytest.mark.parametrize("accumulate", ["fp32", "fp16"])
@pytest.mark.parametrize("unit", TENSOR_CORES, ids=lambda u: u.name)
def test_the_bound_is_that_of_theorem_5_in_rational_numbers(unit, accumulate):
    """So that a constant that is 1 % too small fails, although runs reach only a part of the bound."""
    arithmetic = parse_arithmetic("fp16", accumulate, f"tensorcore:{unit.name}")
    t, s = (Fraction(2) ** -23, Fraction(2) ** -149) if accumulate == "fp32" else (Fraction(2) ** -11, Fraction(2) ** -24)
    rng, least = np.random.default_rng(0), Fraction(2) ** (-126 if accumulate == "fp32" else -14)
    for steps in (1, 3, 40):
        sums, largest, _, operand = sums_of(rng, 4 * steps)
        a = (4 * steps + steps) * Fraction(2) ** -unit.fraction_bits + 2 * steps * t
        floor = Fraction(float(operand)) * Fraction(2) ** -14 + max(Fraction(2) ** -28, least)
        theorem = (a * (largest + floor) + steps * s) / (1 - a)
        error, _ = tensor_core(arithmetic, unit, sums, steps, operand)
        assert theorem <= Fraction(float(error)) <= theorem * (1 + Fraction(2) ** -30)


@pytest.mark.parametrize("parts", [2, 3, 16])
@pytest.mark.parametrize("storage", ["fp16", "bf16"])
def test_the_bound_of_sums_in_parts_is_that_of_theorem_21_in_rational_numbers(storage, parts):
    arithmetic = parse_arithmetic(storage, "fp32", f"splitk:{parts}")
    u, eta, v = Fraction(arithmetic.storage.unit_roundoff), Fraction(arithmetic.storage.eta), Fraction(2) ** -24
    rng = np.random.default_rng(1)
    for terms in (5, 40, 300):
        sums, largest, magnitude, _ = sums_of(rng, terms)
        additions = terms - 1
        inside = min(additions * v * magnitude, additions * v * ufp_of(largest + additions * v * magnitude))
        reach = largest + inside
        loose = 2 * parts * (u * reach + eta) / (1 - 2 * parts * u)
        theorem = inside + 2 * parts * max(u * ufp_of(reach + loose), eta)
        error = in_parts(arithmetic, sums).error
        assert theorem <= Fraction(float(error)) <= theorem * (1 + Fraction(2) ** -30)


def ufp_of(x):
    """The largest power of two that is at most a positive rational number."""
    power = Fraction(2) ** (x.numerator.bit_length() - x.denominator.bit_length())
    return power if power <= x else power / 2


def test_a_sum_of_too_many_steps_has_no_bound():
    arithmetic = parse_arithmetic("fp16", "fp32", "tensorcore:volta")
    one = torch.ones(1, dtype=torch.float64)
    sums = Sums.of(one, one, 0 * one, 4, 4 * one, bias=False)
    error, peak = tensor_core(arithmetic, arithmetic.order.tensor_core, sums, 2**22, one)
    assert error.isinf().all()
    assert peak.isinf().all()


def test_steps_that_underflow_are_counted():
    """Each step may lose the smallest number of its accumulator, whatever the size of the sum."""
    arithmetic = parse_arithmetic("fp16", "fp16", "tensorcore:volta")
    nothing = torch.zeros(1, dtype=torch.float64)
    sums = Sums.of(nothing, nothing, nothing, 4, nothing + 4, bias=False)
    error, _ = tensor_core(arithmetic, arithmetic.order.tensor_core, sums, 10, nothing)
    assert error.item() >= 10 * arithmetic.accumulate.smallest_subnormal


@pytest.mark.parametrize(("order", "size"), [("tensorcore:volta", 4), ("tensorcore:hopper", 16), ("gpu:hopper", 8)])
def test_steps_are_whole_blocks_in_every_tap(order, size):
    """Of 9 taps, each with one channel more than a block holds, as many as it holds, and one."""
    steps = [tensor_core_steps(parse_order(order), channels, 9) for channels in (size + 1, size, 1)]
    assert steps == [18, 9, 9]
    assert tensor_core_steps(parse_order("any"), size, 9) == 0


def test_a_convolution_takes_steps_in_every_tap():
    """Theorem 5 with 9 steps of 3 products, which would fit in two."""
    x, w = torch.ones(1, 3, 3, 3, dtype=torch.float64), torch.ones(1, 3, 3, 3, dtype=torch.float64)
    result = BY_NAME["conv2d"].error_rule(parse_arithmetic("fp16", "fp32", "tensorcore:hopper"), {}, Enclosure.exact(x), w, None)
    a = (27 + 9) * 2.0**-25 + 2 * 9 * 2.0**-23
    assert 27 * a <= result.fresh.item() <= 27.001 * a


def test_a_library_that_chooses_its_cores_has_the_larger_error():
    x, w = torch.ones(1, 64, dtype=torch.float64), torch.ones(1, 64, dtype=torch.float64)
    errors = {
        order: BY_NAME["linear"].error_rule(parse_arithmetic("fp16", "fp32", order), {}, Enclosure.exact(x), w, None).fresh.item()
        for order in ("gpu:volta", "tensorcore:volta", "any")
    }
    assert errors["gpu:volta"] == max(errors.values())
    assert errors["tensorcore:volta"] != errors["any"]
