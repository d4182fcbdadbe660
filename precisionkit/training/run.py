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
from precisionkit.training.checkpoint import Epoch, Progress
from precisionkit.training.examples import Examples, batches, seed_step, steps_of
from precisionkit.training.kernels import kernels
from precisionkit.training.network import build_network
from precisionkit.training.optimizers import build_optimizer
from precisionkit.training.processes import Team
from precisionkit.training.settings import Settings

_TESTED = 500  # images of a batch in testing


class DivergedError(PrecisionKitError):
    """The loss or a weight is no longer finite.

    Parameters
    ----------
    epoch, step : int
        Epochs that were done, and steps of the next one, when the step began after which it was noticed.
    what : str
        What is not finite.
    """

    def __init__(self, epoch: int, step: int, what: str) -> None:
        super().__init__(f"Training broke: {what} after step {step + 1} of epoch {epoch + 1}.")
        self.epoch, self.step, self.what = epoch, step, what


@dataclass
class Run:
    """The state of a run, which steps change.

    Attributes
    ----------
    settings : Settings
    team : Team
    train, test : Examples
    module : nn.Module
        The network itself.
    called : nn.Module
        What is called in training: the network, or its wrapper that averages gradients over processes.
    optimizer : torch.optim.Optimizer
    scaler : torch.amp.GradScaler
        Of mixed precision; does nothing in others.
    progress : Progress
    """

    settings: Settings
    team: Team
    train: Examples
    test: Examples
    module: nn.Module
    called: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    progress: Progress

    @classmethod
    def start(cls, settings: Settings, team: Team, train: Examples, test: Examples) -> Run:
        """Return a run before its first step."""
        module = build_network(settings, team.device)
        scaler = torch.amp.GradScaler(team.device.type, enabled=settings.how.autocast is not None)
        optimizer = build_optimizer(settings, module.parameters())
        return cls(settings, team, train, test, module, team.wrapped(module), optimizer, scaler, Progress())

    def states(self) -> dict[str, Any]:
        """Everything that steps change, apart from the progress."""
        return {"model": self.module.state_dict(), "optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}

    def load(self, progress: Progress, states: dict[str, Any]) -> None:
        """Go back to a state; `Progress.loss` of the team is counted by its leader."""
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
        if not self.team.leads:
            progress.loss = progress.rows = 0.0

    @property
    def steps(self) -> int:
        """Number of steps in an epoch."""
        return steps_of(len(self.train), self.settings.batch, self.team.world)

    @contextmanager
    def arithmetic(self) -> Iterator[None]:
        """What operators run within."""
        how = self.settings.how
        kind = self.team.device.type
        cast: AbstractContextManager[Any] = nullcontext() if how.autocast is None else torch.autocast(kind, dtype=DTYPES[how.autocast])
        with kernels(how, native=self.settings.kernels == "native"), cast:
            yield

    def loss(self, rows: Tensor, weight: float = 1.0) -> Tensor:
        """Mean cross-entropy of some examples, times a weight and the fixed loss scale."""
        inputs, labels = self.train.rows(rows)
        logits = self.called(_laid_out(inputs))
        factor = weight * self.settings.loss_scale
        loss = functional.cross_entropy(logits, labels)
        return loss if factor == 1 else loss * factor

    def step(self, rows: Tensor, weight: float, phase: Callable[[str], AbstractContextManager[None]] = lambda name: nullcontext()) -> None:
        """Do one step: loss, gradients, update.

        Parameters
        ----------
        rows, weight : Tensor, float
            As `remaining` gives them.
        phase : callable
            Returns what the phases ``forward``, ``backward`` and ``update`` run within.

        Raises
        ------
        DivergedError
            The loss is not finite.
        """
        done, settings = self.progress, self.settings
        start = time.perf_counter()
        seed_step(settings.seed, done.epoch, done.step, self.team.rank)
        self.optimizer.zero_grad()
        with self.arithmetic(), phase("forward"):
            loss = self.loss(rows, weight)
        value = loss.item() / (weight * settings.loss_scale)
        if not math.isfinite(value) and settings.how.autocast is None:
            raise DivergedError(done.epoch, done.step, f"the loss is {value}")
        self.update(loss, phase)
        done.loss += value * len(rows)
        done.rows += len(rows)
        done.step += 1
        done.seconds += time.perf_counter() - start

    def update(self, loss: Tensor, phase: Callable[[str], AbstractContextManager[None]]) -> None:
        """Compute gradients and take the optimizer's step."""
        with kernels(self.settings.how, native=self.settings.kernels == "native"), phase("backward"):
            self.scaler.scale(loss).backward()
        with phase("update"):  # elementwise alone
            self.scaler.step(self.optimizer)
        self.scaler.update()

    def remaining(self) -> Iterator[tuple[Tensor, float]]:
        """Yield the rows of the current epoch's remaining steps."""
        done, settings = self.progress, self.settings
        return batches(
            len(self.train), settings.batch, settings.seed, done.epoch, skip=done.step, rank=self.team.rank, world=self.team.world
        )

    def check_finite(self) -> None:
        """Raise DivergedError where a parameter or buffer is not finite."""
        for name, value in self.module.state_dict().items():
            if value.is_floating_point() and not bool(torch.isfinite(value).all()):
                raise DivergedError(self.progress.epoch, self.progress.step - 1, f"{name} holds numbers that are not finite")

    def end_epoch(self) -> Epoch:
        """Test, and count the epoch as done."""
        done = self.progress
        loss, rows = self.team.total(torch.tensor([done.loss, done.rows], dtype=torch.float64)).tolist()
        measured = Epoch(
            epoch=done.epoch + 1,
            step=(done.epoch + 1) * self.steps,
            loss=loss / rows,
            accuracy=self.accuracy(),
            loss_scale=self.scaler.get_scale() if self.scaler.is_enabled() else self.settings.loss_scale,
            seconds=round(done.seconds, 3),
        )
        done.history.append(measured)
        done.epoch, done.step, done.loss, done.rows = done.epoch + 1, 0, 0.0, 0.0
        return measured

    @torch.no_grad()
    def accuracy(self) -> float:
        """Share of the test images that the network predicts rightly in its own precision."""
        self.module.eval()
        right = torch.zeros((), dtype=torch.int64)
        mine = range(self.team.rank * _TESTED, len(self.test), self.team.world * _TESTED)
        with self.arithmetic():
            for first in mine:
                inputs, labels = self.test.rows(torch.arange(first, min(first + _TESTED, len(self.test))))
                right += (self.module(_laid_out(inputs)).argmax(1) == labels).sum().cpu()
        self.module.train()
        return int(self.team.total(right)) / len(self.test)


def _restore_steps(state: dict[str, Any]) -> None:
    if isinstance(step := state.get("step"), Tensor):
        state["step"] = step.float()


def _laid_out(inputs: Tensor) -> Tensor:
    """Images with their channels last in memory, which convolutions are fastest with."""
    return inputs.contiguous(memory_format=torch.channels_last) if inputs.ndim == 4 else inputs
