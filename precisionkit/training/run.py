"""One training run: its state, a step, an epoch's test."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from precisionkit.errors import PrecisionKitError
from precisionkit.ops._store import DTYPES
from precisionkit.processes import Processes
from precisionkit.training.checkpoint import Epoch, Progress
from precisionkit.training.events import Observed
from precisionkit.training.examples import Examples, batches, seed_step, steps_of
from precisionkit.training.kernels import kernels
from precisionkit.training.network import build_network
from precisionkit.training.optimizers import build_optimizer
from precisionkit.training.settings import Settings
from precisionkit.training.watch import Watch

_TESTED = 500  # images of a batch in testing

Phase = Callable[[str], AbstractContextManager[None]]
"""Returns what a phase of a step runs within: ``forward``, ``backward`` or ``update``."""


class DivergedError(PrecisionKitError):
    """The loss or a weight is no longer finite.

    Parameters
    ----------
    number : int
        Of the step after which it was noticed, counted from 0 over all epochs.
    steps : int
        In an epoch.
    what : str
        What is not finite.
    """

    def __init__(self, number: int, steps: int, what: str) -> None:
        super().__init__(f"Training broke: {what} after step {number % steps + 1} of epoch {number // steps + 1}.")
        self.number, self.what = number, what


@dataclass
class Training:
    """The state of a run, which steps change.

    Attributes
    ----------
    settings : Settings
    processes : Processes
    train, test : Examples
    module : nn.Module
        The network itself.
    optimizer : torch.optim.Optimizer
    scaler : torch.amp.GradScaler
        Of mixed precision; does nothing in others.
    progress : Progress
    """

    settings: Settings
    processes: Processes
    train: Examples
    test: Examples
    module: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    progress: Progress

    @classmethod
    def start(cls, settings: Settings, processes: Processes, train: Examples, test: Examples) -> Training:
        """Return a run before its first step."""
        module = build_network(settings, processes.device)
        scaler = torch.amp.GradScaler(processes.device.type, enabled=settings.formats.autocast is not None)
        return cls(settings, processes, train, test, module, build_optimizer(settings, module.parameters()), scaler, Progress())

    def states(self) -> dict[str, Any]:
        """Everything that steps change, apart from the progress."""
        return {"model": self.module.state_dict(), "optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}

    def load(self, progress: Progress, states: dict[str, Any]) -> None:
        """Go back to a state; the first process goes on with the losses of all."""
        self.module.load_state_dict(states["model"])
        asked = [{name: value for name, value in group.items() if name != "params"} for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(states["optimizer"])
        for group, options in zip(self.optimizer.param_groups, asked, strict=True):
            group |= options  # the settings say them, not the file
            for parameter in group["params"]:
                _restore_steps(self.optimizer.state.get(parameter, {}))
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(states["scaler"])
        self.progress = progress
        if not self.processes.leads:
            progress.loss = progress.rows = 0.0

    @property
    def steps(self) -> int:
        """Number of steps in an epoch."""
        return steps_of(len(self.train), self.settings.batch, self.processes.world)

    @property
    def number(self) -> int:
        """Steps that are done, over all epochs."""
        return self.progress.epoch * self.steps + self.progress.step

    @contextmanager
    def arithmetic(self) -> Iterator[None]:
        """What operators run within, but those of the optimizer."""
        autocast, kind = self.settings.formats.autocast, self.processes.device.type
        cast: AbstractContextManager[Any] = nullcontext() if autocast is None else torch.autocast(kind, dtype=DTYPES[autocast])
        with kernels(self.settings), cast, _unfused_attention():
            yield

    def loss(self, rows: Tensor, weight: float = 1.0) -> Tensor:
        """Mean cross-entropy of some examples, times a weight and the fixed loss scale.

        torch's own stores the sum of losses before it divides, which overflows in binary16; a mean is summed in binary32.
        """
        inputs, labels = self.train.rows(rows)
        scores = functional.log_softmax(self.module(_laid_out(inputs)), 1)
        loss = -scores.gather(1, labels[:, None]).mean()
        factor = weight * self.settings.loss_scale
        return loss if factor == 1 else loss * factor

    def step(self, rows: Tensor, weight: float, phase: Phase = lambda name: nullcontext()) -> float:
        """Do one step: loss, gradients, update; return the loss.

        Parameters
        ----------
        rows, weight : Tensor, float
            As `remaining` gives them.
        phase : callable

        Raises
        ------
        DivergedError
            The loss is not finite; in mixed precision, whose scaler skips such steps, that of the whole epoch is not (`end_epoch`).
        """
        done, settings = self.progress, self.settings
        start = time.perf_counter()
        seed_step(settings.seed, done.epoch, done.step, self.processes.rank)
        self.optimizer.zero_grad()
        with self.arithmetic(), phase("forward"):
            loss = self.loss(rows, weight)
        value = loss.item() / (weight * settings.loss_scale)
        if settings.formats.autocast is None and self._anywhere(not math.isfinite(value)):
            raise DivergedError(self.number, self.steps, f"the loss is {value}")
        with kernels(settings), phase("backward"):
            self.scaler.scale(loss).backward()
        self.processes.average(p.grad for p in self.module.parameters() if p.grad is not None)
        with phase("update"):  # elementwise alone
            self.scaler.step(self.optimizer)
        self.scaler.update()
        done.loss += value * len(rows)
        done.rows += len(rows)
        done.step += 1
        done.seconds += time.perf_counter() - start
        return value

    def _anywhere(self, here: bool) -> bool:
        """Whether something is so in any of the processes, which then all stop."""
        return self.processes.total(torch.tensor(int(here))).item() > 0

    def observed_step(self, rows: Tensor, weight: float, watch: Watch | None = None) -> Watch:
        """Do one step under observation, which changes no bit; a watch is given where it is looked at after a failure."""
        watch = watch or Watch(self.module, self.optimizer.state)
        epoch, step = self.progress.epoch + 1, self.progress.step + 1
        self.step(rows, weight, watch.phase)
        known = {(one.event.kind, one.event.tensor) for one in self.progress.events}
        for event in watch.events:
            if (event.kind, event.tensor) not in known:
                known.add((event.kind, event.tensor))
                self.progress.events.append(Observed(epoch=epoch, step=step, event=event))
        return watch

    def remaining(self) -> Iterator[tuple[Tensor, float]]:
        """Yield the rows of the current epoch's remaining steps."""
        done, mine = self.progress, self.processes
        return batches(
            len(self.train), self.settings.batch, self.settings.seed, done.epoch, skip=done.step, rank=mine.rank, world=mine.world
        )

    def check_finite(self) -> None:
        """Raise DivergedError where a parameter or buffer is not finite."""
        values = self.module.state_dict().items()
        broken = [name for name, value in values if value.is_floating_point() and not bool(torch.isfinite(value).all())]
        if self._anywhere(bool(broken)):
            what = f"{broken[0]} holds" if broken else "another process holds"
            raise DivergedError(self.number - 1, self.steps, f"{what} numbers that are not finite")

    def end_epoch(self) -> None:
        """Test, and count the epoch as done.

        Raises
        ------
        DivergedError
            The mean loss is not finite.
        """
        done = self.progress
        loss, rows = self.processes.total(torch.tensor([done.loss, done.rows], dtype=torch.float64)).tolist()
        if not math.isfinite(loss):
            raise DivergedError(self.number - 1, self.steps, f"the mean loss of the epoch is {loss / rows}")
        done.history.append(
            Epoch(
                epoch=done.epoch + 1,
                step=self.number,
                loss=loss / rows,
                accuracy=self.accuracy(),
                loss_scale=self.scaler.get_scale() if self.scaler.is_enabled() else self.settings.loss_scale,
                seconds=round(done.seconds, 3),
            )
        )
        self.next_epoch()

    def next_epoch(self) -> None:
        """Count the epoch as done."""
        done = self.progress
        done.epoch, done.step, done.loss, done.rows = done.epoch + 1, 0, 0.0, 0.0

    @torch.no_grad()
    def accuracy(self) -> float:
        """Share of the test images that the network predicts rightly in its own precision, with the first process's statistics."""
        self.processes.follow(self.module.buffers())
        self.module.eval()
        right = torch.zeros((), dtype=torch.int64)
        mine = range(self.processes.rank * _TESTED, len(self.test), self.processes.world * _TESTED)
        with self.arithmetic():
            for first in mine:
                inputs, labels = self.test.rows(torch.arange(first, min(first + _TESTED, len(self.test))))
                right += (self.module(_laid_out(inputs)).argmax(1) == labels).sum().cpu()
        self.module.train()
        return int(self.processes.total(right)) / len(self.test)


@contextmanager
def _unfused_attention() -> Iterator[None]:
    """Keep modules of attention from torch's fast path for evaluation, whose products are no operators of their own."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


def _restore_steps(state: dict[str, Any]) -> None:
    """Count steps in binary32 again: torch casts loaded state to the format of its parameter."""
    if isinstance(step := state.get("step"), Tensor):
        state["step"] = step.float()


def _laid_out(inputs: Tensor) -> Tensor:
    """Images with their channels last in memory, which convolutions are fastest with."""
    return inputs.contiguous(memory_format=torch.channels_last) if inputs.ndim == 4 else inputs
