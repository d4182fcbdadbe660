"""Sizes that follow the batch, and what ONNX graphs compute with them.

A graph asks for shapes, takes them apart, and puts them together again for a Reshape.  All of that is done once, at import, with
the batch as a symbol; what is left of it are shapes such as (2 batch, 49, 96).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from precisionkit.models.onnx.graph import Refused


@dataclass(frozen=True)
class Size:
    """A multiple of the batch.

    Attributes
    ----------
    times : int
        At least 1.
    """

    times: int

    def __str__(self) -> str:
        return "batch" if self.times == 1 else f"{self.times} batch"

    def __add__(self, other: object) -> Size:
        if isinstance(other, Size):
            return Size(self.times + other.times)
        return self._same_if(other == 0)

    def __radd__(self, other: object) -> Size:
        return self._same_if(other == 0)

    def __sub__(self, other: object) -> Size | int:
        if isinstance(other, Size) and self.times >= other.times:
            return Size(self.times - other.times) if self.times > other.times else 0
        return self._same_if(other == 0)

    def __rsub__(self, other: object) -> Size:
        return self._same_if(False)

    def __mul__(self, other: object) -> Size | int:
        if isinstance(other, int) and other >= 0:
            return Size(self.times * other) if other else 0
        return self._same_if(False)

    __rmul__ = __mul__

    def __floordiv__(self, other: object) -> Size | int:
        if isinstance(other, Size) and self.times % other.times == 0:
            return self.times // other.times
        if isinstance(other, int) and other > 0 and self.times % other == 0:
            return Size(self.times // other)
        return self._same_if(False)

    def __rfloordiv__(self, other: object) -> Size:
        return self._same_if(False)

    def _same_if(self, harmless: bool) -> Size:
        if not harmless:
            raise Refused("computes with the batch size other than by multiplying it")
        return self


Dims = tuple[int | Size, ...]


def at_batch(value: Any, batch: Any) -> Any:
    """Replace every `Size` inside tuples by the number that it is for one batch."""
    if isinstance(value, Size):
        return batch if value.times == 1 else value.times * batch
    if isinstance(value, tuple):
        return tuple(at_batch(item, batch) for item in value)
    return value


def between(first: Sequence[int], second: Sequence[int], batches: tuple[int, int]) -> Dims:
    """Return the shape behind two shapes that were seen for two batches."""
    if len(first) != len(second):
        raise Refused("has as many dimensions as the batch says")
    dims: list[int | Size] = []
    for one, two in zip(first, second, strict=True):
        if one == two:
            dims.append(one)
        elif one * batches[1] == two * batches[0] and two % batches[1] == 0:
            dims.append(Size(two // batches[1]))
        else:
            raise Refused("has a size that is no multiple of the batch: it mixes the images of a batch")
    return tuple(dims)


def numel(dims: Dims) -> int | Size:
    """Product of the sizes; at most one of them follows the batch."""
    if sum(isinstance(d, Size) for d in dims) > 1:
        raise Refused("has two sizes that follow the batch: it mixes the images of a batch")
    product: Any = math.prod(d for d in dims if isinstance(d, int))
    for size in dims:
        if isinstance(size, Size):
            product = size * product
    return product  # type: ignore[no-any-return]


def has_size(values: np.ndarray) -> bool:
    """Whether any of the numbers follows the batch."""
    return any(isinstance(value, Size) for value in values.flat)


Given = Mapping[str, Any]


def _axes(given: Given, operands: Sequence[np.ndarray | None]) -> tuple[int, ...] | None:
    if "axes" in given:
        return tuple(given["axes"])
    return _integers(operands[1]) if len(operands) > 1 and operands[1] is not None else None


def _integers(array: np.ndarray | None) -> tuple[int, ...]:
    values = () if array is None else tuple(array.reshape(-1))
    if not all(isinstance(value, int) for value in values):
        raise Refused("takes a part of a shape that the batch chooses")
    return values


def _gather(given: Given, data: np.ndarray, places: np.ndarray) -> np.ndarray:
    index = np.array(_integers(places), dtype=np.int64).reshape(places.shape)
    if index.size and not (-len(data) <= index.min() and index.max() < len(data)):
        raise Refused(f"takes place {int(index.max())} of a shape with {len(data)}")
    return _array(data[index])


def _slice(given: Given, data: np.ndarray, *rest: np.ndarray | None) -> np.ndarray:
    starts, ends = (_integers(rest[i]) if len(rest) > i else tuple(given.get(n, ())) for i, n in enumerate(("starts", "ends")))
    steps = _integers(rest[3]) if len(rest) > 3 and rest[3] is not None else (1,)
    if len(starts) != 1 or len(ends) != 1 or len(steps) != 1 or not steps[0]:
        raise Refused("slices a shape in more than one dimension")
    begin, stop, step = starts[0], ends[0], steps[0]
    if step < 0 and stop < -len(data):
        return data[begin::step]
    return data[begin:stop:step]


def _reshape(given: Given, data: np.ndarray, shape: np.ndarray) -> np.ndarray:
    return data.reshape([data.shape[i] if n == 0 else n for i, n in enumerate(_integers(shape))])


def _unsqueeze(given: Given, data: np.ndarray, *rest: np.ndarray | None) -> np.ndarray:
    return np.expand_dims(data, _axes(given, (data, *rest)) or ())


def _squeeze(given: Given, data: np.ndarray, *rest: np.ndarray | None) -> np.ndarray:
    return _array(np.squeeze(data, _axes(given, (data, *rest))))


def _divide(left: Any, right: Any) -> Any:
    if isinstance(left, Size) or isinstance(right, Size):
        return left // right
    if right == 0:
        raise Refused("divides by zero")
    quotient = abs(left) // abs(right)
    return quotient if (left < 0) == (right < 0) else -quotient  # ONNX rounds towards zero


def _equal(left: Any, right: Any) -> bool:
    if isinstance(left, Size) and isinstance(right, Size):
        return left.times == right.times
    if isinstance(left, Size) or isinstance(right, Size):
        number = right if isinstance(left, Size) else left
        if number > 0:
            raise Refused(f"compares the batch with {number}")
        return False
    return bool(left == right)


def _each(function: Callable[..., Any]) -> Callable[..., np.ndarray]:
    spread = np.frompyfunc(function, 2, 1)
    return lambda given, left, right: _array(spread(left, right))


def _where(given: Given, condition: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    return np.where(condition.astype(bool), left, right)


def _product(given: Given, data: np.ndarray, *rest: np.ndarray | None) -> np.ndarray:
    value = numel(tuple(data.reshape(-1)))
    return _array(np.array([value], dtype=object)) if given.get("keepdims", 1) else _array(value)


def _array(value: Any) -> np.ndarray:
    """Keep an array of no dimensions one: numpy turns it into its element."""
    if isinstance(value, np.ndarray):
        return value
    array = np.empty((), dtype=object)
    array[()] = value
    return array


ON_SHAPES: Mapping[str, Callable[..., np.ndarray]] = {
    "Add": _each(lambda a, b: a + b),
    "Cast": lambda given, data: data,
    "Concat": lambda given, *parts: np.concatenate(parts),
    "Div": _each(_divide),
    "Equal": _each(_equal),
    "Gather": _gather,
    "Mul": _each(lambda a, b: a * b),
    "ReduceProd": _product,
    "Reshape": _reshape,
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Sub": _each(lambda a, b: a - b),
    "Unsqueeze": _unsqueeze,
    "Where": _where,
}
"""Operators on arrays of numbers and sizes, by ONNX name; each takes the attributes and the arrays."""
