"""Train a network into a folder: checkpoints, metrics, the trained network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from precisionkit.data import Dataset
from precisionkit.errors import ReportError, UnusableDataError, UnusableModelError, UsageError, first_line
from precisionkit.models import Preprocess, save_model
from precisionkit.models.zoo import ZOO
from precisionkit.ops._store import DTYPES
from precisionkit.processes import ALONE, Processes
from precisionkit.report.write import write_json
from precisionkit.training.checkpoint import CHECKPOINT, Conditions, Epoch, check_same, read_checkpoint, write_checkpoint
from precisionkit.training.events import Observed
from precisionkit.training.examples import Examples, examples, load_parts, measured
from precisionkit.training.metrics import Board, write_csv
from precisionkit.training.run import Training
from precisionkit.training.settings import Settings

MODEL = "model.pt"
EVENTS = "events.json"
OnStep = Callable[[Training], None]


@dataclass(frozen=True)
class Output:
    """The folder of a run, and what it gets.

    Attributes
    ----------
    folder : Path
        Gets ``checkpoint.pt``, ``metrics.csv``, and at the end ``model.pt``, which `load_model` reads.
    every : int
        Steps between checkpoints within an epoch; 0 writes them after epochs alone.
    resume : bool
        Whether to go on with what lies there.
    tensorboard : bool
    minutes : float or None
        End before an epoch that would not fit in this time of training steps.
    watch : int
        Observe every so many steps, which changes no bit, and write ``events.json``; 0 observes none.
    """

    folder: Path
    every: int = 250
    resume: bool = False
    tensorboard: bool = False
    minutes: float | None = None
    watch: int = 0


@dataclass(frozen=True)
class Trained:
    """A run that came to its end.

    Attributes
    ----------
    history : tuple of Epoch
    path : Path
        Of the trained network.
    memory, optimizer_memory : int
        Bytes of its parameters and buffers, and of the optimizer's state.
    observed : tuple of Observed
        The first event of each kind in each tensor, of the steps that were observed.
    """

    history: tuple[Epoch, ...]
    path: Path
    memory: int
    optimizer_memory: int
    observed: tuple[Observed, ...]


@dataclass(frozen=True, eq=False)
class JobData:
    """The images that train and those that test, and their preprocessing."""

    train: Dataset
    test: Dataset
    preprocess: Preprocess


@lru_cache(maxsize=2)  # runs that differ in other things alone share them
def _stored(data: JobData, dtype: torch.dtype, device: torch.device) -> tuple[Examples, Examples]:
    train, test = (examples(part, data.preprocess, dtype, device) for part in (data.train, data.test))
    return train, test


def _try_out(training: Training) -> None:
    """Refuse a network that cannot take the inputs, has too few outputs, or nothing to train."""
    name = training.settings.arch
    if not any(True for _ in training.module.parameters()):
        raise UnusableModelError(f"The network {name} has no parameters to train.")
    training.module.eval()
    try:
        with torch.no_grad(), training.arithmetic():
            classes = training.module(training.test.inputs[:2]).shape[1]
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
        shape = tuple(training.test.inputs.shape[1:])
        raise UnusableModelError(f"The network {name} cannot be run on inputs of shape {shape}: {first_line(error)}") from None
    finally:
        training.module.train()
    largest = int(max(training.train.labels.max(), training.test.labels.max()))
    if largest >= classes:
        raise UnusableDataError(f"The data has the label {largest}, but the network {name} has {classes} outputs: choose another network.")


@dataclass(frozen=True)
class Job:
    """Settings with the data that they name."""

    settings: Settings
    data: JobData

    @classmethod
    def load(cls, settings: Settings, *, root: str | None = None, download: bool | None = None) -> Job:
        """Read the data sets and measure the normalisation.

        Raises
        ------
        PrecisionKitError
            They cannot be used.
        """
        train, test = load_parts(settings.data, settings.test, settings.limit, root, download=download)
        entry = ZOO.get(settings.arch)
        preprocess = measured(entry.preprocess if entry else Preprocess(), train, settings.normalize)
        shape = tuple(preprocess(train.images[:1]).shape[1:])
        if entry and shape != entry.input_shape:
            raise UnusableDataError(
                f"The network {settings.arch} takes inputs of shape {entry.input_shape}, but those of {train.name} have {shape}: "
                "choose another network or data set."
            )
        return cls(settings, JobData(train, test, preprocess))

    def start(self, processes: Processes = ALONE) -> Training:
        """Return the run before its first step.

        Raises
        ------
        PrecisionKitError
            The network cannot be trained on the data.
        """
        if self.settings.batch < processes.world:
            raise UsageError(f"A batch of {self.settings.batch} cannot be shared by {processes.world} processes: choose a larger --batch.")
        training = Training.start(self.settings, processes, *_stored(self.data, DTYPES[self.settings.formats.storage], processes.device))
        _try_out(training)
        return training

    def conditions(self, processes: Processes = ALONE) -> Conditions:
        """Return what the bits of the run depend on."""
        return Conditions(
            settings=self.settings,
            data=self.data.train.sha256,
            test=self.data.test.sha256,
            world=processes.world,
            threads=torch.get_num_threads(),
            device=processes.device.type,
        )


def train(job: Job | Settings, output: Output | Path, processes: Processes = ALONE, *, on_step: OnStep = lambda training: None) -> Trained:
    """Train a network, or go on with its training.

    The weights at the end do not depend on where the run was interrupted: on a CPU they are the same bits.

    Parameters
    ----------
    job : Job or Settings
        With its data, or what names them.
    output : Output or Path
        The folder.
    processes : Processes
    on_step : callable
        Called with the run after every step.

    Raises
    ------
    DivergedError
        The loss or a weight is no longer finite; the last checkpoint before it stays.
    UsageError
        The folder holds a run and `resume` is not set, or one under other conditions.
    """
    job = job if isinstance(job, Job) else Job.load(job)
    output = output if isinstance(output, Output) else Output(output)
    training = _begun(job, processes, output)
    board = Board(output.folder if output.tensorboard and processes.leads else None, training.progress.epoch + 1)
    try:
        while training.progress.epoch < job.settings.epochs and _fits(training, output.minutes):
            _epoch(training, job, output, on_step)
            if processes.leads:
                board.add(training.progress.history[-1])
    finally:
        board.close()
        if output.watch and processes.leads:
            write_json(tuple(training.progress.events), output.folder / EVENTS)
    return _ended(training, job, output)


def _begun(job: Job, processes: Processes, output: Output) -> Training:
    there = (output.folder / CHECKPOINT).exists()
    if there and not output.resume:
        raise UsageError(f"The folder {output.folder} holds a run already: add --resume to go on with it, or choose another one.")
    training = job.start(processes)
    if there:
        conditions, progress, states = read_checkpoint(output.folder, processes.device)
        check_same(conditions, job.conditions(processes), output.folder)
        if progress.epoch + (progress.step > 0) > job.settings.epochs:
            done = f"The run in {output.folder} has done {progress.epoch + (progress.step > 0)} epochs already"
            raise UsageError(f"{done}, more than {job.settings.epochs}: ask for as many or more.")
        training.load(progress, states)
    elif processes.leads:
        _make(output.folder)
    return training


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ReportError(f"The folder '{folder}' cannot be made ({error.strerror}): choose another place.") from None


def _fits(training: Training, minutes: float | None) -> bool:
    done = training.progress
    if minutes is None or not done.history or done.step > 0:
        return True
    last = done.history[-1].seconds - (done.history[-2].seconds if len(done.history) > 1 else 0.0)
    return done.seconds + last <= 60 * minutes


def _epoch(training: Training, job: Job, output: Output, on_step: OnStep) -> None:
    for rows, weight in training.remaining():
        if output.watch and training.progress.step % output.watch == 0:
            training.observed_step(rows, weight)
        else:
            training.step(rows, weight)
        on_step(training)
        if output.every and training.progress.step % output.every == 0 and training.progress.step < training.steps:
            _save(training, job, output)
    training.check_finite()
    training.end_epoch()
    _save(training, job, output)
    if training.processes.leads:
        write_csv(output.folder, training.progress.history)


def _save(training: Training, job: Job, output: Output) -> None:
    """Write a checkpoint; from then on the first process counts the losses of all, in a run that goes on and in one that resumes."""
    training.check_finite()
    done = training.progress
    done.loss, done.rows = training.processes.total(torch.tensor([done.loss, done.rows], dtype=torch.float64)).tolist()
    if training.processes.leads:
        write_checkpoint(output.folder, job.conditions(training.processes), done, training.states())
    else:
        done.loss = done.rows = 0.0


def _ended(training: Training, job: Job, output: Output) -> Trained:
    path = output.folder / MODEL
    if training.processes.leads:
        write_csv(output.folder, training.progress.history)
        save_model(path, training.module, arch=job.settings.arch, preprocess=job.data.preprocess)
    tensors = (*training.module.parameters(), *training.module.buffers())
    state = [t for one in training.optimizer.state.values() for t in one.values() if isinstance(t, torch.Tensor)]
    memory, optimizer_memory = (sum(t.numel() * t.element_size() for t in group) for group in (tensors, state))
    return Trained(tuple(training.progress.history), path, memory, optimizer_memory, tuple(training.progress.events))
