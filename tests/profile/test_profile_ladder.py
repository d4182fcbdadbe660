"""The ladder: every run and the exact network inside every bound, on random and on trained networks, and bounds that are nearly attained."""

import math

import pytest
import torch
from hypothesis import assume, event, given
from hypothesis import strategies as st
from torch import nn

from precisionkit.arithmetic import parse_arithmetic
from precisionkit.capture import capture
from precisionkit.data import load_dataset
from precisionkit.evaluate import Program, execute
from precisionkit.models import bundled_model, load_model
from precisionkit.profile.a_priori import AFFINE, LIPSCHITZ, a_priori
from precisionkit.profile.enclosing import enclose
from precisionkit.profile.ladder import chosen_entries, climb
from precisionkit.profile.settings import Settings
from precisionkit.profile.traces import Tracer
from precisionkit.truth import Arb
from tests.properties.drawn import captured, examples, programs, runnable

OWN = 1 + 2.0**-20
"""Beyond any error of the binary64 centre that these networks have beside their rounding errors."""


def largest(inputs):
    return float(inputs.abs().amax()) if inputs.is_floating_point() else math.inf


def climbed(program, inputs, *, entries=4, truth=False, effort=6000.0):
    settings = Settings(entries=entries, effort=effort)
    return climb(program, inputs.split(1), len(inputs), settings, None, Arb() if truth else None, largest(inputs))


def ladders_of(program, inputs, **options):
    return climbed(program, inputs, **options)[0]


def check(ladder, name):
    """Errors below every bound; a_priori is of the exact network, the others of its binary64 evaluation."""
    for error in ("measured", "truth"):
        for bound in ("a_priori", "running", "zonotope", "probable"):
            found, limit = getattr(ladder, error), getattr(ladder, bound)
            assert found is None or limit is None or found <= limit * OWN, f"{name}: {error} {found}, {bound} {limit}"


@examples(10)
@given(programs(runnable(), families=("normal", "scales", "cancelling", "ties", "subnormal", "large"), batch=1))
def test_runs_and_the_exact_network_stay_inside_every_bound(drawn):
    found = ladders_of(drawn.program, drawn.stored, truth=True)
    event(f"all have a zonotope: {all(ladder.zonotope is not None for ladder in found.values() if ladder.entries)}")
    for name, ladder in found.items():
        check(ladder, name)
        if ladder.running is None:
            assert ladder.a_priori is None


@examples(12)
@given(programs(runnable(), families=("normal", "ties")), st.integers(0, 2**32 - 1))
def test_the_bound_by_norms_holds_on_other_inputs_of_the_same_size(drawn, seed):
    assume(drawn.stored.is_floating_point())
    program, size = drawn.program, largest(drawn.stored)
    bounds = a_priori(program, size)
    generator = torch.Generator().manual_seed(seed)
    others = (torch.rand(drawn.stored.shape, generator=generator) * 2 - 1) * size
    others = program.inputs(torch.where(torch.rand(others.shape, generator=generator) < 0.5, others, others.sign() * size))
    centres, known, values = {}, {}, {}

    def note(found):
        centres[found.node.name], known[found.node.name] = found.result.centre, found.known

    enclose(program, others, note)
    execute(program, others, observe=lambda node, result: values.update({node.name: result.double()}))
    event(f"bounded: {sum(map(math.isfinite, bounds.values()))} of {len(bounds)}")
    for name, result in values.items():
        if math.isfinite(bounds[name]):
            error = (result - centres[name]).abs()[known[name]]
            assert (error <= bounds[name] * OWN).all(), name


def test_operators_with_a_bound_by_norms_exist_and_are_no_others():
    from precisionkit.ops import BY_NAME

    assert set(BY_NAME) >= AFFINE | set(LIPSCHITZ)
    assert not AFFINE & set(LIPSCHITZ)
    for name in LIPSCHITZ:  # steps as far apart as operands are
        x = torch.linspace(-4, 4, 1001, dtype=torch.float64)
        rows = (x[None], x.roll(1)[None]) if name in ("maximum", "minimum") else (x[None, None, None] if name == "max_pool2d" else x[None],)
        attributes = {"kernel_size": (1, 2), "dim": (-1,)}
        moved = BY_NAME[name].apply(attributes, *(r + 1e-3 for r in rows)) - BY_NAME[name].apply(attributes, *rows)
        assert moved.abs().amax() <= LIPSCHITZ[name] * 1e-3 * (1 + 1e-9), name


