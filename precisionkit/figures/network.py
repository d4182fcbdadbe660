"""A picture of a network: operators in layers from top to bottom, coloured by what they are; long ones go on in further columns."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from precisionkit.report.inspect import KINDS, InspectReport, Operation

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BOX = 0.27
"""Height of a box, in inches."""
_ACROSS, _DOWN = 2.05, 0.6
"""From one box to the next."""
_HEAD = 1.25
"""Inches for what is said above."""
_FOOT = 0.1
_TALLEST = 190.0
"""Inches; readers of PDF show pages of up to 200."""
_NARROWEST = 7.2
_WIDEST, _FAR = 16, 12
"""Boxes in a row, beyond which edges over so many rows become arcs."""
_CHARACTERS = 34
"""Of a line in a box."""
_SHARE = 1.4
"""Height of a picture, as a multiple of its width, that columns aim at."""
_UNDIVIDED = 24.0
"""Inches up to which a picture stays one column."""
_GAP = 0.35
"""Between columns, in boxes."""
COLOURS = dict(zip(KINDS, ("#9ecae1", "#c7e9c0", "#fdd0a2", "#e3e3e3", "#d62728", "#f7f7f7"), strict=True))

Point = tuple[float, float]


@dataclass(frozen=True)
class _Layout:
    """Places in boxes from the top left.

    Attributes
    ----------
    places : dict of int to point
        Of the input (0), of operations (from 1), and of the bends of edges.
    ways : list of lists of int
        Edges over their bends.
    arcs : list of pairs of int
        Edges that reach so far that they are drawn beside the others.
    turns : list of pairs of int
        Edges to another column.
    columns : tuple of float
        Where each begins.
    """

    places: dict[int, Point]
    ways: list[list[int]]
    arcs: list[tuple[int, int]]
    turns: list[tuple[int, int]]
    columns: tuple[float, ...] = (0.0,)

    @property
    def size(self) -> Point:
        """Width and height."""
        across, down = (max(place[i] for place in self.places.values()) + 1 for i in (0, 1))
        return across, down


def network_figure(report: InspectReport, path: Path) -> None:
    """Draw what depends on the network's input."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    layout = _in_columns(_laid_out(report))
    across, down = layout.size
    width, height = max(across * _ACROSS, _NARROWEST), down * _DOWN + _HEAD + _FOOT
    scale = min(1.0, _TALLEST / height)
    with rc_context({"svg.fonttype": "none"}):  # names can be searched for
        figure = Figure(figsize=(width * scale, height * scale))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        axes.set(xlim=(0, width), ylim=(height, 0))
        left = (width - across * _ACROSS) / 2
        inches = {key: (left + (x + 0.5) * _ACROSS, _HEAD + (y + 0.5) * _DOWN) for key, (x, y) in layout.places.items()}
        _draw_head(axes, report, width / 2, scale)
        for way in layout.ways:
            _draw_edge(axes, [inches[key] for key in way], scale)
        for start, end in layout.arcs:
            _draw_arc(axes, inches[start], inches[end], scale)
        begins = [left + x * _ACROSS for x in layout.columns]
        for start, end in layout.turns:
            gap = max(x for x in begins if x <= inches[end][0]) - _GAP / 2 * _ACROSS
            _draw_turn(axes, inches[start], inches[end], gap, scale)
        for key, operation in enumerate([None, *report.operations]):
            if key in inches:
                _draw_box(axes, inches[key], report, operation, scale)
        figure.savefig(path, dpi=150)


def _laid_out(report: InspectReport) -> _Layout:
    keys, depth, edges = {report.input: 0}, {0: 0}, []
    for key, operation in enumerate(report.operations, 1):
        read = [keys[name] for name in operation.inputs if name in keys]
        if read or operation.record is None:  # constants are left out, as parameters are
            keys[operation.name] = key
            depth[key] = 1 + max((depth[other] for other in read), default=0)
            edges += [(other, key) for other in read or [0]]
    layout = _placed(edges, [])
    if layout.size[0] > _WIDEST:
        far = {(start, end) for start, end in edges if depth[end] - depth[start] > _FAR}
        layout = _placed([edge for edge in edges if edge not in far], sorted(far))
    return layout


def _placed(edges: list[tuple[int, int]], arcs: list[tuple[int, int]]) -> _Layout:
    from fast_sugiyama import from_edges

    if not edges:
        return _Layout({0: (0.0, 0.0)}, [], [], [])
    keys = sorted({key for edge in edges for key in edge})
    numbers = {key: number for number, key in enumerate(keys)}
    ((spots, _, high, found),) = from_edges([(numbers[start], numbers[end]) for start, end in edges], vertex_spacing=1.0, transpose=False)
    left = min(x for _, (x, _) in spots)
    bends = max(keys) + 1

    def key_of(number: int) -> int:
        return keys[number] if number < len(keys) else bends + number

    places = {key_of(number): (x - left, high - y) for number, (x, y) in spots}
    return _Layout(places, list(_ways([(key_of(a), key_of(b)) for a, b in found], bends)), arcs, [])


