"""Every run lies where the checker says, exact results included, and what it says is not much more than needed."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from precisionkit.arithmetic import REFERENCE, parse_arithmetic, parse_run
from precisionkit.checker import FORMATS, METHODS, Network, Node, Rule, least_gaps, proof
from precisionkit.checker.operators import OPERATORS, Ball, Exact
from precisionkit.checker.proof import _forward, _pull_back, _pulled_gaps
from precisionkit.checker.rounding import Format, ufp
from precisionkit.evaluate import Program, execute
from precisionkit.formats import parse_format, round_to_nearest
from tests.soundness.harness import TREES

from .networks import NETWORKS, built, inputs_for

ARITHMETICS = ("fp32", "fp16", "bf16", "fp16/fp16", "bf16/bf16")
WIDE = Format("wide", 2000, -2000, 1022)
"""Nothing rounds in it, so that what is left is the checker's own rounding."""


def arithmetic_of(name):
    storage, _, accumulate = name.partition("/")
    return REFERENCE if name == "fp32" else parse_arithmetic(storage, accumulate or "fp32")


def rule_of(arithmetic):
    return Rule(FORMATS[arithmetic.storage.name], FORMATS[arithmetic.accumulate.name])


def executions(program, stored):
    """(node -> stored result) of many runs: torch's kernels, its half kernels, trees with and without FMA."""
    found = []
    for options in ({}, {"native": True}, *({"emulate": parse_run(tree)} for tree in TREES)):
        if options.get("native") and program.arithmetic.accumulate.name != "binary32":
            continue
        values = {}
        execute(program, stored, observe=lambda node, result, values=values: values.update({node.name: result.double().numpy()}), **options)
        found.append(values)
    return found


@pytest.mark.parametrize("spread", [0.0, 6.0])
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("kind", ARITHMETICS)
def test_every_run_lies_in_every_enclosure_and_keeps_every_gap(kind, name, spread):
    graph, network = built(name, 1, spread)
    arithmetic = arithmetic_of(kind)
    rule, program = rule_of(arithmetic), Program.of(graph, arithmetic)
    inputs = inputs_for(name, 2, 3)
    runs = executions(program, program.inputs(torch.from_numpy(inputs)))
    last = network.nodes[-1].name
    classes = runs[0][last].argmax(1)
    rounded = network.rounded(rule)
    with np.errstate(all="ignore"):
        traces = [_forward(rounded, rule, rule.storage.round(inputs), settle=settle) for settle in (False, True)]
    least = {method: least_gaps(rounded, rule, inputs, classes, method)[0] for method in METHODS}
    for run in runs:
        for trace in traces:
            assert trace.in_range.all()
            assert trace.balls.keys() - run.keys() == {network.input}
            for node, ball in trace.balls.items():
                deviation = run.get(node, ball.mid) - ball.mid
                assert ((deviation <= ball.up) & (-deviation <= ball.down)).all(), node
        gaps = run[last][np.arange(3), classes][:, None] - run[last]
        gaps[np.arange(3), classes] = np.inf
        for method, lower in least.items():
            assert (gaps.min(1) >= lower).all(), method


@pytest.mark.parametrize("name", NETWORKS)
def test_dearer_methods_are_sharper(name):
    graph, network = built(name, 3)
    rule = rule_of(arithmetic_of("bf16"))
    inputs = inputs_for(name, 4, 8)
    program = Program.of(graph, arithmetic_of("bf16"))
    classes = execute(program, program.inputs(torch.from_numpy(inputs))).logits.numpy().argmax(1)
    interval, substitution, settled = (least_gaps(network.rounded(rule), rule, inputs, classes, method)[0] for method in METHODS)
    assert (substitution >= interval - 1e-12).all()
    assert (settled >= substitution - 1e-12).all()
    if name in ("dense", "convolutions"):
        assert (substitution > interval).all()


# ------------------------------------------------------------------------------------------------------------ rounding
@given(st.floats(width=32, allow_nan=False, allow_infinity=False), st.sampled_from(["binary16", "bfloat16", "binary32"]))
def test_rounding_is_that_of_the_formats(value, name):
    fmt = FORMATS[name]
    wanted = float(round_to_nearest(torch.tensor([value], dtype=torch.float64), parse_format(name))[0])
    if np.isinf(wanted):
        with pytest.raises(OverflowError, match=name):
            fmt.round(np.array([value]))
        assert abs(value) >= fmt.overflow_threshold
        return
    rounded = fmt.round(np.array([value]))[0]
    assert rounded == wanted
    assert abs(Fraction(value) - Fraction(rounded)) <= Fraction(fmt.store_error(np.array([abs(value)]))[0])


