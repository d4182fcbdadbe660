"""The analysis' own arithmetic against Arb: backward substitution is never below what 256 bits give, and hardly above."""

import pytest
import torch
from flint import arb, arb_mat, ctx

from precisionkit.arithmetic import parse_arithmetic
from precisionkit.bound import trace as trace_module
from precisionkit.bound.backward import gap_errors, pull_back, pull_back_both
from precisionkit.bound.pulling import IN_BINARY32, IN_BINARY64, direct_sums
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
    for step in reversed(trace.steps.values()):
        worst += dot([abs(v) for v in g], entries(column(step.errors.error[image])))
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
        elif step.node.operator == "sigmoid":
            ones = torch.ones(1, *step.node.shape, dtype=torch.float64)
            slopes = step.node.record.transpose(step.node.attributes, ones, torch.tensor([image]), *step.operands)[0]
            g = [v * arb(float(slope)) for v, slope in zip(g, slopes.flatten().tolist(), strict=True)]
        elif step.node.operator == "linear" and step.node.operands[0] != trace.graph.input:
            weight = step.operands[1]
            transposed = arb_mat([[arb(float(v)) for v in row] for row in weight.T.tolist()])
            g = entries(transposed * arb_mat([[v] for v in g]))
    return worst + middle, worst - middle


class Unsettled(Settled):
    """The enclosures of the interval method, whatever functionals are pulled back in."""

    def before(self, trace, name, enclosure, kinks):
        return enclosure


def enclosed(found, expected, sharp, tiny):
    return all(arb(b.item()) >= e and arb(b.item()) <= e * (1 + sharp) + tiny for b, e in zip(found, expected, strict=True))


@pytest.mark.parametrize(("pulling", "sharp", "tiny"), [(IN_BINARY64, 2.0**-30, 2.0**-900), (IN_BINARY32, 2.0**-8, 2.0**-100)])
@pytest.mark.parametrize("arithmetic", ARITHMETICS[:5], ids=lambda a: a.name)
@pytest.mark.parametrize("name", ["relu", "sigmoid"])
def test_backward_substitution_rounds_up_and_hardly_more(name, arithmetic, pulling, sharp, tiny):
    made, inputs = program(name, arithmetic, batch=4)
    strategy = Settled() if pulling == IN_BINARY64 else Unsettled()
    with direct_sums():
        trace, logits, *_ = walk(made, inputs, strategy, pulling)
        reference, *_ = walk(made, inputs, strategy, IN_BINARY64)
        count = logits.centre.shape[1]
        for image in range(len(inputs)):
            rows = torch.full((count,), image)
            g = torch.eye(count, dtype=torch.float64)
            narrow = g.to(pulling.dtype)
            found = pull_back(trace, made.graph.output, narrow, rows), *pull_back_both(trace, made.graph.output, narrow, rows)
            for place in range(count):
                expected = exactly(reference, image, g[place])[0], *exactly(reference, image, g[place], one_slope=True)
                assert enclosed([bound[place] for bound in found], expected, sharp, tiny)


@pytest.mark.parametrize("name", ["residual", "numbers"])
def test_absorbing_local_errors_changes_no_bound(name, monkeypatch):
    made, inputs = program(name, parse_arithmetic("fp16"), batch=2)

    def gaps():
        with direct_sums():
            trace, logits, *_ = walk(made, inputs, Unsettled(), IN_BINARY64)
            count = logits.centre.shape[1]
            g, rows = torch.eye(count, dtype=torch.float64).repeat(2, 1), torch.arange(2).repeat_interleave(count)
            found = [pull_back(trace, made.graph.output, g, rows, t) for t in (None, 5.0)]
            both = [part for t in (None, 5.0) for part in pull_back_both(trace, made.graph.output, g, rows, t)]
            return trace, [*found, *both]

    trace, absorbed = gaps()
    assert any(ready.weights.absorbed for ready in trace.prepared().values())
    monkeypatch.setattr(trace_module, "_absorbable", lambda *_: False)
    for a, b in zip(absorbed, gaps()[1], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=0.0)


def test_gaps_are_bounded_in_both_directions():
    """Between lines, a gap may move farther one way than the other."""
    made, inputs = program("relu", parse_arithmetic("bf16"), batch=64)
    with direct_sums():
        trace, logits, *_ = walk(made, inputs, Unsettled())
        count, classes = logits.centre.shape[1], logits.centre.argmax(1)
        found, signs = gap_errors(trace, logits, classes), torch.eye(count, dtype=trace.pulling.dtype)
        rows = torch.arange(len(inputs)).repeat_interleave(count)
        g = signs[classes[rows]] - signs[torch.arange(count).repeat(len(inputs))]
        up, down = (pull_back(trace, made.graph.output, way, rows).reshape(found.shape) for way in (g, -g))
    assert (found >= torch.maximum(up, down)).all()
    assert (up > 1.001 * down).any()
    assert (down > 1.001 * up).any()


def test_a_bound_that_is_one_part_in_a_billion_too_small_is_found():
    made, inputs = program("relu", parse_arithmetic("fp16"), batch=1)
    with direct_sums():
        trace, logits, *_ = walk(made, inputs, Settled(), IN_BINARY64)
        g = torch.eye(logits.centre.shape[1], dtype=torch.float64)
        bound = pull_back(trace, made.graph.output, g, torch.zeros(len(g), dtype=torch.int64))
    assert arb(bound[0].item() * (1 - 1e-9)) < exactly(trace, 0, g[0])[0]


def test_the_tested_networks_are_chains():
    assert all(node.operator in ("linear", "relu", "sigmoid") for name in ("relu", "sigmoid") for node in captured(name, 0).nodes)
