"""A profile: figures that can be worked out by hand, its refusals, its table and its JSON."""

import io
import json
import math
import re

import jsonschema
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from msgspec.structs import replace
from rich.console import Console
from torch import nn

from precisionkit.arithmetic import parse_arithmetic
from precisionkit.assertions import _loaded
from precisionkit.cli import main
from precisionkit.data import load_dataset
from precisionkit.data.dataset import Arrays, make_dataset
from precisionkit.errors import PrecisionKitError
from precisionkit.mixed import Keep
from precisionkit.profile import Settings, make_profile
from precisionkit.profile.condition import Conditions
from precisionkit.report import profile_conclusion, render_profile
from precisionkit.report.schema import published_schema

FP16 = parse_arithmetic("fp16")


def linear(weight):
    layer = nn.Linear(len(weight[0]), len(weight), bias=False)
    layer.weight.data = torch.tensor(weight)
    return layer


def profiled(net, rows, settings=None, arithmetic=FP16):
    data = make_dataset(Arrays(np.array(rows, dtype=np.float32), None), name="rows")
    return make_profile(_loaded(net.eval(), None), data, arithmetic, settings or Settings(ladder=0))


def test_figures_of_two_layers_are_those_worked_out_by_hand():
    """(1, 1) becomes (3/2, 1/2) and then 2 * 3/2 - 1/2 = 5/2; everything is exact, so bounds are what roundings could add."""
    found = profiled(nn.Sequential(linear([[1.0, 0.5], [1.0, -0.5]]), linear([[2.0, -1.0], [0.0, 0.5]])), [[1.0, 1.0], [2.0, 2.0]])
    first, second = found.nodes
    assert (first.least_seen, first.largest_seen, second.largest_seen) == (0.5, 3.0, 5.0)
    assert first.largest_proved == pytest.approx(3.0, rel=2.0**-9)
    assert first.overflow_distance == pytest.approx(65520 / 3, rel=1e-3)
    assert first.fresh == pytest.approx(2.0**-11 * 2, rel=1e-3)  # u ufp(3)
    assert first.amplification is None  # the input is given
    # largest errors 2**-11 ufp; rows add |2| of the error of 3/2 and |-1| of that of 1/2, which is half as large or less
    assert 2.0 <= second.amplification <= 3.0
    assert (first.condition, first.worst_condition) == (pytest.approx(1.0, rel=0.01), 3.0)  # (1 + 1/2) / |1 - 1/2|
    assert second.worst_condition == pytest.approx(3.5 / 2.5)
    assert (first.parameters, first.multiplications, first.format) == (4, 4, "binary16")
    assert found.tightest == 0  # a gap of 9/4, against 9/2
    assert sum(node.share for node in found.nodes) == pytest.approx(1)


def test_subnormal_and_zero_results_are_told_apart():
    weight = [[2.0**-10, 0.0], [0.0, 1.0], [0.0, 0.0]]
    (node,) = profiled(linear(weight), [[2.0**-6, 1.0]]).nodes
    assert (node.least_seen, node.largest_seen) == (2.0**-16, 1.0)
    assert (node.subnormal_seen, node.normal_proved) == (1 / 3, 1 / 3)  # a sum of zeros is bounded, not known


def test_overflow_ends_what_is_claimed_and_is_told():
    net = nn.Sequential(linear([[1.0, 1.0, 1.0, -1.0], [0.0, 1.0, 0.0, 0.0]]), linear([[1.0, 0.0], [0.0, 1.0]]))
    for row, over in (([6e4, 6e4, 0.0, 0.0], True), ([65504.0, 16 - 2.0**-7, 6e4, 6e4], False)):
        found = profiled(net, [row])
        first, second = found.nodes
        assert (first.largest_proved, first.fresh, second.largest_proved, second.overflow_distance) == (None,) * 4
        assert first.overflow_distance <= 1
        assert (first.largest_seen is None) == over
        said = "the half run stored infinities or NaN at 'linear'" if over else "the half run stored nothing above 6.55e+04"
        assert f"The interval method does not exclude overflow from 'linear' on; {said}." in profile_conclusion(found)
        assert "Numbers of 'linear' could be scaled down, or bfloat16" in profile_conclusion(found)
    assert profiled(net, [[3e4, 3e4, 0.0, 0.0]]).nodes[0].overflow_distance > 1


