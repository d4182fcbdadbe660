"""Counts and medians over the inputs of a report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import median

from precisionkit.report.records import VERDICTS, Input, Summary


def summarise(inputs: Sequence[Input]) -> Summary:
    """Summarise the inputs; correct predictions are counted when every input has a label."""
    counts = Counter(item.verdict for item in inputs)
    labelled = bool(inputs) and all(item.label is not None for item in inputs)
    bounds = _known(item.bound for item in inputs)
    errors = _known(item.measured_error for item in inputs)
    return Summary(
        inputs=len(inputs),
        correct_reference=sum(i.prediction_reference == i.label for i in inputs) if labelled else None,
        correct_half=sum(i.prediction_half == i.label for i in inputs) if labelled else None,
        agree=sum(i.prediction_reference == i.prediction_half for i in inputs),
        **{verdict: counts[verdict] for verdict in VERDICTS},
        median_bound=median(bounds) if bounds else None,
        worst_bound=max(bounds, default=None),
        median_measured_error=median(errors) if errors else None,
        worst_measured_error=max(errors, default=None),
    )


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]
