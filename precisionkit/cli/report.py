"""``precisionkit report``."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import msgspec
from rich.console import Console

from precisionkit.cli.shared import OK, guarded, tell_written
from precisionkit.errors import ReportError
from precisionkit.report import Report, check_outputs, read_report, write_file

_OTHERS = {
    "guard": "of 'precisionkit guard'",
    "guard-plan": "of 'precisionkit guard --out'",
    "inspect": "of 'precisionkit inspect'",
    "lemma": "of 'precisionkit lemma'",
    "plan": "of 'precisionkit tune'",
    "profile": "of 'precisionkit profile' ('precisionkit certify --profile' puts one into its own report)",
}
"""Whose files other kinds of reports are, by the middle of their schema's name."""

_EXIT_CODES = """\b
Exit codes:
  0    done
  2    wrong use, or a report that cannot be read or written
"""


@click.command(epilog=_EXIT_CODES)
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE.json")
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="FILE.html", help="Where to write the page [default: beside FILE.json, as .html]."
)
@click.option("-q", "--quiet", is_flag=True, help="No names of written files on stderr.")
def report(file: Path, out: Path | None, quiet: bool) -> None:
    """Lay out what 'precisionkit certify --json' wrote as one HTML file, which loads nothing and needs no network.

    How to read it: docs/reports.md.
    """
    sys.exit(guarded(lambda talk: _report(file, out or file.with_suffix(".html"), quiet, talk), less="certify with a smaller --limit"))


def _report(file: Path, out: Path, quiet: bool, talk: Console) -> int:
    from precisionkit.html import page

    check_outputs({"--out": out}, [file])
    write_file(out, page(_read(file)).encode())
    tell_written(talk, out, quiet=quiet)
    return OK


def _read(file: Path) -> Report:
    """Read a report of certify; a report of another command is told as what it is."""
    try:
        return read_report(file)
    except ReportError:
        whose = _OTHERS.get(_kind(file))
        if whose is None:
            raise
        raise ReportError(
            f"The file '{file}' is a report {whose}, but a page is made of what 'precisionkit certify ... --json FILE' wrote; give that."
        ) from None


def _kind(file: Path) -> str:
    """The kind that a report says it is of; empty where it says none."""
    try:
        schema = msgspec.json.decode(file.read_bytes(), type=dict[str, msgspec.Raw]).get("schema")
        return "" if schema is None else msgspec.json.decode(schema, type=str).removeprefix("precisionkit.").partition("/")[0]
    except (OSError, msgspec.DecodeError, RecursionError):
        return ""
