"""Arithmetics: names, trees, assumptions, refusals."""

import pytest

from precisionkit.arithmetic import ANY, REFERENCE, parse_arithmetic, parse_order, parse_run, permitted
from precisionkit.errors import UnsupportedArithmeticError


def tree(order, n):
    return parse_order(order).fold(range(n), lambda a, b: (a, b))


def levels(terms):
    """Pairwise summation by its definition: neighbours level by level, an odd last one carried up."""
    while len(terms) > 1:
        terms = [(terms[i], terms[i + 1]) if i + 1 < len(terms) else terms[i] for i in range(0, len(terms), 2)]
    return terms[0]


def left(terms):
    total = terms[0]
    for term in terms[1:]:
        total = (total, term)
    return total


@pytest.mark.parametrize("n", range(1, 41))
def test_the_trees_are_those_of_their_definitions(n):
    terms = list(range(n))
    assert tree("sequential", n) == tree("any", n) == left(terms)
    assert tree("pairwise", n) == levels(terms)
    assert tree("blocked:4", n) == left([left(terms[i : i + 4]) for i in range(0, n, 4)])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("fp8",), r"^The storage format 'fp8' is not supported; choose one of fp16, bf16, fp32\.$"),
        (("fp64", "fp64"), r"^The storage format 'fp64' is not supported; choose one of fp16, bf16, fp32\.$"),
        (("fp32", "fp16"), r"^The accumulator fp16 does not hold every number of the storage format fp32; choose --accumulate fp32\.$"),
        (("bf16", "fp16"), r"^The accumulator fp16 does not hold every number of the storage format bf16"),
        (("fp16", "bf16"), r"^The accumulator bf16 does not hold every number of the storage format fp16"),
        (("fp16", "fp32", "random"), r"^The order 'random' is not known; choose any, sequential, pairwise, exact, blocked:K or splitk:S"),
        (("fp16", "fp32", "blocked:1"), r"^The order 'blocked:1' is not known"),
        (("fp16", "fp32", "tensorcore:pascal"), r"tensorcore:UNIT or gpu:UNIT with UNIT of volta\|ampere\|ada\|hopper\|blackwell\.$"),
        (
            ("bf16", "bf16", "tensorcore:ampere"),
            r"^The order tensorcore:ampere needs --storage fp16 with --accumulate fp32, or .* with --accumulate fp16, or --storage bf16 .*, not bf16 with bf16\.$",
        ),
        (
            ("bf16", "fp32", "tensorcore:volta"),
            r"^The order tensorcore:volta needs --storage fp16 with --accumulate fp32, or --storage fp16 with .* fp16, not bf16 with fp32\.$",
        ),
        (("fp16", "fp16", "splitk:4"), r"^The order splitk:4 needs --storage fp16 or bf16 with --accumulate fp32, not fp16 with fp16\.$"),
        (("fp16", "fp32", "splitk:1"), r"^The order 'splitk:1' is not known"),
        (("fp16", "tf32"), r"^Sums in tf32 are not supported; choose --accumulate from fp16, bf16, fp32, fp64\.$"),
        (("fp16", "fp32", "exact", "epilogue"), r"^Exact dot products are stored where they are computed; choose --fuse none\.$"),
        (("fp32", "fp32", "tensorcore:volta"), r"not fp32 with fp32\.$"),
        (("fp16", "fp16", "gpu:hopper"), r"^The order gpu:hopper needs --accumulate fp32, not fp16\.$"),
    ],
)
def test_refusals_are_sentences(options, message):
    with pytest.raises(UnsupportedArithmeticError, match=message):
        parse_arithmetic(*options)


def test_products_are_charged_where_they_round():
    assert parse_arithmetic("fp16", "fp32").product_roundoff == 0
    assert parse_arithmetic("fp16", "fp32").product_underflow == 0
    assert parse_arithmetic("bf16", "fp32").product_underflow == 2.0**-150
    assert parse_arithmetic("fp16", "fp16").product_roundoff == 2.0**-11
    assert REFERENCE.product_roundoff == 2.0**-24


@pytest.mark.parametrize("order", ["any", "sequential", "pairwise", "blocked:8", "tensorcore:hopper"])
def test_what_is_assumed_is_said(order):
    arithmetic = parse_arithmetic("fp16", "fp32", order)
    text = " ".join(arithmetic.assumptions)
    assert arithmetic.name == f"fp16/fp32-{order}"
    for word in ("binary16", "binary32", "subnormal", "Winograd", order.split(":")[-1].split(":")[0]):
        assert word in text
    assert all(sentence.endswith(".") for sentence in arithmetic.assumptions)


def test_a_run_to_emulate_is_one_that_the_arithmetic_allows():
    any_order = parse_arithmetic("fp16")
    assert any_order.order == ANY
    for run, arithmetic in (
        ("pairwise", any_order),
        ("blocked:8:fma", any_order),
        ("hopper", parse_arithmetic("fp16", "fp32", "tensorcore:hopper")),
    ):
        assert permitted(parse_run(run), arithmetic) == parse_run(run)
    assert parse_run("hopper") == parse_order("tensorcore:hopper")
    assert permitted(parse_run("sequential:fma"), parse_arithmetic("fp16", "fp16", "sequential")).fma


@pytest.mark.parametrize(
    ("run", "order", "message"),
    [
        ("hopper", "any", r"^A run in the order tensorcore:hopper is none that fp16/fp32-any allows.*\(--order tensorcore:hopper\)\.$"),
        ("pairwise", "sequential", r"^A run in the order pairwise is none that fp16/fp32-sequential allows"),
        ("splitk:2", "any", r"\(--order splitk:2\)\.$"),
        (
            "hopper:fma",
            "tensorcore:hopper",
            r"^':fma' speaks of a sum along a tree, sequential, pairwise or blocked:K, not of tensorcore:hopper",
        ),
        (
            "fastest",
            "any",
            r"^The run 'fastest' is not known; choose volta, ampere, ada, hopper, blackwell, splitk:S, exact, or sequential",
        ),
        ("any", "any", r"^'any' stands for many orders, and a run has one; choose sequential, pairwise or blocked:K\.$"),
    ],
)
def test_runs_that_no_bound_speaks_of_are_refused(run, order, message):
    with pytest.raises(UnsupportedArithmeticError, match=message):
        permitted(parse_run(run), parse_arithmetic("fp16", "fp32", order))


def test_a_library_may_take_short_steps():
    """Of 8 products on a unit of 16; a tensor core alone takes whole ones."""
    steps = {name: parse_order(name).least_step for name in ("tensorcore:hopper", "gpu:hopper", "tensorcore:volta", "gpu:volta", "any")}
    assert steps == {"tensorcore:hopper": 16, "gpu:hopper": 8, "tensorcore:volta": 4, "gpu:volta": 4, "any": 0}
    assert "whole blocks of 8 " in " ".join(parse_arithmetic("fp16", "fp32", "gpu:hopper").assumptions)
