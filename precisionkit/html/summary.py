"""The first section: what was asked, what came out, and how many inputs got each verdict."""

from __future__ import annotations

from collections.abc import Sequence

from precisionkit.html.figures import figure, text
from precisionkit.html.tags import Html, facts, join, scrolling, tag
from precisionkit.html.words import LETTERS
from precisionkit.report import MEANINGS, VERDICTS, Report, Verdict, conclusion, figures, percent

_WIDTH, _HEIGHT = 640, 58
_LEAST = 18.0
"""Pixels that the smallest share gets, so that it is seen and has room for its letter."""

_PATTERNS: dict[Verdict, tuple[int, str]] = {
    "probable": (6, "M-1 7L7 -1"),
    "observed": (6, "M2 3h2M3 2v2"),
    "flipped": (6, "M0 0L6 6M6 0L0 6"),
    "undecided": (6, "M0 3H6"),
    "invalid": (5, "M2 0V5"),
}
"""Side of the tile and lines on it; `proved` is plain."""


def summary_section(report: Report) -> Html:
    """Model, data, arithmetic, conclusion, verdicts, figures."""
    return join(
        [
            tag("p", conclusion(report, "below"), class_="conclusion"),
            _what(report),
            _bar(report),
            _verdicts(report),
            facts("Figures over all inputs", figures(report)),
        ]
    )


def _what(report: Report) -> Html:
    model, data, arithmetic = report.model, report.data, report.arithmetic
    rows = [
        ("Model", f"{model.arch}, {model.parameters:,} parameters, from {model.path}"),
        ("Data", f"{data.name}{'' if data.split == 'all' else f', {data.split} split'}, {data.inputs:,} inputs"),
        ("Half program", arithmetic.words),
        ("Reference program", arithmetic.reference),
        ("Method", f"{report.method}"),
    ]
    return facts("What was certified", rows)


def widths(counts: Sequence[int], whole: float, least: float = _LEAST) -> list[float]:
    """Widths in proportion to counts, but none except that of 0 below the least; they add up to the whole."""
    total = sum(counts)
    if not total:
        return [0.0 for _ in counts]
    small = [0 < count / total * whole < least for count in counts]
    rest = sum(count for count, is_small in zip(counts, small, strict=True) if not is_small)
    free = whole - least * sum(small)
    return [least if is_small else count / rest * free if count else 0.0 for count, is_small in zip(counts, small, strict=True)]


def _bar(report: Report) -> Html:
    """Stack the verdicts in one bar, with letters and patterns."""
    counts = [getattr(report.summary, verdict) for verdict in VERDICTS]
    parts, left = [], 0.0
    for verdict, count, width in zip(VERDICTS, counts, widths(counts, _WIDTH), strict=True):
        if count:
            label = f"{LETTERS[verdict]}  {verdict} {count:,}"
            wide = width > 11 * len(label)
            parts.append(text(label if wide else LETTERS[verdict], round(left + (0 if wide else 4), 1), 15))
            parts.append(_box(verdict, left, 24, width, 32))
        left += width
    said = ", ".join(f"{verdict} {count:,}" for verdict, count in zip(VERDICTS, counts, strict=True))
    narrow = any(0 < count / max(sum(counts), 1) * _WIDTH < _LEAST for count in counts)
    caption = tag("figcaption", "Shares of the verdicts." + (" The smallest shares are drawn wider than they are." if narrow else ""))
    title = "Shares of the verdicts, as one bar"
    return figure("bar", title, f"{said}.", [_patterns(), parts], below=caption, size=(_WIDTH, _HEIGHT))


def _box(verdict: Verdict, x: float, y: float, width: float, height: float) -> Html:
    place = {"x": round(x, 1), "y": y, "width": round(width, 1), "height": height}
    over = tag("rect", **place, fill=f"url(#pattern-{verdict})") if verdict in _PATTERNS else None
    return join([tag("rect", **place, class_=f"fill {verdict}"), over])


def _patterns() -> Html:
    tiles = [
        tag("pattern", tag("path", d=lines, class_="tile"), id=f"pattern-{v}", width=side, height=side, patternUnits="userSpaceOnUse")
        for v, (side, lines) in _PATTERNS.items()
    ]
    return tag("defs", tiles)


def _verdicts(report: Report) -> Html:
    """The bar's legend: every verdict with its count and meaning."""
    head = [tag("th", name, scope="col") for name in ("Mark", "Verdict", "Inputs", "Share", "Meaning")]
    rows = []
    for verdict in VERDICTS:
        count = getattr(report.summary, verdict)
        swatch = tag("svg", _box(verdict, 0, 0, 28, 16), viewBox="0 0 28 16", width=28, height=16, aria_hidden="true")
        numbers = [tag("td", value, class_="n") for value in (f"{count:,}", percent(count, report.summary.inputs))]
        name = tag("th", verdict, scope="row")
        rows.append(tag("tr", tag("td", swatch, " ", LETTERS[verdict]), name, numbers, tag("td", MEANINGS[verdict])))
    table = tag("table", tag("caption", "Verdicts"), tag("thead", tag("tr", head)), tag("tbody", rows), class_="verdicts")
    return scrolling(table, "Verdicts")