def test_half_an_ulp_is_attained_above_a_power_of_two_and_below_the_normal_range():
    fmt = FORMATS["binary16"]
    assert fmt.store_error(np.array([1 + 2.0**-11])) == 2.0**-11 == abs(fmt.round(np.array([1 + 2.0**-11]))[0] - 1 - 2.0**-11)
    assert fmt.store_error(np.array([2.0**-25])) == 2.0**-25 == fmt.eta
    assert fmt.store_error(np.array([65520.0])) == np.inf
    assert fmt.store_error(np.array([np.nan])) == np.inf
    assert fmt.round(np.array([65519.99]))[0] == 65504 == fmt.largest


def test_unit_in_the_first_place():
    assert ufp(np.array([1.0, 1.999, 2.0, 0.0, 2.0**-1074, np.inf, np.nan])).tolist() == [1, 1, 2, 0, 2.0**-1074, np.inf, np.inf]


# ---------------------------------------------------------------------------------------------------------- dot products
def ball(mid, radius=None):
    mid = np.asarray(mid, dtype=np.float64)
    radius = np.zeros_like(mid) if radius is None else np.broadcast_to(np.asarray(radius, dtype=np.float64), mid.shape)
    return Ball(mid, radius, radius)


@pytest.mark.parametrize("n", [2, 3, 10, 1000])
def test_a_sum_that_loses_every_addition_attains_the_bound(n):
    rule = Rule(FORMATS["binary32"], FORMATS["binary32"])
    v = 2.0**-24
    x = np.array([[1.0] + [v] * (n - 1)])
    result = OPERATORS["linear"].forward(rule, {}, ball(x), np.ones((1, n)), None)
    lost = (n - 1) * v  # summed from the left, every term is swallowed
    products = 2 * n * v  # those of binary32 may be rounded, though these are not
    assert lost <= result.fresh[0, 0] <= lost + products


@pytest.mark.parametrize("n", [2, 3, 10, 1000])
def test_of_half_products_nothing_is_lost_but_the_additions(n):
    rule = Rule(FORMATS["binary16"], FORMATS["binary32"])
    x = np.array([[1.0] + [2.0**-12] * (n - 1)])
    weight = np.array([[1.0] + [2.0**-12] * (n - 1)])
    result = OPERATORS["linear"].forward(rule, {}, ball(x), weight, None)
    lost = (n - 1) * 2.0**-24
    assert lost <= result.fresh[0, 0] <= lost * (1 + 2.0**-20)


def test_a_rounded_product_attains_its_bound():
    rule, x = Rule(FORMATS["binary32"], FORMATS["binary32"]), 1 + 2.0**-12
    result = OPERATORS["linear"].forward(rule, {}, ball([[x]]), np.array([[x]]), None)
    rounded = FORMATS["binary32"].round(np.array([x * x]))[0]
    assert abs(rounded - x * x) == 2.0**-24 <= result.fresh[0, 0] <= 2.0**-24 * 1.001


def test_a_bias_is_one_more_term():
    rule = Rule(FORMATS["binary16"], FORMATS["binary32"])
    result = OPERATORS["linear"].forward(rule, {}, ball([[2.0**-12]]), np.array([[2.0**-12]]), np.array([1.0]))
    assert 2.0**-24 <= result.fresh[0, 0] <= 2.0**-24 * (1 + 2.0**-20)


def test_a_convolution_may_store_before_it_adds_its_bias():
    """The sum 1 + 2**-11 is stored as 1, and nothing is left beside the bias: that attains the bound."""
    rule = Rule(FORMATS["binary16"], FORMATS["binary32"])
    attributes = {"stride": [1, 1], "padding": [0, 0], "dilation": [1, 1], "groups": 1}
    x, weight = np.array([1.0, 2.0**-6]).reshape(1, 2, 1, 1), np.array([1.0, 2.0**-5]).reshape(1, 2, 1, 1)
    assert FORMATS["binary16"].round(np.array([1 + 2.0**-11]))[0] == 1.0
    with_bias, without = (OPERATORS["conv2d"].forward(rule, attributes, ball(x), weight, bias) for bias in (np.array([-1.0]), None))
    assert 2.0**-11 <= with_bias.fresh.item() <= 2.0**-11 * (1 + 2.0**-8)
    assert without.fresh.item() < 2.0**-22


