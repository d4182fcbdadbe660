"""The cast between a node that is kept in binary32 and one that is not: a store, and nothing else."""

from __future__ import annotations

from typing import Any

import torch

from precisionkit.arithmetic import Arithmetic
from precisionkit.enclosure import Bounded, Enclosure
from precisionkit.formats import BINARY32
from precisionkit.ops.record import Attributes, Operator


def _rule(arithmetic: Arithmetic, attributes: Attributes, x: Enclosure) -> Bounded:
    return Bounded(x.centre, x.radius, torch.zeros_like(x.centre), BINARY32)


def _same(attributes: Attributes, value: Any) -> Any:
    return value


CAST = Operator(
    name="cast",
    targets=("precisionkit.cast",),
    operands=("self",),
    apply=_same,
    error_rule=_rule,
    exact=lambda engine, attributes, x: x,
    transpose=lambda attributes, g, rows, x: (g,),
    linear=lambda attributes, d, rows, x: d[0],
    pointwise=True,
    bound="|r| <= u ufp(|x|), or eta below the normal range",
    source="proofs/bounds.md, theorem 1",
)
