"""Operators of one's own: records for operators that the toolkit does not know, checked and registered; docs/custom-operators.md.

An elementwise function is a `Function`, of which `function_operator` makes a record; any other operator is an `Operator`.
`check_operator` tries a record against its operator and its own parts, and `registered` makes it known within a block.
"""

from precisionkit.contracts import Contract
from precisionkit.custom.check import check_operator
from precisionkit.custom.load import load_operators
from precisionkit.custom.registry import registered
from precisionkit.custom.use import Custom, Use
from precisionkit.enclosure import Bounded, Enclosure
from precisionkit.ops import Operator
from precisionkit.ops._function import Function, Range, function_operator
from precisionkit.ops._store import internal_error, parameter_error
from precisionkit.ops.adjoint import at_rows, autograd_transpose, linear_by
from precisionkit.ops.record import every_activation
from precisionkit.outward import add_up, mul_up

__all__ = [
    "Bounded",
    "Contract",
    "Custom",
    "Enclosure",
    "Function",
    "Operator",
    "Range",
    "Use",
    "add_up",
    "at_rows",
    "autograd_transpose",
    "check_operator",
    "every_activation",
    "function_operator",
    "internal_error",
    "linear_by",
    "load_operators",
    "mul_up",
    "parameter_error",
    "registered",
]
