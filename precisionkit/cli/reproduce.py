"""``precisionkit reproduce``."""

from __future__ import annotations

import dataclasses
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from precisionkit.cli.shared import OK, fetching_options, find_torch_device, guarded, memory_errors, progress, taken, tell_written
from precisionkit.errors import UsageError

if TYPE_CHECKING:
    from precisionkit.reproduce import Plan

_EXIT_CODES = """\b
Exit codes:
  0    done
  2    wrong use, or an unusable data set or folder
  130  interrupted; the same command goes on with what is there
"""


@dataclasses.dataclass(frozen=True)
class _Request:
    experiment: str
    full: bool
    out: Path | None
    workers: int | None
    device: str
    data_root: Path | None
    download: bool | None
    quiet: bool


@click.command(epilog=_EXIT_CODES)
@click.argument("experiment", type=click.Choice(["mnist", "cifar10"]))
@click.option(
    "--quick/--full",
    "quick",
    default=True,
    show_default=True,
    help="Reduced networks and data, for two CPU cores in at most 15 minutes; or the full size, which for cifar10 needs a GPU.",
)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), metavar="FOLDER", help="[default: reproduce-EXPERIMENT-SIZE]")
@click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Runs at once, one thread each [default: the number of cores].")
@click.option("--device", default="cpu", show_default=True, help="cpu, or cuda: one run at a time, by its own half kernels.")
@fetching_options
def reproduce(quick: bool, **options: Any) -> None:
    """Repeat the published experiments on EXPERIMENT: train in fp32, pure fp16 and mixed precision, over seeds, and compare.

    The folder gets report.md, a CSV file for each table, figures, and a result for each run, which is not trained again when the command
    is repeated.
    """
    request = taken(_Request, options | {"full": not quick})
    ended = "Interrupted; the same command goes on with what is there."
    sys.exit(guarded(lambda talk: _reproduce(request, talk), less="use fewer --workers", interrupted=ended))


def _reproduce(request: _Request, talk: Console) -> int:
    from precisionkit.reproduce import Findings, Where, results, studies, write_document

    _check_libraries()
    device = find_torch_device(request.device)
    plan = _plan(request, device)
    folder = request.out or Path(f"reproduce-{plan.name}-{'full' if plan.full else 'quick'}")
    where = Where(folder, None if request.data_root is None else str(request.data_root), request.download, device)
    workers = 1 if device == "cuda" else request.workers or os.cpu_count() or 1
    with memory_errors(), progress(talk, "training", quiet=request.quiet, unit="runs") as advance:
        found = results(plan, where, workers, advance)
    with memory_errors(), progress(talk, "certifying", quiet=request.quiet, unit="networks") as advance:
        alone, pairs = studies(plan, where, advance)
    paths = write_document(Findings(plan, found, alone, pairs, device), folder)
    click.echo(paths[0].read_text())
    tell_written(talk, *paths, quiet=request.quiet)
    return OK


def _plan(request: _Request, device: str) -> Plan:
    from msgspec.structs import replace

    from precisionkit.reproduce import make_plan

    plan = make_plan(request.experiment, full=request.full)
    if device == "cpu":
        return plan
    native = {one: replace(one, kernels="native") for one in plan.settings}
    return dataclasses.replace(plan, settings=tuple(native.values()), studied=tuple(native[one] for one in plan.studied))


def _check_libraries() -> None:
    """Refuse before hours of training what would fail after them."""
    try:
        import_module("matplotlib.figure")
        import_module("scipy.stats")
    except ImportError:
        raise UsageError("The tables and figures need scipy and matplotlib: pip install 'precisionkit[training]'.") from None
