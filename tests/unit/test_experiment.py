"""Premise against conclusion, exactly: the published counterexample, ties, sharpness, and statistics."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from precisionkit.experiment import outcome, softmax, spread
from precisionkit.formats import BINARY16, BINARY32

CASES = [
    # reference, half, gamma, delta, premises (>=, >, pairwise), kept
    ((0.25, 0.75), (0.5, 0.5), 0.5, 0.25, (True, False, False), False),
    ((0.75, 0.25), (0.5, 0.5), 0.5, 0.25, (True, False, False), True),
    ((0.0, 1.0, -3.0), (0.25, 1.25, -3.0), 1.0, 0.25, (True, True, True), True),
    ((0.0, 1.0, -3.0), (0.6, 1.6, -3.0), 1.0, 0.6, (False, False, True), True),
    ((1.0, 1.0), (1.0, 1.0), 0.0, 0.0, (True, False, False), True),
    ((2.0, 1.0), (1.0, 2.0), 1.0, 1.0, (False, False, False), False),
    ((1.0, 1.0 - 2.0**-24), (1.0, 1.0), 2.0**-24, 2.0**-24, (False, False, False), True),
]


@pytest.mark.parametrize(("reference", "half", "gamma", "delta", "premises", "kept"), CASES)
def test_outcomes(reference, half, gamma, delta, premises, kept):
    found = outcome(reference, half)
    assert found.gamma == Fraction(gamma)
    assert abs(float(found.delta) - delta) < 1e-15
    assert found.premises == premises
    assert found.kept == kept
    assert found.boundary == (premises[0] and not premises[1])


vectors = st.lists(st.integers(-4, 4).map(lambda n: n / 4), min_size=3, max_size=3)


@given(vectors, vectors)
def test_the_repaired_premises_imply_the_conclusion_and_the_first_the_second(reference, half):
    weak, strict, pairwise = outcome(reference, half).premises
    assert not strict or weak
    assert not strict or pairwise
    assert not pairwise or outcome(reference, half).kept
    assert outcome(reference, half).kept == (int(np.argmax(reference)) == int(np.argmax(half)))


def test_differences_are_not_rounded():
    tiny = 2.0**-60
    assert outcome((1.0, 0.0), (1.0, tiny)).delta == Fraction(tiny)
    assert outcome((1.0, tiny), (1.0, tiny)).gamma == 1 - Fraction(tiny)


def test_statistics_are_exact_until_the_end():
    found = spread([Fraction(1, 3), Fraction(1, 3), Fraction(10**20)])
    assert found.mean == float((Fraction(2, 3) + 10**20) / 3)
    assert spread([Fraction(2), Fraction(4)]).variance == 1.0
    assert spread([Fraction(1, 3)] * 7).variance == 0.0
    assert (found.least, found.largest, found.quantiles["50 %"]) == (1 / 3, 1e20, 1 / 3)


def test_probabilities_are_stored_in_the_format():
    logits = torch.tensor([[0.0, 1.0, -20.0]], dtype=torch.float64)
    half, single = softmax(logits, BINARY16), softmax(logits, BINARY32)
    assert (half == half.half().double()).all()
    assert (half != single).any()
    assert half[0, 2] == 0.0