@pytest.mark.parametrize("name", ["binary16", "binary32"])
def test_an_addition_attains_its_bound(name):
    """1 + 2**-24 is 1 in binary32, where tensors are added whatever they are stored in."""
    rule = Rule(FORMATS[name], FORMATS["binary32"])
    result = OPERATORS["add"].forward(rule, {}, ball([[1.0]]), ball([[2.0**-24]]))
    assert 2.0**-24 <= result.fresh[0, 0] <= 2.0**-24 * (1 + 2.0**-20)


def test_a_product_of_an_input_that_may_be_zero_counts():
    """Inputs of centre zero that lie anywhere within v: their sum with one loses every addition."""
    rule, v = Rule(FORMATS["binary16"], FORMATS["binary32"]), 2.0**-24
    x = ball([[1.0] + [0.0] * 9], [[0.0] + [v] * 9])
    result = OPERATORS["linear"].forward(rule, {}, x, np.ones((1, 10)), None)
    assert 9 * v <= result.fresh[0, 0] <= 9 * v * (1 + 2.0**-20)


def test_products_that_are_zero_in_every_run_do_not_count():
    rule = Rule(FORMATS["binary16"], FORMATS["binary32"])
    x, weight = np.array([[1.0, 2.0, 0.0, 0.0, 3.0]]), np.array([[1.0, 1.0, 1.0, 0.0, 0.0]])
    few = OPERATORS["linear"].forward(rule, {}, ball(x), weight, None)
    assert 2.0**-24 <= few.fresh[0, 0] <= 2.0**-23 * (1 + 2.0**-20)  # one addition, of 3 at most


def test_batch_normalisation_rounds_as_often_as_theorem_7_says():
    rule, v = Rule(FORMATS["binary32"], FORMATS["binary32"]), 2.0**-24
    one = np.ones(1)
    result = OPERATORS["batch_norm"].forward(rule, {"eps": 0.0}, ball([[3.0]]), one, one, one, one)
    assert result.mid[0, 0] == 3.0
    assert (12 * 4 + 3) * v <= result.fresh[0, 0] <= (12 * 4 + 3) * v * (1 + 2.0**-20)
    assert OPERATORS["batch_norm"].forward(rule, {"eps": 0.0}, ball([[3.0]], 0.5), 2 * one, one, one, one).carried[0, 0] >= 1.0


@given(st.integers(0, 2**32 - 1), st.booleans())
def test_the_checkers_own_rounding_is_paid_for(seed, with_bias):
    """With cancelling terms, and where no run rounds: the centre is off by at most what is charged, in rational numbers."""
    rng = np.random.default_rng(seed)
    x, weight = (
        rng.normal(size=(2, 6)) * 2.0 ** rng.integers(-40, 40, (2, 6)),
        rng.normal(size=(3, 6)) * 2.0 ** rng.integers(-40, 40, (3, 6)),
    )
    x[:, 3:], weight[:, 3:] = x[:, :3], -weight[:, :3]
    weight[:, 5] = np.nextafter(weight[:, 5], np.inf)
    bias = rng.normal(size=3) * 2.0**-60 if with_bias else None
    radius = np.abs(x) * rng.random((2, 6))
    result = OPERATORS["linear"].forward(Rule(WIDE, WIDE), {}, ball(x, radius), weight, bias)
    for i in range(2):
        for j in range(3):
            terms = [Fraction(a) * Fraction(b) for a, b in zip(x[i], weight[j], strict=True)]
            exact = sum(terms) + (Fraction(bias[j]) if with_bias else 0)
            assert abs(Fraction(result.mid[i, j]) - exact) <= Fraction(result.fresh[i, j])
            carried = sum(abs(Fraction(w)) * Fraction(r) for w, r in zip(weight[j], radius[i], strict=True))
            assert carried <= Fraction(result.carried[i, j]) <= carried * (1 + Fraction(1, 2**40))


# ------------------------------------------------------------------------------------------------------ lines and functionals
FINITE = st.floats(-4, 4, width=32)


@given(FINITE, st.floats(0, 4), st.floats(0, 4), st.integers(0, 64))
def test_relu_lies_between_its_lines_and_in_its_image(mid, up, down, place):
    x = Ball(np.array([[mid]]), np.array([[up]]), np.array([[down]]))
    result = OPERATORS["relu"].forward(Rule(FORMATS["binary16"], FORMATS["binary32"]), {}, x)
    slope, lower, above = (Fraction(float(part[0, 0])) for part in result.kept)
    d = Fraction(-down) + (Fraction(up) + Fraction(down)) * Fraction(place, 64)
    moved = max(Fraction(mid) + d, 0) - max(Fraction(mid), 0)
    assert lower * d <= moved <= slope * d + above
    assert -Fraction(result.ball.down[0, 0]) <= moved <= Fraction(result.ball.up[0, 0])


