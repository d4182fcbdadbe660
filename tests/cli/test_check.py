"""``precisionkit certify --certificate`` and ``precisionkit check``: the round trip, the comparison with files, every refusal."""

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

import precisionkit.checker
from precisionkit.arithmetic import parse_arithmetic
from precisionkit.capture import capture
from precisionkit.certificates import check_network, check_rule, make_certificate
from precisionkit.certify import certify
from precisionkit.checker import CertificateError, check, read, write
from precisionkit.cli import main
from precisionkit.data import load_dataset
from precisionkit.errors import UnsupportedArithmeticError, UnsupportedOperatorError, UsageError
from precisionkit.models import ZOO, bundled_model, load_model, save_model

DIGITS = str(bundled_model("digits_cnn"))


def run(*arguments):
    return CliRunner().invoke(main, [*map(str, arguments)], catch_exceptions=False)


def words(result):
    return " ".join((result.stdout + result.stderr).split())


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("certificates") / "digits.cert"
    result = run("certify", DIGITS, "--data", "digits", "--limit", 60, "--certificate", path, "--json", path.with_suffix(".json"))
    assert result.exit_code == 0
    assert str(path) in words(result)
    return path


def test_a_certificate_is_written_and_accepted(file):
    report = json.loads(file.with_suffix(".json").read_text())
    certificate = read(file)
    assert certificate.model.sha256 == report["model"]["sha256"]
    assert certificate.data.sha256 == report["data"]["sha256"]
    proved = {row["index"]: row for row in report["inputs"] if row["verdict"] == "proved"}
    assert set(certificate.index.tolist()) <= set(proved)
    assert len(certificate.index) >= len(proved) - 1
    assert certificate.classes.tolist() == [proved[i]["prediction_half"] for i in certificate.index.tolist()]
    result = run("check", file, "-q")
    assert result.exit_code == 0
    said = words(result)
    held = len(certificate.index)
    assert f"Accepted: for each of the {held} inputs of the certificate, every run of both programs predicts the same class." in said
    assert (f"It says nothing of the other {60 - held} of 60 inputs" in said) == (held < 60)
    assert "Not compared with files of yours: the network and the inputs; give --model and --data." in said
    assert "in any order, with or without FMA" in said
    assert hashlib.sha256(file.read_bytes()).hexdigest() in said
    assert re.search(r"half: by interval \d+(, substitution \d+)?; least gap [\d.]+, of input \d+", said)


def test_a_sample_says_so(file):
    result = run("check", file, "--sample", 7, "--seed", 3, "-q")
    assert result.exit_code == 0
    assert "7 of them were checked" in words(result)
    assert "Accepted: for each of the 7 inputs that were checked, every run of both programs predicts the same class." in words(result)


def test_network_and_inputs_are_compared(file):
    result = run("check", file, "--model", DIGITS, "--data", "digits", "-q")
    assert result.exit_code == 0
    assert f"The network and the inputs are those of {DIGITS} and digits." in words(result)
    assert "Not compared" not in words(result)
    alone = run("check", file, "--model", DIGITS, "-q")
    assert f"The network is that of {DIGITS}." in words(alone)
    assert "Not compared with files of yours: the inputs; give --data." in words(alone)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ("weights", "the tensor 'p_fc_weight' is not that of"),
        ("network", "the network is not that of"),
        ("data", "input 0 is not that of"),
        ("length", "has 3 inputs, and the certificate speaks of input"),
    ],
)
def test_files_that_are_not_those_of_the_certificate_are_told(changed, why, file, tmp_path, monkeypatch):
    model, data = DIGITS, "digits"
    if changed == "weights":
        module = load_model(DIGITS).module
        module.fc.weight.data[0, 0] += 2.0**-12
        save_model(tmp_path / "other.pt", module, arch="digits_cnn", preprocess=ZOO["digits_cnn"].preprocess)
        model = tmp_path / "other.pt"
    elif changed == "network":
        (tmp_path / "plain.py").write_text(
            "from torch import nn\n\ndef make():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
        )
        monkeypatch.syspath_prepend(tmp_path)
        torch.save(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).state_dict(), tmp_path / "plain.pt")
        result = run("check", file, "--model", tmp_path / "plain.pt", "--arch", "plain:make", "-q")
    else:
        images, labels = load_dataset("digits").images, load_dataset("digits").labels
        count = 3 if changed == "length" else len(images)
        other = images[:count].copy()
        other[0, 0, 0] += changed == "data"
        np.savez(tmp_path / "other.npz", images=other, labels=labels[:count])
        data = tmp_path / "other.npz"
    if changed != "network":
        result = run("check", file, "--model", model, "--data", data, "-q")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert re.search(rf"^Refused at the step 'comparison': .*{re.escape(why)} ?", " ".join(result.stderr.split()))


