"""Networks of which some nodes are kept in binary32: every run inside every bound, and what is kept makes no format wrong."""

from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn

from precisionkit.arithmetic import REFERENCE, parse_arithmetic
from precisionkit.batch import Worker
from precisionkit.bound import Ladder, adjoint
from precisionkit.bound.interval import interval
from precisionkit.bound.substitution import substitution
from precisionkit.capture import capture
from precisionkit.enclosure import Enclosure
from precisionkit.errors import UsageError
from precisionkit.evaluate import Program, device_flags, execute
from precisionkit.formats import BINARY32
from precisionkit.mixed import Keep, can_keep
from precisionkit.ops import BY_NAME
from precisionkit.ops._store import store
from precisionkit.testing import arithmetics, inputs
from precisionkit.truth import Mpmath, exact_logits

from .drawn import METHODS, Drawn, captured, examples, runnable, some_networks
from .test_networks import executions, outside


def keepable(graph):
    return [node.name for node in graph.nodes if can_keep(graph, node)]


@st.composite
def mixed_programs(draw, which, **options):
    """A program of half numbers with a random part of its nodes kept."""
    network = draw(some_networks())
    arithmetic = draw(which.filter(lambda arithmetic: arithmetic.storage != BINARY32))
    graph = captured(network)
    names = keepable(graph)
    kept = draw(st.sets(st.sampled_from(names), min_size=1))
    sums = [node.name for node in graph.nodes if node.record.products is not None and not node.record.hidden]
    summed = draw(st.sets(st.sampled_from(sums))) if sums and not arithmetic.order.parts else set()
    program = Program.of(graph, arithmetic, keep=Keep.of(kept, summed))
    images = draw(inputs(network, arithmetic.storage, batch=3, **options))
    return Drawn(network, program, program.inputs(images))


FAMILIES = ("normal", "scales", "cancelling", "ties", "subnormal", "large")


@examples(30)
@given(mixed_programs(runnable(), families=FAMILIES))
def test_every_run_stays_inside_the_bounds_of_every_method(drawn):
    found = {name: method(drawn.program, drawn.stored, None) for name, method in METHODS.items()}
    for logits in executions(drawn):
        for name, bounds in found.items():
            assert not outside(bounds, logits).any(), name


@examples(6)
@given(mixed_programs(runnable(), families=("normal",)))
def test_runs_stay_inside_the_bounds_of_random_rounding(drawn):
    assume(drawn.program.arithmetic.random_stores)
    bounds = adjoint(drawn.program, drawn.stored)
    for logits in executions(drawn):
        assert not outside(bounds, logits).any()


@examples(30)
@given(mixed_programs(arithmetics()))
def test_half_nodes_read_and_store_half_numbers_alone(drawn):
    program = drawn.program
    storage = program.arithmetic.storage
    filled = {node.name for node in program.graph.nodes if node.operator == "masked"}  # numbers that backends round, and runs here do not
    values = {program.graph.input: drawn.stored} | dict(program.constants)

    def observe(node, result):
        values[node.name] = result
        if node.name in program.wide or node.operator == "cast":
            return
        for name in set(node.operands) & set(values) - program.unstored - filled:
            assert name not in program.wide or not values[name].is_floating_point()
            if values[name].is_floating_point() and values[name].isfinite().all():
                assert torch.equal(values[name], store(values[name], storage)), (node.name, name)

    assume(program.arithmetic.accumulate.precision <= 24)
    execute(program, drawn.stored, observe=observe)


@examples(20)
@given(mixed_programs(arithmetics()))
def test_keeping_everything_is_the_reference_program(drawn):
    graph = captured(drawn.network)
    arithmetic = drawn.program.arithmetic
    whole = Program.of(graph, arithmetic, keep=Keep.of(keepable(graph)))
    images = drawn.stored
    assert whole.graph == graph
    for name, value in whole.constants.items():
        assert torch.equal(value, graph.constants[name])
    bounds = [interval(program, images) for program in (whole, Program.of(graph, parse_arithmetic("fp32")))]
    assert torch.equal(bounds[0].gap_error, bounds[1].gap_error) or bounds[0].gap_error.isnan().any()


