"""Margin against bound, one mark for each input, or for cells of many certified ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from precisionkit.html.figures import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, LogScale, Marks, axes, figure, legend, path, text
from precisionkit.html.tags import Child, Html, join, tag
from precisionkit.html.words import counted, number
from precisionkit.report import CERTIFIED, VERDICTS, Input, Report, Verdict

MOST_POINTS = 2000
"""More certified inputs than that are drawn in cells."""
_CELL = 5
_MOST_TITLES = 500
_STRIP = 60
_SIZES = ((1, "a"), (9, "b"), (99, "c"))
"""Largest count of a cell that is drawn in each size; beyond, the size is d."""

_SHAPES: dict[Verdict, str] = {
    "proved": "h.1",
    "probable": "h.1",
    "observed": "m-4.5 3.5h9l-4.5-8z",
    "flipped": "m-4-4l8 8m0-8l-8 8",
    "undecided": "m0-5l5 5l-5 5l-5-5z",
    "invalid": "m-5 0h10m-5-5v10",
}
"""From the middle of a mark; the shortest lines are drawn as dots with round ends (proved) or square ones (probable)."""


@dataclass(frozen=True)
class _Plane:
    """Both scales; inputs without a bound lie in a strip on the right."""

    across: LogScale
    up: LogScale

    @classmethod
    def of(cls, items: Sequence[Input]) -> _Plane:
        right = WIDTH - RIGHT - (_STRIP if any(i.bound is None for i in items) else 0)
        across = LogScale.over((i.bound for i in items if i.bound is not None), LEFT, right)
        return cls(across, LogScale.over((i.margin for i in items if i.margin is not None), HEIGHT - BOTTOM, TOP))

    def place(self, item: Input) -> tuple[float, float]:
        """Where an input with a margin lies."""
        across = WIDTH - RIGHT - _STRIP / 2 if item.bound is None else self.across.place(item.bound)
        return across, self.up.place(item.margin or 0.0)


def scatter_section(report: Report) -> Html:
    """Draw it, and say what the places mean."""
    drawn = [item for item in report.inputs if item.margin is not None]
    if not drawn:
        return tag("p", "No input has a margin, so there is nothing to draw.")
    plane = _Plane.of(drawn)
    by_verdict = {verdict: [i for i in drawn if i.verdict == verdict] for verdict in VERDICTS}
    in_cells = sum(len(by_verdict[verdict]) for verdict in CERTIFIED) > MOST_POINTS
    series = [_series(plane, verdict, items, in_cells and verdict in CERTIFIED) for verdict, items in by_verdict.items() if items]
    names = Marks("bound on the change of the gap", plane.across.ticks), Marks("margin", plane.up.ticks)
    said = "; ".join(counted(len(items), verdict, verdict) for verdict, items in by_verdict.items() if items)
    title = "Margin against bound, both logarithmic"
    description = f"{said}. Above the line margin = bound no prediction can change."
    line = _diagonal(plane)
    below = [legend(_entries(by_verdict, line)), tag("figcaption", _where(plane, line), _caption(report.inputs, by_verdict, in_cells))]
    return figure("scatter", title, description, [axes(*names), line, _strip(drawn), series], below=below)


def _series(plane: _Plane, verdict: Verdict, items: Sequence[Input], in_cells: bool) -> Child:
    if in_cells:
        counts = Counter((round(x / _CELL), round(y / _CELL)) for x, y in map(plane.place, items))
        sizes = [next((size for most, size in _SIZES if count <= most), "d") for count in counts.values()]
        cells = list(zip(counts, sizes, strict=True))
        return [
            path((f"M{x * _CELL} {y * _CELL}h.1" for (x, y), own in cells if own == size), f"cell {size} mark {verdict}") for size in "abcd"
        ]
    shape, kind = _SHAPES[verdict], f"mark {verdict}"
    if len(items) > _MOST_TITLES or verdict in CERTIFIED:
        return path((_at(plane, item) + shape for item in items), kind)
    return [path([_at(plane, item) + shape], kind, _title(item)) for item in items]


def _at(plane: _Plane, item: Input) -> str:
    x, y = plane.place(item)
    return f"M{x:g} {y:g}"


def _title(item: Input) -> str:
    return f"input {item.index}: {item.verdict}, margin {number(item.margin)}, bound {number(item.bound) or 'none'}"


def _diagonal(plane: _Plane) -> Html | None:
    """The line margin = bound, where both scales have it."""
    low, high = max(plane.across.low, plane.up.low), min(plane.across.high, plane.up.high)
    if low >= high:
        return None
    ends = [f"{plane.across.place_of_power(e):g} {plane.up.place_of_power(e):g}" for e in (low, high)]
    return tag("path", d=f"M{ends[0]}L{ends[1]}", class_="diagonal")


def _strip(items: Iterable[Input]) -> Html | None:
    if all(item.bound is not None for item in items):
        return None
    left = WIDTH - RIGHT - _STRIP
    line = tag("path", d=f"M{left} {TOP}V{HEIGHT - BOTTOM}", class_="edge")
    return join([line, text("no bound", left + _STRIP / 2, HEIGHT - BOTTOM + 34, "middle")])


def _entries(by_verdict: dict[Verdict, list[Input]], line: Html | None) -> list[tuple[Child, str]]:
    marks: list[tuple[Child, str]] = [
        (tag("path", d=f"M14 8{_SHAPES[v]}", class_=f"mark {v}"), f"{v} ({len(items):,})") for v, items in by_verdict.items() if items
    ]
    return marks if line is None else [*marks, (tag("path", d="M2 14L26 2", class_="diagonal"), "margin = bound")]


def _where(plane: _Plane, line: Html | None) -> str:
    """What the line says, or on which side of it everything lies."""
    if line is not None:
        return "Above the line the margin is larger than the bound: the further above, the safer."
    if plane.across.low >= plane.up.high:
        return "The line margin = bound lies outside of this figure: every bound that is drawn is larger than every margin."
    return "The line margin = bound lies outside of this figure: every margin is larger than every bound that is drawn."


def _caption(inputs: Sequence[Input], by_verdict: dict[Verdict, list[Input]], in_cells: bool) -> str:
    said = [""]
    if in_cells:
        many = [f"{len(by_verdict[v]):,} {v}" for v in CERTIFIED if by_verdict[v]]
        said.append(
            f"The {' and '.join(many)} inputs are not drawn one by one, but in cells: the smallest mark stands for one input, "
            "larger ones for up to 9, up to 99, and more. All other inputs are drawn."
        )
    if below := sum(i.margin is not None and i.margin <= 0 for i in inputs):
        said.append(f"{counted(below, 'input has', 'inputs have')} a margin of zero or less and lie on the lower edge.")
    if lost := sum(i.margin is None for i in inputs):
        said.append(f"{counted(lost, 'input has', 'inputs have')} no finite margin and cannot be drawn.")
    return " ".join(said)
