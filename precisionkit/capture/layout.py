"""Where the images of a batch lie in a tensor of an exported program.

Usually in the first dimension.  Attention and windows move them elsewhere, or merge them with other dimensions: (length, batch,
width), (batch * heads, length, width).  A batch of one tells everything about one image: a tensor of the graph is a batch of what the
program's tensor is for a single image, without its first dimension where that is the batch alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """Shape of a program's tensor.

    Attributes
    ----------
    single : tuple of int
        For a batch of one.
    regular : bool
        The first dimension is the batch, and no other depends on it; not where it is the only one, so that an image has one number.
    fixed : tuple of bool
        Which dimensions do not depend on the batch.
    """

    single: tuple[int, ...]
    regular: bool
    fixed: tuple[bool, ...]

    @classmethod
    def of(cls, shape: Sequence[Any], *, free: bool = True) -> Layout:
        """From a shape with symbols in it; a program without a free batch takes one image, and a first dimension of one is its batch."""
        fixed = tuple(isinstance(size, int) for size in shape)
        if not free:
            return cls(tuple(shape), len(shape) > 1 and shape[0] == 1, fixed)
        regular = len(shape) > 1 and not fixed[0] and all(fixed[1:]) and str(shape[0]).isidentifier()
        return cls(tuple(for_one(size) for size in shape), regular, fixed)

    @property
    def batched(self) -> bool:
        """Whether any dimension depends on the batch."""
        return not all(self.fixed)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one image, in the graph."""
        return self.single[1:] if self.regular else self.single


def for_one(size: Any) -> int:
    """Value of a size, or of arithmetic on sizes, for a batch of one."""
    if isinstance(size, (int, bool)):
        return int(size)
    expression = size.node.expr
    return int(expression.subs(dict.fromkeys(expression.free_symbols, 1)))


@dataclass(frozen=True)
class Value:
    """What a node of the program stands for: a tensor of the graph, or a constant.

    Attributes
    ----------
    name : str
        Of the node, of the input, or of the constant.
    layout : Layout
    constant : tensor or None
    """

    name: str
    layout: Layout
    constant: Tensor | None = None