ROUNDS = nn.Sequential(linear([[1.0, 1 / 3], [0.0, 1 / 3]]), linear([[1 / 3, 0.0], [0.0, 0.3]]), linear([[1.0, 0.1], [0.0, 1.0]]))


def advice(net, row, *kept, arithmetic=FP16):
    """The last sentence."""
    said = profile_conclusion(profiled(net, [row], Settings(ladder=0, keep=Keep.of(kept)), arithmetic))
    return said[said.rindex(". ") + 2 :]


def test_large_numbers_are_large_for_their_own_format():
    row = [6000.0, 1.0]
    assert advice(ROUNDS, row).startswith("Numbers of 'linear' could be scaled down, or bfloat16 with its larger range")
    assert "scaled" not in advice(nn.Sequential(ROUNDS[0], linear([[1e-3, 0.0], [0.0, 0.3]])), row, "linear", "linear_1")
    assert advice(ROUNDS, row, "linear").startswith("Numbers of 'linear.cast' could be scaled down, or")
    huge = nn.Sequential(linear([[1e37, 0.0], [0.0, 1.0]]), linear([[1e-37, 0.0], [0.0, 1.0]]))
    for arithmetic, kept in ((FP16, ("linear", "linear_1")), (parse_arithmetic("bf16"), ())):  # no format has more range
        assert advice(huge, [30.0, 1.0], *kept, arithmetic=arithmetic) == "Numbers of 'linear' could be scaled down."


def test_what_is_kept_is_not_advised_to_be_kept():
    row = [1.0, 0.7]
    assert "largest part of that error" in advice(ROUNDS, row)
    said = advice(ROUNDS, row, "linear", "linear_2")
    assert re.search(r"^Keeping (what reads 'linear'|'linear_1' and what reads its result) in fp32 would take away ", said)
    assert advice(ROUNDS, row, "linear", "linear_1", "linear_2") == "Nothing that is not kept in fp32 already adds to that error."
    assert "Keeping" not in advice(ROUNDS, row, arithmetic=parse_arithmetic("fp32"))


def test_what_is_left_in_half_is_named_with_its_share_where_a_kept_node_adds_most():
    found = profiled(ROUNDS, [[1.0, 0.7]], Settings(ladder=0, keep=Keep.of(["linear_2"])))
    shares = {"linear": 0.03, "linear_1": 0.02, "linear_2": 0.9}
    nodes = tuple(replace(node, share=shares.get(node.name, 0.0)) for node in found.nodes)
    assert {node.name for node in nodes} >= {"linear", "linear_1", "linear_2"}
    said = profile_conclusion(replace(found, nodes=nodes))
    assert said.endswith(
        "Keeping 'linear' and what reads its result in fp32 would take away most of what is not kept adds, 3 %; "
        "'precisionkit tune' finds what is enough."
    )


def test_a_fused_result_has_no_format_and_batches_do_not_matter():
    net = nn.Sequential(nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), linear([[0.5] * 8, [-0.25] * 8]))
    rows = torch.randn(5, 1, 3, 3, generator=torch.Generator().manual_seed(0)).tolist()
    fused = parse_arithmetic("fp16", "fp32", "any", "epilogue")
    whole, single = (profiled(net, rows, Settings(ladder=0, batch_size=size), fused) for size in (5, 1))
    assert whole.nodes[0].format == ""
    assert whole.nodes[0].subnormal_seen == 0
    for a, b in zip(whole.nodes, single.nodes, strict=True):
        assert (a.largest_seen, a.subnormal_seen, a.normal_proved) == (b.largest_seen, b.subnormal_seen, b.normal_proved)
        assert (a.largest_proved, a.fresh) == (pytest.approx(b.largest_proved), pytest.approx(b.fresh))
        assert a.amplification == pytest.approx(b.amplification)


def test_a_convolution_before_a_normalisation_has_a_share_of_its_own():
    net = nn.Sequential(nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2), nn.Flatten(), linear([[0.5] * 8, [-0.25] * 8]))
    found = profiled(net, torch.randn(2, 1, 3, 3, generator=torch.Generator().manual_seed(0)).tolist())
    shares = {node.operator: node.share for node in found.nodes}
    assert min(shares["conv2d"], shares["batch_norm"]) > 0.01
    assert shares["linear"] > 0


