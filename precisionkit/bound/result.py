"""What a method says of the logits of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from precisionkit.enclosure import Enclosure
from precisionkit.lemma import gaps, keeps_argmax, least_gaps


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
    failure : (batch,) binary64 tensor
        Probability, over the method's own random numbers, that any of these bounds is wrong; no rounding error is random here.
    """

    centre: Tensor
    radius: Tensor
    classes: Tensor
    gap_error: Tensor
    overflow: Tensor
    certain_overflow: Tensor
    failure: Tensor

    @classmethod
    def of(cls, logits: Enclosure, classes: Tensor, gap_error: Tensor, overflow: Tensor, certain_overflow: Tensor) -> LogitBounds:
        """Bounds that rest on no random numbers."""
        return cls(logits.centre, logits.radius, classes, gap_error, overflow, certain_overflow, torch.zeros_like(logits.centre[:, 0]))

    @classmethod
    def joined(cls, parts: Sequence[LogitBounds]) -> LogitBounds:
        """Bounds of several batches, one behind the other."""
        return cls(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(cls)))

    def rows(self, rows: slice) -> LogitBounds:
        """Bounds of some inputs."""
        return LogitBounds(*(getattr(self, field.name)[rows] for field in fields(self)))

    def keeps_class(self) -> Tensor:
        """Whether every run of the program predicts the class, by the repaired lemma; (batch,) bool tensor."""
        classes = self.classes.cpu().numpy()
        least = least_gaps(gaps(self.centre.cpu().numpy(), classes), self.gap_error.cpu().numpy())
        return torch.from_numpy(keeps_argmax(least, classes)).to(self.overflow.device) & (self.overflow < 0)

    def sharpened(self, rows: Tensor, other: LogitBounds) -> LogitBounds:
        """Take for some rows the smaller of these bounds and another method's; both hold.

        Parameters
        ----------
        rows : int64 tensor
            The rows that `other` bounds, in its order.
        other : LogitBounds
            Of these rows alone.
        """
        radius, gap_error, failure = self.radius.clone(), self.gap_error.clone(), self.failure.clone()
        overflow, certain = self.overflow.clone(), self.certain_overflow.clone()
        radius[rows] = torch.fmin(radius[rows], other.radius)
        gap_error[rows] = torch.fmin(gap_error[rows], other.gap_error)
        overflow[rows] = torch.where(other.overflow < 0, other.overflow, overflow[rows])
        certain[rows] = torch.maximum(certain[rows], other.certain_overflow)
        failure[rows] = failure[rows] + other.failure
        return replace(self, radius=radius, gap_error=gap_error, overflow=overflow, certain_overflow=certain, failure=failure)
