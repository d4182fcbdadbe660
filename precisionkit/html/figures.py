"""What the figures share: logarithmic axes, the frame of a plot, marks, legends."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from precisionkit.html.tags import Child, Html, join, scrolling, tag

WIDTH, HEIGHT = 640, 400
LEFT, RIGHT, TOP, BOTTOM = 84, 16, 16, 56
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_MOST_TICKS = 8


@dataclass(frozen=True)
class LogScale:
    """Places of positive numbers between two powers of ten, in pixels from `start` to `end`.

    Attributes
    ----------
    low, high : int
        Exponents of ten at its ends.
    """

    low: int
    high: int
    start: float
    end: float

    @classmethod
    def over(cls, values: Iterable[float], start: float, end: float) -> LogScale:
        """Span the positive and finite ones of some numbers by whole decades."""
        exponents = [math.log10(value) for value in values if 0 < value < math.inf]
        low, high = (math.floor(min(exponents)), math.ceil(max(exponents))) if exponents else (-1, 0)
        return cls(low, max(high, low + 1), start, end)

    def place(self, value: float) -> float:
        """Where a number lies; what is not positive lies at the lower end."""
        exponent = math.log10(value) if value > 0 else self.low
        return self.place_of_power(min(max(exponent, self.low), self.high))

    def place_of_power(self, exponent: float) -> float:
        """Where a power of ten lies."""
        return round(self.start + (exponent - self.low) / (self.high - self.low) * (self.end - self.start), 1)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Places and names of the marks: powers of ten, and between them where there are few."""
        decades = self.high - self.low
        steps = (1, 2, 5) if decades <= 2 else (1,)
        every = math.ceil(decades / _MOST_TICKS)
        found = [(exponent, step) for exponent in range(self.low, self.high + 1, every) for step in steps]
        kept = [(exponent, step) for exponent, step in found if exponent < self.high or step == 1]
        return [(self.place_of_power(exponent + math.log10(step)), _tick(exponent, step)) for exponent, step in kept]


def _tick(exponent: int, step: int) -> str:
    if -4 < exponent < 4:
        return f"{step * 10**exponent:,}" if exponent >= 0 else f"{step * 10.0**exponent:.{-exponent}f}"
    power = f"10{str(exponent).translate(_SUPERSCRIPTS)}"
    return power if step == 1 else f"{step}·{power}"


@dataclass(frozen=True)
class Marks:
    """Ticks of one axis, and its name."""

    name: str
    ticks: Sequence[tuple[float, str]]


def figure(name: str, title: str, description: str, drawing: Child, *, below: Child, size: tuple[int, int] = (WIDTH, HEIGHT)) -> Html:
    """Put a drawing into a figure that scrolls on narrow screens, with a title and a description for those who do not see it."""
    labels = tag("title", title, id=f"{name}-title"), tag("desc", description, id=f"{name}-desc")
    box = f"0 0 {size[0]} {size[1]}"
    picture = tag("svg", labels, drawing, viewBox=box, role="img", aria_labelledby=f"{name}-title", aria_describedby=f"{name}-desc")
    return tag("figure", scrolling(picture, title), below, class_=f"{name}-figure")


def axes(across: Marks, up: Marks) -> Html:
    """Draw frame, grid lines, ticks and names of a plot."""
    right, floor = WIDTH - RIGHT, HEIGHT - BOTTOM
    lines = [f"M{x:g} {TOP}V{floor}" for x, _ in across.ticks] + [f"M{LEFT} {y:g}H{right}" for y, _ in up.ticks]
    middle = (TOP + floor) / 2
    return join(
        [
            tag("path", d="".join(lines), class_="grid"),
            tag("rect", x=LEFT, y=TOP, width=right - LEFT, height=floor - TOP, class_="frame"),
            [text(label, x, floor + 18, "middle") for x, label in across.ticks],
            [text(label, LEFT - 8, y + 4, "end") for y, label in up.ticks],
            text(across.name, (LEFT + right) / 2, HEIGHT - 12, "middle", "name"),
            tag("text", up.name, transform=f"translate(18 {middle:g}) rotate(-90)", text_anchor="middle", class_="name"),
        ]
    )


def text(content: str, x: float, y: float, anchor: str = "start", kind: str | None = None) -> Html:
    """Draw a word."""
    return tag("text", content, x=x, y=y, text_anchor=anchor, class_=kind)


def path(steps: Iterable[str], kind: str, title: str | None = None) -> Html | None:
    """Draw a path, or nothing if it has no steps."""
    d = "".join(steps)
    return tag("path", None if title is None else tag("title", title), d=d, class_=kind) if d else None


def legend(entries: Iterable[tuple[Child, str]]) -> Html:
    """List marks with their names; a mark is drawn around the middle of 28 by 16 pixels."""
    return tag(
        "ul",
        [tag("li", tag("svg", mark, viewBox="0 0 28 16", width=28, height=16, aria_hidden="true"), " ", name) for mark, name in entries],
        class_="legend",
    )