def test_both_ends_of_open_neurons_lie_below_the_upper_line():
    """The rounded slope meets one of them from above and the other from below."""
    rng = np.random.default_rng(1)
    mid = rng.normal(size=(1, 400))
    up, down = np.abs(mid) * (1 + rng.random(mid.shape)), np.abs(mid) * (1 + rng.random(mid.shape))
    result = OPERATORS["relu"].forward(Rule(FORMATS["binary16"], FORMATS["binary32"]), {}, Ball(mid, up, down))
    for m, u, d, slope, above in zip(*(part[0].tolist() for part in (mid, up, down, result.kept[0], result.kept[2])), strict=True):
        for end in (Fraction(u), -Fraction(d)):
            assert max(Fraction(m) + end, 0) - max(Fraction(m), 0) <= Fraction(slope) * end + Fraction(above)


def test_the_upper_line_of_relu_touches_it_at_both_ends():
    result = OPERATORS["relu"].forward(Rule(FORMATS["binary16"], FORMATS["binary32"]), {}, ball([[-1.0]], 3.0))
    slope, lower, above = (part[0, 0] for part in result.kept)
    assert (slope, lower) == (2 / 6, 0.0)
    assert 1.0 <= above < 1 + 1e-12  # at -4: 0 = -3/3 + 1, and at 2: 2 = 3/3 + 1


@given(st.integers(0, 2**32 - 1))
def test_a_maximum_lies_between_its_lines_and_in_its_image(seed):
    rng = np.random.default_rng(seed)
    attributes = {"stride": [1, 1], "padding": [1, 1], "dilation": [1, 1], "kernel_size": [2, 2]}
    mid, up, down = rng.integers(-3, 4, (1, 1, 3, 3)) / 2, rng.random((1, 1, 3, 3)) ** 3, rng.random((1, 1, 3, 3)) ** 3
    result = OPERATORS["max_pool2d"].forward(Rule(FORMATS["binary16"], FORMATS["binary32"]), attributes, Ball(mid, up, down))
    d = np.where(rng.random(mid.shape) < 0.7, np.where(rng.random(mid.shape) < 0.5, up, -down), rng.uniform(-down, up))
    pad = ((1, 1), (1, 1))
    mids, moved = np.pad(mid[0, 0], pad, constant_values=-np.inf), np.pad(d[0, 0], pad)
    winners, above = result.kept
    for i in range(4):
        for j in range(4):
            window = [(Fraction(m), Fraction(e)) for m, e in zip(mids[i : i + 2, j : j + 2].flat, moved[i : i + 2, j : j + 2].flat, strict=True)
                      if np.isfinite(m)]  # fmt: skip
            change = max(m + e for m, e in window) - max(m for m, _ in window)
            winner = Fraction(moved[i : i + 2, j : j + 2].flat[winners[0, 0, 0, i, j]])
            assert winner <= change <= winner + Fraction(above[0, 0, i, j])
            assert -Fraction(result.ball.down[0, 0, i, j]) <= change <= Fraction(result.ball.up[0, 0, i, j])
            assert Fraction(result.ball.mid[0, 0, i, j]) == max(m for m, _ in window)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_functional_costs_what_it_costs_in_rational_numbers_and_hardly_more(name):
    """The cost of pulling back, computed again without rounding, from the same errors, slopes and lines."""
    _, network = built(name, 5)
    rule = rule_of(arithmetic_of("bf16/bf16"))  # so coarse that many neurons are open
    rounded = network.rounded(rule)
    inputs = rule.storage.round(inputs_for(name, 6, 1))
    with np.errstate(all="ignore"):
        trace = _forward(rounded, rule, inputs, settle=False)
    last = network.nodes[-1]
    g = np.eye(trace.balls[last.name].mid.shape[1])[:1] * 0.7
    found = _pull_back(trace, last.name, g, np.zeros(1, dtype=np.int64))[0]
    exact = exact_cost(trace, network, last.name, g)
    assert exact <= Fraction(found) <= exact * (1 + Fraction(1, 2**30))


