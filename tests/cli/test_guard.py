"""The command: calibrate on the bundled network, try the plan on other inputs, and what is refused as one sentence."""

import json
import shutil

import jsonschema
import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

from precisionkit.cli import main
from precisionkit.data import load_dataset
from precisionkit.guard import load_guarded, read_plan
from precisionkit.guard.rows import read, written
from precisionkit.models import bundled_model, load_model
from precisionkit.report.schema import published_schema

DIGITS = str(bundled_model("digits_cnn"))


def run(*arguments):
    return CliRunner().invoke(main, ["guard", *map(str, arguments)], catch_exceptions=False)


def words(text):
    return " ".join(text.split())


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory):
    """A plan made from the first 300 digits, its report, and what the command said."""
    folder = tmp_path_factory.mktemp("guard")
    out = ("--json", folder / "report.json", "--out", folder / "guard.json")
    result = run(DIGITS, "--data", "digits", "--limit", 300, "--risk", 0.02, "--window", 100, *out)
    assert result.exit_code == 0, result.stderr
    return folder / "guard.json", json.loads((folder / "report.json").read_text()), result


def test_a_guard_is_calibrated_and_told(calibrated):
    plan, report, result = calibrated
    jsonschema.validate(report, published_schema("guard"))
    assert report["plan"] == json.loads(plan.read_text())
    counts, said = report["counts"], words(result.stdout)
    assert (counts["inputs"], counts["accepted_disagreements"], report["plan"]["kernels"]) == (300, 0, "rounded")
    assert counts["fallen_back"] == report["plan"]["fallen_back"] <= 6
    assert report["fall_back"]["low"] <= counts["fallen_back"] / 300 < report["fall_back"]["high"]
    assert report["inputs_needed"] == {"0.02": 228, "0.01": 459, "0.001": 4603, "0.0001": 46050, "1e-05": 460515}
    assert report["spent_half"] == report["multiplications"] == 88_064
    assert report["spent_reference"] == pytest.approx(88_064 * counts["fallen_back"] / 300)
    timing = report["timing"]
    assert timing["guarded_to_reference"] == pytest.approx(timing["guarded_s"] / timing["reference_s"])
    assert said.endswith(
        "An input from the distribution of the calibration inputs is accepted and predicted otherwise than by fp32 with a probability of at most "
        "0.02, with confidence 0.99."
    )
    assert "228 for 0.02, 459 for 0.01, 4,603 for 0.001" in said
    assert max(map(len, result.stdout.splitlines())) <= 100
    assert result.stderr.endswith(f"Written: {plan.parent / 'report.json'}, {plan}\n")


def test_a_plan_is_tried_on_inputs_that_were_skipped(calibrated, tmp_path):
    plan, _, _ = calibrated
    result = run(DIGITS, "--data", "digits", "--skip", 300, "--try", plan, "--json", tmp_path / "r.json", "-q")
    assert result.exit_code == 0, result.stderr
    report = json.loads((tmp_path / "r.json").read_text())
    jsonschema.validate(report, published_schema("guard"))
    assert (report["purpose"], report["counts"]["inputs"], report["counts"]["accepted_disagreements"]) == ("trial", 60, 0)
    assert report["risk"] == pytest.approx(1 - 0.01 ** (1 / 60))
    assert "of the inputs of this trial is accepted" in words(result.stdout)


def test_a_trial_takes_the_batches_of_its_plan_or_warns(calibrated, tmp_path):
    plan = read_plan(calibrated[0])
    changed = msgspec.structs.replace(plan, batch_size=7)
    (tmp_path / "guard.json").write_bytes(msgspec.json.encode(changed))
    options = (DIGITS, "--data", "digits", "--skip", 300, "--try", tmp_path / "guard.json", "-q", "--json", tmp_path / "r.json")
    assert run(*options).exit_code == 0
    assert json.loads((tmp_path / "r.json").read_text())["timing"]["batch_size"] == 7
    with pytest.warns(
        UserWarning, match=r"^The plan was calibrated in batches of 7, not of 64, which may be summed in another order: the t"
    ):
        run(*options, "--batch-size", 64)


def test_a_folder_and_bfloat16_by_disagreement(tmp_path):
    options = ("--risk", 0.05, "--storage", "bf16", "--score", "disagreement", "--kernels", "native", "--out", tmp_path / "folder", "-q")
    assert run(DIGITS, "--data", "digits", "--limit", 200, *options).exit_code == 0
    guarded = load_guarded(tmp_path / "folder", load_model(DIGITS))
    plan = guarded.plan
    assert (plan.storage, plan.score, plan.kernels, plan.allowed, plan.input_shape) == ("bf16", "disagreement", "native", 3, (1, 8, 8))
    assert (tmp_path / "folder" / "weights.safetensors").is_file()


