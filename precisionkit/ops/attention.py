"""Scaled dot-product attention as fused kernels compute it: scores and softmax in the internal format, probabilities perhaps stored.

The scores, the logarithms of the sums and the probabilities are statistics: each error acts on many results.  Proofs:
proofs/bounds.md, theorem 26.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from precisionkit.arithmetic import ANY, Arithmetic
from precisionkit.contracts import EXP
from precisionkit.enclosure import Bounded, Enclosure
from precisionkit.formats import BINARY64
from precisionkit.ops import matmul
from precisionkit.ops._store import internal_error
from precisionkit.ops.adjoint import at_rows
from precisionkit.ops.record import Attributes, Operator, Statistic, several_activations
from precisionkit.ops.softmax import KEYS_A_BLOCK, SOFTMAX, blocks_of, exact_softmax, masked_out, softmax_rule
from precisionkit.outward import add_up, hypot_up, mul_up

ASSUMPTION = (
    "Attention is computed by fused kernels: scores, softmax and sums in the internal format or in the accumulator's, rescaled at most "
    f"once for every {KEYS_A_BLOCK} keys; probabilities may be stored once in the storage format. The unfused fallback, which stores the "
    "scores, is not covered."
)


def _scale(attributes: Attributes, query: Any) -> float:
    given = attributes.get("scale")
    return 1 / math.sqrt(query.shape[-1]) if given is None else float(given)


# --------------------------------------------------------------------------------------------------------------- scores
def _known(mask: Any) -> Any:
    """A mask that is another one for each image, as one of tokens, is the same in every run."""
    return mask.centre if isinstance(mask, Enclosure) else mask


def _hidden(mask: Any, rows: Tensor) -> Tensor:
    """What a mask takes out, for each row."""
    return torch.isinf(at_rows(mask.centre, rows) if isinstance(mask, Enclosure) else mask)


def _scores(attributes: Attributes, query: Tensor, key: Tensor, mask: Tensor | None = None) -> Tensor:
    scores = (query @ key.transpose(-1, -2)) * _scale(attributes, query)
    return scores if mask is None else scores + mask


_ROOM = 1 + 2.0**-16
"""More than the relative rounding of scaled factors, and of this bound's own."""


def _product(arithmetic: Arithmetic, a: Enclosure, b: Enclosure, most: float = 1.0) -> Bounded:
    """A product of matrices for a kernel that may sum scaled numbers: a tree of known numbers rounds otherwise, so in any order."""
    tree = arithmetic.order.is_tree
    found = matmul.matmul_rule(replace(arithmetic, order=ANY) if tree else arithmetic, {}, a, b, most)
    assert found.fresh is not None
    return replace(found, spread=torch.zeros_like(found.fresh), bias=found.fresh) if tree else found


def _errors_times(product: Bounded, factor: float) -> Bounded:
    fresh, spread, bias = (mul_up(part, factor) for part in (product.fresh, product.spread, product.bias) if part is not None)
    return replace(product, fresh=fresh, spread=spread, bias=bias)


def _product_of_scaled(arithmetic: Arithmetic, query: Enclosure, key: Enclosure, scale: float) -> Bounded:
    """``s q k`` before the scale is rounded: scaled behind the sum, or in front of it, by s or by its root on both factors.

    The scale is a magnitude: signs are exact.  Errors below the normal range do not scale, and half an ulp is relative to a power of
    two; so both ways are bounded.
    """
    behind = _errors_times(_product(arithmetic, query, key), scale * (1 + 2.0**-50))
    scaled = Enclosure(query.centre * (scale * _ROOM), mul_up(query.radius, scale * _ROOM))
    front = _product(arithmetic, scaled, key, max(1.0, scale, 1 / scale if scale else 1.0))
    errors = (_larger(a, b) for a, b in ((behind.fresh, front.fresh), (behind.spread, front.spread), (behind.bias, front.bias)))
    fresh, spread, bias = errors
    return replace(behind, fresh=fresh, spread=spread, bias=bias, peak=_larger(behind.peak, front.peak))


def _larger(a: Tensor | None, b: Tensor | None) -> Tensor:
    assert a is not None
    assert b is not None
    return torch.maximum(a, b)


def _turned(key: Enclosure) -> Enclosure:
    return Enclosure(key.centre.transpose(-1, -2), key.radius.transpose(-1, -2))


