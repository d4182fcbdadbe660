"""``precisionkit ops``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
from msgspec.structs import replace
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from precisionkit.cli.shared import OK, deliver, guarded, json_option, operators_option, registered
from precisionkit.report import check_writable

if TYPE_CHECKING:
    from precisionkit.catalogue import Catalogue, Entry

_EXIT_CODES = """\b
Exit codes:
  0    done
  2    wrong use, or no operator of that name
"""


@click.command(epilog=_EXIT_CODES)
@click.argument("name", required=False)
@json_option("Write the list as JSON.")
@operators_option
def ops(name: str | None, json_file: Path | None, operators: tuple[str, ...]) -> None:
    """List the operators that can be analysed, with the bound of the error of each; with NAME, those that have it in a name of theirs.

    NAME is part of a name in the list or in torch's operator library: softmax, aten.conv2d. The bound is the radius of a result before it
    is stored, from the radius e of the operands; v is the unit roundoff of the format that the operator computes in.
    """
    sys.exit(guarded(lambda talk: _ops(name, json_file, operators, talk), less="free some"))


def _ops(name: str | None, json_file: Path | None, operators: tuple[str, ...], talk: Console) -> int:
    if json_file is not None:
        check_writable(json_file)
    from precisionkit.catalogue import catalogue, find

    with registered(operators):
        known = catalogue() if name is None else find(catalogue(), name)
    deliver(talk, known, _rendered(known, brief=name is None), json_file)
    return OK


def _rendered(known: Catalogue, *, brief: bool) -> RenderableType:
    """A table of the operators; with `brief`, moves as one row."""
    table = Table("operator", "of torch's operator library; radius before the store", box=None, padding=(0, 2, 1, 0))
    for entry in (*known.operators, *known.read_as):
        table.add_row(Text(entry.name), _described(entry))
    for several, label in ((known.moves, "moves"), (known.made, "constants")):
        if brief and several:
            targets = tuple(target for entry in several for target in entry.targets)
            several = (replace(several[0], name=label, targets=targets),)
        for entry in several:
            table.add_row(Text(entry.name), _described(entry))
    return table


def _described(entry: Entry) -> Text:
    """A line for each thing to say."""
    said = {"bound": entry.bound} | {part.name: part.bound for part in entry.parts} | {"assumes": entry.assumes, "proof": entry.proof}
    targets = ", ".join(entry.targets) or "made while a network is read"
    return Text("\n".join([targets, *(f"{label}: {text}" for label, text in said.items() if text)]))
