"""Sums accumulated in a half format: against a loop over numbers, and where nothing rounds against torch's own kernels."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from precisionkit.training.contraction import BLOCK, SPLIT, averaged, contract, convolved, convolved_backward, summed


def looped(row: np.ndarray, column: np.ndarray) -> np.float16:
    """One entry, by the definition; sums of 16 products of these numbers are exact in binary64 and round alike from binary32."""
    parts = []
    for first in range(0, len(row), SPLIT):
        total = None
        for k in range(first, min(first + SPLIT, len(row)), BLOCK):
            block = np.float32(np.dot(row[k : k + BLOCK].astype(np.float64), column[k : k + BLOCK].astype(np.float64)))
            total = np.float16(block) if total is None else np.float16(np.float32(total) + block)
        parts.append(total)
    total = parts[0]
    for part in parts[1:]:
        total = np.float16(total + part)
    return total


@given(st.integers(1, 2100), st.integers(0, 2**32 - 1))
def test_every_entry_is_the_loops(length, seed):
    rng = np.random.default_rng(seed)
    a, b = (rng.integers(-8, 9, shape).astype(np.float16) for shape in ((2, length), (length, 3)))
    with np.errstate(over="ignore"):
        expected = [[looped(a[i], b[:, j]) for j in range(3)] for i in range(2)]
    assert contract(torch.from_numpy(a), torch.from_numpy(b)).numpy().tolist() == np.array(expected).tolist()


def test_a_half_accumulator_stalls_where_a_binary32_one_does_not():
    ones = torch.ones(1, SPLIT, dtype=torch.float16)
    start = torch.full((1, BLOCK), 4096 / BLOCK, dtype=torch.float16)
    row = torch.cat([start, ones[:, : SPLIT - BLOCK] / BLOCK], 1)  # 4096, then blocks of 1: half the spacing is 2
    column = torch.ones(SPLIT, 1, dtype=torch.float16)
    assert contract(row, column).item() == 4096
    assert (row.float() @ column.float()).item() == 4096 + SPLIT // BLOCK - 1


def test_sums_overflow_and_means_do_not():
    large = torch.full((4096,), 60000.0, dtype=torch.float16)
    assert summed(large, (0,), keepdim=False).isinf()
    assert averaged(large, (0,), keepdim=False).item() == 60000


@pytest.mark.parametrize("dims", [(0,), (1,), (0, 2), (0, 1, 2)])
@pytest.mark.parametrize("keepdim", [True, False])
def test_sums_and_means_have_torchs_shapes_and_values(dims, keepdim):
    values = torch.arange(64, dtype=torch.float16).reshape(4, 2, 8)  # all their sums and means of two are numbers of binary16
    for mine, other in ((summed, torch.sum), (averaged, torch.mean)):
        assert torch.equal(mine(values, dims, keepdim=keepdim).float(), other(values.float(), dims, keepdim=keepdim))


def test_the_mean_of_an_odd_number_divides_first():
    large = torch.tensor([60000.0, 60000.0, 60000.0], dtype=torch.float16)
    assert averaged(large, (0,), keepdim=False).item() == 60000
    assert averaged(torch.tensor([0.0, 3.0, 6.0], dtype=torch.float16), (0,), keepdim=False).item() == 3


@pytest.mark.parametrize(
    ("stride", "padding", "dilation", "groups"),
    [((1, 1), (0, 0), (1, 1), 1), ((2, 1), (1, 0), (1, 2), 1), ((1, 2), (2, 1), (2, 1), 2), ((1, 1), (1, 1), (1, 1), 4)],
)
def test_convolutions_of_small_integers_are_torchs(stride, padding, dilation, groups):
    generator = torch.Generator().manual_seed(1)
    x = torch.randint(-2, 3, (3, 4, 7, 6), generator=generator).float().requires_grad_()
    weight = torch.randint(-2, 3, (8, 4 // groups, 3, 2), generator=generator).float().requires_grad_()
    bias = torch.randint(-2, 3, (8,), generator=generator).float().requires_grad_()
    expected = functional.conv2d(x, weight, bias, stride, padding, dilation, groups)
    grad = torch.randint(-2, 3, tuple(expected.shape), generator=generator).float()
    expected.backward(grad)
    options = [list(stride), list(padding), list(dilation), groups]
    half = [t.detach().half() for t in (x, weight, bias)]
    assert torch.equal(convolved(*half, *options).float(), expected)
    found = convolved_backward(grad.half(), *half[:2], *options)
    assert all(torch.equal(mine.float(), one.grad) for mine, one in zip(found, (x, weight, bias), strict=True))
