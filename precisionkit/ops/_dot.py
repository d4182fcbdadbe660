"""Dot products in a rounded arithmetic: the error rules of theory section 3.

Linear layers and convolutions are brought to one layout, `Dots`: g groups, o outputs a group, n products each, l positions.
Proofs: proofs/bounds.md, theorems 2 (any order), 3 (subset sums), 4 (named trees), 5 (tensor cores) and 21 (sums in parts).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from precisionkit import operations
from precisionkit.arithmetic import Arithmetic, Order, TensorCore
from precisionkit.enclosure import Bounded
from precisionkit.formats import BINARY32, round_to_nearest, ufp
from precisionkit.ops._store import store_error
from precisionkit.outward import TINY, U, add_up, mul_up, own_error, sum_of_products_up


class _Factors(NamedTuple):
    """The k-th weights, (1, g, o, 1), inputs, (b, g, 1, l), and the radii of both."""

    weight: Tensor
    column: Tensor
    deviation: Tensor | None
    weight_deviation: Tensor | None


@dataclass(frozen=True)
class Dots:
    """The factors of many dot products.

    Attributes
    ----------
    weight : (g, o, n) tensor
    columns : (b, g, n, l) tensor
        Inputs, zero where a convolution pads.
    deviations : (b, g, n, l) tensor or None
        Radii of the inputs; None for a single run.
    bias : (g, o) tensor or None
    weight_deviations : (g, o, n) tensor or None
        Radii of the weights, where these are activations; None for constants.
    """

    weight: Tensor
    columns: Tensor
    deviations: Tensor | None
    bias: Tensor | None
    weight_deviations: Tensor | None = None

    def factors(self) -> Iterator[_Factors]:
        """For k = 0 ... n - 1."""
        for k in range(self.weight.shape[2]):
            yield _Factors(
                self.weight[None, :, :, k, None],
                self.columns[:, :, None, k],
                None if self.deviations is None else self.deviations[:, :, None, k],
                None if self.weight_deviations is None else self.weight_deviations[None, :, :, k, None],
            )

    @property
    def known(self) -> bool:
        """Whether every run has the same factors."""
        parts = [part for part in (self.deviations, self.weight_deviations) if part is not None]
        return not any(bool((part != 0).any()) for part in parts)


@dataclass(frozen=True)
class Sums:
    """What the error rules need to know of dot products ``W x + b`` over the enclosure of x.

    Attributes
    ----------
    centre : tensor
        ``W c + b`` in binary64.
    magnitude : tensor
        Upper bound of ``|W| |c| + |b|``.
    carried : tensor
        Upper bound of ``|W| e``.
    products : int
        Number n of products.
    bias : bool
    count : tensor, broadcastable
        Number of products that are not zero in every run, at most n.
    own : tensor
        Bound on the binary64 error of `centre`.
    """

    centre: Tensor
    magnitude: Tensor
    carried: Tensor
    products: int
    bias: bool
    count: Tensor
    own: Tensor

    @classmethod
    def of(cls, centre: Tensor, magnitude: Tensor, carried: Tensor, products: int, count: Tensor, *, bias: bool) -> Sums:
        """Make the upper bounds rigorous from binary64 evaluations of the three expressions."""
        terms = products + bias
        magnitude = sum_of_products_up(magnitude, terms)
        return cls(centre, magnitude, sum_of_products_up(carried, products), products, bias, count, own_error(magnitude, terms))

    @property
    def additions(self) -> Tensor:
        """Number of additions that can round: adding a zero is exact."""
        return (self.count + (self.bias - 1)).clamp_min(0)


class SumErrors(NamedTuple):
    """Errors of dot products by one rule.

    Attributes
    ----------
    error : tensor
        Over every run, the binary64 error of the centre apart or not, as the function says.
    peak : tensor
        Largest intermediate magnitude.
    spread : tensor
        Bound of those roundings together that the model of random rounding covers; 0 where it covers none.
    bias : tensor
        The part of `error` that it does not cover.
    """

    error: Tensor
    peak: Tensor
    spread: Tensor
    bias: Tensor

    @classmethod
    def biased(cls, error: Tensor, peak: Tensor) -> SumErrors:
        """Of truncated sums, and of those that swamp their terms: nothing is taken for random."""
        return cls(error, peak, torch.zeros_like(error), error)

    def or_else(self, other: SumErrors) -> SumErrors:
        """Where a kernel may sum by either rule."""
        return SumErrors(*(torch.maximum(a, b) for a, b in zip(self, other, strict=True)))


def any_order(arithmetic: Arithmetic, sums: Sums) -> SumErrors:
    """Errors of a sum in any order, with or without FMA, in an RN accumulator; that of the centre apart.

    Every partial sum is the sum of a subset of the terms, so it lies in [-N, P], where P and N are the sums of the positive and
    of the negated negative terms: ``P + N = S`` and ``P - N = W c + b`` at the centre, and neither moves by more than ``|W| e``
    over the enclosure.  Each of the m - 1 additions then errs by at most ``v ufp(max(P, N) + (m - 1) v S)``, or by
    ``(m - 1) v S`` in all.  Zero products do not count in m.  The spread is the whole of it: small terms
    that a large partial sum swallows all err in one direction, so that the roundings of one sum are not taken for independent.
    """
    v = arithmetic.accumulate.unit_roundoff
    underflow = sums.count * arithmetic.product_underflow
    magnitude = add_up(sums.magnitude, sums.carried)
    rounded = mul_up(magnitude, arithmetic.product_roundoff)
    product_error = add_up(rounded, underflow)
    half = 0.5 * add_up(sums.magnitude, sums.centre.abs(), sums.own)
    largest = add_up(half, sums.carried, product_error)
    classical = mul_up(add_up(magnitude, product_error), sums.additions * v)
    each = ufp(add_up(largest, classical)) * v
    additions = torch.minimum(classical, mul_up(each, sums.additions))
    spread = add_up(rounded, additions)
    return SumErrors(add_up(product_error, additions), add_up(largest, additions), spread, underflow.expand_as(spread))


class _Partial(NamedTuple):
    """A partial sum over every run.

    Its centre, what the inputs carry, what rounding added, the largest magnitude below it, and 0 where it is zero in every run,
    else 1.
    """

    centre: Tensor
    carried: Tensor
    error: Tensor
    peak: Tensor
    occupied: Tensor


def named_tree(arithmetic: Arithmetic, dots: Dots) -> tuple[Tensor, Tensor]:
    """Error and largest intermediate magnitude of the sums along a named tree: half an ulp of every actual partial sum.

    Adding a number that is zero in every run is exact.  The error includes the binary64 error of the centre; shape (b, g, o, l).
    """
    v = arithmetic.accumulate.unit_roundoff

    def leaf(weight: Tensor, column: Tensor, deviation: Tensor | None, weight_deviation: Tensor | None) -> _Partial:
        assert deviation is not None
        centre = weight * column
        occupied = ((column != 0) | (deviation != 0)).to(centre.dtype)
        carried = mul_up(weight.abs(), deviation)
        if weight_deviation is not None:
            carried = add_up(carried, mul_up(weight_deviation, add_up(column.abs(), deviation)))
        largest = add_up(mul_up(centre.abs(), 1 + 2 * U), TINY, carried)
        own = add_up(mul_up(centre.abs(), U), TINY)
        error = add_up(own, mul_up(largest, arithmetic.product_roundoff), arithmetic.product_underflow) * occupied
        return _Partial(centre, carried, error, add_up(largest, error), occupied)

    def add(a: _Partial, b: _Partial) -> _Partial:
        centre = a.centre + b.centre
        carried = add_up(a.carried, b.carried)
        before = add_up(a.error, b.error, mul_up(centre.abs(), U))
        magnitude = add_up(centre.abs(), carried, before)
        rounding = v * ufp(magnitude) * (a.occupied * b.occupied)
        peak = torch.maximum(torch.maximum(a.peak, b.peak), add_up(magnitude, rounding))
        return _Partial(centre, carried, add_up(before, rounding), peak, torch.maximum(a.occupied, b.occupied))

    total = arithmetic.order.fold((leaf(*factor) for factor in dots.factors()), add)
    if dots.bias is not None:
        bias = dots.bias[None, :, :, None].expand_as(total.centre)
        nothing = torch.zeros_like(bias)
        total = add(total, _Partial(bias, nothing, nothing, bias.abs(), torch.ones_like(bias)))
    return total.error, total.peak


class _Range(NamedTuple):
    """The least and the largest number that any run computes for a partial sum, and the largest magnitude below it."""

    low: Tensor
    high: Tensor
    peak: Tensor


def known_tree(arithmetic: Arithmetic, dots: Dots) -> tuple[Tensor, Tensor, Tensor]:
    """Ends of the sums along a named tree of inputs that every run has exactly, and their largest intermediate magnitude.

    What the runs may choose is whether a product is rounded or fused into its addition; rounding is monotone, so the ends of a
    node are the rounded sums of its operands' ends.  Shape (b, g, o, l).
    """
    accumulate = arithmetic.accumulate

    def leaf(weight: Tensor, column: Tensor, *_: Tensor | None) -> _Range:
        product = weight * column  # exact: binary64 holds the product of two numbers of at most 24 bits
        rounded = round_to_nearest(product, accumulate)
        return _Range(torch.minimum(product, rounded), torch.maximum(product, rounded), rounded.abs())

    def add(a: _Range, b: _Range) -> _Range:
        low, high = operations.add(a.low, b.low, accumulate), operations.add(a.high, b.high, accumulate)
        return _Range(low, high, torch.maximum(torch.maximum(a.peak, b.peak), torch.maximum(low.abs(), high.abs())))

    total = arithmetic.order.fold((leaf(*factor) for factor in dots.factors()), add)
    if dots.bias is not None:
        bias = dots.bias[None, :, :, None].expand_as(total.low)
        total = add(total, _Range(bias, bias, bias.abs()))
    return total.low, total.high, total.peak


def tensor_core_steps(order: Order, channels: int, taps: int) -> int:
    """Most steps that a kernel spends on one dot product: whole blocks of each of `taps` runs of `channels` products; 0 without unit."""
    return taps * -(-channels // order.least_step) if order.least_step else 0


def tensor_core(arithmetic: Arithmetic, unit: TensorCore, sums: Sums, steps: int, operand_max: Tensor) -> tuple[Tensor, Tensor]:
    """Error and largest intermediate magnitude of sums on a tensor core, any grouping of the products into at most `steps` steps.

    A step aligns its products and the accumulator to the largest exponent E among them and truncates each after f fraction bits, so
    that each but the zeros loses at most ``2**(E - f)``; then truncates the exact sum to binary32, at most ``t = 2**-23`` of its
    magnitude, or ``s = 2**-149``; or rounds it to binary16, ``t = 2**-11``, ``s = 2**-24``.  Partial sums of several accumulators and
    the bias are added in the accumulator's format, t each, truncation to binary32 allowed.  ``2**E`` exceeds no term's magnitude, save
    for numbers below the normal range, where the format's ``2**emin`` stands in.  With B the largest subset sum plus the total error
    itself, and m products that are not zero in every run, the total is at most ``a (B + floor) + steps s`` with
    ``a = (m + steps) 2**-f + 2 steps t``, solved for the error; there is no bound when a reaches 1/2.

    Parameters
    ----------
    operand_max : tensor broadcastable to the sums
        Upper bound of every weight's and input's magnitude.
    """
    accumulate = arithmetic.accumulate
    lost = accumulate.eps if accumulate == BINARY32 else accumulate.unit_roundoff
    share = (sums.count + steps) * 2.0**-unit.fraction_bits + 2 * steps * lost
    smallest = arithmetic.storage.smallest_normal
    floor = add_up(mul_up(operand_max, smallest), max(smallest**2, accumulate.smallest_normal))
    half = 0.5 * add_up(sums.magnitude, sums.centre.abs(), sums.own)
    largest = add_up(half, sums.carried)
    numerator = add_up(mul_up(add_up(largest, floor), share), steps * accumulate.smallest_subnormal)
    error = mul_up(numerator, (1 / (1 - share)) * (1 + 4 * U)).masked_fill(share >= 0.5, torch.inf)
    return error, add_up(largest, error)


def in_parts(arithmetic: Arithmetic, sums: Sums) -> SumErrors:
    """Errors of at most S partial sums that are rounded to the storage format and added; that of the centre apart.

    Beside the errors of `any_order`, there are at most S roundings of partial sums and S - 1 of their additions, and one more for the
    bias, each of a subset sum with what was lost before: with B its bound, ``r <= 2 S u ufp(B + r)``, or ``2 S eta`` below the normal
    range.  That holds for ``r = 2 S (u B + eta) / (1 - 2 S u)``, and so for ``2 S u ufp(B + r)`` with this r.
    """
    storage, roundings = arithmetic.storage, 2 * arithmetic.order.parts
    error, largest, spread, bias = any_order(arithmetic, sums)
    share = roundings * storage.unit_roundoff
    if share >= 0.5:
        unbounded = torch.full_like(sums.centre, torch.inf)
        return SumErrors.biased(unbounded, unbounded)
    loose = mul_up(add_up(mul_up(largest, share), roundings * storage.eta), (1 / (1 - share)) * (1 + 4 * U))
    each = store_error(storage, add_up(largest, loose))
    parts = mul_up(each, float(roundings))
    return SumErrors(add_up(error, parts), add_up(largest, parts), add_up(spread, parts), bias)


def dot_errors(arithmetic: Arithmetic, sums: Sums, dots: Dots | None, steps: int, operand_max: Tensor) -> SumErrors:
    """Errors by the rule of the arithmetic's order, with that of the centre; a named tree is never worse than any order.

    Parameters
    ----------
    dots : Dots or None
        Needed for a named tree alone.
    steps, operand_max
        As for `tensor_core`.
    """
    unit = arithmetic.order.tensor_core
    if arithmetic.order.is_exact:
        magnitude = add_up(sums.centre.abs(), sums.carried, sums.own)
        rounding = store_error(arithmetic.storage, magnitude)
        return SumErrors(add_up(sums.own, rounding), add_up(magnitude, rounding), rounding, sums.own)
    if arithmetic.order.parts:
        found = in_parts(arithmetic, sums)
    elif unit is None:
        found = any_order(arithmetic, sums)
    else:
        found = SumErrors.biased(*tensor_core(arithmetic, unit, sums, steps, operand_max))
        if arithmetic.order.other_cores:
            found = found.or_else(any_order(arithmetic, sums))
    fresh = add_up(sums.own, found.error)
    if dots is not None:
        tree_error, tree_peak = _tree_errors(arithmetic, sums, dots)
        return SumErrors.biased(torch.minimum(fresh, tree_error), torch.minimum(found.peak, tree_peak))
    if not arithmetic.unbiased_sums:
        return SumErrors.biased(fresh, found.peak)
    return SumErrors(fresh, found.peak, found.spread, add_up(sums.own, found.bias))


def bounded(arithmetic: Arithmetic, sums: Sums, errors: SumErrors) -> Bounded:
    """Dot products and their errors as an operator's result."""
    return Bounded(
        sums.centre,
        sums.carried,
        errors.error,
        arithmetic.sum_format,
        errors.peak,
        arithmetic.partial_format,
        spread=errors.spread,
        bias=errors.bias,
    )


def _tree_errors(arithmetic: Arithmetic, sums: Sums, dots: Dots) -> tuple[Tensor, Tensor]:
    """Of a named tree, in the shape of the sums: how far runs lie from the centre, and the largest intermediate magnitude."""
    shape = sums.centre.shape
    if dots.known:
        low, high, peak = (t.reshape(shape) for t in known_tree(arithmetic, dots))
        error = torch.maximum(high - sums.centre, sums.centre - low).clamp_min(0)
        return add_up(error, mul_up(error, 2 * U), sums.own), peak
    error, peak = named_tree(arithmetic, dots)
    # the tree's own centre is another binary64 evaluation of the same sum: count the error of this one too
    return add_up(error.reshape(shape), sums.own), peak.reshape(shape)
