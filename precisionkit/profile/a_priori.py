"""The classical bound by norms, from the sizes of weights and inputs alone.

For every node two numbers: M bounds every result, and r the error of every result, on all inputs of at most a given size.  With
``|x| <= M`` the error rule of a record, applied to the enclosure ``0 -+ M``, bounds what the node's own roundings add (`Stored.local`) and
the results of the next node.  An affine node carries ``|W| r <= norm(W) r``: the rule again, on ``0 -+ r``.  Other nodes carry at most
their Lipschitz constant times r, where one is known here.  So ``r' = norm(W) r + local(M)`` (Wilkinson; Higham 2002, chapter 3).
It holds for runs without overflow, which other rungs have to exclude.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from precisionkit.bound.interval import stored
from precisionkit.bound.pulling import direct_sums
from precisionkit.enclosure import Enclosure
from precisionkit.evaluate import Program
from precisionkit.graph import Node
from precisionkit.outward import mul_up

_DOTS = ("linear", "addmm", "mm", "matmul", *(f"conv{t}{d}d" for d in (1, 2, 3) for t in ("", "_transpose")))
_SUMS = ("batch_norm", "avg_pool2d", "adaptive_avg_pool2d", "mean", "sum", "add", "sub", "rsub", "mul", "div")
_MOVES = ("view", "flatten", "permute", "transpose", "unsqueeze", "squeeze", "slice", "select", "cat", "clone", "pad", "rearrange")
AFFINE = frozenset((*_DOTS, *_SUMS, *_MOVES))
"""Operators that are affine unless they multiply activations; their carried error does not depend on the centre."""
LIPSCHITZ = {
    **dict.fromkeys(("relu", "relu6", "abs", "neg", "max_pool2d", "amax", "amin", "maximum", "minimum", "tanh"), 1.0),
    "sigmoid": 0.25,
}
"""How far others can move a result at most, in units of how far their operands move."""


def a_priori(program: Program, largest: float) -> dict[str, float]:
    """Bound the error of every node's stored result on all inputs with ``max |x| <= largest``, in every run without overflow.

    Infinite behind an operator that is in neither `AFFINE` nor `LIPSCHITZ`.  An error is the distance from the exact network with the
    program's rounded weights.
    """
    graph = program.graph
    constants = {name: value.double() for name, value in program.constants.items()}
    shapes = {graph.input: graph.input_shape} | {node.name: node.shape for node in graph.nodes}
    sizes, errors = {graph.input: largest}, {graph.input: 0.0}

    def around_zero(node: Node, radii: dict[str, float]) -> tuple[Any, ...]:
        return tuple(
            None if name is None else constants[name] if name in constants else _around_zero(shapes[name], radii[name])
            for name in node.operands
        )

    with direct_sums():
        for node in graph.nodes:
            sizes[node.name], errors[node.name] = math.inf, math.inf
            read = [name for name in node.operands if name is not None and name in shapes]
            operands = around_zero(node, sizes)
            if not read or not all(math.isfinite(errors[name]) for name in read) or not _is_covered(node, operands):
                continue
            result = node.record.error_rule(program.arithmetic_of(node), node.attributes, *operands)
            store = stored(program.arithmetic_of(node), result, unstored=node.name in program.unstored)
            carried = _carried(program, node, around_zero(node, errors), max(errors[name] for name in read))
            parts = [carried, _largest(store.local)]
            # numbers that backends round move results by more than their operands' errors do
            parts += [] if result.second_order is None or node.operator in LIPSCHITZ else [_largest(result.second_order)]
            sizes[node.name] = _sum_up([_largest(result.centre.abs()), _largest(store.radius)])
            errors[node.name] = _sum_up(parts)
    return {node.name: _or_infinite(errors[node.name]) for node in graph.nodes}


def _around_zero(shape: tuple[int, ...], radius: float) -> Enclosure:
    zeros = torch.zeros(1, *shape, dtype=torch.float64, device="cpu")
    return Enclosure(zeros, torch.full_like(zeros, radius))


def _is_covered(node: Node, operands: tuple[Any, ...]) -> bool:
    if node.operator in LIPSCHITZ:
        return True
    return node.operator in AFFINE and not node.record.curved(node.attributes, *operands)


def _carried(program: Program, node: Node, operands: tuple[Any, ...], error: float) -> float:
    if node.operator in LIPSCHITZ:
        return float(mul_up(torch.tensor(error, dtype=torch.float64, device="cpu"), LIPSCHITZ[node.operator]))
    return _largest(node.record.error_rule(program.arithmetic_of(node), node.attributes, *operands).carried)


def _largest(values: Tensor) -> float:
    return float(values.amax())


def _sum_up(parts: list[float]) -> float:
    total = 0.0
    for part in parts:
        total = math.nextafter(total + part, math.inf)
    return total


def _or_infinite(value: float) -> float:
    return math.inf if math.isnan(value) else value
