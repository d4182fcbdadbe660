"""Linear layers: ``y = x W^T + b``."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from precisionkit.arithmetic import Arithmetic
from precisionkit.enclosure import Bounded, Enclosure
from precisionkit.ops._dot import Dots, Sums, bounded, dot_errors, tensor_core_steps
from precisionkit.ops._runs import run_dots
from precisionkit.ops.record import Attributes, Operator


def _apply(attributes: Attributes, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return F.linear(x, weight, bias)


def _exact(engine: Any, attributes: Attributes, x: Any, weight: Any, bias: Any = None) -> Any:
    y = engine.dot(x.reshape(-1, x.shape[-1]), weight.T).reshape(*x.shape[:-1], -1)
    return y if bias is None else y + bias


def _dots(x: Tensor, deviation: Tensor | None, weight: Tensor, bias: Tensor | None) -> Dots:
    """Every leading index of x is one row of the batch of dots."""
    rows = x.flatten(0, -2)[:, None, :, None]
    deviations = None if deviation is None else deviation.flatten(0, -2)[:, None, :, None]
    return Dots(weight[None], rows, deviations, None if bias is None else bias[None])


def _rounded(arithmetic: Arithmetic, attributes: Attributes, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    rows = x.flatten(0, -2)
    return run_dots(arithmetic, weight[None], rows.T[None, None], None if bias is None else bias[None])[0, 0].T.reshape(*x.shape[:-1], -1)


def error_rule(arithmetic: Arithmetic, attributes: Attributes, x: Enclosure, weight: Tensor, bias: Tensor | None = None) -> Bounded:
    """Bound ``W x + b`` over the enclosure of x."""
    products = weight.shape[1]
    size = weight.abs()
    magnitude = F.linear(x.centre.abs(), size, None if bias is None else bias.abs())
    count = torch.minimum(x.occupied().sum(-1, keepdim=True), (weight != 0).sum(1).to(weight.dtype))
    sums = Sums.of(F.linear(x.centre, weight, bias), magnitude, F.linear(x.radius, size), products, count, bias=bias is not None)
    dots = _dots(x.centre, x.radius, weight, bias) if arithmetic.order.is_tree else None
    steps = tensor_core_steps(arithmetic.order, products, 1)
    largest = torch.maximum((x.centre.abs() + x.radius).flatten(1).amax(1), size.max())
    errors = dot_errors(arithmetic, sums, dots, steps, largest.reshape(-1, *[1] * (x.centre.dim() - 1)))
    return bounded(arithmetic, sums, errors)


LINEAR = Operator(
    name="linear",
    targets=("aten.linear.default",),
    operands=("input", "weight", "bias"),
    apply=_apply,
    error_rule=error_rule,
    exact=_exact,
    rounded=_rounded,
    transpose=lambda attributes, g, rows, x, weight, bias=None: (g @ weight.to(g.dtype), None, None),
    transposed_terms=lambda _, x, weight, bias=None: weight.shape[0],
    linear=lambda attributes, d, rows, x, weight, bias=None: d[0] @ weight.T.to(d[0].dtype),
    linear_terms=lambda _, x, weight, bias=None: weight.shape[1],
    products=lambda shape, shapes: math.prod(shapes[1]) * math.prod(shape[:-1]),
    ends_fused=True,
    bound="|W|e + (m-1) v ufp(max(P,N) + (m-1) v S) for any order; half an ulp of every partial sum for a named tree",
    source="proofs/bounds.md, theorems 2 to 5 and 21",
)


def _addmm_operands(bias: Any, x: Any, weight: Any) -> tuple[Any, Any, Any]:
    """``addmm(b, x, V) = x V + b``: the linear layer with W = V^T."""
    return x, weight.T, bias


def _addmm_check(attributes: Attributes, shapes: Any) -> str | None:
    if attributes.get("beta", 1) != 1 or attributes.get("alpha", 1) != 1:
        return "only alpha = beta = 1 is supported"
    return None if len(shapes[0] or ()) == 1 else "only a bias vector is supported as the added matrix"


ADDMM = Operator(
    name="addmm",
    targets=("aten.addmm.default",),
    operands=("self", "mat1", "mat2"),
    apply=lambda attributes, *t: _apply(attributes, *_addmm_operands(*t)),
    error_rule=lambda arithmetic, attributes, *t: error_rule(arithmetic, attributes, *_addmm_operands(*t)),
    exact=lambda engine, attributes, *t: _exact(engine, attributes, *_addmm_operands(*t)),
    rounded=lambda arithmetic, attributes, *t: _rounded(arithmetic, attributes, *_addmm_operands(*t)),
    check=_addmm_check,
    transpose=lambda attributes, g, rows, bias, x, weight: (None, g @ weight.T.to(g.dtype), None),
    transposed_terms=lambda _, bias, x, weight: weight.shape[1],
    linear=lambda attributes, d, rows, bias, x, weight: d[1] @ weight.to(d[1].dtype),
    linear_terms=lambda _, bias, x, weight: weight.shape[0],
    products=lambda shape, shapes: math.prod(shapes[2]) * math.prod(shape[:-1]),
    ends_fused=True,
    bound="as linear",
    source="proofs/bounds.md, theorems 2 to 5 and 21",
)

MM = Operator(
    name="mm",
    targets=("precisionkit.mm",),
    operands=("self", "other"),
    apply=lambda attributes, x, w: _apply(attributes, x, w.T),
    error_rule=lambda arithmetic, attributes, x, w: error_rule(arithmetic, attributes, x, w.T),
    exact=lambda engine, attributes, x, w: _exact(engine, attributes, x, w.T),
    rounded=lambda arithmetic, attributes, x, w: _rounded(arithmetic, attributes, x, w.T),
    transpose=lambda attributes, g, rows, x, w: (g @ w.T.to(g.dtype), None),
    transposed_terms=lambda _, x, w: w.shape[1],
    linear=lambda attributes, d, rows, x, w: d[0] @ w.to(d[0].dtype),
    linear_terms=lambda _, x, w: w.shape[0],
    check=lambda _, shapes: None if len(shapes[1] or ()) == 2 else "only a constant matrix is supported as the second factor",
    products=lambda shape, shapes: math.prod(shapes[1]) * math.prod(shape[:-1]),
    ends_fused=True,
    bound="as linear",
    source="proofs/bounds.md, theorems 2 to 5 and 21",
)
