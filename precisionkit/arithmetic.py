"""Arithmetics: in which formats and in which order a program rounds, and what is assumed of the machine that runs it.

An `Arithmetic` is one value that every result records.  A *run* is any execution that it permits.  The trees of the named
summation orders are defined once, in `Order.fold`, for the bit-exact reference and for the error rule alike.

Sources: Higham, Accuracy and Stability of Numerical Algorithms (2002), chapter 4; for the tensor cores Fasi, Higham,
Mikaitis, Pranesh, PeerJ CS 7:e330 (2021) and Khattak, Mikaitis, arXiv 2512.07004.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import reduce
from itertools import chain, islice
from typing import TypeVar

from precisionkit.errors import UnsupportedArithmeticError
from precisionkit.formats import BFLOAT16, BINARY16, BINARY32, BINARY64, Format, parse_format

T = TypeVar("T")


@dataclass(frozen=True)
class TensorCore:
    """A matrix unit that adds a block of exact products to an accumulator of binary32 or binary16 in one step.

    Attributes
    ----------
    name : str
        Architecture.
    terms : int
        Number K of products in one step.
    fraction_bits : int
        Every product and the accumulator are aligned to the largest exponent among them and truncated after this many
        fraction bits; the sum is exact and then truncated to binary32, or rounded to nearest to binary16.
    formats : tuple of pairs of Format
        Of factors and of the accumulator.
    """

    name: str
    terms: int
    fraction_bits: int
    formats: tuple[tuple[Format, Format], ...] = ((BINARY16, BINARY32), (BINARY16, BINARY16), (BFLOAT16, BINARY32))


TENSOR_CORES = (
    TensorCore("volta", 4, 23, ((BINARY16, BINARY32), (BINARY16, BINARY16))),
    TensorCore("ampere", 8, 24),
    TensorCore("ada", 8, 24),
    TensorCore("hopper", 16, 25),
    TensorCore("blackwell", 16, 25),
)
"""For factors of 16 bits."""
_SHORT_STEP = 8
"""Products in a step of kernels that were made for Ampere, which run on later units as well."""


@dataclass(frozen=True)
class Order:
    """The order in which the terms of a dot product are added.

    Attributes
    ----------
    name : str
        As on the command line: ``any``, ``sequential``, ``pairwise``, ``blocked:K``, ``splitk:S``, ``exact``, ``tensorcore:UNIT`` or
        ``gpu:UNIT``.
    block : int
        Number of consecutive terms that are added first; 0 except for ``blocked:K``.
    parts : int
        Most partial sums that are rounded to the storage format; 0 except for ``splitk:S``.
    tensor_core : TensorCore or None
    other_cores : bool
        Each dot product is summed by the tensor core or by other cores, as a library chooses: for ``gpu:UNIT``.
    fma : bool
        Of a run along a tree: products are fused into the sums that they join.  Bounds cover both.
    """

    name: str
    block: int = 0
    parts: int = 0
    tensor_core: TensorCore | None = None
    other_cores: bool = False
    fma: bool = False

    @property
    def least_step(self) -> int:
        """Fewest products in a full step of the tensor core; 0 without one.  A library may take short steps, of 8, on a long unit."""
        terms = 0 if self.tensor_core is None else self.tensor_core.terms
        return min(terms, _SHORT_STEP) if self.other_cores else terms

    @property
    def is_tree(self) -> bool:
        """Whether the order is one fixed summation tree, so that `fold` gives it."""
        return self.name in ("sequential", "pairwise") or self.block > 0

    @property
    def is_exact(self) -> bool:
        """Whether dot products are exact, and rounded once to the storage format."""
        return self.name == "exact"

    def fold(self, terms: Iterable[T], add: Callable[[T, T], T]) -> T:
        """Combine the terms, in index order, along the tree of this order; ``any`` takes the sequential tree.

        sequential: ``((t0 + t1) + t2) + ...``.  pairwise: neighbours are added level by level, an odd last one is carried
        up; at most ``log2(n) + 1`` partial results are held.  blocked:K: consecutive blocks of K terms sequentially, then
        the block sums sequentially.
        """
        if self.name == "pairwise":
            return _fold_pairwise(terms, add)
        if self.block:
            return reduce(add, (reduce(add, block) for block in _blocks(terms, self.block)))
        return reduce(add, terms)


def _blocks(terms: Iterable[T], size: int) -> Iterator[Iterable[T]]:
    rest = iter(terms)
    for first in rest:
        yield chain((first,), islice(rest, size - 1))


def _fold_pairwise(terms: Iterable[T], add: Callable[[T, T], T]) -> T:
    """Binary counter: a stack of complete subtrees of falling size, folded from its small end (the level-by-level tree)."""
    stack: list[tuple[int, T]] = []
    for term in terms:
        size = 1
        while stack and stack[-1][0] == size:
            term = add(stack.pop()[1], term)
            size *= 2
        stack.append((size, term))
    result = stack.pop()[1]
    while stack:
        result = add(stack.pop()[1], result)
    return result


ANY = Order("any")


def parse_order(option: str) -> Order:
    """Read ``any``, ``sequential``, ``pairwise``, ``blocked:K``, ``splitk:S``, ``exact``, ``tensorcore:UNIT`` or ``gpu:UNIT``.

    Raises
    ------
    UnsupportedArithmeticError
        The text is none of these, or K or S is below 2.
    """
    if option in ("any", "sequential", "pairwise", "exact"):
        return Order(option)
    if (match := re.fullmatch(r"splitk:(\d{1,4})", option)) and int(match[1]) >= 2:
        return Order(option, parts=int(match[1]))
    if (match := re.fullmatch(r"blocked:(\d{1,9})", option)) and int(match[1]) >= 2:
        return Order(option, block=int(match[1]))
    for unit in TENSOR_CORES:
        if option == f"tensorcore:{unit.name}":
            return Order(option, tensor_core=unit)
        if option == f"gpu:{unit.name}":
            return Order(option, tensor_core=unit, other_cores=True)
    units = "|".join(unit.name for unit in TENSOR_CORES)
    raise UnsupportedArithmeticError(
        f"The order '{option}' is not known; choose any, sequential, pairwise, exact, blocked:K or splitk:S with K or S of 2 or more, "
        f"tensorcore:UNIT or gpu:UNIT with UNIT of {units}."
    )


def parse_run(option: str) -> Order:
    """Read an order's name, that of a tensor core alone (``hopper``), or that of a tree with ``:fma`` behind it.

    Raises
    ------
    UnsupportedArithmeticError
        The text is none of these, or ``any``, which is not one order.
    """
    name = option.removesuffix(":fma")
    units = [unit.name for unit in TENSOR_CORES]
    try:
        order = parse_order(f"tensorcore:{name}" if name in units else name)
    except UnsupportedArithmeticError as error:
        raise UnsupportedArithmeticError(
            f"The run '{option}' is not known; choose {', '.join(units)}, splitk:S, exact, or sequential, pairwise or blocked:K, each of "
            "the three with :fma behind it or not."
        ) from error
    if order == ANY:
        raise UnsupportedArithmeticError("'any' stands for many orders, and a run has one; choose sequential, pairwise or blocked:K.")
    if option != name and not order.is_tree:
        raise UnsupportedArithmeticError(f"':fma' speaks of a sum along a tree, sequential, pairwise or blocked:K, not of {order.name}.")
    return replace(order, fma=option != name)


@dataclass(frozen=True)
class Arithmetic:
    """The arithmetic of one program.

    Attributes
    ----------
    storage : Format
        Format of weights, inputs and of every stored result; rounding to nearest, ties to even.
    accumulate : Format
        Format in which dot products (linear layers and convolutions) are summed.
    order : Order
        Order of those sums.
    internal : Format
        Format in which elementwise operations, normalisations, reductions and pooling compute before the one store.
    fused : bool
        Chains of a dot product, batch normalisation, addition and ReLU are stored once, at their end.  False covers that as well
        as one store for each operator.
    """

    storage: Format
    accumulate: Format
    order: Order = ANY
    internal: Format = BINARY32
    fused: bool = False

    @property
    def name(self) -> str:
        """Name in the options' words: ``fp16/fp32-any``, ``fp16/fp32-any-fused``."""
        return f"{self.storage.option}/{self.accumulate.option}-{self.order.name}" + ("-fused" if self.fused else "")

    @property
    def stores_before_bias(self) -> bool:
        """Whether a convolution may store its sum before it adds its bias."""
        return self.accumulate != self.storage and not self.fused and not self.order.is_exact

    @property
    def unbiased_sums(self) -> bool:
        """Whether the model of random rounding covers dot products: rounded to nearest, in a format wider than the stored numbers.

        Truncation has a bias, and so have sums that swamp their terms.  The few partial sums of ``splitk`` round like stores.
        """
        wide = self.order == ANY or self.order.parts > 0
        return self.order.is_exact or (wide and self.accumulate.unit_roundoff <= BINARY32.unit_roundoff)

    @property
    def random_stores(self) -> bool:
        """Whether the model of random rounding covers the sums, or at least their stores, in a shorter format."""
        return self.unbiased_sums or self.sum_format.precision > self.storage.precision

    @property
    def sum_format(self) -> Format:
        """Format of the result of a dot product."""
        return self.storage if self.order.is_exact else self.accumulate

    @property
    def partial_format(self) -> Format:
        """Narrowest format of a partial sum: where overflow begins."""
        return self.storage if self.order.parts else self.sum_format

    @property
    def product_roundoff(self) -> float:
        """Relative error of one product in the accumulator's format: 0 where products are exact, else u."""
        return 0.0 if self.storage.products_exact_in(self.accumulate) else self.accumulate.unit_roundoff

    @property
    def product_underflow(self) -> float:
        """Absolute error of one product below the accumulator's normal range: 0 where that cannot happen, else eta."""
        return 0.0 if self.storage.products_never_underflow_in(self.accumulate) else self.accumulate.eta

    @property
    def assumptions(self) -> tuple[str, ...]:
        """What a proof in this arithmetic takes for granted, one sentence each."""
        sentences = [self._store_assumption, self._dot_product_assumption]
        if self.stores_before_bias:
            sentences.append("A convolution may store its sum once more before it adds its bias.")
        return (
            *sentences,
            "Convolutions and matrix products are computed directly, not by Winograd, FFT or Strassen algorithms.",
            f"Elementwise operations, normalisation, reductions and pooling compute in {self.internal.name}, reductions in any order.",
        )

    @property
    def _store_assumption(self) -> str:
        kept = f"stores its result once in {self.storage.name}, rounded to nearest even; subnormal numbers are kept."
        if not self.fused:
            return f"Every operator {kept}"
        return (
            "A convolution or linear layer, with the batch normalisation and the addition behind it where each is the only use of the "
            f"one before, {kept} So does every other operator. Batch normalisation is not folded into the rounded weights."
        )

    @property
    def _dot_product_assumption(self) -> str:
        unit = self.order.tensor_core
        if unit is not None:
            name = self.accumulate.name
            nearest = "" if self.accumulate == BINARY32 else "; every step and every addition of partial sums rounds to nearest"
            others = "Each dot product is summed in binary32 by other cores, rounded to nearest, in any order, or"
            summed = others if self.order.other_cores else "Dot products are summed"
            blocks = f"whole blocks of {self.order.least_step} in each kernel tap"
            return (
                f"{summed} by {unit.name} tensor cores: steps of at most {unit.terms} exact products, "
                f"truncated to {unit.fraction_bits} fraction bits below the largest exponent, into {name}; at most as many steps as there "
                f"are {blocks}; partial sums are combined in {name}{nearest}."
            )
        if self.order.is_exact:
            return f"Dot products, biases included, are exact and rounded once, to {self.storage.name}."
        if self.order.parts:
            return (
                f"Dot products are summed in {self.accumulate.name} in at most {self.order.parts} parts, each in any order; partial sums "
                f"are rounded to {self.storage.name}, and added in it or in {self.accumulate.name}."
            )
        products = "exact products" if not self.product_roundoff else "products rounded, or fused into the additions (FMA)"
        order = "any order" if self.order == ANY else f"{self.order.name} order, bias last"
        return f"Dot products are summed in {self.accumulate.name}, {order}, with {products}."


