"""Ctrl-C before a command has begun its work."""

import click
from click.testing import CliRunner

from precisionkit.cli import main


def test_an_interruption_while_modules_are_imported_exits_as_later_ones(monkeypatch):
    def interrupted(**options):
        raise KeyboardInterrupt

    monkeypatch.setitem(main.commands, "ops", click.Command("ops", callback=interrupted))
    result = CliRunner().invoke(main, ["ops"])
    assert result.exit_code == 130
    assert result.stderr == "Interrupted.\n"
