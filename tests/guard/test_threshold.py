"""The guarantee of the threshold, by exact probabilities and by a simulation that the guarantee nearly exhausts; rates and windows after it."""

import math
from fractions import Fraction
from functools import cache
from itertools import product

import numpy as np
import pytest
from scipy.stats import binom

from precisionkit.errors import UnusableDataError, UsageError
from precisionkit.guard.rates import expected_counts, plain_limits, rate_limits
from precisionkit.guard.threshold import allowed_scores, choose, inputs_needed, provable_risk, proves, rounded_up


@pytest.mark.parametrize(
    ("risk", "confidence", "needed"), [("0.001", "0.99", 4603), ("0.0001", "0.99", 46050), ("0.5", "0.7", 2), ("0.1", "0.99", 44)]
)
def test_the_inputs_needed_are_the_least_by_rational_arithmetic(risk, confidence, needed):
    kept = 1 - Fraction(risk)
    assert kept**needed <= 1 - Fraction(confidence) < kept ** (needed - 1)
    assert inputs_needed(float(risk), float(confidence)) == needed
    assert allowed_scores(needed - 1, float(risk), float(confidence)) is None


def exact_tail(n, risk, k):
    return sum(math.comb(n, i) * risk**i * (1 - risk) ** (n - i) for i in range(k + 1))


@pytest.mark.parametrize("n", [44, 45, 64, 65, 300, 1000])
def test_the_allowed_scores_are_the_most_by_rational_arithmetic(n):
    k = allowed_scores(n, 0.1, 0.99)
    risk, failure = Fraction(1, 10), Fraction(1, 100)
    assert exact_tail(n, risk, k) <= failure < exact_tail(n, risk, k + 1)


def exact_failure(scores, chances, n, risk, confidence):
    """P(L(T) > risk), over every sample of n scores of a discrete distribution, the order left out."""
    order = np.argsort(scores)
    scores, chances = np.asarray(scores, float)[order], np.asarray(chances)[order]
    total = 0.0
    for counts in product(range(n + 1), repeat=len(scores) - 1):
        if (rest := n - sum(counts)) < 0:
            continue
        counts = (*counts, rest)
        t, _ = choose(np.repeat(scores, counts), risk, confidence)
        if chances[scores > t].sum() > risk:
            ways = math.factorial(n) / math.prod(map(math.factorial, counts))
            total += ways * math.prod(c**k for c, k in zip(chances, counts, strict=True))
    return total


BARELY = 1e-9
ADVERSARIAL = {
    "just too likely": ([0, 1], [0.7 - BARELY, 0.3 + BARELY]),
    "ties on both sides": ([0, 1, 2], [0.5, 0.2 - BARELY, 0.3 + BARELY]),
    "just allowed": ([0, 1, 2], [0.6, 0.1, 0.3]),
    "no zero": ([1, 2, 3], [0.1, 0.6 - BARELY, 0.3 + BARELY]),
    "two steps": ([0, 1, 2], [0.6, 0.2, 0.2]),
    "certain": ([1], [1.0]),
}


@pytest.mark.parametrize("name", ADVERSARIAL)
@pytest.mark.parametrize(("n", "k"), [(13, 0), (20, 1), (30, 3)])
def test_the_risk_is_exceeded_no_more_often_than_said(name, n, k):
    risk, confidence = 0.3, 0.99
    assert allowed_scores(n, risk, confidence) == k
    limit = float(binom.cdf(k, n, risk))
    found = exact_failure(*ADVERSARIAL[name], n, risk, confidence)
    assert found <= limit * (1 + 1e-9) <= 1 - confidence
    if name in ("just too likely", "ties on both sides", "no zero"):  # attained: one more allowed score would break the promise
        assert found == pytest.approx(limit, rel=1e-6)
        assert float(binom.cdf(k + 1, n, risk)) > 1 - confidence


def test_a_simulation_fails_as_often_as_the_theorem_says():
    """Uniform scores attain the bound 0.9**44 = 0.0097; the interval is left with a probability below 1e-9, and one score more allowed
    or one order statistic lower, 0.057, lies outside of it."""
    runs, n, risk = 40_000, 44, 0.1
    drawn = np.random.default_rng(7).random((runs, n))
    chosen = np.array([choose(row, risk, 0.99)[0] for row in drawn])
    failures = int((1 - chosen > risk).sum())
    low, high = binom.ppf([5e-10, 1 - 5e-10], runs, 0.9**n)
    assert low <= failures <= high
    assert binom.cdf(high, runs, exact_tail(n, risk, 1)) < 1e-9


def test_without_a_score_only_ties_fall_back():
    assert choose(np.zeros(4603), 1e-3, 0.99) == (0.0, 0)
    scores = np.zeros(4603)
    scores[17] = 0.25
    assert choose(scores, 1e-3, 0.99) == (0.25, 0)
    scores = np.concatenate([np.zeros(9995), [1, 2, 3, 4, 5]])
    assert choose(scores, 1e-3, 0.99) == (3.0, 2)


def test_a_threshold_is_rounded_upwards():
    assert rounded_up(0.5) == 0.5
    assert rounded_up(1e39) == math.inf
    for value in (0.1, *np.random.default_rng(0).random(1000)):
        result = rounded_up(value)
        assert float(np.float32(result)) == result >= value > float(np.nextafter(np.float32(result), np.float32(-np.inf)))


