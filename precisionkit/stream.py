"""Results of a certification on disk while it runs: a killed run goes on where it was, and several processes share one.

Beside the report's file lie ``FILE.partial-0``, ``FILE.partial-1``, ..., one for each process: a first line with all that the results
depend on, then a line for each batch, written and flushed at once.  A last line that a kill cut off is not counted.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Literal

import msgspec

from precisionkit.errors import ReportError, UsageError
from precisionkit.processes import ALONE, Processes
from precisionkit.report import Input
from precisionkit.report.read import UNREADABLE


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """The results of one batch, whose first input has the index `first`, and the seconds that they took, by name."""

    first: int
    seconds: dict[str, float]
    inputs: tuple[Input, ...]


@dataclass(frozen=True)
class Stream:
    """Where the batches of one run are kept.

    Attributes
    ----------
    target : Path
        Of the report.
    key : mapping of str to str
        What the results depend on.
    """

    target: Path
    key: Mapping[str, str]

    def _path(self, rank: int) -> Path:
        return self.target.with_name(f"{self.target.name}.partial-{rank}")

    def check(self, *, resume: bool) -> None:
        """Refuse what is there from another run, or from this one where it is not to go on.

        Raises
        ------
        UsageError
            Results of an unfinished run are there, and `resume` is false, or they are not of this run.
        """
        for path in _files(self.target):
            if not resume:
                raise UsageError(f"The file '{path}' holds results of a run that did not end: go on with --resume, or delete it.")
            theirs = _key_of(path)
            if theirs is None:
                continue
            for name, value in self.key.items():
                if theirs.get(name) != value:
                    raise UsageError(
                        f"The file '{path}' holds results of another run, whose {name} is {theirs.get(name)!r} and not {value!r}: delete "
                        "it, or choose another name."
                    )

    def read(self) -> dict[int, Batch]:
        """Return the batches that are there, by the index of their first input."""
        found: dict[int, Batch] = {}
        for path in _files(self.target):
            lines = path.read_bytes().split(b"\n")
            found |= {batch.first: batch for line in lines[1:-1] if (batch := _batch(line)) is not None}
        return dict(sorted(found.items()))

    def begin(self, rank: int) -> None:
        """Make the file of one process ready: a first line, and an end of the last one, which a kill may have cut off.

        Raises
        ------
        ReportError
            It could not be written.
        """
        path = self._path(rank)
        lines = path.read_bytes() if path.exists() else b""
        if b"\n" not in lines:
            _write(path, "wb", msgspec.json.encode(dict(self.key)) + b"\n")
        elif not lines.endswith(b"\n"):
            _write(path, "ab", b"\n")

    def add(self, rank: int, batch: Batch) -> None:
        """Append a batch to the file of one process, and wait until it is on the disk.

        Raises
        ------
        ReportError
            It could not be written.
        """
        _write(self._path(rank), "ab", msgspec.json.encode(batch) + b"\n")


def forget(target: Path) -> None:
    """Remove the results that were kept beside a report, which now holds them."""
    for path in _files(target):
        path.unlink(missing_ok=True)


def _files(target: Path) -> list[Path]:
    return sorted(target.parent.glob(f"{escape(target.name)}.partial-*"))


def _write(path: Path, mode: Literal["ab", "wb"], content: bytes) -> None:
    try:
        with path.open(mode) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise ReportError(
            f"The results could not be kept in '{path}' ({error.strerror or error}); free some space, then go on with --resume."
        ) from error


def _key_of(path: Path) -> dict[str, str] | None:
    """What a file says that its results depend on; None where the first line was cut off."""
    first, ended, _ = path.read_bytes().partition(b"\n")
    if not ended:
        return None
    try:
        return msgspec.json.decode(first, type=dict[str, str])
    except UNREADABLE:
        raise UsageError(f"The file '{path}' holds no results of this version: delete it, or choose another name.") from None


def _batch(line: bytes) -> Batch | None:
    try:
        return msgspec.json.decode(line, type=Batch)
    except UNREADABLE:
        return None


@dataclass(frozen=True)
class Keeping:
    """That results are kept while a run goes on, and with whom it is shared.

    Attributes
    ----------
    target : Path
        Of the report, beside which they are kept.
    resume : bool
        Go on with what is there.
    members : Processes
        That share the batches.
    """

    target: Path
    resume: bool = False
    members: Processes = ALONE


@dataclass(frozen=True)
class Decided:
    """The batches of a run, in order.

    Attributes
    ----------
    complete : bool
        Whether they are all there; not after Ctrl-C.
    before : float
        Seconds that those took which were there already.
    """

    batches: tuple[Batch, ...]
    complete: bool
    before: float

    @property
    def inputs(self) -> tuple[Input, ...]:
        """Of all batches."""
        return tuple(one for batch in self.batches for one in batch.inputs)

    def seconds(self, name: str) -> float:
        """Spent on all batches."""
        return sum(batch.seconds[name] for batch in self.batches)


def run_batches(
    starts: Sequence[int],
    decide: Callable[[int], Batch],
    keeping: Keeping | None,
    key: Mapping[str, str],
    on_progress: Callable[[int, int], None],
) -> Decided:
    """Decide batch by batch; with `keeping`, those that are not there yet, each process its own.

    Parameters
    ----------
    starts : sequence of int
        Index of the first input of each batch.
    decide : callable
        Gives the batch that starts at an index.
    key : mapping of str to str
        What the results depend on.
    on_progress : callable
        Called with the number of batches done and their total, of this process.
    """
    members = ALONE if keeping is None else keeping.members
    stream = None if keeping is None else Stream(keeping.target, key)
    if stream is not None and keeping is not None:
        stream.check(resume=keeping.resume)
        members.wait()  # before any process writes
    found = {} if stream is None else stream.read()
    before = sum(batch.seconds["all"] for batch in found.values())
    mine, complete, begun = starts[members.rank :: members.world], True, False
    try:
        for done, first in enumerate(mine):
            if first not in found:
                found[first] = decide(first)
                if stream is not None:
                    if not begun:
                        stream.begin(members.rank)
                    begun = True
                    stream.add(members.rank, found[first])
            on_progress(done + 1, len(mine))
        members.wait()
        found |= stream.read() if stream is not None and members.world > 1 else {}
        members.wait()  # before the first process removes them
    except KeyboardInterrupt:
        complete = False
        found |= stream.read() if stream is not None else {}
    batches = tuple(found[first] for first in starts if first in found)
    return Decided(batches, complete and len(batches) == len(starts), before)
