"""Runs of `certify` that are killed and go on, that several processes share, and that machines watch."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from precisionkit.cli import main
from precisionkit.errors import UsageError
from precisionkit.models import bundled_model
from precisionkit.report import Report, read_report
from precisionkit.stream import Batch, Keeping, Stream, forget, run_batches

ROOT = Path(__file__).resolve().parents[2]
DIGITS = str(bundled_model("digits_cnn"))
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}
OPTIONS = ("--data", "digits", "--method", "interval", "--batch-size", "6", "--no-probe")


def command(target, *options):
    return [sys.executable, "-m", "precisionkit", "certify", DIGITS, *OPTIONS, "--json", str(target), "-q", *options]


def run(target, *options):
    done = subprocess.run(command(target, *options), cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return without_times(target)


def without_times(target):
    """Bytes of a report whose times are zero."""
    report = read_report(target)
    nothing = dict.fromkeys(report.timing.__struct_fields__, 0.0)
    return msgspec.json.encode(msgspec.structs.replace(report, timing=msgspec.structs.replace(report.timing, **nothing)))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return run(tmp_path_factory.mktemp("whole") / "r.json")


def kept(target):
    return [line for path in target.parent.glob("r.json.partial-*") for line in path.read_bytes().split(b"\n")[1:-1]]


def kill_after(process, target, batches):
    while process.poll() is None and len(kept(target)) < batches:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_a_run_that_is_killed_again_and_again_ends_with_the_same_report(tmp_path, whole):
    """At 20 moments that are not chosen: no verdict is lost, and none is changed."""
    target, generator = tmp_path / "r.json", random.Random(0)
    slow = "import time, precisionkit.batch as b; f = b.Worker.batch; b.Worker.batch = lambda *a: (time.sleep(0.02), f(*a))[1]; "
    program = [sys.executable, "-c", slow + "from precisionkit.cli import main; main()", *command(target, "--resume")[3:]]
    kills, before = 0, []
    while kills < 20 and not target.exists():
        with subprocess.Popen(program, cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
            kill_after(process, target, len(kept(target)) + generator.randrange(1, 5))
        kills += 1
        now = kept(target)
        assert [line for line in before if line not in now] == []
        before = now
        time.sleep(generator.random() * 0.02)
    assert kills >= 12
    assert run(target, "--resume") == whole
    assert list(tmp_path.iterdir()) == [target]


def batches_of(report, size=6):
    return [
        Batch(first=first, seconds={"reference": 0.0, "half": 0.0, "bound": 0.0, "all": 1.0}, inputs=report.inputs[first : first + size])
        for first in range(0, len(report.inputs), size)
    ]


KEY = {"model": "one", "arithmetic": "fp16"}


def test_a_file_may_end_anywhere_by_steps_of_seven_bytes(tmp_path, whole):
    """Whatever a kill leaves of a file, at every seventh byte, what is read of it is what was written, and what is missing is decided again."""
    made = batches_of(msgspec.json.decode(whole, type=Report))[:3]
    stream = Stream(tmp_path / "r.json", KEY)
    stream.begin(0)
    for batch in made:
        stream.add(0, batch)
    path = tmp_path / "r.json.partial-0"
    content = path.read_bytes()
    for length in range(0, len(content), 7):
        path.write_bytes(content[:length])
        stream.check(resume=True)
        found = stream.read()
        assert all(found[first] == made[place] for place, first in enumerate(sorted(found)))
        again = run_batches(
            [batch.first for batch in made],
            {batch.first: batch for batch in made}.__getitem__,
            Keeping(tmp_path / "r.json", resume=True),
            KEY,
            lambda done, total: None,
        )
        assert again.complete
        assert again.batches == tuple(made)
        assert again.before == len(found)
        assert stream.read() == {batch.first: batch for batch in made}
    forget(tmp_path / "r.json")
    assert list(tmp_path.iterdir()) == []


def torchrun(target, *options):
    return [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", *command(target, *options)[1:]]


def test_two_processes_give_the_verdicts_of_one(tmp_path, whole):
    target = tmp_path / "r.json"
    done = subprocess.run(torchrun(target), cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert without_times(target) == whole
    assert done.stdout.count("predictions provably cannot change") == 1
    assert list(tmp_path.iterdir()) == [target]


def test_two_processes_of_which_one_is_killed_go_on_as_one(tmp_path, whole):
    target = tmp_path / "r.json"
    program = torchrun(target)
    slow = "import time, precisionkit.batch as b; f = b.Worker.batch; b.Worker.batch = lambda *a: (time.sleep(0.2), f(*a))[1]"
    (tmp_path / "sitecustomize.py").write_text(
        f"import os\nif os.environ.get('RANK'):\n    import atexit, sys\n    exec({slow!r})\n    open({str(tmp_path)!r} + '/pid' + os.environ['RANK'], 'w').write(str(os.getpid()))\n"
    )
    environment = ENVIRONMENT | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    with subprocess.Popen(program, cwd=ROOT, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        while process.poll() is None and len(kept(target)) < 6:
            time.sleep(0.01)
        os.kill(int((tmp_path / "pid1").read_text()), signal.SIGKILL)
        process.communicate()
    assert process.returncode != 0
    assert not target.exists()
    assert run(target, "--resume") == whole


def invoke(*arguments):
    return CliRunner().invoke(main, ["certify", DIGITS, *OPTIONS, "--limit", "12", *map(str, arguments)], catch_exceptions=False)


HOSTILE = {"no JSON": b"{", "no text": b'{"model": "\xff"}', "nested": b'{"a": ' * 100_000, "another kind": b"[]"}


@pytest.mark.parametrize("line", HOSTILE.values(), ids=HOSTILE)
def test_a_line_that_cannot_be_read_is_told_or_decided_again(tmp_path, whole, line):
    path, stream = tmp_path / "r.json.partial-0", Stream(tmp_path / "r.json", KEY)
    path.write_bytes(line + b"\n")
    with pytest.raises(UsageError, match="holds no results of this version: delete it, or choose another name"):
        stream.check(resume=True)
    batch = batches_of(msgspec.json.decode(whole, type=Report))[0]
    path.unlink()
    stream.begin(0)
    stream.add(0, batch)
    with path.open("ab") as file:
        file.write(line.replace(b"model", b"inputs") + b"\n")
    assert list(stream.read().values()) == [batch]


def test_what_is_left_of_a_run_is_not_written_over(tmp_path):
    (tmp_path / "r.json.partial-0").write_bytes(b'{"model":"one"}\n')
    result = invoke("--json", tmp_path / "r.json", "-q")
    assert result.exit_code == 2
    assert "holds results of a run that did not end: go on with --resume, or delete it." in result.stderr.replace("\n", " ")
    result = invoke("--json", tmp_path / "r.json", "-q", "--resume")
    assert result.exit_code == 2
    assert "holds results of another run, whose model is 'one' and not 'digits_cnn" in result.stderr.replace("\n", " ")


def test_other_options_do_not_go_on_with_a_run(tmp_path, monkeypatch):
    target = tmp_path / "r.json"
    monkeypatch.setattr("precisionkit.stream.forget", lambda target: None)
    assert invoke("--json", target, "-q").exit_code == 0
    for options, name in (
        (("--storage", "bf16"), "arithmetic"),
        (("--keep-fp32", "linear"), "nodes in fp32"),
        (("--skip", "6"), "data set"),
    ):
        result = invoke("--json", target, "-q", "--resume", *options)
        assert result.exit_code == 2
        assert f"another run, whose {name} is" in result.stderr.replace("\n", " ")


def test_resuming_needs_a_file():
    result = invoke("--resume")
    assert result.exit_code == 2
    assert "--resume goes on with what is kept beside --json FILE; name that file." in result.stderr


def test_machines_read_lines_of_json():
    result = invoke("--progress", "json")
    lines = [json.loads(line) for line in result.stderr.splitlines()]
    assert lines[-1] | {"seconds": 0} == {"what": "certifying", "unit": "inputs", "done": 12, "total": 12, "seconds": 0}
