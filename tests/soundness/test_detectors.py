"""Neurons that detect the order of a sum (Szasz, Banhelyi, Jelasity): a sum that is 0 or 1 by its order decides the class.

Backdoors of this kind fool verifiers that reason about exact sums.  They are never certified.
"""

import pytest
import torch
from torch import nn

from precisionkit.arithmetic import parse_arithmetic
from precisionkit.bound import Ladder
from precisionkit.capture import capture
from precisionkit.evaluate import Program, execute

METHODS = ("interval", "zonotope", "adjoint", "auto")


class Detector(nn.Module):
    """``w + 1 + ... + 1 - w`` from an input of ones; class 0 when the sum is above a half, else class 1."""

    def __init__(self, first, middle, last):
        super().__init__()
        weights = [*first, *[1.0] * middle, *last]
        self.sum, self.logits = nn.Linear(len(weights), 1, bias=False), nn.Linear(1, 2)
        self.sum.weight.data = torch.tensor([weights])
        self.logits.weight.data, self.logits.bias.data = torch.tensor([[1.0], [0.0]]), torch.tensor([0.0, 0.5])

    def forward(self, x):
        return self.logits(torch.relu(self.sum(x)))


def detector(options, ones):
    """The large number swallows a one in the accumulator: 2**24 in binary32, 2**11 in binary16."""
    storage, accumulate, *_ = (*options, "fp32")
    large = 2.0 ** (11 if accumulate == "fp16" else 24)
    if storage == "fp16" and accumulate == "fp32":  # 2**24 is no binary16 number: a sum of 512 times 2**15
        first, last = [2.0**15] * 512, [-(2.0**15)] * 512
    else:
        first, last = [large], [-large]
    return Detector(first, ones, last), (len(first) + ones + len(last),)


OPTIONS = [("fp32", "fp32"), ("fp16", "fp32"), ("bf16", "fp32"), ("fp16", "fp16")]


@pytest.mark.parametrize("options", OPTIONS, ids="-".join)
@pytest.mark.parametrize("ones", [1, 512])
def test_detectors_are_never_certified_for_any_order(options, ones):
    net, shape = detector(options, ones)
    arithmetic = parse_arithmetic(*options)
    made = Program.of(capture(net, shape), arithmetic)
    inputs = made.inputs(torch.ones(1, *shape))
    for method in METHODS:
        if method == "adjoint" and not arithmetic.unbiased_sums:
            continue
        ladder = Ladder.of(method, arithmetic)
        for run in [m for _, m in ladder.proofs] + ([ladder.likely] if ladder.likely else []):
            assert not run(made, inputs, None).keeps_class().any()


@pytest.mark.parametrize(("options", "ones"), [(("fp16", "fp16"), 1), (("fp32", "fp32"), 1), (("fp32", "fp32"), 512)])
def test_their_class_really_depends_on_the_order(options, ones):
    """So a certificate would be wrong: the same sum, in index order and from the small terms up."""
    net, shape = detector(options, ones)
    graph = capture(net, shape)
    sequential = Program.of(graph, parse_arithmetic(*options, "sequential"))
    inputs = sequential.inputs(torch.ones(1, *shape))
    weight = next(value for value in sequential.constants.values() if value.shape == (1, shape[0]))
    order = weight[0].argsort()  # -w first, then w: they cancel before the ones come
    order = torch.cat([order[:1], order[-1:], order[1:-1]])
    moved = Program(
        graph, sequential.arithmetic, {k: v[:, order] if v.shape == weight.shape else v for k, v in sequential.constants.items()}
    )
    assert execute(sequential, inputs).logits.argmax(1).item() == 1
    assert execute(moved, inputs).logits.argmax(1).item() == 0


@pytest.mark.parametrize("options", [("fp32", "fp32", "sequential"), ("fp16", "fp16", "sequential"), ("fp16", "fp16", "blocked:2")])
def test_what_they_do_in_a_named_order_lies_at_the_end_of_the_enclosure(options):
    net, shape = detector(options, 1)
    made = Program.of(capture(net, shape), parse_arithmetic(*options))
    inputs = made.inputs(torch.ones(1, *shape))
    bounds = Ladder.of("zonotope", made.arithmetic).proofs[0][1](made, inputs, None)
    moved = (execute(made, inputs).logits - bounds.centre).abs()[0, 0]
    assert moved == 1
    assert moved <= bounds.radius[0, 0] <= 1.01
    assert not bounds.keeps_class().any()