def permitted(run: Order, arithmetic: Arithmetic) -> Order:
    """Return a run that is to be emulated, if the arithmetic allows it.

    Raises
    ------
    UnsupportedArithmeticError
        It does not.
    """
    order = arithmetic.order
    either = order.other_cores and run.tensor_core == order.tensor_core
    if either or (run.is_tree if order == ANY or order.other_cores else run.name == order.name):
        return run
    raise UnsupportedArithmeticError(
        f"A run in the order {run.name} is none that {arithmetic.name} allows, so no bound would speak of it; let the order of the "
        f"arithmetic be {run.name} as well (--order {run.name})."
    )


STORAGE = (BINARY16, BFLOAT16, BINARY32)
"""Formats that weights, inputs and results can be stored in."""

ACCUMULATORS = (*STORAGE, BINARY64)
"""Formats that dot products can be summed in."""

REFERENCE = Arithmetic(BINARY32, BINARY32)
"""The arithmetic of the reference program: binary32 throughout, any order, no TF32."""


def _parse_accumulator(option: str) -> Format:
    fmt = parse_format(option)
    if fmt not in ACCUMULATORS:
        known = ", ".join(f.option for f in ACCUMULATORS)
        raise UnsupportedArithmeticError(f"Sums in {fmt.option} are not supported; choose --accumulate from {known}.")
    return fmt


