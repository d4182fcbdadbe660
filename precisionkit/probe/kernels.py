"""The kernels of a device that can be probed: numbers of one storage format go in and come out, carried in binary32."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from precisionkit.formats import Format
from precisionkit.ops._store import DTYPES

Dot = Callable[[Tensor, Tensor], Tensor]
"""From (m, n) and (n, p) to (m, p)."""
Convolution = Callable[[Tensor, Tensor], Tensor]
"""From images (b, c, h, w) and kernels (o, c, 3, 3) to (b, o, h, w): stride 1, padding 1."""
Rows = Callable[[Tensor], Tensor]
"""From (m, n) to (m, n), or to (m, 1) for reductions, each row for itself."""


@dataclass(frozen=True)
class Kernels:
    """What a device computes.

    Attributes
    ----------
    name : str
        The device, for messages.
    storage : Format
    dots : mapping of str to callable
        Every kernel that sums products.
    convolve : callable
    taps : mapping of str to int
        For a convolution among `dots`, over how many kernel taps its terms are spread, which a tensor core may take one by one.
    rows : mapping of str to callable
        Kernels that act on rows; names and meanings are those of `row_functions`.
    """

    name: str
    storage: Format
    dots: Mapping[str, Dot]
    convolve: Convolution
    rows: Mapping[str, Rows]
    taps: Mapping[str, int] = field(default_factory=dict)


def torch_kernels(device: torch.device, storage: Format) -> Kernels:
    """Take the kernels that torch runs on a device for a storage format."""
    dtype = DTYPES[storage]

    def on(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def run(*tensors: Tensor) -> Tensor:
            with torch.no_grad():
                return function(*(t.to(device=device, dtype=dtype) for t in tensors)).float().cpu()

        return run

    dots = {
        "matmul": on(torch.matmul),
        "linear": on(_linear),
        "conv2d 1x1": on(_conv1),
        "conv2d 3x3": on(_conv3),
        "bmm": on(_bmm),
    }
    rows = {name: on(function) for name, function in row_functions(dtype).items()}
    return Kernels(str(device), storage, dots, on(lambda x, w: F.conv2d(x, w, padding=1)), rows, taps={"conv2d 3x3": 9})


def _linear(a: Tensor, b: Tensor) -> Tensor:
    return F.linear(a, b.T.contiguous())


def _conv1(a: Tensor, b: Tensor) -> Tensor:
    """Rows as the positions of one image, columns as channels."""
    return F.conv2d(a.T[None, :, :, None].contiguous(), b.T[:, :, None, None].contiguous())[0, :, :, 0].T


def _conv3(a: Tensor, b: Tensor) -> Tensor:
    """Rows as images of 3x3 pixels, padded with channels of zeros."""
    missing = -a.shape[1] % 9
    a, b = F.pad(a, (0, missing)), F.pad(b, (0, 0, 0, missing))
    return F.conv2d(a.unflatten(1, (-1, 3, 3)).contiguous(), b.T.unflatten(1, (-1, 3, 3)).contiguous())[:, :, 0, 0]


def _bmm(a: Tensor, b: Tensor) -> Tensor:
    """As attention multiplies queries and keys."""
    return torch.bmm(a[None], b[None])[0]


def row_functions(dtype: torch.dtype) -> Mapping[str, Rows]:
    """What the kernels of `Kernels.rows` compute, in whatever dtype they are given, with parameters that are numbers of one dtype."""
    return {
        "sum": lambda x: x.sum(1, keepdim=True),
        "mean": lambda x: x.mean(1, keepdim=True),
        "batch_norm": lambda x: F.batch_norm(x, _spread(-0.7, 1.3, x, dtype), _spread(0.3, 2.7, x, dtype), training=False),
        "softmax": lambda x: torch.softmax(x, 1),
        "layer_norm": lambda x: F.layer_norm(x, (x.shape[1],)),
        "attention": _attend,
    }


def _attend(x: Tensor) -> Tensor:
    """Rows attend to one another; scaled down, so that no score overflows."""
    rows = (x * 2.0**-8)[None, None]
    return F.scaled_dot_product_attention(rows, rows, rows)[0, 0]


def _spread(low: float, high: float, x: Tensor, dtype: torch.dtype) -> Tensor:
    """One for each channel, few of them numbers of a format of 16 bits before they are rounded to it."""
    return torch.linspace(low, high, x.shape[1], device=x.device).to(dtype).to(x.dtype)
