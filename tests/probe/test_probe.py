"""The probe against wrong devices made on purpose, and against this one."""

import json
import re
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner

import precisionkit.certify
from precisionkit.arithmetic import parse_arithmetic, parse_order
from precisionkit.cli import main
from precisionkit.formats import BFLOAT16, BINARY16, BINARY32, TOWARDS_ZERO, round_into, round_to_nearest
from precisionkit.models import bundled_model
from precisionkit.ops._runs import run_dots
from precisionkit.probe import Kernels, contradiction, judge, probe, torch_kernels
from precisionkit.probe.tree import describe, fold_along, meetings, of_order

CPU = torch.device("cpu")


def device(storage, dot, convolve=None, name="fake"):
    """A device whose every sum of products is the given one."""
    real = torch_kernels(CPU, storage)
    return Kernels(name, storage, dict.fromkeys(real.dots, dot), convolve or real.convolve, real.rows, real.taps)


def emulated(option, accumulate, order):
    arithmetic = parse_arithmetic(option, accumulate, order)

    def dot(a, b):
        sums = run_dots(arithmetic, b.T[None].contiguous(), a.T[None, None].contiguous(), None)[0, 0].T
        return round_to_nearest(sums.double(), arithmetic.storage).float()

    return dot


def truncating(a, b):
    """Sequential sums in binary32, truncated after every addition, then one store to nearest."""
    total = torch.zeros(a.shape[0], b.shape[1], dtype=torch.float64)
    for k in range(a.shape[1]):
        total = round_into(total + a[:, k, None].double() * b[k].double(), BINARY32, TOWARDS_ZERO)
    return round_to_nearest(total, BINARY16).float()


def flushing(a, b):
    least = BINARY16.smallest_normal
    a, b = (torch.where(t.abs() < least, 0.0, t) for t in (a, b))
    result = (a.double() @ b.double()).half().float()
    return torch.where(result.abs() < least, 0.0, result)


def tf32(a, b):
    cut = [(t.view(torch.int32) & ~0x1FFF).view(torch.float32) for t in (a.contiguous(), b.contiguous())]
    return cut[0] @ cut[1]


B_T = [[4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0], [0, -2, -1, 2, 1, 0], [0, 2, -1, -2, 1, 0], [0, 4, 0, -5, 0, 1]]
G = [[1 / 4, 0, 0], [-1 / 6, -1 / 6, -1 / 6], [-1 / 6, 1 / 6, -1 / 6], [1 / 24, 1 / 12, 1 / 6], [1 / 24, -1 / 12, 1 / 6], [0, 0, 1]]
A_T = [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]


def winograd(x, w):
    """F(4x4, 3x3) of Lavin and Gray, in binary32."""
    b_t, g, a_t = (torch.tensor(m, dtype=torch.float32) for m in (B_T, G, A_T))
    tiles = F.pad(x, (1, 1, 1, 1)).unfold(2, 6, 4).unfold(3, 6, 4)
    transformed = b_t @ tiles @ b_t.T
    kernels = g @ w @ g.T
    products = torch.einsum("bcijuv,ocuv->boijuv", transformed, kernels)
    result = a_t @ products @ a_t.T
    return result.permute(0, 1, 2, 4, 3, 5).reshape(x.shape[0], w.shape[0], *x.shape[2:])


def verdicts(kernels):
    return {j.arithmetic: j for j in probe(kernels).judgements}


def test_a_device_that_accumulates_in_half_is_told_from_one_that_does_not():
    found = probe(device(BINARY16, emulated("fp16", "fp16", "sequential")))
    judged = {j.arithmetic: j.witness for j in found.judgements}
    assert judged["fp16/fp32-any"] is not None
    assert judged["fp16/fp32-splitk:2"] is not None
    assert judged["fp16/fp16-any"] is None
    answers = {a.question: a.answer for a in found.answers}
    assert answers["tree of a sum of 32"] == "sequential"
    assert answers["accumulator"] == "truncates, or is shorter than binary32"


def test_a_device_that_truncates_is_refuted():
    witness = judge(device(BINARY16, truncating), parse_arithmetic("fp16")).witness
    assert witness.suite == "1 + 1.25 2^-24 - 1"
    assert str(witness) == "matmul, 1 + 1.25 2^-24 - 1: got 0, allowed is 5.96046448e-08 or 1.1920929e-07"