def _score_rule(arithmetic: Arithmetic, attributes: Attributes, query: Enclosure, key: Enclosure, given: Any = None) -> Bounded:
    """A product of matrices, times the scale, in any order of the two, and the mask: six roundings beside those of the sums."""
    mask = _known(given)
    scale = _scale(attributes, query.centre)
    product = _product_of_scaled(arithmetic, matmul.enclosed(query), _turned(key), abs(scale))
    assert product.fresh is not None
    centre = product.centre * scale
    factor = abs(scale) * (1 + 2.0**-50)
    reach, second = mul_up(product.carried, factor), mul_up(product.second_order, factor)  # type: ignore[arg-type]
    magnitude = mul_up(matmul.enclosed(query).centre.abs() @ key.centre.abs().transpose(-1, -2), factor * (1 + 2.0**-30))
    largest = add_up(magnitude, reach, product.fresh)
    added = torch.zeros_like(centre[:1]) if mask is None else mask.abs()
    masked = torch.isinf(added)
    added = added.masked_fill(masked, 0.0)
    # scaling before the product, by the scale or by its root on both factors, rounds every product's factors
    chain = internal_error(arithmetic.internal, largest, 5, 6 * arithmetic.internal.eta)
    last = internal_error(arithmetic.internal, add_up(largest, added.expand_as(largest)), 1)
    own = internal_error(BINARY64, add_up(largest, added.expand_as(largest)), 4, 2.0**-1000)
    assert product.spread is not None
    assert product.bias is not None
    fresh, bias = add_up(product.fresh, chain, last, own), add_up(product.bias, chain, own)
    spread = hypot_up(product.spread, last)
    hidden = masked.expand_as(fresh)
    centre = centre if mask is None else centre + mask
    fresh, spread, bias, reach, second = (t.masked_fill(hidden, 0.0) for t in (fresh, spread, bias, reach, second))
    if isinstance(given, Enclosure):  # no bound where it could deviate
        fresh, bias = (torch.where(given.radius == 0, part, torch.inf) for part in (fresh, bias))
    return Bounded(
        centre,
        reach,
        fresh,
        arithmetic.internal,
        product.peak,
        product.peak_format,
        second_order=second,
        spread=spread,
        bias=bias,
    )


def _score_linear(
    attributes: Attributes, d: tuple[Tensor | None, ...], rows: Tensor, query: Enclosure, key: Enclosure, mask: Any = None
) -> Tensor:
    turned = None if d[1] is None else d[1].transpose(-1, -2)
    image = matmul.linear(attributes, (d[0], turned), rows, query, _turned(key)) * _scale(attributes, query.centre)
    return image if mask is None else image.masked_fill(_hidden(mask, rows), 0.0)


def _score_transpose(
    attributes: Attributes, g: Tensor, rows: Tensor, query: Enclosure, key: Enclosure, mask: Any = None
) -> tuple[Any, ...]:
    g = g.double() * _scale(attributes, query.centre)
    g = g if mask is None else g.masked_fill(_hidden(mask, rows), 0.0)
    to_query, to_key = matmul.transpose(attributes, g, rows, query, _turned(key))
    return to_query, None if to_key is None else to_key.transpose(-1, -2), None


def _exact_scores(engine: Any, attributes: Attributes, query: Any, key: Any, mask: Any = None) -> Any:
    scale = attributes.get("scale")
    factor = 1 / engine.sqrt(engine.number(query.shape[-1])) if scale is None else engine.number(scale)
    scores = matmul.exact(engine, attributes, query, np.swapaxes(key, -1, -2)) * factor
    if mask is None:
        return scores
    hidden = np.vectorize(lambda v: v == engine.number(-math.inf), otypes=[bool])(mask)
    return np.where(hidden, mask, scores + np.where(hidden, engine.number(0), mask))


def _dot_terms(attributes: Attributes, query: Enclosure, key: Enclosure, mask: Any = None) -> int:
    return matmul.MATMUL.linear_terms(attributes, query, _turned(key)) + 2


ATTENTION_SCORES = Operator(
    name="attention_scores",
    targets=("precisionkit.attention_scores",),
    operands=("query", "key", "attn_mask"),
    apply=_scores,
    error_rule=_score_rule,
    exact=_exact_scores,
    transpose=_score_transpose,
    transposed_terms=_dot_terms,
    linear=_score_linear,
    linear_terms=_dot_terms,
    curved=several_activations,
    hidden=True,
    assumption=ASSUMPTION,
    products=lambda shape, shapes: math.prod(shape) * shapes[0][-1],
    bound="as matmul, times the scale, and 8 v (|q||k| scale + |mask|)",
    source="proofs/bounds.md, theorem 26",
)


# -------------------------------------------------------------------------------------------------------- probabilities
def _weight_rule(arithmetic: Arithmetic, attributes: Attributes, scores: Enclosure, total: Enclosure) -> Bounded:
    """The softmax, and one store, before or after the division by the sum: relative to the result, not to its binade."""
    result = softmax_rule(arithmetic, {"dim": -1}, scores, total, blocks_of(scores.centre.shape[-1]))
    assert result.fresh is not None
    u = arithmetic.storage.unit_roundoff
    largest = add_up(result.centre, result.carried, result.fresh)
    masked = masked_out(scores)
    store = add_up(mul_up(largest, u), arithmetic.storage.eta).masked_fill(masked, 0.0)
    return replace(result, fresh=add_up(result.fresh, store), bias=result.fresh)


