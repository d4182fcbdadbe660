"""Why training broke: the first operator and tensor, and the smallest changes that repair it, each of them tried."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import msgspec

from precisionkit.training.checkpoint import NAME, read_checkpoint
from precisionkit.training.epsilon import analyse_settings
from precisionkit.training.processes import Team
from precisionkit.training.run import DivergedError, Run
from precisionkit.training.settings import Settings
from precisionkit.training.train import Observed, Task
from precisionkit.training.watch import FATAL, Event, Watch

HORIZON = 50
"""Steps that a repaired run must survive after the one that broke."""
_SCALES = tuple(4.0**k for k in range(1, 11))
_EPSILONS = tuple(10.0**k for k in range(-8, 0))
_MOST_LAYERS = 4


_Trial = Callable[..., tuple[float | None, DivergedError | None]]
"""Takes changed settings; the loss at the end, or None and what broke."""


class Repair(msgspec.Struct, frozen=True, kw_only=True):
    """The smallest change of one kind.

    Attributes
    ----------
    kind : str
        ``epsilon``, ``loss scale``, ``layers in fp32`` or ``learning rate``.
    option : str
        What to add to the command.
    works : bool
        Whether training went on for `HORIZON` steps with a loss no higher than where it started.
    loss : float or None
        Mean of the last ten losses then.
    tried : int
        How many changes of this kind were tried, from the smallest on.
    """

    kind: str
    option: str
    works: bool
    loss: float | None
    tried: int


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """How training broke.

    Attributes
    ----------
    epoch, step : int
        Counted from 1: the step in which the first number was no longer finite.
    noticed : str
        What was noticed, and when.
    event : Event or None
        The first operator with finite operands and a result that is not; None where a run of the same step did not show it.
    lost : tuple of Event
        Signal that was lost before it, in the same step or the one before.
    explanation : str
        What exact arithmetic says of the optimizer's epsilon, where it has one.
    repairs : tuple of Repair
    """

    epoch: int
    step: int
    noticed: str
    event: Event | None
    lost: tuple[Event, ...]
    explanation: str
    repairs: tuple[Repair, ...]

    def describe(self) -> list[str]:
        """Say it in sentences."""
        said = [] if self.event is None else [f"First in step {self.step} of epoch {self.epoch}: {self.event.describe()}."]
        said += [f"Before it: {event.describe()}." for event in self.lost[:1]]
        said += [self.explanation] if self.explanation else []
        working = [repair for repair in self.repairs if repair.works]
        said += [
            f"Repaired by {repair.option}: the loss is {repair.loss:.3g} after {HORIZON} more steps ({repair.kind}, {repair.tried} tried)."
            for repair in working
        ]
        said += [f"No {repair.kind} of {repair.tried} that were tried repairs it." for repair in self.repairs if not repair.works]
        return said


def find_failure(
    task: Task, team: Team, folder: Path, error: DivergedError, on_trial: Callable[[str], None] = lambda text: None
) -> Failure:
    """Do the steps before a failure again under observation, then try repairs.

    Parameters
    ----------
    task, team, folder
        Of the run that broke, by one process; its last checkpoint, or its start, is gone back to.
    error : DivergedError
    on_trial : callable
        Told what is tried.
    """
    run = _at(task, team, folder)
    number, events = _observed(run, _number(run, error) - 1)
    place = next((i for i, event in enumerate(events) if event.kind in FATAL), len(events))
    event = events[place] if place < len(events) else None
    analysis = analyse_settings(task.settings) if task.settings.how.pure_half else None
    return Failure(
        epoch=number // run.steps + 1,
        step=number % run.steps + 1,
        noticed=str(error),
        event=event,
        lost=tuple(one for one in events[:place] if one.kind not in FATAL),
        explanation=analysis.describe() if analysis is not None and (analysis.amplification > 1) else "",
        repairs=tuple(_repairs(task, team, folder, error, event, place > 0 or event is None, on_trial)),
    )


def mend_underflow(task: Task, team: Team, observed: Observed, on_trial: Callable[[str], None] = lambda text: None) -> tuple[Repair, ...]:
    """Try, from the start, which loss scale, or layer in fp32, keeps a tensor from being lost in the step where that was seen.

    Parameters
    ----------
    task, team
        Of the run, by one process.
    observed : Observed
        An underflow.
    on_trial : callable
        Told what is tried.
    """

    def try_out(**changes: Any) -> tuple[float | None, DivergedError | None]:
        on_trial(_said(changes))
        run = dataclasses.replace(task, settings=msgspec.structs.replace(task.settings, **changes)).run(team)
        number = (observed.epoch - 1) * run.steps + observed.step - 1
        try:
            events = _seen(run, number)
        except DivergedError as error:
            return None, error
        lost = any((event.kind, event.tensor) == (observed.event.kind, observed.event.tensor) or event.kind in FATAL for event in events)
        return (None if lost else run.progress.loss / run.progress.rows), None

    scales = [({"loss_scale": task.settings.loss_scale * one}, f"--loss-scale {task.settings.loss_scale * one:g}") for one in _SCALES]
    found = [_smallest("loss scale", scales, try_out)]
    if module := observed.event.module:
        kept = (*task.settings.keep_fp32, module)
        found.append(_smallest("layers in fp32", [({"keep_fp32": kept}, " ".join(f"--keep-fp32 {name}" for name in kept))], try_out))
    return tuple(found)


def _seen(run: Run, number: int) -> list[Event]:
    """Do the steps up to a step, and observe that one."""
    for here, (rows, weight) in _steps(run):
        if here == number:
            watch = Watch(run.module, lambda: run.optimizer.state)
            run.step(rows, weight, watch.phase)
            return watch.events
        run.step(rows, weight)
    raise AssertionError("steps never end")


def _said(changes: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in changes.items())


def _observed(run: Run, first: int) -> tuple[int, list[Event]]:
    """Go on until training breaks, and observe from a step on; number of the step in which it broke, and what was seen."""
    watch = Watch(run.module, lambda: run.optimizer.state)
    number = first
    for number, (rows, weight) in _steps(run):
        try:
            if number < first:
                run.step(rows, weight)
            else:
                run.step(rows, weight, watch.phase)
        except DivergedError:
            break
        if any(event.kind in FATAL for event in watch.events):
            break
    return number, watch.events


def _at(task: Task, team: Team, folder: Path, settings: Settings | None = None) -> Run:
    """The run at its last checkpoint, or its start, maybe under other settings."""
    run = (task if settings is None else dataclasses.replace(task, settings=settings)).run(team)
    if (folder / NAME).exists():
        _, progress, states = read_checkpoint(folder, team.device)
        if settings is not None:
            _rescale(states["optimizer"], settings.loss_scale / task.settings.loss_scale)
        run.load(progress, states)
    return run


def _rescale(optimizer: dict[str, Any], factor: float) -> None:
    """Bring an optimizer's state, made of gradients under one loss scale, to another."""
    power = {"momentum_buffer": 1, "exp_avg": 1, "exp_avg_sq": 2, "square_avg": 2}
    for state in optimizer["state"].values():
        for name in power.keys() & state.keys():
            state[name] = state[name] * factor ** power[name]


