"""The margin lemma as an equivalence: a prediction is kept if and only if no run within the errors changes it."""

from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from precisionkit.formats import BFLOAT16, BINARY16, BINARY32
from precisionkit.lemma import gaps, keeps_argmax, least_gaps, predictions, published_lemma, repaired_lemma
from precisionkit.testing import arrays, numbers

KINDS = ("integers", "moderate", "ties", "subnormal")
FORMATS = (BINARY16, BFLOAT16, BINARY32)


def first_argmax(values):
    return max(range(len(values)), key=lambda i: (values[i], -i))


@st.composite
def logits_with_errors(draw):
    """Logits of a format, and errors of the gaps, often equal to a gap."""
    fmt, classes = draw(st.sampled_from(FORMATS)), draw(st.integers(2, 5))
    logits = draw(arrays(fmt, (1, classes), KINDS))
    predicted = predictions(logits)
    margins = gaps(logits, predicted)[0].tolist()
    error = numbers(fmt, KINDS).map(abs) | st.sampled_from(margins)
    return logits, predicted, np.array([draw(st.lists(error, min_size=classes, max_size=classes))])


@given(logits_with_errors())
def test_a_prediction_is_kept_if_and_only_if_no_run_changes_it(drawn):
    logits, predicted, errors = drawn
    kept = bool(keeps_argmax(least_gaps(gaps(logits, predicted), errors), predicted)[0])
    c = int(predicted[0])
    # gaps are rounded here as the analysis rounds them; the rest is exact
    least = [Fraction(gap) - Fraction(error) for gap, error in zip(gaps(logits, predicted)[0].tolist(), errors[0].tolist(), strict=True)]
    runs = []
    for k in (k for k in range(len(least)) if k != c):
        # every other gap stays as it is in the centre; this one is as small as it may be
        run = [-Fraction(gap) for gap in gaps(logits, predicted)[0].tolist()]
        run[k] = -least[k]
        runs.append(run)
    assert kept == all(first_argmax(run) == c for run in runs)


@given(st.data(), st.sampled_from(FORMATS), st.integers(2, 5))
def test_the_strict_lemma_keeps_the_prediction_of_any_two_runs(data, fmt, classes):
    a, b = (data.draw(arrays(fmt, (1, classes), KINDS))[0].tolist() for _ in range(2))
    b = data.draw(st.sampled_from([b, [x + (y if abs(y) < 1 else 0.0) for x, y in zip(a, b, strict=True)]]))
    exact, other = [Fraction(x) for x in a], [Fraction(x) for x in b]
    largest, second = sorted(exact, reverse=True)[:2]
    margin, delta = largest - second, max(abs(x - y) for x, y in zip(exact, other, strict=True))
    if repaired_lemma(margin, delta):
        assert first_argmax(exact) == first_argmax(other)
    elif published_lemma(margin, delta):  # a tie: only a later class keeps the first index
        assert other[first_argmax(exact)] == max(other)