def test_a_sum_that_ends_on_a_tie_attains_every_proved_bound():
    """1 + 2**-11 is stored as 1 in binary16: its error is u ufp, all that any method allows beside half an ulp of binary32."""
    layer = nn.Linear(2, 2)
    layer.weight.data, layer.bias.data = torch.tensor([[1.0, 2.0**-11], [0.5, 0.0]]), torch.zeros(2)
    program = Program.of(capture(layer, (2,)), parse_arithmetic("fp16"))
    (ladder,) = ladders_of(program, torch.ones(1, 2), truth=True).values()
    assert ladder.entries == 2
    assert ladder.measured == ladder.truth == math.nextafter(2.0**-11, 1)
    for bound in (ladder.a_priori, ladder.running, ladder.zonotope):
        assert 2.0**-11 <= bound <= 2.0**-11 * 1.01


def test_two_layers_that_add_up_their_errors_attain_the_proved_bounds():
    """Both stored numbers of the first layer err by u in one direction, and the second layer, which is exact, adds them."""
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    net[0].weight.data, net[1].weight.data = torch.tensor([[1.0, 2.0**-11], [2.0**-11, 1.0]]), torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    program = Program.of(capture(net, (2,)), parse_arithmetic("fp16"))
    ladder = ladders_of(program, torch.ones(1, 2), truth=True)["linear_1"]
    assert ladder.measured == math.nextafter(2.0**-10, 1)
    # beside them, half an ulp of the store of a number of up to 2 + 2**-9, in its binade
    for bound in (ladder.a_priori, ladder.running, ladder.zonotope):
        assert 2.0**-10 <= bound <= (2.0**-10 + 2.0**-10) * 1.01


def test_a_zonotope_keeps_what_cancels():
    """x - x of one stored number: its error cancels in the zonotope, and doubles for the other methods."""
    net = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 2, bias=False), nn.Linear(2, 2, bias=False))
    for layer, weight in zip(net, ([[1 / 3]], [[1.0], [1.0]], [[1.0, -1.0], [0.0, 0.0]]), strict=True):
        layer.weight.data = torch.tensor(weight)
    program = Program.of(capture(net, (1,)), parse_arithmetic("fp16"))
    ladder = ladders_of(program, torch.ones(1, 1))["linear_2"]
    assert ladder.zonotope < 0.6 * ladder.running
    assert ladder.running <= ladder.a_priori


@pytest.mark.parametrize("options", [("fp16",), ("bf16",), ("fp16", "fp16", "pairwise"), ("fp16", "fp32", "any", "epilogue")])
def test_a_trained_network_has_every_rung(options):
    model, data = load_model(bundled_model("digits_cnn")), load_dataset("digits", limit=2)
    images = model.preprocess(data.images)
    arithmetic = parse_arithmetic(*options)
    program = Program.of(capture(model.module, tuple(images.shape[1:])), arithmetic)
    for name, ladder in ladders_of(program, program.inputs(images), entries=16, truth=True).items():
        check(ladder, name)
        assert (ladder.probable is None) == (not arithmetic.random_stores)
        assert 0 <= ladder.measured <= ladder.running <= ladder.a_priori
        assert ladder.truth == pytest.approx(ladder.measured, rel=1e-6)
    assert ladder.zonotope < ladder.running


def test_without_effort_enclosures_are_left_as_they_are():
    network = nn.Sequential(nn.Linear(6, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 3))
    program = Program.of(capture(network, (6,)), parse_arithmetic("bf16"))
    inputs = program.inputs(torch.randn(2, 6, generator=torch.Generator().manual_seed(1)))
    sharp, coarse = (ladders_of(program, inputs, effort=effort)["linear_2"] for effort in (1e6, 0.0))
    assert sharp.measured <= sharp.zonotope <= coarse.zonotope
    assert sharp.running == coarse.running
    assert sharp.probable <= coarse.probable


