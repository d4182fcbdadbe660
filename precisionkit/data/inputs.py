"""Inputs that are read in slices: what a data set holds, whether it lies in memory or in files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from precisionkit.errors import UnusableDataError

_Piece = TypeVar("_Piece", bound=Sequence[Any] | np.ndarray)


class Inputs(Protocol):
    """Inputs in their order, of which slices are taken: an array, or `LazyInputs`."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the numbers in a slice."""

    @property
    def shape(self) -> tuple[int | None, ...]:
        """Number of inputs and shape of one; None for a side that differs between them."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> np.ndarray: ...


@dataclass(frozen=True)
class LazyInputs:
    """Inputs that are read when a slice of them is taken.

    Attributes
    ----------
    shape : tuple of int or None
        Number of inputs and shape of one; None for a side that differs between them.
    dtype : np.dtype
        Of the numbers in a slice.
    read : callable
        Returns the inputs from one index up to another; of several sizes as an array of objects, see `stacked`.
    """

    shape: tuple[int | None, ...]
    dtype: np.dtype[Any]
    read: Callable[[int, int], np.ndarray]

    def __len__(self) -> int:
        return self.shape[0] or 0

    def __getitem__(self, part: slice, /) -> np.ndarray:
        start, stop, step = part.indices(len(self))
        if step != 1:
            raise ValueError(f"only slices of neighbours are read, not every {step}th input")
        return self.read(start, stop) if start < stop else np.empty((0, *(size or 0 for size in self.shape[1:])), self.dtype)

    def behind(self, skipped: int) -> LazyInputs:
        """Inputs without the first ones."""
        if not skipped:
            return self
        shape = len(self) - skipped, *self.shape[1:]
        return LazyInputs(shape, self.dtype, lambda start, stop: self.read(start + skipped, stop + skipped))


def stacked(images: Sequence[np.ndarray]) -> np.ndarray:
    """Images as one array, or as an array of objects where their shapes differ."""
    if all(image.shape == images[0].shape for image in images):
        return np.stack(images)
    held = np.empty(len(images), dtype=object)
    held[:] = images
    return held


class Replay(Generic[_Piece]):
    """Slices of rows that come piece by piece: rows in order are read once, going back starts anew.

    Parameters
    ----------
    start_at : callable
        Returns the pieces from a row on.
    where : str
        Names the data set in messages.
    """

    def __init__(self, start_at: Callable[[int], Iterator[_Piece]], where: str) -> None:
        self._start_at, self._where = start_at, where
        self._coming: Iterator[_Piece] = iter(())
        self._held: list[_Piece] = []
        self._first = self._end = 0  # rows that are held

    def read(self, start: int, stop: int) -> list[_Piece]:
        """Return rows as pieces that together are these rows."""
        if start < self._first or not self._held:
            self._coming, self._held = self._start_at(start), []
            self._first = self._end = start
        while self._end < stop:
            piece = next(self._coming, None)
            if piece is None:
                raise UnusableDataError(f"{self._where} has fewer rows than when it was opened: it was changed; start again.")
            self._held.append(piece)
            self._end += len(piece)
            self._forget(start)
        return list(self._cut(start, stop))

    def _forget(self, start: int) -> None:
        while self._held and self._first + len(self._held[0]) <= start:
            self._first += len(self._held.pop(0))

    def _cut(self, start: int, stop: int) -> Iterator[_Piece]:
        first = self._first
        for piece in self._held:
            wanted = piece[max(start - first, 0) : max(stop - first, 0)]
            if len(wanted):
                yield wanted  # type: ignore[misc]  # a slice of a sequence is one of its kind
            first += len(piece)
