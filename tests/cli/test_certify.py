"""The command: real runs on the bundled network, every exit code, every unusable input as one sentence."""

import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace

import jsonschema
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from msgspec.structs import replace as replace_fields
from safetensors.torch import save_file
from torch import nn

import precisionkit.batch
import precisionkit.certify
from precisionkit.bound import Ladder, interval
from precisionkit.cli import main
from precisionkit.cli.certify import _has_more_to_do
from precisionkit.errors import RefutedError, UsageError
from precisionkit.models import ZOO, bundled_model, load_model
from precisionkit.report.schema import published_schema
from tests import reports

DIGITS = str(bundled_model("digits_cnn"))
HARD = ("--storage", "bf16", "--accumulate", "bf16")
"""Few digits are proved."""
TINY = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x):
        return {forward}


def make():
    return Net()
"""


def run(*arguments, env=None):
    """Run the command in this process."""
    return CliRunner().invoke(main, ["certify", *map(str, arguments)], env=env, catch_exceptions=False)


def sentence(result):
    """The one error line on stderr."""
    lines = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1, result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    return lines[0].removeprefix("Error: ")


def tiny(tmp_path, forward="self.linear(x)", weight=None, bias=None):
    """A factory of one linear layer, its weights, and inputs for it."""
    name = f"tiny_{abs(hash(str(tmp_path)))}"
    (tmp_path / f"{name}.py").write_text(TINY.format(forward=forward))
    linear = nn.Linear(4, 3)
    state = {
        "linear.weight": linear.weight.detach() if weight is None else torch.as_tensor(weight, dtype=torch.float32),
        "linear.bias": linear.bias.detach() if bias is None else torch.as_tensor(bias, dtype=torch.float32),
    }
    torch.save(state, tmp_path / "tiny.pt")
    np.savez(
        tmp_path / "data.npz", images=np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32), labels=np.array([0, 1, 2, 0, 1])
    )
    return [tmp_path / "tiny.pt", "--arch", f"{name}:make", "--data", tmp_path / "data.npz"]


@pytest.fixture
def in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_the_bundled_network_is_certified_with_reports(tmp_path):
    files = tmp_path / "r.json", tmp_path / "r.csv"
    result = run(DIGITS, "--data", "digits", "--json", files[0], "--table", files[1])
    assert result.exit_code == 0
    report = json.loads(files[0].read_text())
    jsonschema.validate(report, published_schema())
    assert report["complete"]
    assert report["summary"]["inputs"] == 360
    assert report["summary"]["correct_reference"] == 353
    assert report["summary"]["proved"] >= 340
    assert len(files[1].read_text().splitlines()) == 361
    assert f"{report['summary']['proved']} of 360 predictions provably cannot change" in " ".join(result.stdout.split())
    assert "Written: " in result.stderr
    assert "Written" not in result.stdout
    for row in report["inputs"]:
        assert (row["verdict"] == "proved") == (row["reason"] is None)
        assert row["bound"] >= row["measured_error"]
        if row["verdict"] == "proved":
            assert row["lower_margin"] >= 0
        if row["margin"] > row["bound"]:
            assert row["verdict"] == "proved"


ARITHMETICS = [
    ("bf16", "fp32", "any"),
    ("fp32", "fp32", "any"),
    ("fp16", "fp16", "any"),
    ("fp16", "fp16", "sequential"),
    ("bf16", "bf16", "pairwise"),
    ("fp16", "fp32", "blocked:16"),
    ("fp16", "fp32", "tensorcore:volta"),
    ("bf16", "fp32", "tensorcore:hopper"),
    ("fp16", "fp32", "gpu:ampere"),
    ("fp16", "fp16", "tensorcore:blackwell"),
    ("fp16", "fp32", "splitk:4"),
    ("bf16", "fp32", "exact"),
]


@pytest.mark.parametrize(("storage", "accumulate", "order"), ARITHMETICS)
def test_every_arithmetic_runs(storage, accumulate, order, tmp_path):
    options = ("--storage", storage, "--accumulate", accumulate, "--order", order, "--limit", 30, "--json", tmp_path / "r.json", "-q")
    assert run(DIGITS, "--data", "digits", *options).exit_code == 0
    report = json.loads((tmp_path / "r.json").read_text())
    jsonschema.validate(report, published_schema())
    assert report["arithmetic"]["order"] == order
    assert all(row["bound"] >= row["measured_error"] for row in report["inputs"] if row["bound"] is not None)
    if storage == "fp32":
        assert report["summary"]["proved"] == 30


EMULATED = [
    ("hopper", "fp16", "tensorcore:hopper"),
    ("splitk:2", "fp32", "splitk:2"),
    ("sequential:fma", "fp16", "any"),
    ("blocked:8", "fp16", "any"),
]


@pytest.mark.parametrize(("emulated", "accumulate", "order"), EMULATED)
def test_an_emulated_run_is_another_one_within_the_same_bounds(emulated, accumulate, order, tmp_path):
    options = ("--data", "digits", "--accumulate", accumulate, "--limit", 20, "--json", tmp_path / "r.json", "-q")
    assert run(DIGITS, *options, "--emulate", emulated).exit_code == 0
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["arithmetic"]["order"] == order
    assert report["environment"]["flags"]["emulate"] == emulated
    assert report["summary"]["agree"] == 20
    assert run(DIGITS, *options).exit_code == 0
    plain = json.loads((tmp_path / "r.json").read_text())
    assert plain["environment"]["flags"]["emulate"] == "no"
    errors = [[row["measured_error"] for row in r["inputs"]] for r in (report, plain)]
    assert errors[0] != errors[1]


def test_fused_epilogues_are_certified_and_named(tmp_path):
    result = run(DIGITS, "--data", "digits", "--limit", 30, "--fuse", "epilogue", "--json", tmp_path / "r.json", "-q")
    assert result.exit_code == 0
    assert "order any, fused epilogues, against" in result.stdout
    report = json.loads((tmp_path / "r.json").read_text())
    jsonschema.validate(report, published_schema())
    assert report["arithmetic"]["fuse"] == "epilogue"
    assert "each is the only use of the one before" in report["arithmetic"]["assumptions"][0]
    assert all(row["bound"] >= row["measured_error"] for row in report["inputs"])


def test_an_exported_program_is_certified_without_trust(tmp_path):
    net = load_model(DIGITS).module
    program = torch.export.export(net, (torch.zeros(2, 1, 8, 8),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(program, tmp_path / "digits.pt2")
    images = np.random.default_rng(0).random((2, 1, 8, 8), dtype=np.float32)
    np.savez(tmp_path / "data.npz", images=images, labels=np.zeros(2, dtype=np.int64))
    verdicts = []
    for model in (tmp_path / "digits.pt2", DIGITS):
        result = run(model, "--data", tmp_path / "data.npz", "--normalize", "none", "--no-probe", "--json", tmp_path / "r.json")
        assert result.exit_code in (0, 1), result.stderr
        report = json.loads((tmp_path / "r.json").read_text())
        verdicts.append([(entry["verdict"], entry["margin"]) for entry in report["inputs"]])
    assert verdicts[0] == verdicts[1]


def test_first_order_numbers_are_reported_and_decide_nothing(tmp_path):
    options = ("--data", "digits", "--limit", 30, "--json", tmp_path / "r.json", "-q")
    plain, asked = run(DIGITS, *options), run(DIGITS, *options, "--linearised")
    assert "linearised" not in plain.stdout
    assert re.search(r"linearised, worst case +median [\d.]+, below the margin for [\d.]+ % \(proves nothing\)", asked.stdout)
    assert re.search(r"linearised, random +median", asked.stdout)
    rows = json.loads((tmp_path / "r.json").read_text())["inputs"]
    assert all(0 < row["linearised_random"] < row["linearised_worst"] < 1.02 * row["bound"] for row in rows)
    assert "linearised, random" not in run(DIGITS, *options, "--linearised", "--accumulate", "fp16").stdout


def test_batches_and_native_kernels_change_no_proof(tmp_path):
    verdicts = []
    for options in (("--batch-size", 1), ("--batch-size", 7), ("--native",)):
        run(DIGITS, "--data", "digits", "--limit", 20, "--json", tmp_path / "r.json", *options)
        rows = json.loads((tmp_path / "r.json").read_text())["inputs"]
        verdicts.append([row["verdict"] for row in rows])
    assert verdicts[0] == verdicts[1] == verdicts[2]


def test_every_option_reaches_certify(monkeypatch):
    seen = []

    def record(model, data, arithmetic, settings, on_progress, keeping):
        seen.append((model.preprocess, len(data.images), data.split, arithmetic.name, settings))
        raise RefutedError("stop")

    monkeypatch.setattr(precisionkit.certify, "certify", record)
    options = (
        "--split train --limit 9 --normalize 0.5/0.25 --storage bf16 --accumulate bf16 --order blocked:8 --fuse epilogue --method interval"
    )
    more = "--confidence 1e-3 --device cpu --batch-size 3 --native --no-download --data-root . --arch digits_cnn --fail-under 50"
    result = run(DIGITS, "--data", "digits", *options.split(), *more.split())
    assert result.exit_code == 3
    ((preprocess, count, split, arithmetic, settings),) = seen
    assert (preprocess.mean, preprocess.std, preprocess.scale, count, split) == ((0.5,), (0.25,), 16.0, 9, "train")
    assert arithmetic == "bf16/bf16-blocked:8-fused"
    assert (settings.method, settings.confidence, settings.device, settings.batch_size, settings.native) == (
        "interval",
        1e-3,
        "cpu",
        3,
        True,
    )


def test_too_few_certified_inputs_fail():
    result = run(DIGITS, "--data", "digits", "--limit", 20, "--fail-under", 100, "--storage", "bf16", "--accumulate", "bf16")
    assert result.exit_code == 1
    assert re.search(r"Not certified: \d+\.\d\d % are certified, less than --fail-under 100\.", result.stderr)


def test_a_flip_is_witnessed(in_folder):
    """Two logits that differ by less than half an ulp of binary16, in favour of the later class."""
    weight = [[1.0, 0, 0, 0], [1.0 + 2.0**-13, 0, 0, 0], [0.0, 0, 0, 0]]
    arguments = tiny(in_folder, weight=weight, bias=[0.0, 0.0, -9.0])
    np.savez(in_folder / "data.npz", images=np.array([[1.0, 0, 0, 0]], dtype=np.float32))
    result = run(*arguments, "--json", in_folder / "r.json")
    assert result.exit_code == 1
    assert "Not certified: 1 prediction flipped." in result.stderr
    (row,) = json.loads((in_folder / "r.json").read_text())["inputs"]
    assert (row["verdict"], row["prediction_reference"], row["prediction_half"], row["label"]) == ("flipped", 1, 0, None)
    assert row["reason"] == "the two runs predict different classes"


def test_overflow_is_invalid_with_its_node(in_folder):
    arguments = tiny(in_folder, "self.linear(torch.relu(x * 60000.0) * 2.0)", weight=np.eye(3, 4), bias=np.zeros(3))
    np.savez(in_folder / "data.npz", images=np.array([[1.0, 0.5, 0, 0], [-1.0, -1.0, 0, 0]], dtype=np.float32))
    assert run(*arguments, "--json", in_folder / "r.json").exit_code == 0
    rows = json.loads((in_folder / "r.json").read_text())["inputs"]
    assert [row["verdict"] for row in rows] == ["invalid", "observed"]
    assert re.search(r"the half program overflows binary16 at node 'mul_\d' \(mul, .*\.py:12: ", rows[0]["reason"])
    run(*arguments, "--json", in_folder / "r.json", "--storage", "bf16")
    assert json.loads((in_folder / "r.json").read_text())["inputs"][0]["verdict"] == "proved"


def test_partial_sums_that_can_overflow_are_never_proved(in_folder):
    """60000 + 60000 - 60000 - 60000 in binary16 overflows in some orders, though not in all, and its sum is 0."""
    weight = [[1.0, 1.0, -1.0, -1.0], [0.0] * 4, [0.0] * 4]
    arguments = tiny(in_folder, weight=weight, bias=[10.0, 0.0, 0.0])
    np.savez(in_folder / "data.npz", images=np.full((1, 4), 60000.0, dtype=np.float32))
    for accumulate, verdict in (("fp16", ("observed", "invalid")), ("fp32", ("proved",))):
        run(*arguments, "--json", in_folder / "r.json", "--accumulate", accumulate)
        (row,) = json.loads((in_folder / "r.json").read_text())["inputs"]
        assert row["verdict"] in verdict


def test_a_run_outside_its_enclosure_stops_the_command(monkeypatch, tmp_path):
    """A device that rounds to bfloat16 does not obey binary16."""
    real = precisionkit.batch.execute

    def coarse(program, inputs, **options):
        result = real(program, inputs, **options)
        return precisionkit.batch.Run(result.logits.bfloat16().double(), result.finite)

    monkeypatch.setattr(precisionkit.batch, "execute", coarse)
    result = run(DIGITS, "--data", "digits", "--limit", 20, "--json", tmp_path / "r.json")
    assert result.exit_code == 3
    assert re.match(
        r"Input \d+: a run on cpu left the enclosure that was proved for it\. Either the device does not obey fp16/fp32-any",
        sentence(result),
    )
    assert not list(tmp_path.iterdir())


def test_an_interruption_keeps_what_was_done(tmp_path):
    command = [sys.executable, "-m", "precisionkit", "certify", DIGITS, "--data", "digits", "--batch-size", "1", "--split", "train"]
    process = subprocess.Popen(
        [*command, "--storage", "bf16", "--accumulate", "bf16", "--order", "pairwise", "--json", str(tmp_path / "r.json")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores it
    )
    first = process.stderr.readline()  # a line of progress after ten seconds
    assert "inputs/s" in first, first
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Interrupted: partial results are kept and marked incomplete" in err
    report = json.loads((tmp_path / "r.json").read_text())
    jsonschema.validate(report, published_schema())
    assert not report["complete"]
    assert 0 < report["summary"]["inputs"] == len(report["inputs"]) < report["data"]["inputs"]
    assert "Incomplete: interrupted after" in out


def test_an_interruption_while_loading_is_quiet(monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("precisionkit.data.load_dataset", interrupted)
    result = run(DIGITS, "--data", "digits")
    assert result.exit_code == 130
    assert result.stderr == "Interrupted before there was a result; nothing was written.\n"


@pytest.mark.parametrize(
    ("options", "terminal", "hinted"),
    [
        (HARD, True, True),
        (HARD, False, False),
        ((*HARD, "-q"), True, False),
        ((), True, False),  # all are proved
    ],
)
def test_what_to_do_next_is_said_to_a_person_alone(options, terminal, hinted):
    environment = {"FORCE_COLOR": "1" if terminal else None, "NO_COLOR": "1", "TERM": "dumb"}
    result = run(DIGITS, "--data", "digits", "--limit", 6, "--method", "interval", "--no-probe", *options, env=environment)
    assert result.exit_code == 0
    assert ("Next: 'precisionkit profile' with the same MODEL and --data says which node" in result.stderr) == hinted
    assert "Next:" not in result.stdout


def test_nothing_is_left_to_do_where_all_is_certified_or_in_fp32_or_not_all_was_done():
    fp32 = replace_fields(reports.ARITHMETIC, storage="binary32")
    some, made = [reports.item()], reports.report
    assert _has_more_to_do(made())
    for done in (made(some), made(()), made(complete=False), made(arithmetic=fp32)):
        assert not _has_more_to_do(done)


class Refuses:
    """Raises whatever it is asked."""

    def __init__(self, error):
        self.error = error

    def __call__(self, *_, **__):
        raise self.error


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (KeyboardInterrupt(), 130, "Interrupted: the report has no profile."),
        (UsageError("No ladder."), 2, "The report has no profile. Written: FILES No certificate was written. Error: No ladder."),
        (MemoryError(), 2, "The report has no profile. Written: FILES No certificate was written. Error: The memory is not enough; choose"),
    ],
)
def test_a_profile_that_fails_does_not_take_the_certification_with_it(error, code, said, tmp_path, monkeypatch):
    monkeypatch.setattr("precisionkit.profile.make_profile", Refuses(error))
    files = tmp_path / "r.json", tmp_path / "r.html"
    options = ("--json", files[0], "--html", files[1], "--certificate", tmp_path / "c.cert", "--profile")
    result = run(DIGITS, "--data", "digits", "--limit", 6, "--method", "interval", *options)
    assert result.exit_code == code
    assert " ".join(result.stderr.split()).startswith(said.replace("FILES", ", ".join(map(str, files)))), result.stderr
    assert "No certificate was written." in result.stderr
    assert "nothing was written" not in result.stderr
    assert sorted(tmp_path.iterdir()) == sorted(files)  # what was kept of the run is away
    report = json.loads(files[0].read_text())
    assert (report["complete"], report["profile"], report["summary"]["inputs"]) == (True, None, 6)


def test_memory_that_is_not_enough_is_one_sentence(monkeypatch):
    def exhausted(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(precisionkit.certify, "certify", exhausted)
    result = run(DIGITS, "--data", "digits", "--limit", 1)
    assert (result.exit_code, sentence(result)) == (2, "The memory is not enough; choose a smaller --batch-size.")


def test_a_closed_pipe_is_no_error():
    script = f"{sys.executable} -m precisionkit certify {DIGITS} --data digits --limit 3 -q | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_help_is_quick_and_tells_the_exit_codes():
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "precisionkit", "certify", "--help"], capture_output=True, text=True, check=True)
    assert time.monotonic() - start < 5  # torch alone takes longer on a slow machine; see also test_imports
    for phrase in ("Exit codes:", "130  interrupted", "--fail-under PERCENT", "volta|ampere|ada|hopper|blackwell"):
        assert phrase in done.stdout


class Bomb:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def damaged(kind, folder):
    """A file that is no usable model, and what is said of it."""
    path = folder / "model.pt"
    state = {name: value.clone() for name, value in ZOO["digits_cnn"].build().state_dict().items()}
    first = next(iter(state))
    match kind:
        case "empty":
            path.write_bytes(b"")
        case "text":
            path.write_text("not a model")
        case "truncated":
            torch.save(state, path)
            path.write_bytes(path.read_bytes()[:-500])
        case "bomb":
            with path.open("wb") as file:
                pickle.dump({"state_dict": Bomb(folder / "marker")}, file)
        case "zipped bomb":
            torch.save({"state_dict": Bomb(folder / "marker")}, path)
        case "module":
            torch.save(nn.Linear(2, 2), path)
        case "nan" | "inf":
            state[first].view(-1)[0] = float(kind)
            torch.save(state, path)
        case "safetensors":
            path = folder / "model.safetensors"
            save_file({"x": torch.zeros(2)}, path)
        case "beyond binary16":
            state[first].view(-1)[0] = 1e5
            torch.save(state, path)
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "does not exist|no file|not found|there is no"),
        ("empty", "empty"),
        ("text", "is a text file; give a PyTorch state dict"),
        ("truncated", "damaged|truncated|incomplete|cut"),
        ("bomb", "--trust|code|refused"),
        ("zipped bomb", "--trust|code|refused"),
        ("module", "--trust"),
        ("nan", "NaN|not finite"),
        ("inf", "[Ii]nf|not finite"),
        ("safetensors", "digits_cnn"),
        (
            "beyond binary16",
            r"holds the value 100000, beyond 65504, the largest number of binary16; the half program cannot be built: choose --storage bf16",
        ),
    ],
)
def test_an_unusable_model_is_refused(tmp_path, kind, message):
    result = run(damaged(kind, tmp_path), "--arch", "digits_cnn", "--data", "digits", "--limit", 2, "--json", tmp_path / "r.json")
    assert result.exit_code == 2
    assert re.search(message, sentence(result) + result.stderr)
    assert not (tmp_path / "marker").exists()
    assert not (tmp_path / "r.json").exists()


DATA = {
    "unknown set": (lambda _: "imagenet", r"imagenet.*(digits|mnist)"),
    "wrong shape": (
        lambda f: f / "wide.npz",
        r"gives inputs of shape 1x28x28, but the model .digits_cnn. takes 1x8x8; use the model with the data",
    ),
    "labels": (
        lambda f: f / "labels.npz",
        r"has the label 12, but the model has 10 classes, 0 to 9; use the model with the data set that it was trained for\.$",
    ),
    "range": (
        lambda f: f / "large.npz",
        r"^Input 1 holds the value 1e\+06, beyond 65504, the largest number of binary16; rescale the data",
    ),
    "nan": (lambda f: f / "nan.npz", r"(NaN|not finite|finite)"),
    "damaged": (lambda f: f / "damaged.npz", r"damaged\.npz"),
    "empty": (lambda f: f / "empty.npz", r"empty\.npz"),
}


@pytest.mark.parametrize("kind", DATA)
def test_unusable_data_is_refused(tmp_path, kind):
    image = np.zeros((2, 1, 8, 8), dtype=np.float32)
    large, nan = image.copy(), image.copy()
    large[1, 0, 0, 0], nan[1, 0, 0, 0] = 1e6, np.nan
    np.savez(tmp_path / "wide.npz", images=np.zeros((2, 28, 28), dtype=np.uint8))
    np.savez(tmp_path / "labels.npz", images=image, labels=[0, 12])
    np.savez(tmp_path / "large.npz", images=large)
    np.savez(tmp_path / "nan.npz", images=nan)
    np.savez(tmp_path / "empty.npz", images=image[:0])
    (tmp_path / "damaged.npz").write_bytes((tmp_path / "wide.npz").read_bytes()[:300])
    source, message = DATA[kind]
    result = run(DIGITS, "--data", source(tmp_path), "--no-download", "--json", tmp_path / "r.json")
    assert result.exit_code == 2
    assert re.search(message, sentence(result))
    assert not (tmp_path / "r.json").exists()


NETWORKS = {
    "unknown operator": ("self.linear(torch.lgamma(x))", r"^No error rule is known for operator 'aten\.lgamma\.default' at node 'lgamma' \(.*\.py:12: return self\.linear\(torch\.lgamma\(x\)\)\)\. 'precisionkit ops' lists what is supported"),
    "control flow": ("self.linear(x) if x.sum() > 0 else -self.linear(x)", r"^torch\.export could not capture the model"),
    "two results": ("(self.linear(x), x)", r"^The model returns a tuple, and logits are needed"),
    "no logits": ("self.linear(x)[:, :1]", r"^The model returns \(batch, 1\); logits"),
}  # fmt: skip


@pytest.mark.parametrize("kind", NETWORKS)
def test_an_unsupported_network_is_refused(in_folder, kind):
    forward, message = NETWORKS[kind]
    result = run(*tiny(in_folder, forward))
    assert result.exit_code == 2
    assert re.search(message, sentence(result))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--json", "missing/r.json"), r"because the folder '.*missing' does not exist; create it first\.$"),
        (("--table", "r.xls"), r"^The table 'r\.xls' has the suffix '\.xls'"),
        (("--order", "random"), r"^The order 'random' is not known"),
        (("--storage", "fp8"), r"^The storage format 'fp8' is not supported"),
        (("--storage", "fp32", "--accumulate", "fp16"), r"^The accumulator fp16 does not hold every number"),
        (("--method", "adjoint", "--accumulate", "fp16"), r"^The adjoint method takes rounding errors for unbiased.*--method zonotope\.$"),
        (("--device", "cuda:7"), r"^The device 'cuda:7' cannot be used here \(.*\); choose --device cpu\.$"),
        (("--device", "toaster"), r"^The device 'toaster' is not supported; choose cpu, cuda, cuda:N or mps\.$"),
        (("--device", "mps"), r"^The device 'mps' cannot be used here \(.{1,120}\); choose --device cpu\.$"),
        (("--normalize", "1,2"), r"1,2"),
        (
            ("--native", "--fuse", "epilogue"),
            r"^torch's half kernels store every operator's result, which is no run.*leave out --native\.$",
        ),
        (("--storage", "fp32", "--fuse", "epilogue"), r"^--fuse epilogue leaves out stores in half precision.*choose --fuse none\.$"),
        (("--emulate", "hopper", "--native"), r"^A run is made either by the half kernels \(--native\) or by emulation"),
        (("--emulate", "hopper", "--order", "pairwise"), r"^A run in the order tensorcore:hopper is none that fp16/fp32-pairwise allows"),
        (("--emulate", "kepler"), r"^The run 'kepler' is not known; choose volta"),
        (("--native", "--accumulate", "fp16"), r"which is no run of fp16/fp16-any; leave out --native\.$"),
    ],
)
def test_wrong_options_are_refused(options, message):
    result = run(DIGITS, "--data", "digits", "--limit", 2, *options)
    assert result.exit_code == 2
    assert re.search(message, sentence(result))


@pytest.mark.parametrize(
    "options", [("--limit", 0), ("--confidence", 0), ("--fail-under", 101), ("--method", "guess"), ("--batch-size", -1)]
)
def test_options_out_of_range_are_refused_by_the_parser(options):
    result = run(DIGITS, "--data", "digits", *options)
    assert result.exit_code == 2
    assert "Invalid value" in result.stderr


REAL = [
    ("mnist_cnn_small.pth", "mnist_cnn_small", "mnist", 200),
    ("mnist_6_100_nat.pth", "mnist_6_100", "mnist", 200),
    ("lenet_mnist.pt", "lenet5", "mnist", 100),
    ("cifar_conv_small_sigmoid.pth", "cifar_conv_small_sigmoid", "cifar10", 50),
    ("resnet20-12fca82f.th", "cifar_resnet20", "cifar10", 2),
]


@pytest.mark.real
@pytest.mark.parametrize(("file", "arch", "data", "limit"), REAL)
def test_the_trained_networks_run_through(shared, tmp_path, file, arch, data, limit):
    from precisionkit.data import load_dataset

    path = shared / "models" / file
    options = ("--arch", arch, "--data", data, "--data-root", shared / "data", "--limit", limit, "--json", tmp_path / "r.json")
    assert run(path, *options).exit_code == 0
    rows = json.loads((tmp_path / "r.json").read_text())["inputs"]
    model = load_model(path, arch=arch)
    with torch.no_grad():
        logits = model.module(model.preprocess(load_dataset(data, root=shared / "data", limit=limit).images))
    assert [row["prediction_reference"] for row in rows] == logits.argmax(1).tolist()


@pytest.mark.real
def test_the_interval_method_proves_98_percent_of_mnist(shared, tmp_path):
    options = (
        "--arch",
        "mnist_fc_3layer",
        "--data",
        "mnist",
        "--data-root",
        shared / "data",
        "--method",
        "interval",
        "--json",
        tmp_path / "r.json",
    )
    assert run(shared / "models" / "mnist_fc_3layer.pth", *options).exit_code == 0
    summary = json.loads((tmp_path / "r.json").read_text())["summary"]
    assert (summary["inputs"], summary["correct_reference"]) == (10_000, 9752)
    assert summary["proved"] >= 9_800


def test_probable_verdicts_come_with_their_probability_and_their_model(tmp_path):
    file = tmp_path / "r.json"
    result = run(DIGITS, "--data", "digits", "--storage", "bf16", "--method", "adjoint", "--confidence", 1e-9, "--json", file)
    report = json.loads(file.read_text())
    probable = [i for i in report["inputs"] if i["verdict"] == "probable"]
    assert result.exit_code == (report["summary"]["flipped"] > 0)
    assert len(probable) == report["summary"]["probable"] > 0
    assert all(0 < i["failure"] <= 1e-9 and i["method"] == "adjoint" and i["lower_margin"] > 0 and i["reason"] is None for i in probable)
    assert all(i["failure"] == 0 for i in report["inputs"] if i["verdict"] != "probable")
    model = "For 'probable' verdicts, a model of rounding: the rounding errors of stores, of dot products and of other sums have mean zero"
    assert sum(sentence.startswith(model) for sentence in report["arithmetic"]["assumptions"]) == 1
    assert "each verdict is wrong with a probability of at most 1e-09" in result.output


def test_a_run_that_leaves_what_the_model_allows_is_not_probable(monkeypatch, tmp_path):
    """A model that is contradicted by a run gives no verdict; it is no bug either."""
    file = tmp_path / "r.json"
    monkeypatch.setattr("precisionkit.certify.Ladder.of", lambda *_: Ladder((("interval", interval),), too_sharp))
    result = run(DIGITS, "--data", "digits", "--storage", "bf16", "--json", file)
    summary = json.loads(file.read_text())["summary"]
    assert result.exit_code == (summary["flipped"] > 0)
    assert summary["probable"] == 0 < summary["observed"]


def too_sharp(program, inputs, classes):
    found = interval(program, inputs, classes)
    return replace(found, gap_error=found.gap_error * 0)
