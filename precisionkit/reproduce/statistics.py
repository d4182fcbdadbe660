"""Means over seeds, and differences of precisions seed by seed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from msgspec.structs import replace

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
    """Accuracy in one precision less that in another, over runs that are equal otherwise, in percentage points.

    Attributes
    ----------
    one, other : str
        The precisions.
    mean : float
    half_width : float
        Of the 95 % confidence interval by Student's distribution; infinite for one pair.
    pairs : int
    """

    one: str
    other: str
    mean: float
    half_width: float
    pairs: int

    def __str__(self) -> str:
        return f"{self.mean:+.2f} ± {self.half_width:.2f}"


def difference(results: Sequence[Result], one: str, other: str) -> Difference | None:
    """Compare two precisions; None where there are no pairs that both ended."""
    values = [100 * ((a.accuracy or 0.0) - (b.accuracy or 0.0)) for a, b in ended_pairs(results, one, other)]
    if not values:
        return None
    half_width = _quantile(len(values) - 1) * stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.inf
    return Difference(one, other, fmean(values), half_width, len(values))


def ended_pairs(results: Sequence[Result], one: str, other: str) -> list[tuple[Result, Result]]:
    """Pairs of runs that differ in precision alone and both ended."""
    second = _by_settings(results, other)
    pairs = [(first, second[key]) for key, first in _by_settings(results, one).items() if key in second]
    return [(a, b) for a, b in pairs if a.accuracy is not None and b.accuracy is not None]


def _by_settings(results: Sequence[Result], precision: str) -> dict[Settings, Result]:
    """The runs of one precision, by what else they were asked for."""
    return {replace(one.settings, precision="fp32"): one for one in results if one.settings.precision == precision}


def _quantile(freedom: int) -> float:
    from scipy.stats import t

    return float(t.ppf(0.975, freedom))


NAMES = {"sgd": "SGD", "adam": "Adam", "rmsprop": "RMSProp"}
"""Of the optimizers, in tables."""


def optimizer_name(settings: Settings) -> str:
    """An optimizer with its epsilon, where it has one."""
    return NAMES[settings.optimizer] + ("" if settings.optimizer == "sgd" else f", epsilon {settings.epsilon:g}")


def chosen(results: Iterable[Result], **wanted: object) -> list[Result]:
    """Results whose settings have some values."""
    return [one for one in results if all(getattr(one.settings, name) == value for name, value in wanted.items())]


def by_optimizer(results: Iterable[Result], precisions: Sequence[str]) -> dict[str, list[Result]]:
    """Results in some precisions, by optimizer and epsilon, in the order of the plan."""
    found: dict[str, list[Result]] = {}
    for one in results:
        if one.settings.precision in precisions:
            found.setdefault(optimizer_name(one.settings), []).append(one)
    return found
