"""The immutable graph of a network: named operators between one input and one output."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from precisionkit.errors import PrecisionKitError, UsageError, first_line
from precisionkit.ops import BY_NAME, Operator

V = TypeVar("V")


@dataclass(frozen=True)
class Node:
    """One operator of a network.

    Attributes
    ----------
    name : str
        Unique name, from the captured program.
    operator : str
        Name of its record.
    operands : tuple of (str or None)
        Names of nodes, of the input or of constants, in the record's order; None for an absent argument or a Python number.
    attributes : mapping
        Its other arguments.
    shape : tuple of int
        Shape of its result without the batch.
    source : str
        The user's source line, for messages.
    module : str
        Path of the innermost module that it was captured in, such as ``layer1.0.conv1``; empty where unknown.
    """

    name: str
    operator: str
    operands: tuple[str | None, ...]
    attributes: Mapping[str, Any]
    shape: tuple[int, ...]
    source: str
    module: str = ""

    @property
    def record(self) -> Operator:
        """The record of the operator.

        Raises
        ------
        UsageError
            It was registered when the network was captured, and is no more.
        """
        if self.operator not in BY_NAME:
            raise UsageError(
                f"The operator '{self.operator}' is no longer registered: do everything with a network that has it within one block "
                "'with registered(...)'."
            )
        return BY_NAME[self.operator]

    def __str__(self) -> str:
        where = f", {self.source}" if self.source else ""
        return f"node '{self.name}' ({self.operator}{where})"


def multiplications(node: Node, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Multiplications of a node for one input, where they are what it costs: dot products; else 0.

    Parameters
    ----------
    shapes : mapping of str to shapes
        Of what it reads.
    """
    count = node.record.products
    return 0 if count is None else count(node.shape, [shapes.get(name or "", ()) for name in node.operands])


@dataclass(frozen=True)
class Graph:
    """A captured classifier.

    Attributes
    ----------
    nodes : tuple of Node
        In an order in which every operand comes before its use.
    constants : mapping of str to tensor
        Weights and buffers, binary32.
    input : str
        Name of the input.
    input_shape : tuple of int
        Without the batch.
    output : str
        Name of the node (or the input) that holds the logits.
    removed : tuple of str
        Softmax operators after the logits, which decide nothing.
    alone : bool
        The model fixes the size of its batch, and was captured for one image.
    tokens : bool
        The input is integer tokens, which have no format.
    """

    nodes: tuple[Node, ...]
    constants: Mapping[str, Tensor]
    input: str
    input_shape: tuple[int, ...]
    output: str
    removed: tuple[str, ...] = ()
    alone: bool = False
    tokens: bool = False

    @property
    def classes(self) -> int:
        """Number of logits."""
        return next(node.shape[0] for node in self.nodes if node.name == self.output)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the input and of every node."""
        return (self.input, *(node.name for node in self.nodes))

    def multiplications(self, node: Node) -> int:
        """Multiplications of one node for one input."""
        return multiplications(node, self._shapes)

    @cached_property
    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """Of everything that a node can read; of constants as they are, of the others without the batch."""
        constants = {name: tuple(value.shape) for name, value in self.constants.items()}
        return constants | {self.input: self.input_shape} | {node.name: node.shape for node in self.nodes}

    @cached_property
    def hidden(self) -> frozenset[str]:
        """Nodes that no run makes: what kernels compute on the way."""
        return frozenset(node.name for node in self.nodes if node.record.hidden)

    def is_pointwise(self, node: Node) -> bool:
        """Whether each entry of a node's result depends on the same entries of its operands alone."""
        shapes = self._shapes
        activations = (name for name in node.operands if name is not None and name not in self.constants)
        return node.record.pointwise and all(shapes[name] == node.shape for name in activations)

    @property
    def inside_chains(self) -> frozenset[str]:
        """Nodes whose results a fused kernel never stores.

        A dot product, or a batch normalisation behind one, whose only use is a batch normalisation or an addition.  A kernel
        computes the chain that ends last: an addition of two such results reads the first as a stored tensor.
        """
        uses = [name for node in self.nodes for name in node.operands]
        found: set[str] = set()
        for node in (n for n in self.nodes if n.operator in ("batch_norm", "add")):
            before = [n for n in self.nodes if n.name in node.operands and uses.count(n.name) == 1 and n.shape == node.shape]
            behind = [n for n in before if n.operator == "batch_norm" and node.operator == "add" and found & set(n.operands)]
            ends = [n for n in before if n.record.ends_fused or n in behind]
            found |= {n.name for n in ends[-1:]}
        return frozenset(found)

    @property
    def largest(self) -> int:
        """Number of entries of the largest tensor, for one input."""
        return max(math.prod(shape) for shape in (self.input_shape, *(node.shape for node in self.nodes)))


