"""What the published strategies draw is what they say, and everything that they should draw is drawn."""

import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st

from precisionkit import testing
from precisionkit.arithmetic import ACCUMULATORS, STORAGE, parse_arithmetic
from precisionkit.errors import UnsupportedArithmeticError, UsageError
from precisionkit.formats import BINARY16, BINARY32, BINARY64, E4M3, FORMATS, round_to_nearest
from precisionkit.ops import OPERATORS
from precisionkit.testing.arithmetics import _accepted

from .drawn import captured, examples

each_format = pytest.mark.parametrize("fmt", FORMATS, ids=lambda fmt: fmt.option)
UNREACHED = {"flatten"}
"""torch.export writes it as a view; files can hold it."""


@each_format
@pytest.mark.parametrize("kind", testing.KINDS)
def test_numbers_are_finite_numbers_of_the_format(fmt, kind):
    @given(testing.numbers(fmt, [kind]))
    def holds(x):
        assert abs(x) <= fmt.max
        assert x == 0 or abs(x) >= fmt.smallest_subnormal
        assert round_to_nearest(np.array([x]), fmt)[0] == x
        if kind == "subnormal":
            assert 0 < abs(x) < fmt.smallest_normal
        if kind == "integers":
            assert x == int(x)

    holds()


def is_drawn(strategy, condition):
    """Whether something is drawn that fulfils the condition; without making it simple."""
    return find(strategy, condition, settings=settings(max_examples=5000, phases=[Phase.generate], database=None)) is not None


@each_format
def test_the_ends_of_a_format_are_drawn(fmt):
    for kind, wanted in (("large", fmt.max), ("subnormal", fmt.smallest_subnormal), ("ties", 1 + fmt.eps)):
        assert is_drawn(testing.numbers(fmt, [kind]), lambda x, wanted=wanted: x == wanted)


@pytest.mark.parametrize("fmt", [fmt for fmt in FORMATS if fmt is not BINARY64], ids=lambda fmt: fmt.option)
def test_what_lies_halfway_has_two_nearest_numbers(fmt):
    @given(testing.halfway(fmt))
    def holds(x):
        below, above = (round_to_nearest(np.array([v]), fmt)[0] for v in (np.nextafter(x, -np.inf), np.nextafter(x, np.inf)))
        if np.isfinite([below, above]).all():
            assert Fraction(above) - Fraction(x) == Fraction(x) - Fraction(below) > 0
        else:
            assert abs(x) == fmt.overflow_threshold

    holds()


@given(st.data(), testing.formats(), st.sampled_from([2.0, 30.0, 1000.0]), st.integers(0, 6), st.booleans())
def test_sums_have_the_condition_that_was_chosen(data, fmt, condition, more, products):
    if condition > testing.greatest_condition(fmt, products=products):
        with pytest.raises(UsageError, match=r"^A condition number of .* cannot be had in "):
            (testing.dot_products if products else testing.cancelling)(fmt, 30, condition)
        return
    length = 8 + more
    if products:
        drawn = data.draw(testing.dot_products(fmt, length, condition))
        found = drawn.condition
    else:
        terms = data.draw(testing.cancelling(fmt, length, condition))
        drawn = testing.DotProduct(terms, np.ones(length))
        found = drawn.condition / 2
    assert len(drawn.x) == len(drawn.y) == length
    for part in (drawn.x, drawn.y):
        np.testing.assert_array_equal(round_to_nearest(part, fmt), part)
    assert condition <= found <= 8 * condition


def test_arrays_are_of_one_kind_or_of_several():
    assert is_drawn(testing.arrays(BINARY16, (2, 3), ["subnormal"]), lambda a: a.shape == (2, 3) and bool((a > 0).all()))
    assert is_drawn(testing.arrays(E4M3, 4), lambda a: a.dtype == np.float64 and bool((abs(a) > 200).any() and (abs(a) <= 2).any()))


