"""Train a network into a folder: checkpoints, metrics, the trained network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import msgspec
import torch
from torch import Tensor

from precisionkit.data import Dataset
from precisionkit.errors import UnusableDataError, UsageError
from precisionkit.models import Preprocess, save_model
from precisionkit.models.zoo import ZOO
from precisionkit.ops._store import DTYPES
from precisionkit.training.checkpoint import NAME, Bound, Epoch, check_same, read_checkpoint, write_checkpoint
from precisionkit.training.examples import Examples, examples, load_parts, measured
from precisionkit.training.metrics import Board, write_csv
from precisionkit.training.processes import Team
from precisionkit.training.run import Run
from precisionkit.training.settings import Settings
from precisionkit.training.watch import Event, Watch

MODEL = "model.pt"
OnStep = Callable[[Run], None]


@dataclass(frozen=True)
class Place:
    """Where a run lies and what it leaves there.

    Attributes
    ----------
    folder : Path
        Gets ``checkpoint.pt``, ``metrics.csv``, and at the end ``model.pt``, which the other commands load.
    every : int
        Steps between checkpoints within an epoch; 0 writes them after epochs alone.
    resume : bool
        Whether to go on with what lies there.
    tensorboard : bool
    minutes : float or None
        End before an epoch that would not fit in this time of training steps.
    watch : int
        Observe every so many steps (`watch.Watch`), which changes no bit; 0 observes none.
    """

    folder: Path
    every: int = 250
    resume: bool = False
    tensorboard: bool = False
    minutes: float | None = None
    watch: int = 0


class Observed(msgspec.Struct, frozen=True, kw_only=True):
    """An event and the step that it was in, counted from 1."""

    epoch: int
    step: int
    event: Event


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
class Parts:
    """The images that train and those that test, and their preprocessing."""

    train: Dataset
    test: Dataset
    preprocess: Preprocess


@lru_cache(maxsize=2)  # runs that differ in other things alone share them
def _stored(parts: Parts, dtype: torch.dtype, device: torch.device) -> tuple[Examples, Examples]:
    train, test = (examples(data, parts.preprocess, dtype, device) for data in (parts.train, parts.test))
    return train, test


@dataclass(frozen=True)
class Task:
    """Settings with the data that they name."""

    settings: Settings
    parts: Parts

    @classmethod
    def load(cls, settings: Settings, *, root: str | None = None, download: bool | None = None) -> Task:
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
        return cls(settings, Parts(train, test, preprocess))

    def run(self, team: Team) -> Run:
        """Return the run before its first step."""
        return Run.start(self.settings, team, *_stored(self.parts, DTYPES[self.settings.how.storage], team.device))

    def bound(self, team: Team) -> Bound:
        """Return what a checkpoint of this task belongs to."""
        return Bound(
            settings=self.settings,
            data=self.parts.train.sha256,
            test=self.parts.test.sha256,
            world=team.world,
            threads=torch.get_num_threads(),
            device=team.device.type,
        )


def train(task: Task, team: Team, place: Place, *, on_step: OnStep = lambda run: None) -> Trained:
    """Train a network, or go on with its training.

    The weights at the end do not depend on where the run was interrupted: on a CPU they are the same bits.

    Parameters
    ----------
    task : Task
    team : Team
    place : Place
    on_step : callable
        Called with the run after every step.

    Raises
    ------
    DivergedError
        The loss or a weight is no longer finite; the last checkpoint before it stays.
    UsageError
        The folder holds a run and `resume` is not set, or one that belongs to other settings.
    """
    run = _begun(task, team, place)
    observed: dict[tuple[str, str], Observed] = {}
    board = Board(place.folder if place.tensorboard and team.leads else None, run.progress.epoch + 1)
    try:
        while run.progress.epoch < task.settings.epochs and _fits(run, place.minutes):
            _epoch(run, task, place, on_step, observed)
            if team.leads:
                board.add(run.progress.history[-1])
    finally:
        board.close()
    return _ended(run, task, place, tuple(observed.values()))


def _begun(task: Task, team: Team, place: Place) -> Run:
    there = (place.folder / NAME).exists()
    if there and not place.resume:
        raise UsageError(f"The folder {place.folder} holds a run already: add --resume to go on with it, or choose another one.")
    run = task.run(team)
    if there:
        bound, progress, states = read_checkpoint(place.folder, team.device)
        check_same(bound, task.bound(team), place.folder)
        run.load(progress, states)
    elif team.leads:
        place.folder.mkdir(parents=True, exist_ok=True)
    return run


def _fits(run: Run, minutes: float | None) -> bool:
    done = run.progress
    if minutes is None or not done.history:
        return True
    last = done.history[-1].seconds - (done.history[-2].seconds if len(done.history) > 1 else 0.0)
    return done.seconds + last <= 60 * minutes


def _epoch(run: Run, task: Task, place: Place, on_step: OnStep, observed: dict[tuple[str, str], Observed]) -> None:
    for rows, weight in run.remaining():
        if place.watch and run.progress.step % place.watch == 0:
            _observe(run, rows, weight, observed)
        else:
            run.step(rows, weight)
        on_step(run)
        if place.every and run.progress.step % place.every == 0 and run.progress.step < run.steps:
            _save(run, task, place)
    run.check_finite()
    run.end_epoch()
    _save(run, task, place)
    if run.team.leads:
        write_csv(place.folder, run.progress.history)


def _observe(run: Run, rows: Tensor, weight: float, observed: dict[tuple[str, str], Observed]) -> None:
    watch = Watch(run.module, lambda: run.optimizer.state)
    epoch, step = run.progress.epoch + 1, run.progress.step + 1
    run.step(rows, weight, watch.phase)
    for event in watch.events:
        observed.setdefault((event.kind, event.tensor), Observed(epoch=epoch, step=step, event=event))


def _save(run: Run, task: Task, place: Place) -> None:
    run.check_finite()
    done = run.progress
    done.loss, done.rows = run.team.total(torch.tensor([done.loss, done.rows], dtype=torch.float64)).tolist()
    if run.team.leads:
        write_checkpoint(place.folder, task.bound(run.team), done, run.states())
    else:
        done.loss = done.rows = 0.0


def _ended(run: Run, task: Task, place: Place, observed: tuple[Observed, ...]) -> Trained:
    path = place.folder / MODEL
    if run.team.leads:
        save_model(path, run.module, arch=task.settings.arch, preprocess=task.parts.preprocess)
    tensors = (*run.module.parameters(), *run.module.buffers())
    state = [t for one in run.optimizer.state.values() for t in one.values() if isinstance(t, torch.Tensor)]
    memory, optimizer_memory = (sum(t.numel() * t.element_size() for t in group) for group in (tensors, state))
    return Trained(tuple(run.progress.history), path, memory, optimizer_memory, observed)
