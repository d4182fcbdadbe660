"""What the table of operators is written in: a use of an ONNX operator, and the call of a torch function that it becomes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from precisionkit.models.onnx.graph import Node, Refused
from precisionkit.models.onnx.sizes import Dims, Size

_MOST_INTEGERS = 10_000  # of a shape, a list of axes, a padding


@dataclass(frozen=True)
class Value:
    """One value of the graph.

    Attributes
    ----------
    name : str
        In the graph.
    shape : tuple of (int or Size)
        Its shape.
    dtype : torch.dtype
        Its type.
    tensor : Tensor or None
        The value itself where it does not depend on the input.
    sizes : ndarray or None
        Numbers and sizes, for an array that is computed from the batch alone.
    rows : tuple of (int, Tensor) or None
        A stride and offsets, for integers that count through the images of a batch.
    """

    name: str
    shape: Dims
    dtype: torch.dtype
    tensor: Tensor | None = None
    sizes: np.ndarray | None = None
    rows: tuple[int, Tensor] | None = None

    @property
    def is_data(self) -> bool:
        """Whether it depends on the input's numbers."""
        return self.tensor is None and self.sizes is None and self.rows is None


Operand = Value | Tensor | float | int | None


@dataclass(frozen=True)
class Call:
    """A torch function with its operands: values of the graph, new constants, Python numbers, or nothing.

    ``buffers`` names operands, by place, that are statistics and not parameters.
    """

    function: Callable[..., Any]
    operands: tuple[Operand, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    buffers: Mapping[int, str] = field(default_factory=dict)


Lowered = Call | Value
"""A call, or the operand that the result is equal to."""


@dataclass(frozen=True)
class Use:
    """One use of an ONNX operator.

    Attributes
    ----------
    node : Node
        As the file has it.
    opset : int
        Version of the operators.
    operands : tuple of (Value or None)
        None where an optional one is left out.
    fixed : int or None
        The batch that the file was written for, if it was written for one alone.
    """

    node: Node
    opset: int
    operands: tuple[Value | None, ...]
    fixed: int | None = None

    def attribute(self, name: str, default: Any = None) -> Any:
        """Return an attribute of the node."""
        return self.node.attributes.get(name, default)

    def optional(self, index: int) -> Value | None:
        """Return an operand, or None where it is left out."""
        return self.operands[index] if index < len(self.operands) else None

    def operand(self, index: int) -> Value:
        """Return an operand that must be there."""
        value = self.optional(index)
        if value is None:
            raise Refused(f"lacks its operand {index}")
        return value

    def shape(self, index: int = 0) -> Dims:
        """Shape of an operand."""
        return self.operand(index).shape

    def rank(self, index: int = 0) -> int:
        """Number of dimensions of an operand."""
        return len(self.operand(index).shape)

    def static(self, axis: int, index: int = 0) -> int:
        """Size of an operand along an axis, which must not be the batch."""
        size = self.operand(index).shape[axis]
        if isinstance(size, Size):
            raise Refused("works along the batch")
        return size

    def written(self, axis: int, index: int = 0) -> int | Size:
        """Size of an operand along an axis, as it is in a file for one batch alone."""
        size = self.operand(index).shape[axis]
        return size.times * self.fixed if isinstance(size, Size) and self.fixed is not None else size

    def axis(self, axis: int, rank: int | None = None) -> int:
        """Return an axis, counted from the end if negative, as one counted from the front."""
        rank = self.rank() if rank is None else rank
        if not -rank <= axis < max(rank, 1):
            raise Refused(f"names the axis {axis} of {rank}")
        return axis % max(rank, 1)

    def axes(self, axes: tuple[int, ...], rank: int | None = None) -> tuple[int, ...]:
        """Return several axes, each once."""
        found = tuple(self.axis(axis, rank) for axis in axes)
        if len(set(found)) != len(found):
            raise Refused("names an axis twice")
        return found

    def sizes(self, index: int) -> Dims | None:
        """Return a list of numbers that must be known at import, or None where it is left out."""
        value = self.optional(index)
        if value is None:
            return None
        if value.sizes is not None:
            return tuple(value.sizes.reshape(-1))
        if value.tensor is None:
            raise Refused(f"takes its operand {index} from the input, but a constant is needed there")
        if value.tensor.numel() > _MOST_INTEGERS or value.tensor.is_floating_point():
            raise Refused(f"has no list of integers as its operand {index}")
        return tuple(value.tensor.reshape(-1).tolist())

    def integers(self, index: int) -> tuple[int, ...] | None:
        """Return a list of integers that do not follow the batch."""
        values = self.sizes(index)
        if values is None:
            return None
        if any(isinstance(value, Size) for value in values):
            raise Refused(f"takes its operand {index} from the batch")
        return tuple(int(v) for v in values if not isinstance(v, Size))

    def listed(self, name: str, index: int, since: int) -> tuple[int, ...] | None:
        """Return integers that are an attribute in old versions and an operand since a version."""
        if self.opset >= since:
            return self.integers(index)
        values = self.attribute(name)
        return None if values is None else tuple(values)

    def number(self, index: int) -> float | int | None:
        """Return the only number of a constant operand, or None where it is no such constant."""
        value = self.optional(index)
        if value is None or value.tensor is None or value.tensor.numel() != 1:
            return None
        return value.tensor.item()

    def constant(self, index: int) -> Tensor:
        """Return a constant operand."""
        value = self.operand(index)
        if value.tensor is None:
            raise Refused(f"takes its operand {index} from the input, but a constant is needed there")
        return value.tensor

    def only_result(self) -> None:
        """Refuse if a further result than the first is asked for."""
        if any(self.node.outputs[1:]):
            raise Refused(f"is asked for {len(self.node.outputs)} results, but only the first is supported")


Lower = Callable[[Use], Lowered]