def fingerprint(graph: Graph) -> str:
    """SHA-256 of what a network computes: operators, operands, attributes, the shape of the input, the numbers in its constants.

    It is the same in every process and on every machine.  Names count of nodes that can be kept in binary32 alone; copies, which layouts
    in memory ask for, source lines and the paths of modules do not.
    """
    written = {graph.input: "input"} | {name: content_hash(value) for name, value in graph.constants.items()}
    for node in graph.nodes:
        operands = [None if name is None else written[name] for name in node.operands]
        named = node.record.stores or any(name in graph.constants for name in node.operands)
        told = _written([node.name if named else None, node.operator, operands, node.attributes, node.shape])
        written[node.name] = str(operands[0]) if node.operator == "clone" else hashlib.sha256(told.encode()).hexdigest()
    whole = [written[graph.output], graph.input_shape, graph.tokens, graph.alone, graph.removed]
    return hashlib.sha256(_written(whole).encode()).hexdigest()


def content_hash(tensor: Tensor) -> str:
    """SHA-256 of a tensor's type, shape and numbers, wherever they lie and in whatever layout."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    short = {1: torch.int8, 2: torch.int16}.get(flat.itemsize) if flat.is_floating_point() else None  # numpy lacks most of these
    numbers = (flat if short is None else flat.view(short)).numpy()
    little = np.ascontiguousarray(numbers, dtype=numbers.dtype.newbyteorder("<"))
    digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}\n".encode())
    digest.update(little.data if little.size else b"")
    return digest.hexdigest()


def _written(value: object) -> str:
    """An attribute as text that tells it from every other; of an object of another kind, its type alone."""
    if isinstance(value, Tensor):
        return content_hash(value)
    if isinstance(value, float):
        return value.hex()  # of every bit, of infinities as well
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key!r}: {_written(value[key])}' for key in sorted(value))}}}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_written, value))}]"
    if is_dataclass(value):
        return f"{type(value).__name__}[{', '.join(_written(getattr(value, field.name)) for field in fields(value))}]"
    plain = value is None or isinstance(value, (bool, int, str, torch.dtype, torch.device, torch.layout, torch.memory_format))
    return repr(value) if plain else type(value).__name__


def interpret(graph: Graph, start: V, constants: Mapping[str, Any], run_node: Callable[[Node, tuple[Any, ...]], V | None]) -> V:
    """Walk the graph once with any meaning of a value; a value is dropped after its last use.

    Parameters
    ----------
    start
        Value of the input.
    constants
        Values of the constants by name.
    run_node
        Gives the value of a node from those of its operands (None for an absent one); None for a node that is left out.
    """
    last = {name: node.name for node in graph.nodes for name in node.operands if name is not None}
    values: dict[str, Any] = {graph.input: start}
    for node in graph.nodes:
        operands = tuple(None if name is None else values[name] if name in values else constants[name] for name in node.operands)
        try:
            values[node.name] = run_node(node, operands)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise PrecisionKitError(f"The {node} failed: {first_line(error)}") from error
        for name in set(node.operands):
            if name in values and last[name] == node.name and name != graph.output:
                del values[name]
        if node.name == graph.output:
            break
    result: V = values[graph.output]
    return result
