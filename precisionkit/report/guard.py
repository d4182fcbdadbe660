"""The records of a guard, whose JSON are the formats ``precisionkit.guard-plan/1`` and ``precisionkit.guard/1``, and how they are shown."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from precisionkit.report.parts import Count, DataInfo, ModelInfo, Seconds, Sha256, Size, _Record
from precisionkit.report.records import Environment

GUARD_SCHEMA: Literal["precisionkit.guard/1"] = "precisionkit.guard/1"
PLAN_SCHEMA: Literal["precisionkit.guard-plan/1"] = "precisionkit.guard-plan/1"

Storage = Literal["fp16", "bf16"]
Kernels = Literal["native", "rounded", "compiled"]
Score = Literal["error", "disagreement"]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Chance = Annotated[float, msgspec.Meta(gt=0, lt=1)]
Positive = Annotated[int, msgspec.Meta(ge=1)]


class GuardPlan(_Record, frozen=True, kw_only=True):
    """All that a guarded model goes by; it belongs to one network, whose hash it holds.

    Attributes
    ----------
    version : str
        Of the package that wrote it.
    storage, kernels : str
        Format of the half run, and how it is made: ``native``, the device's half kernels; ``rounded``, binary32 kernels with one
        rounding an operator; ``compiled``, native kernels in one graph of torch.compile.
    device, flags : str, mapping
        Where it was calibrated, and torch's switches that its kernels depend on.
    batch_size, built : int, mapping
        Rows of a calibration batch, and the versions of torch and of what its kernels come from: kernels are chosen by them.
    input_shape, tokens : tuple of int, bool
        Shape of one input, and whether it holds integer tokens.
    weights : str
        SHA-256 of the network: its tensors, and the names, types and settings of its modules, or its steps.
    model, data : ModelInfo, DataInfo
        Of the calibration.
    preprocess : mapping or None
        How images became inputs; null where the data were inputs already.
    rows : str
        The first 8 bytes of the SHA-256 of every input of the calibration, in order of size, as base64.
    score : str
        What the threshold bounds: ``error``, by how much the half run can favour a class; ``disagreement``, half margins of rows that
        disagree.
    threshold : float
        Rows with a half margin above it are accepted.
    risk, confidence : float
        With this confidence over the calibration inputs, a new input is accepted and disagrees with at most this probability.
    allowed : int
        Calibration inputs whose score may lie above the threshold; fixed by their number, the risk and the confidence.
    fallen_back : int
        Calibration inputs that fall back.
    window, expected, false_alarm : int, pair of int, float
        So many rows are counted together; how many of them fall back, with all but this probability of a false alarm.
    """

    schema: Literal["precisionkit.guard-plan/1"] = PLAN_SCHEMA
    version: str
    storage: Storage
    kernels: Kernels
    device: str
    flags: dict[str, bool | str]
    batch_size: Positive
    built: dict[str, str]
    input_shape: tuple[Positive, ...]
    tokens: bool
    weights: Sha256
    model: ModelInfo
    data: DataInfo
    preprocess: dict[str, Any] | None
    rows: str
    score: Score
    threshold: Size
    risk: Chance
    confidence: Chance
    allowed: Count
    fallen_back: Count
    window: Positive
    expected: tuple[Count, Count]
    false_alarm: Chance

    @property
    def device_type(self) -> str:
        """The kind of device: ``cpu`` or ``cuda``."""
        return self.device.split(" ")[0]


class GuardCounts(_Record, frozen=True, kw_only=True):
    """Inputs, how many fall back, how many the half run predicts otherwise than the reference run, and how many of those are accepted.

    Correct predictions are null without labels.
    """

    inputs: Count
    fallen_back: Count
    disagreements: Count
    accepted_disagreements: Count
    correct_reference: Count | None
    correct_half: Count | None
    correct_guarded: Count | None


class Interval(_Record, frozen=True, kw_only=True):
    """Limits of a probability, which hold together with the confidence."""

    low: Share
    high: Share
    confidence: Chance


class GuardTiming(_Record, frozen=True, kw_only=True):
    """Seconds a row, medians of repeated runs on these inputs in one thread, and their ratios; for batches of one size."""

    batch_size: Positive
    repeats: Positive
    reference_s: Seconds
    half_s: Seconds
    guarded_s: Seconds
    guarded_to_reference: Size
    guarded_to_half: Size


class GuardReport(_Record, frozen=True, kw_only=True):
    """A calibration, or a trial of a plan on other inputs.

    Attributes
    ----------
    risk : float
        Upper limit, with the confidence of the plan, of the probability that a new input is accepted and disagrees: of a calibration what
        was asked for, of a trial what the inputs of the trial tell by themselves.
    fall_back : Interval
        For a new input.
    inputs_needed : mapping of text to int
        Calibration inputs that it takes at least to prove a risk.
    multiplications, spent_half, spent_reference : int, float, float or None
        Of one run on one input; of the guarded model on one input in half precision, and in binary32; null where the network cannot be
        captured.
    """

    schema: Literal["precisionkit.guard/1"] = GUARD_SCHEMA
    purpose: Literal["calibration", "trial"]
    plan: GuardPlan
    data: DataInfo
    counts: GuardCounts
    risk: Share
    fall_back: Interval
    inputs_needed: dict[str, int]
    multiplications: Count | None
    spent_half: Size | None
    spent_reference: Size | None
    timing: GuardTiming
    environment: Environment


_MADE: dict[Kernels, str] = {
    "native": "the device's half kernels",
    "rounded": "binary32 kernels, one rounding each",
    "compiled": "the device's half kernels, compiled",
}


def render_guard(report: GuardReport) -> RenderableType:
    """Lay a calibration or a trial out for a terminal of 80 columns."""
    plan, counts, timing = report.plan, report.counts, report.timing
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_row("threshold", f"{plan.threshold:.6g}, of the half margin, by {plan.score}; scores allowed above it: {plan.allowed:,}")
    table.add_row("falls back", f"{counts.fallen_back:,} of {counts.inputs:,} ({_percent(counts.fallen_back, counts.inputs)})")
    limits = report.fall_back
    table.add_row("", f"{100 * limits.low:.3g} % to {100 * limits.high:.3g} % of new inputs, confidence {limits.confidence:g}")
    table.add_row("disagree", f"{counts.disagreements:,}, of which accepted: {counts.accepted_disagreements:,}")
    if counts.correct_reference is not None:
        table.add_row("correct", f"fp32 {counts.correct_reference:,}, half {counts.correct_half:,}, guarded {counts.correct_guarded:,}")
    if report.multiplications:
        spent = f"{report.multiplications:,} in half and {report.spent_reference:,.0f} in fp32"
        table.add_row("products", f"{spent}, instead of {report.multiplications:,} in fp32")
    ratios = f"{timing.guarded_to_reference:.3g} times plain fp32, {timing.guarded_to_half:.3g} times plain half"
    table.add_row("time", f"{ratios} ({timing.batch_size} a batch, one thread)")
    table.add_row("watched", f"{plan.expected[0]:,} to {plan.expected[1]:,} of {plan.window:,} rows; false alarm: {plan.false_alarm:g}")
    table.add_row("needed", ", ".join(f"{count:,} for {risk}" for risk, count in report.inputs_needed.items()))
    heading = Text(
        f"{plan.model.arch} on {report.data.name}, {counts.inputs:,} inputs, {report.purpose}\n"
        f"{plan.storage} on {plan.device} ({_MADE[plan.kernels]}), else fp32"
    )
    return Group(heading, table, Text(guard_conclusion(report), style="bold"))


def guard_conclusion(report: GuardReport) -> str:
    """Say what it means, in one sentence."""
    shown = f"accepted and predicted otherwise than by fp32 with a probability of at most {report.risk:.3g}"
    source = "the calibration inputs" if report.purpose == "calibration" else "the inputs of this trial"
    return f"An input from the distribution of {source} is {shown}, with confidence {report.plan.confidence:g}."


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.3g} %" if whole else "-"
