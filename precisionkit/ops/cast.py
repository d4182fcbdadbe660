"""The cast between a node that is kept in binary32 and one that is not: a store, and nothing else."""

from __future__ import annotations

from typing import Any

import torch

from precisionkit.arithmetic import Arithmetic
from precisionkit.enclosure import Bounded, Enclosure
from precisionkit.formats import round_to_nearest
from precisionkit.ops._store import store_error
from precisionkit.ops.record import Attributes, Operator
from precisionkit.outward import add_up


def _rule(arithmetic: Arithmetic, attributes: Attributes, x: Enclosure) -> Bounded:
    storage = arithmetic.storage
    lost = store_error(storage, add_up(x.centre.abs(), x.radius))
    known = (round_to_nearest(x.centre, storage) - x.centre).abs().nan_to_num(0.0)  # minus infinity stays what it is
    fresh = torch.where(x.radius == 0, torch.fmin(known, lost), lost)
    return Bounded(x.centre, x.radius, fresh, storage, bias=torch.zeros_like(fresh))


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