def test_medians_of_condition_numbers_need_no_list_of_them():
    numbers = torch.exp(torch.randn(4001, generator=torch.Generator().manual_seed(0), dtype=torch.float64).abs() * 3)
    found = Conditions()
    for part in numbers.split(1000):
        found.add(part)
    assert found.median == pytest.approx(float(numbers.median()), rel=0.006)
    assert found.worst == float(numbers.max())
    found.add(torch.full((9000,), math.inf, dtype=torch.float64))
    assert (found.median, found.worst, Conditions().median) == (math.inf, math.inf, None)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Settings(ladder=3), "--ladder 3 is more than the 2 inputs of 'rows'; give at most 2, or more inputs."),
        (
            Settings(ladder=0, truth=True),
            "--truth computes the exact network of the ladder's inputs, but --ladder 0 asks for none; give at",
        ),
        (Settings(entries=0), "--entries 0 leaves nothing to look at; give at least 1, or --ladder 0 for no ladder."),
        (Settings(emulate="kepler"), "The run 'kepler' is not known"),
    ],
)
def test_what_makes_no_sense_is_refused(settings, message):
    with pytest.raises(PrecisionKitError, match=f"^{message}"):
        profiled(linear([[1.0], [2.0]]), [[1.0], [2.0]], settings)


def test_tokens_are_profiled():
    data = make_dataset(Arrays(np.array([[0, 1, 2], [2, 2, 1]]), None), name="words")
    net = nn.Sequential(nn.Embedding(3, 4), nn.Flatten(), nn.Linear(12, 2))
    found = make_profile(_loaded(net.eval(), None), data, FP16, Settings(ladder=1))
    assert found.nodes[-1].ladder.a_priori is None
    assert found.nodes[-1].ladder.measured <= found.nodes[-1].ladder.zonotope


def run(*arguments):
    return CliRunner().invoke(main, ["profile", *map(str, arguments)], catch_exceptions=False)


def test_the_command_shows_and_writes_a_profile(tmp_path):
    result = run("digits_cnn", "--data", "digits", "--limit", 12, "--ladder", 1, "--entries", 4, "--json", tmp_path / "p.json")
    assert result.exit_code == 0
    assert max(map(len, result.stdout.splitlines())) <= 100
    assert "Errors of single entries on the first input: bounds, and how many times what was measured" in result.stdout
    assert "…" not in result.stdout
    assert "_native_batch_ " in result.stdout  # a long name, whole in three lines
    assert re.search(r"^norm_legit_no_ +\ntraining +$", result.stdout, re.MULTILINE)
    assert "Overflow is excluded" in result.stdout
    assert "########" in result.stdout
    assert "Written: " in result.stderr
    found = json.loads((tmp_path / "p.json").read_text())
    jsonschema.validate(found, published_schema("profile"))
    assert (found["inputs"], found["ladder_inputs"], len(found["nodes"])) == (12, 1, 8)
    for node in found["nodes"]:
        assert node["largest_seen"] <= node["largest_proved"]


def test_the_heading_tells_fusion_and_what_is_kept():
    result = run("digits_cnn", "--data", "digits", "--limit", 2, "--ladder", 0, "--fuse", "epilogue", "-q")
    assert "binary16, sums in binary32, order any, fused epilogues\n" in result.stdout
    found = profiled(ROUNDS, [[1.0, 0.7]], Settings(ladder=0, keep=Keep.of(["linear", "linear_2"])))
    console = Console(width=80, file=io.StringIO())
    console.print(render_profile(found))
    assert "binary16, sums in binary32, order any, 2 nodes kept in binary32\n" in console.file.getvalue()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--ladder", 5), "--ladder 5 is more than the 3 inputs of 'digits'"),
        (("--ladder", 0, "--truth"), "--ladder 0 asks for none"),
        (("--json", "missing/p.json"), "does not exist; create it first."),
        (("--accumulate", "fp8"), "fp8"),
    ],
)
def test_wrong_options_are_one_sentence(options, message):
    result = run("digits_cnn", "--data", "digits", "--limit", 3, *options)
    assert result.exit_code == 2
    assert message in result.stderr.replace("\n", " ")
    assert result.stdout == ""


def test_what_was_seen_lies_within_what_is_proved_over_a_whole_data_set():
    from precisionkit.models import bundled_model, load_model

    found = make_profile(load_model(bundled_model("digits_cnn")), load_dataset("digits", limit=100), FP16, Settings(ladder=0))
    for node in found.nodes:
        assert node.largest_seen <= node.largest_proved <= 65504
        assert node.overflow_distance * node.largest_proved <= 65520 * 1.01
    assert found.ladder_inputs == 0
