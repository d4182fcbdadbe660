"""Certificates of what `certify` proved, for `precisionkit.checker`, which derives it again on its own.

Here a captured network is put into the words of the checker, and the checker is asked which of the proved inputs it can prove by its own
simpler means; those make the certificate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from precisionkit import checker
from precisionkit.arithmetic import Arithmetic, parse_arithmetic
from precisionkit.capture import capture
from precisionkit.checker import Certificate, Network, Node, Rule, Source
from precisionkit.data import Dataset
from precisionkit.errors import UnsupportedArithmeticError, UnsupportedOperatorError, UsageError
from precisionkit.graph import Graph
from precisionkit.graph import Node as GraphNode
from precisionkit.mixed import NOTHING, Keep
from precisionkit.models import LoadedModel
from precisionkit.report import Report
from precisionkit.task import captured

_BATCH = 512
_DOTS = {"linear": (0, 1, 2), "addmm": (1, 2, 0), "mm": (0, 1, None), "conv2d": (0, 1, 2)}
"""Places of input, weight and bias among the operands."""
_TRANSPOSED = ("addmm", "mm")


@dataclass(frozen=True)
class Made:
    """A certificate, and how many of the proved inputs are not in it."""

    certificate: Certificate
    beyond: int


def check_rule(arithmetic: Arithmetic) -> Rule:
    """Return the checker's rule that allows every run of the arithmetic.

    Raises
    ------
    UnsupportedArithmeticError
        It has none: sums on tensor cores, in parts, exact, or in a format of their own.
    """
    order, formats = arithmetic.order, checker.FORMATS
    storage, accumulate = arithmetic.storage.name, arithmetic.accumulate.name
    if not (order.name == "any" or order.is_tree) or accumulate not in (storage, "binary32"):
        raise UnsupportedArithmeticError(
            f"No certificate can be written for {arithmetic.name}: the checker knows sums in any order (of which sequential, pairwise and "
            "blocked:K are some) in the storage format or fp32; leave out --certificate, or choose --order any."
        )
    return Rule(formats[storage], formats[accumulate])


def check_network(graph: Graph) -> Network:
    """Put a captured network into the checker's words.

    Raises
    ------
    UnsupportedOperatorError
        It has an operator, or a use of one, that the checker does not know.
    """
    constants: dict[str, NDArray[Any]] = {}
    nodes = tuple(_node(graph, node, constants) for node in graph.nodes)
    if not nodes or nodes[-1].name != graph.output:
        raise UnsupportedOperatorError("No certificate can be written: the network has nodes behind its logits.")
    network = Network(graph.input, nodes, constants)
    try:
        network.shapes(graph.input_shape)
    except ValueError as error:
        raise UnsupportedOperatorError(f"No certificate can be written: {error}; leave out --certificate.") from error
    return network


def _node(graph: Graph, node: GraphNode, constants: dict[str, NDArray[Any]]) -> Node:
    attributes: dict[str, Any] = {}
    if node.operator in _DOTS:
        operator, operands = "linear" if node.operator != "conv2d" else "conv2d", _dot_operands(graph, node, constants)
    elif node.operator == "batch_norm":
        operator, operands = node.operator, _batch_norm_operands(graph, node, constants)
    elif len(node.operands) == 1 and _keeps_order(graph, node):
        operator, operands, attributes = "view", node.operands, {"shape": list(node.shape)}
    else:
        operator, operands = node.operator, node.operands
    if operator not in checker.OPERATORS:
        raise _unknown(node, f"the operator '{node.operator}'")
    if node.attributes.get("ceil_mode"):
        raise _unknown(node, "ceil_mode")
    known = checker.OPERATORS[operator]
    activations = operands[: known.activations]
    if len(operands) != known.activations + known.constants or any(name is None or name in graph.constants for name in activations):
        raise _unknown(node, f"'{node.operator}' of a number or a constant")
    for name, accepts in known.attributes.items():
        value = attributes.setdefault(name, _plain(node.attributes.get(name)))
        if not accepts(value):
            raise _unknown(node, f"{name} = {value}")
    return Node(node.name, operator, operands, attributes)


def _plain(value: Any) -> Any:
    """As JSON gives it back."""
    return list(value) if isinstance(value, tuple) else value


def _unknown(node: GraphNode, what: str) -> UnsupportedOperatorError:
    known = ", ".join(checker.OPERATORS)
    return UnsupportedOperatorError(
        f"No certificate can be written: {node} has {what}, and the checker knows {known}; leave out --certificate.", node.name
    )


def _dot_operands(graph: Graph, node: GraphNode, constants: dict[str, NDArray[Any]]) -> tuple[str | None, ...]:
    x, weight, bias = (None if place is None else node.operands[place] for place in _DOTS[node.operator])
    if weight not in graph.constants or (bias is not None and bias not in graph.constants):
        raise _unknown(node, "weights that are no constants")
    assert weight is not None
    name = f"{weight}.T" if node.operator in _TRANSPOSED else weight
    constants[name] = _array(graph.constants[weight].T if node.operator in _TRANSPOSED else graph.constants[weight])
    if bias is not None:
        constants[bias] = _array(graph.constants[bias])
    return x, name, bias


def _batch_norm_operands(graph: Graph, node: GraphNode, constants: dict[str, NDArray[Any]]) -> tuple[str | None, ...]:
    """Weights of one and biases of zero where there are none."""
    x, *parameters = node.operands
    var = parameters[-1]
    assert var is not None
    names = []
    for parameter, name, value in zip(parameters, ("weight", "bias", "mean", "var"), (1.0, 0.0, 0.0, 1.0), strict=True):
        given = parameter if parameter is not None else f"{node.name}.{name}"
        constants[given] = _array(graph.constants[parameter] if parameter is not None else torch.full_like(graph.constants[var], value))
        names.append(given)
    return x, *names


def _array(values: torch.Tensor) -> NDArray[Any]:
    return np.ascontiguousarray(values.detach().cpu().numpy().astype(np.float32))


def _keeps_order(graph: Graph, node: GraphNode) -> bool:
    """Whether a node gives every entry of its operand, in order."""
    shapes = {graph.input: graph.input_shape} | {n.name: n.shape for n in graph.nodes}
    name = node.operands[0]
    if node.record.stores or name not in shapes or node.operator in checker.OPERATORS.keys() - {"view"}:
        return False
    places = torch.arange(1.0, 1 + math.prod(shapes[name]), dtype=torch.float64).reshape(1, *shapes[name])
    moved = node.record.apply(node.attributes, places)
    return tuple(moved.shape[1:]) == node.shape and torch.equal(moved.flatten(), places.flatten())


def check_certifiable(model: LoadedModel, data: Dataset, arithmetic: Arithmetic, keep: Keep = NOTHING) -> None:
    """Refuse, before a long run, what no certificate can be written for; raises what `make_certificate` would."""
    _check_kept(keep)
    check_rule(arithmetic)
    _network_of(model, data)


def _check_kept(keep: Keep) -> None:
    if keep:
        raise UsageError("The checker knows no nodes that are kept in binary32; leave out --certificate, or keep none.")


def _network_of(model: LoadedModel, data: Dataset) -> Network:
    return check_network(captured(model, data, _input_shape(model, data)))


def _input_shape(model: LoadedModel, data: Dataset) -> tuple[int, ...]:
    return tuple(model.preprocess(data.images[:1]).shape[1:])


def make_certificate(model: LoadedModel, data: Dataset, report: Report, on_progress: Callable[[int, int], None] | None = None) -> Made:
    """Ask the checker for a proof of every input that a report calls proved.

    Parameters
    ----------
    model, data
        What was certified.
    report : Report
    on_progress : callable or None
        Called with the number of inputs done and their total.

    Returns
    -------
    Made

    Raises
    ------
    UnsupportedArithmeticError, UnsupportedOperatorError
        As `check_rule` and `check_network`.
    UsageError
        The checker proves nothing.
    """
    said = report.arithmetic
    _check_kept(Keep.of(said.kept, said.kept_sums))
    rule = check_rule(parse_arithmetic(said.storage, said.accumulate, said.order, said.fuse))
    proved = [row for row in report.inputs if row.verdict == "proved"]
    if not proved:
        raise UsageError("Nothing was proved, so there is no certificate to write.")
    network = _network_of(model, data)
    places = np.array([row.index for row in proved], dtype=np.int64)
    predicted = np.array([row.prediction_half for row in proved], dtype=np.int64)
    methods, least, inputs = [], [], []
    for rows in _blocks(places):
        inputs.append(inputs_of(model, data, places[rows]))
        found = [checker.derive(network, program, inputs[-1], predicted[rows]) for program in (checker.REFERENCE, rule)]
        methods.append(np.stack([method for method, _ in found], axis=1))
        least.append(np.stack([gaps for _, gaps in found], axis=1))
        if on_progress is not None:
            on_progress(rows.stop, len(places))
    gaps = np.concatenate(least)
    kept = (gaps > 0).all(axis=1)
    if not kept.any():
        raise UsageError(
            "The checker's bounds, which are simpler than those of certify, prove none of the inputs; there is no certificate to write."
        )
    certificate = Certificate(
        Source(PurePath(report.model.path).name, report.model.sha256),
        Source(PurePath(report.data.name).name, report.data.sha256),
        report.data.split,
        report.summary.inputs,
        rule,
        network,
        np.concatenate(inputs)[kept],
        places[kept],
        predicted[kept],
        np.concatenate(methods)[kept],
        gaps[kept],
    )
    return Made(certificate, int((~kept).sum()))


def _blocks(places: NDArray[np.int64]) -> Iterator[slice]:
    """Rows whose places in the data set lie close together."""
    starts = np.searchsorted(places, np.arange(0, places[-1] + _BATCH + 1, _BATCH)).tolist()
    yield from (slice(first, last) for first, last in pairwise(starts) if first < last)


def inputs_of(model: LoadedModel, data: Dataset, places: NDArray[np.int64]) -> NDArray[np.float32]:
    """The preprocessed inputs at these places, which ascend."""
    first = int(places[0])
    return np.asarray(model.preprocess(data.images[first : int(places[-1]) + 1], first).numpy()[places - first])


def differences(certificate: Certificate, model: LoadedModel, data: Dataset | None) -> str | None:
    """Compare a certificate with a model, and with a data set: what is not the same, to the last bit; None if all is.

    Raises
    ------
    UnsupportedOperatorError
        The model has an operator that the checker does not know.
    """
    held = tuple(certificate.inputs.shape[1:])
    if data is not None and (shape := _input_shape(model, data)) != held:
        return f"inputs of {data.name} have the shape {shape}, those of the certificate {held}"
    network = check_network(capture(model.module, held)) if data is None else _network_of(model, data)
    mine, theirs = (replace(n, constants={}) for n in (network, certificate.network))
    if mine != theirs:
        return f"the network is not that of {model.path}: it has other operators, or in another order"
    for name, value in network.constants.items():
        other = certificate.network.constants[name]  # of equal nodes the names are the same
        if other.shape != value.shape or other.tobytes() != value.tobytes():
            return f"the tensor '{name}' is not that of {model.path}"
    if data is None:
        return None
    if certificate.index[-1] >= len(data.images):
        return f"{data.name} has {len(data.images)} inputs, and the certificate speaks of input {certificate.index[-1]}; leave out --limit"
    for rows in _blocks(certificate.index):
        same = inputs_of(model, data, certificate.index[rows]).view(np.uint32) == certificate.inputs[rows].view(np.uint32)
        for bad in np.nonzero(~same.reshape(len(same), -1).all(axis=1))[0]:
            return f"input {certificate.index[rows][bad]} is not that of {data.name}; are preprocessing and --split those of certify?"
    return None