def test_a_device_that_flushes_subnormal_numbers_is_refuted_and_named():
    kernels = device(BINARY16, flushing)
    assert any("flushes subnormal numbers to zero" in warning for warning in probe(kernels).warnings)
    assert judge(kernels, parse_arithmetic("fp16")).witness is not None


def test_a_winograd_convolution_is_suspected():
    real = torch_kernels(CPU, BINARY32)
    kernels = replace(real, convolve=winograd)
    x, w = torch.randn(1, 2, 16, 16), torch.randn(3, 2, 3, 3)
    assert torch.allclose(winograd(x, w), F.conv2d(x, w, padding=1), atol=1e-4)
    why = contradiction(kernels, parse_arithmetic("fp32"))
    assert "an algorithm such as Winograd or FFT, which no bound here covers" in why
    assert contradiction(real, parse_arithmetic("fp32")) is None


def test_factors_that_are_cut_to_tf32_are_refuted():
    assert judge(device(BINARY32, tf32), parse_arithmetic("fp32")).witness.suite == "factors with 14 bits"


def test_partial_sums_in_half_are_told_from_whole_sums():
    kernels = device(BINARY16, emulated("fp16", "fp32", "splitk:4"))
    judged = verdicts(kernels)
    assert judged["fp16/fp32-any"].witness is not None
    assert judged["fp16/fp32-splitk:4"].witness is None


@pytest.mark.parametrize("unit", ["volta", "ampere", "hopper"])
def test_a_tensor_core_is_recognised_to_the_last_bit(unit):
    judged = verdicts(device(BINARY16, emulated("fp16", "fp32", f"tensorcore:{unit}")))
    assert judged[f"fp16/fp32-tensorcore:{unit}"].bit_exact
    assert judged[f"fp16/fp32-tensorcore:{unit}"].witness is None
    assert judged["fp16/fp32-any"].witness is not None
    others = {"volta", "ampere", "hopper"} - {unit}
    assert all(judged[f"fp16/fp32-tensorcore:{other}"].witness is not None for other in others)


@pytest.mark.parametrize(("unit", "step"), [("volta", None), ("ampere", "8"), ("hopper", "16")])
def test_the_terms_of_one_step_are_counted(unit, step):
    kernels = device(BINARY16, emulated("fp16", "fp32", f"tensorcore:{unit}"))
    found = {a.question: a.answer for a in probe(replace(kernels, dots={"matmul": kernels.dots["matmul"]})).answers}
    assert found.get("terms in one step") == step
    assert found["products"] == "exact"


def test_products_that_are_rounded_are_told_from_exact_ones():
    kernels = device(BINARY16, emulated("fp16", "fp16", "sequential"))
    found = {a.question: a.answer for a in probe(replace(kernels, dots={"matmul": kernels.dots["matmul"]})).answers}
    assert found["products"] == "rounded"


def test_products_that_are_fused_by_place_are_told():
    def dot(a, b):
        first = round_to_nearest(a[:, :8].double() @ b[:8].double(), BINARY32)
        rest = [round_to_nearest(a[:, k, None].double() * b[k].double(), BINARY32) for k in range(8, a.shape[1])]
        return sum(rest, first).float()

    kernels = replace(torch_kernels(CPU, BINARY32), dots={"matmul": dot})
    found = {a.question: a.answer for a in probe(kernels).answers}
    assert found["products"] == "rounded, or fused into the sum that they join, by place"


def test_sums_in_half_are_refuted_on_a_cpu_that_sums_in_binary32():
    kernels = torch_kernels(CPU, BINARY16)
    if judge(kernels, parse_arithmetic("fp16")).witness is not None:
        pytest.skip("This CPU does not sum in binary32.")
    assert judge(kernels, parse_arithmetic("fp16", "fp16")).witness.suite == "256 + 1.25 2^-16 - 256"


def test_reductions_that_compute_in_half_are_named():
    real = torch_kernels(CPU, BINARY16)
    rows = {**real.rows, "layer_norm": lambda x: (x.half() / (x.half() ** 2).mean(1, keepdim=True).sqrt()).float()}
    (warning,) = probe(replace(real, rows=rows)).warnings
    assert re.match(r"layer_norm is \S+ times further from the exact result than binary32 inside and one store would be", warning)


