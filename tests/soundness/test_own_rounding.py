"""The analysis' own arithmetic against Arb: backward substitution in binary64 is never below what 256 bits give, and hardly above."""

import pytest
import torch
from flint import arb, arb_mat, ctx

from precisionkit.arithmetic import parse_arithmetic
from precisionkit.bound.backward import pull_back, pull_back_both
from precisionkit.bound.substitution import Settled
from precisionkit.bound.walk import walk

from .test_networks import ARITHMETICS, captured, program

BITS = 256


@pytest.fixture(autouse=True)
def precision():
    before, ctx.prec = ctx.prec, BITS
    yield
    ctx.prec = before


def column(values):
    return arb_mat([[arb(float(v))] for v in values.flatten().tolist()])


def entries(matrix):
    return [matrix[i, 0] for i in range(matrix.nrows())]


def dot(a, b):
    return sum((x * y for x, y in zip(a, b, strict=True)), arb(0))


def exactly(trace, image, functional, *, one_slope=False):
    """``sum |g| r`` and the costs of the lines along a chain of linear layers and activations, in Arb; upwards and downwards."""
    g, worst, middle = entries(column(functional)), arb(0), arb(0)
    for step in reversed(trace.steps):
        worst += dot([abs(v) for v in g], entries(column(step.error[image])))
        if step.lines is not None:
            lines = {name: entries(column(getattr(step.lines, name)[image])) for name in ("above", "below", "under", "upper", "lower")}
            positive, negative = ([max(s * v, arb(0)) for v in g] for s in (1, -1))
            if one_slope:
                worst += dot([abs(v) for v in g], [(a + b) / 2 for a, b in zip(lines["above"], lines["under"], strict=True)])
                middle += dot(g, [(a - b) / 2 for a, b in zip(lines["above"], lines["under"], strict=True)])
                g = [v * slope for v, slope in zip(g, lines["upper"], strict=True)]
            else:
                worst += dot(positive, lines["above"]) + dot(negative, lines["below"])
                g = [p * u - n * w for p, u, n, w in zip(positive, lines["upper"], negative, lines["lower"], strict=True)]
        elif step.node.operator == "linear" and step.node.operands[0] != trace.graph.input:
            weight = step.operands[1]
            transposed = arb_mat([[arb(float(v)) for v in row] for row in weight.T.tolist()])
            g = entries(transposed * arb_mat([[v] for v in g]))
    return worst + middle, worst - middle


@pytest.mark.parametrize("arithmetic", ARITHMETICS[:5], ids=lambda a: a.name)
@pytest.mark.parametrize("name", ["relu", "sigmoid"])
def test_backward_substitution_rounds_up_and_hardly_more(name, arithmetic):
    made, inputs = program(name, arithmetic, batch=4)
    with torch.no_grad():
        trace, logits, *_ = walk(made, inputs, Settled())
        count = logits.centre.shape[1]
        for image in range(len(inputs)):
            rows = torch.full((count,), image)
            g = torch.eye(count, dtype=torch.float64)
            found = pull_back(trace, made.graph.output, g, rows), *pull_back_both(trace, made.graph.output, g, rows)
            for place in range(count):
                expected = exactly(trace, image, g[place])[0], *exactly(trace, image, g[place], one_slope=True)
                for bound, exact in zip(found, expected, strict=True):
                    assert arb(bound[place].item()) >= exact
                    assert arb(bound[place].item()) <= exact * (1 + arb(2) ** -30) + arb(2) ** -900


def test_a_bound_that_is_one_part_in_a_billion_too_small_is_found():
    made, inputs = program("relu", parse_arithmetic("fp16"), batch=1)
    with torch.no_grad():
        trace, logits, *_ = walk(made, inputs, Settled())
        g = torch.eye(logits.centre.shape[1], dtype=torch.float64)
        bound = pull_back(trace, made.graph.output, g, torch.zeros(len(g), dtype=torch.int64))
    assert arb(bound[0].item() * (1 - 1e-9)) < exactly(trace, 0, g[0])[0]


def test_the_tested_networks_are_chains():
    assert all(node.operator in ("linear", "relu", "sigmoid") for name in ("relu", "sigmoid") for node in captured(name, 0).nodes)
