"""What a fused kernel stores, and hashes of graphs."""

import copy
import os
import subprocess
import sys
from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

from precisionkit.arithmetic import parse_arithmetic
from precisionkit.capture import capture
from precisionkit.errors import UnsupportedArithmeticError
from precisionkit.graph import Graph, Node, content_hash, fingerprint
from precisionkit.models import ZOO


class Blocks(nn.Module):
    """Two branches that meet, a constant that is added, a result that is used twice, and two batch normalisations in a row."""

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(2, 2, 3, padding=1) for _ in range(5))
        self.norms = nn.ModuleList(nn.BatchNorm2d(2) for _ in range(4))
        self.offset = nn.Parameter(torch.zeros(2, 6, 6))

    def forward(self, x):
        a = self.norms[0](self.convs[0](x)) + self.norms[1](self.convs[1](x))
        b = self.convs[2](a) + self.offset
        twice = self.convs[3](b)
        c = self.norms[2](twice) + twice
        return self.norms[3](self.norms[2](self.convs[4](c))).flatten(1)


def test_chains_end_where_a_result_is_used_twice_or_by_another_kernel():
    graph = capture(Blocks().eval(), (2, 6, 6))
    inside = [node.name in graph.inside_chains for node in graph.nodes if node.operator in ("conv2d", "batch_norm")]
    #  conv0, norm0 | conv1, norm1 + norm0 | conv2 + offset | conv3 | norm2 + conv3 | conv4, norm2 | norm3
    assert inside == [True, False, True, True, True, False, False, True, False, False]


def test_a_residual_network_stores_once_a_layer():
    entry = ZOO["cifar_resnet20"]
    graph = capture(entry.build(), entry.input_shape)
    kinds = [node.operator for node in graph.nodes if node.name in graph.inside_chains]
    assert (kinds.count("conv2d"), kinds.count("batch_norm"), len(kinds)) == (19, 9, 28)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("fp16", "fp32", "any", "all"), r"The fusion 'all' is not known; choose --fuse none or --fuse epilogue\."),
        (("fp32", "fp32", "any", "epilogue"), r"--storage fp32 has none; choose --fuse none\."),
    ],
)
def test_unknown_fusions_are_refused(options, message):
    with pytest.raises(UnsupportedArithmeticError, match=message):
        parse_arithmetic(*options)


def test_what_is_fused_is_said():
    fused = parse_arithmetic("fp16", fuse="epilogue")
    assert fused.name == "fp16/fp32-any-fused"
    assert "not folded" in fused.assumptions[0]
    assert not any("before it adds its bias" in sentence for sentence in fused.assumptions)


@dataclass(frozen=True)
class Places:
    first: torch.Tensor


ATTRIBUTES = {
    "eps": 1e-5,
    "bound": float("inf"),
    "dims": (1, 2),
    "dtype": torch.float32,
    "format": torch.channels_last,
    "how": "mean",
    "index": torch.arange(3),
    "keep": True,
    "places": (Places(torch.arange(4)),),
    "size": None,
}


def by_hand(**changes):
    """A graph that no exporter names."""
    nodes = (
        Node("linear", "linear", ("x", "w", None), {}, (3,), "net.py:3", "fc"),
        Node("add", "add", ("linear", "b"), ATTRIBUTES | changes, (3,), ""),
    )
    return Graph(nodes, {"w": torch.arange(6.0).reshape(3, 2), "b": torch.tensor(-torch.inf)}, "x", (2,), "add")


def test_a_fingerprint_is_the_same_everywhere():
    assert fingerprint(by_hand()) == "4c8345e8672326389f14e1a85285fcba2a666ab94ca3a9f9d0a976bd7442088c"
    code = "import sys; sys.path.insert(0, 'tests/unit'); from test_graph import *; print(fingerprint(by_hand()))"
    environment = os.environ | {"PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    found = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    assert found.stdout.strip() == fingerprint(by_hand())


CHANGES = {
    "eps": 1e-5 + 2.0**-60,
    "bound": -float("inf"),
    "dims": (2, 1),
    "dtype": torch.float16,
    "format": torch.contiguous_format,
    "how": "sum",
    "index": torch.arange(3, dtype=torch.int32),
    "keep": 1,
    "places": (Places(torch.arange(4).reshape(2, 2)),),
    "size": "None",
}


@pytest.mark.parametrize("name", CHANGES)
def test_every_attribute_counts(name):
    assert fingerprint(by_hand(**{name: CHANGES[name]})) != fingerprint(by_hand())


@pytest.mark.parametrize(
    "change",
    [
        {"input_shape": (1, 2)},
        {"output": "linear"},
        {"removed": ("aten._softmax.default",)},
        {"alone": True},
        {"tokens": True},
        {"constants": {"w": torch.arange(6.0).reshape(3, 2), "b": torch.tensor(torch.inf)}},
        {"constants": {"w": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(-torch.inf)}},
        {"nodes": (by_hand().nodes[0], replace(by_hand().nodes[1], name="add_1")), "output": "add_1"},
        {"nodes": (replace(by_hand().nodes[0], operator="mm"), by_hand().nodes[1])},
        {"nodes": (by_hand().nodes[0], replace(by_hand().nodes[1], operands=("b", "linear")))},
    ],
)
def test_everything_else_that_is_computed_counts(change):
    assert fingerprint(replace(by_hand(), **change)) != fingerprint(by_hand())


def test_names_of_constants_and_lines_do_not_count():
    graph = by_hand()
    renamed = {f"p_{name}": value for name, value in graph.constants.items()}
    nodes = tuple(
        replace(node, operands=tuple(f"p_{name}" if name in graph.constants else name for name in node.operands), source="", module="m")
        for node in graph.nodes
    )
    assert fingerprint(replace(graph, nodes=nodes, constants=renamed)) == fingerprint(graph)


def test_layouts_and_places_do_not_count_but_one_bit_does():
    net = Blocks().eval()
    graph = capture(net, (2, 6, 6))
    assert fingerprint(capture(copy.deepcopy(net).to(memory_format=torch.channels_last).train(), (2, 6, 6))) == fingerprint(graph)
    with torch.no_grad():
        net.norms[2].running_var[1] += 2.0**-23
    assert fingerprint(capture(net, (2, 6, 6))) != fingerprint(graph)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.bool, torch.int64])
def test_tensors_of_every_type_are_hashed(dtype):
    tensor = torch.tensor([[1, 0, 1], [0, 0, 1]]).to(dtype)
    assert content_hash(tensor.T.contiguous().T) == content_hash(tensor) != content_hash(tensor.T)
    assert content_hash(tensor[:0]) != content_hash(tensor[:, :0])


@pytest.mark.parametrize(
    "dtype", [torch.float8_e5m2, torch.bfloat16, torch.float16, torch.float32, torch.complex64, torch.int64, torch.bool]
)
def test_numbers_of_every_type_are_hashed(dtype):
    one, other = (torch.tensor(values).to(dtype) for values in ([1.0, 0.0], [0.0, 1.0]))
    assert content_hash(one) == content_hash(one.clone()) != content_hash(other)
