"""Batch normalisation in binary16: where its variance overflows and where it becomes zero."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from precisionkit.reproduce.tables import Table
from precisionkit.training.batch_norm import SteppedBatchNorm, statistics
from precisionkit.training.kernels import StrictKernels

DEVIATIONS = (2.0**-14, 2.0**-10, 2.0**-6, 1.0, 64.0, 200.0, 300.0, 1024.0)
_EPSILON = 1e-3


def normalisation_table() -> Table:
    """Normalise a batch of 64 images of 8 x 8 normal numbers, of several deviations, in three ways.

    The exact result is computed in binary64 from the same binary16 numbers.
    """
    rows = []
    for deviation in DEVIATIONS:
        x = (torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * deviation).half()
        wide = x.double()
        variance = float(wide.var(correction=0))
        exact = (wide - wide.mean()) / (wide.var(correction=0) + _EPSILON).sqrt()
        single, half, stepped = _normalised(_norm(), x), _normalised(_norm().half(), x), _stepped(x)
        rows.append(
            (
                f"{deviation:.4g}",
                f"{variance:.4g}",
                f"{stepped[1]:.4g}",
                *(_error(y, exact) for y in (single, half, stepped[0])),
            )
        )
    note = (
        f"A batch of 64 x 8 x 8 normal numbers in binary16, epsilon {_EPSILON:g}. Exact variance; the variance of batch normalisation in "
        "which every step is stored in binary16; largest error of a normalised number of torch's kernel with parameters in binary32 (as "
        "published), with parameters in binary16 (its sums stay in binary32), and of the stepped one. Squares of deviations overflow from "
        "256 on and vanish up to 2^-12.5; the variance then is infinite and every output zero."
    )
    columns = ("deviation", "variance", "variance, stepped", "error, binary32 parameters", "error, binary16 parameters", "error, stepped")
    return Table("batch_norm", "Batch normalisation in pure 16 bits", note, columns, tuple(rows))


def _norm() -> nn.BatchNorm2d:
    return nn.BatchNorm2d(1, eps=_EPSILON, momentum=1.0)


def _normalised(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    y: Tensor = norm(x)
    return y.detach()


def _stepped(x: Tensor) -> tuple[Tensor, float]:
    """The normalised numbers, and the variance of the batch (the running one is made unbiased)."""
    with StrictKernels(), torch.no_grad():
        return SteppedBatchNorm(_norm().half())(x), float(statistics(x)[1])


def _error(y: Tensor, exact: Tensor) -> str:
    return f"{float((y.double() - exact).abs().max()):.2g}"
