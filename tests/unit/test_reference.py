"""Reference forward passes: a module in a named arithmetic."""

import copy

import pytest
import torch
from torch import nn

from precisionkit.errors import UnsupportedArithmeticError, UsageError
from precisionkit.reference import forward


@pytest.fixture
def network():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(32, 5)).eval()
    return module, torch.randn(3, 2, 6, 6)


RUNS = ["sequential", "pairwise:fma", "blocked:4", "splitk:2", "exact", "volta", "ada", "blackwell"]


@pytest.mark.parametrize("run", RUNS)
def test_logits_are_numbers_of_the_format_near_the_exact_ones(network, run):
    module, images = network
    logits = forward(module, images, run=run)
    assert (logits == logits.half().double()).all()
    with torch.no_grad():
        exact = copy.deepcopy(module).double()(images.double())
    assert (logits - exact).abs().max() < 0.01


def test_runs_differ_where_sums_are_in_half(network):
    module, images = network
    runs = [forward(module, images, accumulate="fp16", run=run) for run in ("sequential", "pairwise", "sequential:fma", "hopper")]
    assert all((a != b).any() for i, a in enumerate(runs) for b in runs[:i])
    assert (forward(module, images, accumulate="fp16") == runs[0]).all()


def test_a_batch_is_run_as_its_images_are(network):
    module, images = network
    for run in ("pairwise", "hopper"):
        whole = forward(module, images, storage="fp32" if run == "pairwise" else "fp16", run=run)
        parts = [forward(module, image[None], storage="fp32" if run == "pairwise" else "fp16", run=run) for image in images]
        assert (torch.cat(parts) == whole).all()


def test_every_stored_value_can_be_observed(network):
    module, images = network
    seen = {}
    forward(module, images, storage="bf16", run="ampere", observe=lambda node, value: seen.setdefault(node.operator, value))
    assert {"conv2d", "batch_norm", "relu", "avg_pool2d", "linear"} <= set(seen)
    assert all((value == value.bfloat16().float()).all() for value in seen.values())


def test_a_run_that_is_not_known_is_refused(network):
    with pytest.raises(UnsupportedArithmeticError, match=r"^The run 'turing' is not known; choose volta"):
        forward(*network, run="turing")


def test_modules_that_are_not_ready_are_refused(network):
    module, images = network
    with pytest.raises(UsageError, match=r"^The module is in training mode"):
        forward(copy.deepcopy(module).train(), images)
    with pytest.raises(UsageError, match=r"^The module has parameters in torch\.float16; give binary32 ones"):
        forward(copy.deepcopy(module).half(), images)
