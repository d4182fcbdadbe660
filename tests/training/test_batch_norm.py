"""Batch normalisation step by step: torch's values where nothing rounds much, and where its squares leave the format."""

import pytest
import torch
from torch import nn

from precisionkit.training.batch_norm import SteppedBatchNorm, stepped
from precisionkit.training.kernels import StrictKernels


def norm(**options):
    made = nn.BatchNorm2d(3, **options)
    with torch.no_grad():
        made.weight.copy_(torch.tensor([1.0, 2.0, 0.5]))
        made.bias.copy_(torch.tensor([0.0, 1.0, -1.0]))
    return made


def test_in_binary32_it_is_torchs_in_training_and_evaluation():
    mine, other = SteppedBatchNorm(norm()), norm()
    x = torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(mine(x), other(x))
    torch.testing.assert_close(mine.running_mean, other.running_mean)
    torch.testing.assert_close(mine.running_var, other.running_var)
    torch.testing.assert_close(mine.eval()(x), other.eval()(x))
    assert mine.state_dict().keys() == other.state_dict().keys()


@pytest.mark.parametrize(("deviation", "overflows"), [(250.0, False), (260.0, True)])
def test_the_variance_overflows_above_a_deviation_of_255(deviation, overflows):
    x = torch.tensor([-deviation, deviation], dtype=torch.float16).reshape(2, 1, 1, 1).expand(2, 3, 8, 8)
    with StrictKernels():
        made = SteppedBatchNorm(norm().half())
        made(x)
    assert bool(made.running_var.isinf().all()) == overflows


def test_small_deviations_become_zero_variance():
    x = torch.tensor([-1.0, 1.0]).mul(2.0**-13).half().reshape(2, 1, 1, 1).expand(2, 3, 1, 1)
    made = SteppedBatchNorm(norm(momentum=1.0).half())
    made(x)
    assert made.running_var.tolist() == [0.0, 0.0, 0.0]


def test_every_normalisation_of_a_network_is_replaced():
    made = stepped(nn.Sequential(nn.Conv2d(3, 3, 1), nn.Sequential(norm(), nn.ReLU()), norm()))
    assert not any(isinstance(one, nn.BatchNorm2d) for one in made.modules())
    assert sum(isinstance(one, SteppedBatchNorm) for one in made.modules()) == 2
