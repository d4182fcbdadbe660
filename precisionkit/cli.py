"""The command line: results on stdout, talk on stderr, documented exit codes.

Heavy modules are imported inside the commands, so that ``--help`` answers at once.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from precisionkit.arithmetic import order_of_run, parse_arithmetic
from precisionkit.errors import PrecisionKitError, RefutedError
from precisionkit.report import Report, check_writable, render, write_json, write_table

if TYPE_CHECKING:
    from precisionkit.data import Dataset
    from precisionkit.models import LoadedModel

OK, NOT_CERTIFIED, UNUSABLE, REFUTED, INTERRUPTED = 0, 1, 2, 3, 130

_EXIT_CODES = """\b
Exit codes:
  0    done
  1    a prediction flipped, or fewer than --fail-under percent are certified
  2    wrong use, or an unusable model, data set or report path
  3    a run left its proved enclosure: nothing can be relied on, please report it
  130  interrupted; partial results are kept and marked incomplete
"""

Advance = Callable[[int, int], None]


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="precisionkit")
def main() -> None:
    """Tell whether running a trained classifier in half precision can change its predictions."""


@dataclasses.dataclass(frozen=True)
class _Request:
    """What the options of `certify` ask for, before anything is loaded."""

    model: str
    data: str
    arch: str | None
    data_root: Path | None
    split: str
    limit: int | None
    normalize: str | None
    storage: str
    accumulate: str
    order: str
    fuse: str
    method: str
    effort: float | None
    confidence: float
    device: str
    batch_size: int | None
    json_file: Path | None
    table_file: Path | None
    fail_under: float | None
    native: bool
    linearised: bool
    emulate: str | None
    trust: bool
    download: bool
    quiet: bool


@main.command(epilog=_EXIT_CODES)
@click.argument("model", metavar="MODEL")
@click.option(
    "--data", required=True, metavar="SET", help="digits, mnist, fashion_mnist, cifar10, a FILE.npz, or a FOLDER of images by class."
)
@click.option("--arch", metavar="NAME", help="Architecture for a file that holds only weights: a zoo name or package.module:factory.")
@click.option(
    "--data-root", type=click.Path(path_type=Path, file_okay=False), help="Folder with named data sets [default: $PRECISIONKIT_DATA]."
)
@click.option("--split", default="test", show_default=True, help="test or train, of a named set.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Take the first N inputs.")
@click.option("--normalize", metavar="MEANS/STDS", help="Per channel, e.g. 0.1307/0.3081, or 'none' [default: what the model says].")
@click.option("--storage", default="fp16", show_default=True, metavar="FORMAT", help="fp16, bf16, or fp32 (fp32 against itself).")
@click.option("--accumulate", default="fp32", show_default=True, metavar="FORMAT", help="Format of sums: fp32, fp16, bf16.")
@click.option(
    "--order",
    default="any",
    show_default=True,
    metavar="ORDER",
    help="Order of sums: any, sequential, pairwise, blocked:K, splitk:S (at most S partial sums rounded to the storage format), exact, "
    "tensorcore:volta|ampere|ada|hopper|blackwell.",
)
@click.option(
    "--fuse",
    type=click.Choice(["none", "epilogue"]),
    default="none",
    show_default=True,
    help="What is stored once: none: every operator; covers fused kernels too. epilogue: a convolution or linear layer with its batch "
    "normalisation, addition and ReLU, as TensorRT and compiled kernels do.",
)
@click.option(
    "--method",
    type=click.Choice(["auto", "interval", "zonotope", "adjoint"]),
    default="auto",
    show_default=True,
    help="interval: fast, for one or two layers. zonotope: correlations kept, for deep networks. auto: the cheapest that decides each "
    "input. adjoint: probabilities under a model of random rounding.",
)
@click.option(
    "--effort",
    type=click.FloatRange(0),
    metavar="N",
    help="Limit of the zonotope and adjoint methods' work for one input, in forward passes [default: 6000]; beyond it "
    "interval bounds remain.",
)
@click.option(
    "--confidence",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=1e-6,
    show_default=True,
    metavar="P",
    help="Largest probability that a 'probable' verdict is wrong, under the model of random rounding.",
)
@click.option("--device", default="cpu", show_default=True, help="Where both programs run: cpu, cuda, cuda:1 or mps.")
@click.option("--batch-size", type=click.IntRange(min=1), metavar="N", help="[default: by the size of the network]")
@click.option("--json", "json_file", type=click.Path(path_type=Path), metavar="FILE", help="Write the whole report as JSON.")
@click.option("--table", "table_file", type=click.Path(path_type=Path), metavar="FILE", help="Write one row an input, .csv or .parquet.")
@click.option("--fail-under", type=click.FloatRange(0, 100), metavar="PERCENT", help="Exit with 1 if fewer are certified.")
@click.option("--native", is_flag=True, help="On a CPU, run the real half kernels (slow) instead of fp32 kernels with one rounding each.")
@click.option(
    "--emulate",
    metavar="RUN",
    help="Make the half run bit-exact by definition: volta, ampere, ada, hopper, blackwell, splitk:S or exact, which imply that --order; "
    "sequential, pairwise or blocked:K, with :fma for fused products. Slow.",
)
@click.option("--linearised", is_flag=True, help="Report first-order numbers as well: how far a sharper method could get. Never a verdict.")
@click.option("--trust", is_flag=True, help="Load files that can run code: pickled modules, TorchScript, .pt2.")
@click.option("--download/--no-download", default=True, show_default=True, help="Fetch a missing named data set.")
@click.option("-q", "--quiet", is_flag=True, help="No progress on stderr.")
def certify(**options: object) -> None:
    """Certify every input of a data set: whether running MODEL in half precision can change its prediction.

    MODEL is a state dict (.pt, .pth, .th), a .safetensors file, or a file of this project that names its architecture.
    """
    sys.exit(_certify(_Request(**options)))  # type: ignore[arg-type]


def _certify(request: _Request) -> int:
    talk = Console(stderr=True, soft_wrap=True, highlight=False)
    try:
        for path, table in ((request.json_file, False), (request.table_file, True)):
            if path is not None:
                check_writable(path, table=table)
        report = _run(request, talk)
        _show(report)
        _write(report, request, talk)
        return _verdict(report, request, talk)
    except PrecisionKitError as error:
        talk.print(f"Error: {error}", markup=False)
        return REFUTED if isinstance(error, RefutedError) else UNUSABLE
    except MemoryError:
        talk.print("Error: The memory is not enough for this batch; choose a smaller --batch-size.", markup=False)
        return UNUSABLE
    except KeyboardInterrupt:
        talk.print("Interrupted before the first result; nothing was written.")
        return INTERRUPTED


def _run(request: _Request, talk: Console) -> Report:
    """Load everything and certify it."""
    from precisionkit.bound import EFFORT
    from precisionkit.certify import Settings
    from precisionkit.certify import certify as certify_data

    order = request.order
    if request.emulate is not None and order == "any" and not (run := order_of_run(request.emulate)).is_tree:
        order = run.name
    arithmetic = parse_arithmetic(request.storage, request.accumulate, order, request.fuse)
    effort = EFFORT if request.effort is None else request.effort
    settings = Settings(
        method=request.method,
        effort=effort,
        confidence=request.confidence,
        device=request.device,
        batch_size=request.batch_size,
        native=request.native,
        linearised=request.linearised,
        emulate=request.emulate,
    )
    model, data = _load(request)
    with _memory_errors(), _progress(talk, quiet=request.quiet) as advance:
        return certify_data(model, data, arithmetic, settings, advance)


def _load(request: _Request) -> tuple[LoadedModel, Dataset]:
    from precisionkit.data import load_dataset
    from precisionkit.models import load_model, parse_normalize

    normalize = None if request.normalize is None else parse_normalize(request.normalize)
    data = load_dataset(request.data, split=request.split, root=request.data_root, limit=request.limit, download=request.download)
    shape = tuple(data.images.shape[1:]) if data.images.dtype.kind == "f" else None
    model = load_model(request.model, arch=request.arch, trust=request.trust, input_shape=shape)
    if normalize is not None:
        mean, std = normalize
        model = dataclasses.replace(model, preprocess=dataclasses.replace(model.preprocess, mean=mean, std=std))
    return model, data


@contextmanager
def _memory_errors() -> Iterator[None]:
    """Turn torch's own out-of-memory error into Python's."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        raise MemoryError from error


