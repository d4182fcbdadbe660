"""What the commands have in common: where model and data come from, the arithmetic, progress, and how errors are told."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Container, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from click.core import ParameterSource
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from precisionkit.arithmetic import Arithmetic, parse_arithmetic, parse_run
from precisionkit.errors import PrecisionKitError, RefutedError, UsageError
from precisionkit.report import write_json

if TYPE_CHECKING:
    from precisionkit.data import Dataset
    from precisionkit.mixed import Keep
    from precisionkit.models import LoadedModel, Preprocess
    from precisionkit.report.plan import Plan

OK, NOT_CERTIFIED, UNUSABLE, REFUTED, INTERRUPTED = 0, 1, 2, 3, 130

Advance = Callable[[int, int], None]
Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


@dataclasses.dataclass(frozen=True)
class Source:
    """Where the model and the data come from."""

    model: str | None
    data: str | None
    arch: str | None
    data_root: Path | None
    split: str
    skip: int
    limit: int | None
    weights: str | None
    preprocess: Path | None
    resize: str | None
    crop: str | None
    interpolation: str | None
    scale: float | None
    normalize: str | None
    trust: bool
    download: bool | None
    operators: tuple[str, ...]

    @property
    def files(self) -> tuple[str | Path | None, ...]:
        """What may be files that are read."""
        data = (self.data or "").split(",")  # IMAGES.npy,LABELS.npy
        return (self.model, self.weights, self.preprocess, *data)

    @property
    def given(self) -> list[str]:
        """Options beside model and data that were given."""
        values = {name: getattr(self, name) for name in ("arch", "skip", "limit", "weights", "preprocess", "resize", "crop")}
        values |= {name: getattr(self, name) for name in ("interpolation", "scale", "normalize", "trust", "download", "operators")}
        return [f"--{name}" for name, value in values.items() if value not in (None, False, (), 0)]

    def registered(self) -> AbstractContextManager[None]:
        """Let operators of the user's own be known; whatever is done with the model belongs into this block."""
        return registered(self.operators)

    def load(self) -> tuple[LoadedModel, Dataset]:
        """Load both."""
        from precisionkit.data import load_dataset

        assert self.data is not None  # the option is required wherever this is called
        preprocess = self._preprocess()
        data = load_dataset(self.data, split=self.split, root=self.data_root, skip=self.skip, limit=self.limit, download=self.download)
        return self._model(_input_shape(data.images.shape, data.images.dtype), *preprocess), data

    def load_model(self, input_shape: tuple[int, ...] | None) -> LoadedModel:
        """Load the model alone, for inputs of a shape if it does not say it itself."""
        return self._model(input_shape, *self._preprocess())

    def _model(self, input_shape: tuple[int, ...] | None, given: Preprocess | None, changes: dict[str, Any]) -> LoadedModel:
        from precisionkit.models import load_model

        assert self.model is not None  # it is required wherever this is called
        model = load_model(
            self.model,
            arch=self.arch,
            trust=self.trust,
            preprocess=given,
            input_shape=input_shape,
            weights=self.weights,
            download=self.download is True,
        )
        return dataclasses.replace(model, preprocess=dataclasses.replace(model.preprocess, **changes))

    def _preprocess(self) -> tuple[Preprocess | None, dict[str, Any]]:
        """What a file says of the preprocessing, and what options change; wrong ones are told before anything is loaded."""
        from precisionkit.models import read_preprocess

        return None if self.preprocess is None else read_preprocess(self.preprocess), self._changes()

    def _changes(self) -> dict[str, Any]:
        """Fields of the preprocessing that options set, over what the model or a file says."""
        from precisionkit.models.preprocess import parse_normalize, parse_resize, parse_size

        changes: dict[str, Any] = {} if self.resize is None else parse_resize(self.resize)
        if self.crop is not None:
            changes["crop"] = parse_size(self.crop, "crop")
        if self.normalize is not None:
            changes["mean"], changes["std"] = parse_normalize(self.normalize)
        if self.scale is not None:
            changes["scale"] = self.scale
        if self.interpolation is not None:
            changes["interpolation"] = self.interpolation
        return changes


def _input_shape(shape: tuple[int | None, ...], dtype: np.dtype[Any]) -> tuple[int, ...] | None:
    """Shape of one input as a network takes it: images of bytes have their channels last, or none; None for images of several sizes."""
    sides = tuple(size for size in shape[1:] if size is not None)
    if len(sides) < len(shape) - 1:
        return None
    if dtype != np.uint8:
        return sides
    return (sides[-1], *sides[:-1]) if len(sides) == 3 else (1, *sides)


