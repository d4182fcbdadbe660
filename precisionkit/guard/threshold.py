"""The threshold of a guard, with a guarantee for finite samples; docs/guard.md has the proof.

Every calibration row has a score D, such that a row that a threshold t accepts and that disagrees has D > t.  Rows are independent draws
of one distribution; ``L(t) = P(D > t)`` is what a threshold risks at most.  The threshold is the order statistic
``T = max(0, D_(n-k))``, the (k + 1)-th largest score.

**Theorem** (Wilks 1941, with ties): ``P(L(T) > risk) <= P(Bin(n, risk) <= k)``, whatever the distribution, with equality where it is
continuous around its quantile.

Proof: L does not increase and is continuous from the right, so with ``t* = inf {t >= 0: L(t) <= risk}``, ``L(T) > risk`` means ``T < t*``.
Then at most k scores are ``>= t*``, and each is with probability ``P(D >= t*) = lim L(s), s -> t* from below, >= risk``.  The number of
such scores is binomial, and its distribution function at k does not increase with that probability.

No threshold is tested, so none has to be corrected for; k depends on n, risk and confidence alone.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from precisionkit.errors import UnusableDataError, UsageError

if TYPE_CHECKING:
    from types import ModuleType

LEAST_RISK = 1e-12
"""For smaller ones there are no inputs, and doubles could not count them."""
_CARE = 1e-9
"""Relative: more than the errors of scipy's distribution functions."""


def distributions() -> ModuleType:
    """scipy.stats.

    Raises
    ------
    UsageError
        It is not installed.
    """
    try:
        import scipy.stats
    except ImportError:
        raise UsageError("The statistics of a guard need scipy: pip install 'precisionkit[guard]'.") from None
    stats: ModuleType = scipy.stats
    return stats


def check_probability(value: float, name: str) -> None:
    """Refuse what is not strictly between 0 and 1."""
    if not 0 < value < 1:
        raise UsageError(f"The {name} is {value:g}, but it is a probability: give one between 0 and 1.")


def check_risk(risk: float, confidence: float) -> None:
    """Refuse what are no probabilities, or a risk that no number of inputs would prove.

    Raises
    ------
    UsageError
        It is one.
    """
    check_probability(risk, "risk")
    check_probability(confidence, "confidence")
    if risk < LEAST_RISK:
        raise UsageError(
            f"The risk is {risk:g}, but there are no {1 / LEAST_RISK:g} inputs, which it takes to prove less than {LEAST_RISK:g}: give a "
            "larger one."
        )


def proves(n: int, risk: float, confidence: float, allowed: int) -> bool:
    """Whether the (allowed + 1)-th largest of n scores proves the risk: ``P(Bin(n, risk) <= allowed) <= 1 - confidence``."""
    return 0 <= allowed < n and float(distributions().binom.cdf(allowed, n, risk)) * (1 + _CARE) <= _failure(confidence)


@lru_cache(maxsize=64)
def allowed_scores(n: int, risk: float, confidence: float) -> int | None:
    """Largest number of scores above the threshold with which n scores prove a risk; None where none do."""
    check_risk(risk, confidence)
    if not proves(n, risk, confidence, 0):
        return None
    low, high = 0, n  # proves(low), not proves(high): all n rows allowed is refused
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if proves(n, risk, confidence, middle) else (low, middle)
    return low


def inputs_needed(risk: float, confidence: float) -> int:
    """Least number of inputs that proves a risk: the least n with ``(1 - risk)**n <= 1 - confidence``."""
    check_risk(risk, confidence)
    most = 2 + math.ceil((math.log(_failure(confidence)) - 2 * _CARE) / math.log1p(-risk))
    return 1 + bisect_left(range(1, most), True, key=lambda n: proves(n, risk, confidence, 0))


def provable_risk(n: int, confidence: float) -> float:
    """Least risk that n inputs prove, rounded upwards to three digits."""
    exact = -math.expm1((math.log(_failure(confidence)) - _CARE) / n)
    unit = 10.0 ** (math.floor(math.log10(exact)) - 2)
    return float(f"{math.ceil(exact / unit * (1 + 1e-9)) * unit:.3g}")


def choose(scores: NDArray[np.float64], risk: float, confidence: float) -> tuple[float, int]:
    """Threshold, and the number of scores that may lie above it.

    Parameters
    ----------
    scores : (n,) array
        Of all calibration rows; 0 for a row that no threshold accepts, or that cannot disagree.

    Raises
    ------
    UnusableDataError
        There are too few of them, or too many are infinite.
    """
    n = len(scores)
    allowed = allowed_scores(n, risk, confidence)
    if allowed is None:
        raise UnusableDataError(
            f"It takes {inputs_needed(risk, confidence):,} calibration inputs to prove a risk of {risk:g} with confidence {confidence:g}, "
            f"and these are {n:,}, which prove {_proved(n, confidence)}: give more inputs, or a larger --risk."
        )
    found = rounded_up(max(0.0, float(np.partition(scores, n - 1 - allowed)[n - 1 - allowed])))
    if not math.isfinite(found):
        raise UnusableDataError(
            f"The fp32 logits of more than {allowed:,} calibration inputs are not finite, or differ by more than binary32 holds, so there "
            "is nothing to compare with: mend the model or the data."
        )
    return found, allowed


def rounded_up(value: float) -> float:
    """The least binary32 number that is not smaller: margins are such numbers."""
    with np.errstate(over="ignore"):  # to infinity, which is not smaller
        near = np.float32(value)
    return float(near if float(near) >= value else np.nextafter(near, np.float32(np.inf)))


def _failure(confidence: float) -> float:
    return 1 - confidence


def _proved(n: int, confidence: float) -> str:
    return f"a risk of {risk:g}" if n and (risk := provable_risk(n, confidence)) < 1 else "none"


def upper_limit(count: int, n: int, failure: float) -> float:
    """Largest probability that a count of n does not refute: Clopper and Pearson's upper limit."""
    return 1.0 if count >= n else float(_beta().ppf(1 - failure, count + 1, n - count)) * (1 + _CARE)


def lower_limit(count: int, n: int, failure: float) -> float:
    """Smallest probability that a count of n does not refute."""
    return 0.0 if count <= 0 else float(_beta().ppf(failure, count, n - count + 1)) * (1 - _CARE)


def _beta() -> Any:
    return distributions().beta