@contextmanager
def _progress(talk: Console, *, quiet: bool) -> Iterator[Advance]:
    """A bar with rate and time left on a terminal, a line every ten seconds elsewhere."""
    if quiet:
        yield lambda done, total: None
    elif talk.is_terminal:
        columns = (TextColumn("certifying"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn())
        with Progress(*columns, console=talk, transient=True) as bar:
            task = bar.add_task("certifying", total=None, rate="")
            start = time.monotonic()

            def advance(done: int, total: int) -> None:
                rate = done / max(time.monotonic() - start, 1e-9)
                bar.update(task, completed=done, total=total, rate=f"{rate:.4g} inputs/s")

            yield advance
    else:
        yield _lines(talk)


def _lines(talk: Console) -> Advance:
    start = last = time.monotonic()

    def advance(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= 10:
            last = now
            rate = done / (now - start)
            talk.print(f"{done} of {total} inputs, {rate:.4g} inputs/s, {(total - done) / rate:.0f} s left")

    return advance


def _show(report: Report) -> None:
    """Print the summary; a reader that has closed the pipe is no error."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(width=100, highlight=False)
    with console.capture() as text:  # rich itself would exit with 1 on a closed pipe
        console.print(render(report))
    try:
        sys.stdout.write(text.get())
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _write(report: Report, request: _Request, talk: Console) -> None:
    if request.json_file is not None:
        write_json(report, request.json_file)
    if request.table_file is not None:
        write_table(report, request.table_file)
    written = [str(path) for path in (request.json_file, request.table_file) if path is not None]
    if written:
        talk.print(f"Written: {', '.join(written)}", markup=False)


def _verdict(report: Report, request: _Request, talk: Console) -> int:
    """Exit code of a report, and a sentence for each that is not 0."""
    if not report.complete:
        talk.print(f"Interrupted: partial results are kept and marked incomplete ({report.summary.inputs} of {report.data.inputs} inputs).")
        return INTERRUPTED
    code = OK
    if report.summary.flipped:
        talk.print(f"Not certified: {report.summary.flipped} predictions flipped.")
        code = NOT_CERTIFIED
    if request.fail_under is not None and report.certified_percent < request.fail_under:
        talk.print(f"Not certified: {report.certified_percent:.2f} % are certified, less than --fail-under {request.fail_under:g}.")
        code = NOT_CERTIFIED
    return code
