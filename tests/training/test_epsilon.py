"""What epsilon does in a format: theorem 27 against torch's own optimizers, from both sides."""

import math

import pytest
import torch

from precisionkit.errors import UsageError
from precisionkit.formats import BFLOAT16, BINARY16
from precisionkit.training import Settings, analyse_epsilon
from precisionkit.training.epsilon import analyse_settings
from precisionkit.training.optimizers import build_optimizer

MOMENT = {"adam": "exp_avg_sq", "rmsprop": "square_avg"}


def stepped(optimizer, epsilon, gradient, precision="fp16", steps=1):
    """One weight after some steps with a constant gradient, and its second moment."""
    weight = torch.nn.Parameter(torch.zeros(1, dtype={"fp16": torch.float16, "bf16": torch.bfloat16}[precision]))
    settings = Settings(arch="-", data="-", precision=precision, optimizer=optimizer, epsilon=epsilon, rate=1.0)
    made = build_optimizer(settings, [weight])
    for _ in range(steps):
        weight.grad = torch.tensor([gradient], dtype=weight.dtype)
        made.step()
    return weight.item(), made.state[weight][MOMENT[optimizer]].item()


@pytest.mark.parametrize("optimizer", MOMENT)
def test_gradients_vanish_up_to_the_theorems_and_not_above(optimizer):
    g0 = analyse_epsilon(optimizer, 1e-3, BINARY16).vanishing
    spacing = 2.0 ** (math.floor(math.log2(g0)) - 10)
    assert torch.tensor(g0).half().item() == g0
    assert stepped(optimizer, 1e-3, g0 - spacing, steps=20)[1] == 0
    assert stepped(optimizer, 1e-3, g0 + 2 * spacing)[1] > 0


@pytest.mark.parametrize("optimizer", MOMENT)
@pytest.mark.parametrize("epsilon", [1e-7, 1e-4, 1e-3])
def test_the_largest_update_is_attained(optimizer, epsilon):
    found = analyse_epsilon(optimizer, epsilon, BINARY16)
    g = found.vanishing * (1 - 2**-9)  # one or two numbers below, where the kernel's own rounding does not matter
    update = -stepped(optimizer, epsilon, g)[0]
    stores = 2  # of the mean of gradients and of the weight; what is computed in binary32 rounds less than one more
    u = BINARY16.unit_roundoff
    assert update <= found.amplification * (1 + u) ** (stores + 1)
    assert update >= found.amplification * (1 - 2**-9) * (1 - u) ** (stores + 1)


@pytest.mark.parametrize("optimizer", MOMENT)
def test_an_epsilon_of_zero_divides_by_zero(optimizer):
    found = analyse_epsilon(optimizer, 1e-8, BINARY16)
    assert (found.stored, found.amplification) == (0.0, math.inf)
    assert math.isinf(stepped(optimizer, 1e-8, found.vanishing / 2)[0])
    assert math.isnan(stepped(optimizer, 1e-8, 0.0)[0])


@pytest.mark.parametrize("optimizer", MOMENT)
def test_the_sufficient_epsilon_keeps_updates_below_the_rate(optimizer):
    enough = analyse_epsilon(optimizer, 1e-8, BINARY16).sufficient
    assert analyse_epsilon(optimizer, enough, BINARY16).amplification == 1
    assert -stepped(optimizer, enough, enough * (1 - 2**-9))[0] <= 1


def test_bfloat16_has_the_range_that_binary16_lacks():
    assert analyse_epsilon("adam", 1e-8, BFLOAT16).amplification < 1e-10


def test_the_default_epsilon_is_told_in_words():
    text = analyse_epsilon("adam", 1e-8, BINARY16).describe()
    assert text.startswith("The epsilon 1e-08 is zero in binary16, and gradients up to 0.0055 have a second moment of zero in binary16")
    assert "can reach 4.58e+04 times the learning rate" in analyse_epsilon("adam", 1e-7, BINARY16).describe()


def test_sgd_has_no_epsilon():
    assert analyse_settings(Settings(arch="-", data="-")) is None
    with pytest.raises(UsageError, match="The optimizer sgd has no epsilon: give one of adam, rmsprop"):
        analyse_epsilon("sgd", 1e-8, BINARY16)