def parse_arithmetic(storage: str = "fp16", accumulate: str = "fp32", order: str = "any", fuse: str = "none") -> Arithmetic:
    """Build the arithmetic that the options of a command name.

    Raises
    ------
    UnsupportedArithmeticError
        A name is unknown, the accumulator is narrower than the storage format, a tensor core or a sum in parts is asked for formats
        that it does not have, or fusion for storage in binary32 or for exact dot products.
    """
    stored = [fmt for fmt in STORAGE if storage in (fmt.option, fmt.name)]
    if not stored:
        known = ", ".join(fmt.option for fmt in STORAGE)
        raise UnsupportedArithmeticError(f"The storage format '{storage}' is not supported; choose one of {known}.")
    kept, accumulator, sum_order = stored[0], _parse_accumulator(accumulate), parse_order(order)
    narrower = accumulator.precision < kept.precision or accumulator.emax < kept.emax or accumulator.emin > kept.emin
    if narrower:
        raise UnsupportedArithmeticError(
            f"The accumulator {accumulator.option} does not hold every number of the storage format {kept.option}; "
            f"choose --accumulate {' or '.join(dict.fromkeys((kept.option, 'fp32')))}."
        )
    unit = sum_order.tensor_core
    if unit is not None and (kept, accumulator) not in unit.formats:
        known = ", or ".join(f"--storage {factor.option} with --accumulate {total.option}" for factor, total in unit.formats)
        raise UnsupportedArithmeticError(f"The order {order} needs {known}, not {kept.option} with {accumulator.option}.")
    if sum_order.other_cores and accumulator != BINARY32:
        raise UnsupportedArithmeticError(f"The order {order} needs --accumulate fp32, not {accumulator.option}.")
    if sum_order.parts and (kept == BINARY32 or accumulator != BINARY32):
        raise UnsupportedArithmeticError(
            f"The order {order} needs --storage fp16 or bf16 with --accumulate fp32, not {kept.option} with {accumulator.option}."
        )
    if sum_order.is_exact and fuse == "epilogue":
        raise UnsupportedArithmeticError("Exact dot products are stored where they are computed; choose --fuse none.")
    if fuse not in ("none", "epilogue"):
        raise UnsupportedArithmeticError(f"The fusion '{fuse}' is not known; choose --fuse none or --fuse epilogue.")
    if fuse == "epilogue" and kept == BINARY32:
        raise UnsupportedArithmeticError(
            "--fuse epilogue leaves out stores in half precision, of which --storage fp32 has none; choose --fuse none."
        )
    return Arithmetic(kept, accumulator, sum_order, fused=fuse == "epilogue")
