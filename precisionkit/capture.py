"""Capture a torch module as a `Graph`, through `torch.export`.

``run_decompositions({})`` makes the program functional and keeps fused operators whole, and with them the places where the
real kernels round; the default decomposition table would split them.
"""

from __future__ import annotations

import copy
import operator
import warnings
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram

from precisionkit.errors import UnsupportedOperatorError, UnusableModelError
from precisionkit.graph import Graph, Node
from precisionkit.ops import BY_TARGET, OPERATORS, SOFTMAX_TARGETS

_BATCH = 2
"""Batch of the sample: `torch.export` specialises a batch of one."""


def capture(module: nn.Module, input_shape: tuple[int, ...]) -> Graph:
    """Turn a classifier into a graph.

    Parameters
    ----------
    module : nn.Module
        Takes one float tensor (batch, *input_shape) and returns one tensor (batch, classes).  A copy is captured, in evaluation
        mode; the module itself is left as it is.
    input_shape : tuple of int
        Without the batch.

    Raises
    ------
    UnusableModelError
        The module does not run on such an input, cannot be exported, or does not return (batch, classes).
    UnsupportedOperatorError
        It uses an operator, or a use of one, that has no error rule.
    """
    program = _export(copy.deepcopy(module).float().cpu().eval(), input_shape)
    return _read(program, input_shape)


def _export(module: nn.Module, input_shape: tuple[int, ...]) -> ExportedProgram:
    sample = torch.zeros(_BATCH, *input_shape)
    try:
        with torch.no_grad():
            module(sample)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        reason = str(error).splitlines()[0]
        raise UnusableModelError(f"The model does not run on an input of shape {_show(input_shape)}: {reason}") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations inside torch.export are not the user's
            exported = torch.export.export(module, (sample,), dynamic_shapes=({0: Dim("batch", min=1, max=2**20)},))
            program: ExportedProgram = exported.run_decompositions({})
    except Exception as error:  # torch.export raises errors of many private types; every one means the same to the user
        reason = str(error).strip().splitlines()[0]
        raise UnusableModelError(
            f"torch.export could not capture the model: {reason} A model with data-dependent control flow, or with a fixed batch size, "
            "has to be rewritten without it."
        ) from error
    return program


def _show(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _read(program: ExportedProgram, input_shape: tuple[int, ...]) -> Graph:
    signature = program.graph_signature
    if len(signature.user_inputs) != 1 or len(signature.user_outputs) != 1:
        raise UnusableModelError(
            f"The model takes {len(signature.user_inputs)} inputs and returns {len(signature.user_outputs)} results; "
            "a classifier of one tensor that returns one tensor of logits is needed."
        )
    constants = _constants(program)
    start, output = str(signature.user_inputs[0]), str(signature.user_outputs[0])
    reader = _Reader(constants, start)
    for node in program.graph_module.graph.nodes:
        if node.op == "call_function":
            reader.read(node)
    return reader.graph(start, input_shape, output)


def _constants(program: ExportedProgram) -> dict[str, Tensor]:
    """Tensors of the program by the names of its placeholders."""
    signature = program.graph_signature
    held: Mapping[str, Any] = {**program.state_dict, **program.constants}
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers, **signature.inputs_to_lifted_tensor_constants}
    return {placeholder: held[target].detach() for placeholder, target in names.items() if isinstance(held.get(target), Tensor)}


