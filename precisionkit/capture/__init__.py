"""Capture a torch module as a `Graph`, through `torch.export`.

``run_decompositions({})`` makes the program functional and keeps fused operators whole, and with them the places where the
real kernels round; the default decomposition table would split them.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from precisionkit.capture.calm import as_written
from precisionkit.capture.export import batch_of, export, has_free_batch
from precisionkit.capture.reader import Reader, Seen, read
from precisionkit.errors import PrecisionKitError, UnusableModelError
from precisionkit.graph import Graph, Node, interpret

_CHECKED = 3
"""Images that a captured graph is compared on with the module."""


def capture(module: nn.Module, input_shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Graph:
    """Turn a classifier into a graph.

    Parameters
    ----------
    module : nn.Module
        Takes one tensor (batch, *input_shape) and returns one tensor (batch, classes).  A copy is captured, in evaluation
        mode; the module itself is left as it is.
    input_shape : tuple of int
        Without the batch.
    dtype : torch.dtype
        Of the input: float32, or int64 for tokens.

    Raises
    ------
    UnusableModelError
        The module does not run on such an input, cannot be exported, does not return (batch, classes), or the graph does not compute
        what the module does.
    UnsupportedOperatorError
        It uses an operator, or a use of one, that has no error rule.
    """
    with as_written():
        program = _exported(module, input_shape, dtype)
        return _checked(program, input_shape, dtype)


@dataclass(frozen=True)
class Survey:
    """What is known of a network that may not be supported as a whole.

    Attributes
    ----------
    input : str
        Name of the input.
    seen : tuple of Seen
        Every operator of the exported program, in order.
    graph : Graph or None
        None where it is not supported.
    reason : str
        Why not.
    """

    input: str
    seen: tuple[Seen, ...]
    graph: Graph | None
    reason: str = ""


def survey(module: nn.Module, input_shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Survey:
    """Look at every operator of a classifier, supported or not; arguments as for `capture`.

    Raises
    ------
    UnusableModelError
        The module does not run on such an input or cannot be exported.
    """
    with as_written():
        program = _exported(module, input_shape, dtype)
        reader = Reader(program, lenient=True)
        for node in program.graph_module.graph.nodes:
            reader.read(node)
        try:
            graph = _checked(program, input_shape, dtype)
        except PrecisionKitError as error:
            return Survey(reader.start, tuple(reader.seen), None, str(error))
        return Survey(reader.start, tuple(reader.seen), graph)


def _checked(program: ExportedProgram, input_shape: tuple[int, ...], dtype: torch.dtype) -> Graph:
    """The graph of a program, once it is found to compute the same."""
    graph = replace(read(program, input_shape), tokens=not dtype.is_floating_point)
    _check(graph, program, input_shape, dtype)
    return graph


def _exported(module: nn.Module, input_shape: tuple[int, ...], dtype: torch.dtype) -> ExportedProgram:
    return export(copy.deepcopy(module).float().cpu().eval(), input_shape, dtype)


def _check(graph: Graph, program: ExportedProgram, input_shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Compare the graph with the program that it was read from: layouts of batches could be misread.

    Both in binary64, so that they agree to many digits, each class by itself; a wrong layout gives other numbers altogether.  In
    binary32, to fewer, where the program's code insists on it.
    """
    sample = batch_of(_CHECKED, input_shape, dtype)
    try:
        expected, found, share = *_both(graph, program, sample.double() if dtype.is_floating_point else sample, torch.float64), 1e-7
    except RuntimeError:
        expected, found, share = *_both(graph, program, sample, torch.float32), 1e-3
    known = expected.isfinite()
    scale = torch.where(known, expected.abs(), 0.0).amax(0, keepdim=True) + 1e-5 * share
    agrees = torch.where(known, (found - expected).abs() <= share * scale, ~found.isfinite()) if found.shape == expected.shape else None
    if agrees is None or not bool(agrees.all()):
        raise UnusableModelError(
            "The captured graph computes other logits than the model on a batch of three random inputs: the model mixes the images of a "
            "batch, or draws random numbers; make each row of its result depend on the same row of its input alone."
        )


def _both(graph: Graph, program: ExportedProgram, sample: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Logits of the program and of the graph."""
    with torch.no_grad():
        module = _module_in(program, dtype)
        expected = module(sample) if has_free_batch(program) else torch.cat([module(one) for one in sample.split(1)])
        return expected, _run(graph, sample, dtype)


def _module_in(program: ExportedProgram, dtype: torch.dtype) -> nn.Module:
    """The program's module in a format, without its checks of dtypes."""
    module = copy.deepcopy(program.module(check_guards=False))
    for node in list(module.graph.nodes):
        if "_assert_tensor_metadata" in str(node.target):
            module.graph.erase_node(node)
    module.recompile()
    converted: nn.Module = module.to(dtype)
    return converted


def _run(graph: Graph, sample: Tensor, dtype: torch.dtype) -> Tensor:
    constants = {name: value.to(dtype) for name, value in graph.constants.items()}

    def run_node(node: Node, operands: tuple[Tensor | None, ...]) -> Tensor | None:
        return None if node.record.hidden else node.record.apply(node.attributes, *operands)

    result = interpret(graph, sample, constants, run_node)
    for target in reversed(graph.removed):
        result = torch.log_softmax(result, 1) if "log_softmax" in target else torch.softmax(result, 1)
    return result


__all__ = ["Reader", "Survey", "capture", "survey"]
