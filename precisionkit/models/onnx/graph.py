"""What an ONNX file holds, as plain data: checked nodes, constants as tensors, one input and one output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from precisionkit.models.files import shown


class Refused(Exception):  # noqa: N818 - it never leaves this package
    """Why a node cannot be imported; who catches it adds which file and which node."""


@dataclass(frozen=True)
class Node:
    """One node of the graph.

    Attributes
    ----------
    kind : str
        ONNX operator.
    name : str
        For messages: the node's own name, or that of its first result.
    inputs, outputs : tuple of str
        Names of values; empty where an optional one is left out.
    attributes : mapping
        Python numbers, strings, tuples of them, or tensors.
    own : str
        The name by which the file tells it from every other node; empty where it has none.
    """

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, object]
    own: str = ""

    def __str__(self) -> str:
        return f"the node {shown(self.name)!r} ({shown(self.kind)})"


@dataclass(frozen=True)
class Source:
    """A graph as the file describes it.

    Attributes
    ----------
    nodes : tuple of Node
        In an order in which they can be computed; only those that the output needs.
    constants : mapping
        Initialisers by name.
    input, output : str
        The only two ends of the graph.
    input_shape : tuple of (int or None), or None
        With the batch; None where the file leaves a size open, or does not even tell their number.
    floating : bool
        Whether the input holds float32 numbers; tokens are integers.
    opset : int
        Version of the operators.
    sha256 : str
        Of the file, followed by its external data if there are any.
    """

    nodes: tuple[Node, ...]
    constants: Mapping[str, Tensor]
    input: str
    output: str
    input_shape: tuple[int | None, ...] | None
    floating: bool
    opset: int
    sha256: str