NORM = "_native_batch_norm_legit_no_training"


class Branches(nn.Module):
    """Two readers of one value, of the input and of one weight, and a chain that a fused kernel computes at once."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, padding=1)
        self.norm = nn.BatchNorm2d(2)
        self.last = nn.Linear(18, 3)

    def forward(self, x):
        y = torch.relu(self.norm(self.conv(x)))
        z = nn.functional.conv2d(x, self.conv.weight).mean((2, 3), keepdim=True)
        return self.last(torch.flatten(y + x + z, 1))


def branches(*kept, sums=(), fuse="none", accumulate="fp32"):
    torch.manual_seed(3)
    graph = capture(Branches().eval(), (2, 3, 3))
    return Program.of(graph, parse_arithmetic("fp16", accumulate, "any", fuse), keep=Keep.of(kept, sums))


def operators(program):
    return [(node.name, node.operands[0]) for node in program.graph.nodes if node.operator == "cast"]


def test_casts_stand_where_half_nodes_read_binary32():
    assert operators(branches()) == []
    program = branches("conv2d")
    assert operators(program) == [("x.cast", "x"), ("conv2d.cast", "conv2d")]
    assert program.graph.input in program.wide
    assert torch.equal(program.constants["p_conv_weight.fp32"], program.graph.constants["p_conv_weight"])
    assert not torch.equal(program.constants["p_conv_weight"], program.constants["p_conv_weight.fp32"])


def test_what_rounds_nothing_has_the_format_of_what_it_reads():
    program = branches(NORM)
    assert "relu" in program.wide
    assert operators(program) == [("relu.cast", "relu")]


def test_a_fused_chain_ends_where_the_format_changes():
    assert "conv2d" in branches(fuse="epilogue").unstored
    assert "conv2d" not in branches(NORM, fuse="epilogue").unstored


def test_sums_alone_are_kept():
    program = branches(sums=("linear",), accumulate="fp16")
    nodes = {node.name: program.arithmetic_of(node) for node in program.graph.nodes}
    assert (nodes["linear"].name, nodes["conv2d"].name) == ("fp16/fp32-any", "fp16/fp16-any")


def test_the_exact_network_of_a_mixed_program_is_that_of_its_own_weights():
    program = branches("conv2d", "linear")
    stored = program.inputs(torch.randn(2, 2, 3, 3, generator=torch.Generator().manual_seed(0)))
    bounds = substitution(program, stored)
    exact = exact_logits(Mpmath(50), program, stored)
    for row, balls in enumerate(exact.tolist()):
        for column, ball in enumerate(balls):
            assert abs(float(ball) - float(bounds.centre[row, column])) <= float(bounds.radius[row, column])


def test_the_cast_is_counted_and_its_bound_attained():
    """The largest rounding error of binary16 between 1 and 2, where nothing else rounds."""
    net = nn.Sequential(nn.Linear(1, 1), nn.Flatten(), nn.Linear(1, 2))
    with torch.no_grad():
        for layer in (net[0], net[2]):
            layer.weight.copy_(torch.tensor([[1.0]] if layer is net[0] else [[1.0], [0.0]]))
            layer.bias.zero_()
    program = Program.of(capture(net.eval(), (1,)), parse_arithmetic("fp16"), keep=Keep.of(["linear"]))
    stored = program.inputs(torch.tensor([[1 + 2.0**-11]]))
    assert stored.item() == 1 + 2.0**-11
    run, bounds = execute(program, stored), interval(program, stored)
    assert run.logits[0, 0] == 1
    error = abs(float(run.logits[0, 0]) - float(stored))
    assert error == 2.0**-11
    assert 0.49 * float(bounds.radius[0, 0]) < error <= float(bounds.radius[0, 0])


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        (Keep.of(["fc9"]), "The network has no node 'fc9' to keep in binary32; 'precisionkit inspect' lists its"),
        (Keep.of(["relu"]), "rounds nothing, and has the format of what it reads; keep a node before or behind it"),
        (Keep.of(sums=[NORM]), "has no sums of products to keep in binary32; keep the whole node"),
    ],
)
def test_what_is_not_there_is_not_kept(keep, message):
    with pytest.raises(UsageError, match=message):
        Program.of(capture(Branches().eval(), (2, 3, 3)), parse_arithmetic("fp16"), keep=keep)


class Masked(nn.Module):
    """Causal attention by hand: what the mask takes out is minus infinity in every run."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.last = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(12, 3)
        self.register_buffer("mask", torch.triu(torch.ones(3, 3, dtype=torch.bool), 1))

    def forward(self, x):
        scores = (self.q(x) @ self.k(x).transpose(-1, -2)).masked_fill(self.mask, float("-inf"))
        return self.last((torch.softmax(scores, -1) @ x).flatten(1))


