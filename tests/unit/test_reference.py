"""Reference forward passes: a module in a named arithmetic."""

import copy

import pytest
import torch
from torch import nn

from precisionkit.arithmetic import parse_arithmetic
from precisionkit.capture import capture
from precisionkit.errors import UnsupportedArithmeticError, UsageError
from precisionkit.evaluate import Program, execute
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


@pytest.fixture
def program(network):
    return Program.of(capture(network[0], (2, 6, 6)), parse_arithmetic("fp16"))


def test_programs_round_their_weights_and_inputs(network, program):
    inputs = program.inputs(network[1])
    for stored, given in ((inputs, network[1]), *((value, program.graph.constants[name]) for name, value in program.constants.items())):
        assert torch.equal(stored, given.half().float())
    assert not torch.equal(inputs, network[1])


def test_every_stored_value_is_a_number_of_the_format(network, program):
    seen = {}
    execute(program, program.inputs(network[1]), observe=lambda node, value: seen.setdefault(node.name, value))
    assert len(seen) == len(program.graph.nodes)
    assert all(torch.equal(value, value.half().float()) for value in seen.values())


def test_infinity_on_the_way_is_noticed():
    """The logits are finite again behind a sigmoid."""
    net = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Sigmoid(), nn.Linear(1, 2))
    net[0].weight.data.fill_(4.0)
    made = Program.of(capture(net, (1,)), parse_arithmetic("fp16"))
    run = execute(made, made.inputs(torch.tensor([[60_000.0], [1.0]])))
    assert run.logits.isfinite().all()
    assert run.finite.tolist() == [False, True]
