"""Reports: the schema and its file, summaries, and files that are written whole or not at all."""

import csv
import errno
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import get_args

import jsonschema
import msgspec
import pyarrow.parquet
import pytest
from rich.console import Console

from precisionkit.errors import ReportError, UsageError
from precisionkit.report import VERDICTS, Report, check_writable, render, summarise, write_json, write_table
from precisionkit.report.schema import Kind, build_schema, published_schema
from tests.reports import item, report


def as_json(value):
    return json.loads(msgspec.json.encode(value))


def test_the_schema_file_is_the_one_of_the_records():
    for kind in get_args(Kind):
        said = f"run: python -m precisionkit.report.schema {kind} > precisionkit/report/{kind}-1.schema.json"
        assert published_schema(kind) == build_schema(kind), said
        jsonschema.Draft202012Validator.check_schema(published_schema(kind))


def test_a_report_has_the_published_names_and_validates():
    found = as_json(report())
    jsonschema.validate(found, published_schema())
    names = {
        "model": "path sha256 arch parameters",
        "data": "name split inputs sha256",
        "arithmetic": "storage accumulate order reference assumptions",
        "summary": "inputs correct_reference correct_half agree proved probable observed flipped undecided invalid",
        "timing": "total_s reference_s half_s bound_s",
        "environment": "versions device flags",
    }
    assert found["schema"] == "precisionkit.certify/1"
    for part, fields in names.items():
        assert set(fields.split()) <= set(found[part])
    fields = "index label prediction_reference prediction_half verdict margin bound measured_error"
    assert set(fields.split()) <= set(found["inputs"][0])
    assert msgspec.json.decode(msgspec.json.encode(report()), type=Report) == report()


WRONG = {
    "unknown verdict": lambda r: r["inputs"][0].update(verdict="sure"),
    "missing field": lambda r: r["summary"].pop("proved"),
    "missing schema": lambda r: r.pop("schema"),
    "other schema": lambda r: r.update(schema="precisionkit.certify/2"),
    "extra field": lambda r: r["model"].update(author="x"),
    "negative count": lambda r: r["summary"].update(proved=-1),
    "negative bound": lambda r: r["inputs"][0].update(bound=-1.0),
    "text for a number": lambda r: r["inputs"][0].update(margin="NaN"),
    "no hash": lambda r: r["data"].update(sha256="xyz"),
}


@pytest.mark.parametrize("change", WRONG)
def test_a_wrong_report_does_not_validate(change):
    found = as_json(report())
    WRONG[change](found)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(found, published_schema())


def test_numbers_that_are_not_finite_become_null():
    assert as_json(item(bound=float("inf")))["bound"] is None


def test_a_summary_counts_every_input_once():
    summary = report().summary
    assert sum(getattr(summary, verdict) for verdict in VERDICTS) == summary.inputs == 3
    assert (summary.correct_reference, summary.correct_half, summary.agree) == (3, 2, 2)
    assert (summary.median_bound, summary.worst_bound) == (0.375, 0.5)
    empty, unlabelled = summarise([]), summarise([item(label=None)])
    assert (empty.inputs, empty.median_bound, empty.correct_reference, unlabelled.correct_half) == (0, None, None, None)
    assert report(()).certified_percent == 0
    assert report().certified_percent == pytest.approx(100 / 3)


def text_of(value, width):
    console = Console(width=width, file=io.StringIO(), highlight=False)
    console.print(render(value))
    return console.file.getvalue()


