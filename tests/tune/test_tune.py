"""Plans of what to keep in binary32: values and families, the search, what a plan says, and the model that it makes."""

import copy
import dataclasses
import functools
import json
import pickle
import sys
import threading

import jsonschema
import msgspec
import pytest
import torch
from click.testing import CliRunner
from rich.console import Console
from torch import nn

import precisionkit
import precisionkit.patched as patched_module
from precisionkit.arithmetic import REFERENCE, parse_arithmetic
from precisionkit.bound.interval import interval
from precisionkit.capture import capture
from precisionkit.certify import Settings, certify
from precisionkit.cli import main
from precisionkit.data import load_dataset
from precisionkit.errors import ReportError, UnsupportedArithmeticError, UnusableDataError, UnusableModelError, UsageError
from precisionkit.evaluate import Program, device_flags, execute
from precisionkit.mixed import Keep
from precisionkit.models import bundled_model, load_model
from precisionkit.patched import Patched
from precisionkit.report.plan import Plan, render_plan
from precisionkit.report.schema import published_schema
from precisionkit.tune import Wanted, make_plan
from precisionkit.tune.search import needed_of
from precisionkit.tune.trials import Remembering
from precisionkit.tune.values import Value, family, shares_of, values_of

DIGITS = str(bundled_model("digits_cnn"))
NORM = "_native_batch_norm_legit_no_training"


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2), nn.Linear(8, 3)

    def forward(self, x):
        y = torch.relu(x * 3)
        return self.fc(torch.flatten(torch.relu(self.norm(self.conv(y)) + y), 1))


def test_values_are_what_reaches_the_rest_through_one_tensor():
    found = {value.name: value for value in values_of(capture(Block().eval(), (2, 2, 2)))}
    assert [sorted(value.nodes) for value in found.values()] == [
        ["mul"],
        sorted([NORM, "conv2d", next(n for n in found["relu_1"].nodes if n.startswith("add"))]),
        ["linear"],
    ]
    assert sorted(found["relu"].readers) == sorted(["conv2d", *(n for n in found["relu_1"].nodes if n.startswith("add"))])
    assert found["relu_1"].readers == {"linear"}
    assert found["linear"].kept == {"linear"}


CHAIN = tuple(
    Value(name, frozenset(name), frozenset(name), frozenset(after)) for name, after in (("a", "b"), ("b", "c"), ("c", "d"), ("d", ""))
)


@pytest.mark.parametrize(
    ("shares", "sets"),
    [
        ({"a": 5.0, "b": 1.0, "c": 1.0, "d": 1.0}, ["", "ab", "abcd"]),
        ({"a": 1.0, "b": 1.0, "c": 1.0, "d": 9.0}, ["", "d", "bcd", "abcd"]),
        ({"a": 0.0, "b": 0.0, "c": 3.0, "d": 0.0}, ["", "cd", "abcd"]),
    ],
)
def test_a_family_grows_by_what_takes_most_off_for_each_node(shares, sets):
    found = family(CHAIN, shares)
    assert found == tuple(frozenset(kept) for kept in sets)


def test_shares_of_parts_are_those_of_their_value():
    values = (Value("b", frozenset("ab"), frozenset("a"), frozenset()),)
    assert shares_of(values, {"a": 1.0, "b": 2.0, "input": 7.0}) == {"b": 3.0}


@pytest.fixture(scope="module")
def digits():
    return load_model(DIGITS), load_dataset("digits", limit=60)


def test_nothing_is_kept_where_half_is_enough(digits):
    plan = make_plan(*digits, parse_arithmetic("fp16"), Wanted(target=90, at="proved"))
    assert plan.reached
    assert plan.nodes == plan.node_block_list == ()
    assert plan.before == plan.after
    assert plan.kept == plan.half


@pytest.fixture(scope="module")
def short_sums(digits):
    """In binary16 sums that no order is named for, half of the inputs are proved."""
    arithmetic = parse_arithmetic("fp16", "fp16")
    said = []
    return arithmetic, make_plan(*digits, arithmetic, Wanted(target=95, at="proved"), said.append), said


def test_short_sums_are_kept_first(short_sums):
    _, plan, said = short_sums
    assert plan.reached
    assert plan.before.proved < 0.95 * 60 <= plan.after.proved
    assert any(node.sums and not node.weights for node in plan.nodes)
    assert plan.kept.weight_bytes < plan.fp32.weight_bytes
    assert said[0] == "Deciding 60 inputs all in half, the hardest first."
    assert plan.before.inputs < 60  # as soon as too few are left, the rest is not decided


