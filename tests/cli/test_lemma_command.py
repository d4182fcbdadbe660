"""``precisionkit lemma``: the whole experiment on small data, its report, its refusals, and the real networks."""

import json
import re

import jsonschema
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch.nn import Flatten, Linear, Sequential

from precisionkit.cli import main
from precisionkit.models import bundled_model
from precisionkit.report.schema import published_schema

DIGITS = str(bundled_model("digits_cnn"))


def run(*arguments, env=None):
    return CliRunner().invoke(main, ["lemma", *map(str, arguments)], env=env, catch_exceptions=False)


def test_the_experiment_is_shown_written_and_drawn(tmp_path):
    files = ("--json", tmp_path / "r.json", "--figure", tmp_path / "r.svg")
    result = run(DIGITS, "--data", "digits", "--limit", 40, "--arb", 4, "--mpmath", 1, *files, "-q")
    assert result.exit_code == 0
    assert "The lemma as published, with >=, is not violated here. The repaired lemma is not violated." in result.stdout
    assert "exact networks of 4 inputs by Arb; mpmath (50 digits) lies in its balls for 1 of them; largest error" in " ".join(
        result.stdout.split()
    )
    report = json.loads((tmp_path / "r.json").read_text())
    jsonschema.validate(report, published_schema("lemma"))
    assert report["schema"] == "precisionkit.lemma/1"
    for output in report["outputs"]:
        for cells in output["tables"]:
            assert sum(cells[key] for key in ("holds_kept", "holds_changed", "fails_kept", "fails_changed")) == 40
            assert cells["violations"] == []
        assert output["gamma"]["least"] >= 0
    assert len(report["rows"]) == 80
    truth = report["truth"]
    assert 0 < truth["binary64_error"] < 1e-12 < truth["reference_error"][1] < truth["half_error"][1]
    assert "<svg" in (tmp_path / "r.svg").read_text()


def test_an_emulated_bfloat16_run_has_larger_discrepancies(tmp_path):
    deltas = []
    for options in ((), ("--storage", "bf16", "--emulate", "ampere")):
        assert run(DIGITS, "--data", "digits", "--limit", 20, "--json", tmp_path / "r.json", "-q", *options).exit_code == 0
        report = json.loads((tmp_path / "r.json").read_text())
        deltas.append(report["outputs"][0]["delta"]["mean"])
    assert (report["run"], report["arithmetic"]["order"]) == ("emulated bit for bit, ampere", "tensorcore:ampere")
    assert deltas[1] > 3 * deltas[0]


def test_inputs_on_which_a_run_overflows_are_left_out(tmp_path):
    """One image gives NaN in half: 6e4 + 6e4 - 6e4 - 6e4, pairwise."""
    model = Sequential(Flatten(), Linear(4, 2, bias=False))
    model[1].weight.data = torch.tensor([[1.0, 0, 0, 0], [6e4, 6e4, -6e4, -6e4]])
    monkey = tmp_path / "overflowing.py"
    monkey.write_text(
        "from torch.nn import Flatten, Linear, Sequential\n\n\ndef make():\n    return Sequential(Flatten(), Linear(4, 2, bias=False))\n"
    )
    torch.save(model.state_dict(), tmp_path / "w.pt")
    images = np.array([[1, 1, 1, 1], [0, 0, 0, 1]], dtype=np.float32)
    np.savez(tmp_path / "d.npz", images=images, labels=np.array([0, 0]))
    options = ("--accumulate", "fp16", "--emulate", "pairwise", "--arb", 2, "--json", tmp_path / "r.json", "-q")
    for limit, compared in ((2, 1), (1, 0)):
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(tmp_path)
            patch.syspath_prepend(tmp_path)
            result = run(tmp_path / "w.pt", "--arch", "overflowing:make", "--data", tmp_path / "d.npz", "--limit", limit, *options)
        assert result.exit_code == 0
        report = json.loads((tmp_path / "r.json").read_text())
        assert report["skipped"] == [0]
        assert (report["truth"] or {"inputs": 0})["inputs"] == compared
        if compared:
            assert all(value is not None for value in report["truth"]["half_error"])
    assert "No input was compared" in result.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--figure", "f.txt"), "The figure 'f.txt' has the suffix '.txt'; name it with one of .png, .svg, .pdf."),
        (("--mpmath", "5", "--arb", "2"), "--mpmath 5 is more than --arb 2; mpmath judges networks that Arb has computed."),
        (("--json", "missing/r.json"), "does not exist; create it first."),
        (("--emulate", "kepler"), "The run 'kepler' is not known"),
    ],
)
def test_wrong_options_are_refused(options, message):
    result = run(DIGITS, "--data", "digits", "--limit", 2, *options)
    assert result.exit_code == 2
    assert message in result.stderr.replace("\n", " ")


@pytest.mark.real
def test_single_neurons_of_a_large_network_are_judged(shared):
    arguments = (shared / "models" / "resnet20-12fca82f.th", "--arch", "cifar_resnet20", "--data", "cifar10", "--limit", 2)
    result = run(*arguments, "--arb", 1, "--mpmath", 1, "-q", env={"PRECISIONKIT_DATA": str(shared / "data")})
    assert result.exit_code == 0
    assert re.search(
        r"exact networks of 1 inputs by Arb; mpmath \(50 digits\) lies in its balls for [\d,]+ neurons", " ".join(result.stdout.split())
    )
