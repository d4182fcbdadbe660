"""``precisionkit profile``."""

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
    Kept,
    Source,
    access_options,
    arithmetic_options,
    confidence_option,
    deliver,
    effort_option,
    guarded,
    json_option,
    keep_options,
    memory_errors,
    progress,
    source_options,
    taken,
)
from precisionkit.report import check_outputs, render_profile

_EXIT_CODES = """\b
Exit codes:
  0    done
  2    wrong use, or an unusable model, data set or report path
  130  interrupted; nothing is written
"""


@dataclasses.dataclass(frozen=True)
class _Request:
    ladder: int | None
    entries: int
    truth: bool
    effort: float
    confidence: float
    batch_size: int | None
    json_file: Path | None
    quiet: bool


@click.command(epilog=_EXIT_CODES)
@source_options
@arithmetic_options
@click.option(
    "--ladder",
    type=click.IntRange(min=0),
    metavar="N",
    help="Climb the ladder of bounds on the first N inputs [default: 4, or all of fewer].",
)
@click.option(
    "--entries", type=click.IntRange(min=1), default=32, show_default=True, metavar="N", help="Of a node, for each input of the ladder."
)
@click.option("--truth", is_flag=True, help="Compute the exact network of the ladder's inputs by balls of Arb (needs python-flint).")
@keep_options
@effort_option
@confidence_option
@click.option("--batch-size", type=click.IntRange(min=1), metavar="N", help="[default: by the size of the network]")
@json_option("Write everything as JSON.")
@access_options
def profile(**options: Any) -> None:
    """Show node by node why MODEL in half precision errs, over every input of a data set.

    Magnitudes seen and proved, what each node's roundings add, how it passes errors on, how ill-conditioned its sums are; then for a few
    inputs the bounds of single entries, from the coarsest to the truth. MODEL is given as for certify; docs/profile.md explains all.
    """
    kept, source, asked, request = (taken(kind, options) for kind in (Kept, Source, Asked, _Request))
    sys.exit(guarded(lambda talk: _profile(source, asked, kept, request, talk), less="choose a smaller --batch-size"))


def _profile(source: Source, asked: Asked, kept: Kept, request: _Request, talk: Console) -> int:
    check_outputs({"--json": request.json_file}, (*source.files, kept.plan))
    from precisionkit.profile import Settings, make_profile

    fields = {field.name: getattr(request, field.name) for field in dataclasses.fields(request) if field.name not in ("json_file", "quiet")}
    settings = Settings(emulate=asked.emulate, keep=kept.keep, **fields)
    arithmetic = asked.arithmetic()
    with source.registered():
        model, data = source.load()
        kept.check(model, arithmetic)
        with memory_errors(), progress(talk, "profiling", quiet=request.quiet) as advance:
            made = make_profile(model, data, arithmetic, settings, advance)
    deliver(talk, made, render_profile(made), request.json_file, quiet=request.quiet)
    return OK
