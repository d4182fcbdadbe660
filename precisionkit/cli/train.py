"""``precisionkit train``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from precisionkit.cli.shared import (
    OK,
    Advance,
    fetching_options,
    find_torch_device,
    guarded,
    memory_errors,
    progress,
    show,
    taken,
    tell_written,
    together,
)

if TYPE_CHECKING:
    from precisionkit.processes import Processes
    from precisionkit.training import DivergedError, Epoch, Job, Settings, Trained, Training

BROKE = 1

_EXIT_CODES = """\b
Exit codes:
  0    trained
  1    training broke: the loss or a weight is no longer finite
  2    wrong use, or an unusable network, data set or folder
  130  interrupted; --resume goes on from the last checkpoint
"""


@dataclasses.dataclass(frozen=True)
class _Request:
    out: Path | None
    resume: bool
    checkpoint_every: int
    minutes: float | None
    watch: int
    tensorboard: bool
    diagnose: bool
    device: str
    threads: int | None
    data_root: Path | None
    download: bool | None
    quiet: bool

    def folder(self, settings: Settings) -> Path:
        """Folder of the run."""
        name = settings.arch.replace(":", ".")
        return self.out or Path(f"{name}-{settings.precision}-{settings.optimizer}-seed{settings.seed}")


_SETTINGS = (
    click.argument("arch", metavar="ARCH"),
    click.option("--data", required=True, metavar="SET", help="Trains: the part train of a set as certify takes it."),
    click.option("--test", metavar="SET", help="Tests [default: the part test of --data]."),
    click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Train with the first N images."),
    click.option(
        "--precision",
        type=click.Choice(["fp32", "fp16", "bf16", "mixed", "strict-fp16"]),
        default="fp32",
        show_default=True,
        help="fp16, bf16: pure half storage, with neither fp32 weights nor loss scaling; sums and batch norm's parameters in fp32. "
        "strict-fp16: these in fp16 too. mixed: torch's autocast and GradScaler.",
    ),
    click.option("--optimizer", type=click.Choice(["sgd", "adam", "rmsprop"]), default="sgd", show_default=True),
    click.option("--lr", "rate", type=float, metavar="NUMBER", help="Learning rate [default: 0.01 for sgd, else 0.001]."),
    click.option("--momentum", type=float, default=0.9, show_default=True, help="Of sgd."),
    click.option("--epsilon", type=float, default=1e-8, show_default=True, help="Of adam and rmsprop."),
    click.option("--weight-decay", type=float, default=0.0, show_default=True, help="L2; the paper has 1e-4 for ResNets."),
    click.option("--epochs", type=click.IntRange(min=1), default=100, show_default=True),
    click.option("--batch", type=click.IntRange(min=1), default=256, show_default=True),
    click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True),
    click.option("--loss-scale", type=float, default=1.0, show_default=True, help="Fixed factor of the loss, taken out by the optimizer."),
    click.option("--keep-fp32", multiple=True, metavar="NAME", help="A module to keep in fp32; can be given several times."),
    click.option("--batch-norm-momentum", type=float, default=0.99, show_default=True, help="Of the old running statistics."),
    click.option(
        "--kernels",
        type=click.Choice(["rounded", "native"]),
        help="rounded: half products as fp32 kernels with one rounding. native: the device's half kernels "
        "[default: rounded on a CPU, native on a GPU].",
    ),
    click.option("--normalize", metavar="MEANS/STDS", help="Per channel, or 'none' [default: measured on the training images]."),
)
_RUNNING = (
    click.option("--out", type=click.Path(path_type=Path, file_okay=False), metavar="FOLDER", help="Of the run [default: named after it]."),
    click.option("--resume", is_flag=True, help="Go on with the run in the folder; it may be asked for more epochs."),
    click.option(
        "--checkpoint-every",
        type=click.IntRange(min=0),
        default=250,
        show_default=True,
        metavar="STEPS",
        help="Within an epoch; 0: only after epochs.",
    ),
    click.option(
        "--minutes",
        type=click.FloatRange(min=0, min_open=True),
        metavar="M",
        help="End before an epoch that would not fit.",
    ),
    click.option("--watch", type=click.IntRange(min=0), default=0, metavar="STEPS", help="Observe every so many steps for what is lost."),
    click.option("--tensorboard", is_flag=True, help="Write a TensorBoard log as well."),
    click.option("--diagnose/--no-diagnose", default=True, show_default=True, help="Where training breaks, look for cause and repairs."),
    click.option("--device", default="cpu", show_default=True, help="cpu or cuda."),
    click.option("--threads", type=click.IntRange(1, 1024), metavar="N", help="Of the CPU; last bits can depend on it [default: torch's]."),
)


@click.command(epilog=_EXIT_CODES)
@together(*_SETTINGS, *_RUNNING, fetching_options)
def train(**options: Any) -> None:
    """Train ARCH, a network of the zoo or package.module:factory, in one of five precisions.

    The folder of the run gets checkpoints, metrics.csv, and the trained model.pt, which the other commands load. A run that was killed
    goes on with --resume and ends with the same weights, on a CPU bit for bit. With torchrun --nproc-per-node N -m precisionkit train
    ..., N processes share every batch.
    """
    request = taken(_Request, options)
    from precisionkit.processes import leave

    ended = "Interrupted; --resume goes on from the last checkpoint."
    leave(guarded(lambda talk: _train(options, request, talk), less="choose a smaller --batch or --limit", interrupted=ended))


def _train(options: dict[str, Any], request: _Request, talk: Console) -> int:
    import torch

    from precisionkit.processes import join_processes
    from precisionkit.training import DivergedError, Job, Output, Settings, keep_freed_memory
    from precisionkit.training import train as run_training
    from precisionkit.training.checkpoint import CHECKPOINT

    if request.threads is not None:
        torch.set_num_threads(request.threads)
    keep_freed_memory()
    kernels = options.pop("kernels") or ("rounded" if request.device == "cpu" else "native")
    settings = Settings(**options, kernels=kernels)
    output = Output(
        folder=request.folder(settings),
        every=request.checkpoint_every,
        resume=request.resume,
        tensorboard=request.tensorboard,
        minutes=request.minutes,
        watch=request.watch,
    )
    with join_processes(find_torch_device(request.device)) as members, memory_errors():
        job = Job.load(settings, root=None if request.data_root is None else str(request.data_root), download=request.download)
        if request.resume and members.leads and not request.quiet and not (output.folder / CHECKPOINT).exists():
            talk.print(f"There is no run in {output.folder} to go on with: it begins anew.", markup=False)
        teller = _Teller(job, output.folder, members, request, talk)
        try:
            with progress(talk, f"training in {settings.precision}", quiet=teller.quiet) as advance:
                trained = run_training(job, output, members, on_step=_advancing(advance, settings))
        except DivergedError as error:
            return teller.broke(error)
        if members.leads:
            teller.ended(trained)
    return OK


def _advancing(advance: Advance, settings: Settings) -> Callable[[Training], None]:
    def on_step(training: Training) -> None:
        count = len(training.train)
        done = training.progress.epoch * count + min(training.progress.step * settings.batch, count)
        advance(done, settings.epochs * count)

    return on_step


@dataclasses.dataclass(frozen=True)
class _Teller:
    """Says how a run ended, by its first process."""

    job: Job
    folder: Path
    members: Processes
    request: _Request
    talk: Console

    @property
    def quiet(self) -> bool:
        return self.request.quiet or not self.members.leads

    def trying(self, option: str) -> None:
        if not self.quiet:
            self.talk.print(f"Trying {option}", markup=False)

    def broke(self, error: DivergedError) -> int:
        """Say that training broke, why, and what repairs it."""
        from precisionkit.report import write_json
        from precisionkit.training import find_failure

        if self.members.leads:
            self.talk.print(f"Error: {error}", markup=False)
            if self.request.diagnose and self.members.world > 1:
                self.talk.print("Why it broke is looked for by one process alone: run it without torchrun.")
        if self.request.diagnose and self.members.world == 1:
            found = find_failure(self.job, self.folder, error, self.trying)
            show("\n".join(found.describe()))
            write_json(found, self.folder / "failure.json")
            tell_written(self.talk, self.folder / "failure.json", quiet=self.quiet)
        return BROKE

    def ended(self, trained: Trained) -> None:
        """Show the epochs, the sizes, and what was lost in the steps that were observed."""
        from precisionkit.training.train import EVENTS

        show(_table(trained.history))
        show(_summary(trained, self.job.settings))
        if self.request.watch:
            self._lost(trained)
        tell_written(self.talk, trained.path, self.folder / EVENTS if self.request.watch else None, quiet=self.quiet)

    def _lost(self, trained: Trained) -> None:
        from precisionkit.training import mend_underflow

        kinds = {one.event.kind: one for one in reversed(trained.observed)}
        for one in sorted(kinds.values(), key=lambda one: (one.epoch, one.step)):
            show(f"First in step {one.step} of epoch {one.epoch}: {one.event.describe()}.")
        if not kinds:
            show("Nothing was lost in the steps that were observed.")
        dead = kinds.get("underflow")
        if dead is not None and self.request.diagnose and self.members.world == 1:
            for repair in mend_underflow(self.job, dead, self.trying):
                tried = f"{repair.kind}, {repair.tried} tried"
                show(
                    f"Kept by {repair.option} ({tried})."
                    if repair.works
                    else f"No {repair.kind} of {repair.tried} that were tried keeps it."
                )


def _table(history: tuple[Epoch, ...]) -> Table:
    table = Table()
    for name in ("epoch", "loss", "accuracy", "seconds"):
        table.add_column(name, justify="right")
    for epoch in history:
        table.add_row(str(epoch.epoch), f"{epoch.loss:.4f}", f"{epoch.accuracy:.2%}", f"{epoch.seconds:.1f}")
    return table


def _summary(trained: Trained, settings: Settings) -> str:
    sizes = f"{trained.memory / 1e6:.2f} MB in memory, {trained.path.stat().st_size / 1e6:.2f} MB on disk"
    return f"{settings.arch} in {settings.precision}: {sizes}; the optimizer's state has {trained.optimizer_memory / 1e6:.2f} MB."
