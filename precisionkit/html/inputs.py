"""The table of inputs, those that are not certified first."""

from __future__ import annotations

from collections.abc import Sequence

from precisionkit.html.tags import Html, join, open_row, scrolling, tag
from precisionkit.html.words import counted, number
from precisionkit.report import CERTIFIED, VERDICTS, WORST_FIRST, Input, Picture, Report, Verdict

MOST_CERTIFIED = 1000
"""Rows of certified inputs in the table."""
MOST_PICTURE_CHARACTERS = 700_000
"""All pictures of the page together, in base64."""
MOST_REASON_CHARACTERS = 600_000
"""All reasons of the table together; beyond, each is cut."""
_CUT_REASON = 60

_TEXT, _NUMBER = "text", "number"
_COLUMNS = (
    ("Index", _NUMBER),
    ("Picture", None),
    ("Label", _NUMBER),
    ("Predictions", _TEXT),
    ("Verdict", _TEXT),
    ("Margin", _NUMBER),
    ("Bound", _NUMBER),
    ("Measured error", _NUMBER),
    ("Reason", _TEXT),
    ("Method", _TEXT),
    ("Failure", _NUMBER),
)
"""Names, and how a column is sorted."""


def inputs_section(report: Report) -> Html:
    """Filters, and the table."""
    rows, pictures = shown_inputs(report.inputs), shown_pictures(report.pictures)
    cut = sum(len(item.reason or "") for item in rows) > MOST_REASON_CHARACTERS
    said = [tag("p", sentence) for sentence in _notes(report, rows, pictures, cut=cut)]
    present = [verdict for verdict in VERDICTS if any(item.verdict == verdict for item in rows)]
    printed = tag("p", "Printed without the certified inputs.", class_="print-only")
    table = scrolling(_table(rows, pictures, cut=cut), "Table of inputs")
    return join([said, _filters(present), printed, table])


def _table(rows: Sequence[Input], pictures: dict[int, Picture], *, cut: bool) -> Html:
    caption = tag("caption", "Inputs, those that are not certified first; the buttons in the head sort them")
    body = tag("tbody", [_row(item, pictures.get(item.index), cut=cut) for item in rows])
    kind = "inputs" if pictures else "inputs no-pictures"
    return tag("table", caption, tag("thead", tag("tr", map(_head, _COLUMNS))), body, id="inputs-table", class_=kind)


def shown_inputs(inputs: Sequence[Input]) -> list[Input]:
    """All that are not certified, by verdict; then those certified ones whose proved gap is smallest."""
    others = [item for item in inputs if item.verdict not in CERTIFIED]
    certified = sorted((item for item in inputs if item.verdict in CERTIFIED), key=_tightness)[:MOST_CERTIFIED]
    return sorted(others, key=lambda i: (WORST_FIRST.index(i.verdict), i.index)) + sorted(
        certified, key=lambda i: (WORST_FIRST.index(i.verdict), _tightness(i))
    )


def _tightness(item: Input) -> tuple[float, int]:
    return (0.0 if item.lower_margin is None else item.lower_margin), item.index


def shown_pictures(pictures: Sequence[Picture]) -> dict[int, Picture]:
    """As many as the page has room for, by index of the input."""
    kept: dict[int, Picture] = {}
    room = MOST_PICTURE_CHARACTERS
    for picture in pictures:
        room -= len(picture.png)
        if room < 0:
            break
        kept[picture.index] = picture
    return kept


def _notes(report: Report, rows: Sequence[Input], pictures: dict[int, Picture], *, cut: bool) -> list[str]:
    certified = report.summary.certified
    held = sum(item.verdict in CERTIFIED for item in rows)
    notes = [f"The table holds {len(rows):,} of {counted(report.summary.inputs, 'input')}: all that are not certified"]
    if held < certified:
        notes[0] += f", and of {certified:,} certified ones the {held:,} whose proved gap is smallest. The JSON file has all of them."
    else:
        notes[0] += ", and all that are."
    notes.append("Numbers are rounded to four digits; the JSON file has all digits.")
    if cut:
        notes.append(f"There are many reasons, so each is cut after {_CUT_REASON} characters.")
    if pictures:
        made = "; ".join(dict.fromkeys(picture.made for picture in pictures.values()))
        left = report.summary.inputs - certified
        notes.append(f"There are pictures of {len(pictures):,} of the {left:,} inputs that are not certified, made from {made[:300]}.")
    return notes


def _filters(verdicts: Sequence[Verdict]) -> Html:
    boxes = [
        tag("label", tag("input", type="checkbox", name="verdict", value=verdict, checked=True), f" {verdict}") for verdict in verdicts
    ]
    search = tag("label", "Text ", tag("input", type="search", id="filter-text", autocomplete="off"))
    status = tag("p", id="filter-status", role="status")
    return tag("form", tag("fieldset", tag("legend", "Show"), boxes, search), status, id="filters", hidden=True)


def _head(column: tuple[str, str | None]) -> Html:
    name, kind = column
    return tag("th", name if kind is None else tag("button", name, type="button", data_kind=kind), scope="col")


def _row(item: Input, picture: Picture | None, *, cut: bool) -> Html:
    same = item.prediction_reference == item.prediction_half
    half = "none" if item.prediction_half is None else str(item.prediction_half)
    cells = (
        "" if picture is None else _image(picture),
        "" if item.label is None else str(item.label),
        str(item.prediction_reference) if same else f"{item.prediction_reference} → {half}",
        item.verdict,
        number(item.margin),
        number(item.bound),
        number(item.measured_error),
        _reason(item.reason or "", cut=cut),
        item.method,
        number(item.failure),
    )
    kind = "certified" if item.verdict in CERTIFIED else None
    return open_row(str(item.index), cells, kind)


def _reason(reason: str, *, cut: bool) -> str:
    return f"{reason[:_CUT_REASON]}…" if cut and len(reason) > _CUT_REASON else reason


def _image(picture: Picture) -> Html:
    return tag("img", src=f"data:image/png;base64,{picture.png}", alt=f"input {picture.index}", title=picture.made)
