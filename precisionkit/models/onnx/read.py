"""Read an ONNX file into plain data, under limits and without following anything out of its folder.

Everything that a graph can get wrong is checked here: unknown operators and attributes, values that are used before they are
computed or computed twice, control flow, endless local functions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from precisionkit.errors import UnsupportedOperatorError, UnusableModelError, first_line
from precisionkit.models.files import shown
from precisionkit.models.onnx.graph import Node, Source
from precisionkit.models.onnx.weights import Weights

if TYPE_CHECKING:
    from onnx import FunctionProto, GraphProto, ModelProto, NodeProto, ValueInfoProto

OLDEST, NEWEST = 9, 23
"""Versions of the ONNX operators whose definitions the importer follows."""

_MOST_NODES = 100_000
_LISTED = 4
_OWN_DOMAINS = ("", "ai.onnx")
_FLOAT, _INTEGERS = 1, (6, 7)  # TensorProto.DataType
_EXPORT = "export it again with torch.onnx.export(model, (sample,), FILE, opset_version=18)"


def read_source(data: bytes, path: str, where: str) -> Source:
    """Read a file.

    Parameters
    ----------
    data : bytes
        The whole file.
    path : str
        Where it lies; external data are looked for beside it.
    where : str
        Names the file in error messages.

    Raises
    ------
    UnusableModelError
        The file is damaged, unsafe, or no classifier of one input and one output.
    UnsupportedOperatorError
        It uses control flow or operators of another domain.
    """
    found = unpack(data, path, where)
    return Source(
        nodes=tuple(found.reader.read(node) for node in found.needed),
        constants=found.constants,
        input=found.start.name,
        output=found.end.name,
        input_shape=shape_of(found.start),
        floating=_is_float(found.start, where),
        opset=found.reader.opset,
        sha256=found.sha256,
    )


@dataclass(frozen=True)
class Unpacked:
    """What a file says, before any operator is looked at.

    Attributes
    ----------
    graph : GraphProto
    needed : list of NodeProto
        Nodes that the output depends on, in order.
    start, end : ValueInfoProto
    constants : mapping of str to tensor
    reader : NodeReader
    sha256 : str
    """

    graph: GraphProto
    needed: list[NodeProto]
    start: ValueInfoProto
    end: ValueInfoProto
    constants: Mapping[str, Tensor]
    reader: NodeReader
    sha256: str


def unpack(data: bytes, path: str, where: str) -> Unpacked:
    """Unpack a file; arguments and errors as for `read_source`."""
    weights = Weights(data, path, where)
    model = _parse(data, where)
    opset = _opset(model, where)
    constants = {tensor.name: weights.read(tensor) for tensor in model.graph.initializer}
    if len(constants) != len(model.graph.initializer):
        raise UnusableModelError(f"{where} is damaged: two of its initialisers have the same name; fetch or export it again.")
    if model.graph.sparse_initializer:
        raise UnusableModelError(f"{where} has sparse weights: only dense ones are read, so save a dense network.")
    graph = _inlined(model, where)
    named = _telling_names(model.graph, graph)
    if len(graph.node) > _MOST_NODES:
        raise UnusableModelError(
            f"{where} has {len(graph.node)} nodes, more than the {_MOST_NODES} that are read: no classifier needs them."
        )
    start, end = _ends(graph, constants, where)
    needed = _needed(graph.node, start.name, end.name, constants, where)
    return Unpacked(graph, needed, start, end, constants, NodeReader(opset, weights, where, named), weights.sha256)


def _parse(data: bytes, where: str) -> ModelProto:
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError as error:
        raise UnusableModelError(
            f"{where} is an ONNX file, which the package onnx reads, but it is not installed: pip install 'precisionkit[onnx]'."
        ) from error
    try:
        model: ModelProto | None = onnx.ModelProto.FromString(data)
    except DecodeError:
        model = None
    if model is None or not model.HasField("graph") or not model.opset_import:
        raise UnusableModelError(f"{where} is no ONNX file, or is damaged or cut off; fetch or export it again.")
    if not model.graph.node:
        raise UnusableModelError(f"{where} holds an empty graph: export the network again.")
    # protobuf hands over names that are no text as bytes
    if not all(isinstance(name, str) for name in _names(model)):
        raise UnusableModelError(f"{where} is damaged: a name in it is no text; fetch or export it again.")
    return model


def _names(model: ModelProto) -> Iterator[object]:
    graph = model.graph
    for values in (graph.initializer, graph.input, graph.output):
        yield from (value.name for value in values)
    yield from (entry.domain for owner in (model, *model.functions) for entry in owner.opset_import)
    for function in model.functions:
        yield from (function.domain, function.name, function.overload, *function.input, *function.output)
    for node in (node for owner in (graph, *model.functions) for node in owner.node):
        yield from (node.name, node.op_type, node.domain, node.overload, *node.input, *node.output)
        yield from (name for a in node.attribute for name in (a.name, a.ref_attr_name, a.t.name))


def _opset(model: ModelProto, where: str) -> int:
    versions = {entry.version for entry in model.opset_import if entry.domain in _OWN_DOMAINS}
    if len(versions) != 1:
        raise UnusableModelError(f"{where} does not name one version of the ONNX operators: {_EXPORT}.")
    (version,) = versions
    if not OLDEST <= version <= NEWEST:
        raise UnusableModelError(f"{where} uses version {version} of the ONNX operators, but {OLDEST} to {NEWEST} are read: {_EXPORT}.")
    return int(version)


def _inlined(model: ModelProto, where: str) -> GraphProto:
    """Put the bodies of local functions in the place of their calls, after a look at how much that would be."""
    if not model.functions:
        return model.graph
    _check_functions(model, where)
    from onnx import inliner

    # the weights are read already, and need not pass through the inliner
    del model.graph.initializer[:]
    try:
        graph: GraphProto = inliner.inline_local_functions(model).graph
    except Exception as error:  # the inliner is C++ and names no errors
        reason = shown(first_line(error), 120)
        raise UnusableModelError(f"{where} has local functions that cannot be inlined ({reason}): export it again without them.") from None
    return graph


def _telling_names(written: GraphProto, inlined: GraphProto) -> frozenset[str]:
    """Names that one node of the file alone has, and the same node where local functions are inlined."""
    counts = Counter(node.name for node in written.node)
    counts |= Counter(node.name for node in inlined.node)  # the larger of the two
    nodes = {node.name: (node.op_type, node.domain, *node.output) for node in inlined.node}
    same = (node.name for node in written.node if nodes.get(node.name) == (node.op_type, node.domain, *node.output))
    return frozenset(name for name in same if name and counts[name] == 1)


def _check_functions(model: ModelProto, where: str) -> None:
    functions = {(f.domain, f.name, f.overload): f for f in model.functions}
    if len(functions) != len(model.functions):
        raise UnusableModelError(f"{where} is damaged: two of its local functions have the same name; fetch or export it again.")
    graph_version = {entry.version for entry in model.opset_import if entry.domain in _OWN_DOMAINS}
    for function in model.functions:
        if not {entry.version for entry in function.opset_import if entry.domain in _OWN_DOMAINS} <= graph_version:
            raise UnusableModelError(
                f"{where} has the local function {shown(function.name)} in another version of the ONNX operators than its graph: {_EXPORT}."
            )
    sizes: dict[tuple[str, str, str], int] = {}

    def size(nodes: Iterable[NodeProto], within: tuple[FunctionProto, ...]) -> int:
        total = 0
        for node in nodes:
            key = (node.domain, node.op_type, node.overload)
            function = functions.get(key)
            if function is None:
                total += 1
                continue
            if function in within or len(within) > 50:
                raise UnusableModelError(f"{where} has the local function {shown(function.name)}, which calls itself: that never ends.")
            if key not in sizes:
                sizes[key] = size(function.node, (*within, function))
            total += sizes[key]
        return total

    if (total := size(model.graph.node, ())) > _MOST_NODES:
        raise UnusableModelError(
            f"{where} has {total} nodes once its local functions are inlined, more than the {_MOST_NODES} that are read: "
            "no classifier needs them."
        )


def _ends(graph: GraphProto, constants: Mapping[str, object], where: str) -> tuple[ValueInfoProto, ValueInfoProto]:
    """Return the only input, beside initialisers, that old files list among the inputs, and the only output."""
    inputs = [value for value in graph.input if value.name not in constants]
    for what, values, way_out in (
        ("inputs", inputs, "a classifier has one, the images: make the others constants when it is exported"),
        ("outputs", graph.output, "a classifier has one, the logits: keep it alone, with onnx.utils.extract_model"),
    ):
        if len(values) != 1:
            raise UnusableModelError(f"{where} has {len(values)} {what}{_listed(value.name for value in values)}, but {way_out}.")
    return inputs[0], graph.output[0]


def _listed(names: Iterable[str]) -> str:
    words = [shown(name, 40) for name in names]
    return f" ({', '.join(words[:_LISTED])}{', ...' if len(words) > _LISTED else ''})" if words else ""


def shape_of(value: ValueInfoProto) -> tuple[int | None, ...] | None:
    """Shape of a value as the file describes it, None for sizes that it leaves open, or for all of it."""
    if not value.type.tensor_type.HasField("shape"):
        return None
    # exporters write a name, nothing, or a number below 1 for a size that is open
    return tuple(d.dim_value if d.dim_value > 0 else None for d in value.type.tensor_type.shape.dim)


def _is_float(value: ValueInfoProto, where: str) -> bool:
    kind = value.type.tensor_type.elem_type
    if kind != _FLOAT and kind not in _INTEGERS:
        raise UnusableModelError(
            f"{where} takes an input of the ONNX type {kind}, but float32 images or integer tokens are needed: export model.float()."
        )
    return bool(kind == _FLOAT)


def _needed(nodes: Sequence[NodeProto], start: str, end: str, constants: Mapping[str, object], where: str) -> list[NodeProto]:
    """Return the nodes that the output depends on, once their order is known to be one in which they can be computed."""
    made: dict[str, NodeProto] = {}
    for node in nodes:
        for name in node.input:
            if name and name != start and name not in constants and name not in made:
                raise UnusableModelError(
                    f"{where} is damaged: {_place(node)} uses {shown(name)!r} before anything computes it; fetch or export it again."
                )
        for name in filter(None, node.output):
            if name == start or name in constants or name in made:
                raise UnusableModelError(f"{where} is damaged: {shown(name)!r} is computed twice; fetch or export it again.")
            made[name] = node
    if end not in made:
        raise UnusableModelError(f"{where} has the output {shown(end)!r}, which nothing computes: export it again.")
    wanted = {end}
    needed = []
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            needed.append(node)
    return needed[::-1]


def _place(node: NodeProto) -> str:
    return f"the node {shown(node.name or next(iter(node.output), ''))!r} ({shown(node.op_type)})"


class NodeReader:
    """Checks nodes against the definitions of their operators, and turns them into plain data."""

    def __init__(self, opset: int, weights: Weights, where: str, named: Collection[str]) -> None:
        self.opset = opset
        self._named = named
        self._weights = weights
        self._where = where

    def read(self, proto: NodeProto) -> Node:
        """Read a node; UnsupportedOperatorError where it is none of ONNX's own without a graph in it."""
        place = _place(proto)
        if proto.domain not in _OWN_DOMAINS:
            raise UnsupportedOperatorError(
                f"{self._where} uses {place} of the domain {shown(proto.domain)!r}, which is not part of ONNX: "
                "export the network again with standard operators only."
            )
        if any(attribute.type in (5, 10) for attribute in proto.attribute):
            raise UnsupportedOperatorError(
                f"{self._where} uses {place}, which holds a graph of its own (control flow): export the network again without it."
            )
        self._check(proto, place)
        attributes = {a.name: self._attribute(a, place) for a in proto.attribute}
        name = proto.name or next(filter(None, proto.output), "")
        own = proto.name if proto.name in self._named else ""
        return Node(proto.op_type, name, tuple(proto.input), tuple(proto.output), attributes, own)

    def _check(self, proto: NodeProto, place: str) -> None:
        from onnx import defs

        try:
            schema = defs.get_schema(proto.op_type, self.opset, "")
        except defs.SchemaError:
            raise UnsupportedOperatorError(
                f"{self._where} uses {place}, which version {self.opset} of the ONNX operators does not define: {_EXPORT}."
            ) from None
        problem = _first_problem(proto, schema)
        if problem:
            raise UnusableModelError(f"{self._where} is damaged: {place} has {problem}; fetch or export it again.")

    def _attribute(self, attribute: Any, place: str) -> object:
        kind = attribute.type
        if kind == 1:
            return float(attribute.f)
        if kind == 2:
            return int(attribute.i)
        if kind == 3:
            return attribute.s.decode("utf-8", "replace")
        if kind == 4:
            return self._weights.read(attribute.t)
        if kind == 6:
            return tuple(map(float, attribute.floats))
        if kind == 7:
            return tuple(map(int, attribute.ints))
        raise UnsupportedOperatorError(
            f"{self._where} uses {place} with the attribute {shown(attribute.name)!r}, of a type that is not read: {_EXPORT}."
        )


def _first_problem(proto: NodeProto, schema: Any) -> str | None:
    for what, names, least, most in (
        ("inputs", proto.input, schema.min_input, schema.max_input),
        ("results", proto.output, schema.min_output, schema.max_output),
    ):
        if not least <= len(names) <= most:
            return f"{len(names)} {what}, but between {least} and {most} are possible"
    given = [attribute.name for attribute in proto.attribute]
    if len(set(given)) != len(given):
        return "an attribute twice"
    for attribute in proto.attribute:
        if attribute.name not in schema.attributes:
            return f"the attribute {shown(attribute.name)!r}, which its operator does not have"
        wanted = schema.attributes[attribute.name].type
        if attribute.type != wanted.value or attribute.ref_attr_name:
            return f"the attribute {shown(attribute.name)!r} of another type than {wanted.name.lower()}"
    missing = [name for name, attribute in schema.attributes.items() if attribute.required and name not in given]
    return f"no attribute {missing[0]!r}" if missing else None