def test_attention_that_stores_probabilities_is_told_from_one_that_does_not():
    def attention(x, keep):
        rows = x.double() * 2.0**-8
        weights = torch.softmax(rows @ rows.T / rows.shape[1] ** 0.5, 1)
        return ((weights if keep else weights.bfloat16().double()) @ rows).bfloat16().float()

    real, said = torch_kernels(CPU, BFLOAT16), []
    for keep in (True, False):
        kernels = replace(real, dots={"matmul": real.dots["matmul"]}, rows={"attention": lambda x, keep=keep: attention(x, keep)})
        said += [a.answer for a in probe(kernels).answers if a.kernel == "attention"]
    assert said[0] == "binary32 inside, stored once"
    assert re.fullmatch(r"stores on the way: \S+ times the error of one store", said[1])


@pytest.mark.parametrize("storage", [BINARY16, BFLOAT16, BINARY32], ids=lambda f: f.name)
def test_this_cpu_obeys_binary32_sums(storage):
    found = probe(torch_kernels(CPU, storage))
    if storage != BINARY32 and found.warnings:  # units for bfloat16 of some CPUs do
        pytest.skip(f"This CPU's half kernels are no runs of any arithmetic here: {found.warnings[0]}")
    assert found.judgement(f"{storage.option}/fp32-any").witness is None
    assert found.warnings == ()
    assert found.judgement("unknown") is None


@pytest.mark.parametrize("order", ["sequential", "pairwise", "blocked:4", "blocked:16"])
def test_trees_are_revealed(order):
    for option, accumulate in (("fp16", "fp32"), ("bf16", "fp32"), ("fp32", "fp32"), ("fp16", "fp16")):
        arithmetic = parse_arithmetic(option, accumulate)
        found = meetings(emulated(option, accumulate, order), arithmetic.storage, 24)
        assert describe(found) == order
        assert (found == of_order(parse_order(order), 24)).all()


@pytest.mark.parametrize("kernel", ["matmul", "linear", "conv2d 1x1"])
def test_torchs_half_kernels_are_sums_along_the_tree_that_the_probe_reveals(kernel):
    """Reference runs and the real device agree bit for bit where the probe knows the order: random numbers, 32 terms."""
    dot = torch_kernels(CPU, BINARY16).dots[kernel]
    # rows and columns as many as the probe's, since kernels may choose their tree by shape
    rng = torch.Generator().manual_seed(1)
    a, b = torch.randn(496, 32, generator=rng).half().float(), torch.randn(32, 1, generator=rng).half().float()
    found = meetings(dot, BINARY16, 32)
    if found is None:
        pytest.skip("This CPU adds more than two numbers at once, or sums in half.")
    leaves = [a[:, k, None] * b[k] for k in range(32)]
    assert (dot(a, b) == fold_along(found, leaves, torch.add).half().float()).all()


def test_other_trees_are_described():
    def strided(a, b):
        return (a[:, ::2] @ b[::2]) + (a[:, 1::2] @ b[1::2])

    text = describe(meetings(strided, BINARY32, 8))
    assert text.startswith("none of these names; term 0 first meets term 2; sums of 2, ")
    at_once = emulated("fp16", "fp32", "tensorcore:hopper")
    assert describe(meetings(at_once, BINARY16, 8)) == "all 8 terms in one step"
    assert describe(None) == "not that of a tree of binary additions in this format"


PERMITTED = [
    # a device, and an arithmetic that allows it
    (("bf16", "fp32", "pairwise"), ("bf16", "fp32", "any")),
    (("fp16", "fp16", "blocked:7"), ("fp16", "fp16", "any")),
    (("fp16", "fp32", "splitk:2"), ("fp16", "fp32", "splitk:2")),
    (("fp16", "fp16", "tensorcore:volta"), ("fp16", "fp16", "tensorcore:volta")),
    (("bf16", "fp32", "tensorcore:ampere"), ("bf16", "fp32", "tensorcore:ampere")),
    (("fp16", "fp32", "tensorcore:hopper"), ("fp16", "fp32", "gpu:hopper")),
    (("bf16", "fp32", "sequential"), ("bf16", "fp32", "gpu:hopper")),
]


