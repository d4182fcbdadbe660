"""Sums that are accumulated in a half format, as tensor cores with half accumulators do: the arithmetic of ``strict-fp16``.

A product of a row and a column is cut into blocks of `BLOCK`.  The products within a block are exact and are summed in binary32; the sum
is added to an accumulator, in binary32, and stored in the half format, block by block.  Rows longer than `SPLIT` are cut into parts
with accumulators of their own (split-K), which are added in order, in the half format again.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

BLOCK = 16
SPLIT = 1024


def contract(a: Tensor, b: Tensor) -> Tensor:
    """Return ``a @ b``, accumulated in the format of the arguments.

    Parameters
    ----------
    a, b : (..., M, K), (..., K, N)
        Of one half format; leading dimensions broadcast.

    Returns
    -------
    (..., M, N) tensor of the same format.
    """
    parts = -(-a.shape[-1] // SPLIT)
    if parts > 1:
        axes = max(a.ndim, b.ndim)
        a, b = (t.reshape(*[1] * (axes - t.ndim), *t.shape) for t in (a, b))
        a, b = _split(a, parts), _split(b.mT, parts).mT
    total = _accumulated(a, b)
    return _added(total) if parts > 1 else total


def _split(a: Tensor, parts: int) -> Tensor:
    """(..., M, K) into (parts, ..., M, SPLIT), filled up with zeros."""
    filled = functional.pad(a, (0, parts * SPLIT - a.shape[-1]))
    split: Tensor = filled.unflatten(-1, (parts, SPLIT))
    return split.movedim(-2, 0)


def _accumulated(a: Tensor, b: Tensor) -> Tensor:
    wide_a, wide_b = a.float(), b.float()
    total: Tensor = torch.matmul(wide_a[..., :BLOCK], wide_b[..., :BLOCK, :]).to(a.dtype)
    for k in range(BLOCK, a.shape[-1], BLOCK):
        block = torch.matmul(wide_a[..., k : k + BLOCK], wide_b[..., k : k + BLOCK, :])
        total = block.add_(total).to(a.dtype)
    return total


def _added(parts: Tensor) -> Tensor:
    """Sum over the first dimension, one rounding each addition."""
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def summed(a: Tensor, dims: tuple[int, ...], *, keepdim: bool) -> Tensor:
    """Sum over dimensions, accumulated as by `contract`."""
    kept = [d for d in range(a.ndim) if d not in dims]
    rows = a.permute(*kept, *dims).reshape(*(a.shape[d] for d in kept), 1, -1)
    total = contract(rows, torch.ones(rows.shape[-1], 1, dtype=a.dtype, device=a.device))[..., 0, 0]
    return total.reshape([1 if d in dims else a.shape[d] for d in range(a.ndim)]) if keepdim else total


def averaged(a: Tensor, dims: tuple[int, ...], *, keepdim: bool) -> Tensor:
    """Mean over dimensions: a tree of means of two, so that no partial sum overflows.

    Where a level of the tree has an odd number of means, they are divided by it and summed.
    """
    kept = [d for d in range(a.ndim) if d not in dims]
    mean = a.permute(*kept, *dims).reshape(*(a.shape[d] for d in kept), -1)
    while mean.shape[-1] % 2 == 0:
        halves = mean.unflatten(-1, (2, -1)).float()
        mean = ((halves[..., 0, :] + halves[..., 1, :]) * 0.5).to(a.dtype)
    if mean.shape[-1] > 1:
        mean = summed(mean / mean.shape[-1], (mean.ndim - 1,), keepdim=True)
    mean = mean[..., 0]
    return mean.reshape([1 if d in dims else a.shape[d] for d in range(a.ndim)]) if keepdim else mean


def convolved(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: list[int], padding: list[int], dilation: list[int], groups: int
) -> Tensor:
    """Two-dimensional convolution: patches as columns, and `contract`; a bias is added in the half format."""
    columns = _columns(x, weight, stride, padding, dilation, groups)  # (n, groups, K, L)
    rows = weight.reshape(groups, weight.shape[0] // groups, -1)
    height, width = _output_size(x, weight, stride, padding, dilation)
    out = contract(rows, columns).reshape(len(x), weight.shape[0], height, width)
    return out if bias is None else out + bias.view(1, -1, 1, 1)


def convolved_backward(
    grad: Tensor, x: Tensor, weight: Tensor, stride: list[int], padding: list[int], dilation: list[int], groups: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `convolved` for its input, its weight and its bias.

    Overlapping patches of the input's gradient are added in binary32 and stored once; every other sum is `contract`.
    """
    columns = _columns(x, weight, stride, padding, dilation, groups)
    g = grad.reshape(len(x), groups, weight.shape[0] // groups, -1)  # (n, groups, M, L)
    rows = weight.reshape(groups, weight.shape[0] // groups, -1)
    folded = contract(rows.mT, g).reshape(len(x), -1, g.shape[-1])
    kernel = (weight.shape[2], weight.shape[3])
    size = (x.shape[2], x.shape[3])
    grad_x = functional.fold(folded.float(), size, kernel, tuple(dilation), tuple(padding), tuple(stride)).to(x.dtype)
    long_g, long_columns = (t.permute(1, 2, 0, 3).flatten(2) for t in (g, columns))  # over all images
    grad_weight = contract(long_g, long_columns.mT).reshape(weight.shape)
    return grad_x, grad_weight, summed(grad, (0, 2, 3), keepdim=False)


def _columns(x: Tensor, weight: Tensor, stride: list[int], padding: list[int], dilation: list[int], groups: int) -> Tensor:
    kernel = (weight.shape[2], weight.shape[3])
    columns = functional.unfold(x.float(), kernel, tuple(dilation), tuple(padding), tuple(stride)).to(x.dtype)
    grouped: Tensor = columns.unflatten(1, (groups, -1))
    return grouped


def _output_size(x: Tensor, weight: Tensor, stride: list[int], padding: list[int], dilation: list[int]) -> tuple[int, int]:
    height, width = ((x.shape[2 + i] + 2 * padding[i] - dilation[i] * (weight.shape[2 + i] - 1) - 1) // stride[i] + 1 for i in range(2))
    return height, width