def exact_cost(trace, network, name, g):
    """Of one functional, in rational numbers; transposes by probing the linear parts with unit vectors."""
    functionals, total = {name: [Fraction(v) for v in g.ravel()]}, Fraction(0)
    for node in reversed(network.nodes):
        here = functionals.pop(node.name, None)
        if here is None:
            continue
        total += sum(abs(a) * Fraction(b) for a, b in zip(here, trace.local[node.name].ravel(), strict=True))
        result = trace.results[node.name]
        activations = [operand for operand in node.operands if operand in trace.balls]
        if node.operator == "relu":
            slope, lower, above = (part.ravel() for part in result.kept)
            total += sum(max(a, 0) * Fraction(b) for a, b in zip(here, above, strict=True))
            pulled = [a * Fraction(s if a > 0 else w) for a, s, w in zip(here, slope, lower, strict=True)]
        elif node.operator == "max_pool2d":
            total += sum(max(a, 0) * Fraction(b) for a, b in zip(here, result.kept[1].ravel(), strict=True))
            pulled = through(trace, node, here, result)
        else:
            pulled = through(trace, node, here, result)
        for operand in activations:
            if operand != network.input:
                before = functionals.get(operand, [Fraction(0)] * len(pulled))
                functionals[operand] = [a + b for a, b in zip(before, pulled, strict=True)]
    return total


def through(trace, node, here, result):
    """``A^T g`` with the entries of A as the checker's own transpose has them for unit vectors, which is exact."""
    operands = trace.operands(node)
    rows, shape = np.zeros(len(here), dtype=np.int64), trace.balls[node.name].mid.shape[1:]
    matrix = OPERATORS[node.operator].pull(node.attributes, np.eye(len(here)).reshape(-1, *shape), rows, result, *operands)[0][0]
    matrix = matrix.reshape(len(here), -1)
    return [sum(a * Fraction(w) for a, w in zip(here, matrix[:, k], strict=True) if w) for k in range(matrix.shape[1])]


@pytest.mark.parametrize("name", NETWORKS)
def test_transposes_are_transposes(name):
    """``<g, A d> = <A^T g, d>``, with A d from two runs of the centre; where the operator is linear."""
    _, network = built(name, 7)
    rule = rule_of(arithmetic_of("fp32"))
    rounded = network.rounded(rule)
    rng = np.random.default_rng(8)
    with np.errstate(all="ignore"):
        trace = _forward(rounded, rule, rule.storage.round(inputs_for(name, 9, 1)), settle=False)
    for node in network.nodes:
        if node.operator in ("relu", "max_pool2d"):
            continue
        operands = trace.operands(node)
        g = rng.integers(-3, 4, trace.balls[node.name].mid.shape) * 1.0
        pulled = OPERATORS[node.operator].pull(node.attributes, g, np.zeros(1, dtype=np.int64), trace.results[node.name], *operands)[0]
        d = [rng.integers(-3, 4, o.mid.shape) * 1.0 for o in operands if isinstance(o, Ball)]
        moved = [ball(o.mid + d[k]) if isinstance(o, Ball) else o for k, o in enumerate(operands)]
        after = forward_mid(rule, node, moved)
        wanted = (g * (after - trace.balls[node.name].mid)).sum()
        assert np.isclose(wanted, sum((a * b).sum() for a, b in zip(pulled, d, strict=True)), rtol=1e-9, atol=1e-9), node.name


def test_settling_is_for_both_directions():
    """``b = -relu(a)`` with a within e of 0 lies e below 0 at most, and not above: both sides are pulled back by themselves."""
    nodes = (
        Node("p", "linear", ("x", "w", None), {}),
        Node("a", "linear", ("p", "v", None), {}),
        Node("r", "relu", ("a",), {}),
        Node("b", "linear", ("r", "m", None), {}),
        Node("s", "relu", ("b",), {}),
        Node("end", "linear", ("s", "e", None), {}),
    )
    rule = Rule(FORMATS["bfloat16"], FORMATS["binary32"])
    constants = {"w": np.eye(2), "v": np.array([[1.0, -1.0]]), "m": np.array([[-1.0]]), "e": np.array([[1.0], [2.0]])}
    network = Network("x", nodes, {name: value.astype(np.float32) for name, value in constants.items()})
    trace = _forward(network.rounded(rule), rule, np.array([[1.0, 1.0]]), settle=True)
    assert trace.balls["b"].mid[0, 0] == 0
    assert trace.balls["a"].up[0, 0] >= 2.0**-7
    assert trace.balls["b"].down[0, 0] >= trace.balls["a"].up[0, 0] > 100 * trace.balls["b"].up[0, 0]


