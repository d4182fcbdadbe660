"""The arithmetic of pulling back: which one is chosen, and torch's switches around it."""

import dataclasses

import pytest
import torch
from torch import nn

from precisionkit.arithmetic import REFERENCE, parse_arithmetic
from precisionkit.bound.pulling import IN_BINARY32, IN_BINARY64, direct_sums, pulling_for
from precisionkit.capture import capture
from precisionkit.evaluate import Program
from precisionkit.ops.adjoint import slope_in_binary32


def test_binary32_programs_are_pulled_back_in_binary32():
    graph = capture(nn.Linear(3, 2), (3,))
    assert pulling_for(Program.of(graph, REFERENCE)) == IN_BINARY32
    assert pulling_for(Program.of(graph, parse_arithmetic("fp16"))) == IN_BINARY64


def test_large_tensors_are_pulled_back_in_binary64():
    graph = dataclasses.replace(capture(nn.Linear(3, 2), (3,)), input_shape=(2**16 + 1,))
    assert pulling_for(Program.of(graph, REFERENCE)) == IN_BINARY64


@pytest.mark.parametrize("precision", ["highest", "medium"])
def test_the_users_precision_of_products_is_put_aside_and_restored(precision):
    """With `medium`, a CPU that can multiplies in bfloat16."""
    before = torch.get_float32_matmul_precision()
    x = torch.full((64, 64), 1 + 2.0**-20)
    try:
        torch.set_float32_matmul_precision(precision)
        with direct_sums():
            assert torch.equal(x @ torch.eye(64), x)
            assert not torch.is_grad_enabled()
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision(before)


def test_slopes_become_numbers_of_binary32():
    slopes = torch.tensor([0.0, 1.0, 1 / 3, 2.0**-120], dtype=torch.float64)
    found = slope_in_binary32(slopes)
    assert found.float().double().tolist() == found.tolist()
    assert found.tolist()[:2] == [0.0, 1.0]
    assert found[3] == 0
    assert abs(found[2] - slopes[2]) <= 2.0**-26
