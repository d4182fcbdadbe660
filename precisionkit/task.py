"""A model with its data and its arithmetic: what every command captures first, and tells in its report."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import torch

from precisionkit import theorems
from precisionkit.arithmetic import ANY, REFERENCE, Arithmetic
from precisionkit.bound.adjoint import model_of_rounding
from precisionkit.capture import capture
from precisionkit.data import Dataset
from precisionkit.errors import UnusableDataError, UnusableModelError
from precisionkit.evaluate import has_fast_run
from precisionkit.formats import BINARY32
from precisionkit.graph import Graph
from precisionkit.mixed import NOTHING, Keep
from precisionkit.models import LoadedModel
from precisionkit.report import ArithmeticInfo, DataInfo, ModelInfo

_NUMBERS, _TOKENS = "images or numbers", "integer tokens"


def captured(model: LoadedModel, data: Dataset, shape: tuple[int, ...]) -> Graph:
    """Capture the network for inputs of one shape, and check that data set and network belong together.

    Raises
    ------
    PrecisionKitError
        The network has operators that are not supported, or takes other inputs or has other classes than the data set.
    """
    check_inputs(model, data)
    try:
        graph = capture(model.module, shape, torch.int64 if holds_tokens(data) else torch.float32)
    except UnusableModelError as error:
        if model.input_shape is None or tuple(model.input_shape) == shape:
            raise
        given, wanted = ("x".join(map(str, s)) for s in (shape, model.input_shape))
        raise UnusableDataError(
            f"The data set '{data.name}' gives inputs of shape {given}, but the model '{model.arch}' takes {wanted}; "
            "use the model with the data set that it was trained for."
        ) from error
    check_labels(data, graph.classes)
    return graph


def check_inputs(model: LoadedModel, data: Dataset) -> None:
    """Check that a data set has what the model takes, images and numbers or tokens, and of one size.

    Raises
    ------
    UnusableDataError
        It has not.
    """
    if None in data.images.shape and not model.preprocess.gives_one_size:
        raise UnusableDataError(
            f"The images of '{data.name}' are of several sizes, but the model '{model.arch}' takes one: give --resize HEIGHTxWIDTH, or "
            "--resize N with --crop N."
        )
    if model.input_dtype is not None and (model.input_dtype == torch.int64) != holds_tokens(data):
        gives, takes = (_TOKENS, _NUMBERS) if holds_tokens(data) else (_NUMBERS, _TOKENS)
        raise UnusableDataError(f"The data set '{data.name}' gives {gives}, but the model '{model.arch}' takes {takes}: give it those.")


def holds_tokens(data: Dataset) -> bool:
    """Whether the inputs are integer tokens."""
    return np.issubdtype(data.images.dtype, np.integer) and data.images.dtype != np.uint8


def describe_inputs(model: LoadedModel, data: Dataset) -> str:
    """How the data become the input of both programs."""
    if holds_tokens(data):
        return "tokens as they are"
    given = "numbers as they are" if data.images.dtype.kind == "f" else model.preprocess.describe()
    return f"{given}, rounded in binary32"


def describe_weights(model: LoadedModel) -> dict[str, str]:
    """What became of weights that a file does not hold in binary32; nothing of others."""
    return {"weights": f"{model.stored} in the file, converted to binary32"} if model.stored else {}


def check_labels(data: Dataset, classes: int) -> None:
    """Check that a data set has no other classes than a network.

    Raises
    ------
    UnusableModelError
        It has.
    """
    if data.labels is None or not len(data.labels):
        return
    largest, smallest = int(data.labels.max()), int(data.labels.min())
    if largest >= classes or smallest < 0:
        label = largest if largest >= classes else smallest
        raise UnusableModelError(
            f"The data set '{data.name}' has the label {label}, but the model has {classes} classes, 0 to {classes - 1}; "
            "use the model with the data set that it was trained for."
        )


def model_info(model: LoadedModel) -> ModelInfo:
    """Describe the model."""
    return ModelInfo(path=model.path, sha256=model.sha256, arch=model.arch, parameters=model.parameters)


def data_info(data: Dataset) -> DataInfo:
    """Describe the data set."""
    return DataInfo(name=data.name, split=data.split, inputs=len(data.images), sha256=data.sha256)


def describe_run(arithmetic: Arithmetic, emulate: str | None, *, native: bool) -> str:
    """How the half run is made."""
    if native:
        return "the device's half kernels"
    if emulate is not None or not has_fast_run(arithmetic):
        return f"emulated bit for bit, {emulate or ('sequential' if arithmetic.order == ANY else arithmetic.order.name)}"
    return "binary32 kernels, " + ("in another batch size" if arithmetic.storage == BINARY32 else "one rounding each")


def arithmetic_info(
    arithmetic: Arithmetic, graph: Graph, *, probable: bool = False, rests_on: str = "", keep: Keep = NOTHING
) -> ArithmeticInfo:
    """Describe both programs' arithmetic, with everything that is assumed; `rests_on` is what `theorems_used` says."""
    return ArithmeticInfo(
        storage=arithmetic.storage.name,
        accumulate=arithmetic.accumulate.name,
        order=arithmetic.order.name,
        fuse="epilogue" if arithmetic.fused else "none",
        reference=REFERENCE.name,
        assumptions=(*_assumptions(arithmetic, graph, probable=probable), *_kept(keep), *([rests_on] if rests_on else [])),
        kept=tuple(sorted(keep.nodes)),
        kept_sums=tuple(sorted(keep.sums)),
    )


