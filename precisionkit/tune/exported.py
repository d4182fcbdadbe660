"""A torch module in the ONNX file that torch.onnx.export writes of it, and which nodes of the two are the same."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn

from precisionkit.capture import capture
from precisionkit.capture.calm import as_written, silent_failure
from precisionkit.capture.export import batch_of
from precisionkit.errors import PrecisionKitError, first_line
from precisionkit.graph import Graph, content_hash
from precisionkit.mixed import can_keep
from precisionkit.models.files import read_model_file
from precisionkit.models.onnx import open_onnx
from precisionkit.models.onnx.network import Network

EXPORTED = (
    f"The names for converters are those of the ONNX file that torch.onnx.export of torch {torch.__version__} writes of this model with "
    "dynamo=True and dynamic_shapes=({0: torch.export.Dim('batch')},); for any other file, run tune on that file."
)
_NEEDED = ("onnx", "onnxscript")
_WAY_OUT = "export the model, and run tune on the file"


class Unmatched(Exception):  # noqa: N818 - it never leaves this package
    """Why nodes of a graph have no names in a file, as a clause."""


@dataclass(frozen=True)
class _Rounding:
    """What is compared of a node that rounds: its operator, the shape of its result, what it reads.

    Attributes
    ----------
    sources : tuple of frozensets of int
        For each operand, the places of the rounding nodes that it comes from; -1 for the input.
    weights : tuple of str
        Hashes of the constants, in the order of the operands.
    """

    operator: str
    shape: tuple[int, ...]
    sources: tuple[frozenset[int], ...]
    weights: tuple[str, ...]


def exported(module: nn.Module, graph: Graph) -> tuple[Network, Graph, Mapping[str, str]]:
    """Export a module, and find its nodes in the file.

    Returns
    -------
    Network
        As it is read from the file.
    Graph
        Of that.
    mapping of str to str
        Names of the nodes that round, in the graph of the file, by their names in that of the module.

    Raises
    ------
    Unmatched
        It cannot be exported, or the file's program is not the same.
    """
    if missing := [name for name in _NEEDED if find_spec(name) is None]:
        raise Unmatched(
            f"they are those of an ONNX file, which torch.onnx.export writes with the packages {' and '.join(_NEEDED)}, and "
            f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed; pip install {' '.join(missing)}, or "
            f"{_WAY_OUT}"
        )
    dtype = torch.int64 if graph.tokens else torch.float32
    network = _read_again(module, graph, dtype)
    try:
        own = capture(network, graph.input_shape, dtype)
    except PrecisionKitError as error:
        raise Unmatched(f"the ONNX file of this model cannot be captured: {str(error).rstrip('.')}") from error
    return network, own, _matched(graph, own)


def _read_again(module: nn.Module, graph: Graph, dtype: torch.dtype) -> Network:
    """The network in the file that torch writes."""
    sample = batch_of(2, graph.input_shape, dtype)
    free = ({0: torch.export.Dim("batch")},)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        try:
            with as_written(), silent_failure():
                program = torch.onnx.export(
                    copy.deepcopy(module).float().cpu().eval(), (sample,), dynamo=True, dynamic_shapes=free, verbose=False
                )
                assert program is not None  # as of every export by dynamo
                program.save(str(path))
        except Exception as error:  # of many private types; every one means the same here
            raise Unmatched(
                f"torch.onnx.export fails on this model ({first_line(error).rstrip('.')}); export it otherwise, and run tune on the file"
            ) from error
        try:
            return open_onnx(read_model_file(path), graph.input_shape, "the ONNX file of this model").module
        except PrecisionKitError as error:
            raise Unmatched(str(error).rstrip(".")) from error


def _matched(graph: Graph, own: Graph) -> Mapping[str, str]:
    """The same nodes, if all that round are the same, in the same order and with the same weights."""
    ours, theirs = _roundings(graph), _roundings(own)
    for (name, found), other in zip(ours.items(), theirs.values(), strict=False):
        if found != other:
            raise Unmatched(
                f"the ONNX file that torch.onnx.export writes is another program, in which the node '{name}' ({found.operator}) "
                f"{_difference(found, other)}; {_WAY_OUT}"
            )
    if len(ours) != len(theirs):
        raise Unmatched(
            f"the ONNX file that torch.onnx.export writes is another program: it has {len(theirs)} nodes that round, and the model "
            f"{len(ours)}; {_WAY_OUT}"
        )
    return dict(zip(ours, theirs, strict=True))


def _difference(ours: _Rounding, theirs: _Rounding) -> str:
    if ours.operator != theirs.operator:
        return f"has the operator {theirs.operator}"
    if ours.shape != theirs.shape:
        return f"has a result of the shape {theirs.shape}, not {ours.shape}"
    return "has other weights, as when it is folded with others" if ours.weights != theirs.weights else "reads other nodes"


def _roundings(graph: Graph) -> dict[str, _Rounding]:
    """What is compared of all nodes that round, in their order."""
    found: dict[str, _Rounding] = {}
    behind: dict[str, frozenset[int]] = {graph.input: frozenset([-1])}
    for node in graph.nodes:
        names = [name for name in node.operands if name is not None]
        sources = tuple(behind[name] for name in names if name in behind)
        if can_keep(graph, node):
            behind[node.name] = frozenset([len(found)])
            weights = tuple(content_hash(graph.constants[name]) for name in names if name in graph.constants)
            found[node.name] = _Rounding(node.operator, node.shape, sources, weights)
        else:
            behind[node.name] = frozenset[int]().union(*sources)
    return found
