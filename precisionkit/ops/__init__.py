"""The operators that can be analysed: one record each, listed here and nowhere else."""

from __future__ import annotations

from precisionkit.ops.activation import RELU, SIGMOID
from precisionkit.ops.batch_norm import BATCH_NORM
from precisionkit.ops.conv2d import CONV2D
from precisionkit.ops.elementwise import ADD, DIV, MUL, RSUB, SUB
from precisionkit.ops.linear import ADDMM, LINEAR, MM
from precisionkit.ops.pool import ADAPTIVE_AVG_POOL2D, AVG_POOL2D, MAX_POOL2D, MEAN
from precisionkit.ops.record import Operator, run_rounded
from precisionkit.ops.resize import BILINEAR
from precisionkit.ops.shape import SHAPE_OPERATORS

OPERATORS: tuple[Operator, ...] = (
    LINEAR,
    ADDMM,
    MM,
    CONV2D,
    BATCH_NORM,
    RELU,
    SIGMOID,
    MAX_POOL2D,
    AVG_POOL2D,
    ADAPTIVE_AVG_POOL2D,
    MEAN,
    ADD,
    SUB,
    RSUB,
    MUL,
    DIV,
    BILINEAR,
    *SHAPE_OPERATORS,
)
"""Every operator, in the order of the documentation."""

BY_TARGET = {target: operator for operator in OPERATORS for target in operator.targets}
BY_NAME = {operator.name: operator for operator in OPERATORS}

SOFTMAX_TARGETS = (
    "aten.softmax.int",
    "aten._softmax.default",
    "aten.log_softmax.int",
    "aten._log_softmax.default",
)
"""Operators that keep the order of the classes: as the last of a network they are left out, and the logits before them decide."""

__all__ = ["BY_NAME", "BY_TARGET", "OPERATORS", "SOFTMAX_TARGETS", "Operator", "run_rounded"]
