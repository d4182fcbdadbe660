"""Options that several commands have: said once, and the same as in the library."""

import click
import pytest

from precisionkit.bound import CONFIDENCE, EFFORT
from precisionkit.cli import main
from precisionkit.profile.settings import ENTRIES


def options():
    return [(name, option) for name, command in main.commands.items() for option in command.params if isinstance(option, click.Option)]


@pytest.mark.parametrize(
    ("name", "default", "commands"),
    [
        ("effort", EFFORT, {"certify", "profile", "tune"}),
        ("confidence", CONFIDENCE, {"certify", "profile", "tune"}),
        ("entries", ENTRIES, {"profile"}),
    ],
)
def test_defaults_are_those_of_the_library(name, default, commands):
    found = {command: option for command, option in options() if option.name == name and command in commands}
    assert set(found) == commands
    assert {option.default for option in found.values()} == {default}
    assert {option.show_default for option in found.values()} == {True}
    assert len({option.help for option in found.values()}) == 1


def test_only_commands_that_have_a_device_speak_of_it():
    devices = {name for name, option in options() if option.name == "device"}
    speaking = {name for name, option in options() if option.name != "device" and "--device" in (option.help or "")}
    assert speaking
    assert speaking <= devices
