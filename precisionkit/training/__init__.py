"""Training in pure half precision, beside binary32 and mixed precision.

Imports `precisionkit.data`, `precisionkit.models` and, to write files, `precisionkit.report`.
"""

from precisionkit.training.allocator import keep_freed_memory
from precisionkit.training.checkpoint import Epoch
from precisionkit.training.precision import PRECISIONS, Precision
from precisionkit.training.processes import Team, team
from precisionkit.training.run import DivergedError, Run
from precisionkit.training.settings import KERNELS, OPTIMIZERS, Settings
from precisionkit.training.train import Place, Task, Trained, train

__all__ = [
    "KERNELS",
    "OPTIMIZERS",
    "PRECISIONS",
    "DivergedError",
    "Epoch",
    "Place",
    "Precision",
    "Run",
    "Settings",
    "Task",
    "Team",
    "Trained",
    "keep_freed_memory",
    "team",
    "train",
]
