"""Dot products of a chosen condition, in every arithmetic: inside their bounds, which wider enclosures and freer orders never make smaller."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from precisionkit.arithmetic import ANY, parse_arithmetic, parse_order, parse_run, permitted
from precisionkit.bound.interval import stored
from precisionkit.enclosure import Enclosure
from precisionkit.ops import BY_NAME, run_rounded
from precisionkit.ops._store import store
from precisionkit.testing import FAMILIES, arithmetics, arrays, dot_products, draw
from tests.soundness.cases import CASES
from tests.soundness.harness import POSITIVE, TREES, emulates, operands

from .drawn import examples, runnable

LINEAR = BY_NAME["linear"]
ROUNDING = 1 + 2.0**-40
"""Of bounds that are computed in binary64 with different roundings."""


def radius(record, arithmetic, attributes, *given):
    """Deviation of the stored result, infinite where overflow is not excluded."""
    result = stored(arithmetic, record.error_rule(arithmetic, attributes, *given))
    return torch.where(result.excluded.reshape(-1, *[1] * (result.radius.dim() - 1)), result.radius, torch.inf).nan_to_num(torch.inf)


def row(values):
    return torch.from_numpy(np.array(values, dtype=np.float64))[None]


@examples(40)
@given(st.data(), runnable(), st.integers(9, 24), st.sampled_from([2.0, 50.0, 1000.0, 2.0**15]))
def test_dot_products_of_every_condition_stay_inside(data, arithmetic, length, condition):
    drawn = data.draw(dot_products(arithmetic.storage, length, condition))
    x, y = row(drawn.x), row(drawn.y)
    bound = radius(LINEAR, arithmetic, {}, Enclosure.exact(x), y)
    names = ((f"{arithmetic.order.name}:fma",) if arithmetic.order.is_tree else TREES) if emulates(arithmetic) else ()
    orders = [arithmetic.order, *(permitted(parse_run(name), arithmetic) for name in names)]
    for order in orders if bound.isfinite().all() else ():
        run = store(run_rounded(LINEAR, replace(arithmetic, order=order), {}, x.float(), y.float()), arithmetic.storage).double()
        assert abs(Fraction(run.item()) - drawn.exact) <= Fraction(bound.item()), order.name


@examples(40)
@given(
    st.data(), arithmetics(fuse="none", order="blocked:"), st.sampled_from(["sequential", "pairwise", "exact", None]), st.integers(1, 30)
)
def test_a_named_order_is_never_worse_than_any(data, arithmetic, order, length):
    """Of orders that are among those that 'any' stands for; tensor cores truncate, and parts round once more."""
    arithmetic = arithmetic if order is None else replace(arithmetic, order=parse_order(order))
    x, y = (row(data.draw(arrays(arithmetic.storage, length))) for _ in range(2))
    width = data.draw(st.sampled_from([0.0, 2.0**-10, 0.25]))
    x = Enclosure(x, x.abs() * width)
    named, free = (radius(LINEAR, replace(arithmetic, order=order), {}, x, y).item() for order in (arithmetic.order, ANY))
    # an exact sum is a real number that is rounded once, which is charged to a zero as well
    assert named <= free * ROUNDING + (arithmetic.storage.eta if arithmetic.order.is_exact else 0)


@examples(30)
@given(st.data(), st.sampled_from(["fp16", "bf16"]), st.integers(1, 40), st.sampled_from(["ampere", "ada", "hopper", "blackwell"]))
def test_a_library_that_chooses_is_bounded_by_the_worse_of_its_units(data, storage, length, unit):
    arithmetic = data.draw(arithmetics(storage=storage, accumulate="fp32", order=f"gpu:{unit}", fuse="none"))
    x, y = (row(data.draw(arrays(arithmetic.storage, length))) for _ in range(2))
    orders = (arithmetic.order, ANY, parse_order(f"tensorcore:{unit}"))
    either, *parts = (radius(LINEAR, replace(arithmetic, order=order), {}, Enclosure.exact(x), y).item() for order in orders)
    assert max(parts) <= either * ROUNDING


@examples(150)
@given(
    st.sampled_from([case for case in CASES if not BY_NAME[case.operator].hidden]),
    arithmetics(),
    st.sampled_from(tuple(FAMILIES)),
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.0, 2.0**-12, 2.0**-3]),
    st.floats(1, 50),
)
def test_a_wider_enclosure_never_has_a_smaller_bound(case, arithmetic, family, seed, width, factor):
    rng = np.random.default_rng(seed)
    record, values = BY_NAME[case.operator], operands(case, family, rng, arithmetic.storage)
    assume(not record.statistics)  # their bounds are those of several operators
    grown = [None if v is None else v.abs() * width * torch.from_numpy(rng.choice([0.0, 1.0], v.shape)) for v in values]
    if case.operator == "embedding":
        grown[1] = torch.zeros_like(values[1])
    extra = [torch.zeros(()) if r is None or case.operator in ("embedding", *POSITIVE) else r * (factor - 1) for r in grown]

    def of(radii):
        enclosed = [
            v if (place in case.constants and case.operator != "embedding") or v is None else Enclosure(v, r)
            for place, (v, r) in enumerate(zip(values, radii, strict=True))
        ]
        if case.operator == "embedding":
            enclosed[0] = values[0]
        return radius(record, arithmetic, case.attributes, *enclosed)

    narrow, wide = of(grown), of([r if r is None else r + e for r, e in zip(grown, extra, strict=True)])
    assert (narrow <= wide * ROUNDING).all()


@examples(20)
@given(st.data(), arithmetics(fuse="none"))
def test_draws_of_families_are_numbers_of_the_format(data, arithmetic):
    family, seed = data.draw(st.sampled_from(tuple(FAMILIES))), data.draw(st.integers(0, 99))
    values = torch.from_numpy(draw(family, np.random.default_rng(seed), (3, 4), arithmetic.storage)).float()
    assert torch.equal(store(values, arithmetic.storage), values)
    assert values.isfinite().all()


def test_the_bound_of_a_long_sum_tells_orders_apart():
    x = row(np.ones(256))
    pairwise = parse_arithmetic("fp16", "fp16", "pairwise")
    named, free = (
        radius(LINEAR, replace(pairwise, order=order), {}, Enclosure(x, x * 2.0**-11), x).item() for order in (pairwise.order, ANY)
    )
    assert named < free / 4
