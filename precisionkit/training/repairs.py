"""The smallest changes that repair a training run, each of them tried."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import msgspec
from torch import Tensor

from precisionkit.training.checkpoint import CHECKPOINT, read_checkpoint
from precisionkit.training.events import Event, Observed
from precisionkit.training.run import DivergedError, Training
from precisionkit.training.train import Job
from precisionkit.training.watch import Watch

HORIZON = 50
"""Steps that a repaired run must survive after the one that broke."""
_SCALES = tuple(4.0**k for k in range(1, 11))
_EPSILONS = tuple(10.0**k for k in range(-8, 0))
_MOST_LAYERS = 4
_OPTIONS = {"epsilon": "--epsilon", "loss_scale": "--loss-scale", "rate": "--lr", "keep_fp32": "--keep-fp32"}

Changes = dict[str, Any]
"""Settings that are changed."""


class Repair(msgspec.Struct, frozen=True, kw_only=True):
    """The smallest change of one kind.

    Attributes
    ----------
    kind : str
        ``epsilon``, ``loss scale``, ``layers in fp32`` or ``learning rate``.
    option : str
        What to add to the command.
    works : bool
        Of a run that broke: training went on for `HORIZON` steps, with a loss at the end no higher than where it started.  Of an
        underflow: the tensor is not lost in that step.
    tried : int
        How many changes of this kind were tried, from the smallest on.
    """

    kind: str
    option: str
    works: bool
    tried: int


def option_of(changes: Changes) -> str:
    """Return the options of ``precisionkit train`` that make a change, exactly."""
    pairs = [(name, one) for name, value in changes.items() for one in (value if isinstance(value, tuple) else (value,))]
    return " ".join(f"{_OPTIONS[name]} {value}" for name, value in pairs)


@dataclass(frozen=True)
class Trials:
    """Runs of a job under changed settings, by one process.

    Attributes
    ----------
    job : Job
    folder : Path or None
        Whose last checkpoint they start from, where there is one; None: from the start.
    on_trial : callable
        Told the options that are tried.
    """

    job: Job
    folder: Path | None
    on_trial: Callable[[str], None] = lambda option: None

    def start(self, changes: Changes) -> Training:
        """Return a run before its first step, or at the checkpoint."""
        settings = msgspec.structs.replace(self.job.settings, **changes)
        training = dataclasses.replace(self.job, settings=settings).start()
        if self.folder is not None and (self.folder / CHECKPOINT).exists():
            _, progress, states = read_checkpoint(self.folder, training.processes.device)
            _rescale(states["optimizer"], settings.loss_scale / self.job.settings.loss_scale)
            training.load(progress, states)
        return training

    def smallest(self, kind: str, ladder: Iterable[Changes], works: Callable[[Changes], bool]) -> Repair:
        """Try changes one after the other until one works."""
        tried = 0
        for tried, changes in enumerate(ladder, 1):
            self.on_trial(option_of(changes))
            if works(changes):
                return Repair(kind=kind, option=option_of(changes), works=True, tried=tried)
        return Repair(kind=kind, option="", works=False, tried=tried)

    def survives(self, changes: Changes, until: int) -> bool:
        """Whether a run goes on to a step with a loss no higher than at first, by the mean of its last ten steps."""
        training = self.start(changes)
        losses = []
        try:
            for rows, weight in endless(training):
                losses.append(training.step(rows, weight))
                training.check_finite()
                if training.number > until:
                    break
        except DivergedError:
            return False
        end = fmean(losses[-10:])
        return math.isfinite(end) and end <= losses[0]


def repairs(trials: Trials, broke: int, event: Event | None, *, lost: bool) -> Iterator[Repair]:
    """Try what may keep a run from breaking.

    Parameters
    ----------
    trials : Trials
    broke : int
        Number of the step in which it broke.
    event : Event or None
        The first that was fatal.
    lost : bool
        Whether signal was lost before it.
    """
    settings, until = trials.job.settings, broke + HORIZON

    def works(changes: Changes) -> bool:
        return trials.survives(changes, until)

    if settings.optimizer != "sgd":
        ladder = ({"epsilon": one} for one in _EPSILONS if one > settings.epsilon * 1.5)
        yield trials.smallest("epsilon", ladder, works)
    down = event is not None and event.phase == "backward" and event.kind == "overflow"
    if settings.formats.pure_half and (lost or down):
        scales = ({"loss_scale": settings.loss_scale * (1 / one if down else one)} for one in _SCALES)
        yield trials.smallest("loss scale", scales, works)
    if settings.formats.pure_half and event is not None and event.module:
        yield trials.smallest("layers in fp32", _layers(trials, broke, event.module), works)
    yield trials.smallest("learning rate", ({"rate": settings.learning_rate / one} for one in _SCALES), works)


def _layers(trials: Trials, broke: int, module: str) -> Iterator[Changes]:
    """The module of the first event in fp32, then that of the next failure as well, and so on."""
    kept = list(trials.job.settings.keep_fp32)
    for _ in range(_MOST_LAYERS):
        if not module or module in kept:
            return
        kept.append(module)
        yield {"keep_fp32": tuple(kept)}
        seen = observe_until_broken(trials.start({"keep_fp32": tuple(kept)}), broke - 1)
        module = next((event.module for _, event in seen if event.fatal), "")


def mend_underflow(job: Job, observed: Observed, on_trial: Callable[[str], None] = lambda option: None) -> tuple[Repair, ...]:
    """Try, from the start, which loss scale, or layer in fp32, keeps a tensor from being lost in the step where that was seen.

    Parameters
    ----------
    job : Job
        Of pure half precision; of others nothing is tried.
    observed : Observed
        An underflow.
    on_trial : callable
        Told the options that are tried.
    """
    if not job.settings.formats.pure_half:
        return ()
    trials = Trials(job, None, on_trial)
    scales = ({"loss_scale": job.settings.loss_scale * one} for one in _SCALES)
    found = [trials.smallest("loss scale", scales, lambda changes: _kept(trials.start(changes), observed))]
    if module := observed.event.module:
        layers = [{"keep_fp32": (*job.settings.keep_fp32, module)}]
        found.append(trials.smallest("layers in fp32", layers, lambda changes: _kept(trials.start(changes), observed)))
    return tuple(found)


def _kept(training: Training, observed: Observed) -> bool:
    """Whether a tensor is not lost in a step, and nothing breaks up to it."""
    number = (observed.epoch - 1) * training.steps + observed.step - 1
    watch = Watch(training.module, training.optimizer.state)
    try:
        for rows, weight in endless(training):
            if training.number == number:
                training.observed_step(rows, weight, watch)
                break
            training.step(rows, weight)
    except DivergedError:
        return False
    gone = (observed.event.kind, observed.event.tensor)
    return not any(event.fatal or (event.kind, event.tensor) == gone for event in watch.events)


def first_broken(training: Training, error: DivergedError) -> int:
    """Number of the first step that left a weight or buffer, or had a loss, that is not finite: it may be noticed later."""
    try:
        for rows, weight in endless(training):
            training.step(rows, weight)
            training.check_finite()
            if training.number > error.number:
                break
    except DivergedError as found:
        return found.number
    return error.number


def observe_until_broken(training: Training, first: int) -> list[tuple[int, Event]]:
    """Go on until training breaks, and observe from a step on; return what was seen, with the numbers of steps."""
    seen: list[tuple[int, Event]] = []
    for rows, weight in endless(training):
        number = training.number
        if number < first:
            training.step(rows, weight)
            continue
        watch = Watch(training.module, training.optimizer.state)
        broke = False
        try:
            training.observed_step(rows, weight, watch)
        except DivergedError:
            broke = True
        seen += [(number, event) for event in watch.events]
        if broke or number >= first + 2 or any(event.fatal for event in watch.events):
            break
    return seen


def endless(training: Training) -> Iterator[tuple[Tensor, float]]:
    """Rows of every step from here on, over the ends of epochs."""
    while True:
        yield from training.remaining()
        training.next_epoch()


def _rescale(optimizer: dict[str, Any], factor: float) -> None:
    """Bring an optimizer's state, made of gradients under one loss scale, to another."""
    power = {"momentum_buffer": 1, "exp_avg": 1, "exp_avg_sq": 2, "square_avg": 2}
    for state in optimizer["state"].values():
        for name in power.keys() & state.keys():
            state[name] = state[name] * factor ** power[name]
