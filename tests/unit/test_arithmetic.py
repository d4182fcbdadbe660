"""Arithmetics: names, trees, assumptions, refusals."""

import pytest

from precisionkit.arithmetic import REFERENCE, parse_arithmetic, parse_order
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
        (("fp16", "fp32", "random"), r"^The order 'random' is not known; choose any, sequential, pairwise, blocked:K"),
        (("fp16", "fp32", "blocked:1"), r"^The order 'blocked:1' is not known"),
        (("fp16", "fp32", "tensorcore:pascal"), r"tensorcore:volta\|ampere\|hopper\.$"),
        (
            ("fp16", "fp16", "tensorcore:volta"),
            r"^The order tensorcore:volta needs --storage fp16 or bf16 with --accumulate fp32, not fp16 with fp16\.$",
        ),
        (("fp32", "fp32", "tensorcore:volta"), r"not fp32 with fp32\.$"),
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
    for word in ("binary16", "binary32", "subnormal", "Winograd", "ulps", order.split(":")[-1].split(":")[0]):
        assert word in text
    assert all(sentence.endswith(".") for sentence in arithmetic.assumptions)
