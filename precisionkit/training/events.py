"""What is lost in a training step."""

from __future__ import annotations

import msgspec

LOST = 0.5
"""Share of a tensor's absolute sum from which on its loss is an event."""
FATAL = ("overflow", "division by zero", "invalid")


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Something that finite, exact numbers did not survive.

    Attributes
    ----------
    kind : str
        ``overflow``, ``division by zero``, ``invalid`` (NaN); ``underflow``: half of a gradient's or a state's absolute sum became zero;
        ``lost update``: half of the absolute sum of a parameter's updates was less than half an ulp of its weights.
    phase : str
        ``forward``, ``backward`` or ``update``.
    operator : str
        Of torch.
    tensor : str
        What it computed, in words.
    module : str
        The module that it belongs to, empty where it is none's.
    entries, of : int
        How many numbers it happened to, of how many.
    largest : float
        Largest magnitude of the operator's finite results, computed in binary32.
    lost : float
        Share of the absolute sum that was lost, for the last two kinds.
    """

    kind: str
    phase: str
    operator: str
    tensor: str
    module: str
    entries: int
    of: int
    largest: float
    lost: float

    @property
    def fatal(self) -> bool:
        """Whether a number is no longer finite."""
        return self.kind in FATAL

    def describe(self) -> str:
        """Say it in one sentence."""
        where = f"{self.tensor} ({self.operator}, {self.phase})"
        count = f"{self.entries} of {self.of} numbers"
        if self.kind == "underflow":
            return f"underflow in {where}: {count} became zero, {self.lost:.0%} of their absolute sum"
        if self.kind == "lost update":
            return f"lost update of {where}: {count} moved by less than half an ulp, {self.lost:.0%} of the absolute sum of updates"
        return f"{self.kind} in {where}: {count}; the largest finite magnitude is {self.largest:.3g}"


class Observed(msgspec.Struct, frozen=True, kw_only=True):
    """An event and the step that it was in, counted from 1."""

    epoch: int
    step: int
    event: Event