def _number(run: Run, error: DivergedError) -> int:
    return error.epoch * run.steps + error.step


def _steps(run: Run) -> Iterator[tuple[int, Any]]:
    """Number and rows of every step from here on, over the ends of epochs."""
    while True:
        for rows in run.remaining():
            yield run.progress.epoch * run.steps + run.progress.step, rows
        run.progress.epoch, run.progress.step = run.progress.epoch + 1, 0


def _repairs(
    task: Task, team: Team, folder: Path, error: DivergedError, event: Event | None, lost: bool, on_trial: Callable[[str], None]
) -> Iterator[Repair]:
    until = _number(_at(task, team, folder), error) + HORIZON

    def try_out(**changes: Any) -> tuple[float | None, DivergedError | None]:
        settings = msgspec.structs.replace(task.settings, **changes)
        on_trial(_said(changes))
        return _survives(_at(task, team, folder, settings), until)

    settings = task.settings
    if settings.optimizer != "sgd":
        ladder = [epsilon for epsilon in _EPSILONS if epsilon > settings.epsilon * 1.5]
        yield _smallest("epsilon", [({"epsilon": one}, f"--epsilon {one:g}") for one in ladder], try_out)
    down = event is not None and event.phase == "backward" and event.kind == "overflow"
    if settings.how.pure_half and (lost or down):
        scales = [settings.loss_scale * (1 / one if down else one) for one in _SCALES]
        yield _smallest("loss scale", [({"loss_scale": one}, f"--loss-scale {one:g}") for one in scales], try_out)
    if settings.how.pure_half and event is not None and event.module:
        yield _layers(task, team, folder, event, try_out)
    rates = [settings.learning_rate / one for one in _SCALES]
    yield _smallest("learning rate", [({"rate": one}, f"--lr {one:.3g}") for one in rates], try_out)


def _smallest(kind: str, ladder: list[tuple[dict[str, Any], str]], try_out: _Trial) -> Repair:
    for tried, (changes, option) in enumerate(ladder, 1):
        loss, _ = try_out(**changes)
        if loss is not None:
            return Repair(kind=kind, option=option, works=True, loss=loss, tried=tried)
    return Repair(kind=kind, option="", works=False, loss=None, tried=len(ladder))


def _layers(task: Task, team: Team, folder: Path, event: Event, try_out: _Trial) -> Repair:
    """Keep the module of the first event in fp32, then that of the next failure as well, and so on."""
    kept = [*task.settings.keep_fp32]
    module = event.module
    for tried in range(1, _MOST_LAYERS + 1):
        kept.append(module)
        loss, error = try_out(keep_fp32=tuple(kept))
        if loss is not None:
            options = " ".join(f"--keep-fp32 {name}" for name in kept)
            return Repair(kind="layers in fp32", option=options, works=True, loss=loss, tried=tried)
        found = error and _next_module(task, team, folder, tuple(kept), error)
        if not found or found in kept:
            break
        module = found
    return Repair(kind="layers in fp32", option="", works=False, loss=None, tried=tried)


def _next_module(task: Task, team: Team, folder: Path, kept: tuple[str, ...], error: DivergedError) -> str:
    """The module in which a run with some layers in fp32 breaks."""
    run = _at(task, team, folder, msgspec.structs.replace(task.settings, keep_fp32=kept))
    _, events = _observed(run, _number(run, error) - 1)
    return next((event.module for event in events if event.kind in FATAL), "")


def _survives(run: Run, until: int) -> tuple[float | None, DivergedError | None]:
    """Mean of the last ten losses, None where training breaks or the loss is higher than at first."""
    losses: list[float] = []
    for number, (rows, weight) in _steps(run):
        before = run.progress.loss
        try:
            run.step(rows, weight)
        except DivergedError as error:
            return None, error
        losses.append((run.progress.loss - before) / len(rows))
        if number >= until:
            break
    end = fmean(losses[-10:])
    return (end if math.isfinite(end) and end <= losses[0] else None), None