REFUSED = [
    (
        (np.zeros(4602), 1e-3, 0.99),
        "It takes 4,603 calibration inputs to prove a risk of 0.001 with confidence 0.99, and these are 4,602, which prove a risk of 0.00101: ",
    ),
    ((np.zeros(1), 1e-3, 0.99), "and these are 1, which prove a risk of 0.991: "),
    (
        (np.zeros(0), 1e-3, 0.99),
        "It takes 4,603 calibration inputs to prove a risk of 0.001 with confidence 0.99, and these are 0, which prove none: ",
    ),
    ((np.zeros(1), 1e-10, 1e-17), "and these are 1, which prove a risk of 1e-09: "),
    (
        (np.full(4603, 3.5e38), 1e-3, 0.99),
        "The fp32 logits of more than 0 calibration inputs are not finite, or differ by more than binary32 holds",
    ),
    ((np.full(4603, np.inf), 1e-3, 0.99), "The fp32 logits of more than 0 calibration inputs are not finite"),
]


@pytest.mark.parametrize(("arguments", "said"), REFUSED)
def test_what_proves_nothing_is_refused(arguments, said):
    with pytest.raises(UnusableDataError) as error:
        choose(*arguments)
    assert said in str(error.value)


@pytest.mark.parametrize("value", [0.0, 1.0, -0.1, math.nan])
def test_probabilities_are_checked(value):
    with pytest.raises(UsageError, match=r"^The risk is .*, but it is a probability: give one between 0 and 1\.$"):
        inputs_needed(value, 0.99)


@pytest.mark.parametrize("n", [1, 7, 459, 4602, 123456])
def test_the_risk_that_is_offered_is_one_that_is_proved(n):
    offered = provable_risk(n, 0.99)
    assert proves(n, offered, 0.99, 0)
    assert not proves(n, offered * 0.98, 0.99, 0)


# rows of three kinds of trouble: (score, margin, chance); margin <= threshold falls back
WORLDS = {
    "error scores": [(1.0, 0.5, 0.02), (1.0, 3.0, 0.08), (2.0, 1.5, 0.05), (2.0, 5.0, 0.35), (3.0, 2.5, 0.1), (3.0, 9.0, 0.4)],
    "disagreements": [(0.0, 0.0, 0.03), (0.0, 1.0, 0.2), (0.0, 9.0, 0.57), (1.0, 1.0, 0.1), (2.0, 2.0, 0.1)],
    "none": [(0.0, 0.0, 0.1), (0.0, 1.0, 0.9)],
}


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("n", [44, 110])
def test_rates_and_windows_hold_after_the_choice(world, n):
    """Failures are binomial with at most the stated probability; 1e-6 is what a correct program fails with."""
    risk, runs, window, alarm = 0.1, 3000, 60, 0.05
    score, margin, chance = map(np.array, zip(*WORLDS[world], strict=True))
    limits, counts = cache(rate_limits), cache(expected_counts)
    random = np.random.default_rng(3)
    missed = alarms = 0
    for _ in range(runs):
        rows = random.choice(len(score), n, p=chance)
        t, k = choose(score[rows], risk, 0.9 if n == 110 else 0.99)
        fallen = int((margin[rows] <= t).sum())
        rate = float(chance[margin <= t].sum())
        low, high = limits(fallen, n, k, 0.9)
        missed += not low <= rate <= high
        low, high = counts(fallen, n, k, window, alarm)
        alarms += not low <= random.binomial(window, rate) <= high
    assert missed <= binom.isf(1e-6, runs, 0.1)
    assert alarms <= binom.isf(1e-6, runs, alarm)


def test_rates_and_windows_are_not_vacuous():
    low, high = rate_limits(35, 5000, 0, 0.99)
    plain = plain_limits(35, 5000, 0.99)
    assert 0.7 * plain[0] < low < plain[0] < 0.007 < plain[1] < high < plain[1] + 0.002
    least, most = expected_counts(35, 5000, 0, 1000, 1e-6)
    assert least == 0
    assert binom.isf(1e-6, 1000, 0.007) < most < 45
    least, most = expected_counts(1000, 5000, 0, 1000, 1e-6)
    assert 110 < least < 200 < most < 290
    assert expected_counts(0, 10, 9 - 1, 5, 0.5)[0] == 0
    assert plain_limits(0, 10, 0.9) == (0.0, pytest.approx(1 - 0.05 ** (1 / 10)))
    assert plain_limits(10, 10, 0.9)[1] == 1.0


@pytest.mark.parametrize("risk", [9e-13, 1e-17, 1e-20, 5e-324])
def test_a_risk_that_no_inputs_prove_is_refused_at_once(risk):
    said = rf"^The risk is {risk:g}, but there are no 1e\+12 inputs, which it takes to prove less than 1e-12: give a larger one\.$"
    for use in (lambda: inputs_needed(risk, 0.99), lambda: choose(np.zeros(10), risk, 0.99)):
        with pytest.raises(UsageError, match=said):
            use()


def test_the_least_risk_is_counted():
    needed = inputs_needed(1e-12, 0.99)
    assert proves(needed, 1e-12, 0.99, 0)
    assert not proves(needed - 1, 1e-12, 0.99, 0)
    assert needed == pytest.approx(math.log(0.01) / -1e-12, rel=1e-9)
    assert inputs_needed(0.999999, 0.5) == inputs_needed(0.5, 1e-17) == 1