def test_inputs_of_another_size_are_not_those_of_the_data(tmp_path, monkeypatch):
    """Constant images, of which the certificate has one pixel each: equal numbers, if shapes were ignored."""
    (tmp_path / "sizes.py").write_text("from torch import nn\n\ndef make():\n    return nn.Sequential(nn.Conv2d(1, 3, 1), nn.Flatten())\n")
    monkeypatch.syspath_prepend(tmp_path)
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 3, 1), nn.Flatten())
    torch.save(module.state_dict(), tmp_path / "sizes.pt")
    images = np.ones((2, 1, 4, 4), dtype=np.float32) * np.float32([[[[1]]], [[[2]]]])
    np.savez(tmp_path / "large.npz", images=images)
    np.savez(tmp_path / "small.npz", images=images[:, :, :1, :1])
    options = (tmp_path / "sizes.pt", "--arch", "sizes:make", "--data")
    made = run("certify", *options, tmp_path / "small.npz", "--certificate", tmp_path / "c", "-q")
    assert made.exit_code == 0, made.stderr
    model = ("--model", tmp_path / "sizes.pt", "--arch", "sizes:make", "--data")
    assert run("check", tmp_path / "c", *model, tmp_path / "small.npz", "-q").exit_code == 0
    result = run("check", tmp_path / "c", *model, tmp_path / "large.npz", "-q")
    assert result.exit_code == 1
    assert "have the shape (1, 4, 4), those of the certificate (1, 1, 1)." in words(result)


def test_a_forged_certificate_is_refused_with_the_step(file, tmp_path):
    certificate = read(file)
    write(replace(certificate, least=certificate.least * 1.5), tmp_path / "forged.cert")
    result = run("check", tmp_path / "forged.cert", "-q")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert re.fullmatch(
        r"Refused at the step 'reference program': input \d+: the least gap is claimed to be [\d.]+, and is derived to be [\d.]+\.",
        result.stderr.strip(),
    )


def test_what_is_no_certificate_is_refused(tmp_path):
    (tmp_path / "text.cert").write_text("proved")
    result = run("check", tmp_path / "text.cert")
    assert result.exit_code == 1
    assert result.stderr == (
        "Refused at the step 'container': the file is no whole certificate (File is not a zip file); copy it again, or "
        "give a file that 'precisionkit certify --certificate FILE' wrote.\n"
    )
    missing = run("check", tmp_path / "none.cert")
    assert missing.exit_code == 2
    assert re.fullmatch(r"Error: The certificate '.*none\.cert' cannot be read: No such file or directory\.\n", missing.stderr)


@pytest.mark.parametrize("option", [("--limit", 5), ("--arch", "digits_cnn"), ("--trust",), ("--resize", "8")])
def test_options_of_a_model_without_one_are_wrong_use(option, file):
    result = run("check", file, *option)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"Error: {option[0]} is for a model to compare with; give --model as well, or leave")
    assert ("give --sample" in result.stderr) == (option[0] == "--limit")


