"""The loss scale through the optimizers."""

import pytest
import torch
from torch import nn

from precisionkit.errors import UsageError
from precisionkit.training import Settings
from precisionkit.training.optimizers import WideSGD, build_optimizer


def settings(**changes):
    return Settings(**{"arch": "-", "data": "-", "precision": "fp16"} | changes)


def test_a_rate_below_the_formats_numbers_still_moves_the_weight():
    weight = nn.Parameter(torch.zeros(1, dtype=torch.float16))
    made = build_optimizer(settings(rate=0.01, loss_scale=2.0**20), [weight])
    assert torch.tensor(0.01 / 2**20).half() == 0
    weight.grad = torch.full((1,), 30000.0, dtype=torch.float16)
    made.step()
    assert weight.item() == torch.tensor(-0.01 * 30000 / 2**20).half().item()


def test_a_rate_below_the_formats_numbers_is_no_zero_without_a_scale_either():
    weight = nn.Parameter(torch.zeros(1, dtype=torch.float16))
    made = build_optimizer(settings(rate=1e-8), [weight])
    weight.grad = torch.full((1,), 30000.0, dtype=torch.float16)
    made.step()
    assert weight.item() == torch.tensor(-1e-8 * 30000).half().item() != 0


def test_in_binary32_it_is_torchs():
    start = torch.randn(50, generator=torch.Generator().manual_seed(0))
    weights = [nn.Parameter(start.clone()) for _ in range(2)]
    options = {"lr": 2.0**-7, "momentum": 0.9, "weight_decay": 2.0**-10}
    for weight, kind in zip(weights, (torch.optim.SGD, WideSGD), strict=True):
        made = kind([weight], **options)
        for step in range(5):
            weight.grad = start * step
            made.step()
    assert torch.equal(*weights)


@pytest.mark.parametrize(
    ("changes", "name"),
    [({"optimizer": "adam", "epsilon": 1.0, "loss_scale": 1e6}, "epsilon"), ({"weight_decay": 0.1, "loss_scale": 1e6}, "weight_decay")],
)
def test_what_leaves_the_range_is_refused(changes, name):
    with pytest.raises(
        UsageError, match=f"The setting {name}, times the loss scale 1e\\+06, is (1e\\+06|100000), more than the largest number of binary16"
    ):
        build_optimizer(settings(**changes), [nn.Parameter(torch.zeros(1, dtype=torch.float16))])
