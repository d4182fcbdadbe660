"""Read a certification report back from its JSON, and refuse one that contradicts itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from precisionkit.errors import ReportError, shown
from precisionkit.report.records import SCHEMA, Report
from precisionkit.report.summarise import summarise

_KIND, _, _VERSION = SCHEMA.rpartition("/")
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises of bytes that are not the JSON asked for: damaged, no text inside a string, nested too deep."""
_AGAIN = "write it again with 'precisionkit certify ... --json FILE'"


WRITERS = {
    "certify": "a report of 'precisionkit certify'",
    "guard": "a report of 'precisionkit guard'",
    "guard-plan": "a plan of 'precisionkit guard --out'",
    "inspect": "a report of 'precisionkit inspect'",
    "lemma": "a report of 'precisionkit lemma'",
    "plan": "a plan of 'precisionkit tune'",
    "profile": "a report of 'precisionkit profile' ('precisionkit certify --profile' puts one into its own report)",
}
"""What files of each kind are, by the middle of their schema's name."""


class _Header(msgspec.Struct):
    schema: str | None = None


def read_report(path: str | Path) -> Report:
    """Read what ``precisionkit certify --json`` wrote.

    Raises
    ------
    ReportError
        There is no such file, it is damaged, it is another command's or a newer version's, or its parts contradict each other.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ReportError(f"The report '{path}' cannot be read: {error.strerror or error}.") from error
    _check_schema(content, path)
    try:
        report = msgspec.json.decode(content, type=Report)
    except UNREADABLE as error:
        raise ReportError(f"The report '{path}' is not as {SCHEMA} says: {shown(str(error), 200)}; {_AGAIN}.") from error
    for contradiction in contradictions(report):
        raise ReportError(f"The report '{path}' contradicts itself: {contradiction}; it was changed or damaged, so {_AGAIN}.")
    return report


def writer_of(path: str | Path) -> str | None:
    """Say what a file is, by the schema that it names; None where that is none of this version's kinds."""
    try:
        schema = msgspec.json.decode(Path(path).read_bytes(), type=_Header).schema or ""
    except (OSError, *UNREADABLE):
        return None
    return WRITERS.get(schema.removeprefix("precisionkit.").partition("/")[0])


def another_kind(path: str | Path, kind: str) -> str | None:
    """Say what a file is, if it is known and not of the kind that was asked for."""
    whose = writer_of(path)
    return None if whose == WRITERS[kind] else whose


def _check_schema(content: bytes, path: str | Path) -> None:
    """Refuse what is no JSON, or JSON of another kind."""
    try:
        schema = msgspec.json.decode(content, type=_Header).schema
    except msgspec.ValidationError:
        schema = None
    except UNREADABLE as error:
        raise ReportError(f"The report '{path}' is damaged, since it is not JSON ({shown(str(error), 100)}); {_AGAIN}.") from error
    if schema == SCHEMA:
        return
    if schema is None:
        raise ReportError(f"The file '{path}' is no report of precisionkit; give one that 'precisionkit certify ... --json FILE' wrote.")
    kind, _, version = schema.rpartition("/")
    if kind == _KIND and version.isdecimal() and int(version[:9]) > int(_VERSION):
        raise ReportError(f"The report '{path}' is of the format {shown(schema)}, but this version reads {SCHEMA}; update precisionkit.")
    raise ReportError(
        f"The report '{path}' is of the format {shown(schema)}, but what is read here is {SCHEMA}; "
        "give a report that 'precisionkit certify ... --json FILE' wrote."
    )


def contradictions(report: Report) -> Iterator[str]:
    """Yield what cannot be true of a report, each as a clause."""
    done, asked = len(report.inputs), report.data.inputs
    if report.summary != summarise(report.inputs):
        yield "its summary is not that of its inputs"
    if done > asked or report.complete != (done == asked):
        yield f"it is {'complete' if report.complete else 'incomplete'} but holds {done} of {asked} inputs"
    indices = {item.index for item in report.inputs}
    if len(indices) != done:
        yield "an input occurs twice"
    if not {picture.index for picture in report.pictures} <= indices:
        yield "a picture shows none of its inputs"
    profile = report.profile
    if profile is not None and (profile.model.sha256, profile.data.sha256) != (report.model.sha256, report.data.sha256):
        yield "its profile is of another model or other data"
