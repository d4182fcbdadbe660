"""Check a record of the user's own against its operator and its own parts; raised are single sentences with the values.

What is tried can refute a record and not prove it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from precisionkit.arithmetic import Arithmetic, parse_arithmetic
from precisionkit.bound.pulling import direct_sums
from precisionkit.custom.derivatives import check_derivatives
from precisionkit.custom.enclosures import check_around, check_meaning, check_points
from precisionkit.custom.schema import torch_operator
from precisionkit.custom.tried import Tried
from precisionkit.custom.use import FAMILIES, Use, uses_of
from precisionkit.errors import InvalidOperatorError, PrecisionKitError
from precisionkit.ops import Operator
from precisionkit.user_code import brief

ARITHMETICS: tuple[Arithmetic, ...] = (
    *(parse_arithmetic(storage) for storage in ("fp16", "bf16", "fp32")),
    parse_arithmetic("fp16", "fp16", "pairwise"),
)


def check_operator(record: Operator, *uses: Use) -> None:
    """Check a record.

    On every use, with numbers of several sizes: `apply`, `exact` and torch's operator mean the same; the error rule encloses what runs
    give, from exact operands and from anywhere around them, in every storage format; `linear` and `transpose` are derivatives at the
    centre and each other's transpose, row by row; what is beyond first order, and their own rounding, is covered.

    Parameters
    ----------
    record : Operator
    uses : Use
        May be left out for an operator of one operand.

    Raises
    ------
    InvalidOperatorError
        Something is wrong, or nothing was claimed of any number that was tried.
    """
    _check_parts(record)
    operators = [torch_operator(record, target) for target in record.targets]
    for use in uses_of(record, uses):
        try:
            claimed = _try(record, use, operators)
        except PrecisionKitError:
            raise
        except Exception as error:  # the user's own code may return anything
            raise InvalidOperatorError(
                f"Checking the record of operator '{record.name}' on the use {use.shapes}, {dict(use.attributes)} failed with "
                f"{brief(error)}: correct what its functions return."
            ) from error
        if not claimed:
            raise InvalidOperatorError(
                f"The error rule of operator '{record.name}' claims nothing of any number tried: its bounds are infinite or exclude no "
                "overflow; if it is not defined everywhere, say where, with low and high of Use."
            )


def _try(record: Operator, use: Use, operators: list[Any]) -> int:
    """Check one use; returns for how many images something was claimed."""
    if objection := record.check(use.attributes, use.shapes):
        raise InvalidOperatorError(f"The record of operator '{record.name}' does not support its own use {use.shapes}: {objection}.")
    claimed = 0
    with direct_sums():
        for arithmetic in ARITHMETICS:
            for family in FAMILIES:
                tried = Tried.drawn(record, use, operators, arithmetic, family, np.random.default_rng([1, len(family)]))
                check_meaning(tried)
                claimed += check_points(tried)
                check_derivatives(tried)
                check_around(tried)
    return claimed


def _check_parts(record: Operator) -> None:
    """See that the record has the parts that one of the user's own needs, and no others."""
    name = record.name
    if not name.isidentifier():
        raise InvalidOperatorError(f"The name '{name}' of a record is no identifier: choose one such as my_act.")
    if record.hidden or record.statistics or record.relax is not None:
        raise InvalidOperatorError(
            f"The record of operator '{name}' has statistics or lines (hidden, statistics, relax), which records of one's own do not have: "
            "bound what is beyond first order by second_order."
        )
    for part in ("linear", "transpose"):
        if getattr(record, part) is None:
            raise InvalidOperatorError(f"The record of operator '{name}' has no {part}: give the derivative at the centre.")
    if any(operand.startswith("*") for operand in record.operands[:-1]):
        raise InvalidOperatorError(f"The record of operator '{name}' has a list of tensors that is not its last operand: name it last.")
