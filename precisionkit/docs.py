"""``python -m precisionkit.docs``: the tables of operators, written from their records; with ``commands``, those of the commands."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence

import click

from precisionkit.catalogue import Entry, catalogue
from precisionkit.cli import main
from precisionkit.ops import OPERATORS, SOFTMAX_TARGETS

_HEAD = """\
# Operators

Written by `make docs` from the records in `precisionkit/ops` and from how networks are read; `precisionkit ops` prints the same. The bound
is what an operator makes of the radius e of its inputs, before the store in the storage format; v is the unit roundoff of the format that
it computes in. What kernels compute on the way has bounds of its own. Symbols as in `proofs/bounds.md`.
Operators of one's own: [custom-operators.md](custom-operators.md).

| operator | of torch's operator library | radius before the store | assumed of a backend | proof |
|---|---|---|---|---|"""


def operator_table() -> str:
    """Tables of the operators in Markdown."""
    known = catalogue(OPERATORS)
    last = _listed(SOFTMAX_TARGETS.values())
    return "\n".join(
        [
            _HEAD,
            *map(_row, known.operators),
            "",
            f"As the last layer these are left out, and the logits before them decide: {last}.",
            "",
            "## Read as others",
            "",
            "| of torch's operator library | |",
            "|---|---|",
            *(f"| `{entry.targets[0]}` | {entry.bound} |" for entry in known.read_as),
            "",
            "## Moves",
            "",
            "These move, repeat or fill in numbers, wherever the batch lies, and round nothing but what they fill in: "
            f"{_targets(known.moves)}. So do those from view to pad above.",
            "",
            "These make constants of shapes alone: " + _targets(known.made) + ".",
        ]
    )


_COMMANDS = """\
# Commands

Written by `make docs` from the commands themselves; `precisionkit COMMAND --help` prints the same. Results go to stdout, talk to stderr.

| command | |
|---|---|"""


def command_reference() -> str:
    """Every command in Markdown: what it does, its options, its exit codes."""
    commands = sorted(main.commands.items())
    rows = [f"| [`{name}`](#precisionkit-{name}) | {command.get_short_help_str(limit=300)} |" for name, command in commands]
    return "\n".join([_COMMANDS, *rows, *(_command(name, command) for name, command in commands)])


def _command(name: str, command: click.Command) -> str:
    context = click.Context(command, info_name=name, parent=click.Context(main, info_name="precisionkit"))
    usage = command.get_usage(context).removeprefix("Usage: ")
    options = [record for parameter in command.params if (record := parameter.get_help_record(context)) and record[1]]
    codes = re.findall(r"^ +(\d+) +(.+)$", command.epilog or "", re.MULTILINE)
    return "\n".join(
        [
            f"\n## precisionkit {name}\n",
            f"```text\n{usage}\n```\n",
            "\n\n".join(" ".join(part.split()) for part in (command.help or "").split("\n\n")),
            "\n| option | |\n|---|---|",
            *(f"| `{_cell(option)}` | {_cell(text)} |" for option, text in options),
            "\n| exit code | |\n|---|---|",
            *(f"| {code} | {_cell(text)} |" for code, text in codes),
        ]
    )


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("$", "\\$")


def _row(entry: Entry) -> str:
    bound = "<br>".join([entry.bound, *(f"{part.name}: {part.bound}" for part in entry.parts)])
    targets = _listed(entry.targets) or "made while a network is read"
    cells = (entry.name, targets, bound, entry.assumes, entry.proof.removeprefix("proofs/bounds.md, "))
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _targets(entries: Sequence[Entry]) -> str:
    return _listed(target for entry in entries for target in entry.targets)


def _listed(targets: Iterable[str]) -> str:
    return ", ".join(f"`{target}`" for target in targets)


if __name__ == "__main__":
    print(command_reference() if sys.argv[1:] == ["commands"] else operator_table())