def test_every_arithmetic_that_parses_is_drawn():
    orders = ("any", "sequential", "pairwise", "exact", "blocked:2", "blocked:64", "splitk:3", "tensorcore:hopper", "gpu:ada")
    parsed = set()
    for storage in STORAGE:
        for accumulate in ACCUMULATORS:
            for order in orders:
                for fuse in ("none", "epilogue"):
                    try:
                        parsed.add(parse_arithmetic(storage.option, accumulate.option, order, fuse))
                    except UnsupportedArithmeticError:
                        continue
    assert len(parsed) > 60
    for wanted in parsed:
        template = wanted.order.name.rstrip("0123456789") if wanted.order.name[-1].isdigit() else wanted.order.name
        options = wanted.storage.option, wanted.accumulate.option, template, "epilogue" if wanted.fused else "none"
        assert options in _accepted()
        only = testing.arithmetics(storage=options[0], accumulate=options[1], order=wanted.order.name, fuse=options[3])
        assert is_drawn(only, wanted.__eq__)


@given(testing.arithmetics(storage="bf16", order="splitk:"))
def test_options_are_kept(arithmetic):
    assert arithmetic.storage.option == "bf16"
    assert 2 <= arithmetic.order.parts <= 64


def test_every_supported_operator_is_in_some_network():
    networks = testing.covering()
    found = {node.operator for network in networks for node in captured(network).nodes}
    assert found | UNREACHED | {"cast"} >= {operator.name for operator in OPERATORS}
    assert {name for network in networks for name in network.blocks} == {block.name for block in testing.BLOCKS}


@examples(8)
@given(testing.networks(), st.data())
def test_networks_run_and_are_the_same_at_every_call(network, data):
    state = torch.get_rng_state()
    images = data.draw(testing.inputs(network, BINARY32, batch=2))
    first, second = (network.module()(images) for _ in range(2))
    assert first.shape == (2, network.classes)
    assert torch.equal(first, second) or not first.isfinite().all()
    assert torch.equal(torch.get_rng_state(), state)
    assert images.shape == (2, *network.input_shape)
    assert images.dtype == network.dtype


@examples(10)
@given(testing.networks(blocks=["linear", "relu"], most=2, tokens=False), st.data())
def test_inputs_are_numbers_of_the_format(network, data):
    assert set(network.blocks) <= {"linear", "relu"}
    images = data.draw(testing.inputs(network, BINARY16, families=list(testing.FAMILIES)))
    assert torch.equal(images.half().float(), images)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: testing.numbers(BINARY16, ["odd"]), "There are no numbers of the kind 'odd'; choose of integers, "),
        (lambda: testing.numbers(BINARY16, []), "There are no numbers of the kind 'none'"),
        (lambda: testing.halfway(BINARY64), "What lies halfway between numbers of binary64 is no binary64 number"),
        (lambda: testing.arithmetics(storage="fp32", order="splitk:"), "No arithmetic has storage fp32, order splitk:;"),
        (lambda: testing.networks(blocks=["lstm"]), "There is no block 'lstm'; choose of linear, "),
        (lambda: testing.networks(most=0), "A network of at most 0 blocks is none"),
        (lambda: testing.inputs(testing.covering()[0], families=["odd"]), "There is no family of numbers 'odd'; choose of normal, "),
        (
            lambda: testing.dot_products(BINARY16, 2, 1000.0),
            "A sum of 2 numbers of binary16 with the condition number 1000 needs 3 or more",
        ),
        (lambda: testing.cancelling(BINARY16, 9, 1.0), "A condition number of 1 cannot be had in binary16: choose one from 2 to "),
    ],
)
def test_refusals_are_sentences(call, message):
    with pytest.raises(UsageError) as caught:
        call()
    assert str(caught.value).startswith(message)
    assert str(caught.value).endswith(".")


def test_without_hypothesis_one_sentence_says_how_to_install_it():
    code = "import sys; sys.modules['hypothesis'] = None\nimport precisionkit.testing"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.stderr.strip().splitlines()[-1] == (
        "ModuleNotFoundError: precisionkit.testing draws its values with Hypothesis, which is not installed: "
        "run pip install 'precisionkit[testing]'."
    )
