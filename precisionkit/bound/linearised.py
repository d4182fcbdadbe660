"""First-order numbers: what rounding errors do to the gaps as long as no neuron leaves its linear piece.  Never a verdict.

They show how far a sharper method could get: no sound worst-case method can do much better than the linearised worst case.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from precisionkit.bound.backward import Step, Trace, gap_errors
from precisionkit.bound.walk import walk
from precisionkit.enclosure import Bounded, Enclosure
from precisionkit.evaluate import Program

_TRACE_BYTES = 2**28
"""Size aimed at for what is kept of a batch."""


def linearised(program: Program, inputs: Tensor, classes: Tensor, failure: float) -> tuple[Tensor, Tensor]:
    """First-order errors of the gaps: in the worst case, and under the model of random rounding.

    Parameters
    ----------
    inputs : (batch, ...) tensor
        Numbers of the storage format.
    classes : (batch,) int64 tensor
    failure : float
        Probability with which the second may fail, to first order.

    Returns
    -------
    worst, random : (batch, classes) binary64 tensors
        ``sum |g_k| r_k``, and ``t sqrt(sum (g_k r_k)**2)`` with the errors that the model does not cover in the worst case.

    Notes
    -----
    Theorems 16 and 20 with every nonlinear operator replaced by its tangent at the centre, which is not proved.
    """
    deviate = math.sqrt(2 * math.log(2 * program.graph.classes / failure))
    kept = 64 * sum(math.prod(node.shape) for node in program.graph.nodes)
    worst, random = [], []
    with torch.no_grad(), torch.backends.cudnn.flags(enabled=False):
        size = max(1, _TRACE_BYTES // kept)
        for some, c in zip(inputs.split(size), classes.split(size), strict=True):
            trace, logits, *_ = walk(program, some, _Tangents())
            worst.append(gap_errors(trace, logits, c))
            random.append(gap_errors(trace, logits, c, deviate))
    return torch.cat(worst), torch.cat(random)


class _Tangents:
    """Every run is taken to reach a nonlinear operator at its centre."""

    def before(self, trace: Trace, name: str, enclosure: Enclosure, *, rectified: bool) -> Enclosure:
        """Forget the radius."""
        return Enclosure.exact(enclosure.centre)

    def after(self, trace: Trace, step: Step, result: Bounded, radius: Tensor) -> None:
        """Nothing to note."""