ATTENTION_WEIGHTS = replace(
    SOFTMAX,
    name="attention_weights",
    targets=("precisionkit.attention_weights",),
    operands=("self", "total"),
    statistics=(),
    apply=lambda attributes, x, *_: torch.softmax(x, -1),
    error_rule=_weight_rule,
    exact=lambda engine, attributes, x, *_: exact_softmax(engine, {"dim": -1}, x),
    hidden=True,
    assumption=EXP.sentence("Exponentials"),
    bound="as softmax, with (1 + b) (6 max|x| + 9) v for its exponentials, b rescalings, and u y + eta for a store of the probabilities",
    source="proofs/bounds.md, theorem 26",
)


# -------------------------------------------------------------------------------------------------------------- results
def _value_rule(
    arithmetic: Arithmetic, attributes: Attributes, query: Enclosure, key: Enclosure, value: Any, mask: Any, weights: Enclosure
) -> Bounded:
    """Probabilities times values: a dot product; rescaling its sums rounds each of them a few times for every block of keys."""
    given = matmul.enclosed(value)
    product = _errors_times(_product(arithmetic, weights, given), 2.0)  # half an ulp before the division by their sum
    assert product.fresh is not None
    assert product.peak is not None
    keys = given.centre.shape[-2]
    # before the division by their sum, the weights are at most 1 each
    unscaled = mul_up(add_up(given.centre.abs(), given.radius).amax(-2, keepdim=True), keys * 1.01)
    peak = torch.maximum(product.peak, unscaled)
    blocks = blocks_of(keys)
    magnitude = add_up(weights.centre, weights.radius) @ add_up(given.centre.abs(), given.radius) * (1 + (keys + 4) * 2.0**-52)
    # a product of two numbers of binary32, where the probabilities are not stored; rescaling; the division
    rounding = internal_error(arithmetic.internal, magnitude, 4 + 3 * blocks, (keys + 4) * arithmetic.internal.eta)
    assert product.bias is not None
    bias = add_up(product.bias, rounding)
    return replace(product, fresh=add_up(product.fresh, rounding), bias=bias, form=arithmetic.internal, peak=peak)


def _value_linear(
    attributes: Attributes, d: tuple[Tensor | None, ...], rows: Tensor, query: Any, key: Any, value: Any, mask: Any, weights: Any
) -> Tensor:
    if d[4] is None and d[2] is None:  # query and key act through the probabilities alone
        like = next(part for part in d if part is not None)
        return like.new_zeros(like.shape[0], *(weights.centre.shape[1:-1]), value.centre.shape[-1])
    return matmul.linear(attributes, (d[4], d[2]), rows, weights, value)


def _value_transpose(
    attributes: Attributes, g: Tensor, rows: Tensor, query: Any, key: Any, value: Any, mask: Any, weights: Any
) -> tuple[Any, ...]:
    to_weights, to_value = matmul.transpose(attributes, g, rows, weights, value)
    return None, None, to_value, None, to_weights


def _value_terms(attributes: Attributes, query: Any, key: Any, value: Any, mask: Any, weights: Any) -> int:
    return matmul.MATMUL.linear_terms(attributes, weights, value)


def _exact(engine: Any, attributes: Attributes, query: Any, key: Any, value: Any, mask: Any = None, *_: Any) -> Any:
    weights = exact_softmax(engine, {"dim": -1}, _exact_scores(engine, attributes, query, key, mask))
    return matmul.exact(engine, attributes, weights, value)


def _apply(attributes: Attributes, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, *_: Any) -> Tensor:
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=attributes.get("scale"))


def _check(attributes: Attributes, shapes: Any) -> str | None:
    if attributes.get("dropout_p", 0.0):
        return "dropout is not supported; call model.eval()"
    if attributes.get("enable_gqa"):
        return "grouped queries are not supported; repeat the keys and values"
    if any(shape is None or len(shape) < 3 for shape in shapes[:3]):
        return "query, key and value must be batches of matrices"
    return None


ATTENTION = Operator(
    name="attention",
    targets=("aten.scaled_dot_product_attention.default",),
    operands=("query", "key", "value", "attn_mask"),
    statistics=(
        Statistic("attention_scores", ("query", "key", "attn_mask"), given=False),
        Statistic("attention_logsumexp", ("attention_scores",), given=False),
        Statistic("attention_weights", ("attention_scores", "attention_logsumexp")),
    ),
    apply=_apply,
    error_rule=_value_rule,
    exact=_exact,
    transpose=_value_transpose,
    transposed_terms=_value_terms,
    linear=_value_linear,
    linear_terms=_value_terms,
    curved=lambda attributes, query, key, value, mask, weights: (2, 4),
    check=_check,
    assumption=ASSUMPTION,
    products=lambda shape, shapes: math.prod(shape) * shapes[1][-2],
    bound="p e_v + e_p |v| + e_p e_v, p the probabilities, and the rounding of a dot product and of (5 + 3 keys / 16) v p |v|",
    source="proofs/bounds.md, theorem 26",
)
