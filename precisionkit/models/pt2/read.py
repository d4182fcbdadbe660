"""From the bytes of an exported program to a module."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import msgspec
import torch
from torch import Tensor

from precisionkit.errors import UnusableModelError
from precisionkit.models.archive import Archive
from precisionkit.models.files import ModelFile, shown
from precisionkit.models.pt2.dry_run import LARGEST, dry_run
from precisionkit.models.pt2.module import ProgramModule
from precisionkit.models.pt2.schema import (
    DTYPES,
    MAJOR,
    Header,
    InputSpec,
    Nodes,
    OutputSpec,
    Program,
    Size,
    TensorMeta,
    UserSpec,
    damaged,
    decode,
)
from precisionkit.models.pt2.steps import read_steps
from precisionkit.models.pt2.weights import CONSTANTS, RENEW, WEIGHTS, read_tensors

_GRAPH = "models/model.json"
_OLD = "serialized_exported_program.json"
_LARGEST_GRAPH = 64 << 20
_MOST_NODES = 20_000
_BATCHES = (3, 1)
"""Sizes of the batch in dry runs; with one image more tensors are contiguous, and fewer copies are made."""


@dataclass(frozen=True)
class OpenedProgram:
    """A program ready to run.

    Attributes
    ----------
    module : ProgramModule
        Takes a batch of images.
    input_shape : tuple of int
        Without the batch.
    classes : int
        Number of outputs.
    input_dtype : torch.dtype
    """

    module: ProgramModule
    input_shape: tuple[int, ...]
    classes: int
    input_dtype: torch.dtype


@dataclass(frozen=True)
class _Signature:
    """Names of the input and output in the graph, and of the tensors in the graph to those in the module."""

    start: str
    output: str
    names: Mapping[str, str]


@dataclass(frozen=True)
class Unpacked:
    """What a file says, before any operator is looked at.

    Attributes
    ----------
    archive : Archive
    graph : Nodes
    signature : Signature
    dtype : torch.dtype
    shape : tuple of int
        Of the input, without the batch.
    """

    archive: Archive
    graph: Nodes
    signature: _Signature
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def start(self) -> str:
        """Name of the input."""
        return self.signature.start


def open_program(file: ModelFile, where: str) -> Unpacked:
    """Unpack a file; UnusableModelError where it is damaged, or no program of one input and one result."""
    archive = _archive(file, where)
    program = _program(archive, where)
    graph = program.graph_module.graph
    signature = _signature(program.graph_module.signature.input_specs, program.graph_module.signature.output_specs, where)
    dtype, shape = _input(graph.tensor_values.get(signature.start), where)
    if not 0 < len(graph.nodes) <= _MOST_NODES:
        raise damaged(where, f"it has {len(graph.nodes)} operators, and 1 to {_MOST_NODES} are read")
    return Unpacked(archive, graph, signature, dtype, shape)


def read_weights(file: ModelFile) -> dict[str, Tensor]:
    """Return the parameters and buffers of an exported program; its graph is not looked at."""
    where = f"The model file {file.path}"
    return read_tensors(_archive(file, where), WEIGHTS, where)


def read_program(file: ModelFile) -> OpenedProgram:
    """Return an exported program as a module; UnusableModelError in one sentence for what is not read."""
    where = f"The model file {file.path}"
    unpacked = open_program(file, where)
    signature, dtype, shape = unpacked.signature, unpacked.dtype, unpacked.shape
    steps = read_steps(unpacked.graph.nodes, (signature.start, *signature.names), where)
    if all(signature.output not in step.names for step in steps):
        raise damaged(where, f"its output {shown(signature.output)!r} is the result of no operator")
    held = _named_tensors(unpacked.archive, signature.names.values(), where)
    weights = {name: held[target] for name, target in signature.names.items()}
    runs = [dry_run(steps, signature.start, signature.output, ((n, *shape), dtype), weights, where) for n in _BATCHES]
    module = ProgramModule(
        steps,
        signature.start,
        signature.output,
        held,
        signature.names,
        copies_input=any(run.writes_input for run in runs),
        input_shape=shape,
        where=where,
    )
    given = torch.float32 if dtype.is_floating_point else torch.int64
    return OpenedProgram(module, shape, _classes([run.shape for run in runs], where), given)


def _archive(file: ModelFile, where: str) -> Archive:
    archive = Archive(file.data, where)
    archive.check()
    if _OLD in archive:
        raise UnusableModelError(
            f"{where} is an exported program of PyTorch before 2.8, with pickled weights, which are not opened: {RENEW}."
        )
    if _GRAPH not in archive:
        raise UnusableModelError(
            f"{where} is an exported program without {_GRAPH}, so it holds compiled code or models of other names; "
            "save one torch.export.ExportedProgram with torch.export.save."
        )
    if "byteorder" in archive and archive.read("byteorder", 16) != b"little":
        raise UnusableModelError(f"{where} was written in another byte order than this machine's: save it again on this kind of machine.")
    return archive


def _program(archive: Archive, where: str) -> Program:
    data = archive.read(_GRAPH, _LARGEST_GRAPH + 1)
    if len(data) > _LARGEST_GRAPH:
        raise UnusableModelError(f"{where} holds a graph of more than {_LARGEST_GRAPH} bytes and is not opened; export a smaller model.")
    version = decode(data, Header, _GRAPH, where).schema_version
    if version.major != MAJOR:
        raise UnusableModelError(
            f"{where} is written in version {version.major}.{version.minor} of PyTorch's schema, but version {MAJOR} is read: "
            "export it with another version of PyTorch, or update precisionkit."
        )
    return decode(data, Program, _GRAPH, where)


def _signature(inputs: Sequence[InputSpec], outputs: Sequence[OutputSpec], where: str) -> _Signature:
    names: dict[str, str] = {}
    starts = []
    for spec in inputs:
        tensor = spec.parameter or spec.buffer or spec.tensor_constant
        if spec.constant_input is not None:
            continue  # its value is a part of the graph
        if tensor is None:
            starts.append(_tensor_name(spec.user_input))
        elif tensor.arg.name in names:
            raise damaged(where, f"the input {shown(tensor.arg.name)!r} is named twice")
        else:
            names[tensor.arg.name] = tensor.target
    if any(spec.buffer_mutation is not None or spec.parameter_mutation is not None for spec in outputs):
        raise UnusableModelError(f"{where} changes its weights when it runs: call model.eval() before torch.export.export.")
    results = [_tensor_name(spec.user_output) for spec in outputs if spec.user_input_mutation is None]
    if len(starts) != 1 or starts[0] is None:
        raise UnusableModelError(f"{where} is a program of {len(starts)} inputs, but a classifier has one: the images.")
    if len(results) != 1 or results[0] is None:
        raise UnusableModelError(f"{where} is a program of {len(results)} results, but a classifier has one: a tensor of logits.")
    if starts[0] in names:
        raise damaged(where, f"the input {shown(starts[0])!r} is named twice")
    return _Signature(starts[0], results[0], names)


def _tensor_name(spec: UserSpec | None) -> str | None:
    return None if spec is None or spec.arg.as_tensor is None else spec.arg.as_tensor.name


def _input(meta: msgspec.Raw | None, where: str) -> tuple[torch.dtype, tuple[int, ...]]:
    """Return the type of the input and its shape without the batch."""
    if meta is None:
        raise damaged(where, "the shape of its input is missing")
    described = decode(meta, TensorMeta, "the shape of its input", where)
    if described.dtype not in DTYPES or DTYPES[described.dtype] is torch.bool:
        raise UnusableModelError(
            f"{where} takes an input of type {described.dtype} in torch's schema, but images are real numbers: "
            "export it for float32 inputs."
        )
    batch, *sizes = described.sizes or (Size(),)
    shape = tuple(size.as_int for size in sizes if size.as_int is not None)
    free = batch.as_int is None and batch.as_expr is not None and batch.as_expr.is_symbol
    if not free or len(shape) < len(sizes):
        raise UnusableModelError(
            f"{where} was exported for the input shape ({', '.join(map(str, described.sizes))}), but the batch, and only the batch, "
            'must be free: export it again with dynamic_shapes=({0: torch.export.Dim("batch")},).'
        )
    if not all(size > 0 for size in shape) or math.prod(shape) > LARGEST:
        raise damaged(where, f"its input has the shape {shown(str(shape))}")
    return DTYPES[described.dtype], shape


def _named_tensors(archive: Archive, names: Iterable[str], where: str) -> dict[str, Tensor]:
    """Return the tensors of these names, whichever folder they are in."""
    stored = {**read_tensors(archive, CONSTANTS, where), **read_tensors(archive, WEIGHTS, where)}
    found = {}
    for name in names:
        if name not in stored:
            raise damaged(where, f"the tensor {shown(name)!r} is missing")
        found[name] = stored[name]
    return found


def _classes(shapes: Sequence[tuple[int, ...]], where: str) -> int:
    """Return the number of classes, which must not depend on the batch."""
    for batch, shape in zip(_BATCHES, shapes, strict=True):
        if len(shape) != 2 or shape[0] != batch or shape[1] != shapes[0][1]:
            raise UnusableModelError(
                f"{where} returns the shape {shown(str(shape))} for {batch} images, but a classifier returns (batch, classes): "
                "export the part of the model that gives the logits."
            )
    return shapes[0][1]