def _kept(keep: Keep) -> tuple[str, ...]:
    """What the half program keeps, in words."""
    whole = (
        f"The half program keeps {_named(keep.nodes)} in binary32: weights, sums and results are as in the reference program; what other "
        "nodes read of them is rounded once, and what rounds nothing has the format of what it reads.",
    )
    sums = (f"The half program sums the products of {_named(keep.sums)} in binary32.",)
    return (*(whole if keep.nodes else ()), *(sums if keep.sums else ()))


def _named(names: Collection[str]) -> str:
    first, more = ", ".join(sorted(names)[:5]), len(names) - 5
    return f"{len(names)} node{'s' * (len(names) > 1)} ({first}{f' and {more} more' if more > 0 else ''})"


def theorems_used(arithmetic: Arithmetic, graph: Graph, methods: Collection[str], *, sketched: bool) -> str:
    """Which theorems the bounds of a report rest on, and what they are worth, in one sentence.

    Parameters
    ----------
    methods : collection of str
        That some input was bounded by.
    sketched : bool
        Some bound rests on a sketch.
    """
    order = arithmetic.order
    unused = {4: not order.is_tree, 5: order.tensor_core is None, 6: not arithmetic.stores_before_bias, 21: not order.parts}
    used = set(theorems.BASIC).union(*(theorems.numbers_in(node.record.source) for node in graph.nodes))
    used |= theorems.SUBSTITUTED if set(methods) - {"interval"} else set()
    used |= theorems.SKETCHED if sketched else set()
    used |= theorems.RANDOM if "adjoint" in methods else set()
    proved = theorems.worth(number for number in used if not unused.get(number))
    names = {node.operator for node in graph.nodes if not theorems.numbers_in(node.record.source)}
    unproved = f"; unproved: {', '.join(sorted(names))}" if names else ""
    return f"Under these the bounds hold by theorems of proofs/bounds.md, proved: {proved}{unproved} (proofs/README.md)."


def _assumptions(arithmetic: Arithmetic, graph: Graph, *, probable: bool) -> tuple[str, ...]:
    """Of both programs, and of the input."""
    removed = ", ".join(target.removeprefix("aten.").split(".")[0].lstrip("_") for target in graph.removed)
    decided = (f"Decided on the logits, before {removed}.",) if removed else ()
    model = (model_of_rounding(arithmetic),) if probable else ()
    alone = ("The model fixes the size of its batch; what is said holds for images that are run one by one.",) if graph.alone else ()
    return (
        *arithmetic.assumptions,
        *dict.fromkeys(node.record.assumption for node in graph.nodes if node.record.assumption),
        "The reference program stores and sums in binary32 (no TF32), in any order, under the same assumptions.",
        "Both programs start from the same preprocessed binary32 input and binary32 weights, which the half program rounds once.",
        "A prediction is the first index among the largest logits.",
        "The bounds are computed in IEEE binary64 and binary32 by direct sums, with subnormal numbers kept.",
        *decided,
        *alone,
        *model,
    )
