"""Data from a function of the user's own that she names as ``package.module:function``; it is imported because she names it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from precisionkit.data.dataset import Arrays, checked_inputs, checked_labels
from precisionkit.data.inputs import LazyInputs, Replay
from precisionkit.errors import UnusableDataError, UsageError
from precisionkit.user_code import brief, call_named, current_directory_on_path

_MOST_BYTES = 4 << 30  # of inputs that are gathered in memory


@dataclass(frozen=True)
class _Batch:
    inputs: np.ndarray
    labels: np.ndarray | None

    @property
    def kind(self) -> tuple[tuple[int, ...], np.dtype[Any], bool]:
        """What all batches of a set have in common."""
        return self.inputs.shape[1:], self.inputs.dtype, self.labels is None

    @property
    def digest(self) -> bytes:
        """SHA-256 of the inputs."""
        return hashlib.sha256(np.ascontiguousarray(self.inputs).data).digest()


def read_function(name: str, *, limit: int | None = None) -> Arrays:
    """Call a function without arguments and take the batches that it returns or yields.

    Parameters
    ----------
    name : str
        ``package.module:function``.  A batch is (inputs, labels) or inputs, arrays of numpy or tensors.
    limit : int or None
        Keep only the first inputs.

    Returns
    -------
    Arrays
        Where the number of batches is known (``len``) and they can be gone through again, as a list or a `DataLoader`, they are gone
        through once for their labels and hashes, and again for their inputs, which then must be the same.  Others, such as those of a
        generator, are gathered in memory.
    """
    where = f"The data function {name}"
    returned = call_named(name, "data function", "batches of (inputs, labels) or of inputs")
    with current_directory_on_path():
        if _is_batch(returned):
            return _gathered(iter([_batch(returned, 0, where)]), limit, where)
        if not isinstance(returned, Iterable):
            raise UnusableDataError(
                f"{where} returned {type(returned).__name__}, but it must return batches of (inputs, labels) or of inputs."
            )
        count = _length(returned)
        if count is None or isinstance(returned, Iterator):
            return _gathered(_batches(returned, where), limit, where)
        return _replayed(returned, count, limit, where)


def _length(returned: object) -> int | None:
    try:
        return len(returned)  # type: ignore[arg-type]  # whether it has one is the question
    except (TypeError, NotImplementedError):
        return None


def _batches(returned: Iterable[object], where: str) -> Iterator[_Batch]:
    """Check each batch against the first."""
    first = None
    for place, item in enumerate(_guarded(returned, where)):
        batch = _batch(item, place, where)
        first = first or batch
        if batch.kind != first.kind:
            raise UnusableDataError(
                f"{where} gave {_described(batch)} as batch {place}, but {_described(first)} as the first: make them alike."
            )
        yield batch


def _guarded(returned: Iterable[object], where: str) -> Iterator[object]:
    done = 0
    try:
        for item in returned:
            yield item
            done += 1
    except Exception as error:  # the user's own code may raise anything
        raise UsageError(f"{where} failed in batch {done} with {brief(error)}: correct it.") from error


def _is_batch(item: object) -> bool:
    pair = isinstance(item, tuple) and len(item) == 2 and all(_is_array(part) for part in item)
    return pair or _is_array(item)


def _is_array(item: object) -> bool:
    return isinstance(item, np.ndarray) or hasattr(item, "detach")


def _batch(item: object, place: int, where: str) -> _Batch:
    inputs, labels = item if isinstance(item, tuple | list) and len(item) == 2 else (item, None)
    if not _is_array(inputs) or not (labels is None or _is_array(labels)):
        kinds = " and ".join(type(part).__name__ for part in ((inputs,) if labels is None else (inputs, labels)))
        raise UnusableDataError(
            f"{where} gave {kinds} as batch {place}: give (inputs, labels) or inputs as arrays of numpy or tensors, the batch first, as "
            "torch.utils.data.DataLoader does."
        )
    whole = f"{where}, in batch {place},"
    array = checked_inputs(_array(inputs), whole)
    return _Batch(array, None if labels is None else checked_labels(_array(labels), len(array), whole))


def _array(item: Any) -> np.ndarray:
    if isinstance(item, np.ndarray):
        return item
    tensor = item.detach().cpu()
    array: np.ndarray = (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()
    return array


def _described(batch: _Batch) -> str:
    return f"{batch.inputs.dtype} of shape {batch.inputs.shape} {'without' if batch.labels is None else 'with'} labels"


def _kept(batches: Iterator[_Batch], limit: int | None) -> Iterator[_Batch]:
    """The batches up to the limit, the last one cut."""
    left = limit
    while left is None or left > 0:
        batch = next(batches, None)
        if batch is None:
            return
        yield batch if left is None else _Batch(batch.inputs[:left], None if batch.labels is None else batch.labels[:left])
        left = None if left is None else left - len(batch.inputs)


def _gathered(batches: Iterator[_Batch], limit: int | None, where: str) -> Arrays:
    held: list[_Batch] = []
    size = 0
    for batch in _kept(batches, limit):
        size += batch.inputs.nbytes
        if size > _MOST_BYTES:
            raise UnusableDataError(
                f"{where} gave more than {_MOST_BYTES >> 30} GiB of inputs, which are held in memory because their number is not known: "
                "return batches that have a length and can be gone through again, as a DataLoader, or choose a --limit."
            )
        held.append(_Batch(batch.inputs.copy(), batch.labels))  # the function may use its memory again
    if not held:
        raise UnusableDataError(f"{where} gave no batches: give at least one.")
    return Arrays(np.concatenate([batch.inputs for batch in held]), _labels(held))


def _labels(batches: list[_Batch]) -> np.ndarray | None:
    known = [batch.labels for batch in batches if batch.labels is not None]
    return np.concatenate(known) if known else None


def _replayed(returned: Iterable[object], count: int, limit: int | None, where: str) -> Arrays:
    digest = hashlib.sha256(b"batches\n")
    lengths, labels, digests = list[int](), list[np.ndarray](), list[bytes]()
    shape: tuple[int, ...] = ()
    dtype = np.dtype(np.float32)
    for batch in _kept(_batches(returned, where), limit):
        if len(lengths) == count:
            raise UnusableDataError(f"{where} gave more batches than its length, {count}: correct its length.")
        shape, dtype = batch.inputs.shape[1:], batch.inputs.dtype
        digest.update(np.ascontiguousarray(batch.inputs).data)
        digests.append(batch.digest)
        lengths.append(len(batch.inputs))
        labels += [] if batch.labels is None else [batch.labels]
    if not lengths:
        raise UnusableDataError(f"{where} gave no batches: give at least one.")

    def again(start: int) -> Iterator[np.ndarray]:
        first = 0
        for batch, length, known in zip(_batches(returned, where), lengths, digests, strict=False):
            kept = _Batch(batch.inputs[:length], None)
            if kept.digest != known:
                raise UnusableDataError(
                    f"{where} gave other inputs when it was gone through again: it must not shuffle or draw random numbers."
                )
            if first + length > start:
                yield kept.inputs[max(start - first, 0) :]
            first += length

    replay = Replay(again, where)
    known = np.concatenate(labels) if labels else None
    digest.update(f"{dtype.str} {shape}\n".encode() + (b"none" if known is None else known.astype("<i8").tobytes()))
    images = LazyInputs((sum(lengths), *shape), dtype, lambda start, stop: np.concatenate(replay.read(start, stop)))
    return Arrays(images, known, sha256=digest.hexdigest())
