"""How much of each bound the runs made here use."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from precisionkit.html.figures import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, LogScale, Marks, axes, figure, legend
from precisionkit.html.tags import Html, join, tag
from precisionkit.html.words import counted, number
from precisionkit.report import Report

_BOUNDS = (
    ("bound", "measured error / bound", "first"),
    ("linearised_worst", "measured error / linearised worst case", "second"),
    ("linearised_random", "measured error / linearised random", "third"),
)
_FLOOR, _CEILING = HEIGHT - BOTTOM, TOP


@dataclass(frozen=True)
class Ratios:
    """Ratios of measured errors to one kind of bound, in order, and the input that has the largest."""

    name: str
    kind: str
    values: tuple[float, ...]
    largest: int

    @property
    def zeros(self) -> int:
        """How many inputs have no measured error at all."""
        return bisect_right(self.values, 0.0)


def ratios(report: Report, field: str, name: str, kind: str) -> Ratios | None:
    """Ratios for the inputs that have both numbers, and None where there are none."""
    found = [
        (item.measured_error / bound, -item.index)
        for item in report.inputs
        if item.measured_error is not None and (bound := getattr(item, field))
    ]
    return Ratios(name, kind, tuple(sorted(ratio for ratio, _ in found)), -max(found)[1]) if found else None


def calibration_section(report: Report) -> Html:
    """Draw the distributions of the ratios, and name the largest."""
    series = [found for row in _BOUNDS if (found := ratios(report, *row)) is not None]
    if not series:
        return tag("p", "No input has both a measured error and a bound.")
    scale = LogScale.over((value for one in series for value in (*one.values, 1.0)), LEFT, WIDTH - RIGHT)
    up = Marks("share of the inputs", [(_height(share), f"{share:.0%}") for share in (0, 0.25, 0.5, 0.75, 1)])
    lines = [tag("path", d=_steps(one.values, scale), class_=f"line {one.kind}") for one in series]
    full = tag("path", d=f"M{scale.place(1)} {_CEILING}V{_FLOOR}", class_="diagonal")
    entries = [(tag("path", d="M1 8H27", class_=f"line {one.kind}"), one.name) for one in series]
    entries.append((tag("path", d="M14 1V15", class_="diagonal"), "1: the whole bound is used"))
    said = [_sentence(one) for one in series]
    drawing = figure(
        "calibration",
        "Share of the inputs whose ratio is at most x",
        " ".join(said),
        [axes(Marks("ratio", scale.ticks), up), full, lines],
        below=[legend(entries), tag("figcaption", "Each curve tells the share of the inputs whose ratio is at most x.")],
    )
    return join([drawing, [tag("p", sentence) for sentence in said], _linearised_note(series)])


def _height(share: float) -> float:
    return round(_FLOOR + share * (_CEILING - _FLOOR), 1)


def _steps(values: Sequence[float], scale: LogScale) -> str:
    """The empirical distribution, as a step for each pixel at which it grows."""
    ends: dict[float, int] = {}
    for count, value in enumerate(values, 1):
        ends[scale.place(value)] = count
    steps = "".join(f"H{x:g}V{_height(count / len(values)):g}" for x, count in ends.items())
    return f"M{scale.start:g} {_FLOOR}{steps}H{scale.end:g}"


def _sentence(one: Ratios) -> str:
    middle = one.values[len(one.values) // 2]
    said = (
        f"{one.name[0].upper()}{one.name[1:]}, over {counted(len(one.values), 'input')}: the largest ratio is {number(one.values[-1])}, "
        f"of input {one.largest}; the median is {number(middle)}."
    )
    if one.zeros:
        said += f" {counted(one.zeros, 'input has', 'inputs have')} no measured error, which counts as the left end."
    if one.kind == "first" and one.values[-1] > 1:
        said += " A ratio above 1 means that a run left the bound: do not rely on this report before it is explained."
    return said


def _linearised_note(series: Sequence[Ratios]) -> Html | None:
    if all(one.kind == "first" for one in series):
        return None
    return tag("p", "Of the linearised numbers nothing is proved: they are of first order, and a ratio above 1 contradicts nothing.")
