"""``precisionkit inspect``."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from precisionkit.cli.shared import OK, Source, access_options, guarded, memory_errors, model_options, show, taken, tell_written
from precisionkit.errors import UnsupportedOperatorError, UnusableModelError, UsageError
from precisionkit.figures import check_figure, network_figure
from precisionkit.report import InspectReport, check_outputs, render_inspection, write_json

UNSUPPORTED = 1

_EXIT_CODES = """\b
Exit codes:
  0    the network is supported
  1    it is not
  2    wrong use, or an unusable model, data set or report path
"""


@dataclasses.dataclass(frozen=True)
class _Request:
    input_shape: str | None
    tokens: bool
    json_file: Path | None
    picture: Path | None
    quiet: bool


@click.command(epilog=_EXIT_CODES)
@model_options
@click.option("--input-shape", metavar="SIZES", help="Of one input, such as 3x224x224 [default: that of --data, or what the model says].")
@click.option("--tokens", is_flag=True, help="Inputs of --input-shape are integer tokens.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), metavar="FILE", help="Write everything as JSON.")
@click.option("--picture", type=click.Path(path_type=Path), metavar="FILE", help="Draw the network: .png, .svg, .pdf.")
@access_options
def inspect(**options: Any) -> None:
    """Show every operator of MODEL with what is known of it, and whether MODEL can be certified.

    Nothing is run but the capture. MODEL is given as for certify; a data set is needed only where nothing else says the shape of inputs.
    """
    source, request = taken(Source, options), taken(_Request, options)
    sys.exit(guarded(lambda talk: _inspect(source, request, talk), less="choose a smaller --input-shape"))


def _inspect(source: Source, request: _Request, talk: Console) -> int:
    if request.input_shape is not None and source.data is not None:
        raise UsageError("--input-shape and --data both say the shape of inputs; leave out one of them.")
    if request.picture is not None:
        check_figure(request.picture, "matplotlib", "fast_sugiyama")
    check_outputs({"--json": request.json_file, "--picture": request.picture}, source.files)
    report = _look(source, request)
    show(render_inspection(report))
    if request.json_file is not None:
        write_json(report, request.json_file)
    if request.picture is not None:
        network_figure(report, request.picture)
    tell_written(talk, request.json_file, request.picture, quiet=request.quiet)
    return OK if report.supported else UNSUPPORTED


def _look(source: Source, request: _Request) -> InspectReport:
    """Look at the network, or at its file alone where that cannot be opened because of its operators."""
    from precisionkit.inspection import input_of, inspect_outline, parse_shape
    from precisionkit.inspection import inspect as look
    from precisionkit.models import list_model

    shape = None if request.input_shape is None else parse_shape(request.input_shape)
    with source.registered(), memory_errors():
        try:
            model, data = source.load() if source.data is not None else (source.load_model(shape), None)
        except (UnusableModelError, UnsupportedOperatorError) as error:
            assert source.model is not None  # a required argument
            outline = list_model(source.model, error)
            if outline is None:
                raise
            return inspect_outline(outline, error)
        return look(model, *input_of(model, data, shape, tokens=request.tokens))
