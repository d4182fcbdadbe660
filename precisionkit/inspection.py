"""Look at a network, supported or not: every operator with its record, and what it costs."""

from __future__ import annotations

import torch

from precisionkit.capture import survey
from precisionkit.capture.moves import MOVES
from precisionkit.capture.reader import Seen
from precisionkit.data import Dataset
from precisionkit.errors import PrecisionKitError, UsageError, shown
from precisionkit.models import LoadedModel, Outline
from precisionkit.models.outline import Listed
from precisionkit.ops import BY_NAME
from precisionkit.report import ModelInfo
from precisionkit.report.inspect import InspectReport, Kind, Operation
from precisionkit.task import check_inputs, holds_tokens, model_info

_LARGEST = 2**27
"""Numbers of one input, half a gigabyte."""


def inspect(model: LoadedModel, input_shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> InspectReport:
    """Look at every operator of a network.

    Parameters
    ----------
    model : LoadedModel
    input_shape : tuple of int
        Without the batch.
    dtype : torch.dtype
        float32, or int64 for tokens.

    Raises
    ------
    UnusableModelError
        The network does not run on such an input or cannot be exported.
    """
    found = survey(model.module, input_shape, dtype)
    return InspectReport(
        model=model_info(model),
        input=found.input,
        input_shape=input_shape,
        input_dtype=str(dtype).removeprefix("torch."),
        supported=found.graph is not None,
        reason=found.reason,
        classes=None if found.graph is None else found.graph.classes,
        operations=tuple(map(_operation, found.seen)),
    )


def inspect_outline(outline: Outline, error: PrecisionKitError) -> InspectReport:
    """Show the operators of a file that could not be opened: those that are not supported, and the others as they are listed."""
    return InspectReport(
        model=ModelInfo(path=outline.path, sha256=outline.sha256, arch=outline.arch, parameters=outline.parameters),
        input=outline.input,
        input_shape=outline.input_shape,
        input_dtype=outline.input_dtype,
        supported=False,
        reason=str(error),
        classes=None,
        operations=tuple(map(_listed, outline.operators)),
    )


def _listed(operator: Listed) -> Operation:
    return Operation(
        name=operator.name,
        target=operator.target,
        shape=operator.shape,
        dtype=operator.dtype,
        kind="not supported" if operator.reason else "not looked at",
        record=None if operator.reason else "unread",
        parameters=0,
        entries=0,
        multiplications=0,
        inputs=operator.inputs,
        reason=operator.reason,
        source="",
    )


def _operation(seen: Seen) -> Operation:
    return Operation(
        name=seen.name,
        target=seen.target,
        shape=seen.shape,
        dtype=seen.dtype,
        kind=_kind(seen),
        record=seen.operator,
        parameters=seen.parameters,
        entries=seen.entries,
        multiplications=seen.multiplications,
        inputs=seen.inputs,
        reason=seen.reason,
        source=seen.source,
    )


def _kind(seen: Seen) -> Kind:
    """What an operator is, from what its record says."""
    if seen.operator is None:
        return "not supported"
    record = BY_NAME.get(seen.operator)
    if record is not None and record.products is not None:
        return "dot product"
    if record is None or seen.target in MOVES or not (record.stores or record.pointwise):
        return "choice or move"
    return "entry by entry" if record.pointwise else "sum, norm or softmax"


def input_of(
    model: LoadedModel, data: Dataset | None, shape: tuple[int, ...] | None, *, tokens: bool
) -> tuple[tuple[int, ...], torch.dtype]:
    """Shape and dtype of the inputs: as given, or of a data set's, or as the model says.

    Raises
    ------
    UsageError
        None of them says the shape.
    """
    if data is not None:
        check_inputs(model, data)
        return tuple(model.preprocess(data.images[:1]).shape[1:]), torch.int64 if holds_tokens(data) else torch.float32
    dtype = torch.int64 if tokens else model.input_dtype or torch.float32
    shape = shape or model.input_shape
    if shape is None:
        raise UsageError(
            f"The model '{shown(model.arch)}' does not say the shape of its inputs: give --input-shape, such as 3x224x224, or --data."
        )
    return shape, dtype


def parse_shape(text: str) -> tuple[int, ...]:
    """Read a shape such as ``3x224x224``, without the batch.

    Raises
    ------
    UsageError
        It is none, or of an input that is too large.
    """
    parts = text.split("x")
    if not all(part.isascii() and part.isdigit() and int(part[:10]) > 0 for part in parts):
        raise UsageError(f"The shape {shown(text)!r} of --input-shape is not of the form 3x224x224: sizes of one input, without the batch.")
    numbers = 1
    for part in parts:
        numbers *= int(part[:10])
    if numbers > _LARGEST:
        raise UsageError(f"An input of --input-shape {shown(text)} holds more than {_LARGEST:,} numbers: give a smaller one.")
    return tuple(map(int, parts))
