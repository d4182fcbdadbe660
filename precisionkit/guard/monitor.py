"""Whether a guarded model falls back as often as its calibration predicts: rows are counted in windows."""

from __future__ import annotations

import threading
import warnings
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from precisionkit.report import GuardPlan

State = Literal["expected", "fewer", "more"]


class DriftWarning(UserWarning):
    """A guarded model falls back more or less often than its calibration predicts: the inputs have another distribution."""


@dataclass(frozen=True)
class Statistics:
    """What a guarded model has counted.

    Attributes
    ----------
    rows, fallen_back : int
        In all.
    windows, unexpected : int
        Complete windows, and those whose count of fall-backs was not expected.
    state : str
        Of the last complete window.
    """

    rows: int = 0
    fallen_back: int = 0
    windows: int = 0
    unexpected: int = 0
    state: State = "expected"

    @property
    def share(self) -> float:
        """Share of the rows that fell back."""
        return self.fallen_back / self.rows if self.rows else 0.0


class Monitor:
    """Counts rows and fall-backs; threads may share it."""

    def __init__(self, plan: GuardPlan) -> None:
        self._plan = plan
        self._lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        """Forget everything that was counted."""
        with self._lock:
            self._statistics, self._rows, self._fallen_back = Statistics(), 0, 0

    @property
    def statistics(self) -> Statistics:
        """What was counted."""
        return self._statistics

    def count(self, fallen_back: NDArray[np.bool_]) -> None:
        """Count rows, each of which fell back or did not; warn where a window changes the state."""
        told: list[str] = []
        with self._lock:
            while len(fallen_back):
                part, fallen_back = np.split(fallen_back, [self._plan.window - self._rows])
                told += self._add(len(part), int(part.sum()))
        for text in told:
            warnings.warn(text, DriftWarning, stacklevel=2)

    def _add(self, rows: int, fallen_back: int) -> list[str]:
        """Count rows of one window, and return what is to be told when it is complete."""
        self._rows, self._fallen_back = self._rows + rows, self._fallen_back + fallen_back
        before = self._statistics
        self._statistics = replace(before, rows=before.rows + rows, fallen_back=before.fallen_back + fallen_back)
        if self._rows < self._plan.window:
            return []
        found, self._rows, self._fallen_back = self._fallen_back, 0, 0
        low, high = self._plan.expected
        state: State = "fewer" if found < low else "more" if found > high else "expected"
        counted = self._statistics
        self._statistics = replace(counted, windows=counted.windows + 1, unexpected=counted.unexpected + (state != "expected"), state=state)
        return [self._told(state, found)] if state != before.state else []

    def _told(self, state: State, found: int) -> str:
        plan = self._plan
        rows = f"{found:,} of the last {plan.window:,} rows fell back to fp32"
        if state == "expected":
            return f"{rows}, as many as the calibration predicts again."
        return (
            f"{rows}, {state} than the {plan.expected[0]:,} to {plan.expected[1]:,} that the calibration predicts (false alarms: "
            f"{plan.false_alarm:g} a window): the inputs have another distribution, so the risk of {plan.risk:g} is not known to hold; "
            "calibrate again on inputs of today."
        )

    def __reduce__(self) -> tuple[type[Monitor], tuple[GuardPlan]]:
        return Monitor, (self._plan,)  # a copy of a model has counted nothing, and a lock cannot be copied