class _Reader:
    """Reads the nodes of one exported program, in order."""

    def __init__(self, constants: dict[str, Tensor], start: str) -> None:
        self._constants = constants
        self._nodes: list[Node] = []
        self._same: dict[str, str] = {}  # a getitem is the node that it takes the first result of
        self._sizes: set[str] = set()
        self._known = {start, *constants}
        self._softmax: dict[str, tuple[str, str]] = {}

    def read(self, node: fx.Node) -> None:
        if node.target is operator.getitem:
            origin, index = node.args
            if index != 0:
                raise UnsupportedOperatorError(
                    f"Result {index} of {_describe(node)} is used; only the first result of an operator is supported."
                )
            self._same[node.name] = self._resolve(str(origin))
            return
        target = str(node.target)
        if not isinstance(node.meta.get("val"), (Tensor, tuple, list)):
            self._sizes.add(node.name)  # a size or arithmetic on sizes, needed by views alone
            return
        if target in SOFTMAX_TARGETS:
            self._softmax[node.name] = (self._resolve(str(node.args[0])), target)
            dim = node.args[1]
            if not isinstance(dim, int) or dim % node.meta["val"].dim() != 1:
                raise UnsupportedOperatorError(f"{_describe(node)} is not taken over the classes (dimension 1).")
            return
        if target not in BY_TARGET:
            supported = ", ".join(sorted(record.name for record in OPERATORS))
            raise UnsupportedOperatorError(
                f"No error rule is known for {_describe(node)}. Supported are: {supported}, and softmax or log_softmax as the last layer; "
                "build the layer from these, or leave it out of what is certified."
            )
        self._nodes.append(self._node(node, target))
        self._known.add(node.name)

    def _resolve(self, name: str) -> str:
        return self._same.get(name, name)

    def _node(self, node: fx.Node, target: str) -> Node:
        record = BY_TARGET[target]
        given = _bind(node)
        operands: list[str | None] = []
        shapes: list[tuple[int, ...] | None] = []
        for name in record.operands:
            value = given.pop(name.lstrip("*"), None)
            for item in value if name.startswith("*") else [value]:
                if isinstance(item, fx.Node):
                    operands.append(self._operand(node, item))
                    shapes.append(tuple(_shape_of(item)))
                else:
                    operands.append(None)
                    shapes.append(None)
                    if item is not None:
                        given[name] = item
        attributes = {key: self._attribute(value) for key, value in given.items()}
        self._refuse_constant_only(node, operands)
        if objection := record.check(attributes, shapes):
            raise UnsupportedOperatorError(f"This use of {_describe(node)} is not supported: {objection}.")
        return Node(node.name, record.name, tuple(operands), MappingProxyType(attributes), self._shape(node), _source(node))

    def _operand(self, node: fx.Node, item: fx.Node) -> str:
        name = self._resolve(item.name)
        if name in self._softmax:
            raise UnsupportedOperatorError(f"{_describe(item)} is supported as the last layer only, but {_describe(node)} uses it.")
        if name not in self._known:
            raise UnsupportedOperatorError(f"{_describe(node)} needs '{name}', which is not a tensor of the network.")
        return name

    def _refuse_constant_only(self, node: fx.Node, operands: list[str | None]) -> None:
        if all(name is None or name in self._constants for name in operands):
            raise UnsupportedOperatorError(
                f"{_describe(node)} computes with constants alone; compute it when the model is built, as a buffer."
            )

    def _attribute(self, value: Any) -> Any:
        """Sizes that follow the batch become -1; lists become tuples."""
        if isinstance(value, fx.Node):
            return -1
        if isinstance(value, (list, tuple)):
            return tuple(self._attribute(item) for item in value)
        return value

    def _shape(self, node: fx.Node) -> tuple[int, ...]:
        value = node.meta["val"]
        shape = (value[0] if isinstance(value, (tuple, list)) else value).shape
        if not shape or isinstance(shape[0], int) or not str(shape[0]).isidentifier() or not all(isinstance(s, int) for s in shape[1:]):
            raise UnsupportedOperatorError(
                f"{_describe(node)} mixes the images of a batch: its result has the shape {tuple(map(str, shape))}."
            )
        return tuple(shape[1:])

    def graph(self, start: str, input_shape: tuple[int, ...], output: str) -> Graph:
        removed: list[str] = []
        output = self._resolve(output)
        while output in self._softmax:
            output, target = self._softmax[output]
            removed.append(target)
        node = next((n for n in self._nodes if n.name == output), None)
        if node is None or len(node.shape) != 1 or node.shape[0] < 2:
            shape = "nothing that depends on the input" if node is None else f"(batch, {_show(node.shape)})"
            raise UnusableModelError(f"The model returns {shape}; logits of the shape (batch, classes), two classes or more, are needed.")
        used = {name for n in self._nodes for name in n.operands}
        constants = {k: _float(v) for k, v in self._constants.items() if k in used}
        return Graph(tuple(self._nodes), MappingProxyType(constants), start, tuple(input_shape), output, tuple(removed))


def _float(value: Tensor) -> Tensor:
    return value.float() if not value.is_floating_point() or value.dtype != torch.float32 else value


def _bind(node: fx.Node) -> dict[str, Any]:
    """Arguments by their schema names, without those left at a default of None."""
    arguments = node.target._schema.arguments  # type: ignore[union-attr]
    given = {a.name: a.default_value for a in arguments if a.has_default_value() and a.default_value is not None}
    given |= dict(zip((a.name for a in arguments), node.args, strict=False))
    return given | dict(node.kwargs)


def _shape_of(node: fx.Node) -> Any:
    value = node.meta["val"]
    return (value[0] if isinstance(value, (tuple, list)) else value).shape


def _source(node: fx.Node) -> str:
    """The innermost user line of the trace that torch.export keeps, as ``file.py:12 in forward: code``."""
    lines = [line.strip() for line in (node.meta.get("stack_trace") or "").splitlines()]
    for i in range(len(lines) - 1, -1, -1):
        if lines[i].startswith("File ") and "/torch/" not in lines[i]:
            parts = lines[i].removeprefix("File ").split(", ")
            code = lines[i + 1] if i + 1 < len(lines) and not lines[i + 1].startswith("File ") else ""
            file = parts[0].strip('"').rsplit("/", 1)[-1]
            return f"{file}:{parts[1].removeprefix('line ')}" + (f": {code}" if code else "")
    return ""


def _describe(node: fx.Node) -> str:
    where = _source(node)
    return f"operator '{node.target}' at node '{node.name}'" + (f" ({where})" if where else "")