def test_deep_enough_doubts_are_screened(monkeypatch):
    """Few passes are allowed, so that a sketch takes the place of single neurons, and says so."""
    network = nn.Sequential(*(layer for _ in range(3) for layer in (nn.Linear(40, 40), nn.ReLU())), nn.Linear(40, 3))
    program = Program.of(capture(network, (40,)), parse_arithmetic("bf16"))
    one = program.inputs(torch.randn(1, 40, generator=torch.Generator().manual_seed(1)))
    monkeypatch.setattr(Tracer, "_doubts", lambda self, inputs: (1e9, -1))
    traced = Tracer(program, 1e4).proved(one)
    assert traced.sketched
    found, sketched = climbed(program, one, effort=1e4)
    assert sketched
    for name, ladder in found.items():
        check(ladder, name)


def test_what_runs_do_not_compute_has_no_ladder():
    program = Program.of(capture(nn.Sequential(nn.LayerNorm(4), nn.Flatten(), nn.Linear(8, 3)), (2, 4)), parse_arithmetic("fp16"))
    found = ladders_of(program, torch.ones(1, 2, 4).cumsum(2))
    assert {name for name, ladder in found.items() if not ladder.entries} == set(program.graph.hidden) != set()


def test_a_run_that_overflows_has_neither_bounds_nor_an_error():
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    net[0].weight.data, net[1].weight.data = torch.tensor([[1.0, 1.0], [0.0, 1.0]]), torch.eye(2)
    program = Program.of(capture(net, (2,)), parse_arithmetic("fp16"))
    for ladder in ladders_of(program, torch.full((1, 2), 6e4), truth=True).values():
        assert (ladder.a_priori, ladder.running, ladder.zonotope, ladder.probable, ladder.measured, ladder.truth) == (None,) * 6


def test_entries_are_spread_and_hold_the_widest():
    radius = torch.zeros(10, 10)
    radius[3, 7] = 1.0
    assert chosen_entries(radius, 5).tolist() == [0, 33, 37, 66, 99]
    assert chosen_entries(radius, 1).tolist() == [37]
    assert chosen_entries(torch.full((2, 3), torch.nan), 6).tolist() == [0, 1, 2, 3, 4, 5]
    radius[5, 0] = torch.nan
    assert 50 in chosen_entries(radius, 4)


@pytest.mark.parametrize("order", ["sequential", "tensorcore:volta", "splitk:4", "exact"])
def test_other_orders_have_a_bound_by_norms_as_well(order):
    program = Program.of(capture(nn.Sequential(nn.Linear(9, 7), nn.ReLU(), nn.Linear(7, 3)), (9,)), parse_arithmetic("fp16", "fp32", order))
    inputs = program.inputs(torch.randn(2, 9, generator=torch.Generator().manual_seed(0)))
    for name, ladder in ladders_of(program, inputs, truth=True).items():
        assert ladder.running <= ladder.a_priori < 1
        check(ladder, name)


def test_tokens_have_no_sizes_and_so_no_bound_by_norms():
    from precisionkit.testing import Network

    network = Network((5,), ("residual", "relu"), 3, 0, tokens=True)
    program = Program.of(captured(network), parse_arithmetic("fp16"))
    found = ladders_of(program, torch.tensor([[0, 1, 2, 3, 4]]))
    assert found[program.graph.output].a_priori is None
    for name, ladder in found.items():
        check(ladder, name)


class Filled(nn.Module):
    def __init__(self, fill):
        super().__init__()
        self.fill, self.last = fill, nn.Linear(4, 2)
        self.register_buffer("mask", torch.tensor([[True, False, False, False]]))

    def forward(self, x):
        return self.last(nn.functional.relu6(x.masked_fill(self.mask, self.fill)))


@pytest.mark.parametrize("fill", [1e9, 65519.9])
def test_what_is_filled_in_beyond_the_format_is_told(fill):
    program = Program.of(capture(Filled(fill).eval(), (4,)), parse_arithmetic("fp16"))
    stored = program.inputs(torch.zeros(1, 4))
    seen, proved, headroom = {}, {}, {}
    execute(program, stored, observe=lambda node, result: seen.update({node.name: float(result.abs().max())}))

    def note(found):
        proved[found.node.name], headroom[found.node.name] = float(found.largest()), float(found.headroom())

    enclose(program, stored, note)
    for name, value in seen.items():
        assert not math.isfinite(proved[name]) or value <= proved[name], name
    filled = next(name for name, value in seen.items() if value > 60000)
    assert headroom[filled] <= 1