@pytest.mark.parametrize("option", ["--json", "--table", "--certificate"])
def test_no_output_overwrites_what_is_read_or_another_output(option, tmp_path):
    images, labels = load_dataset("digits", limit=2).images, load_dataset("digits", limit=2).labels
    np.savez(tmp_path / "data.npz", images=images, labels=labels)
    model = tmp_path / "m.csv"
    model.write_bytes(Path(DIGITS).read_bytes())
    (tmp_path / "sub").mkdir()
    same = run("certify", model, "--arch", "digits_cnn", "--data", tmp_path / "data.npz", option, tmp_path / "sub" / ".." / "m.csv")
    assert same.exit_code == 2
    assert f"{option} would overwrite '{model}', which is read; choose another name." in words(same)
    other = "--json" if option != "--json" else "--certificate"
    twice = run("certify", DIGITS, "--data", "digits", option, tmp_path / "r.csv", other, tmp_path / "r.csv")
    assert twice.exit_code == 2
    assert re.search(r"(--json|--table|--certificate) would overwrite the file of (--json|--table|--certificate)", words(twice))
    assert not (tmp_path / "r.csv").exists()


def test_a_file_that_is_read_only_is_not_replaced(tmp_path):
    (tmp_path / "kept.cert").write_text("mine")
    (tmp_path / "kept.cert").chmod(0o444)
    result = run("certify", DIGITS, "--data", "digits", "--limit", 2, "--certificate", tmp_path / "kept.cert")
    assert result.exit_code == 2
    assert "is there already and is read-only; choose another name." in words(result)
    assert (tmp_path / "kept.cert").read_text() == "mine"


def test_an_interrupted_certificate_is_told(tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(precisionkit.checker, "derive", interrupted)
    options = ("--json", tmp_path / "r.json", "--certificate", tmp_path / "c")
    result = run("certify", DIGITS, "--data", "digits", "--limit", 5, *options)
    assert result.exit_code == 130
    assert "Interrupted: no certificate was written." in words(result)
    assert "nothing was written" not in words(result)
    assert (tmp_path / "r.json").exists()
    assert not (tmp_path / "c").exists()


def test_data_without_a_model_is_wrong_use(file):
    result = run("check", file, "--data", "digits")
    assert result.exit_code == 2
    assert "give --model" in result.stderr


@pytest.mark.parametrize("option", [("--order", "tensorcore:hopper"), ("--order", "splitk:2"), ("--order", "exact")])
def test_arithmetics_that_the_checker_does_not_know_are_refused_at_once(option, tmp_path):
    result = run("certify", DIGITS, "--data", "digits", *option, "--certificate", tmp_path / "c")
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: No certificate can be written for fp16/fp32-")
    assert "choose --order any" in result.stderr
    assert not (tmp_path / "c").exists()


def test_a_folder_for_a_file_is_refused_at_once(tmp_path):
    result = run("certify", DIGITS, "--data", "digits", "--certificate", tmp_path)
    assert result.exit_code == 2
    assert "is a folder" in result.stderr


@pytest.mark.parametrize("order", ["sequential", "pairwise", "blocked:4"])
def test_named_orders_and_fused_kernels_are_some_of_any(order):
    assert check_rule(parse_arithmetic("bf16", "fp32", order)).accumulate.name == "binary32"
    assert check_rule(parse_arithmetic("fp16", "fp16", order)).accumulate.name == "binary16"
    assert check_rule(parse_arithmetic("fp16", "fp32", "any", "epilogue")).storage.name == "binary16"
    with pytest.raises(UnsupportedArithmeticError, match="fp16/fp64-any"):
        check_rule(parse_arithmetic("fp16", "fp64"))


@pytest.mark.parametrize(
    ("module", "shape", "what"),
    [
        (nn.Sequential(nn.Linear(4, 4), nn.Sigmoid(), nn.Linear(4, 2)), (4,), "the operator 'sigmoid'"),
        (nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(4, 2)), (1, 4, 4), "the operator 'avg_pool2d'"),
        (nn.Sequential(nn.MaxPool2d(2, ceil_mode=True), nn.Flatten(), nn.Linear(9, 2)), (1, 5, 5), "ceil_mode"),
        (nn.Sequential(nn.BatchNorm1d(4, eps=2.0), nn.Linear(4, 2)), (4,), "eps = 2.0"),
    ],
)
def test_networks_that_the_checker_does_not_know_are_refused_with_the_node(module, shape, what):
    with pytest.raises(UnsupportedOperatorError, match=r"^No certificate can be written: node '.*leave out --certificate\.$") as found:
        check_network(capture(module.eval(), shape))
    assert what in str(found.value)


