"""What a method says of the logits of a batch."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class LogitBounds:
    """Bounds on the logits, and on their differences, over every run of one program.

    Attributes
    ----------
    centre : (batch, classes) binary64 tensor
    radius : (batch, classes) binary64 tensor
        Every run's logits differ from the centre by at most this.
    classes : (batch,) int64 tensor
        The class c of each input whose gaps are bounded.
    gap_error : (batch, classes) binary64 tensor
        Entry j bounds how far ``z_c - z_j`` of any run differs from the rounded difference of the centres.
    overflow : (batch,) int64 tensor
        Place in the graph of the first node whose overflow is not excluded; -1 where none is left.  Nothing else is claimed
        of an input with such a node.
    certain_overflow : (batch,) int64 tensor
        Place of the first node whose store overflows in every run that reaches it with finite operands; -1 where there is none.
    """

    centre: Tensor
    radius: Tensor
    classes: Tensor
    gap_error: Tensor
    overflow: Tensor
    certain_overflow: Tensor
