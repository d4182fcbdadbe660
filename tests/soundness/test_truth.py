"""Exact networks: mpmath and Arb agree, contain known values, and notice what is wrong."""

import flint
import numpy as np
import pytest
import torch
from torch import nn

from precisionkit.arithmetic import parse_arithmetic
from precisionkit.capture import capture
from precisionkit.errors import RefutedError
from precisionkit.evaluate import Program
from precisionkit.truth import Arb, Mpmath, Samples, agree_on, distances, exact_logits

from .test_networks import Residual


def program(module, shape, seed=0):
    torch.manual_seed(seed)
    made = Program.of(capture(module.eval(), shape), parse_arithmetic("fp16"))
    return made, made.inputs(torch.randn(3, *shape))


def test_both_engines_compute_every_operator_alike():
    made, inputs = program(Residual(), (2, 6, 6))
    judge, arb = Mpmath(50), Arb(128)
    balls = exact_logits(arb, made, inputs)
    agree_on(judge, arb, made, inputs[:1], balls)
    assert max(float(ball.rad()) for ball in balls.ravel()) < 1e-25


def test_samples_compare_single_neurons_and_find_a_wrong_one():
    made, inputs = program(nn.Sequential(nn.Conv2d(4, 6, 3, groups=2), nn.Flatten(), nn.Linear(6, 5)), (4, 3, 3))
    arb = Arb(128)
    samples = Samples(Mpmath(50), arb)
    exact_logits(arb, made, inputs, samples)
    assert samples.compared == 1 + 4

    def wrong(node, operands, result):
        shifted = result + 1e-20
        samples(node, operands, shifted)

    with pytest.raises(RefutedError, match=r"mpmath gives .*, which lies outside Arb's ball"):
        exact_logits(arb, made, inputs, wrong)


def test_a_disagreement_of_the_engines_is_found():
    made, inputs = program(nn.Sequential(nn.Linear(4, 3)), (4,))
    arb = Arb(128)
    balls = exact_logits(arb, made, inputs)
    with arb.working():
        moved = balls + 1e-25
    with pytest.raises(RefutedError, match="In the logits, mpmath gives"):
        agree_on(Mpmath(50), arb, made, inputs, moved)


def test_a_dot_product_is_exact():
    """w + 1 - w, which no binary64 sum of these finds."""
    linear = nn.Linear(3, 2, bias=False)
    linear.weight.data = torch.tensor([[32768.0, 2.0**-14, -32768.0]] * 2)
    made, _ = program(nn.Sequential(linear), (3,))
    inputs = torch.tensor([[32768.0, 2.0**-24, 32768.0]])
    for engine in (Mpmath(50), Arb(128)):
        assert exact_logits(engine, made, inputs)[0, 0] == engine.number(2.0**-38)


def test_maxima_of_balls_that_overlap_are_enclosed():
    arb = Arb(128)
    balls = np.array([flint.arb(1, 0.5), flint.arb(1.25, 0.125)], dtype=object)
    assert arb.maximum(balls[0], balls[1]).contains(flint.arb(1.45))
    chosen = max(balls, key=arb.upper)
    assert chosen.contains(flint.arb(1.2))
    assert chosen.contains(flint.arb(1.5))


def test_ends_of_balls_that_are_almost_the_same_are_told_apart():
    arb = Arb(128)
    with flint.ctx.workprec(400):
        a, b = flint.arb(1, flint.arb(2) ** -140), 1 + flint.arb(2) ** -127 - flint.arb(2) ** -141
    assert max([a, b], key=arb.upper) is b


def test_distances_are_upper_ends():
    arb = Arb(128)
    a, b = arb.array(torch.tensor([[1.0, 2.0]])), arb.array(torch.tensor([[1.5, 2.0]]))
    assert distances(arb, a, b) == [0.5]
