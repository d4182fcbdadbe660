"""From the graph of a file to a program of torch functions.

The graph is walked once.  What depends on neither the input nor the batch is computed on the spot and becomes a constant; what
depends on the batch alone becomes sizes; every other node becomes a step.  Shapes come from running the steps on two batches
without numbers (torch's meta tensors), so no claim of the file about a shape is believed, and no memory is taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from precisionkit.errors import UnsupportedOperatorError, UnusableModelError, first_line
from precisionkit.models.files import shown
from precisionkit.models.onnx.graph import Node, Refused, Source
from precisionkit.models.onnx.layers import LAYERS
from precisionkit.models.onnx.lowering import Call, Operand, Use, Value
from precisionkit.models.onnx.moves import MOVES
from precisionkit.models.onnx.network import Program, Step, used
from precisionkit.models.onnx.pointwise import POINTWISE, TYPES
from precisionkit.models.onnx.resize import RESIZING
from precisionkit.models.onnx.rows import counts, on_rows
from precisionkit.models.onnx.sizes import ON_SHAPES, Dims, Size, at_batch, between, has_size, numel

OPERATORS = {**LAYERS, **MOVES, **POINTWISE, **RESIZING}
"""Lowerings of all supported operators by ONNX name; Constant, Shape and Size are part of the walk."""

WALKED = ("Constant", "Shape", "Size")
"""Operators that are part of the walk."""
UNKNOWN = (
    "is an operator that is not supported; certify the network that the file was exported from, as a module or as an exported program "
    "(.pt2), or export it of other operators"
)

_BATCHES = (9973, 10007)  # primes that no layer has as its width; meta tensors of any batch are free
_LARGEST = 2**26  # numbers of one result
_MOST_SIZES = 1000  # entries of an array of sizes
_FOLDED = 2**24  # numbers that computing constants may make, beside four for each number in the file
_WORK = 2**31  # products that computing constants may take
_TOO_MUCH = frozenset({"AveragePool", "Conv", "ConvTranspose", "Einsum", "MaxPool", "Resize", "Upsample"})
_MISFITS = (RuntimeError, ValueError, TypeError, IndexError, OverflowError, NotImplementedError, AssertionError)


def build(source: Source, input_shape: tuple[int, ...], where: str) -> Program:
    """Turn a graph into a program for images of one shape, whose batch is free.

    Parameters
    ----------
    source : Source
        The graph.
    input_shape : tuple of int
        Of one image, without the batch.
    where : str
        Names the file in error messages.
    """
    builder = _Builder(source, input_shape, where)
    for node in source.nodes:
        builder.add(node)
    return builder.program()


class _Builder:
    """Walks a graph."""

    def __init__(self, source: Source, input_shape: tuple[int, ...], where: str) -> None:
        self._source = source
        self._input_shape = input_shape
        self._where = where
        self.fixed = source.input_shape[0] if source.input_shape else None
        self._batches = _BATCHES if self.fixed is None else (self.fixed, _BATCHES[0])
        dtype = torch.float32 if source.floating else torch.int64
        self._values = {name: _constant(name, tensor) for name, tensor in source.constants.items()}
        self._values[source.input] = Value(source.input, (Size(1), *input_shape), dtype)
        try:
            self._check_size((Size(1), *input_shape))
        except Refused as reason:
            raise UnusableModelError(f"{where} cannot be imported: its input {reason}.") from None
        sample = [torch.empty(batch, *input_shape, dtype=dtype, device="meta") for batch in self._batches]
        self._samples: tuple[dict[str, Tensor], ...] = tuple({source.input: s} for s in sample)
        self._steps: list[Step] = []
        self._constants: dict[str, Tensor] = {}
        self._statistics: set[str] = set()
        self._no_steps: dict[str, Node] = {}
        self._names = {source.input, *source.constants, *(name for node in source.nodes for name in node.outputs)}
        self._made_of: dict[str, Tensor] = {}
        self._may_fold = _FOLDED + 4 * sum(tensor.numel() for tensor in source.constants.values())
        self._may_work = _WORK

    def add(self, node: Node) -> None:
        """Take in the next node; UnsupportedOperatorError names it when it cannot be imported."""
        use = Use(node, self._source.opset, tuple(self._values[name] if name else None for name in node.inputs), self.fixed)
        try:
            for name, value in zip(node.outputs, self._results(use), strict=False):
                if name:
                    self._values[name] = value
                    self._note(node, name, value)
        except Refused as reason:
            raise UnsupportedOperatorError(f"{self._where} cannot be imported: {node} {reason}.", node.name) from None
        except _MISFITS as error:
            reason_ = shown(first_line(error), 200)
            raise UnusableModelError(
                f"{self._where} does not fit together: {node} cannot take its operands ({reason_}); {_way_out(self.fixed)}."
            ) from error

    def _note(self, node: Node, name: str, value: Value) -> None:
        """Keep in mind which node made a value, if no step did; only numbers have a format that matters."""
        if value.dtype.is_floating_point and not (self._steps and name in self._steps[-1].outputs):
            self._no_steps[name] = node

    def _results(self, use: Use) -> Sequence[Value]:
        node, operands = use.node, use.operands
        if node.kind == "Constant":
            return [_constant(node.outputs[0], _held(node))]
        if node.kind in ("Shape", "Size"):
            return [_sizes(node.outputs[0], _shape_array(use))]
        if node.kind not in OPERATORS:
            raise Refused(UNKNOWN)
        if any(v is not None and v.sizes is not None for v in operands) and node.kind in ON_SHAPES and _leads(operands):
            return [_on_shapes(use)]
        lowered = on_rows(use) if counts(use) else OPERATORS[node.kind](use)
        if isinstance(lowered, Value):
            return [lowered]
        for operand in lowered.operands:
            if isinstance(operand, Value) and operand.sizes is not None:
                raise Refused("computes numbers from the batch size")
        if not any(isinstance(operand, Value) and operand.is_data for operand in lowered.operands) and not _follows(lowered.options):
            return self._folded(use, lowered)
        return self._step(use, lowered)

    def _folded(self, use: Use, call: Call) -> list[Value]:
        """Compute with constants, within what the file's own size allows."""
        if use.node.kind in _TOO_MUCH:
            raise Refused("computes with constants alone; fold it into a constant when the network is exported")
        operands = [_tensor(operand) for operand in call.operands]
        options = {name: at_batch(option, 1) for name, option in call.options.items()}
        shapes = _listed(call.function(*[o.to("meta") if isinstance(o, Tensor) else o for o in operands], **options))
        made = sum(shape.numel() for shape in shapes)
        self._may_fold -= made
        inner = (
            operands[0].shape[-1] if use.node.kind in ("MatMul", "Gemm") and isinstance(operands[0], Tensor) and operands[0].dim() else 1
        )
        self._may_work -= made * inner
        if self._may_fold < 0 or self._may_work < 0:
            raise Refused("makes constants that are too large for the size of the file")
        results = _listed(call.function(*operands, **options))
        return [_constant(name, result) for name, result in zip(use.node.outputs, results, strict=False)]

    def _step(self, use: Use, call: Call) -> list[Value]:
        outputs = tuple(name or self._derived(f"result {i}", torch.empty(0), use.node.name) for i, name in enumerate(use.node.outputs))
        operands = tuple(self._operand(use, call, i) for i in range(len(call.operands)))
        step = Step(use.node, call.function, operands, outputs, call.options)
        for sample, batch in zip(self._samples, self._batches, strict=True):
            for name in step.names:
                if name in self._constants and name not in sample:
                    sample[name] = self._constants[name].to("meta")
            step.run(sample, batch)
        self._steps.append(step)
        return [self._checked(name) for name in outputs]

    def _checked(self, name: str) -> Value:
        first, second = (sample[name] for sample in self._samples)
        if first.is_floating_point() and first.dtype != torch.float32:
            raise Refused(f"computes in {first.dtype}, but a float32 program is needed: export model.float()")
        dims = between(tuple(first.shape), tuple(second.shape), self._batches)
        self._check_size(dims)
        return Value(name, dims, first.dtype)

    def _check_size(self, dims: Dims) -> None:
        count = numel(dims)
        if (count.times * (self.fixed or 1) if isinstance(count, Size) else count) > _LARGEST:
            raise Refused(f"makes {count} numbers, more than the {_LARGEST} that are allowed for one image, or for the file's own batch")

    def _operand(self, use: Use, call: Call, index: int) -> str | float | int | None:
        operand = call.operands[index]
        if isinstance(operand, Value) and operand.is_data:
            return operand.name
        tensor = _tensor(operand)
        if not isinstance(tensor, Tensor):
            return tensor
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            raise Refused(f"has a constant in {tensor.dtype}, but a float32 program is needed: export model.float()")
        role = call.buffers.get(index)
        own = operand.name if isinstance(operand, Value) else None
        if own is not None and (role is None or own.endswith(role)):
            name = own
        else:
            name = self._derived(own or _source_of(use, tensor), tensor, role)
        self._constants[name] = tensor
        if role is not None:
            self._statistics.add(name)
        return name

    def _derived(self, name: str, tensor: Tensor, role: str | None) -> str:
        """A name for a constant that is made of the named one; the same for the same."""
        name = name if role is None else f"{name}.{role}"
        while name in self._names and not (name in self._made_of and torch.equal(self._made_of[name], tensor)):
            name += "'"
        self._names.add(name)
        self._made_of[name] = tensor
        return name

    def program(self) -> Program:
        """Return the whole, once its output is found to be that of a classifier."""
        output = self._values[self._source.output]
        shape = output.shape
        classes = shape[1] if len(shape) == 2 else None
        if not output.is_data or shape[:1] != (Size(1),) or not isinstance(classes, int) or output.dtype != torch.float32:
            raise UnusableModelError(
                f"{self._where} returns {_told(output)}, but logits of the shape (batch, classes) are needed: {_way_out(self.fixed)}."
            )
        steps = used(self._steps, output.name)
        names = {name for step in steps for name in step.names}
        kept = {name: tensor for name, tensor in self._constants.items() if name in names}
        return Program(
            steps=tuple(steps),
            input=self._source.input,
            output=output.name,
            input_shape=self._input_shape,
            classes=classes,
            constants=kept,
            statistics=frozenset(self._statistics.intersection(kept)),
            shapes={name: value.shape for name, value in self._values.items()},
            no_steps=self._no_steps,
            end=self._source.output,
        )


