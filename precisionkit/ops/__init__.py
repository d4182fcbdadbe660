"""The operators that can be analysed: one record each, listed here and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from precisionkit.ops.activation import RELU
from precisionkit.ops.attention import ATTENTION, ATTENTION_SCORES, ATTENTION_WEIGHTS
from precisionkit.ops.batch_norm import BATCH_NORM
from precisionkit.ops.cast import CAST
from precisionkit.ops.conv import CONV1D, CONV2D, CONV3D, CONV_TRANSPOSES
from precisionkit.ops.elementwise import ADD, DIV, MUL, RSUB, SUB
from precisionkit.ops.functions import FUNCTIONS
from precisionkit.ops.linear import ADDMM, LINEAR, MM
from precisionkit.ops.masked import MASKED
from precisionkit.ops.matmul import MATMUL
from precisionkit.ops.normalise import NORMALISATIONS
from precisionkit.ops.pool import ADAPTIVE_AVG_POOL2D, AVG_POOL2D, MAX_POOL2D, MEAN, SUM
from precisionkit.ops.rearrange import REARRANGE
from precisionkit.ops.record import Operator, run_rounded
from precisionkit.ops.resize import BILINEAR
from precisionkit.ops.select import SELECTIONS
from precisionkit.ops.shape import SHAPE_OPERATORS
from precisionkit.ops.softmax import ATTENTION_LOGSUMEXP, LOG_SOFTMAX, LOGSUMEXP, SOFTMAX

OPERATORS: tuple[Operator, ...] = (
    LINEAR,
    ADDMM,
    MM,
    MATMUL,
    CONV1D,
    CONV2D,
    CONV3D,
    *CONV_TRANSPOSES,
    BATCH_NORM,
    *NORMALISATIONS,
    RELU,
    *FUNCTIONS,
    LOGSUMEXP,
    SOFTMAX,
    LOG_SOFTMAX,
    ATTENTION_SCORES,
    ATTENTION_LOGSUMEXP,
    ATTENTION_WEIGHTS,
    ATTENTION,
    MAX_POOL2D,
    AVG_POOL2D,
    ADAPTIVE_AVG_POOL2D,
    MEAN,
    SUM,
    ADD,
    SUB,
    RSUB,
    MUL,
    DIV,
    BILINEAR,
    *SELECTIONS,
    MASKED,
    REARRANGE,
    *SHAPE_OPERATORS,
    CAST,
)
"""Every operator, in the order of the documentation."""

BY_TARGET = {target: operator for operator in OPERATORS for target in operator.targets}
BY_NAME = {operator.name: operator for operator in OPERATORS}


@contextmanager
def extended(operators: Sequence[Operator]) -> Iterator[None]:
    """Let further operators be known within a block, in every thread; `precisionkit.custom.registered` checks them first."""
    names = {operator.name: operator for operator in operators}
    targets = {target: operator for operator in operators for target in operator.targets}
    BY_NAME.update(names)
    BY_TARGET.update(targets)
    try:
        yield
    finally:
        for known, own in ((BY_NAME, names), (BY_TARGET, targets)):
            for key in own:
                known.pop(key, None)


SOFTMAX_TARGETS = {"softmax": "aten.softmax.int", "log_softmax": "aten.log_softmax.int"}
"""Operators that keep the order of the classes: as the last of a network they are left out, and the logits before them decide."""

__all__ = ["BY_NAME", "BY_TARGET", "OPERATORS", "SOFTMAX_TARGETS", "Operator", "extended", "run_rounded"]
