"""What a run measures, for people and for TensorBoard."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from precisionkit.errors import UsageError
from precisionkit.report.write import csv_bytes, write_file
from precisionkit.training.checkpoint import Epoch

CSV = "metrics.csv"


def write_csv(folder: Path, history: Sequence[Epoch]) -> None:
    """Write one row for each epoch, in one atomic step: never a half row, and none of epochs that a resumed run does again."""
    names = Epoch.__struct_fields__
    write_file(folder / CSV, csv_bytes(names, ([getattr(epoch, name) for name in names] for epoch in history)))


class Board:
    """A TensorBoard log, where one is asked for."""

    def __init__(self, folder: Path | None, first: int) -> None:
        self._writer: Any = None
        if folder is not None:
            self._writer = _summary_writer()(str(folder / "tensorboard"), purge_step=first)

    def add(self, epoch: Epoch) -> None:
        """Add the figures of an epoch."""
        if self._writer is not None:
            for name in ("loss", "accuracy", "loss_scale", "seconds"):
                self._writer.add_scalar(name, getattr(epoch, name), epoch.epoch)
            self._writer.flush()

    def close(self) -> None:
        """End the log."""
        if self._writer is not None:
            self._writer.close()


def _summary_writer() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UsageError("A TensorBoard log needs tensorboard: pip install 'precisionkit[training]', or leave out --tensorboard.") from None
    return SummaryWriter