def _way_out(fixed: int | None) -> str:
    if fixed is None:
        return "export the network again, such that its first dimension, and only that, is the batch"
    return f"the file was made for a batch of {fixed}; export it with a free one, dynamic_shapes=({{0: torch.export.Dim('batch')}},)"


def _told(output: Value) -> str:
    if not output.is_data:
        return "nothing that depends on the input"
    return f"({', '.join(map(str, output.shape))}) as {output.dtype}"


def _constant(name: str, tensor: Tensor) -> Value:
    return Value(name, tuple(tensor.shape), tensor.dtype, tensor=tensor)


def _sizes(name: str, array: np.ndarray, dtype: torch.dtype = torch.int64) -> Value:
    """An array of numbers and sizes; a constant where no size follows the batch."""
    if array.size > _MOST_SIZES:
        raise Refused(f"makes a shape of {array.size} sizes")
    if has_size(array):
        return Value(name, array.shape, dtype, sizes=array)
    return _constant(name, torch.tensor(array.tolist(), dtype=dtype))


def _shape_array(use: Use) -> np.ndarray:
    shape: Dims = use.shape()
    if use.node.kind == "Size":
        shape = (numel(shape),)
    array = np.empty(len(shape), dtype=object)
    array[:] = shape
    if use.node.kind == "Size":
        return array.reshape(())
    return array[use.attribute("start", 0) : use.attribute("end")]


