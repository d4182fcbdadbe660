"""The repaired lemma, and the decision that rests on it."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from precisionkit.decide import Side, contradictions, decide, with_probable
from precisionkit.lemma import gaps, keeps_argmax, least_gaps, predictions, published_lemma, repaired_lemma

small = st.integers(-6, 6).map(lambda n: n / 4)
logits = hnp.arrays(np.float64, st.tuples(st.integers(1, 4), st.integers(2, 5)), elements=small)


def test_the_published_lemma_fails_at_a_tie():
    m32, m16 = np.array([[0.25, 0.75]]), np.array([[0.5, 0.5]])
    delta = np.abs(m32 - m16).max()
    assert published_lemma(0.5, delta)
    assert not repaired_lemma(0.5, delta)
    assert predictions(m32).tolist() == [1]
    assert predictions(m16).tolist() == [0]


@given(logits, st.data())
def test_a_kept_argmax_is_the_argmax_of_every_run(centre, data):
    classes = predictions(centre)
    errors = data.draw(hnp.arrays(np.float64, centre.shape, elements=st.integers(0, 6).map(lambda n: n / 4)))
    kept = keeps_argmax(least_gaps(gaps(centre, classes), errors), classes)
    # a run lowers the other classes' gaps by at most their errors: the worst run is the one at the ends
    worst = np.take_along_axis(centre, classes[:, None], 1) - (gaps(centre, classes) - errors)
    worst[np.arange(len(classes)), classes] = centre[np.arange(len(classes)), classes]
    np.testing.assert_array_equal(kept, predictions(worst) == classes)


def test_equality_is_enough_against_later_classes_alone():
    assert keeps_argmax(np.array([[0.0, 0.0]]), np.array([0])).tolist() == [True]
    assert keeps_argmax(np.array([[0.0, 0.0]]), np.array([1])).tolist() == [False]
    assert keeps_argmax(np.array([[0.0, np.nan]]), np.array([0])).tolist() == [False]


def side(centre, error, logits=None, **changes):
    centre = np.atleast_2d(np.asarray(centre, dtype=float))
    yes = np.ones(len(centre), dtype=bool)
    values = {"bounded": yes, "overflows": ~yes, "finite": yes} | {k: np.array([v]) for k, v in changes.items()}
    return Side(centre, np.full_like(centre, error), logits=centre if logits is None else np.atleast_2d(logits), **values)


@pytest.mark.parametrize(
    ("reference", "half", "verdict"),
    [
        (side([2.0, 0.0], 0.5), side([1.0, 0.0], 0.5), "proved"),
        (side([2.0, 0.0], 0.5), side([1.0, 0.0], 1.5), "observed"),
        (side([2.0, 0.0], 2.5), side([1.0, 0.0], 0.5), "observed"),
        (side([2.0, 0.0], 0.5), side([1.0, 0.0], 0.5, bounded=False), "observed"),
        (side([2.0, 0.0], np.nan), side([1.0, 0.0], 0.5), "observed"),
        (side([0.1, 0.0], 0.5), side([0.1, 0.0], 0.5, [0.0, 0.1]), "flipped"),
        (side([2.0, 0.0], 0.5), side([1.0, 0.0], 0.5, overflows=True), "invalid"),
        (side([2.0, 0.0], 0.5), side([1.0, 0.0], 0.5, finite=False), "invalid"),
    ],
)
def test_verdicts(reference, half, verdict):
    assert decide(reference, half, np.array([0])).verdict == [verdict]


def test_figures_of_the_tightest_pair():
    decision = decide(side([3.0, 1.0, 0.0], 0.25), side([2.5, 1.0, 0.0], 0.25, [2.25, 1.0, 0.0]), np.array([0]))
    assert decision.margin[0] == 2.0
    assert decision.lower_margin[0] == 1.25
    assert 1.0 <= decision.bound[0] <= 1.0 + 2.0**-50  # .25 + .5 + .25
    assert decision.measured_error[0] == 0.75


def test_figures_of_what_is_not_kept_are_those_of_the_pair_that_is_furthest_from_it():
    """Not those of the pair whose bound is largest: an interval bound of 9e12 says nothing of a margin of 9."""
    centre = [9.0, 8.98, 0.0]
    wide = decide(side(centre, [[0.0, 4e12, 9e12]]), side(centre, [[0.0, 0.2, 0.2]]), np.array([0]))
    assert (wide.verdict, wide.rival.tolist()) == (["observed"], [1])
    assert wide.margin[0] == pytest.approx(0.02)
    assert wide.lower_margin[0] < -8e12
    unbounded = decide(side(centre, 0.5, bounded=False), side(centre, 0.5), np.array([0]))
    assert (unbounded.rival.tolist(), unbounded.bound[0]) == ([1], np.inf)
    exact = decide(side([1.0, 1.0, 0.0], 0.0), side([1.0, 1.0, 0.0], 0.0), np.array([1]))
    assert (exact.verdict, exact.rival.tolist()) == (["observed"], [0])


def test_figures_of_a_flip_are_those_of_the_pair_that_flipped():
    """Class 1 comes closest to class 0, but the half run predicts class 2."""
    centre = [1.0, 0.9, 0.8]
    flipped = decide(side(centre, 0.5), side(centre, 0.5, [0.9, 0.85, 1.0]), np.array([0]))
    kept = decide(side(centre, 0.5), side(centre, 0.5), np.array([0]))
    assert (flipped.verdict, flipped.rival.tolist()) == (["flipped"], [2])
    assert (kept.verdict, kept.rival.tolist()) == (["observed"], [1])
    assert flipped.margin[0] == pytest.approx(0.2)
    assert flipped.measured_error[0] == pytest.approx(0.3)
    assert flipped.bound[0] >= flipped.measured_error[0]
    assert flipped.lower_margin[0] == kept.lower_margin[0]
    strayed = decide(side(centre, 0.5, [0.9, 0.85, 1.0]), side(centre, 0.5), np.array([0]))  # the reference run alone
    assert (strayed.verdict, strayed.rival.tolist()) == (["flipped"], [2])


@given(hnp.arrays(np.float64, st.tuples(st.just(2), st.integers(1, 4), st.integers(2, 5)), elements=small), st.floats(0, 3))
def test_the_measured_error_of_a_flip_is_at_least_its_margin(runs, error):
    centre, moved = runs
    classes = predictions(centre)
    decision = decide(side(centre, error), side(centre, error, moved), classes)
    for i, verdict in enumerate(decision.verdict):
        assert (verdict == "flipped") == (decision.prediction_half[i] != classes[i])
        if verdict == "flipped":
            assert decision.rival[i] == decision.prediction_half[i]
            assert decision.measured_error[i] >= decision.margin[i]


@given(logits, st.floats(0, 3))
def test_margin_above_bound_implies_proved(centre, error):
    reference, half = side(centre, error), side(centre + 0.125, error / 2)
    wide = Side(
        centre, np.full_like(centre, error), np.ones(len(centre), bool), np.zeros(len(centre), bool), centre, np.ones(len(centre), bool)
    )
    decision = decide(wide, wide, predictions(centre))
    assert len(reference.centre) == len(half.centre)
    columns = centre.shape[1]
    for i, verdict in enumerate(decision.verdict):
        if columns == 2 and decision.margin[i] > decision.bound[i]:
            assert verdict == "proved"


def test_a_run_outside_its_bounds_is_a_contradiction():
    inside, outside = side([2.0, 0.0], 0.5, [1.5, 0.0]), side([2.0, 0.0], 0.5, [1.25, 0.0])
    assert contradictions(inside, inside, np.array([0])).tolist() == [False]
    assert contradictions(inside, outside, np.array([0])).tolist() == [True]
    unbounded = side([2.0, 0.0], 0.5, [1.25, 0.0], bounded=False)
    assert contradictions(inside, unbounded, np.array([0])).tolist() == [False]


def test_bounds_with_a_probability_turn_observed_into_probable_and_nothing_else():
    classes = np.zeros(4, dtype=int)
    yes, logits = np.ones(4, dtype=bool), np.array([[2.0, 0.0], [2.0, 0.0], [0.0, 2.0], [2.0, 0.0]])
    centre = np.tile([2.0, 0.0], (4, 1))
    wide, sharp = (Side(centre, np.full((4, 2), error), yes, ~yes, logits, yes) for error in (3.0, 1.0))
    wide.gap_error[3] = 1.5
    proved, likely = decide(wide, wide, classes), decide(sharp, sharp, classes)
    assert proved.verdict == ["observed", "observed", "observed", "proved"]  # two equal runs
    found = with_probable(proved, replace(likely, verdict=["proved", "proved", "observed", "proved"]), np.array([True, False, True, True]))
    assert found.verdict == ["probable", "observed", "observed", "proved"]
    assert found.bound[0] == likely.bound[0] < proved.bound[0]
    assert found.bound[1:].tolist() == proved.bound[1:].tolist()
