"""Tensor cores: one step against results recorded on real units, bit for bit, and the bound over all of them."""

import numpy as np
import pytest
import torch

from precisionkit.arithmetic import TENSOR_CORES, parse_arithmetic
from precisionkit.formats import BINARY16, round_to_nearest
from precisionkit.ops._dot import Sums, tensor_core
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


@pytest.mark.parametrize("unit", TENSOR_CORES, ids=lambda u: u.name)
def test_truncation_in_a_step_reaches_a_good_part_of_the_bound(unit):
    """K - 1 products that lose almost a unit of the alignment, below one large product."""
    arithmetic = parse_arithmetic("fp16", "fp32", f"tensorcore:{unit.name}")
    small = (2.0**-unit.fraction_bits) * (1 - 2.0**-10)
    x = torch.full((1, unit.terms), small * 2.0**12, dtype=torch.float64)
    w = torch.full((1, unit.terms), 2.0**-12, dtype=torch.float64)
    x[0, 0] = w[0, 0] = 1.0
    run = tensor_core_step(unit, w.T, x.T, torch.zeros(1).double(), arithmetic.storage)
    centre = (w * x).sum(1)
    sums = Sums.of(centre, centre, torch.zeros_like(centre), unit.terms, torch.full_like(centre, unit.terms), bias=False)
    error, _ = tensor_core(arithmetic, unit, sums, 1, torch.ones(1, dtype=torch.float64))
    share = ((centre - run.flatten()).abs() / error).item()
    least = (unit.terms - 1) / (unit.terms + 1 + 2.0 ** (unit.fraction_bits - 22)) * 0.99
    assert least <= share <= 1


def test_a_sum_of_too_many_steps_has_no_bound():
    arithmetic = parse_arithmetic("fp16", "fp32", "tensorcore:volta")
    one = torch.ones(1, dtype=torch.float64)
    sums = Sums.of(one, one, 0 * one, 4, 4 * one, bias=False)
    error, peak = tensor_core(arithmetic, arithmetic.order.tensor_core, sums, 2**22, one)
    assert error.isinf().all()
    assert peak.isinf().all()
