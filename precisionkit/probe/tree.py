"""Revealing a summation tree: which terms are added before which (FPRev: Xie, Gao, Wang, Xue, USENIX ATC 2025).

With a large M as the i-th term, -M as the j-th, and small equal terms elsewhere, every small term that meets M or -M before these
meet each other is absorbed.  So the sum tells how many terms lie below the node at which terms i and j meet.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from itertools import combinations
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from precisionkit.arithmetic import Order, parse_order
from precisionkit.formats import BINARY16, Format
from precisionkit.probe.kernels import Dot

T = TypeVar("T")
Meeting = NDArray[np.int64]
"""(n, n): the number of terms below the node at which two terms meet; 1 on the diagonal."""


def meetings(dot: Dot, storage: Format, terms: int) -> Meeting | None:
    """Reveal the tree of a kernel for one number of terms; None where the sums are not those of any tree.

    Parameters
    ----------
    terms : int
        At most 256.
    """
    large, small = (2.0**15, 2.0**-24) if storage == BINARY16 else (2.0**40, 2.0**-20)
    pairs = list(combinations(range(terms), 2))
    a, b = torch.full((len(pairs), terms), small), torch.ones(terms, 1)
    for row, (i, j) in enumerate(pairs):
        a[row, i], a[row, j] = large, -large
    sums = torch.cat([dot(part, b)[:, 0] for part in a.split(1024)]).double().numpy() / small
    result = np.eye(terms, dtype=np.int64)
    for (i, j), left in zip(pairs, sums, strict=True):
        if not (np.isfinite(left) and 0 <= left <= terms - 2 and left == round(left)):
            return None
        result[i, j] = result[j, i] = terms - int(left)
    return result


def of_order(order: Order, terms: int) -> Meeting:
    """The same for a named tree, by definition."""
    result = np.eye(terms, dtype=np.int64)

    def add(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
        for i in a:
            result[i, list(b)] = result[list(b), i] = len(a) + len(b)
        return a + b

    leaves: list[tuple[int, ...]] = [(i,) for i in range(terms)]
    order.fold(leaves, add)
    return result


def fold_along(found: Meeting, leaves: Sequence[T], add: Callable[[T, T], T]) -> T:
    """Combine leaves along a revealed tree: at a node, the terms that meet below it are on one side; more than two sides go in order.

    Sums of two are the same either way round, so a run along the tree is defined by it, where all of its nodes are of two.
    """

    def below(terms: list[int]) -> T:
        if len(terms) == 1:
            return leaves[terms[0]]
        sides: list[list[int]] = []
        for term in terms:
            side = next((side for side in sides if found[side[0], term] < len(terms)), None)
            if side is None:
                sides.append([term])
            else:
                side.append(term)
        return reduce(add, [below(side) for side in sides])

    return below(list(range(len(found))))


def describe(found: Meeting | None) -> str:
    """Name the tree, or say what it looks like."""
    if found is None:
        return "not that of a tree of binary additions in this format"
    terms = len(found)
    names = ["sequential", "pairwise", *(f"blocked:{k}" for k in (2, 4, 8, 16, 32, 64) if k < terms)]
    for name in names:
        if (of_order(parse_order(name), terms) == found).all():
            return name
    if (found[~np.eye(terms, dtype=bool)] == terms).all():
        return f"all {terms} terms in one step"
    sizes = np.unique(found[found > 1])
    first = int(sizes[0])
    block = found[:first, :first][~np.eye(first, dtype=bool)]
    if first > 2 and (block == first).all():
        return f"steps that add {first} terms at once"
    partner = int(np.flatnonzero(found[0] == np.sort(found[0])[1])[0])
    shown = [str(size) for size in sizes] if len(sizes) < 9 else [*map(str, sizes[:6]), "...", str(sizes[-1])]
    return f"none of these names; term 0 first meets term {partner}; sums of {', '.join(shown)} terms on the way"
