"""Reading reports back: what was written is read, and what is damaged is refused with a way out."""

import json
import re

import msgspec
import pytest

from precisionkit.errors import ReportError
from precisionkit.report import Picture, read_report, with_command, write_json
from tests.reports import item, report

PNG = "iVBORw0KGgoAAA=="


def changed(**changes):
    return msgspec.structs.replace(report(complete=False), **changes)


def test_a_report_is_read_as_it_was_written(tmp_path):
    whole = with_command(changed(pictures=(Picture(index=1, png=PNG, made="m"),)), "precisionkit certify x --data y")
    write_json(whole, tmp_path / "r.json")
    assert read_report(tmp_path / "r.json") == whole
    assert whole.environment.flags == {"native": False, "threads": 1, "command": "precisionkit certify x --data y"}


def test_a_report_without_the_later_fields_is_read(tmp_path):
    found = json.loads(msgspec.json.encode(report(complete=False)))
    del found["pictures"], found["profile"]
    (tmp_path / "r.json").write_text(json.dumps(found))
    assert read_report(tmp_path / "r.json") == report(complete=False)


AGAIN = r"write it again with 'precisionkit certify \.\.\. --json FILE'\.$"
BYTES = {
    "no JSON": (b"\xff\xd8\xff", rf"is damaged, since it is not JSON \(.*\); {AGAIN}"),
    "cut off": (b'{"schema": "precisionkit.certify/1", "complete": tr', rf"is damaged, since it is not JSON \(.*\); {AGAIN}"),
    "empty": (b"", "is damaged, since it is not JSON"),
    "nested": (b'{"a":' * 100_000, "is damaged, since it is not JSON"),
    "no text": (b'{"schema": "\xff"}', rf"is damaged, since it is not JSON \('utf-8' codec .*\); {AGAIN}"),
    "no text inside": (
        b'{"schema": "precisionkit.certify/1", "method": "\xff"}',
        rf"is not as precisionkit\.certify/1 says: 'utf-8' codec .*; {AGAIN}",
    ),
    "nested inside": (b'{"schema": "precisionkit.certify/1", "x": ' + b"[" * 100_000, "is damaged, since it is not JSON"),
    "a list": (b"[]", r"is no report of precisionkit; give one that 'precisionkit certify \.\.\. --json FILE' wrote\.$"),
    "no schema": (b'{"a": 1}', "is no report of precisionkit; give one"),
    "newer": (
        b'{"schema": "precisionkit.certify/2"}',
        r"is of the format precisionkit\.certify/2, but this version reads precisionkit\.certify/1; update precisionkit\.$",
    ),
    "older": (b'{"schema": "precisionkit.certify/0"}', "but what is read here is precisionkit.certify/1; give a report that"),
    "another command's": (b'{"schema": "precisionkit.lemma/1"}', "is of the format precisionkit.lemma/1, but what is read here is"),
    "hostile": (b'{"schema": "\\u001b[31m/9999999999999999999999"}', r"is of the format \\x1b\[31m/9+, but what is read here is"),
    "fields": (b'{"schema": "precisionkit.certify/1"}', rf"is not as precisionkit\.certify/1 says: .*`complete`; {AGAIN}"),
}


@pytest.mark.parametrize("name", BYTES)
def test_what_is_no_such_report_is_refused(name, tmp_path):
    content, message = BYTES[name]
    (tmp_path / "r.json").write_bytes(content)
    with pytest.raises(ReportError, match=message):
        read_report(tmp_path / "r.json")


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ReportError, match=r"^The report '.*none\.json' cannot be read: No such file or directory\.$"):
        read_report(tmp_path / "none.json")
    with pytest.raises(ReportError, match=r"cannot be read: Is a directory\.$"):
        read_report(tmp_path)


CONTRADICTIONS = {
    "a verdict was changed": ({"inputs": (item(), item(1), item(2, "flipped", bound=0.5))}, "its summary is not that of its"),
    "a bound was changed": ({"inputs": (item(bound=9.0), *report().inputs[1:])}, "its summary is not that of its inputs"),
    "complete": ({"complete": True}, "it is complete but holds 3 of 5 inputs"),
    "twice": ({"inputs": (item(), *report().inputs[1:2], item(1, "flipped", bound=0.5))}, "an input occurs twice"),
    "picture": ({"pictures": (Picture(index=7, png=PNG, made="m"),)}, "a picture shows none of its inputs"),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_a_report_that_contradicts_itself_is_refused(name, tmp_path):
    changes, message = CONTRADICTIONS[name]
    write_json(changed(**changes), tmp_path / "r.json")
    with pytest.raises(ReportError, match=rf"contradicts itself: {re.escape(message)}.*; it was changed or damaged, so write it again"):
        read_report(tmp_path / "r.json")


def test_a_picture_is_a_png_in_base64(tmp_path):
    for png in ("javascript:alert(1)", 'iVBORw0KGgo"', "R0lGODlh"):
        write_json(changed(pictures=(Picture(index=1, png=png, made="m"),)), tmp_path / "r.json")
        with pytest.raises(ReportError, match=r"matching regex .*pictures\[0\]\.png"):
            read_report(tmp_path / "r.json")


def test_a_profile_of_another_model_is_refused(tmp_path):
    whole = report(complete=False)
    profile = {
        "schema": "precisionkit.profile/1",
        **{name: json.loads(msgspec.json.encode(getattr(whole, name))) for name in ("model", "data", "arithmetic")},
        **{"inputs": 1, "ladder_inputs": 1, "tightest": 0, "confidence": 0.5, "nodes": []},
    }
    found = json.loads(msgspec.json.encode(whole)) | {"profile": profile}
    (tmp_path / "r.json").write_text(json.dumps(found))
    assert read_report(tmp_path / "r.json").profile.inputs == 1
    profile["model"]["sha256"] = "c" * 64
    (tmp_path / "r.json").write_text(json.dumps(found))
    with pytest.raises(ReportError, match="contradicts itself: its profile is of another model or other data; it was changed"):
        read_report(tmp_path / "r.json")
