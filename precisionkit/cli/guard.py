"""``precisionkit guard``."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click
from rich.console import Console

from precisionkit.cli.shared import (
    OK,
    Source,
    access_options,
    find_torch_device,
    guarded,
    memory_errors,
    progress,
    show,
    source_options,
    taken,
    tell_written,
)
from precisionkit.errors import UsageError
from precisionkit.report import GuardReport, check_outputs, render_guard, write_json

if TYPE_CHECKING:
    from precisionkit.guard import GuardedHalf

_EXIT_CODES = """\b
Exit codes:
  0    done
  2    wrong use, too few inputs for the risk, or an unusable model, data set or path
  130  interrupted; nothing is written
"""


@dataclasses.dataclass(frozen=True)
class _Request:
    """What the options ask for; None where they were not given."""

    risk: float | None
    confidence: float | None
    storage: Literal["fp16", "bf16"] | None
    score: Literal["error", "disagreement"] | None
    kernels: Literal["native", "rounded", "compiled"] | None
    device: str | None
    window: int | None
    false_alarm: float | None
    batch_size: int | None
    plan: Path | None
    out: Path | None
    json_file: Path | None
    quiet: bool

    @property
    def chosen(self) -> dict[str, Any]:
        """Settings of a calibration that were given."""
        from precisionkit.guard import Settings

        names = (field.name for field in dataclasses.fields(Settings))
        return {name: value for name in names if (value := getattr(self, name)) is not None}


_PROBABILITY = click.FloatRange(0, 1, min_open=True, max_open=True)


@click.command(epilog=_EXIT_CODES)
@source_options
@click.option(
    "--risk",
    type=_PROBABILITY,
    metavar="P",
    help="Largest probability that a new input is accepted and predicted otherwise than by fp32 [default: 1e-3, which takes 4,603 inputs].",
)
@click.option("--confidence", type=_PROBABILITY, metavar="P", help="That the risk holds, over calibration samples [default: 0.99].")
@click.option("--storage", type=click.Choice(["fp16", "bf16"]), help="[default: fp16]")
@click.option(
    "--score",
    type=click.Choice(["error", "disagreement"]),
    help="What the threshold bounds. error: how much the half run favours a class, for all but a share --risk of the inputs. disagreement: "
    "half margins of inputs that disagree; fewer fall back, and more of the risk is spent [default: error].",
)
@click.option(
    "--kernels",
    type=click.Choice(["native", "rounded", "compiled"]),
    help="How the half run is made. native: the device's half kernels, slow on CPUs. rounded: fp32 kernels with one rounding each, no "
    "faster than fp32. compiled: native in one graph of torch.compile [default: rounded on a CPU, native on a GPU].",
)
@click.option("--device", metavar="NAME", help="cpu or cuda; a threshold holds for the device that it is calibrated on [default: cpu].")
@click.option("--window", type=click.IntRange(1, 100_000), metavar="N", help="Count fall-backs by N rows at run time [default: 1000].")
@click.option("--false-alarm", type=_PROBABILITY, metavar="P", help="Largest probability of a false alarm in a window [default: 1e-6].")
@click.option("--batch-size", type=click.IntRange(min=1), metavar="N", help="[default: 64; of --try that of the plan]")
@click.option(
    "--try",
    "plan",
    type=click.Path(path_type=Path),
    metavar="FILE|FOLDER",
    help="Calibrate nothing: count what a plan does on the data.",
)
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="FILE|FOLDER", help="Write the plan, FILE.json, or a FOLDER with the weights as well."
)
@click.option("--json", "json_file", type=click.Path(path_type=Path), metavar="FILE", help="Write the report as JSON.")
@access_options
def guard(**options: Any) -> None:
    """Calibrate a guard: MODEL runs in half precision, and inputs whose half margin is not above a threshold are rerun in fp32.

    The data must be independent draws from the distribution of the inputs to come, and not be what MODEL was trained on. What holds is a
    probability over inputs, not a proof for one, which certify gives. docs/guard.md says how to use the plan.
    """
    source, request = taken(Source, options), taken(_Request, options)
    sys.exit(guarded(lambda talk: _guard(source, request, talk), less="choose a smaller --batch-size"))


def _guard(source: Source, request: _Request, talk: Console) -> int:
    _check(source, request)
    with source.registered():
        report, made = _tried(source, request, talk) if request.plan else _calibrated(source, request, talk)
        show(render_guard(report))
        written: list[Path | None] = [request.json_file]
        if request.json_file is not None:
            write_json(report, request.json_file)
        if request.out is not None and made is not None:
            from precisionkit.guard import save_guarded

            written += save_guarded(made, request.out)
        tell_written(talk, *written, quiet=request.quiet)
        return OK


def _check(source: Source, request: _Request) -> None:
    """Refuse what cannot be done before anything is loaded."""
    if request.plan is not None:
        if request.out is not None:
            raise UsageError("--try makes no plan that --out could write: leave out one of them.")
        for name in (name for name in request.chosen if name != "batch_size"):
            raise UsageError(f"--try takes --{name.replace('_', '-')} from the plan: leave it out, or calibrate without --try.")
    device = find_torch_device(request.device or "cpu")
    if request.kernels == "rounded" and device == "cuda":
        raise UsageError("--kernels rounded makes the half run from fp32 kernels, which saves nothing on a GPU: leave it out.")
    _check_files(source, request)


def _check_files(source: Source, request: _Request) -> None:
    """Refuse to write what could not be written, and over what is read or written as well."""
    from precisionkit.guard.save import check_target, files_of

    read = () if request.plan is None else files_of(request.plan)
    if request.out is not None:
        check_target(request.out)
    for written in (None,) if request.out is None else files_of(request.out):
        check_outputs({"--json": request.json_file, "--out": written}, (*source.files, *read))


def _calibrated(source: Source, request: _Request, talk: Console) -> tuple[GuardReport, GuardedHalf | None]:
    from precisionkit.guard import Settings, calibrate

    model, data = source.load()
    with memory_errors(), progress(talk, "calibrating", quiet=request.quiet) as advance:
        made, report = calibrate(model, data, Settings(**request.chosen), advance)
    return report, made


def _tried(source: Source, request: _Request, talk: Console) -> tuple[GuardReport, GuardedHalf | None]:
    from precisionkit.guard import read_plan, try_plan

    assert request.plan is not None
    plan = read_plan(request.plan)
    find_torch_device(plan.device_type)
    model, data = source.load()
    with memory_errors(), progress(talk, "trying", quiet=request.quiet) as advance:
        return try_plan(model, data, plan, request.batch_size, advance), None
