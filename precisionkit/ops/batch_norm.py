"""Batch normalisation with fixed statistics: ``y = (x - mean) w / sqrt(var + eps) + b`` per channel."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from precisionkit.arithmetic import Arithmetic
from precisionkit.contracts import SQRT
from precisionkit.enclosure import Bounded, Enclosure
from precisionkit.formats import BINARY32, BINARY64, Format
from precisionkit.ops._store import internal_error
from precisionkit.ops.record import Attributes, Operator
from precisionkit.outward import add_up, mul_up

_CHAIN = 7 + int(SQRT.result)
"""Roundings between x and y in every usual evaluation: eps to the format and var + eps (halved by the root, so 1), the root
(2 u an ulp), its reciprocal, w, the subtraction, the product, the sum, and one for the quotients 1 / (1 + d)."""


def _apply(attributes: Attributes, x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, var: Tensor) -> Tensor:
    return F.batch_norm(x, mean, var, weight, bias, training=False, eps=attributes["eps"])


def _by_channel(values: Any, x: Any) -> Any:
    return values.reshape(1, -1, *[1] * (len(x.shape) - 2))


def _exact(engine: Any, attributes: Attributes, x: Any, weight: Any, bias: Any, mean: Any, var: Any) -> Any:
    y = x - _by_channel(mean, x)
    for c in range(y.shape[1]):
        scale = 1 / engine.sqrt(var[c] + engine.number(attributes["eps"]))
        y[:, c] = y[:, c] * (scale if weight is None else scale * weight[c])
    return y if bias is None else y + _by_channel(bias, x)


def _error_rule(
    arithmetic: Arithmetic, attributes: Attributes, x: Enclosure, weight: Tensor | None, bias: Tensor | None, mean: Tensor, var: Tensor
) -> Bounded:
    """Bound every usual evaluation: ``x a + (b - mean a)`` with ``a = w / sqrt(var + eps)``, and ``(x - mean) / sqrt(...) w + b``."""
    weight = torch.ones_like(var) if weight is None else weight
    bias = torch.zeros_like(var) if bias is None else bias
    inverse = 1 / (var + attributes["eps"]).sqrt()
    # the binary64 root of some libraries is off by an ulp, so the scale has an error of at most 5 roundings
    scale = mul_up((inverse * weight).abs(), 1 + 16 * 2.0**-53)
    centre = F.batch_norm(x.centre, mean, var, weight, bias, training=False, eps=attributes["eps"])
    scale_c, mean_c, bias_c = _by_channel(scale, centre), _by_channel(mean.abs(), centre), _by_channel(bias.abs(), centre)
    carried = mul_up(x.radius, scale_c)
    reach = add_up(x.centre.abs(), x.radius)
    inputs = add_up(reach, mean_c)
    product = mul_up(inputs, scale_c)
    largest = add_up(product, bias_c)
    underflow = mul_up(add_up(inputs, 4.0 + _by_channel(weight.abs(), centre)), arithmetic.internal.eta)
    fresh = add_up(_rounding(arithmetic.internal, product, bias_c, underflow), _rounding(BINARY64, product, bias_c, 2.0**-1000))
    factors = add_up(_by_channel(inverse, centre), scale_c, mul_up(mean_c, scale_c), bias_c)
    normalised = mul_up(inputs, _by_channel(inverse, centre) * (1 + 16 * 2.0**-53))
    peak = torch.maximum(torch.maximum(largest, normalised), torch.maximum(inputs, factors))
    return Bounded(centre, carried, fresh, arithmetic.internal, add_up(peak, fresh), arithmetic.internal)


def _rounding(fmt: Format, product: Tensor, bias: Tensor, absolute: Tensor | float) -> Tensor:
    """Error of one evaluation in a format: the whole chain on ``(|x| + |mean|) |a|``, two roundings on ``|b|``."""
    return add_up(internal_error(fmt, product, _CHAIN, absolute), internal_error(fmt, bias, 2))


def _transpose(attributes: Attributes, g: Tensor, rows: Tensor, x: Enclosure, *parameters: Tensor | None) -> tuple[Any, ...]:
    weight, _, _, var = parameters
    scale = _by_channel(_scale(attributes, weight, var), g)
    narrow = scale.to(g.dtype)
    normal = bool((scale.abs() >= torch.finfo(g.dtype).smallest_normal).all())
    return (g * (narrow if normal else scale), None, None, None, None)  # a scale below the normal range is multiplied in binary64


def _linear(
    attributes: Attributes, deviations: tuple[Tensor | None, ...], rows: Tensor, x: Enclosure, *parameters: Tensor | None
) -> Tensor:
    deviation = deviations[0]
    assert deviation is not None
    image: Tensor = deviation * _by_channel(_scale(attributes, parameters[0], parameters[3]), deviation).to(deviation.dtype)
    return image


def _scale(attributes: Attributes, weight: Tensor | None, var: Any) -> Tensor:
    """``w / sqrt(var + eps)`` in binary64, with an error of at most 5 roundings (the root may be off by an ulp)."""
    scale: Tensor = 1 / (var.double() + attributes["eps"]).sqrt()
    return scale if weight is None else scale * weight.double()


def _check(attributes: Attributes, shapes: Any) -> str | None:
    if attributes.get("training"):
        return "only evaluation mode is supported; call model.eval()"
    if 0 < attributes["eps"] < BINARY32.smallest_normal:
        return f"eps = {attributes['eps']:g} is below {BINARY32.smallest_normal:g}, the normal range of binary32; choose a larger one"
    return None


BATCH_NORM = Operator(
    name="batch_norm",
    targets=("aten._native_batch_norm_legit_no_training.default", "aten.batch_norm.default"),
    operands=("input", "weight", "bias", "running_mean", "running_var"),
    apply=_apply,
    error_rule=_error_rule,
    transpose=_transpose,
    transposed_terms=lambda attributes, *_: 8,
    linear=_linear,
    linear_terms=lambda attributes, *_: 8,
    pointwise=True,
    exact=_exact,
    check=_check,
    bound=f"|a| e + {_CHAIN + 1} v (|x| + |mean|)|a| + 3 v |b| + underflow, a = w / sqrt(var + eps)",
    source="proofs/bounds.md, theorem 7",
    assumption=SQRT.sentence("Square roots and their reciprocals"),
)
