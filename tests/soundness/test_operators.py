"""Every operator, arithmetic and family of inputs: |computed - exact| <= bound, with no slack."""

import numpy as np
import pytest
import torch

from precisionkit.enclosure import Enclosure
from precisionkit.formats import BFLOAT16
from precisionkit.ops import BY_NAME, OPERATORS

from .cases import ARITHMETICS, CASES, FAMILIES, Case
from .harness import around, bounded, distance, enclosed, exact, is_fixed, kept, native_runs, operands, runs, violations

SEEDS = 2
FLUSHED = ("subnormal", "underflowing")
"""bfloat16 instructions of some CPUs take subnormal numbers for zero, against the arithmetic's assumption."""


def used(case, arithmetic):
    """Orders and accumulators matter to dot products alone."""
    return BY_NAME[case.operator].products is not None or (arithmetic.order.name == "any" and arithmetic.accumulate.option in ("fp32",))


PAIRS = [pytest.param(c, a, id=f"{c}-{a.name}") for c in CASES for a in ARITHMETICS if used(c, a)]


def test_every_operator_has_a_case():
    assert {record.name for record in OPERATORS if not record.hidden} == {case.operator for case in CASES}


@pytest.mark.parametrize(("case", "arithmetic"), PAIRS)
def test_a_run_errs_by_at_most_the_bound(case, arithmetic):
    claimed = 0
    for family in FAMILIES:
        for seed in range(SEEDS):
            rng = np.random.default_rng([seed, len(family)])
            values = operands(case, family, rng, arithmetic.storage)
            truth = exact(case, values)
            result, radius, excluded = bounded(case, arithmetic, enclosed(case, values))
            claimed += int(excluded.sum())
            fresh = radius if result.fresh is None else result.fresh
            assert not violations(distance(result.centre, truth), fresh, excluded), f"{family}: the binary64 centre"
            for run in runs(case, arithmetic, values, rng):
                if result.form is not None:  # else the operation and the store are one rounding
                    # a Python number enters with a spread, which counts as carried
                    assert not violations(distance(run, truth), fresh + result.carried, excluded), f"{family}: before the store"
                assert not violations(distance(kept(case, arithmetic, run), result.centre), radius, excluded), f"{family}: stored"
            if arithmetic.storage == BFLOAT16 and family in FLUSHED:
                continue
            for run in native_runs(case, arithmetic, values):
                assert not violations(distance(run, result.centre), radius, excluded), f"{family}: native"
    assert claimed


@pytest.mark.parametrize(("case", "arithmetic"), PAIRS)
def test_a_run_from_anywhere_in_the_enclosure_stays_in_the_enclosure(case, arithmetic):
    for family in FAMILIES:
        rng = np.random.default_rng([7, len(family)])
        values = operands(case, family, rng, arithmetic.storage)
        centres, radii = [], []
        for place, value in enumerate(values):
            fixed = value is None or is_fixed(case, place)
            centre, radius = (
                (value, None if value is None else torch.zeros_like(value)) if fixed else around(value, arithmetic.storage, rng)
            )
            centres.append(centre)
            radii.append(radius)
        result, radius, excluded = bounded(case, arithmetic, enclosed(case, values, radii, centres))
        truth = exact(case, values)
        before = result.carried if result.fresh is None else result.carried + result.fresh
        excluded = excluded & radius.isfinite().flatten(1).all(1)
        assert not violations(distance(result.centre, truth), before * (1 + 2.0**-50), excluded), f"{family}: carried"
        for run in runs(case, arithmetic, values, rng):
            assert not violations(distance(kept(case, arithmetic, run), result.centre), radius, excluded), f"{family}: stored"


@pytest.mark.filterwarnings("ignore:Using padding='same'")  # with even kernels: torch makes a copy
@pytest.mark.parametrize("dilation", [1, 3])
def test_the_odd_zero_of_same_padding_stands_behind(dilation):
    case = Case("conv2d", {"padding": "same", "dilation": dilation}, ((1, 1, 6, 3),), {1: (2, 1, 2, 3), 2: None})
    values = operands(case, "normal", np.random.default_rng(0), BFLOAT16)
    result, _, _ = bounded(case, ARITHMETICS[0], enclosed(case, values))
    for computed in (result.centre, runs(case, ARITHMETICS[-1], values, np.random.default_rng(0))[0]):
        assert max(distance(computed, exact(case, values)).flat) < 2.0**-16


@pytest.mark.parametrize("arithmetic", ARITHMETICS, ids=lambda a: a.name)
def test_the_large_family_is_on_both_sides_of_overflow(arithmetic):
    linear = next(c for c in CASES if c.operator == "linear")
    seen = set()
    for seed in range(12):
        values = operands(linear, "large", np.random.default_rng(seed), arithmetic.storage)
        _, _, excluded = bounded(linear, arithmetic, enclosed(linear, values))
        seen |= set(excluded.tolist())
        for run in runs(linear, arithmetic, values, np.random.default_rng(seed)):
            assert kept(linear, arithmetic, run)[excluded].isfinite().all()
    assert seen == {True, False}


def test_a_bound_that_is_too_small_is_found():
    """The harness can fail: half of the bound is exceeded."""
    case = next(c for c in CASES if c.operator == "linear" and c.constants[2] is None)
    arithmetic = ARITHMETICS[3]
    values = [torch.full((2, 9), 1.0, dtype=torch.float64), torch.ones(3, 9, dtype=torch.float64), None]
    values[1][:, 1:] = arithmetic.storage.unit_roundoff
    result, _, excluded = bounded(case, arithmetic, enclosed(case, values))
    run = runs(case, arithmetic, values, np.random.default_rng(0))[0]
    deviation = distance(run, exact(case, values))
    assert not violations(deviation, result.fresh, excluded)
    assert violations(deviation, 0.5 * result.fresh, excluded)


def test_an_unbounded_operand_gives_no_bound():
    x = Enclosure(torch.ones(1, 9, dtype=torch.float64), torch.full((1, 9), torch.inf, dtype=torch.float64))
    case = next(c for c in CASES if c.operator == "linear")
    weight = torch.zeros(3, 9, dtype=torch.float64)
    _, radius, excluded = bounded(case, ARITHMETICS[0], [x, weight, None])
    assert not excluded.any()
    assert not (radius < torch.inf).any()
