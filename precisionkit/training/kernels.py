"""The kernels of half training: binary32 kernels with one rounding at the end, where a CPU's own half kernels are slow.

CPUs without half arithmetic run half matrix products and convolutions 30 to 95 times slower than binary32 ones; both accumulate in
binary32 and round once.  Here the tensors are half tensors, in memory and for autograd, and only the products are computed from binary32
copies and stored once, forward and backward, and so are the gradients that torch's CPU kernels would accumulate in the half format.
Elementwise operators, other reductions and normalisations run as torch has them: their half kernels compute in binary32 and store once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from precisionkit.errors import UnsupportedOperatorError
from precisionkit.training import contraction
from precisionkit.training.settings import Settings

HALF = (torch.float16, torch.bfloat16)
_aten = torch.ops.aten
PRODUCTS = frozenset(
    {
        _aten.mm.default,
        _aten.addmm.default,
        _aten.bmm.default,
        _aten.baddbmm.default,
        _aten.convolution.default,
        _aten.convolution_backward.default,
    }
)

WIDENED = PRODUCTS | {
    _aten.mv.default,
    _aten.addmv.default,
    _aten.dot.default,
    _aten.vdot.default,
    _aten.addbmm.default,
    _aten.native_layer_norm_backward.default,
    _aten.native_group_norm_backward.default,
    _aten.max_pool2d_with_indices_backward.default,
    _aten.avg_pool2d_backward.default,
    _aten._adaptive_avg_pool2d_backward.default,
    _aten.embedding_dense_backward.default,
    _aten.index_put.default,
    _aten.index_add.default,
    _aten.scatter_add.default,
}
"""Products, and gradients that torch's CPU kernels accumulate in the half format, all computed from binary32 copies."""

SUMS = PRODUCTS | {
    _aten.mv.default,
    _aten.addmv.default,
    _aten.dot.default,
    _aten.vdot.default,
    _aten.avg_pool1d.default,
    _aten.avg_pool2d.default,
    _aten.avg_pool3d.default,
    _aten._adaptive_avg_pool2d.default,
    _aten._adaptive_avg_pool3d.default,
    _aten.cumsum.default,
    _aten.var.correction,
    _aten.std.correction,
    _aten.var_mean.correction,
}
"""Operators that sum, which ``strict-fp16`` computes by rules of its own or refuses."""


def kernels(settings: Settings) -> AbstractContextManager[object]:
    """Return what half operators run within; sums in a half format are always computed by `contraction`."""
    formats = settings.formats
    if formats.strict:
        return StrictKernels()
    if settings.kernels == "native" or not (formats.pure_half or formats.autocast):
        return nullcontext()
    return RoundedKernels()


class Dispatch(TorchDispatchMode):
    """A mode that torch hands operators to; torch's own constructor has no types."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]


class RoundedKernels(Dispatch):
    """Half products from binary32 kernels, stored once."""

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run one operator."""
        if func in WIDENED and (half := _half(args)) is not None:
            return _narrowed(func(*map(_widened, args), **(kwargs or {})), half)
        return func(*args, **(kwargs or {}))


class StrictKernels(Dispatch):
    """Half products, sums and means accumulated in the half format (`contraction`)."""

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run one operator."""
        if _half(args) is None or func not in _RULED:
            return func(*args, **(kwargs or {}))
        rule = _STRICT.get(func)
        _plain(str(func).split(".")[1], rule is not None, "sums in a half format")
        return (rule or func)(*args, **(kwargs or {}))


def _half(args: tuple[Any, ...]) -> torch.dtype | None:
    return next((a.dtype for a in args if isinstance(a, Tensor) and a.dtype in HALF), None)


def _widened(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.dtype in HALF else value


def _narrowed(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, Tensor):
        return value.to(dtype)
    return tuple(_narrowed(one, dtype) for one in value) if isinstance(value, tuple) else value


def _addmm(bias: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    _plain("addmm", beta == 1 and alpha == 1, "factors other than 1")
    return bias + contraction.contract(a, b)


def _convolution(x: Tensor, weight: Tensor, bias: Tensor | None, *geometry: Any) -> Tensor:
    return contraction.convolved(x, weight, bias, *_geometry(x, *geometry))


def _convolution_backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias_sizes: list[int] | None, *geometry_and_mask: Any
) -> tuple[Tensor | None, ...]:
    *geometry, mask = geometry_and_mask
    found = contraction.convolved_backward(grad, x, weight, *_geometry(x, *geometry))
    return tuple(one if wanted else None for one, wanted in zip(found, mask, strict=True))


def _geometry(
    x: Tensor, stride: list[int], padding: list[int], dilation: list[int], transposed: bool, output_padding: list[int], groups: int
) -> tuple[list[int], list[int], list[int], int]:
    """What a convolution in two dimensions needs of torch's arguments."""
    _plain("convolution", x.ndim == 4 and not transposed, "other than two dimensions, or transposed")
    return stride, padding, dilation, groups


def _dims(a: Tensor, dim: Sequence[int] | None) -> tuple[int, ...]:
    return tuple(range(a.ndim)) if not dim else tuple(d % a.ndim for d in dim)


def _sum(a: Tensor, dim: Sequence[int] | None = None, keepdim: bool = False, *, dtype: torch.dtype | None = None) -> Tensor:
    _plain("sum", dtype in (None, a.dtype), f"the result format {dtype}")
    return contraction.summed(a, _dims(a, dim), keepdim=keepdim)


def _mean(a: Tensor, dim: Sequence[int] | None = None, keepdim: bool = False, *, dtype: torch.dtype | None = None) -> Tensor:
    _plain("mean", dtype in (None, a.dtype), f"the result format {dtype}")
    return contraction.averaged(a, _dims(a, dim), keepdim=keepdim)


def _plain(name: str, fits: bool, what: str) -> None:
    if not fits:
        raise UnsupportedOperatorError(
            f"strict-fp16 has no arithmetic for the operator {name} with {what}: train in fp16, which accumulates in binary32."
        )


_STRICT: Mapping[Any, Callable[..., Any]] = {
    _aten.mm.default: contraction.contract,
    _aten.bmm.default: contraction.contract,
    _aten.addmm.default: _addmm,
    _aten.convolution.default: _convolution,
    _aten.convolution_backward.default: _convolution_backward,
    _aten.sum.default: _sum,
    _aten.sum.dim_IntList: _sum,
    _aten.mean.default: _mean,
    _aten.mean.dim: _mean,
}
_RULED = _STRICT.keys() | SUMS