def test_inputs_of_the_calibration_are_known_without_their_labels_and_in_another_order(calibrated, tmp_path):
    digits = load_dataset("digits", limit=310).images
    np.savez(tmp_path / "images.npz", images=digits[::-1])
    np.savez(tmp_path / "numbers.npz", images=load_model(DIGITS).preprocess(digits[296:]).numpy())
    for name, seen, last in (("images", 54, 63), ("numbers", 4, 13)):
        result = run(DIGITS, "--data", tmp_path / f"{name}.npz", "--try", calibrated[0])
        assert (result.exit_code, result.stdout) == (2, "")
        assert f"The plan was calibrated on {seen} of the inputs 0 to {last} of these data, which tell" in words(result.stderr)


def test_a_plan_of_46050_inputs_stays_small():
    hashes = np.random.default_rng(0).integers(0, 2**64, 46_050, dtype=np.uint64)
    assert len(written(hashes)) < 500_000
    assert (read(written(hashes)) == np.sort(hashes)).all()


REFUSED = [
    (
        ("--limit", 200),
        "It takes 4,603 calibration inputs to prove a risk of 0.001 with confidence 0.99, and these are 200, which prove a risk of 0.0228: ",
    ),
    (("--risk", 0.02, "--try", "PLAN"), "--try takes --risk from the plan: leave it out, or calibrate without --try."),
    (("--false-alarm", 0.02, "--try", "PLAN"), "--try takes --false-alarm from the plan: leave it out"),
    (("--out", "x.json", "--try", "PLAN"), "--try makes no plan that --out could write: leave out one of them."),
    (
        ("--limit", 300, "--try", "PLAN"),
        "The plan was calibrated on 64 of the inputs 0 to 63 of these data, which tell nothing new of it: give others, as by --skip.",
    ),
    (
        ("--skip", 300, "--normalize", "0.9/0.1", "--try", "PLAN"),
        "The plan was calibrated on images with the preprocessing mean = None, but here it is [0.9]: preprocess them as it was, or calibrate",
    ),
    (
        ("--skip", 299, "--try", "PLAN"),
        "The plan was calibrated on 1 of the inputs 0 to 60 of these data, which tell nothing new of it: give others, as by --skip.",
    ),
    (("--try", "missing.json"), "The plan 'missing.json' cannot be read (No such file or directory): give what"),
    (("--device", "mps"), "Unknown device 'mps': give cpu or cuda."),
    (("--json", "r.json", "--out", "r.json"), "--out would overwrite the file of --json; choose another name."),
    (("--out", "missing/folder"), "The file 'missing/folder' cannot be written, because the folder "),
    (("--skip", 360), "The data set digits has 360 images, so skipping 360 leaves none: skip fewer."),
]


@pytest.mark.parametrize(("options", "said"), REFUSED)
def test_what_cannot_be_done_is_one_sentence(options, said, calibrated, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(DIGITS, "--data", "digits", *(calibrated[0] if option == "PLAN" else option for option in options))
    assert result.exit_code == 2
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.removeprefix("Error: ").startswith(said)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["plan", "folder", "weights"])
def test_a_report_replaces_nothing_that_is_read(kind, calibrated, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("guard.json", "weights.safetensors"):
        shutil.copy(calibrated[0], folder / name)
    plan, target = {
        "plan": (folder / "guard.json", folder / "guard.json"),
        "folder": (folder, folder / "guard.json"),
        "weights": (folder, folder / "weights.safetensors"),
    }[kind]
    before = target.read_bytes()
    result = run(DIGITS, "--data", "digits", "--skip", 300, "--try", plan, "--json", target)
    assert (result.exit_code, result.stdout) == (2, "")
    assert words(result.stderr) == f"Error: --json would overwrite '{target}', which is read; choose another name."
    assert target.read_bytes() == before


@pytest.mark.parametrize("name", ["guard.json", "weights.safetensors"])
def test_a_report_is_no_file_of_the_folder(name, tmp_path):
    result = run(DIGITS, "--data", "digits", "--risk", 0.02, "--json", tmp_path / name, "--out", tmp_path)
    assert (result.exit_code, result.stdout) == (2, "")
    assert words(result.stderr) == "Error: --out would overwrite the file of --json; choose another name."


def test_the_plan_of_another_network_is_refused(calibrated, tmp_path):
    result = run("digits_cnn", "--weights", "random", "--data", "digits", "--skip", 300, "--try", calibrated[0])
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("Error: The plan belongs to a network with the hash ")
