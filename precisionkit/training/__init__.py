"""Training in pure half precision, beside binary32 and mixed precision.

Imports `precisionkit.data`, `precisionkit.models` and, to write files, `precisionkit.report`.
"""

from precisionkit.training.allocator import keep_freed_memory
from precisionkit.training.checkpoint import Epoch
from precisionkit.training.epsilon import EpsilonAnalysis, analyse_epsilon
from precisionkit.training.events import Event, Observed
from precisionkit.training.failure import Failure, find_failure
from precisionkit.training.precision import PRECISIONS, Precision
from precisionkit.training.repairs import Repair, mend_underflow
from precisionkit.training.run import DivergedError, Training
from precisionkit.training.settings import Settings
from precisionkit.training.train import Job, Output, Trained, train
from precisionkit.training.watch import Watch

__all__ = [
    "PRECISIONS",
    "DivergedError",
    "Epoch",
    "EpsilonAnalysis",
    "Event",
    "Failure",
    "Job",
    "Observed",
    "Output",
    "Precision",
    "Repair",
    "Settings",
    "Trained",
    "Training",
    "Watch",
    "analyse_epsilon",
    "find_failure",
    "keep_freed_memory",
    "mend_underflow",
    "train",
]
