"""Whether a record's derivatives are those of the operator, and cover what is beyond them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from precisionkit.bound.pulling import IN_BINARY32
from precisionkit.custom.tried import Tried, beyond
from precisionkit.custom.use import within
from precisionkit.enclosure import Bounded, Enclosure

_ROUNDING = 2.0**-40
"""Relative, of what is computed here in binary64."""


def check_derivatives(tried: Tried) -> None:
    """Check `linear` against the operator, `transpose` against `linear`, and how both round."""
    centres = [v if v is None else v.clone() for v in tried.values]
    deviations = [_deviation(tried, place, value) for place, value in enumerate(centres)]
    radii = [None if d is None else d.abs() for d in deviations]
    operands = tried.enclosed(centres, radii)
    result: Bounded = tried.ask("error_rule", tried.arithmetic, tried.use.attributes, *operands)
    if not (result.centre.isfinite() & result.carried.isfinite()).all():
        return
    rows = torch.arange(len(result.centre))
    moved = _linear(tried, deviations, rows, operands, result.centre.shape)
    _check_remainder(tried, centres, deviations, moved, result)
    _check_rows(tried, deviations, operands, moved)
    jacobian = _jacobian(tried, operands)
    _check_pointwise(tried, jacobian, operands)
    _check_transpose(tried, jacobian, operands, result.centre.shape[1:])


def _deviation(tried: Tried, place: int, value: Tensor | None) -> Tensor | None:
    """How far an operand moves, within where the operator is defined."""
    if value is None or not tried.use.is_activation(place):
        return None
    size = (value.abs() * 2.0 ** -float(tried.rng.choice([3.0, 8.0, 20.0]))).clamp_min(tried.arithmetic.storage.smallest_subnormal)
    return within(tried.use, value + size * torch.from_numpy(tried.rng.choice([-1.0, 1.0, 0.3, -0.7], value.shape))) - value


def _linear(tried: Tried, deviations: list[Tensor | None], rows: Tensor, operands: list[Any], shape: torch.Size) -> Tensor:
    moved: Tensor = tried.ask("linear", tried.use.attributes, tuple(deviations), rows, *operands)
    if tuple(moved.shape) != (len(rows), *shape[1:]):
        tried.fail(f"linear gives the shape {tuple(moved.shape)}, and not {(len(rows), *shape[1:])}", "linear")
    return moved


def _check_remainder(tried: Tried, centres: list[Tensor | None], deviations: list[Tensor | None], moved: Tensor, result: Bounded) -> None:
    """``|f(c + d) - f(c) - J d|`` is at most the second order, and ``|J d|`` at most the linear reach."""
    there = [c if d is None or c is None else c + d for c, d in zip(centres, deviations, strict=True)]
    before = tried.exact(centres)
    change = tried.exact(there) - before
    second = torch.zeros_like(moved) if result.second_order is None else result.second_order.expand_as(moved)
    judge = torch.from_numpy(np.abs(before.astype(np.float64))).clamp_min(1.0) * 2.0**-300  # the change is a difference
    slack = (moved.abs() + result.linear_reach + result.carried) * _ROUNDING + judge + 2.0**-1060
    found = beyond(moved, change, second + slack)
    if found is not None:
        index, apart = found
        tried.fail(
            f"at {tried.at(index, moved.shape)} linear moves the result by {float(moved[index]):.9g}, which is {apart} from how far it "
            f"moves, more than the second order {float(second[index]):.5g}",
            "linear or error_rule (second_order)",
        )
    outside = (moved.abs() > result.linear_reach * (1 + _ROUNDING) + 2.0**-1060).nonzero()
    if len(outside):
        index = tuple(outside[0].tolist())
        tried.fail(
            f"at {tried.at(index, moved.shape)} linear moves the result by {float(moved[index]):.9g}, more than the linear reach "
            f"{float(result.linear_reach[index]):.9g}",
            "error_rule (carried, or reach)",
        )


def _check_rows(tried: Tried, deviations: list[Tensor | None], operands: list[Any], moved: Tensor) -> None:
    """Row k belongs to image rows[k]."""
    turned = torch.arange(len(moved) - 1, -1, -1)
    back = [None if d is None else d[turned] for d in deviations]
    found = _linear(tried, back, turned, operands, moved.shape)
    if not torch.allclose(found, moved[turned], rtol=_ROUNDING, atol=1e-300):
        tried.fail("linear takes rows for other images than the row numbers say", "linear (rows)")


def _jacobian(tried: Tried, operands: list[Any]) -> list[dict[int, Tensor]]:
    """For each image and operand the derivative, (entries of the operand, entries of the result)."""
    found: list[dict[int, Tensor]] = []
    for image in range(len(operands[tried.use.activations[0]].centre)):
        parts = {}
        for place in tried.use.activations:
            shape = operands[place].centre.shape[1:]
            units = torch.eye(shape.numel(), dtype=torch.float64).reshape(-1, *shape)
            given = tuple(units if i == place else None for i in range(len(operands)))
            rows = torch.full((len(units),), image)
            parts[place] = tried.ask("linear", tried.use.attributes, given, rows, *operands).flatten(1)
        found.append(parts)
    return found


def _check_pointwise(tried: Tried, jacobian: list[dict[int, Tensor]], operands: list[Any]) -> None:
    if not tried.record.pointwise:
        return
    for parts in jacobian:
        for place, part in parts.items():
            same = part.shape[0] == part.shape[1] and operands[place].centre[0].numel() == part.shape[1]
            if same and (part - torch.diag(part.diagonal())).any():
                tried.fail("linear mixes entries, but the record says pointwise", "pointwise or linear")


def _check_transpose(tried: Tried, jacobian: list[dict[int, Tensor]], operands: list[Any], shape: torch.Size) -> None:
    """``transpose`` is the transpose of ``linear``, and rounds as often as it says: with many small entries beside one that is large."""
    images = torch.arange(len(jacobian) - 1, -1, -1)
    tiny = torch.full((len(images), shape.numel()), 2.0**-24, dtype=torch.float64)
    tiny[:, 0] = 1.0
    drawn = torch.from_numpy(tried.rng.integers(-4, 5, tuple(tiny.shape)).astype(float))
    terms = tried.ask("transposed_terms", tried.use.attributes, *operands) + 3
    for g in (drawn, tiny):
        whole, short = (
            tried.ask("transpose", tried.use.attributes, g.to(dtype).reshape(-1, *shape), images, *operands)
            for dtype in (torch.float64, torch.float32)
        )
        for place, operand in enumerate(operands):
            if not isinstance(operand, Enclosure):
                continue
            expected = torch.stack([jacobian[i][place] @ row for i, row in zip(images.tolist(), g, strict=True)])
            size = torch.stack([jacobian[i][place].abs() @ row.abs() for i, row in zip(images.tolist(), g, strict=True)])
            if whole[place] is None or whole[place].shape != (len(images), *operand.centre.shape[1:]):
                tried.fail(f"transpose gives no functional of the shape of operand {place}", "transpose")
            if ((whole[place].flatten(1) - expected).abs() > _ROUNDING * size + 1e-300).any():
                tried.fail(f"transpose is not the transpose of linear for operand {place}, or takes rows for other images", "transpose")
            lost = (short[place].to(torch.float32).double().flatten(1) - whole[place].flatten(1)).abs()
            lost = lost.masked_fill(~lost.isfinite(), 0.0)  # beyond binary32 nothing is proved
            if (lost > terms * IN_BINARY32.unit * size + size.shape[1] * IN_BINARY32.tiny * terms).any():
                tried.fail(f"transpose in binary32 rounds more often than transposed_terms says, {terms - 3} times", "transposed_terms")
