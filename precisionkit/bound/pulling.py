"""The arithmetic in which functionals are pulled back, and what their magnitudes are weighted with at each node.

Pulling back is the largest part of the work.  Its own rounding is charged to the local errors: ``k v |A| e`` at a node whose
operands deviate by e, beside fresh errors of about ``n v |A| |x|`` for a program that sums in binary32.  So binary32 is hardly less
sharp than binary64, and several times faster.  Proof: proofs/bounds.md, theorem 16.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from precisionkit.evaluate import Program, ieee_binary32
from precisionkit.ops.adjoint import Lines
from precisionkit.outward import TINY, U, add_up, hypot_up, mul_up, narrowed_up

_LARGEST = 2**16
"""Entries of a tensor up to which binary32 row sums lose little: 2**-7, and 2**-6 more with one slope.  Theorem 19 and
`substitution.CONFIRMED` need less than 2**-5 in all."""


@dataclass(frozen=True)
class Pulling:
    """An arithmetic of the analysis.

    Attributes
    ----------
    unit : float
        Unit roundoff.
    tiny : float
        No result below the normal range is off by more.
    """

    dtype: torch.dtype
    unit: float
    tiny: float

    def weighted(self, g: Tensor, values: Tensor, rows: Tensor) -> Tensor:
        """Sum of the products of each row with the values of its image, computed in this format, returned in binary64."""
        if values.shape[0] == 1:
            return (g.flatten(1) @ values.flatten()).double()
        return (g * values[rows]).flatten(1).sum(1).double()

    def sum_up(self, g: Tensor, values: Tensor, rows: Tensor) -> Tensor:
        """The same, rounded up save below the normal range; both factors are non-negative."""
        return self.weighted(g, values, rows) * (1 + 2 * (g[0].numel() + 4) * self.unit)


IN_BINARY64 = Pulling(torch.float64, U, TINY)
IN_BINARY32 = Pulling(torch.float32, 2.0**-24, 2.0**-149)


def pulling_for(program: Program) -> Pulling:
    """Binary32, unless the program's tensors are so large that the sums would lose too much."""
    return IN_BINARY32 if program.graph.largest <= _LARGEST else IN_BINARY64


@contextmanager
def direct_sums() -> Iterator[None]:
    """Have torch compute the analysis by direct sums in the formats that it names: no Winograd, no TF32, no bfloat16."""
    with ieee_binary32(), torch.no_grad(), torch.backends.cudnn.flags(enabled=False), torch.backends.nnpack.flags(enabled=False):
        yield


@dataclass(frozen=True)
class Errors:
    """Local errors of a node's coordinates, in binary64.

    Attributes
    ----------
    error : (batch, ...) tensor
        All of it.
    unbiased, bias : (batch, ...) tensors
        The same in two parts: roundings of mean zero under the model of random rounding, and the rest.
    """

    error: Tensor
    unbiased: Tensor
    bias: Tensor

    def plus(self, other: Errors) -> Errors:
        """Of both, at the same coordinates."""
        return Errors(add_up(self.error, other.error), hypot_up(self.unbiased, other.unbiased), add_up(self.bias, other.bias))

    def times(self, factor: Tensor) -> Errors:
        """Times a non-negative factor."""
        return Errors(*(mul_up(factor, part) for part in (self.error, self.unbiased, self.bias)))


@dataclass(frozen=True)
class Weights:
    """What a functional's entries are weighted with: `Errors` in the format of pulling back, rounded up.

    Attributes
    ----------
    error, bias : (batch, ...) tensors
        For the magnitudes.
    variance : (batch, ...) tensor
        For the squares: the squares of the unbiased errors.
    largest : float
        The largest variance.
    absorbed : frozenset of str
        Nodes whose local errors are counted here.
    """

    error: Tensor
    bias: Tensor
    variance: Tensor
    largest: float
    absorbed: frozenset[str]

    @classmethod
    def of(cls, pulling: Pulling, errors: Errors, absorbed: frozenset[str]) -> Weights:
        """Round up."""
        variance = mul_up(errors.unbiased, errors.unbiased)
        error, bias, squares = (narrowed_up(part, pulling.dtype) for part in (errors.error, errors.bias, variance))
        return cls(error, bias, squares, float(variance.amax()), absorbed)


@dataclass(frozen=True)
class NarrowLines:
    """`Lines` in the format of pulling back; the slopes are numbers of it, the offsets are rounded up.

    Attributes
    ----------
    middle : tensor
        Between ``-under`` and ``above``, rounded to nearest.
    symmetric : Weights
        Of the node when functionals pass it with one slope: half the distance between ``-under`` and ``above`` is counted with the
        local errors, and so are those of an operand that the node absorbs.
    """

    upper: Tensor
    lower: Tensor
    above: Tensor
    below: Tensor
    middle: Tensor
    symmetric: Weights

    @classmethod
    def of(cls, pulling: Pulling, lines: Lines, errors: Errors, absorbed: frozenset[str]) -> NarrowLines:
        """Convert; `errors` are the node's, and those of what it absorbs."""
        half = mul_up(add_up(lines.above, lines.under), 0.5 * (1 + 2.0**-50))
        return cls(
            lines.upper.to(pulling.dtype),
            lines.lower.to(pulling.dtype),
            narrowed_up(lines.above, pulling.dtype),
            narrowed_up(lines.below, pulling.dtype),
            ((lines.above - lines.under) / 2).to(pulling.dtype),
            Weights.of(pulling, errors.plus(Errors(half, torch.zeros_like(half), half)), absorbed),
        )
