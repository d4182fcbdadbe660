"""Nodes that the half program keeps in fp32, from the command line."""

import json

import pytest
from click.testing import CliRunner

from precisionkit.cli import main
from precisionkit.models import bundled_model

DIGITS = str(bundled_model("digits_cnn"))


def run(*arguments):
    return CliRunner().invoke(main, ["certify", DIGITS, "--data", "digits", "-q", *map(str, arguments)], catch_exceptions=False)


def report(tmp_path, *arguments):
    result = run("--limit", 20, "--json", tmp_path / "r.json", *arguments)
    assert result.exit_code == 0, result.stderr
    return json.loads((tmp_path / "r.json").read_text()), result.stdout.replace("\n", " ")


def test_what_is_kept_sharpens_the_bounds_and_is_told(tmp_path):
    plain, _ = report(tmp_path, "--method", "interval")
    kept, said = report(tmp_path, "--method", "interval", "--keep-fp32", "linear", "--keep-fp32", "conv2d_1")
    assert kept["arithmetic"]["kept"] == ["conv2d_1", "linear"]
    assert kept["summary"]["median_bound"] < plain["summary"]["median_bound"]
    assert "The half program keeps 2 nodes (conv2d_1, linear) in binary32" in said


def test_sums_alone_are_kept_where_they_are_short(tmp_path):
    options = ("--accumulate", "fp16", "--method", "interval")
    plain, _ = report(tmp_path, *options)
    kept, said = report(tmp_path, *options, "--keep-sums", "conv2d")
    assert kept["summary"]["median_bound"] < plain["summary"]["median_bound"]
    assert "The half program sums the products of 1 node (conv2d) in binary32." in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--keep-fp32", "fc9"), "The network has no node 'fc9' to keep in binary32"),
        (("--keep-fp32", "relu"), "rounds nothing, and has the format of what it reads"),
        (("--keep-sums", "relu"), "has no sums of products to keep in binary32"),
        (("--keep-fp32", "linear", "--certificate", "c.cert"), "The checker knows no nodes that are kept in binary32"),
    ],
)
def test_what_cannot_be_kept_is_refused(options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run("--limit", 2, *options)
    assert result.exit_code == 2
    assert message in result.stderr.replace("\n", " ")


def test_a_report_has_the_profile_of_what_is_kept(tmp_path):
    made, _ = report(tmp_path, "--method", "interval", "--keep-fp32", "conv2d_1", "--profile", "--html", tmp_path / "r.html")
    formats = {node["name"]: node["format"] for node in made["profile"]["nodes"]}
    assert formats["conv2d_1"] == "binary32"
    assert formats["view.cast"] == formats["conv2d"] == "binary16"
    assert "Share of each layer" in (tmp_path / "r.html").read_text()
