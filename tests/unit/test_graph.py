"""What a fused kernel stores."""

import pytest
import torch
from torch import nn

from precisionkit.arithmetic import parse_arithmetic
from precisionkit.capture import capture
from precisionkit.errors import UnsupportedArithmeticError
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