class Padded(nn.Module):
    """Attention under a mask that tokens choose."""

    def __init__(self):
        super().__init__()
        self.embed, self.norm, self.last = nn.Embedding(11, 8), nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, tokens):
        x = self.norm(self.embed(tokens)).unsqueeze(1)
        taken = nn.functional.scaled_dot_product_attention(x, x, x, attn_mask=(tokens != 0)[:, None, None, :])
        return self.last(taken[:, 0, 0])


TOKENS = torch.tensor([[1, 2, 3, 0, 0], [4, 5, 6, 7, 8]])


@pytest.mark.parametrize(
    ("module", "shape", "images", "kind"),
    [(Masked, (3, 4), torch.linspace(-1, 1, 24).reshape(2, 3, 4), "matmul"), (Padded, (5,), TOKENS, "layer_norm")],
    ids=["causal", "padding"],
)
def test_what_a_mask_takes_out_stays_taken_out(module, shape, images, kind):
    torch.manual_seed(0)
    graph = capture(module().eval(), shape, images.dtype)
    keep = Keep.of([next(node.name for node in graph.nodes if node.operator == kind)])
    cpu = torch.device("cpu")
    worker = Worker(graph, parse_arithmetic("fp16"), Ladder.of("auto", REFERENCE), cpu, cpu, False, None, None, keep)
    assert {row.verdict for row in worker.batch(images, 0, None)} == {"proved"}
    program = Program.of(graph, parse_arithmetic("fp16"), keep=keep)
    stored = program.inputs(images)
    assert execute(program, stored).finite.all()
    assert execute(program, stored, native=True).finite.all()


def test_a_cast_of_what_every_run_has_is_no_guess():
    """Zero stays zero, and a known number is rounded once, to what it is rounded to."""
    x = Enclosure.exact(torch.tensor([[0.0, 1 + 2.0**-11, -torch.inf, 1.0]], dtype=torch.float64))
    result = BY_NAME["cast"].error_rule(parse_arithmetic("fp16"), {}, x)
    assert result.fresh.tolist() == [[0.0, 2.0**-11, 0.0, 0.0]]


def test_the_bound_of_a_cast_is_attained():
    """A run may store 1 + 2**-11, which is rounded to 1: not less than u ufp would do."""
    x = Enclosure(torch.tensor([[1 + 2.0**-11 - 2.0**-40]], dtype=torch.float64), torch.tensor([[2.0**-40]], dtype=torch.float64))
    result = BY_NAME["cast"].error_rule(parse_arithmetic("fp16"), {}, x)
    assert float(store(torch.tensor(1 + 2.0**-11), parse_arithmetic("fp16").storage)) == 1
    assert result.fresh.item() == 2.0**-11


def test_sums_that_are_kept_are_long_on_a_gpu(monkeypatch):
    """The switch of CUDA's products is off within a node whose sums are kept, and as it was behind it."""
    products = torch.backends.cuda.matmul
    if not hasattr(products, "allow_fp16_accumulation"):
        pytest.skip("this torch has no such switch")
    program = branches(sums=("linear",), accumulate="fp16")
    seen = {}
    linear = BY_NAME["linear"]
    monkeypatch.setitem(
        BY_NAME,
        "linear",
        replace(linear, apply=lambda *given: seen.setdefault("linear", products.allow_fp16_accumulation) or linear.apply(*given)),
    )
    with device_flags(program.arithmetic):
        execute(program, torch.zeros(1, 2, 3, 3), native=True)
        assert products.allow_fp16_accumulation
    assert seen == {"linear": False}
