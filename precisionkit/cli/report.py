"""``precisionkit report``."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from rich.console import Console

from precisionkit.cli.shared import OK, guarded, tell_written
from precisionkit.errors import ReportError
from precisionkit.report import Report, check_outputs, read_report, write_file
from precisionkit.report.read import another_kind

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
        whose = another_kind(file, "certify")
        if whose is None:
            raise
        raise ReportError(
            f"The file '{file}' is {whose}, but a page is made of what 'precisionkit certify ... --json FILE' wrote; give that."
        ) from None