def test_a_gap_that_is_no_number_is_the_least(monkeypatch):
    network = Network("x", (Node("a", "linear", ("x", "w", None), {}),), {"w": np.array([[3.0], [1.0], [0.0]], dtype=np.float32)})
    monkeypatch.setattr(proof, "_pulled_gaps", lambda trace, classes: np.array([[0.0, np.nan, 0.0]]))
    least, _ = least_gaps(network, rule_of(arithmetic_of("bf16")), np.array([[1.0]]), np.array([0]), "substitution")
    assert not least[0] > 0


def test_an_unknown_method_is_told():
    _, network = built("one layer", 1)
    with pytest.raises(ValueError, match="no method 'intervall'"):
        least_gaps(network, rule_of(arithmetic_of("bf16")), inputs_for("one layer", 2, 1), np.array([0]), "intervall")


def forward_mid(rule, node, operands):
    result = OPERATORS[node.operator].forward(rule, node.attributes, *operands)
    return result.ball.mid if isinstance(result, Exact) else result.mid


def test_a_functional_that_cancels_pays_for_its_rounding():
    """The entries of ``W^T g`` cancel to nothing in binary64, and their rounding times the radius is what remains."""
    weight = np.array([[1.0], [2.0**-60], [-1.0]])
    x = ball([[0.0]], 1.0)
    result = OPERATORS["linear"].forward(Rule(WIDE, WIDE), {}, x, weight, None)
    (pulled,), lost = OPERATORS["linear"].pull({}, np.ones((1, 3)), np.zeros(1, dtype=np.int64), result, x, weight, None)
    assert abs(Fraction(pulled[0, 0]) - Fraction(1, 2**60)) <= Fraction(lost[0])


def test_gaps_are_pulled_back_together():
    """What two logits share cancels: both are the same multiple of a number that runs know to half an ulp alone."""
    nodes = (Node("p", "linear", ("x", "w", None), {}), Node("end", "linear", ("p", "e", None), {}))
    network = Network("x", nodes, {"w": np.array([[1.0, -1.0]], np.float32), "e": np.array([[2.0], [2.0]], np.float32)})
    trace = _forward(network, rule_of(arithmetic_of("bf16")), np.array([[3.0, 1.0]]), settle=False)
    assert trace.balls["p"].radius.all()
    assert _pulled_gaps(trace, np.array([0]))[0, 1] <= trace.local["end"].sum() * (1 + 1e-12)


# ------------------------------------------------------------------------------------------------------------- overflow
@pytest.mark.parametrize(("scale", "kept"), [(1.0, True), (3000.0, False)])
def test_overflow_of_a_store_leaves_nothing(scale, kept):
    _, network = built("one layer", 1)
    rule = rule_of(arithmetic_of("fp16"))
    changed = {name: value * (scale * 50 if value.ndim == 2 else 1) for name, value in network.constants.items()}
    network = type(network)(network.input, network.nodes, changed)
    inputs = np.full((1, 12), 16.0, dtype=np.float32)
    classes = np.array([int((changed["p_weight"] @ inputs[0]).argmax())])
    least, _ = least_gaps(network.rounded(rule), rule, inputs, classes, "substitution")
    assert (least[0] > 0) == kept


def test_overflow_of_a_partial_sum_leaves_nothing():
    """Terms of 60000 that cancel: the sum is 1, and a run in binary16 that adds two of them first overflows."""
    rule = Rule(FORMATS["binary16"], FORMATS["binary16"])
    x = np.array([[60000.0, 60000.0, -60000.0, -60000.0, 1.0]])
    result = OPERATORS["linear"].forward(rule, {}, ball(x), np.ones((1, 5)), None)
    assert result.peak[0, 0] > rule.accumulate.largest


def test_a_partial_sum_that_may_overflow_leaves_no_gap():
    network = Network("x", (Node("a", "linear", ("x", "w", None), {}),), {"w": np.array([[1.0] * 5, [0.0] * 5], dtype=np.float32)})
    inputs = np.array([[60000.0, 60000.0, -60000.0, -60000.0, 1000.0]])
    for accumulate, kept in (("binary32", True), ("binary16", False)):
        rule = Rule(FORMATS["binary16"], FORMATS[accumulate])
        least, _ = least_gaps(network, rule, inputs, np.array([0]), "interval")
        assert np.isfinite(least[0]) == kept
        assert (least[0] > 0) == kept
