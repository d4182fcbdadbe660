"""Operators of torch that only move, repeat or fill in numbers: run once on the places of the entries, they tell their index."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

FILLED = {
    "aten.pad.default": ("value",),
    "aten.constant_pad_nd.default": ("value",),
    "aten.masked_fill.Scalar": ("value",),
    "aten.where.ScalarSelf": ("self",),
    "aten.where.ScalarOther": ("other",),
    "aten.fill.Scalar": ("value",),
}
"""Moves that fill in a number, and the arguments that give it."""

MOVES = frozenset(
    FILLED.keys()
    | {
        f"aten.{name}"
        for name in [
            "view.default",
            "reshape.default",
            "_unsafe_view.default",
            "flatten.using_ints",
            "unflatten.int",
            "view_as.default",
            "squeeze.default",
            "squeeze.dim",
            "squeeze.dims",
            "unsqueeze.default",
            "permute.default",
            "transpose.int",
            "t.default",
            "movedim.int",
            "movedim.intlist",
            "swapaxes.default",
            "numpy_T.default",
            "mT.default",
            "slice.Tensor",
            "select.int",
            "narrow.default",
            "index_select.default",
            "index.Tensor",
            "gather.default",
            "take_along_dim.default",
            "cat.default",
            "concat.default",
            "stack.default",
            "split.Tensor",
            "split.sizes",
            "split_with_sizes.default",
            "chunk.default",
            "tensor_split.sections",
            "unbind.int",
            "expand.default",
            "expand_as.default",
            "repeat.default",
            "repeat_interleave.self_int",
            "tile.default",
            "clone.default",
            "alias.default",
            "detach.default",
            "contiguous.default",
            "dropout.default",
            "feature_dropout.default",
            "alpha_dropout.default",
            "lift_fresh_copy.default",
            "lift_fresh.default",
            "_to_copy.default",
            "to.dtype",
            "copy.default",
            "flip.default",
            "roll.default",
            "rot90.default",
            "pixel_shuffle.default",
            "pixel_unshuffle.default",
            "channel_shuffle.default",
            "unfold.default",
            "im2col.default",
            "as_strided.default",
            "upsample_nearest1d.default",
            "upsample_nearest1d.vec",
            "upsample_nearest2d.default",
            "upsample_nearest2d.vec",
            "upsample_nearest3d.vec",
            "_upsample_nearest_exact2d.vec",
            "reflection_pad1d.default",
            "reflection_pad2d.default",
            "replication_pad1d.default",
            "replication_pad2d.default",
            "slice_scatter.default",
            "select_scatter.default",
            "masked_fill.Tensor",
            "where.self",
            "tril.default",
            "triu.default",
            "fill.Tensor",
            "diagonal.default",
            "constant_pad_nd.default",
            "real.default",
        ]
    }
)
"""Every entry of the result is an entry of an operand, a number that is filled in, or zero."""

MADE = frozenset(
    f"aten.{name}"
    for name in [
        "zeros.default",
        "ones.default",
        "full.default",
        "empty.memory_format",
        "arange.default",
        "arange.start",
        "arange.start_step",
        "scalar_tensor.default",
        "new_zeros.default",
        "new_ones.default",
        "new_full.default",
        "zeros_like.default",
        "ones_like.default",
        "full_like.default",
        "eye.default",
        "linspace.default",
        "tril_indices.default",
        "triu_indices.default",
    ]
)
"""Operators that make a constant of shapes alone."""


@dataclass(frozen=True)
class Index:
    """Where the entries of one result come from.

    Attributes
    ----------
    places : int64 tensor, in the shape of the result for a batch of one
        Into the fills, followed by the entries of the operands.
    """

    places: Tensor


@dataclass(frozen=True)
class Moved:
    """What a move is for one image.

    Attributes
    ----------
    fills : tuple of float
        Zero first.
    indices : tuple of Index, or Index
        One for each result.
    """

    fills: tuple[float, ...]
    indices: Any


def find_move(
    target: Callable[..., Any],
    name: str,
    given: dict[str, Any],
    operands: Sequence[tuple[str, int | None]],
    sizes: Sequence[tuple[int, ...]],
) -> Moved:
    """Run a move on the places of its operands' entries.

    Parameters
    ----------
    target : callable
        The operator.
    given : dict
        Its arguments for a batch of one, by name; what stands for operands is replaced.
    operands : sequence of (argument, position in a list or None)
    sizes : sequence of shapes
        Of the operands.
    """
    fills, arguments = [0.0], {k: list(v) if isinstance(v, (list, tuple)) else v for k, v in given.items()}
    for argument in FILLED.get(name, ()):
        value = arguments.get(argument)
        if isinstance(value, (int, float)):
            arguments[argument] = float(len(fills))
            fills.append(float(value))
    start = len(fills)
    for (argument, position), size in zip(operands, sizes, strict=True):
        count = math.prod(size)
        places = torch.arange(start, start + count, dtype=torch.float64).reshape(size)
        start += count
        if position is None:
            arguments[argument] = places
        else:
            arguments[argument][position] = places
    schema = target._schema.arguments  # type: ignore[attr-defined]
    positional = [arguments.pop(a.name) for a in schema if a.name in arguments and not a.kwarg_only]
    result = target(*positional, **arguments)
    if isinstance(result, Tensor):
        return Moved(tuple(fills), Index(result.long()))
    return Moved(tuple(fills), tuple(Index(part.long()) for part in result))
