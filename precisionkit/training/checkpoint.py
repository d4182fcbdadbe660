"""Checkpoints: everything that the next step depends on, as plain data, written in one atomic step."""

from __future__ import annotations

import hashlib
import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import msgspec
import torch

from precisionkit.errors import UnusableModelError, UsageError
from precisionkit.report.write import write_file
from precisionkit.training.events import Observed
from precisionkit.training.settings import Settings

FORMAT = b"precisionkit.checkpoint/1\n"
CHECKPOINT = "checkpoint.pt"
_DAMAGE = (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, ValueError, AttributeError, TypeError, zipfile.BadZipFile)


class Epoch(msgspec.Struct, frozen=True, kw_only=True):
    """What is measured after an epoch: the columns of metrics.csv.

    Attributes
    ----------
    epoch, step : int
        Epochs and steps that are done.
    loss : float
        Mean over the epoch's batches, while the weights change.
    accuracy : float
        Share of the test images that are predicted rightly, by the network in its own precision.
    loss_scale : float
        The last one.
    seconds : float
        Spent in training steps so far, without testing.
    """

    epoch: int
    step: int
    loss: float
    accuracy: float
    loss_scale: float
    seconds: float


class Progress(msgspec.Struct, kw_only=True):
    """How far a run is.

    Attributes
    ----------
    epoch, step : int
        Epochs that are done; steps of the next one that are done.
    loss, rows : float
        Sum of the losses of this epoch's rows so far, and their number.
    seconds : float
        Spent in training steps.
    history : list of Epoch
    events : list of Observed
        The first event of each kind in each tensor, of the steps that were observed.
    """

    epoch: int = 0
    step: int = 0
    loss: float = 0.0
    rows: float = 0.0
    seconds: float = 0.0
    history: list[Epoch] = msgspec.field(default_factory=list)
    events: list[Observed] = msgspec.field(default_factory=list)


class Conditions(msgspec.Struct, frozen=True, kw_only=True):
    """What the bits of a run depend on: a run under others refuses its checkpoint.

    Attributes
    ----------
    settings : Settings
    data, test : str
        Hashes of the data sets.
    world, threads : int
        Numbers of processes, and of threads in each, which sums of products depend on.
    device : str
        Its type.
    """

    settings: Settings
    data: str
    test: str
    world: int
    threads: int
    device: str


def write_checkpoint(folder: Path, conditions: Conditions, progress: Progress, states: dict[str, Any]) -> None:
    """Write the checkpoint of a run into its folder, over the one before.

    Raises
    ------
    ReportError
        It cannot be written; the one before stays.
    """
    buffer = io.BytesIO()
    about = {"conditions": msgspec.to_builtins(conditions), "progress": msgspec.to_builtins(progress)}
    torch.save({**about, **states}, buffer)
    content = buffer.getvalue()
    write_file(folder / CHECKPOINT, FORMAT + hashlib.sha256(content).digest() + content)


def read_checkpoint(folder: Path, device: torch.device) -> tuple[Conditions, Progress, dict[str, Any]]:
    """Read what `write_checkpoint` wrote, running no code of the file.

    Raises
    ------
    UnusableModelError
        The file is damaged, or none of this package's.
    """
    path = folder / CHECKPOINT
    try:
        content = path.read_bytes()
        start = len(FORMAT) + hashlib.sha256().digest_size
        if content[:start] != FORMAT + hashlib.sha256(content[start:]).digest():
            raise ValueError
        found = torch.load(io.BytesIO(content[start:]), map_location=device, weights_only=True)
        conditions = msgspec.convert(found.pop("conditions"), Conditions)
        progress = msgspec.convert(found.pop("progress"), Progress)
    except _DAMAGE:
        raise UnusableModelError(f"The checkpoint {path} is damaged or of another version: delete it and start the run anew.") from None
    return conditions, progress, found


def _that_matter(settings: Settings) -> dict[str, Any]:
    """Settings that the bits depend on: not epochs, of which more may be asked for, nor what the optimizer does not have."""
    unused = {"epochs", "momentum" if settings.optimizer != "sgd" else "epsilon"}
    found = msgspec.to_builtins(settings) | {"rate": settings.learning_rate}
    return {f"the setting {name}": value for name, value in found.items() if name not in unused}


def check_same(conditions: Conditions, asked: Conditions, folder: Path) -> None:
    """Refuse to go on with a run under other conditions; more epochs may be asked for.

    Raises
    ------
    UsageError
        Something that the result depends on differs.
    """
    before, now = (msgspec.to_builtins(one) | _that_matter(one.settings) for one in (conditions, asked))
    pairs = [(name, value, now[name]) for name, value in before.items() if name != "settings" and name in now]
    different = [f"{name} was {then!r} and is {value!r}" for name, then, value in pairs if then != value]
    if different:
        raise UsageError(f"The run in {folder} cannot go on, because {'; '.join(different)}: give what it was, or choose another folder.")
