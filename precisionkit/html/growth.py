"""Error growth by layer, and the share of each layer, from a profile."""

from __future__ import annotations

from collections.abc import Sequence

from precisionkit.html.figures import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, LogScale, Marks, axes, figure, legend
from precisionkit.html.tags import Child, Html, join, scrolling, tag
from precisionkit.html.words import number
from precisionkit.report import Profile
from precisionkit.report.profile import NodeProfile

_MOST_BARS = 30
_STEPS = (
    ("a_priori", "a priori (proved, from sizes alone)", "m-4-4h8v8h-8z"),
    ("running", "running (proved, intervals)", "m-4.5 3.5h9l-4.5-8z"),
    ("zonotope", "zonotope (proved)", "m0-5l5 5l-5 5l-5-5z"),
    ("probable", "probable (model of random rounding)", "m-4.5-3.5h9l-4.5 8z"),
    ("measured", "measured (the run made here)", "m-4-4l8 8m0-8l-8 8"),
    ("truth", "truth (the same run, against the exact network)", "m-5 0h10m-5-5v10"),
)
"""Fields of a ladder, what they are called, and the shape of their mark."""


def growth_section(profile: Profile | None) -> Html:
    """Draw the ladder over the depth, and list the shares; or say how to get a profile."""
    if profile is None:
        return tag("p", "This report has no profile. Certify with ", tag("code", "--profile"), " to get errors and shares layer by layer.")
    if not profile.nodes:
        return tag("p", "The profile of this report has no nodes.")
    return join([_ladder(profile), _shares(profile), _numbers(profile)])


def _ladder(profile: Profile) -> Html:
    count = len(profile.nodes)
    step = (WIDTH - LEFT - RIGHT) / (count + 1)
    places = [round(LEFT + step * number_, 1) for number_ in range(1, count + 1)]
    every = max(1, -(-count // 12))
    across = Marks("node, in the order of computation", [(places[i], str(i + 1)) for i in range(0, count, every)])
    series = {field: [getattr(node.ladder, field) for node in profile.nodes] for field, *_ in _STEPS}
    known = {field: values for field, values in series.items() if any(value is not None for value in values)}
    scale = LogScale.over((value for values in known.values() for value in values if value), HEIGHT - BOTTOM, TOP)
    steps = [step for step in _STEPS if step[0] in known]
    lines = [_line(known[field], places, scale, field, shape, count <= 40) for field, _, shape in steps]
    entries: list[tuple[Child, str]] = [
        ([tag("path", d="M1 8H27", class_=f"line {field}"), tag("path", d=f"M14 8{shape}", class_=f"point {field}")], name)
        for field, name, shape in steps
    ]
    caption = (
        f"Largest error of each node's stored result. Over {profile.inputs:,} inputs; costlier steps over the first "
        f"{profile.ladder_inputs:,}. A probable bound fails with a probability of at most {number(profile.confidence)}. "
        "Errors of zero, and errors for which a method has no bound, leave gaps."
    )
    title = "Error growth by layer, logarithmic"
    description = f"Errors over {count} nodes, from the coarsest bound to the measured error: {', '.join(name for _, name, _ in steps)}."
    drawing = [axes(across, Marks("largest error", scale.ticks)), lines]
    return figure("growth", title, description, drawing, below=[legend(entries), tag("figcaption", caption)])


def _line(values: Sequence[float | None], places: Sequence[float], scale: LogScale, field: str, shape: str, marked: bool) -> Child:
    """Join neighbours that have an error; marks stand on the nodes of short networks, and on lone nodes."""
    shown = [(x, scale.place(value)) if value else None for x, value in zip(places, values, strict=True)]
    steps, marks = [], []
    for i, place in enumerate(shown):
        if place is None:
            continue
        before, after = shown[i - 1] if i else None, shown[i + 1] if i + 1 < len(shown) else None
        steps.append(f"{'M' if before is None else 'L'}{place[0]:g} {place[1]:g}")
        if marked or (before is None and after is None):
            marks.append(f"M{place[0]:g} {place[1]:g}{shape}")
    return [tag("path", d="".join(steps), class_=f"line {field}"), tag("path", d="".join(marks), class_=f"point {field}")]


def _shares(profile: Profile) -> Html:
    """Horizontal bars, the largest first."""
    ranked = sorted(enumerate(profile.nodes, 1), key=lambda pair: (-pair[1].share, pair[0]))
    kept = [pair for pair in ranked if pair[1].share > 0][:_MOST_BARS]
    largest = max((node.share for _, node in kept), default=1.0)
    rows = [tag("tr", tag("td", str(place), class_="n"), _named(node), _bar(node.share, largest)) for place, node in kept]
    rest = sum(node.share for node in profile.nodes) - sum(node.share for _, node in kept)
    left = len(profile.nodes) - len(kept)
    note = f"The other {left:,} nodes have {100 * max(rest, 0.0):.1f} % together." if left else None
    head = [tag("th", name, scope="col") for name in ("Node", "Name", "Operator", "Share")]
    caption = (
        f"Share of each layer in the first-order worst-case error of the closest gap of input {profile.tightest}, whose margin is smallest"
    )
    table = tag("table", tag("caption", caption), tag("thead", tag("tr", head)), tag("tbody", rows), class_="shares")
    return join([scrolling(table, "Share of each layer"), None if note is None else tag("p", note)])


def _named(node: NodeProfile) -> Html:
    return join([tag("th", node.name, scope="row", title=node.source or None), tag("td", node.operator)])


def _bar(share: float, largest: float) -> Html:
    width = round(100 * share / largest, 2)
    drawn = tag("svg", tag("rect", width=width, height=10, class_="share"), viewBox="0 0 100 10", preserveAspectRatio="none", class_="bar")
    return tag("td", drawn, " ", f"{100 * share:.1f} %", class_="barred")


def _numbers(profile: Profile) -> Html:
    """The figure's numbers, folded."""
    fields = [field for field, *_ in _STEPS]
    head = [tag("th", name, scope="col") for name in ("Node", "Name", "Operator", "Format", *(field.replace("_", " ") for field in fields))]
    rows = [
        tag(
            "tr",
            tag("td", str(place), class_="n"),
            _named(node),
            tag("td", node.format or "not stored"),
            [tag("td", number(getattr(node.ladder, field)), class_="n") for field in fields],
        )
        for place, node in enumerate(profile.nodes, 1)
    ]
    table = tag("table", tag("caption", "Largest error of each node"), tag("thead", tag("tr", head)), tag("tbody", rows))
    return tag("details", tag("summary", "The numbers of the figure, node by node"), scrolling(table, "Largest error of each node"))
