"""An ONNX graph as its file lists it, operators that are not supported included."""

from __future__ import annotations

from typing import TYPE_CHECKING

from precisionkit.errors import UnsupportedOperatorError
from precisionkit.models.files import ModelFile, shown
from precisionkit.models.onnx.build import OPERATORS, UNKNOWN, WALKED
from precisionkit.models.onnx.pointwise import TYPES
from precisionkit.models.onnx.read import NodeReader, shape_of, unpack
from precisionkit.models.outline import Listed, Outline

if TYPE_CHECKING:
    from onnx import NodeProto, ValueInfoProto


def list_graph(file: ModelFile, where: str) -> Outline:
    """List a graph; UnusableModelError where its file is damaged."""
    found = unpack(file.data, file.path, where)
    described = {value.name: value for value in (*found.graph.value_info, found.end)}
    makers = {found.start.name: found.start.name}
    operators = []
    for node in found.needed:
        name = node.name or next(filter(None, node.output), "")
        read = dict.fromkeys(makers[item] for item in node.input if item in makers)
        makers |= dict.fromkeys(filter(None, node.output), name)
        shape, dtype = _described(described.get(next(filter(None, node.output), "")))
        if read or node.op_type not in WALKED:
            operators.append(
                Listed(shown(name), shown(node.op_type), shape, dtype, tuple(read), _objection(node, name, found.reader, where))
            )
    return Outline(
        path=file.path,
        sha256=found.sha256,
        arch="ONNX",
        parameters=sum(tensor.numel() for tensor in found.constants.values() if tensor.is_floating_point()),
        input=found.start.name,
        input_shape=tuple(size for size in (shape_of(found.start) or ())[1:] if size is not None),
        input_dtype=_described(found.start)[1],
        operators=tuple(operators),
    )


def _objection(node: NodeProto, name: str, reader: NodeReader, where: str) -> str:
    """Why a node cannot be imported whatever its operands are."""
    try:
        reader.read(node)
    except UnsupportedOperatorError as error:
        return str(error)
    if node.op_type in OPERATORS or node.op_type in WALKED:
        return ""
    return f"{where} cannot be imported: the node {shown(name)!r} ({shown(node.op_type)}) {UNKNOWN}."


def _described(value: ValueInfoProto | None) -> tuple[tuple[str, ...], str]:
    if value is None:
        return (), ""
    sizes = shape_of(value) or ()
    dtype = str(TYPES.get(value.type.tensor_type.elem_type, "")).removeprefix("torch.")
    return tuple("n" if size is None else str(size) for size in sizes), dtype