def _leads(operands: Sequence[Value | None]) -> bool:
    """Whether an operator works on sizes, and does not only take a shape beside the numbers of the input."""
    return not any(value is not None and value.is_data for value in operands) and (
        operands[0] is None or operands[0].tensor is None or not operands[0].tensor.is_floating_point()
    )


def _on_shapes(use: Use) -> Value:
    arrays = [None if value is None else _array(value) for value in use.operands]
    if sum(array.size for array in arrays if array is not None) > 10 * _MOST_SIZES:
        raise Refused("computes with too many sizes")
    result = ON_SHAPES[use.node.kind](use.node.attributes, *arrays)
    first = next(value for value in use.operands if value is not None)
    dtype = first.dtype
    if use.node.kind == "Cast":
        dtype = TYPES.get(use.attribute("to"), torch.float16)
        if dtype.is_floating_point or dtype == torch.bool:
            raise Refused("computes numbers from the batch size")
    elif use.node.kind == "Equal":
        dtype = torch.bool
    elif use.node.kind == "Where":
        dtype = use.operand(1).dtype
    return _sizes(use.node.outputs[0], result, dtype)


def _array(value: Value) -> np.ndarray:
    if value.sizes is not None:
        return value.sizes
    assert value.tensor is not None  # only constants are left
    if value.tensor.numel() > _MOST_SIZES or value.tensor.is_floating_point():
        raise Refused("computes with sizes and with other numbers at once")
    array = np.empty(value.tensor.shape, dtype=object)
    array[...] = np.array(value.tensor.tolist(), dtype=object)
    return array


def _follows(options: Mapping[str, Any]) -> bool:
    return any(at_batch(option, 2) != at_batch(option, 3) for option in options.values() if isinstance(option, tuple))


def _tensor(operand: Operand) -> Tensor | float | int | None:
    return operand.tensor if isinstance(operand, Value) else operand


def _listed(result: Any) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else list(result)


def _source_of(use: Use, tensor: Tensor) -> str:
    """The name of the operand that a constant was made of: the one with as many numbers."""
    for value in use.operands:
        if value is not None and value.tensor is not None and value.tensor.numel() == tensor.numel():
            return value.name
    return f"{use.node.outputs[0]}.constant"


def _held(node: Node) -> Tensor:
    """The value of a Constant."""
    for name, value in node.attributes.items():
        if isinstance(value, Tensor):
            return value
        if name.startswith("value_float"):
            return torch.tensor(value, dtype=torch.float32)
        if name.startswith("value_int"):
            return torch.tensor(value, dtype=torch.int64)
    raise Refused("holds no number")