@pytest.mark.parametrize("width", [80, 100])
def test_the_summary_reads_well(width):
    text = text_of(report(), width)
    assert max(map(len, text.splitlines())) <= width
    assert "\x1b" not in text
    for verdict in VERDICTS:
        assert verdict in text
    for phrase in ("net (1,234 parameters) on digits, test split", "33.33 %", "3 / 2", "0.375 / 0.5", "1.5 inputs/s", "- One.", "- Two."):
        assert phrase in text
    assert " ".join(text.split()).endswith(
        "1 of 3 predictions provably cannot change in binary16 under the assumptions above; 1 did change."
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, ""),
        ({"fuse": "epilogue"}, ", fused epilogues"),
        ({"kept": ("a",)}, ", 1 node kept in binary32"),
        (
            {"fuse": "epilogue", "kept": ("a", "b"), "kept_sums": ("c",)},
            ", fused epilogues, 2 nodes kept in binary32, sums of 1 node kept in binary32",
        ),
    ],
)
def test_an_arithmetic_is_told_with_its_fusion_and_what_is_kept(changes, words):
    arithmetic = msgspec.structs.replace(report().arithmetic, **changes)
    assert arithmetic.words == f"binary16, sums in binary32, order any{words}"
    said = " ".join(text_of(msgspec.structs.replace(report(), arithmetic=arithmetic), 80).split())
    assert f"{arithmetic.words}, against fp32/fp32-any; method interval" in said


def test_an_incomplete_summary_says_so():
    assert "Incomplete: interrupted after 3 of 5 inputs." in " ".join(text_of(report(complete=False), 80).split())


def test_tables_hold_the_inputs(tmp_path):
    write_table(report(), tmp_path / "t.csv")
    with (tmp_path / "t.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(r["index"], r["verdict"], r["bound"], r["reason"]) for r in rows] == [
        ("0", "proved", "0.25", ""),
        ("1", "observed", "", "why"),
        ("2", "flipped", "0.5", ""),
    ]
    write_table(report(), tmp_path / "t.parquet")
    table = pyarrow.parquet.read_table(tmp_path / "t.parquet").to_pylist()
    assert table == as_json(report())["inputs"]


def test_a_report_replaces_an_older_one_and_obeys_the_mask(tmp_path):
    target = tmp_path / "r.json"
    target.write_text("old")
    before = os.umask(0o027)
    try:
        write_json(report(), target)
    finally:
        os.umask(before)
    assert json.loads(target.read_text()) == as_json(report())
    assert target.stat().st_mode & 0o777 == 0o640
    assert list(tmp_path.iterdir()) == [target]


FULL_DISK = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
sys.path.insert(0, sys.argv[2])
from precisionkit.errors import ReportError
from precisionkit.report import write_json
from tests.reports import item, report
value = report(tuple(item(i) for i in range(2000)))
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
try:
    write_json(value, sys.argv[1])
except ReportError as error:
    print(error)
"""


def test_a_file_that_does_not_fit_leaves_the_old_one(tmp_path):
    target = tmp_path / "r.json"
    target.write_text("old")
    command = [sys.executable, "-c", FULL_DISK, str(target), str(Path(__file__).parents[2])]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(
        f"The file '{target}' could not be written (File too large) and nothing of it was left behind; free some space"
    )
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_full_disk_is_one_sentence(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ReportError, match=r"^The file '.*r\.csv' could not be written \(No space left on device\) and nothing"):
        write_table(report(), tmp_path / "r.csv")
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_written_is_refused_beforehand(tmp_path, monkeypatch):
    check_writable(tmp_path / "fine.json")
    check_writable(tmp_path / "fine.parquet", table=True)
    with pytest.raises(ReportError, match=r"is a folder; name a file in it\.$"):
        check_writable(tmp_path)
    with pytest.raises(ReportError, match=r"because the folder '.*missing' does not exist; create it first\.$"):
        check_writable(tmp_path / "missing" / "r.json")
    with pytest.raises(UsageError, match=r"has the suffix '\.xls'; name it with one of \.csv, \.parquet\.$"):
        check_writable(tmp_path / "r.xls", table=True)
    with pytest.raises(UsageError, match=r"has the suffix '\.xls'"):
        write_table(report(), tmp_path / "r.xls")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(ReportError, match=r"is not writable; choose another one\.$"):
        check_writable(tmp_path / "r.json")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ReportError, match=r"^A \.parquet table needs pyarrow: pip install 'precisionkit\[parquet\]'"):
        check_writable(tmp_path / "r.parquet", table=True)
