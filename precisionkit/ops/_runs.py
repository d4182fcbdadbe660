"""Runs of dot products, bit-exact by definition: along named trees, on tensor cores, in split parts, and exactly.

Everything is computed in tiles that stay in a processor's cache: one multiplication is a handful of elementwise operations of
binary32 or binary64 numbers.  A sum or product of two numbers of p bits that binary32 rounds first, and then the short format, is
rounded correctly for ``24 >= 2 p + 2`` (Figueroa, SIGNUM Newsletter 30, 1995); with FMA it would not be, so that goes by
`operations.fma`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import cast

import torch
from torch import Tensor

from precisionkit.arithmetic import Arithmetic, Order, TensorCore
from precisionkit.errors import UnsupportedArithmeticError
from precisionkit.formats import BINARY16, BINARY32, BINARY64, NEAREST, TOWARDS_ZERO, Format, round_into, round_to_nearest, ufp
from precisionkit.operations import fma
from precisionkit.ops._store import store

_TILE = 2**15
"""Outputs at once: below the size from which on torch spreads an elementwise operation over threads."""
_SIGN_AND_24_BITS = ~(2**29 - 1)
_LEAST_SCALE, _LEAST_QUANTUM = 2.0**-60, BINARY32.smallest_normal * 2.0**-60
"""For steps whose terms are all zero."""

Run = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""From weights (o, n), inputs (n, p) and biases (o, 1), or none, to results (o, p)."""


