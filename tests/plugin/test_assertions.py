"""Assertions on predictions and results: what passes, what fails, and what the messages say."""

import re

import numpy as np
import pytest
import torch
from torch import nn

from precisionkit.arithmetic import REFERENCE, parse_arithmetic
from precisionkit.assertions import assert_certified, assert_close_proved, proved_bounds
from precisionkit.bound.attribution import first_order_shares
from precisionkit.bound.linearised import linearised
from precisionkit.bound.outputs import enclose_outputs
from precisionkit.capture import capture
from precisionkit.errors import PrecisionKitError
from precisionkit.evaluate import Program, execute
from precisionkit.models import bundled_model

FP16, BF16 = parse_arithmetic("fp16"), parse_arithmetic("bf16")


def made(last=1.0):
    """Two classes, decided by the mean of what is positive."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    with torch.no_grad():
        net[2].weight *= last
    return net.eval()


def batch(count=6, seed=0):
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))


def with_margin(net, x, margin):
    """The inputs and one between two of them, with about this margin."""
    low, high = 0.0, 1.0
    a, b = x[0], next(row for row in x if net(row[None]).argmax() != net(x[:1]).argmax())
    first = int(net(a[None]).argmax())
    for _ in range(40):
        middle = (low + high) / 2
        logits = net((a + middle * (b - a))[None])[0].detach()
        wide = logits[first] - logits[torch.arange(3) != first].max() > margin
        low, high = (middle, high) if wide else (low, middle)
    return torch.cat([x, (a + low * (b - a))[None]]).detach()


def test_predictions_with_a_margin_are_certified():
    report = assert_certified(made(), batch(), FP16, at_least="proved")
    assert report.summary.proved == 6
    assert assert_certified(made(), batch().numpy().astype(np.float64), FP16).summary.inputs == 6


def test_a_weak_prediction_is_told_with_what_its_bound_is_made_of():
    net = made()
    x = with_margin(net, batch(), 0.001)
    with pytest.raises(AssertionError) as caught:
        assert_certified(net, x, BF16, at_least="proved")
    first, weak, last = str(caught.value).splitlines()
    assert first == "1 of 7 predictions are not 'proved' in bf16/fp32-any (method auto); 85.71 % are, 100 % were asked for."
    pattern = r"  input 6: observed, margin 0\.001\d*, bound 0\.0\d+, [\d.]+ times the margin; to first order 0\.0\d+ against class \d: "
    assert re.match(pattern, weak)
    shares = [int(share) for share in re.findall(r"(\d+) % ", weak)]
    assert shares == sorted(shares, reverse=True)
    assert len(shares) == 3
    assert "node 'linear" in weak
    assert last == (
        "To pass, choose a more precise format, such as storage='fp32'; or name the order of sums of the machine that it will run on; "
        "or ask for at_least='probable'; or allow for inputs close to a decision boundary, fail_under=85.7."
    )
    assert assert_certified(net, x, BF16, at_least="proved", fail_under=85).summary.proved == 6


def test_a_prediction_that_is_seen_to_change_fails_whatever_is_allowed():
    net = made()
    x = with_margin(net, batch(), 0.0)
    with pytest.raises(
        AssertionError, match=r"\n  input 6: flipped from class \d to \d, margin .*, which the two runs differ by .* in\n"
    ) as caught:
        assert_certified(net, x, FP16, at_least="observed", fail_under=1)
    assert str(caught.value).endswith("\nTo pass, choose a more precise format, such as storage='fp32'.")


def test_overflow_names_the_node():
    with pytest.raises(AssertionError) as caught:
        assert_certified(made(last=60000.0), batch() * 2**10, FP16)
    message = str(caught.value)
    assert "overflow" in message
    assert "node 'linear_1' (linear" in message
    assert message.endswith("Rescale the layer that overflows, or choose storage='bf16', whose range is that of binary32.")


def test_a_file_is_certified_as_a_model_in_memory_is():
    digits = np.random.default_rng(0).integers(0, 256, (4, 8, 8)).astype(np.uint8)
    report = assert_certified(bundled_model("digits_cnn"), digits, FP16, at_least="observed", fail_under=1)
    assert report.model.arch == "digits_cnn"
    assert report.method == "interval"


@pytest.mark.parametrize("arithmetic", [FP16, BF16, REFERENCE, parse_arithmetic("fp16", "fp16", "pairwise")], ids=lambda a: a.name)
def test_runs_of_an_arithmetic_are_close(arithmetic):
    net, x = made(), batch()
    program = Program.of(capture(net, (6,)), arithmetic)
    found = execute(program, program.inputs(x)).logits
    close = assert_close_proved(found, net, x, arithmetic)
    assert 0 < close.largest_share <= 1
    assert close.outputs.failure.eq(0).all()


@pytest.mark.parametrize(("arithmetic", "dtype"), [(FP16, torch.float16), (BF16, torch.bfloat16)], ids=["fp16", "bf16"])
def test_half_kernels_of_torch_are_close(arithmetic, dtype):
    net, x = made(), batch()
    half = made().to(dtype)
    with torch.no_grad():
        found = half(x.to(dtype))
    assert_close_proved(found, net, x, arithmetic)
    assert_close_proved(found, half, x.to(dtype), arithmetic, effort=0)


def test_what_no_run_gives_is_refuted_at_the_worst_element():
    net, x = made(), batch()
    outputs = proved_bounds(net, x, FP16)
    found = outputs.centre.clone()
    found[4, 2] += 3 * outputs.radius[4, 2]
    found[1, 0] -= outputs.radius[1, 0] * (1 + 2.0**-20)
    found[0, 0] += outputs.radius[0, 0] * (1 - 2.0**-20)
    with pytest.raises(AssertionError) as caught:
        assert_close_proved(found, net, x, FP16)
    lines = str(caught.value).splitlines()
    assert lines[0] == "2 of 18 elements are further from the exact network than any run of fp16/fp32-any can be:"
    assert lines[1].startswith("  element [4, 2]: ")
    assert ", 3 times its bound " in lines[1]
    assert lines[2].startswith("  element [1, 0]: ")
    assert "'precisionkit probe'" in lines[3]


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_no_bound_admits_what_is_not_finite(value):
    net, x = made(), batch()
    found = proved_bounds(net, x, FP16).centre
    found[3, 1] = value
    with pytest.raises(AssertionError, match=r"\n  element \[3, 1\]: "):
        assert_close_proved(found, net, x, FP16)


def test_without_a_bound_nothing_is_close():
    x = batch() * 2**10
    with pytest.raises(
        AssertionError, match=r"^Input \d has no bound in fp16/fp32-any: overflow of binary16 is not excluded at node 'linear_1'"
    ):
        assert_close_proved(torch.zeros(6, 3), made(last=60000.0), x, FP16)


def test_bounds_of_elements_are_sharper_than_intervals_and_hold():
    torch.manual_seed(1)
    layers = [layer for _ in range(5) for layer in (nn.Linear(12, 12), nn.ReLU())]
    net, x = nn.Sequential(*layers, nn.Linear(12, 4)).eval(), torch.randn(5, 12)
    program = Program.of(capture(net, (12,)), FP16)
    inputs = program.inputs(x)
    sharp, coarse = enclose_outputs(program, inputs), enclose_outputs(program, inputs, effort=0)
    assert (sharp.radius <= coarse.radius).all()
    assert sharp.radius.sum() < 0.5 * coarse.radius.sum()
    for found in (execute(program, inputs), execute(program, inputs, native=True)):
        assert ((found.logits - sharp.centre).abs() <= sharp.radius).all()


def test_screened_outputs_state_their_failure():
    torch.manual_seed(1)
    layers = [layer for _ in range(3) for layer in (nn.Linear(40, 40), nn.ReLU())]
    net, x = nn.Sequential(*layers, nn.Linear(40, 4)).eval(), torch.randn(2, 40)
    program = Program.of(capture(net, (40,)), parse_arithmetic("bf16"))
    inputs = program.inputs(x)
    screened = enclose_outputs(program, inputs, effort=130)
    run = execute(program, inputs).logits
    assert ((run - screened.centre).abs() <= screened.radius).all()
    assert (screened.radius <= enclose_outputs(program, inputs, effort=0).radius).all()
    assert set(screened.failure.tolist()) <= {0.0, 1e-13}


def test_shares_add_up_to_the_first_order_bound():
    program = Program.of(capture(made(), (6,)), FP16)
    inputs = program.inputs(batch())
    classes, rivals = torch.tensor([0, 1, 2, 0, 1, 2]), torch.tensor([1, 2, 0, 2, 0, 1])
    shares = first_order_shares(program, inputs, classes, rivals)
    worst = linearised(program, inputs, classes).worst.gather(1, rivals[:, None])[:, 0]
    assert torch.allclose(shares.total, worst, rtol=1e-3)
    assert list(shares.by_node) == [node.name for node in program.graph.nodes]
    assert (torch.stack(list(shares.by_node.values())) >= 0).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: assert_certified(made().train(), batch(), FP16), "The model is in training mode"),
        (lambda: assert_certified(made().half(), batch(), FP16), "The model has numbers in torch.float16; give it in torch.float32"),
        (lambda: assert_certified(made(), batch(), FP16, at_least="sure"), "The verdict 'sure' cannot be asked for; choose one of proved"),
        (lambda: assert_certified(made(), batch(), FP16, fail_under=0), "fail_under is a percentage above 0 and up to 100, not 0"),
        (lambda: assert_certified(made(), batch(), FP16, arch="lenet5"), "arch names the architecture of a file"),
        (lambda: assert_certified(3, batch(), FP16), "The model is a int; give a torch.nn.Module"),
        (lambda: assert_certified(made(), "many", FP16), "The batch is a str; give a tensor or an array"),
        (lambda: assert_certified(made(), batch().double() / 3, FP16), "The batch is in torch.float64 and holds numbers that are none of"),
        (
            lambda: assert_close_proved(torch.zeros(6, 2), made(), batch(), FP16),
            "The result has the shape (6, 2), but the model gives (6, 3)",
        ),
        (
            lambda: assert_close_proved(torch.zeros(6, 3), made().double(), batch(), FP16),
            "The model has numbers in torch.float64; give it in",
        ),
        (
            lambda: assert_close_proved(torch.zeros(6, 3), nn.Sequential(made(), nn.Softmax(1)).eval(), batch(), FP16),
            "The model ends with a softmax, before which the bounds end",
        ),
    ],
)
def test_refusals_are_sentences(call, message):
    with pytest.raises(PrecisionKitError) as caught:
        call()
    assert str(caught.value).startswith(message)
    assert str(caught.value).endswith(".")
