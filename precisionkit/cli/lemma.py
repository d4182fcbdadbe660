"""``precisionkit lemma``."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from precisionkit.cli.shared import (
    OK,
    Asked,
    Source,
    access_options,
    arithmetic_options,
    deliver,
    guarded,
    json_option,
    memory_errors,
    progress,
    source_options,
    taken,
)
from precisionkit.errors import UsageError
from precisionkit.figures import check_figure, margins_figure
from precisionkit.report import check_outputs, render_lemma, violations

VIOLATED = 1

_EXIT_CODES = """\b
Exit codes:
  0    done
  1    the repaired lemma is violated: please report it
  2    wrong use, or an unusable model, data set or report path
  3    Arb and mpmath contradict each other: please report it
  130  interrupted; nothing is written
"""


@dataclasses.dataclass(frozen=True)
class _Request:
    arb: int
    mpmath: int
    json_file: Path | None
    figure: Path | None
    quiet: bool


@click.command(epilog=_EXIT_CODES)
@source_options
@arithmetic_options
@click.option(
    "--arb", default=0, show_default=True, type=click.IntRange(min=0), metavar="N", help="Compute the exact networks of the first N inputs."
)
@click.option(
    "--mpmath",
    default=0,
    show_default=True,
    type=click.IntRange(min=0),
    metavar="N",
    help="Have mpmath compute N of them as well, or, in a large network, single neurons of N of them.",
)
@json_option("Write everything, exact fractions included.")
@click.option("--figure", type=click.Path(path_type=Path), metavar="FILE", help="Draw histograms of Gamma and 2 delta: .png, .svg, .pdf.")
@access_options
def lemma(**options: Any) -> None:
    """Repeat the published experiment exactly: margins Gamma and discrepancies delta of MODEL as rational numbers.

    Whether the premise of the margin lemma holds is counted against whether the prediction is kept: as published (Gamma >= 2 delta),
    repaired (>), and gap by gap, for logits and for probabilities.
    """
    source, asked, request = taken(Source, options), taken(Asked, options), taken(_Request, options)
    sys.exit(guarded(lambda talk: _lemma(source, asked, request, talk), less="choose a smaller --limit or --arb"))


def _lemma(source: Source, asked: Asked, request: _Request, talk: Console) -> int:
    if request.figure is not None:
        check_figure(request.figure)
    if request.mpmath > request.arb:
        raise UsageError(f"--mpmath {request.mpmath} is more than --arb {request.arb}; mpmath judges networks that Arb has computed.")
    check_outputs({"--json": request.json_file, "--figure": request.figure}, source.files)
    from precisionkit.experiment import run_experiment

    arithmetic = asked.arithmetic()
    with source.registered():
        model, data = source.load()
        with memory_errors(), progress(talk, "computing", quiet=request.quiet) as advance:
            report = run_experiment(
                model, data, arithmetic, emulate=asked.emulate, arb=request.arb, judged=request.mpmath, on_progress=advance
            )
    figure = request.figure, lambda path: margins_figure(report, path)
    deliver(talk, report, render_lemma(report), request.json_file, figure, quiet=request.quiet)
    return VIOLATED if violations(report) else OK
