"""The search for the smallest set of nodes to keep in binary32.

First-order errors say which values pay most; they give one growing family of sets.  Where in the family enough inputs are certified is
found by bisection on a few witnesses, the hardest inputs that have to be certified; then all inputs are certified with it.  A set that
is not enough gives new witnesses.  In the end nodes are given back, the least useful first, as long as the witnesses stay certified.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from precisionkit.mixed import Keep
from precisionkit.report import Input
from precisionkit.tune.trials import Trials
from precisionkit.tune.values import Value, family, shares_of, values_of

WITNESSES = 3
"""Inputs that stand for all in the bisection."""
TRIED = 6
"""Values that are given back, if possible."""
EXAMINED = 24
"""Inputs whose first-order errors choose the family."""

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Found:
    """What to keep, and what it gives.

    Attributes
    ----------
    keep : Keep
    before, after : dict of int to Input
        Of every input, all in half and with what is kept.
    reached : bool
        Whether enough inputs are certified.
    """

    keep: Keep
    before: dict[int, Input]
    after: dict[int, Input]
    reached: bool


def search(trials: Trials, target: float, tell: Tell = lambda said: None) -> Found:
    """Find what to keep so that `target` percent of the inputs are certified.

    Parameters
    ----------
    trials : Trials
    target : float
    tell : callable
        Called with a sentence at each step.

    Notes
    -----
    Sets are tried along one family and are not all sets: a smaller one may exist.  What is said of the set that is found is certified
    for every input, and rests on nothing of the search.
    """
    rows = list(range(len(trials.data.images)))
    needed = math.ceil(target / 100 * len(rows))
    tell(f"Certifying {len(rows)} inputs all in half.")
    before = trials.decide(rows, Keep())
    missing = [row for row in rows if not trials.counts(before[row])]
    if len(rows) - len(missing) >= needed:
        return Found(Keep(), before, before, reached=True)
    sets = _family(trials, missing)
    witnesses = _hardest_needed(trials, missing, needed - (len(rows) - len(missing)))
    low, after, kept = 0, before, sets[-1]
    while True:
        place = _bisect(trials, sets, low, witnesses, tell)
        kept = sets[place]
        tell(f"Certifying all inputs with {len(kept.nodes)} nodes in fp32{_sums(kept)}.")
        after = trials.decide(rows, kept)
        short = [row for row in rows if not trials.counts(after[row])]
        if len(rows) - len(short) >= needed or place == len(sets) - 1:
            break
        low, witnesses = place + 1, _hardest_needed(trials, short, needed - (len(rows) - len(short)))
    reached = len(rows) - len(short) >= needed
    if not reached:
        return Found(kept, before, after, reached=False)
    return _given_back(trials, Found(kept, before, after, reached=True), witnesses, needed, tell)


def _sums(keep: Keep) -> str:
    return f" and sums of {len(keep.sums)} more" if keep.sums else ""


def _family(trials: Trials, missing: Sequence[int]) -> tuple[Keep, ...]:
    """Growing sets: sums alone first, where they are short, then whole nodes."""
    examined = list(missing)[:: max(1, len(missing) // EXAMINED)][:EXAMINED]
    graph = trials.graph
    added, _ = trials.contributions(examined)
    sums = _sums_first(trials, added, examined)
    overflowing = _overflows(trials, examined)
    values = values_of(graph)
    shares = shares_of(values, added)
    for value in values:
        if value.parts & overflowing:
            shares[value.name] += 1.0  # nothing is certified as long as it can overflow
    last = sums[-1]
    return (*sums, *(Keep(nodes, last.sums) for nodes in family(values, shares)[1:]))


def _sums_first(trials: Trials, added: dict[str, float], examined: Sequence[int]) -> tuple[Keep, ...]:
    """Sums of one node after the other, those first whose shares fall most when all are kept; nothing where sums are long already."""
    arithmetic, graph = trials.arithmetic, trials.graph
    if arithmetic.accumulate.precision >= 24:
        return (Keep(),)
    dots = frozenset(node.name for node in graph.nodes if node.record.products is not None and not node.record.hidden)
    wide, _ = trials.contributions(examined, Keep(sums=dots))
    inside = {name: value for value in values_of(graph) for name in value.parts}
    ends = {name: inside[name].parts for name in dots}
    gain = {name: sum(added[part] - wide[part] for part in ends[name]) for name in dots}
    ordered = sorted(dots, key=lambda name: -gain[name])
    return tuple(Keep(sums=frozenset(ordered[:count])) for count in range(len(ordered) + 1))


def _overflows(trials: Trials, examined: Sequence[int]) -> frozenset[str]:
    """Nodes of which overflow is not excluded for some input, each found with those before it kept."""
    found: set[str] = set()
    for row in examined:
        while (name := trials.overflowing(row, Keep.of(found))) is not None and name.removesuffix(".cast") not in found:
            found.add(name.removesuffix(".cast"))
    return frozenset(found)


def _hardest_needed(trials: Trials, missing: Sequence[int], count: int) -> list[int]:
    """Of the inputs that are missing, those that are just needed when the easiest are taken first."""
    _, difficulty = trials.contributions(missing)
    easiest = [missing[place] for place in np.argsort(difficulty, kind="stable")][:count]
    return easiest[-WITNESSES:]


def _bisect(trials: Trials, sets: Sequence[Keep], low: int, witnesses: Sequence[int], tell: Tell) -> int:
    """Return the first place of the family, from `low` on, where all witnesses are certified; its end if they never are."""
    high = len(sets) - 1
    while low < high:
        middle = (low + high) // 2
        enough = _all_certified(trials, witnesses, sets[middle])
        said = "enough" if enough else "too few"
        tell(f"{len(sets[middle].nodes)} nodes in fp32{_sums(sets[middle])}: {said} for {len(witnesses)} hard inputs.")
        low, high = (low, middle) if enough else (middle + 1, high)
    return low


def _union(values: Sequence[Value]) -> frozenset[str]:
    return frozenset[str]().union(*(value.kept for value in values))


def _all_certified(trials: Trials, rows: Sequence[int], keep: Keep) -> bool:
    return all(trials.counts(trials.decide([row], keep)[row]) for row in rows)


def _given_back(trials: Trials, found: Found, witnesses: Sequence[int], needed: int, tell: Tell) -> Found:
    """Give back values that are not needed, those first that matter least."""
    added, _ = trials.contributions(witnesses)
    values = values_of(trials.graph)
    shares = shares_of(values, added)
    kept = [value for value in values if value.kept <= found.keep.nodes]
    for value in sorted(kept, key=lambda value: shares[value.name])[:TRIED]:
        smaller = [other for other in kept if other != value]
        if _all_certified(trials, witnesses, Keep(_union(smaller), found.keep.sums)):
            tell(f"Without {value.name} the hard inputs stay certified.")
            kept = smaller
    keep = Keep(_union(kept), found.keep.sums)
    if keep == found.keep:
        return found
    tell(f"Certifying all inputs with {len(keep.nodes)} nodes in fp32{_sums(keep)}.")
    after = trials.decide(sorted(found.after), keep)
    enough = sum(trials.counts(one) for one in after.values()) >= needed
    return Found(keep, found.before, after, reached=True) if enough else found