class Moved(nn.Module):
    def forward(self, x):
        return x + 1.0


def test_a_number_that_is_added_is_refused():
    graph = capture(nn.Sequential(nn.Linear(3, 2), Moved()).eval(), (3,))
    with pytest.raises(UnsupportedOperatorError, match="'add' of a number or a constant"):
        check_network(graph)


def test_what_the_checker_cannot_prove_is_left_out_and_told(tmp_path, monkeypatch):
    """All but the first input: the checker's bounds are taken away."""
    honest = precisionkit.checker.derive

    def weak(network, rule, inputs, classes):
        methods, least = honest(network, rule, inputs, classes)
        return methods, np.where(np.arange(len(least)) == 0, least, -1.0)

    monkeypatch.setattr(precisionkit.checker, "derive", weak)
    result = run("certify", DIGITS, "--data", "digits", "--limit", 5, "--certificate", tmp_path / "c")
    assert result.exit_code == 0
    assert "4 of 5 proved inputs are not in the certificate" in words(result)
    assert check(tmp_path / "c").certificate.index.tolist() == [0]
    monkeypatch.setattr(precisionkit.checker, "derive", lambda *_: (np.zeros(5, np.uint8), -np.ones(5)))
    result = run("certify", DIGITS, "--data", "digits", "--limit", 5, "--certificate", tmp_path / "none")
    assert result.exit_code == 1
    assert not (tmp_path / "none").exists()
    assert "No certificate was written: The checker's bounds" in words(result)
    assert "prove none of the inputs; there is no certificate to write." in words(result)


def test_nothing_proved_gives_no_certificate():
    model, data = load_model(DIGITS), load_dataset("digits", limit=1)
    report = certify(model, data, parse_arithmetic())
    unproved = tuple(msgspec.structs.replace(row, verdict="observed") for row in report.inputs)
    with pytest.raises(UsageError, match=r"^Nothing was proved, so there is no certificate to write\.$"):
        make_certificate(model, data, msgspec.structs.replace(report, inputs=unproved))


REAL = {
    "mnist_fc_3layer": "mnist_fc_3layer.pth",
    "mnist_cnn_small": "mnist_cnn_small.pth",
    "mnist_6_100": "mnist_6_100_nat.pth",
    "lenet5": "lenet_mnist.pt",
}


@pytest.mark.parametrize("name", REAL)
def test_certificates_of_real_networks_are_accepted(name, shared, tmp_path):
    """The first 60 images; ``python -m tests.certificates`` does the same for all 10,000."""
    model = shared / "models" / REAL[name]
    options = ("--arch", name, "--data", "mnist", "--data-root", shared / "data", "--limit", 60)
    result = run("certify", model, *options, "--certificate", tmp_path / "c", "-q")
    assert result.exit_code == 0, result.stderr
    verified = check(tmp_path / "c")
    assert len(verified.rows) >= 59
    assert (verified.least > 0).all()
    certificate = verified.certificate
    moved = {key: value + np.float32(1e-3) for key, value in certificate.network.constants.items()}
    write(replace(certificate, network=replace(certificate.network, constants=moved)), Path(tmp_path / "forged"))
    with pytest.raises(CertificateError, match="reference program"):
        check(tmp_path / "forged")
