"""First-order numbers: what rounding errors do to the gaps as long as no neuron leaves its linear piece.  Never a verdict.

They show how far a sharper method could get: no sound worst-case method can do much better than the linearised worst case.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from precisionkit.bound.backward import gap_errors
from precisionkit.bound.pulling import IN_BINARY64, direct_sums
from precisionkit.bound.trace import Step, Trace
from precisionkit.bound.walk import NEAREST, has_many_classes, walk
from precisionkit.enclosure import Bounded, Enclosure
from precisionkit.evaluate import Program

_TRACE_BYTES = 2**28
"""Size aimed at for what is kept of a batch."""


@dataclass(frozen=True)
class FirstOrder:
    """First-order errors of the gaps of a batch; all are (batch, classes) binary64 tensors.

    Attributes
    ----------
    worst : tensor
        ``sum |g_k| r_k``.
    deviation : tensor
        ``sqrt(sum (g_k r_k)**2)`` over the roundings that the model of random rounding covers: an upper bound of their standard
        deviation.
    bias : tensor
        ``sum |g_k| B_k`` over the rest.
    """

    worst: Tensor
    deviation: Tensor
    bias: Tensor

    def random(self, failure: float) -> Tensor:
        """Errors that are exceeded anywhere with at most this probability, under the model and to first order."""
        return self.bias + math.sqrt(2 * math.log(2 * self.worst.shape[1] / failure)) * self.deviation


def linearised(program: Program, inputs: Tensor, classes: Tensor) -> FirstOrder:
    """First-order errors of the gaps.

    Parameters
    ----------
    inputs : (batch, ...) tensor
        Numbers of the storage format.
    classes : (batch,) int64 tensor
        The class of each input whose gaps to the others are in question.

    Notes
    -----
    Theorems 16 and 20 with every nonlinear operator replaced by its tangent at the centre, which is not proved.
    """
    nearest = NEAREST if has_many_classes(program.graph) else None
    kept = 64 * sum(math.prod(node.shape) for node in program.graph.nodes)
    size = max(1, _TRACE_BYTES // kept)
    found = []
    with direct_sums():
        for some, c in zip(inputs.split(size), classes.split(size), strict=True):
            trace, logits, *_ = walk(program, some, Tangents(), IN_BINARY64)
            worst, bias, both = (gap_errors(trace, logits, c, deviate, nearest) for deviate in (None, 0.0, 1.0))
            found.append((worst, (both - bias).clamp_min(0), bias))
    return FirstOrder(*(torch.cat(parts) for parts in zip(*found, strict=True)))


class Tangents:
    """Every run is taken to reach a nonlinear operator at its centre."""

    def before(self, trace: Trace, name: str, enclosure: Enclosure, kinks: tuple[float, ...]) -> Enclosure:
        """Forget the radius."""
        return Enclosure.exact(enclosure.centre)

    def after(self, trace: Trace, step: Step, result: Bounded, radius: Tensor) -> None:
        """Nothing to note."""