def test_what_a_plan_says_is_certified_again(digits, short_sums):
    arithmetic, plan, _ = short_sums
    keep = Keep.of(plan.arithmetic.kept, plan.arithmetic.kept_sums)
    report = certify(*digits, arithmetic, Settings(keep=keep, probe=False))
    assert report.summary.proved == plan.after.proved


def test_a_target_that_is_out_of_reach_is_told(digits):
    """Two classes with the same weights are tied: no run is proved to keep the first, in any arithmetic."""
    model, data = digits
    module = copy.deepcopy(model.module)
    with torch.no_grad():
        for parameter in module.fc.parameters():
            parameter[1] = parameter[0]
    plan = make_plan(dataclasses.replace(model, module=module), data, parse_arithmetic("fp16"), Wanted(target=100, at="proved"))
    assert not plan.reached
    assert plan.kept == plan.fp32
    assert plan.after.proved < 60
    said = Console(width=200)
    with said.capture() as text:
        said.print(render_plan(plan))
    assert "The target of 100 % is not reached: with 4 nodes kept in fp32" in " ".join(text.get().split())
    assert plan.uncertified[0].margin == 0.0 < plan.uncertified[0].bound
    first = plan.uncertified[0]
    assert f"Left, with margin and bound: input {first.index} (0, {first.bound:.3g}), input" in " ".join(text.get().split())


@pytest.mark.parametrize(
    ("target", "count", "needed"), [(55, 100, 55), (7, 100, 7), (99.9, 1000, 999), (95, 60, 57), (95.1, 60, 58), (100, 3, 3), (0.1, 10, 1)]
)
def test_a_target_is_the_decimal_number_that_was_given(target, count, needed):
    assert needed_of(target, count) == needed


def test_no_program_is_bounded_twice(digits):
    asked = []

    def method(program, inputs, classes):
        asked.append(len(inputs))
        return interval(program, inputs, classes)

    model, data = digits
    graph = capture(model.module, (1, 8, 8))
    remembering, images = Remembering(method), model.preprocess(data.images[:4])
    half = parse_arithmetic("fp16")
    programs = [Program.of(graph, REFERENCE), Program.of(graph, half), Program.of(graph, half, keep=Keep.of(["conv2d"]))]
    for program in programs:
        stored = program.inputs(images)
        classes, found = interval(program, stored).classes, []
        for first, last, new in ((0, 2, [2]), (0, 4, [2]), (1, 3, [])):
            asked.clear()
            found.append(remembering(program, stored[first:last], classes[first:last]))
            assert asked == new
            assert torch.equal(found[-1].centre.argmax(1), classes[first:last])
        assert torch.equal(found[2].radius, found[1].radius[1:3])


