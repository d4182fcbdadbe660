"""``precisionkit report`` and ``precisionkit certify --html``."""

import json
import subprocess
import sys
from typing import get_args

import click
import jsonschema
import pytest
from click.testing import CliRunner

from precisionkit.cli import main
from precisionkit.cli.shared import command_line
from precisionkit.models import bundled_model
from precisionkit.report import read_report
from precisionkit.report.read import WRITERS
from precisionkit.report.schema import Kind, published_schema

DIGITS = str(bundled_model("digits_cnn"))
HARD = ("--storage", "bf16", "--accumulate", "bf16", "--limit", 30)  # most digits are not proved


def run(*arguments):
    return CliRunner().invoke(main, [*map(str, arguments)], catch_exceptions=False)


@pytest.fixture(scope="module")
def certified(tmp_path_factory):
    """Both files of one run."""
    folder = tmp_path_factory.mktemp("certified")
    files = folder / "r.json", folder / "certified.html"
    result = run("certify", DIGITS, "--data", "digits", *HARD, "--json", files[0], "--html", files[1])
    assert result.exit_code == 0
    assert f"Written: {files[0]}, {files[1]}" in result.stderr
    return files


def test_certify_writes_the_page_that_report_makes_of_its_json(certified, tmp_path):
    out = tmp_path / "out.html"
    result = run("report", certified[0], "--out", out)
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", f"Written: {out}\n")
    assert out.read_bytes() == certified[1].read_bytes()


def test_the_page_lies_beside_the_report_by_default(certified):
    assert run("report", certified[0], "-q").stderr == ""
    assert certified[0].with_suffix(".html").read_bytes() == certified[1].read_bytes()


def test_a_report_has_pictures_of_what_is_not_certified_and_its_command(certified):
    report = read_report(certified[0])
    jsonschema.validate(json.loads(certified[0].read_text()), published_schema())
    left = [i.index for i in report.inputs if i.verdict not in ("proved", "probable")]
    assert left
    assert [picture.index for picture in report.pictures] == left
    assert report.environment.flags["command"] == (
        f"precisionkit certify {DIGITS} --data digits --limit 30 --storage bf16 --accumulate bf16"
    )
    assert certified[1].read_text().count("data:image/png;base64,") == len(left)


REFUSED = {
    "missing": ("{folder}/none.json", (), "The report '{folder}/none.json' cannot be read: No such file or directory."),
    "over itself": ("{folder}/x.html", (), "--out would overwrite '{folder}/x.html', which is read; choose another name."),
    "damaged": ("{folder}/x.json", (), "The report '{folder}/x.json' is damaged, since it is not JSON"),
    "no folder": ("{folder}/x.json", ("--out", "{folder}/no/x.html"), "because the folder '{folder}/no' does not exist; create it first."),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_or_written_is_one_sentence(name, tmp_path):
    for suffix in ("json", "html"):
        (tmp_path / f"x.{suffix}").write_text("<")
    file, options, message = REFUSED[name]
    result = run("report", file.format(folder=tmp_path), *(option.format(folder=tmp_path) for option in options))
    assert result.exit_code == 2
    assert message.format(folder=tmp_path) in result.stderr
    assert result.stderr.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.html", "x.json"]


OTHERS = {
    "profile/1": "a report of 'precisionkit profile' ('precisionkit certify --profile' puts one into its own report)",
    "plan/1": "a plan of 'precisionkit tune'",
    "guard/1": "a report of 'precisionkit guard'",
    "guard-plan/1": "a plan of 'precisionkit guard --out'",
    "inspect/1": "a report of 'precisionkit inspect'",
    "lemma/2": "a report of 'precisionkit lemma'",
}


@pytest.mark.parametrize("schema", OTHERS)
def test_a_report_of_another_command_is_told_as_what_it_is(schema, tmp_path):
    file = tmp_path / "x.json"
    file.write_text(json.dumps({"schema": f"precisionkit.{schema}"}))
    result = run("report", file)
    assert result.exit_code == 2
    said = f"is {OTHERS[schema]}, but a page is made of what 'precisionkit certify ... --json FILE' wrote; give that."
    assert result.stderr == f"Error: The file '{file}' {said}\n"
    assert list(tmp_path.iterdir()) == [file]


def test_every_kind_of_file_is_known():
    assert set(WRITERS) == {*get_args(Kind), "guard-plan"}


@pytest.mark.parametrize("text", ["[]", '{"schema": 1}', '{"schema": "precisionkit.certify/9"}', '{"a": 1}', '"' + "[" * 9, "[" * 100_000])
def test_what_is_no_report_at_all_is_left_to_the_reader(text, tmp_path):
    (tmp_path / "x.json").write_text(text)
    result = run("report", tmp_path / "x.json")
    assert result.exit_code == 2
    assert "but a page is made of" not in result.stderr
    assert result.stderr.startswith("Error: The ")


def test_certify_refuses_a_page_that_cannot_be_written(tmp_path):
    result = run("certify", DIGITS, "--data", "digits", "--html", tmp_path / "r", "--json", tmp_path / "r")
    assert result.exit_code == 2
    assert "--html would overwrite the file of --json; choose another name." in result.stderr


def test_report_loads_no_torch(certified, tmp_path):
    code = """
import sys
from precisionkit.cli import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    sys.exit(end.code or 10 * ("torch" in sys.modules))
"""
    command = [sys.executable, "-c", code, "report", str(certified[0]), "--out", str(tmp_path / "o.html"), "-q"]
    assert subprocess.run(command, check=False).returncode == 0


COMMANDS = [
    (["net.pt"], "precisionkit try net.pt"),
    (["my net.pt", "--limit", "3", "--no-probe"], "precisionkit try 'my net.pt' --limit 3 --no-probe"),
    (["net.pt", "--name", "a", "--name", "$b", "--probe"], "precisionkit try net.pt --name a --name '$b' --probe"),
    (["net.pt", "--part", "1e-3", "--native", "--out", "x"], "precisionkit try net.pt --part 0.001 --native"),
]


@pytest.mark.parametrize(("given", "expected"), COMMANDS)
def test_a_command_line_has_what_was_given_and_matters(given, expected):
    @click.command("try")
    @click.argument("model")
    @click.option("--limit", type=int)
    @click.option("--name", multiple=True)
    @click.option("--part", type=float, default=0.5)
    @click.option("--native", is_flag=True)
    @click.option("--probe/--no-probe", default=True)
    @click.option("--out")
    def command(**_):
        click.echo(command_line(click.get_current_context(), leave_out=("out",)), nl=False)

    assert CliRunner().invoke(command, given).stdout == expected
