"""How often a guarded model falls back: limits for new inputs, and the count that is expected in a window; docs/guard.md has the proofs.

The threshold comes from the same rows, so their fall-backs are no binomial sample at a fixed threshold.  Order the scores with random
numbers breaking ties.  Given the (k + 1)-th largest, the n - k - 1 rows below it are independent draws of one distribution, and so are
the new rows that lie below it; a new row lies above it with a probability that has the distribution Beta(k + 1, n - k).  Everything here
is a statement about the rows below, and then adds or leaves out those above: at most k + 1 of the calibration, and few of the new ones.
"""

from __future__ import annotations

import numpy as np

from precisionkit.guard.threshold import distributions, lower_limit, upper_limit

MOST_ROWS = 100_000
"""Of a window."""


def rate_limits(fallen_back: int, n: int, allowed: int, confidence: float) -> tuple[float, float]:
    """Limits of the fall-back rate of new inputs, after the threshold was chosen from the same n rows.

    A third of the failure probability goes to each of Clopper and Pearson's limits for the rows below the threshold's score, and a third to
    the share of new rows above it.
    """
    failure = (1 - confidence) / 3
    below = n - allowed - 1
    above = upper_limit(allowed, n, failure)
    low = lower_limit(max(fallen_back - allowed - 1, 0), below, failure) * (1 - above) if below else 0.0
    high = upper_limit(min(fallen_back, below), below, failure) if below else 1.0
    return low, min(1.0, high * (1 - above) + above)


def plain_limits(count: int, n: int, confidence: float) -> tuple[float, float]:
    """Clopper and Pearson's interval, for a threshold that does not depend on these rows."""
    failure = (1 - confidence) / 2
    return lower_limit(count, n, failure), min(1.0, upper_limit(count, n, failure))


def expected_counts(fallen_back: int, n: int, allowed: int, window: int, false_alarm: float) -> tuple[int, int]:
    """Least and largest number of fall-backs that a window of new rows has, with all but the probability of a false alarm.

    Exact, whatever the rates: of the rows below the threshold's score, calibration and window are exchangeable, so given how many of both
    together fall back, those in the window are hypergeometric; and so is the number of the window's rows above it.
    """
    failure = false_alarm / 3
    below = n - allowed - 1
    above = _most_above(n, allowed, window, failure)
    counts = np.arange(window + 1)
    law = distributions().hypergeom
    together = below + window
    high = law.sf(counts - 1, together, np.minimum(fallen_back, below) + counts, window)  # P(at least as many in the window)
    most = int(counts[high > failure].max(initial=0))
    inside = window - above
    low = law.cdf(counts[: inside + 1], below + inside, max(fallen_back - allowed - 1, 0) + counts[: inside + 1], inside)
    least = int(counts[: inside + 1][low > failure].min(initial=inside))
    return least, min(window, most + above)


def _most_above(n: int, allowed: int, window: int, failure: float) -> int:
    """Most rows of a window above the (allowed + 1)-th largest of n scores, with all but a probability."""
    places = np.arange(1, window + 1)
    at_least = distributions().hypergeom.cdf(allowed, n + window, n, allowed + places)
    return int((at_least > failure).sum())