@dataclasses.dataclass(frozen=True)
class Asked:
    """The arithmetic of the half program, and how its run is made."""

    storage: str
    accumulate: str
    order: str | None
    fuse: str
    emulate: str | None

    def arithmetic(self, device: str = "cpu") -> Arithmetic:
        """Build it; without an order, a run on a tensor core, in parts or exact implies its own, and a device that of its kernels."""
        if self.order is not None:
            return parse_arithmetic(self.storage, self.accumulate, self.order, self.fuse)
        made = parse_arithmetic(self.storage, self.accumulate, "any", self.fuse)
        if self.emulate is not None and not (run := parse_run(self.emulate)).is_tree:
            return parse_arithmetic(self.storage, self.accumulate, run.name, self.fuse)
        if device == "cpu":
            return made
        from precisionkit.devices import find_device, order_of

        return dataclasses.replace(made, order=order_of(find_device(device), made.storage, made.accumulate))


@dataclasses.dataclass(frozen=True)
class Kept:
    """What the half program keeps in binary32: nodes that are named, and those of a plan."""

    keep_fp32: tuple[str, ...]
    keep_sums: tuple[str, ...]
    plan: Path | None

    @functools.cached_property
    def planned(self) -> Plan | None:
        """Read the plan, if there is one."""
        from precisionkit.patched import read_plan

        return None if self.plan is None else read_plan(self.plan)

    @property
    def keep(self) -> Keep:
        """All of them."""
        from precisionkit.mixed import Keep

        if self.planned is None:
            return Keep.of(self.keep_fp32, self.keep_sums)
        kept = self.planned.arithmetic
        return Keep.of((*self.keep_fp32, *kept.kept), (*self.keep_sums, *kept.kept_sums))

    def check(self, model: LoadedModel, arithmetic: Arithmetic) -> None:
        """Refuse a plan for another arithmetic or model: what `apply` makes of it would be another program.

        Raises
        ------
        UsageError
            It is for another.
        """
        if self.planned is None:
            return
        said, alone = self.planned.arithmetic, "or name its nodes with --keep-fp32 and --keep-sums"
        theirs = parse_arithmetic(said.storage, said.accumulate, said.order, said.fuse)
        if theirs != arithmetic:
            raise UsageError(
                f"The plan '{self.plan}' is for {theirs.name}, but this is {arithmetic.name}: give the same --storage, --accumulate, "
                f"--order and --fuse as for tune, {alone}."
            )
        if self.planned.model.sha256 != model.sha256:
            raise UsageError(
                f"The plan '{self.plan}' is for other weights ({self.planned.model.arch} from {self.planned.model.path}): make one with "
                f"'precisionkit tune' for these, {alone}."
            )


@contextmanager
def registered(names: tuple[str, ...]) -> Iterator[None]:
    """Let the operators that ``--operators`` names be known within a block."""
    if not names:
        yield
        return
    from precisionkit.custom import load_operators
    from precisionkit.custom import registered as register

    with register(*(operator for name in names for operator in load_operators(name))):
        yield


def taken(kind: type[Any], options: dict[str, Any]) -> Any:
    """Take the options that are fields of a record out of a command's options."""
    return kind(**{field.name: options.pop(field.name) for field in dataclasses.fields(kind)})


def command_line(context: click.Context, leave_out: Container[str]) -> str:
    """Write what was given to a command as it could be typed again; options that are not given, and those left out, are not told."""
    words = ["precisionkit", context.command.name or ""]
    for parameter in context.command.params:
        name = parameter.name or ""
        if name not in leave_out and context.get_parameter_source(name) == ParameterSource.COMMANDLINE:
            words += _typed(parameter, context.params[name])
    return shlex.join(words)


def _typed(parameter: click.Parameter, value: Any) -> list[str]:
    if isinstance(parameter, click.Argument):
        return [str(value)]
    if isinstance(parameter, click.Option) and parameter.is_flag:
        return [parameter.opts[0] if value else parameter.secondary_opts[0]]
    return [word for item in (value if parameter.multiple else (value,)) for word in (parameter.opts[0], str(item))]


def together(*decorators: Decorator) -> Decorator:
    """One decorator of several, the first outermost."""

    def apply(function: Callable[..., Any]) -> Callable[..., Any]:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


_MODEL = click.argument("model", metavar="MODEL")


def _data(*, required: bool) -> Decorator:
    return click.option(
        "--data",
        required=required,
        metavar="SET",
        help="digits, mnist, fashion_mnist, cifar10, a FILE.npz (with images, labels), IMAGES.npy (and IMAGES_labels.npy or labels.npy "
        "beside it) or IMAGES.npy,LABELS.npy, a FILE.parquet, a FOLDER of images by class, of Parquet files or of save_to_disk, "
        "hf:OWNER/NAME, or package.module:function, which returns batches.",
    )


