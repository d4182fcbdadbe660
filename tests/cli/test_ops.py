"""The command that lists operators."""

import json

import pytest
from click.testing import CliRunner

from precisionkit.capture.expansions import EXPANSIONS, READ_AS
from precisionkit.capture.moves import MADE, MOVES
from precisionkit.catalogue import catalogue
from precisionkit.cli import main
from precisionkit.ops import BY_TARGET, OPERATORS


def run(*arguments):
    return CliRunner().invoke(main, ["ops", *map(str, arguments)], catch_exceptions=False)


def words(text):
    return " ".join(text.split())


def test_everything_that_can_be_read_is_listed():
    known = catalogue()
    listed = {target for entry in known.entries for target in entry.targets}
    assert listed >= {target for target in BY_TARGET if target.startswith("aten.")} | MOVES | MADE | set(EXPANSIONS)
    assert {entry.name for entry in known.operators} == {record.name for record in OPERATORS if not record.hidden}
    assert set(READ_AS) == set(EXPANSIONS)
    parts = {part.name for entry in known.operators for part in entry.parts}
    assert parts == {record.name for record in OPERATORS if record.hidden}
    assert all(len(entry.targets) == len(set(entry.targets)) for entry in known.entries)


def test_the_whole_list_is_printed(tmp_path):
    result = run("--json", tmp_path / "ops.json")
    assert result.exit_code == 0
    said = words(result.stdout)
    for part in ("aten.linear.default bound: |W|e + (m-1) v", "logsumexp: sum y e", "assumes: Sigmoids err by at most", "proof: proofs/bounds.md, theorem 22",
                 "aten.glu.default bound: read as slice, sigmoid and mul", "moves aten._to_copy.default", "bound: moves numbers"):  # fmt: skip
        assert part in said
    found = json.loads((tmp_path / "ops.json").read_text())
    assert {name: len(found[name]) for name in found} == {
        name: len(getattr(catalogue(), name)) for name in ("operators", "read_as", "moves", "made")
    }


FOUND = [
    ("softmax", {"softmax", "log_softmax"}),
    ("aten.conv2d", {"conv2d"}),
    ("CONV_TRANSPOSE", {"conv_transpose1d", "conv_transpose2d", "conv_transpose3d"}),
    ("aten.roll", {"roll"}),
    ("attention_weights", {"attention"}),  # a hidden operator belongs to the one that computes it
    ("new_full", {"new_full"}),
    ("lstm", {"lstm"}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "expected"), FOUND)
def test_operators_are_found_by_a_part_of_a_name(tmp_path, name, expected):
    assert run(name, "--json", tmp_path / "ops.json").exit_code == 0
    found = json.loads((tmp_path / "ops.json").read_text())
    assert {entry["name"] for entries in found.values() for entry in entries} == expected


@pytest.mark.parametrize(
    ("name", "near"), [("sofmax", "softmax"), ("aten.convolutoin2d.default", "conv2d"), ("gellu", "gelu"), ("layernorm", "layer_norm")]
)
def test_an_unknown_name_is_answered_with_the_nearest(name, near):
    result = run(name)
    assert result.exit_code == 2
    said = words(result.stderr)
    assert said.startswith(f"Error: No supported operator has '{name}' in its name; the nearest names are ")
    assert near in said
    assert said.endswith("'precisionkit ops' lists all; docs/custom-operators.md says how to add one.")


def test_a_name_like_none_is_told_so():
    assert words(run("qqqqqq").stderr).startswith("Error: No supported operator has 'qqqqqq' in its name. 'precisionkit ops' lists all;")
