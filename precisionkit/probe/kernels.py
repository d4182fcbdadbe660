"""The kernels of a device that can be probed: numbers of one storage format go in and come out, carried in binary32."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor

from precisionkit.formats import Format
from precisionkit.ops._runs import DTYPES

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
        Among ``sum``, ``mean``, ``batch_norm``, ``softmax``, ``layer_norm``.
    """

    name: str
    storage: Format
    dots: Mapping[str, Dot]
    convolve: Convolution
    rows: Mapping[str, Rows]
    taps: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({"conv2d 3x3": 9}))


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
        "attention": on(_attention),
    }
    rows = {
        "sum": on(lambda x: x.sum(1, keepdim=True)),
        "mean": on(lambda x: x.mean(1, keepdim=True)),
        "batch_norm": on(_batch_norm),
        "softmax": on(lambda x: torch.softmax(x, 1)),
        "layer_norm": on(lambda x: F.layer_norm(x, (x.shape[1],))),
    }
    return Kernels(str(device), storage, dots, on(lambda x, w: F.conv2d(x, w, padding=1)), rows)


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


def _attention(a: Tensor, b: Tensor) -> Tensor:
    """The product of queries and keys, as attention computes it before the softmax."""
    return torch.bmm(a[None], b[None])[0]


def _batch_norm(x: Tensor) -> Tensor:
    """Means and variances that no format of 16 bits holds exactly, one channel each."""
    n = x.shape[1]
    mean, variance = (torch.linspace(low, high, n, device=x.device).to(x.dtype) for low, high in ((-0.7, 1.3), (0.3, 2.7)))
    return F.batch_norm(x, mean, variance, training=False)