operators_option = click.option(
    "--operators",
    multiple=True,
    metavar="NAME",
    help="package.module:name of records for operators of one's own (docs/custom-operators.md); can be given several times.",
)
_data_root = click.option(
    "--data-root", type=click.Path(path_type=Path, file_okay=False), help="Folder with named data sets [default: $PRECISIONKIT_DATA]."
)
_download = click.option("--download/--no-download", default=None, help="Fetch what is missing [default: only named data sets].")
_quiet = click.option("-q", "--quiet", is_flag=True, help="No progress, and no names of written files, on stderr.")
_trust = click.option("--trust", is_flag=True, help="Load files that can run code: pickled modules, TorchScript.")
_DETAILS = together(
    operators_option,
    click.option("--arch", metavar="NAME", help="Architecture for a file that holds only weights: a zoo name or package.module:factory."),
    _data_root,
    click.option("--split", default="test", show_default=True, help="test or train, of a named set; or a part of a folder that has parts."),
    click.option(
        "--skip", type=click.IntRange(min=0), default=0, metavar="N", help="Leave out the first N inputs; reports count from 0 behind them."
    ),
    click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Take the first N inputs, or the first N behind those skipped."),
    click.option(
        "--weights",
        metavar="FILE",
        help="Weights for a MODEL by name: a file, 'default' (published, from torch's cache), or 'random', for experiments; "
        "those of digits_cnn come with the package.",
    ),
    click.option(
        "--preprocess",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        help="JSON or YAML with any of resize, resize_shorter, crop, interpolation, antialias, scale, mean, std; not the model's own.",
    ),
    click.option("--resize", metavar="SIZE", help="Resize images by Pillow: N (the shorter side), HEIGHTxWIDTH, or 'none'."),
    click.option("--crop", metavar="SIZE", help="Then cut N or HEIGHTxWIDTH from the middle, or 'none'."),
    click.option("--interpolation", metavar="NAME", help="Of resizing: bilinear, bicubic, nearest, box, hamming or lanczos."),
    click.option("--scale", type=float, metavar="NUMBER", help="Then divide bytes by it, e.g. 255."),
    click.option("--normalize", metavar="MEANS/STDS", help="Per channel, e.g. 0.1307/0.3081, or 'none' [default: what the model says]."),
)
source_options = together(_MODEL, _data(required=True), _DETAILS)
model_options = together(_MODEL, _data(required=False), _DETAILS)
"""The same where the data set may be left out."""
certificate_options = together(
    click.option("--model", metavar="MODEL", help="Compare the network with that of a model."),
    _data(required=False),
    _DETAILS,
    _trust,
    _download,
    click.option("-q", "--quiet", is_flag=True, help="No progress on stderr."),
)
access_options = together(_trust, _download, _quiet)
fetching_options = together(_data_root, _download, _quiet)
"""Of commands that read data alone."""
_FORMATS = together(
    click.option("--storage", default="fp16", show_default=True, metavar="FORMAT", help="fp16, bf16, or fp32 (fp32 against itself)."),
    click.option("--accumulate", default="fp32", show_default=True, metavar="FORMAT", help="Format of sums: fp32, fp16, bf16."),
)
_MADE = together(
    click.option(
        "--fuse",
        type=click.Choice(["none", "epilogue"]),
        default="none",
        show_default=True,
        help="What is stored once: none: every operator; covers fused kernels too. epilogue: a convolution or linear layer with its batch "
        "normalisation, addition and ReLU, as TensorRT and compiled kernels do.",
    ),
    click.option(
        "--emulate",
        metavar="RUN",
        help="Make the half run bit-exact by definition: volta, ampere, ada, hopper, blackwell, splitk:S or exact, which imply that "
        "--order; sequential, pairwise or blocked:K, with :fma for fused products. Slow.",
    ),
)


def _order(default: str) -> Decorator:
    """Make the option for the order of sums; its default, in words."""
    return click.option(
        "--order",
        metavar="ORDER",
        help="Order of sums: any, sequential, pairwise, blocked:K, splitk:S (at most S partial sums rounded to the storage format), exact, "
        "tensorcore:volta|ampere|ada|hopper|blackwell, or gpu: and one of these, for tensor cores or other cores, as a GPU's library "
        f"chooses [default: {default}].",
    )


arithmetic_options = together(_FORMATS, _order("any"), _MADE)
device_arithmetic_options = together(_FORMATS, _order("any; with --device cuda, that GPU's"), _MADE)
"""Of commands whose runs are made on a --device."""
keep_options = together(
    click.option(
        "--keep-fp32", multiple=True, metavar="NODE", help="A node that the half program computes in fp32; can be given several times."
    ),
    click.option("--keep-sums", multiple=True, metavar="NODE", help="A node that sums in fp32 where --accumulate is shorter."),
    click.option("--plan", type=click.Path(path_type=Path), metavar="FILE", help="Keep what a plan of 'precisionkit tune --json' keeps."),
)
effort_option = click.option(
    "--effort",
    type=click.FloatRange(0),
    default=6000.0,  # bound.EFFORT, whose module imports torch
    show_default=True,
    metavar="N",
    help="Limit of the zonotope and adjoint methods' work for one input, in forward passes; beyond it interval bounds remain.",
)
confidence_option = click.option(
    "--confidence",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=1e-6,
    show_default=True,
    metavar="P",
    help="Largest probability that what is called probable is wrong, under the model of random rounding.",
)


