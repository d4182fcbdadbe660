"""What the bound of a gap is made of, to first order: which nodes add how much.  For messages and pictures, never a verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from precisionkit.bound.backward import contributions
from precisionkit.bound.linearised import Tangents
from precisionkit.bound.pulling import IN_BINARY64, direct_sums
from precisionkit.bound.walk import walk
from precisionkit.evaluate import Program


@dataclass(frozen=True)
class Shares:
    """First-order worst-case errors of one gap of each input.

    Attributes
    ----------
    total : (batch,) binary64 tensor
    by_node : mapping of str to (batch,) binary64 tensors
        What each node's own rounding adds to it; of nodes that reach the gap, in the order of the graph.  Unless each stands apart, a
        pointwise node has the errors of a linear operand that nothing else uses as well.
    """

    total: Tensor
    by_node: Mapping[str, Tensor]


def first_order_shares(program: Program, inputs: Tensor, classes: Tensor, rivals: Tensor, *, apart: bool = False) -> Shares:
    """Attribute the first-order error of the gap ``z_c - z_j`` to the nodes of a program.

    Parameters
    ----------
    inputs : (batch, ...) tensor
        Numbers of the storage format.
    classes, rivals : (batch,) int64 tensors
        The classes c and j of each input.
    apart : bool
        Count each node's errors with itself alone.

    Notes
    -----
    Theorem 16 with every nonlinear operator replaced by its tangent at the centre, which is not proved; see `linearised`.
    """
    with direct_sums():
        trace, logits, *_ = walk(program, inputs, Tangents(), IN_BINARY64)
        trace.absorbs = not apart
        signs = torch.eye(logits.centre.shape[1], dtype=torch.float64, device=inputs.device)
        rows = torch.arange(len(inputs), device=inputs.device)
        by_node = contributions(trace, program.graph.output, signs[classes] - signs[rivals], rows)
    return Shares(torch.stack(list(by_node.values())).sum(0), by_node)