def run_dots(arithmetic: Arithmetic, weight: Tensor, columns: Tensor, bias: Tensor | None) -> Tensor:
    """Dot products of every output with every position, along the order of the arithmetic; ``any`` is run as ``sequential``.

    Parameters
    ----------
    weight : (g, o, n) tensor
    columns : (b, g, n, l) tensor
        Numbers of the storage format in binary32, like the weights.
    bias : (g, o) tensor or None

    Returns
    -------
    (b, g, o, l) binary32 tensor
        Numbers of the accumulator's format; of the storage format for ``exact``.

    Raises
    ------
    UnsupportedArithmeticError
        A binary64 accumulator: torch's half stores would round its sums twice.
    """
    if arithmetic.accumulate == BINARY64:
        raise UnsupportedArithmeticError("A run with a binary64 accumulator is not supported; choose --accumulate fp32.")
    run = _run_of(arithmetic)
    batch, groups, _, places = columns.shape
    result = torch.empty(groups, weight.shape[1], batch * places, dtype=torch.float32, device=weight.device)
    for g in range(groups):
        inputs = columns[:, g].transpose(0, 1).flatten(1)
        biases = None if bias is None else bias[g, :, None].float()
        width = max(1, _TILE // weight.shape[1])
        for some in range(0, inputs.shape[1], width):
            result[g, :, some : some + width] = run(weight[g].float(), inputs[:, some : some + width].float(), biases)
    by_batch: Tensor = result.unflatten(2, (batch, places)).permute(2, 0, 1, 3)
    return by_batch


def _run_of(arithmetic: Arithmetic) -> Run:
    order = arithmetic.order
    if order.tensor_core is not None:
        unit = order.tensor_core
        return lambda w, x, bias: _on_tensor_core(arithmetic, unit, w, x, bias)
    if order.parts:
        return lambda w, x, bias: _in_parts(arithmetic, order.parts, w, x, bias)
    if order.is_exact:
        return lambda w, x, bias: _exactly(arithmetic.storage, w, x, bias)
    return lambda w, x, bias: _along_tree(arithmetic.accumulate, order, w, x, bias)


def _along_tree(fmt: Format, order: Order, weight: Tensor, inputs: Tensor, bias: Tensor | None) -> Tensor:
    """Products rounded, then added along the order's tree; with FMA, a product is rounded together with the sum that it joins."""
    if order.fma:
        total = _with_fma(fmt, order, weight, inputs)
    else:
        products = (store(weight[:, k, None] * inputs[k], fmt) for k in range(weight.shape[1]))
        total = order.fold(products, lambda a, b: store(a + b, fmt))
    return total if bias is None else store(total + bias, fmt)


def _with_fma(fmt: Format, order: Order, weight: Tensor, inputs: Tensor) -> Tensor:
    """Leaves are pairs of factors until they meet a sum."""
    w, x = weight.double(), inputs.double()
    Leaf = tuple[Tensor, Tensor]

    def value(a: Tensor | Leaf) -> Tensor:
        return cast(Tensor, round_to_nearest(a[0] * a[1], fmt)) if isinstance(a, tuple) else a

    def add(a: Tensor | Leaf, b: Tensor | Leaf) -> Tensor | Leaf:
        if isinstance(b, tuple):
            return cast(Tensor, fma(*b, value(a), fmt))
        return cast(Tensor, round_to_nearest(value(a) + b, fmt))

    leaves: Iterator[Tensor | Leaf] = ((w[:, k, None], x[k][None]) for k in range(weight.shape[1]))
    return value(order.fold(leaves, add)).float()


def _in_parts(arithmetic: Arithmetic, parts: int, weight: Tensor, inputs: Tensor, bias: Tensor | None) -> Tensor:
    """Consecutive parts of about equal length, each summed sequentially and rounded to the storage format; then their sum in it."""
    storage = arithmetic.storage
    total: Tensor | None = None
    for some in torch.arange(weight.shape[1], device=weight.device).tensor_split(min(parts, weight.shape[1])):
        part = _along_tree(arithmetic.accumulate, Order("sequential"), weight[:, some], inputs[some], None)
        part = store(part, storage)
        total = part if total is None else store(total + part, storage)
    assert total is not None
    return total if bias is None else store(total + bias, arithmetic.accumulate)


def _exactly(storage: Format, weight: Tensor, inputs: Tensor, bias: Tensor | None) -> Tensor:
    """The exact dot product, rounded once to the storage format; in Python, and slow."""
    w, x = weight.double().cpu(), inputs.double().cpu()
    biases = [[]] * w.shape[0] if bias is None else bias.double().cpu().tolist()
    sums = [[_sum_to_odd([*terms, *extra]) for terms in (row[:, None] * x).T.tolist()] for row, extra in zip(w, biases, strict=True)]
    rounded: Tensor = round_to_nearest(torch.tensor(sums, dtype=torch.float64, device="cpu"), storage)
    return rounded.float().to(weight.device)


def _sum_to_odd(terms: list[float]) -> float:
    """The exact sum rounded to odd in binary64, so that the next rounding, to a shorter format, is that of the exact sum."""
    if not all(map(math.isfinite, terms)):
        return sum(terms)
    nearest = math.fsum(terms)
    rest = math.fsum([*terms, -nearest])
    odd = int(math.frexp(nearest)[0] * 2**53) % 2
    return nearest if odd or rest == 0 else math.nextafter(nearest, math.copysign(math.inf, rest))


def _on_tensor_core(arithmetic: Arithmetic, unit: TensorCore, weight: Tensor, inputs: Tensor, bias: Tensor | None) -> Tensor:
    """Consecutive blocks of K products, one step each, into one accumulator; the bias is added behind."""
    accumulator = torch.zeros(weight.shape[0], inputs.shape[1], dtype=torch.float64, device=weight.device)
    step = _short_step if arithmetic.storage == BINARY16 else tensor_core_step
    for first in range(0, weight.shape[1], unit.terms):
        w, x = weight[:, first : first + unit.terms].T[:, :, None], inputs[first : first + unit.terms, None]
        accumulator = step(unit, w, x, accumulator, arithmetic.storage, arithmetic.accumulate)
    total = accumulator.float()
    return total if bias is None else store(total + bias, arithmetic.accumulate)


def tensor_core_step(unit: TensorCore, a: Tensor, b: Tensor, accumulator: Tensor, storage: Format, fmt: Format = BINARY32) -> Tensor:
    """One step: ``sum_k a_k b_k + accumulator``, aligned and truncated, then truncated to binary32 or rounded to binary16.

    Parameters
    ----------
    a, b : tensors
        Numbers of `storage`; products are along the first dimension, the others broadcast to the accumulator's.
    accumulator : binary64 tensor
        Numbers of `fmt`.
    fmt : Format
        Of the accumulator: binary32, to which steps truncate, or binary16, to which they round to nearest.
    """
    products = a.double() * b.double()
    scale = torch.maximum((_exponents(a, storage).double() * _exponents(b, storage).double()).amax(0), _scale_of(accumulator, fmt))
    quantum = (scale * 2.0**-unit.fraction_bits).clamp_min(_LEAST_QUANTUM)
    exact = ((products / quantum).trunc().sum(0) + (accumulator / quantum).trunc()) * quantum
    plain = products.sum(0) + accumulator  # finite, unless a term is not
    exact = torch.where(plain.isfinite(), exact, plain)
    rounded = cast(Tensor, round_into(exact, fmt, TOWARDS_ZERO if fmt == BINARY32 else NEAREST))
    beyond = exact.abs() >= 2.0 ** (fmt.emax + 1)  # truncation acts on the significand alone
    return torch.where(beyond, torch.copysign(torch.full_like(exact, torch.inf), exact), rounded)


def _short_step(unit: TensorCore, a: Tensor, b: Tensor, accumulator: Tensor, storage: Format, fmt: Format) -> Tensor:
    """The same for factors of binary16, several times faster.

    Products have 22 bits and are normal in binary32; aligned, they are below 2**27 in magnitude, so that the sum of 16 fits in 32
    bits; and no sum is below binary32's normal range, or above it.
    """
    if not (a.isfinite().all() and b.isfinite().all() and accumulator.isfinite().all()):
        return tensor_core_step(unit, a, b, accumulator, storage, fmt)
    a_scale, b_scale = _exponents(a, storage), _exponents(b, storage)
    scale = _scale_of(accumulator, fmt).float()
    product = torch.empty_like(scale)
    for k in range(a.shape[0]):
        torch.maximum(scale, torch.mul(a_scale[k], b_scale[k], out=product), out=scale)
    inverse = 2.0**unit.fraction_bits / scale.clamp_min_(_LEAST_SCALE)
    total = torch.zeros(scale.shape, dtype=torch.int32, device=scale.device)
    for k in range(a.shape[0]):
        torch.mul(a[k], b[k], out=product)
        total += product.mul_(inverse).to(torch.int32)  # towards zero
    inverse64 = inverse.double()
    exact = (total + (accumulator * inverse64).trunc()) / inverse64
    if fmt == BINARY16:
        return cast(Tensor, round_to_nearest(exact, fmt))
    return (exact.view(torch.int64) & _SIGN_AND_24_BITS).view(torch.float64)


def _exponents(values: Tensor, storage: Format) -> Tensor:
    """Powers of two by which the unit aligns; 0 for 0."""
    powers = ufp(values.double()).clamp_min(storage.smallest_normal)
    return torch.where(values == 0, 0.0, powers).to(values.dtype)


def _scale_of(accumulator: Tensor, fmt: Format) -> Tensor:
    return torch.where(accumulator == 0, 0.0, ufp(accumulator).clamp_min(fmt.smallest_normal))