def json_option(help_: str) -> Decorator:
    """Make the option for a file of everything."""
    return click.option("--json", "json_file", type=click.Path(path_type=Path), metavar="FILE", help=help_)


def guarded(
    work: Callable[[Console], int], *, less: str, interrupted: str = "Interrupted before there was a result; nothing was written."
) -> int:
    """Run a command's work; errors become one sentence on stderr and an exit code; `less` says how to need less memory."""
    talk = Console(stderr=True, soft_wrap=True, highlight=False, emoji=False)
    try:
        return work(talk)
    except PrecisionKitError as error:
        talk.print(f"Error: {error}", markup=False)
        return REFUTED if isinstance(error, RefutedError) else UNUSABLE
    except MemoryError:
        talk.print(f"Error: The memory is not enough; {less}.", markup=False)
        return UNUSABLE
    except KeyboardInterrupt:
        talk.print(interrupted)
        return INTERRUPTED


def deliver(
    talk: Console,
    report: object,
    rendered: RenderableType,
    json_file: Path | None,
    *drawn: tuple[Path | None, Callable[[Path], None]],
    quiet: bool = False,
) -> None:
    """Show a report, write it, draw the files that are asked for, and name what was written."""
    show(rendered)
    if json_file is not None:
        write_json(report, json_file)
    for path, draw in drawn:
        if path is not None:
            draw(path)
    tell_written(talk, json_file, *(path for path, _ in drawn), quiet=quiet)


def tell_written(talk: Console, *paths: Path | None, quiet: bool = False) -> None:
    """Name the files that were written."""
    if quiet:
        return
    if written := [str(path) for path in paths if path is not None]:
        talk.print(f"Written: {', '.join(written)}", markup=False)


def find_torch_device(name: str) -> str:
    """Return ``cpu`` or ``cuda``; refuse others, and a GPU that is not there."""
    import torch

    if name not in ("cpu", "cuda"):
        raise UsageError(f"Unknown device {name!r}: give cpu or cuda.")
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("There is no GPU that torch can use here: leave out --device cuda.")
    return name


@contextmanager
def memory_errors() -> Iterator[None]:
    """Turn torch's own out-of-memory error into Python's."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        raise MemoryError from error


@contextmanager
def progress(talk: Console, what: str, *, quiet: bool, unit: str = "inputs", as_json: bool = False) -> Iterator[Advance]:
    """A bar with rate and time left on a terminal, a line every ten seconds elsewhere; or a line of JSON every second, for machines."""
    if quiet:
        yield lambda done, total: None
    elif as_json:
        yield _json_lines(what, unit)
    elif talk.is_terminal:
        columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn())
        with Progress(*columns, console=talk, transient=True) as bar:
            task = bar.add_task(what, total=None, rate="")
            start = time.monotonic()

            def advance(done: int, total: int) -> None:
                rate = done / max(time.monotonic() - start, 1e-9)
                bar.update(task, completed=done, total=total, rate=f"{rate:.4g} {unit}/s")

            yield advance
    else:
        yield _lines(talk, unit)


def _lines(talk: Console, unit: str) -> Advance:
    start = last = time.monotonic()

    def advance(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= 10:
            last = now
            rate = done / (now - start)
            left = f"{(total - done) / rate:.0f} s left" if rate else "the first is not done yet"
            talk.print(f"{done} of {total} {unit}, {rate:.4g} {unit}/s, {left}")

    return advance


def _json_lines(what: str, unit: str) -> Advance:
    """The first, the last, and at most one a second."""
    start, last = time.monotonic(), -1.0

    def advance(done: int, total: int) -> None:
        nonlocal last
        seconds = time.monotonic() - start
        if seconds - last >= 1 or done == total:
            last = seconds
            print(
                json.dumps({"what": what, "unit": unit, "done": done, "total": total, "seconds": round(seconds, 3)}),
                file=sys.stderr,
                flush=True,
            )

    return advance


def show(what: RenderableType) -> None:
    """Print a result; a reader that has closed the pipe is no error."""
    console = Console(highlight=False, emoji=False)
    if not console.is_terminal:
        console = Console(width=100, highlight=False, emoji=False)
    with console.capture() as text:  # rich itself would exit with 1 on a closed pipe
        console.print(what)
    try:
        sys.stdout.write(text.get())
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