def _in_columns(layout: _Layout) -> _Layout:
    """Go on in another column where one would be far higher than wide."""
    across, down = layout.size
    count = round((down * _DOWN / (_SHARE * across * _ACROSS)) ** 0.5)
    if down * _DOWN <= _UNDIVIDED or count < 2:
        return layout
    rows = math.ceil(down / count)
    column = {key: int(y // rows) for key, (_, y) in layout.places.items()}
    columns = tuple(number * (across + _GAP) for number in range(max(column.values()) + 1))
    places = {key: (x + columns[column[key]], y - column[key] * rows) for key, (x, y) in layout.places.items()}
    ways = [way for way in layout.ways if column[way[0]] == column[way[-1]]]
    arcs = [arc for arc in layout.arcs if column[arc[0]] == column[arc[1]]]
    turned = [(way[0], way[-1]) for way in layout.ways if column[way[0]] != column[way[-1]]]
    turned += [arc for arc in layout.arcs if column[arc[0]] != column[arc[1]]]
    return _Layout(places, ways, arcs, turned, columns)


def _ways(edges: Iterable[tuple[int, int]], bends: int) -> Iterator[list[int]]:
    """From one operation to another, over the bends between them."""
    onward = {start: end for start, end in edges if start >= bends}
    for start, end in edges:
        if start < bends:
            way = [start, end]
            while way[-1] >= bends:
                way.append(onward[way[-1]])
            yield way


def _draw_head(axes: Axes, report: InspectReport, middle: float, scale: float) -> None:
    """What the network is, and what the colours mean."""
    lines = [report.model.arch, *report.totals.split("; ")]
    counts = {kind: sum(operation.kind == kind for operation in report.operations) for kind in KINDS}
    axes.text(middle, 0.1, "\n".join(lines), ha="center", va="top", fontsize=8 * scale)
    present = [kind for kind in KINDS if counts[kind]]
    for place, kind in enumerate(present):
        x = middle + (place - (len(present) - 1) / 2) * 1.4
        _text(axes, (x, 1.1), f"{kind}: {counts[kind]}", COLOURS[kind], 7 * scale)


def _draw_box(axes: Axes, at: Point, report: InspectReport, operation: Operation | None, scale: float) -> None:
    if operation is None:
        _text(axes, at, f"{report.input}\n{'x'.join(map(str, report.input_shape))}", "white", 6.5 * scale)
        return
    first = operation.target.removeprefix("aten.").removesuffix(".default") if operation.record is None else operation.record
    fits = len(operation.name) + len(operation.size) + 2 <= _CHARACTERS
    lines = [_cut(first), f"{operation.name}  {operation.size}"] if fits else [_cut(first), _cut(operation.name), _cut(operation.size)]
    _text(axes, at, "\n".join(lines), COLOURS[operation.kind], (6.5 if fits else 5.5) * scale)


def _cut(text: str) -> str:
    """Leave out the middle: names differ at their ends."""
    kept = _CHARACTERS - 3
    return text if len(text) <= _CHARACTERS else f"{text[: kept - kept // 2]}...{text[-(kept // 2) :]}"


def _text(axes: Axes, at: Point, text: str, colour: str, size: float) -> None:
    ink = "white" if colour == COLOURS["not supported"] else "black"
    box = {"boxstyle": "round,pad=0.25", "facecolor": colour, "edgecolor": "#555555", "linewidth": 0.5}
    axes.text(*at, text, ha="center", va="center", fontsize=size, color=ink, bbox=box, linespacing=1.15, zorder=2)


def _draw_edge(axes: Axes, points: list[Point], scale: float) -> None:
    """A line over its bends with an arrow at its end."""
    *before, (x, y) = points
    end = (x, y - _BOX / 2)
    axes.plot(*zip(*before, end, strict=True), color="#777777", linewidth=0.8 * scale, zorder=1, solid_joinstyle="round")
    axes.annotate(
        "", end, before[-1], arrowprops={"arrowstyle": "-|>", "color": "#777777", "linewidth": 0, "mutation_scale": 7 * scale}, zorder=1
    )


def _draw_turn(axes: Axes, start: Point, end: Point, gap: float, scale: float) -> None:
    """Between the rows to the gap before the other column, along it, and down to the box."""
    (x, y), (to_x, to_y) = start, end
    below, above = y + _DOWN / 2, to_y - _DOWN / 2
    _draw_edge(axes, [(x, y), (x, below), (gap, below), (gap, above), (to_x, above), (to_x, to_y)], scale)


def _draw_arc(axes: Axes, start: Point, end: Point, scale: float) -> None:
    """A thin line beside what lies between."""
    style = {"arrowstyle": "-|>,head_width=0.12,head_length=0.25", "connectionstyle": "arc3,rad=-0.12", "shrinkA": 0, "shrinkB": 7 * scale}
    axes.annotate(
        "", end, start, arrowprops={**style, "color": "#777777", "linewidth": 0.3 * scale, "mutation_scale": 10 * scale}, zorder=0
    )
