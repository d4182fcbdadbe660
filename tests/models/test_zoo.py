from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from precisionkit.data import load_dataset
from precisionkit.errors import UsageError
from precisionkit.models import ZOO, bundled_model, load_model

DEEP = {f"{family}_resnet{depth}" for family in ("cifar", "paper") for depth in (32, 44, 56, 110)}
DEEP |= {"paper_vgg19", "paper_densenet169", "paper_vit12"}
PUBLISHED_PARAMETERS = {20: 269722, 32: 464154, 44: 658586, 56: 853018, 110: 1727962}


@pytest.mark.parametrize("name", ZOO)
def test_every_entry_is_consistent(name: str) -> None:
    entry = ZOO[name]
    height = 8 if name == "digits_cnn" else 28 if entry.input_shape[0] == 1 else 32
    image = np.zeros((2, height, height, entry.input_shape[0]), dtype=np.uint8)
    batch = entry.preprocess(image)
    assert entry.name == name
    assert tuple(batch.shape[1:]) == entry.input_shape
    assert entry.build().eval()(batch).shape == (2, entry.classes)


@pytest.mark.parametrize(("depth", "parameters"), PUBLISHED_PARAMETERS.items())
def test_resnets_have_the_published_size(depth: int, parameters: int) -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in ZOO[f"cifar_resnet{depth}"].build().parameters()) == parameters


@pytest.mark.parametrize("name", sorted(set(ZOO) - DEEP))
def test_every_architecture_is_exportable_with_a_free_batch(name: str) -> None:
    entry = ZOO[name]
    sample = torch.zeros(2, *entry.input_shape)
    program = torch.export.export(entry.build().eval(), (sample,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    assert program.module()(torch.zeros(5, *entry.input_shape)).shape == (5, entry.classes)


def test_the_bundled_network_is_small_and_right() -> None:
    path = bundled_model("digits_cnn")
    assert path.stat().st_size < 150_000
    model = load_model(path)
    data = load_dataset("digits")
    assert data.labels is not None
    with torch.no_grad():
        right = int((model.module(model.preprocess(data.images)).argmax(1).numpy() == data.labels).sum())
    assert (right, len(data.labels)) == (353, 360)


def test_an_unknown_bundled_network() -> None:
    with pytest.raises(UsageError, match=r"No trained network 'nope' comes with precisionkit: there is digits_cnn\."):
        bundled_model("nope")


def test_training_again_gives_a_network_as_good(tmp_path: Path) -> None:
    out = tmp_path / "again.pt"
    command = [sys.executable, "-m", "precisionkit.models.train", "digits_cnn", "--out", str(out)]
    text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout
    assert "of 360 test images right" in text
    assert int(text.split()[1]) >= 349  # 97 %; the last bits depend on the processor
    assert load_model(out).parameters == load_model(bundled_model("digits_cnn")).parameters


NETS = [
    ("resnet20-12fca82f.th", "cifar_resnet20", "cifar10", 9173),
    ("cifar_conv_small_sigmoid.pth", "cifar_conv_small_sigmoid", "cifar10", 6317),
    ("mnist_fc_3layer.pth", "mnist_fc_3layer", "mnist", 9752),
    ("mnist_6_100_nat.pth", "mnist_6_100", "mnist", 9629),
    ("mnist_cnn_small.pth", "mnist_cnn_small", "mnist", 9669),
    ("lenet_mnist.pt", "lenet5", "mnist", 9904),
]


@pytest.mark.real
@pytest.mark.parametrize(("file", "arch", "data", "right"), NETS)
def test_published_networks_reach_their_accuracy(shared: Path, file: str, arch: str, data: str, right: int) -> None:
    with pytest.raises(UsageError, match=f"its tensors fit --arch {arch}(\\.| or --arch paper_)"):
        load_model(shared / "models" / file)
    model = load_model(shared / "models" / file, arch=arch)
    dataset = load_dataset(data, root=shared / "data", download=False)
    assert dataset.labels is not None
    found = 0
    with torch.no_grad():
        for start in range(0, len(dataset.images), 500):
            logits = model.module(model.preprocess(dataset.images[start : start + 500]))
            found += int((logits.argmax(1).numpy() == dataset.labels[start : start + 500]).sum())
    assert (found, len(dataset.images)) == (right, 10_000)
