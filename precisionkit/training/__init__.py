"""Training in pure half precision, beside binary32 and mixed precision.

Imports `precisionkit.data`, `precisionkit.models` and, to write files, `precisionkit.report`.
"""

from precisionkit.training.allocator import keep_freed_memory
from precisionkit.training.checkpoint import Epoch
from precisionkit.training.epsilon import EpsilonAnalysis, analyse_epsilon
from precisionkit.training.failure import Failure, Repair, find_failure, mend_underflow
from precisionkit.training.precision import PRECISIONS, Precision
from precisionkit.training.processes import Team, team
from precisionkit.training.run import DivergedError, Run
from precisionkit.training.settings import KERNELS, OPTIMIZERS, Settings
from precisionkit.training.train import Observed, Place, Task, Trained, train
from precisionkit.training.watch import Event, Watch

__all__ = [
    "KERNELS",
    "OPTIMIZERS",
    "PRECISIONS",
    "DivergedError",
    "Epoch",
    "EpsilonAnalysis",
    "Event",
    "Failure",
    "Observed",
    "Place",
    "Precision",
    "Repair",
    "Run",
    "Settings",
    "Task",
    "Team",
    "Trained",
    "Watch",
    "analyse_epsilon",
    "find_failure",
    "keep_freed_memory",
    "mend_underflow",
    "team",
    "train",
]
