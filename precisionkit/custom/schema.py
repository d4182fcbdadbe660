"""The operator of torch that a record is for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from precisionkit.custom.use import Use
from precisionkit.errors import InvalidOperatorError, shown
from precisionkit.ops import Operator
from precisionkit.user_code import brief


def torch_operator(record: Operator, target: str) -> Any:
    """Find an operator by its name, and see that it has the record's operands.

    Raises
    ------
    InvalidOperatorError
        There is none, or its tensors are others, or it does not return one tensor and leave its arguments alone.
    """
    if not re.fullmatch(r"\w+\.\w+\.\w+", target):
        raise InvalidOperatorError(
            f"The record of operator '{record.name}' has the target {shown(target)!r}; it must be of the form library.name.overload, "
            "such as mylib.my_act.default."
        )
    found: Any = torch.ops
    for part in target.split("."):
        try:
            found = getattr(found, part)
        except (AttributeError, RuntimeError):
            raise InvalidOperatorError(
                f"The record of operator '{record.name}' is for {target}, which torch does not have: import what defines it first."
            ) from None
    schema = found._schema
    tensors = {("*" if "List" in str(a.type) else "") + a.name for a in schema.arguments if "Tensor" in str(a.type)}
    if not tensors <= set(record.operands) or not {name.lstrip("*") for name in record.operands} <= {a.name for a in schema.arguments}:
        raise InvalidOperatorError(
            f"The record of operator '{record.name}' has the operands {', '.join(record.operands)}, but the tensors of {target} are "
            f"{', '.join(sorted(tensors)) or 'none'}: name those."
        )
    if not schema.returns or str(schema.returns[0].type) != "Tensor" or schema.is_mutable:
        raise InvalidOperatorError(
            f"The operator {target} returns no tensor, or writes into its arguments ({schema}): only one that gives a new tensor can be "
            "analysed."
        )
    return found


def call(operator: Any, record: Operator, use: Use, tensors: Sequence[Tensor | None]) -> Tensor:
    """Call an operator of torch on the operands of a use.

    Raises
    ------
    InvalidOperatorError
        It fails.
    """
    given: dict[str, Any] = dict(use.attributes)
    for place, name in enumerate(record.operands):
        if name.startswith("*"):
            given[name.lstrip("*")] = list(tensors[place:])
        elif tensors[place] is not None or name not in given:  # a number may stand for a tensor
            given[name] = tensors[place]
    positional = [given.pop(a.name, a.default_value) for a in operator._schema.arguments if not a.kwarg_only]
    try:
        result = operator(*positional, **given)
    except Exception as error:  # the user's own code may raise anything
        raise InvalidOperatorError(
            f"torch's operator {operator} fails with {brief(error)} on the use {use.shapes}, {dict(use.attributes)} of the record "
            f"'{record.name}': correct the use."
        ) from error
    first: Tensor = result[0] if isinstance(result, (tuple, list)) else result
    return first