class Sharp(nn.Module):
    """Attention whose scores, inside its kernel, may overflow."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.fc = nn.Linear(8, 10)

    def forward(self, x):
        v = x[:, :, 3:5, :4]
        q = (v + 1) * 400.0
        return self.fc(torch.flatten(nn.functional.scaled_dot_product_attention(q, q, v), 1))


def test_what_may_overflow_inside_a_kernel_is_kept_with_it(digits):
    model, data = dataclasses.replace(digits[0], module=Sharp().eval()), load_dataset("digits", limit=6)
    plan = make_plan(model, data, parse_arithmetic("fp16"), Wanted(target=100, at="proved"))
    assert any("attention" in node.name for node in plan.nodes)


@pytest.mark.parametrize(
    ("arithmetic", "wanted", "message"),
    [
        (REFERENCE, Wanted(), "there is nothing to keep; choose --storage fp16"),
        (parse_arithmetic("fp16"), Wanted(target=0), "The target is 0 percent, but must be above 0"),
    ],
)
def test_what_cannot_be_wanted_is_refused(digits, arithmetic, wanted, message):
    with pytest.raises(UsageError, match=message):
        make_plan(*digits, arithmetic, wanted)


def test_costs_lie_between_half_and_fp32(short_sums):
    _, plan, _ = short_sums
    for name in ("weight_bytes", "result_bytes"):
        half, kept, whole = (getattr(cost, name) for cost in (plan.half, plan.kept, plan.fp32))
        assert half <= kept <= whole == 2 * half
    assert (plan.half.fp32_multiplications, plan.fp32.fp32_multiplications) == (0.0, 1.0)


def test_the_patched_model_runs_the_certified_program(digits, short_sums, tmp_path):
    model, data = digits
    arithmetic = parse_arithmetic("fp16")
    plan = msgspec.structs.replace(
        short_sums[1], arithmetic=msgspec.structs.replace(short_sums[1].arithmetic, accumulate="binary32", kept=("conv2d",), kept_sums=())
    )
    (tmp_path / "plan.json").write_bytes(msgspec.json.encode(plan))
    patched = precisionkit.apply(model.module, tmp_path / "plan.json")
    images = model.preprocess(data.images[:8])
    program = Program.of(capture(model.module, (1, 8, 8)), arithmetic, keep=Keep.of(["conv2d"]))
    expected = execute(program, program.inputs(images), native=True).logits
    assert torch.equal(patched(images).double(), expected)
    formats = {name: value.dtype for name, value in patched.named_buffers()}
    assert sorted({str(kind) for kind in formats.values()}) == ["torch.float16", "torch.float32"]
    compiled = torch.compile(patched, backend="eager")
    assert torch.equal(compiled(images), patched(images))


@functools.cache
def small_plan():
    model = load_model(DIGITS)
    return model, make_plan(model, load_dataset("digits", limit=5), parse_arithmetic("fp16"), Wanted(at="proved"))


def patched_with(*, probe=True, **changes):
    model, plan = small_plan()
    changed = msgspec.structs.replace(plan, arithmetic=msgspec.structs.replace(plan.arithmetic, **changes))
    return precisionkit.apply(model.module, changed, probe=probe)


@pytest.mark.parametrize(("storage", "accumulate"), [("binary16", "binary64"), ("bfloat16", "bfloat16"), ("bfloat16", "binary64")])
def test_sums_that_no_kernel_of_torch_makes_are_not_patched(storage, accumulate):
    with pytest.raises(UnsupportedArithmeticError, match=rf"and never in {accumulate}; make one with --accumulate fp32\."):
        patched_with(storage=storage, accumulate=accumulate)


@pytest.mark.parametrize("order", ["sequential", "splitk:4", "tensorcore:hopper", "any"])
def test_a_device_that_breaks_the_arithmetic_is_refused(monkeypatch, order):
    """It is asked within the switches of the plan, once for each arithmetic."""
    asked = []

    def contradiction(kernels, arithmetic):
        asked.append((kernels.name, arithmetic.name, torch.get_float32_matmul_precision()))
        return "256 + 1 - 256: got 0, allowed is 1."

    monkeypatch.setattr(patched_module, "contradiction", contradiction)
    monkeypatch.setattr(patched_module, "has_fast_run", lambda arithmetic: True)
    patched_module._contradiction.cache_clear()
    torch.set_float32_matmul_precision("high")
    try:
        for _ in range(2):
            with pytest.raises(
                UnsupportedArithmeticError, match=rf"kernels of cpu do not obey fp16/fp32-{order}: 256 \+ 1 - 256: got 0, allowed"
            ):
                patched_with(order=order)(torch.zeros(1, 1, 8, 8))
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")
        patched_module._contradiction.cache_clear()
    assert asked == [("cpu", f"fp16/fp32-{order}", "highest")]


def test_binary32_is_asked_for_where_nodes_are_kept_and_nothing_without_a_probe(monkeypatch):
    monkeypatch.setattr(patched_module, "_contradiction", lambda device, arithmetic: "it does" if arithmetic == REFERENCE else None)
    with pytest.raises(UnsupportedArithmeticError, match=r"do not obey fp32/fp32-any: it does\. So what was certified says nothing"):
        patched_with(kept=("conv2d",))(torch.zeros(1, 1, 8, 8))
    assert patched_with()(torch.zeros(1, 1, 8, 8)).shape == (1, 10)
    assert patched_with(probe=False, kept=("conv2d",))(torch.zeros(1, 1, 8, 8)).shape == (1, 10)


@pytest.mark.parametrize(
    ("storage", "accumulate", "allowed"),
    [("fp16", "fp16", True), ("fp16", "fp32", False), ("fp16", "fp64", False), ("bf16", "bf16", False)],
)
def test_sums_in_binary16_are_allowed_where_they_are_asked_for_alone(storage, accumulate, allowed):
    with device_flags(parse_arithmetic(storage, accumulate)) as flags:
        assert flags.get("cuda.matmul.allow_fp16_accumulation", allowed) == allowed


def test_threads_take_turns_with_the_switches_of_torch(monkeypatch):
    """Who restores while another runs has it run with the user's switches, and the user find the other's."""
    net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    patched = Patched(Program.of(capture(net, (8,)), parse_arithmetic("fp16"), keep=Keep.of(["linear"])), probe=False)
    seen, failed, run = set(), [], Patched._node

    def node(self, *given):
        seen.add(torch.get_float32_matmul_precision())
        return run(self, *given)

    def work():
        try:
            for _ in range(60):
                patched(torch.zeros(4, 8))
        except Exception as error:  # a thread's errors are lost
            failed.append(error)

    monkeypatch.setattr(Patched, "_node", node)
    interval = sys.getswitchinterval()
    torch.set_float32_matmul_precision("high")
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=work) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (seen, failed, torch.get_float32_matmul_precision()) == ({"highest"}, [], "high")
    finally:
        sys.setswitchinterval(interval)
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("changes", [{"fuse": "epilogue"}, {"order": "exact"}])
def test_what_no_kernel_of_torch_runs_is_not_patched(changes):
    with pytest.raises(UnsupportedArithmeticError, match="of which torch's kernels, which store every operator's result, are no runs"):
        patched_with(**changes)


def test_a_cpu_runs_no_short_sums():
    with pytest.raises(UnsupportedArithmeticError, match="which is no run of fp16/fp16-any: move the model to a GPU"):
        patched_with(accumulate="binary16")(torch.zeros(1, 1, 8, 8))


def test_the_formats_of_a_patched_model_are_not_changed():
    patched = patched_with(kept=("conv2d",))
    images = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = patched(images)
    for change in (patched.half, patched.float, lambda: patched.to(torch.bfloat16)):
        with pytest.raises(UsageError, match="The formats of a patched model are those that were certified"):
            change()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(patched(images), expected)
    assert torch.equal(copy.deepcopy(patched)(images), expected)
    assert torch.equal(pickle.loads(pickle.dumps(patched)).to("cpu")(images), expected)


def test_a_plan_for_another_network_is_refused(digits):
    """One that keeps nothing names no node that could be missing."""
    model = digits[0].module
    plan = make_plan(*digits, parse_arithmetic("fp16"), Wanted(target=50, at="proved"))
    assert plan.nodes == ()
    other, bent = copy.deepcopy(model), copy.deepcopy(model)
    with torch.no_grad():
        other.fc.bias[3] += 2.0**-20
    bent.fc = nn.Sequential(bent.fc, nn.Identity(), nn.Tanh())
    for wrong in (other, bent):
        with pytest.raises(
            UnusableModelError, match=r"for another network than this, or for other weights \(it was .*; run tune on this one"
        ):
            precisionkit.apply(wrong, plan)
    half = copy.deepcopy(model).half()
    with pytest.raises(UnusableModelError, match="is of float16, but a plan is for weights of binary32, which it rounds itself: give the"):
        precisionkit.apply(half, plan)
    wrapped = copy.deepcopy(model).to(memory_format=torch.channels_last).train()
    assert isinstance(precisionkit.apply(wrapped, plan), nn.Module)


@pytest.mark.parametrize("shape", [(2, 1, 9, 8), (2, 3, 8, 8), (8, 8), ()])
def test_inputs_of_another_shape_are_refused(shape):
    with pytest.raises(UnusableDataError, match=r"but the plan was made for \(batch, 1, 8, 8\): give inputs of that shape, or make a plan"):
        patched_with()(torch.zeros(shape))


def test_inputs_that_are_no_numbers_are_refused():
    with pytest.raises(UnusableDataError, match=r"The batch is of uint8, but the plan was made for numbers in binary32: give it those"):
        patched_with()(torch.zeros(2, 1, 8, 8, dtype=torch.uint8))


def test_a_plan_for_another_model_is_refused(short_sums):
    plan = msgspec.structs.replace(short_sums[1], arithmetic=msgspec.structs.replace(short_sums[1].arithmetic, kept=("conv2d_7",)))
    with pytest.raises(UnusableModelError, match="keeps the node 'conv2d_7', which this one has not"):
        precisionkit.apply(load_model(DIGITS).module, plan)


BYTES = {
    "empty": (b"", r"is no plan of this version: Input data was truncated; write one with 'precisionkit tune --json'\."),
    "fields": (b"{}", "is no plan of this version: Object missing required field"),
    "a report": (
        b'{"schema": "precisionkit.certify/1"}',
        r"is no plan but a report of 'precisionkit certify'; write one with 'precisionkit tune --json'\.",
    ),
    "no text": (b'{"schema": "\xff"}', r"is no plan of this version: 'utf-8' codec .*; write one with 'precisionkit tune --json'\."),
    "nested": (b'{"schema": ' + b"[" * 100_000, "is no plan of this version: "),
    "nested inside": (b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "is no plan of this version: "),
    "hostile": (b'{"\\u001b[31m": 1}', r"is no plan of this version: .*`\\x1b\[31m`"),
    "none": (None, "cannot be read: No such file or directory"),
}


@pytest.mark.parametrize(("content", "message"), BYTES.values(), ids=BYTES)
def test_bytes_that_are_no_plan_are_refused(tmp_path, content, message):
    if content is not None:
        (tmp_path / "plan.json").write_bytes(content)
    with pytest.raises(ReportError, match=message):
        precisionkit.apply(nn.Linear(2, 2), tmp_path / "plan.json")


def test_a_plan_is_kept_by_certify_and_profile(short_sums, tmp_path):
    file = tmp_path / "plan.json"
    kept = msgspec.structs.replace(short_sums[1].arithmetic, kept=("conv2d",))
    file.write_bytes(msgspec.json.encode(msgspec.structs.replace(short_sums[1], arithmetic=kept)))
    for command in (["certify", "--no-probe"], ["profile", "--ladder", "0"]):
        made = tmp_path / f"{command[0]}.json"
        options = ["--data", "digits", "--limit", "5", "--accumulate", "fp16", "--plan", str(file), "--json", str(made), "-q"]
        result = CliRunner().invoke(main, [command[0], DIGITS, *command[1:], *options], catch_exceptions=False)
        assert result.exit_code in (0, 1), result.stderr
        arithmetic = json.loads(made.read_text())["arithmetic"]
        assert arithmetic["kept"] == ["conv2d"]
        assert arithmetic["kept_sums"] == list(kept.kept_sums)
    refused = CliRunner().invoke(main, ["certify", DIGITS, "--data", "digits", "--plan", str(file), "--json", str(file)])
    assert refused.exit_code == 2
    assert "plan.json" in refused.stderr
    assert msgspec.json.decode(file.read_bytes(), type=Plan).arithmetic == kept


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--plan", "PLAN"], "is for fp16/fp16-any, but this is fp16/fp32-any: give the same --storage, --accumulate, --order and --fuse"),
        (["--plan", "PLAN", "--accumulate", "fp16", "--weights", "random"], "is for other weights (digits_cnn from"),
        (["--plan", "missing.json"], "The plan 'missing.json' cannot be read"),
    ],
)
def test_a_plan_for_something_else_is_not_kept(short_sums, tmp_path, options, message):
    file = tmp_path / "plan.json"
    file.write_bytes(msgspec.json.encode(short_sums[1]))
    options = [str(file) if option == "PLAN" else option for option in options]
    for command in ("certify", "profile"):
        result = CliRunner().invoke(main, [command, "digits_cnn", "--data", "digits", "--limit", "2", *options])
        assert result.exit_code == 2
        assert message in " ".join(result.stderr.split())


def test_a_loaded_model_is_patched_as_its_module(digits, short_sums):
    plan = msgspec.structs.replace(
        short_sums[1], arithmetic=msgspec.structs.replace(short_sums[1].arithmetic, accumulate="binary32", kept_sums=())
    )
    images = digits[0].preprocess(digits[1].images[:4])
    found = [precisionkit.apply(model, plan)(images) for model in (digits[0], digits[0].module)]
    assert torch.equal(*found)


@pytest.mark.parametrize(("share", "told"), [(0.2, False), (0.95, True)])
def test_a_plan_that_costs_as_much_as_fp32_says_so(short_sums, share, told):
    plan = msgspec.structs.replace(short_sums[1], kept=msgspec.structs.replace(short_sums[1].kept, fp32_multiplications=share))
    said = Console(width=200)
    with said.capture() as text:
        said.print(render_plan(plan))
    assert ("That costs hardly less than fp32" in text.get()) is told


def test_the_command_writes_a_plan(tmp_path):
    arguments = ["tune", DIGITS, "--data", "digits", "--limit", "20", "--at", "proved", "--json", str(tmp_path / "plan.json"), "-q"]
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    assert "20 of 20 inputs are proved" in result.stdout.replace("\n", " ")
    found = json.loads((tmp_path / "plan.json").read_text())
    jsonschema.validate(found, published_schema("plan"))
    assert msgspec.json.decode((tmp_path / "plan.json").read_bytes(), type=Plan).reached


def test_sums_alone_are_told_apart_and_not_given_to_converters(short_sums):
    graph_plan = short_sums[1]
    assert graph_plan.arithmetic.kept == ()
    assert graph_plan.arithmetic.kept_sums
    assert graph_plan.node_block_list == ()
    said = Console(width=200)
    with said.capture() as text:
        said.print(render_plan(graph_plan))
    assert f"The same for certify and profile: --keep-sums {graph_plan.arithmetic.kept_sums[0]}" in text.get()
    assert "With the sums of 1 node kept in fp32" in text.get()