@pytest.mark.parametrize(("made", "allowed"), PERMITTED)
def test_a_device_that_obeys_is_not_refuted(made, allowed):
    kernels = device(parse_arithmetic(*made).storage, emulated(*made))
    assert contradiction(kernels, parse_arithmetic(*allowed)) is None


def test_a_library_that_mixes_cores_is_one_of_a_gpu_alone():
    """As seen on an H100: matrix products join parts of binary32, linear layers run on tensor cores."""
    on_unit, elsewhere = emulated("fp16", "fp32", "tensorcore:hopper"), emulated("fp16", "fp32", "pairwise")
    kernels = device(BINARY16, on_unit)
    kernels = replace(kernels, dots={**kernels.dots, "matmul": elsewhere})
    assert contradiction(kernels, parse_arithmetic("fp16", "fp32", "gpu:hopper")) is None
    assert contradiction(kernels, parse_arithmetic("fp16")) is not None
    assert contradiction(kernels, parse_arithmetic("fp16", "fp32", "tensorcore:hopper")) is not None
    volta = device(BINARY16, emulated("fp16", "fp32", "tensorcore:volta"))
    short = device(BINARY16, emulated("fp16", "fp16", "sequential"))
    assert contradiction(short, parse_arithmetic("fp16", "fp32", "gpu:hopper")) is not None
    assert contradiction(volta, parse_arithmetic("fp16", "fp32", "gpu:volta")) is None


def test_a_convolution_may_take_a_step_for_each_tap():
    """Hopper, tap by tap into one accumulator: 1, then 1.25 2^-24, then -1, in steps of their own."""
    arithmetic = parse_arithmetic("fp16", "fp32", "tensorcore:hopper")
    whole = emulated("fp16", "fp32", "tensorcore:hopper")

    def by_taps(a, b):
        missing = -a.shape[1] % 9
        x = F.pad(a, (0, missing)).unflatten(1, (-1, 9)).transpose(1, 2)  # rows, taps, channels
        w = F.pad(b, (0, 0, 0, missing)).unflatten(0, (-1, 9)).transpose(0, 1)  # taps, channels, columns
        more = -x.shape[2] % 16
        return whole(F.pad(x, (0, more)).flatten(1), F.pad(w, (0, 0, 0, more)).flatten(0, 1))

    kernels = device(BINARY16, whole)
    kernels = replace(kernels, dots={**kernels.dots, "conv2d 3x3": by_taps})
    assert judge(kernels, arithmetic).witness is None
    assert judge(replace(kernels, dots={"matmul": by_taps}), arithmetic).witness is not None


def test_rows_that_depend_on_the_batch_are_noticed():
    real = torch_kernels(CPU, BINARY32)

    def dot(a, b):
        return a @ b if len(a) > 2 else (a.double() @ b.double()).float()

    answers = {(a.kernel, a.question): a.answer for a in probe(replace(real, dots={"matmul": dot})).answers}
    assert answers["matmul", "rows"] == "depend on the batch size"


def test_the_command_shows_and_writes(tmp_path):
    result = CliRunner().invoke(main, ["probe", "--storage", "fp32", "--json", str(tmp_path / "p.json")], catch_exceptions=False)
    assert result.exit_code == 0
    assert "fp32/fp32-any  consistent" in result.stdout
    assert json.loads((tmp_path / "p.json").read_text())["judgements"][0]["witness"] is None
    wrong = CliRunner().invoke(main, ["probe", "--device", "abacus"], catch_exceptions=False)
    assert wrong.exit_code == 2
    assert "The device 'abacus' is not supported; choose cpu, cuda, cuda:N or mps." in wrong.stderr


def test_nothing_is_certified_for_a_device_that_breaks_the_arithmetic(monkeypatch):
    monkeypatch.setattr(precisionkit.certify, "torch_kernels", lambda where, storage: device(storage, tf32, name=str(where)))
    arguments = ["certify", str(bundled_model("digits_cnn")), "--data", "digits", "--limit", "4", "-q"]
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert result.exit_code == 2
    assert "The kernels of cpu do not obey fp32/fp32-any: matmul, factors with 14 bits: got " in result.stderr
    assert "--no-probe certifies the arithmetic as it is." in result.stderr
    assert CliRunner().invoke(main, [*arguments, "--no-probe"], catch_exceptions=False).exit_code == 0
