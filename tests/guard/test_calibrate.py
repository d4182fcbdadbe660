"""Calibration and trial of small networks from Python: what is refused, and what capture has to do with it."""

import re

import numpy as np
import pytest
import torch
from torch import nn

from precisionkit import task
from precisionkit.capture import capture
from precisionkit.data import load_dataset
from precisionkit.errors import UnusableModelError
from precisionkit.guard import Settings, calibrate, half, try_plan
from precisionkit.models import LoadedModel, Preprocess
from tests.guard.nets import inputs, net


class Branching(nn.Module):
    """It cannot be captured, because what it does depends on numbers."""

    def __init__(self):
        super().__init__()
        self.body = net()

    def forward(self, x):
        return self.body(x) if float(x.sum()) < 1e9 else self.body(-x)


def loaded(module):
    return LoadedModel(module.eval(), "m", "a" * 64, "net", 1, (4,), 3, Preprocess())


def dataset(folder, rows=100, labels=3, seed=1):
    path = folder / f"{rows}-{labels}-{seed}.npz"
    np.savez(path, images=inputs(rows, seed).numpy(), **({"labels": np.arange(rows) % labels} if labels else {}))
    return load_dataset(str(path))


SETTINGS = {kernels: Settings(risk=0.05, kernels=kernels) for kernels in ("native", "rounded")}


@pytest.mark.parametrize("kernels", ["native", "rounded"])
def test_labels_beyond_the_classes_are_refused(kernels, tmp_path):
    said = r"^The data set '.*' has the label 9, but the model has 3 classes, 0 to 2; use the model with the data set that it was trained for\.$"
    with pytest.raises(UnusableModelError, match=said):
        calibrate(loaded(net()), dataset(tmp_path, labels=10), SETTINGS[kernels])


def test_labels_are_checked_where_nothing_can_be_captured(tmp_path):
    with pytest.raises(UnusableModelError, match=re.escape("has the label 9, but the model has 3 classes")):
        calibrate(loaded(Branching()), dataset(tmp_path, labels=10), SETTINGS["native"])


def test_a_network_that_cannot_be_captured_is_calibrated_and_tried_by_native_kernels(tmp_path):
    model = loaded(Branching())
    guarded, report = calibrate(model, dataset(tmp_path), SETTINGS["native"])
    assert (report.multiplications, report.purpose, report.counts.inputs) == (None, "calibration", 100)
    report = try_plan(model, dataset(tmp_path, labels=0, seed=2), guarded.plan)
    assert (report.multiplications, report.purpose, report.counts.correct_half) == (None, "trial", None)


def test_a_network_is_captured_once(tmp_path, monkeypatch):
    captures = []

    def counted(*arguments):
        captures.append(arguments)
        return capture(*arguments)

    for module in (task, half):
        monkeypatch.setattr(module, "capture", counted)
    calibrate(loaded(net()), dataset(tmp_path), SETTINGS["rounded"])
    assert len(captures) == 1


def test_weights_that_are_no_numbers_are_refused(tmp_path):
    model = net()
    model[0].weight[0, 0] = torch.inf
    with pytest.raises(
        UnusableModelError, match=r"^The tensor '0\.weight' holds the value inf, beyond 65504, the largest number of binary16; "
    ):
        calibrate(loaded(model), dataset(tmp_path), SETTINGS["native"])


def test_autocast_changes_no_calibration(tmp_path):
    _, report = calibrate(loaded(net()), dataset(tmp_path), SETTINGS["native"])
    with torch.autocast("cpu", torch.bfloat16):
        guarded, again = calibrate(loaded(net()), dataset(tmp_path), SETTINGS["native"])
        assert try_plan(loaded(net()), dataset(tmp_path, seed=2), guarded.plan).plan == guarded.plan
    assert (again.plan, again.counts) == (report.plan, report.counts)
