"""`precisionkit certify` on ONNX files: what it says of the same network in another format."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from precisionkit.cli import main
from precisionkit.data import load_dataset
from precisionkit.models import bundled_model, load_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled network as an ONNX file, and the first digits as it takes them and as bytes."""
    place = tmp_path_factory.mktemp("onnx")
    model, data = load_model(bundled_model("digits_cnn")), load_dataset("digits", limit=20)
    images = model.preprocess(data.images)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter deprecates itself
        for name, axes in (("net.onnx", {0: "batch"}), ("open.onnx", {0: "batch", 2: "height", 3: "width"})):
            torch.onnx.export(
                model.module,
                (images[:2],),
                str(place / name),
                dynamo=False,
                opset_version=13,
                input_names=["x"],
                dynamic_axes={"x": axes},
                do_constant_folding=False,
                training=torch.onnx.TrainingMode.PRESERVE,
            )
    assert data.labels is not None
    np.savez(place / "floats.npz", images=images.numpy(), labels=data.labels)
    np.savez(place / "bytes.npz", images=data.images, labels=data.labels)
    return place


def _certify(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["certify", *map(str, arguments), "--quiet", "--no-probe"])
    return result.exit_code, result.output


def test_the_verdicts_are_those_of_the_weights(folder: Path) -> None:
    reports = []
    for model in (folder / "net.onnx", bundled_model("digits_cnn")):
        code, output = _certify(model, "--data", folder / "floats.npz", "--json", folder / "report.json")
        assert code == 0, output
        reports.append(json.loads((folder / "report.json").read_text()))
    ours, theirs = reports
    for own, other in zip(ours["inputs"], theirs["inputs"], strict=True):
        # ONNX keeps the epsilon of the batch normalisation in binary32
        assert own == {**other, **{name: pytest.approx(other[name], rel=1e-8) for name in ("margin", "bound", "lower_margin")}}
    assert ours["model"]["arch"] == "ONNX"
    assert ours["model"]["parameters"] == theirs["model"]["parameters"]


def test_sizes_that_the_file_leaves_open_come_from_images_of_bytes(folder: Path) -> None:
    code, output = _certify(folder / "open.onnx", "--data", folder / "bytes.npz", "--method", "interval")
    assert code == 0, output
    assert "ONNX" in output


def test_a_damaged_file_ends_in_one_sentence(folder: Path) -> None:
    (folder / "cut.onnx").write_bytes((folder / "net.onnx").read_bytes()[:-100])
    code, output = _certify(folder / "cut.onnx", "--data", folder / "floats.npz")
    assert code == 2
    assert output.strip().startswith(f"Error: The model file {folder / 'cut.onnx'} is no ONNX file, or is damaged or cut off")
