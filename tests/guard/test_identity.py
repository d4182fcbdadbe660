"""The hash that ties a plan to its network: blind to nothing that decides results, and the same for equal networks."""

import copy
from functools import partial

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn
from torch.nn import functional

from precisionkit.guard import GuardedHalf
from precisionkit.guard.identity import network_hash
from precisionkit.models import bundled_model, load_model
from tests.guard.nets import plan_for


def built(slope=0.01, eps=1e-5, stride=1, dilation=1, pad=0, mode="zeros", size=2, approximate="none"):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, stride=stride, padding=pad, dilation=dilation, padding_mode=mode),
            nn.BatchNorm2d(4, eps=eps),
            nn.LeakyReLU(slope),
            nn.MaxPool2d(size),
            nn.GELU(approximate),
        ).eval()


SETTINGS = [
    {"slope": 0.5},
    {"eps": 1e-3},
    {"stride": 2},
    {"dilation": 2},
    {"pad": 1},
    {"pad": 1, "mode": "reflect"},
    {"size": 3},
    {"approximate": "tanh"},
]


def test_settings_of_modules_are_told_apart():
    hashes = [network_hash(built(**settings)) for settings in ({}, *SETTINGS)]
    assert len(set(hashes)) == len(hashes)
    assert network_hash(built()) == hashes[0]


class Attributes(nn.Module):
    """What it does is written in attributes."""

    def __init__(self, scale=1.0, mode="max", act=functional.relu, powers=(1, 2), **others):
        super().__init__()
        self.scale, self.mode, self.act, self.powers = scale, mode, act, powers
        for name, value in others.items():
            setattr(self, name, value)


ATTRIBUTES = [
    {},
    {"scale": 2.0},
    {"scale": torch.ones(3)},
    {"scale": -torch.ones(3)},
    {"scale": torch.ones(3, 1)},
    {"mode": "mean"},
    {"act": functional.silu},
    {"act": partial(functional.leaky_relu, negative_slope=0.1)},
    {"act": partial(functional.leaky_relu, negative_slope=0.2)},
    {"powers": [1, 3]},
]


def test_attributes_are_told_apart_and_copies_are_not():
    modules = [Attributes(**given) for given in ATTRIBUTES]
    hashes = list(map(network_hash, modules))
    assert len(set(hashes)) == len(hashes)
    assert [network_hash(copy.deepcopy(module)) for module in modules] == hashes


def test_where_a_network_lies_and_what_it_caches_are_no_settings():
    assert network_hash(Attributes(name_or_path="a", _cache=torch.ones(1))) == network_hash(Attributes(name_or_path="b"))


def test_a_class_of_the_same_name_is_another_one():
    hashes = set()
    for factor in (1, 2):
        code = {"nn": nn, "__name__": f"m{factor}"}
        exec(f"class Net(nn.Module):\n    def forward(self, x): return {factor} * x", code)
        hashes.add(network_hash(code["Net"]()))
    assert len(hashes) == 2


def traced(factor):
    class Net(nn.Module):
        def forward(self, x):
            return functional.leaky_relu(x, factor)

    return torch.fx.symbolic_trace(Net())


def test_code_of_traced_modules_is_told_apart():
    assert network_hash(traced(0.1)) == network_hash(traced(0.1)) != network_hash(traced(0.2))


def onnx_file(path, alpha=0.1, stride=1, clip=6.0):
    random = np.random.default_rng(0)
    arrays = {"w": random.normal(size=(4, 1, 3, 3)), "fc": random.normal(size=(4, 3)), "mx": np.array(clip), "mn": np.array(-clip)}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], strides=[stride, stride]),
        helper.make_node("LeakyRelu", ["a"], ["b"], alpha=alpha),
        helper.make_node("Clip", ["b", "mn", "mx"], ["c"]),
        helper.make_node("GlobalAveragePool", ["c"], ["d"]),
        helper.make_node("Flatten", ["d"], ["e"]),
        helper.make_node("MatMul", ["e", "fc"], ["y"]),
    ]
    ends = [[helper.make_tensor_value_info(name, 1, shape)] for name, shape in (("x", ["n", 1, 8, 8]), ("y", ["n", 3]))]
    constants = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "g", *ends, constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return load_model(path).module


@pytest.mark.parametrize("change", [{"alpha": 0.5}, {"stride": 2}, {"clip": 3.0}])
def test_networks_of_onnx_files_that_differ_in_a_step_are_told_apart(change, tmp_path):
    given, again, other = onnx_file(tmp_path / "a.onnx"), onnx_file(tmp_path / "a.onnx"), onnx_file(tmp_path / "b.onnx", **change)
    assert [p.shape for p in given.parameters()] == [p.shape for p in other.parameters()]
    assert network_hash(given) == network_hash(again) == network_hash(copy.deepcopy(given)) != network_hash(other)


class Leaky(nn.Module):
    def __init__(self, slope):
        super().__init__()
        self.slope = slope

    def forward(self, x):
        return functional.leaky_relu(x, self.slope)


def exported(path, slope):
    network = nn.Sequential(nn.Linear(4, 3), Leaky(slope)).eval()
    with torch.no_grad():
        network[0].weight.fill_(0.5)
        network[0].bias.fill_(0.25)
    torch.export.save(torch.export.export(network, (torch.zeros(2, 4),), dynamic_shapes=({0: torch.export.Dim("batch")},)), path)
    return load_model(path).module


def test_exported_programs_that_differ_in_a_step_are_told_apart(tmp_path):
    one, other = (exported(tmp_path / f"{slope}.pt2", slope) for slope in (0.1, 0.2))
    assert network_hash(one) == network_hash(load_model(tmp_path / "0.1.pt2").module) != network_hash(other)


def test_an_exported_program_can_be_guarded(tmp_path):
    module = exported(tmp_path / "a.pt2", 0.1)
    assert not any(part.training for part in module.modules())
    guarded = GuardedHalf(module, plan_for(module))
    assert float((guarded(torch.ones(2, 4)) - module(torch.ones(2, 4))).abs().max()) < 0.01


def test_a_bundled_network_has_one_hash():
    assert len({network_hash(load_model(bundled_model("digits_cnn")).module) for _ in range(2)}) == 1
