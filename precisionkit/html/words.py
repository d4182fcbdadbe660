"""Numbers and counts as they are written in the page."""

from __future__ import annotations

from precisionkit.report import Verdict

LETTERS: dict[Verdict, str] = {
    "proved": "P",
    "probable": "R",
    "observed": "O",
    "flipped": "F",
    "undecided": "U",
    "invalid": "I",
}
"""The verdicts in figures; R is for the model of random rounding."""


def number(value: float | None) -> str:
    """Four digits; nothing for a number that is not there."""
    return "" if value is None else f"{value:.4g}"


def counted(count: int, one: str, many: str | None = None) -> str:
    """A count with its noun."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"
