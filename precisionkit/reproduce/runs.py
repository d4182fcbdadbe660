"""Train the runs of a plan, several at once, each result on disk: what is there is not trained again."""

from __future__ import annotations

import dataclasses
import multiprocessing
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache
from pathlib import Path

import msgspec
import torch
from msgspec.structs import replace

from precisionkit.errors import ReportError, UnusableDataError
from precisionkit.processes import join_processes
from precisionkit.report import write_json
from precisionkit.report.read import UNREADABLE
from precisionkit.reproduce.plan import Plan, slug
from precisionkit.training import DivergedError, Job, Output, Settings, keep_freed_memory, train
from precisionkit.training.train import MODEL


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What a run gave.

    Attributes
    ----------
    settings : Settings
    data, test : str
        Hashes of the images that trained and tested.
    broke : str
        Why it broke, empty if it did not.
    step : int
        The step after which that was noticed, counted from 1 over all epochs; 0 if it did not break.
    accuracy : float or None
        Share of the test images after the last epoch, None if it broke.
    seconds : float
        Spent in training steps.
    memory, optimizer_memory, disk : int
        Bytes: parameters and buffers, the optimizer's state, the file of the network; 0 if it broke.
    """

    settings: Settings
    data: str
    test: str
    broke: str = ""
    step: int = 0
    accuracy: float | None = None
    seconds: float = 0.0
    memory: int = 0
    optimizer_memory: int = 0
    disk: int = 0


@dataclasses.dataclass(frozen=True)
class Where:
    """Where data and results lie, and on what is trained.

    Attributes
    ----------
    folder : Path
        Of the results.
    root, download
        Of the data, as `load_dataset` takes them.
    device : str
        ``cpu`` or ``cuda``.
    """

    folder: Path
    root: str | None
    download: bool | None
    device: str


def results(
    plan: Plan, where: Where, workers: int, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> tuple[Result, ...]:
    """Return the results of all runs of a plan, in its order.

    Parameters
    ----------
    plan : Plan
    where : Where
    workers : int
        Runs at once, each with one thread.
    on_progress : callable
        Called with the number of runs done and their total.

    Raises
    ------
    PrecisionKitError
        A run cannot be made, or results lie there that belong to other settings.
    """
    (where.folder / "runs").mkdir(parents=True, exist_ok=True)
    found = {settings: read_result(where, settings) for settings in plan.settings}
    missing = [settings for settings in plan.settings if found[settings] is None]
    on_progress(len(found) - len(missing), len(found))
    for result in _made(missing, plan, where, workers):
        found[result.settings] = result
        on_progress(sum(one is not None for one in found.values()), len(found))
    return tuple(one for settings in plan.settings if (one := found[settings]) is not None)


def read_result(where: Where, settings: Settings) -> Result | None:
    """Return the result of a run, None where there is none yet."""
    path = where.folder / "runs" / f"{slug(settings)}.json"
    if not path.is_file():
        return None
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Result)
    except UNREADABLE:
        raise UnusableDataError(f"The file {path} is no result of this version: delete it, or choose another folder with --out.") from None
    parts = _job(settings, where).data
    if (found.settings, found.data, found.test) != (settings, parts.train.sha256, parts.test.sha256):
        raise UnusableDataError(f"The result {path} belongs to other settings or data: choose another folder with --out.")
    return found


def model_of(folder: Path, settings: Settings) -> Path:
    """Where the network of a studied run lies."""
    return folder / "runs" / slug(settings) / MODEL


def _made(missing: Sequence[Settings], plan: Plan, where: Where, workers: int) -> Iterator[Result]:
    studied = set(plan.studied)
    context = multiprocessing.get_context("spawn")
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_prepare)
    try:
        futures = [pool.submit(_run, settings, where, keep=settings in studied) for settings in missing]
        yield from (future.result() for future in as_completed(futures))
    except BaseException as error:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in set(multiprocessing.active_children()) - others:
            process.terminate()
        if isinstance(error, BrokenProcessPool):
            raise ReportError(
                "A process that trained was killed, perhaps for want of memory: use fewer --workers; the command goes on with the rest."
            ) from None
        raise
    pool.shutdown()


def _prepare() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the process that started this one, which ends it
    torch.set_num_threads(1)
    keep_freed_memory()


def _run(settings: Settings, where: Where, *, keep: bool) -> Result:
    """Train one run; one that was killed goes on from its last epoch."""
    folder = where.folder / "runs" / slug(settings)
    job = _job(settings, where)
    empty = Result(settings=settings, data=job.data.train.sha256, test=job.data.test.sha256)
    with join_processes(where.device) as alone:
        try:
            done = train(job, Output(folder, every=0, resume=True), alone)
        except DivergedError as error:
            result = replace(empty, broke=error.what, step=error.number + 1)
        else:
            last = done.history[-1]
            result = replace(
                empty,
                accuracy=last.accuracy,
                seconds=last.seconds,
                memory=done.memory,
                optimizer_memory=done.optimizer_memory,
                disk=done.path.stat().st_size,
            )
    if not keep:
        shutil.rmtree(folder, ignore_errors=True)
    write_json(result, where.folder / "runs" / f"{slug(settings)}.json")
    return result


def _job(settings: Settings, where: Where) -> Job:
    """A run's job; data sets that several runs share are read once in a process."""
    of_data = ("arch", "data", "test", "limit", "normalize")
    kept = _read(Settings(**{name: getattr(settings, name) for name in of_data}), where)
    return dataclasses.replace(kept, settings=settings)


@lru_cache(maxsize=2)
def _read(settings: Settings, where: Where) -> Job:
    return Job.load(settings, root=where.root, download=where.download)
