"""Run a classifier in half precision, and rerun in binary32 the rows whose half margin does not exceed a calibrated threshold.

What is guaranteed is a probability over inputs of one distribution, not a statement about one input, as `precisionkit.certify` makes;
docs/guard.md has the theorem.
"""

from precisionkit.guard.calibrate import Settings, calibrate, try_plan
from precisionkit.guard.guarded import GuardedHalf
from precisionkit.guard.monitor import DriftWarning, Statistics
from precisionkit.guard.save import load_guarded, read_plan, save_guarded
from precisionkit.guard.threshold import inputs_needed
from precisionkit.report.guard import GuardPlan, GuardReport

__all__ = [
    "DriftWarning",
    "GuardPlan",
    "GuardReport",
    "GuardedHalf",
    "Settings",
    "Statistics",
    "calibrate",
    "inputs_needed",
    "load_guarded",
    "read_plan",
    "save_guarded",
    "try_plan",
]
