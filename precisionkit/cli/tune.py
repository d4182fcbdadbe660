"""``precisionkit tune``."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from precisionkit.cli.shared import (
    NOT_CERTIFIED,
    OK,
    Asked,
    Source,
    access_options,
    arithmetic_options,
    confidence_option,
    deliver,
    effort_option,
    guarded,
    json_option,
    memory_errors,
    source_options,
    taken,
)
from precisionkit.errors import UsageError
from precisionkit.report import check_outputs

if TYPE_CHECKING:
    from precisionkit.report.plan import Level

_EXIT_CODES = """\b
Exit codes:
  0    the target is reached
  1    it is not, whatever was kept in fp32; the plan says how far it got
  2    wrong use, or an unusable model, data set or path
  3    a run left its proved enclosure: nothing can be relied on, please report it
  130  interrupted; nothing is written
"""


@dataclasses.dataclass(frozen=True)
class _Request:
    target: float
    at: Level
    effort: float
    confidence: float
    json_file: Path | None
    quiet: bool


@click.command(epilog=_EXIT_CODES)
@source_options
@arithmetic_options
@click.option("--target", type=click.FloatRange(0, 100, min_open=True), default=100.0, show_default=True, metavar="PERCENT")
@click.option(
    "--at",
    type=click.Choice(["proved", "probable"]),
    default="probable",
    show_default=True,
    help="The weakest verdict that counts for the target.",
)
@effort_option
@confidence_option
@json_option("Write the plan, for precisionkit.apply.")
@access_options
def tune(**options: Any) -> None:
    """Find a small set of nodes of MODEL to keep in fp32, so that --target percent of the inputs are certified in half.

    The plan says of each node what is kept (weights, sums, result), what it costs, and the names for ModelOpt's AutoCast and for the
    float16 converters of ONNX Runtime and onnxconverter-common. Every input is certified anew with what is kept.
    """
    source, asked, request = taken(Source, options), taken(Asked, options), taken(_Request, options)
    ended = "Interrupted before there was a plan; nothing was written."
    sys.exit(guarded(lambda talk: _tune(source, asked, request, talk), less="choose a smaller --limit", interrupted=ended))


def _tune(source: Source, asked: Asked, request: _Request, talk: Console) -> int:
    if asked.emulate is not None:
        raise UsageError("A plan speaks of every run of the arithmetic; leave out --emulate.")
    check_outputs({"--json": request.json_file}, source.files)
    from precisionkit.report.plan import render_plan
    from precisionkit.tune import Wanted, make_plan

    wanted = Wanted(request.target, request.at, request.effort, request.confidence)

    def tell(said: str) -> None:
        if not request.quiet:
            talk.print(said, markup=False)

    with source.registered(), memory_errors():
        model, data = source.load()
        plan = make_plan(model, data, asked.arithmetic(), wanted, tell)
    deliver(talk, plan, render_plan(plan), request.json_file, quiet=request.quiet)
    return OK if plan.reached else NOT_CERTIFIED
