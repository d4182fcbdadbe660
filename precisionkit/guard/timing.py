"""What a guarded run costs, measured against both plain runs."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median

import torch
from torch import Tensor

from precisionkit.guard.guarded import GuardedHalf
from precisionkit.guard.identity import in_own_formats
from precisionkit.guard.monitor import DriftWarning
from precisionkit.report.guard import GuardTiming

REPEATS = 5
_ROWS = 512
"""Rows that are timed, the first ones."""


def time_runs(guarded: GuardedHalf, inputs: Callable[[int], Tensor], total: int, batch_size: int) -> GuardTiming:
    """Time plain fp32, plain half and guarded runs of the same rows, in turn, one thread; what the model has counted is forgotten.

    Parameters
    ----------
    inputs : callable
        Returns the batch that begins with a row.
    total : int
        Rows that there are.
    """
    batches = [inputs(first) for first in range(0, min(total, _ROWS), batch_size)]
    runs = (guarded.reference, guarded.half_run, guarded)
    seconds: list[list[float]] = [[], [], []]
    with _one_thread(), in_own_formats(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DriftWarning)  # the same rows again and again
        for repeat in range(REPEATS + 1):
            for run, taken in zip(runs, seconds, strict=True):
                start = time.perf_counter()
                for batch in batches:
                    run(batch)
                _wait(batches[0].device)
                if repeat:  # the first warms caches and compiles
                    taken.append(time.perf_counter() - start)
    guarded.reset()
    rows = sum(len(batch) for batch in batches)
    reference, half, whole = (median(taken) for taken in seconds)
    return GuardTiming(
        batch_size=batch_size,
        repeats=REPEATS,
        reference_s=reference / rows,
        half_s=half / rows,
        guarded_s=whole / rows,
        guarded_to_reference=whole / reference,
        guarded_to_half=whole / half,
    )


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
