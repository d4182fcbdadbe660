"""Means over seeds, and differences of precisions seed by seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from precisionkit.reproduce.runs import Result
from precisionkit.training import Settings


@dataclass(frozen=True)
class Mean:
    """Accuracies over seeds, in percent.

    Attributes
    ----------
    mean, deviation : float or None
        Of the runs that did not break; None where there are none, or one.
    runs, broke : int
        How many there are, and how many of them broke.
    """

    mean: float | None
    deviation: float | None
    runs: int
    broke: int

    @classmethod
    def of(cls, results: Sequence[Result]) -> Mean:
        """Collect the runs of all seeds."""
        values = [100 * result.accuracy for result in results if result.accuracy is not None]
        return cls(fmean(values) if values else None, stdev(values) if len(values) > 1 else None, len(results), len(results) - len(values))

    def __str__(self) -> str:
        if self.mean is None:
            return f"broke ({self.broke} of {self.runs})" if self.runs else "-"
        spread = "" if self.deviation is None else f" ± {self.deviation:.2f}"
        return f"{self.mean:.2f}{spread}" + (f" ({self.broke} broke)" if self.broke else "")


@dataclass(frozen=True)
class Difference:
    """Accuracy in one precision less that in another, seed by seed, in percentage points.

    Attributes
    ----------
    mean : float
    half_width : float
        Of the 95 % confidence interval by Student's distribution; infinite for one pair.
    pairs : int
    """

    mean: float
    half_width: float
    pairs: int

    @property
    def significant(self) -> bool:
        """Whether the interval leaves out zero."""
        return abs(self.mean) > self.half_width

    def __str__(self) -> str:
        return f"{self.mean:+.2f} ± {self.half_width:.2f}"


def difference(results: Sequence[Result], one: str, other: str) -> Difference | None:
    """Compare two precisions over runs that are equal otherwise; None where there are no pairs that both ended."""
    pairs = [
        100 * (a - b)
        for settings, first in by_settings(results, one).items()
        if (second := by_settings(results, other).get(settings)) is not None
        and (a := first.accuracy) is not None
        and (b := second.accuracy) is not None
    ]
    if not pairs:
        return None
    return Difference(
        fmean(pairs), _quantile(len(pairs) - 1) * stdev(pairs) / math.sqrt(len(pairs)) if len(pairs) > 1 else math.inf, len(pairs)
    )


def by_settings(results: Sequence[Result], precision: str) -> dict[Settings, Result]:
    """The runs of one precision, by what else they were asked for."""
    from msgspec.structs import replace

    return {replace(one.settings, precision="fp32"): one for one in results if one.settings.precision == precision}


def _quantile(freedom: int) -> float:
    from scipy.stats import t

    return float(t.ppf(0.975, freedom))
