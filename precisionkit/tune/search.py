"""The search for the smallest set of nodes to keep in binary32.

First-order errors say which values pay most; they give one growing family of sets.  Where in the family enough inputs are certified is
found by bisection on a few witnesses, the hardest inputs that have to be certified; nodes are given back, the least useful first, as
long as the witnesses stay certified.  Then all inputs are decided, the hardest first.  A set that is not enough gives a new witness.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from precisionkit.formats import BINARY32
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
    before : dict of int to Input
        All in half, the hardest inputs first, up to where too few are left to certify; all inputs where that is enough.
    after : dict of int to Input
        Of every input, with what is kept.
    reached : bool
        Whether enough inputs are certified.
    """

    keep: Keep
    before: dict[int, Input]
    after: dict[int, Input]
    reached: bool


def needed_of(target: float, count: int) -> int:
    """Return how many of `count` inputs are at least `target` percent, the decimal number that was given."""
    return math.ceil(Fraction(str(target)) * count / 100)


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
    count = len(trials.data.images)
    allowed = count - needed_of(target, count)
    _, difficulty = trials.contributions(range(count))
    order = np.argsort(-difficulty, kind="stable").tolist()
    tell(f"Deciding {_counted(count, 'input')} all in half, the hardest first.")
    before = _settle(trials, order, Keep(), allowed)
    if len(_short(trials, before)) <= allowed:
        whole = _fully(trials, count, Keep(), tell)
        return Found(Keep(), whole, whole, reached=True)
    tell(f"Of the {len(before)} hardest, {len(_short(trials, before))} are not certified; the target leaves room for {allowed}.")
    sets = _family(trials, order[allowed:][:EXAMINED])
    keep, reached = _along(trials, sets, order, allowed, tell)
    return Found(keep, before, _fully(trials, count, keep, tell), reached)


def _along(trials: Trials, sets: Sequence[Keep], order: Sequence[int], allowed: int, tell: Tell) -> tuple[Keep, bool]:
    """The first set of the family that is enough, with what can be given back; its end, and False, if none is."""
    witnesses, low = _hardest_needed(trials, sets[-1], order, allowed, tell), 0
    while witnesses:
        low = _bisect(trials, sets, low, witnesses, tell)
        keep = _given_back(trials, sets[low], witnesses, tell)
        tell(f"Deciding all inputs with {_said(keep)}, the hardest first.")
        short = _short(trials, _settle(trials, order, keep, allowed))
        if len(short) <= allowed:
            return keep, True
        able = (row for row in reversed(short) if _all_certified(trials, [row], sets[-1]))  # the easiest first
        new = next(able, None)
        if new is None:
            break
        witnesses = [*witnesses, new]
    tell(f"Whatever is kept, more inputs stay uncertified than the {allowed} that the target leaves room for.")
    return sets[-1], False


def _said(keep: Keep) -> str:
    return f"{_counted(len(keep.nodes), 'node')} in fp32" + (f" and sums of {len(keep.sums)} more" if keep.sums else "")


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def _fully(trials: Trials, count: int, keep: Keep, tell: Tell) -> dict[int, Input]:
    tell(f"Certifying {_counted(count, 'input')} with {_said(keep)}.")
    return trials.decide(range(count), keep, fully=True)


def _short(trials: Trials, found: dict[int, Input]) -> list[int]:
    """Inputs that are not certified."""
    return [row for row, one in found.items() if not trials.counts(one)]


def _settle(trials: Trials, order: Sequence[int], keep: Keep, allowed: int) -> dict[int, Input]:
    """Decide inputs in order, until more than `allowed` are not certified; in growing batches, as that grows less likely."""
    found: dict[int, Input] = {}
    while len(found) < len(order) and (missing := allowed + 1 - len(_short(trials, found))) > 0:
        found |= trials.decide(order[len(found) :][: max(missing, len(found))], keep)
    return found


def _family(trials: Trials, examined: Sequence[int]) -> tuple[Keep, ...]:
    """Growing sets: sums alone first, where they are short, then whole nodes."""
    values = values_of(trials.graph)
    added, _ = trials.contributions(examined)
    sums = _sums_first(trials, values, added, examined)
    shares = shares_of(values, added)
    for name in _overflowing(trials, values, examined):
        shares[name] += 1.0  # nothing is certified as long as it can overflow
    return (*sums, *(Keep(nodes, sums[-1].sums) for nodes in family(values, shares)[1:]))


def _sums_first(trials: Trials, values: Sequence[Value], added: dict[str, float], examined: Sequence[int]) -> tuple[Keep, ...]:
    """Sums of one node after the other, those first whose shares fall most when all are kept; nothing where sums are long already."""
    if trials.arithmetic.accumulate.precision >= BINARY32.precision:
        return (Keep(),)
    dots = [node.name for node in trials.graph.nodes if node.record.products is not None and not node.record.hidden]
    wide, _ = trials.contributions(examined, Keep(sums=frozenset(dots)))
    inside = {name: value for value in values for name in value.parts}
    gain = {name: sum(added[part] - wide[part] for part in inside[name].parts) for name in dots}
    ordered = sorted(dots, key=lambda name: -gain[name])
    return tuple(Keep(sums=frozenset(ordered[:count])) for count in range(len(ordered) + 1))


def _overflowing(trials: Trials, values: Sequence[Value], examined: Sequence[int]) -> frozenset[str]:
    """Values of which overflow is not excluded for some input, each found with those before it kept."""
    inside = {part: value for value in values for part in value.parts}
    found: dict[str, Value] = {}
    for row in examined:
        while (value := inside.get(trials.overflowing(row, Keep(_nodes(found.values()))) or "")) and value.name not in found:
            found[value.name] = value
    return frozenset(found)


def _hardest_needed(trials: Trials, largest: Keep, order: Sequence[int], allowed: int, tell: Tell) -> list[int]:
    """The hardest inputs that have to be certified, of those that the largest set certifies; none where too many are out of its reach."""
    able, left = list[int](), allowed
    for row in order:
        if _all_certified(trials, [row], largest):
            able.append(row)
        else:
            left -= 1
        if left < 0:
            return []
        if len(able) >= left + WITNESSES:
            break
    tell(f"Of the {len(able) + allowed - left} hardest, {allowed - left} are not certified even with {_said(largest)}.")
    return able[left:]


def _bisect(trials: Trials, sets: Sequence[Keep], low: int, witnesses: Sequence[int], tell: Tell) -> int:
    """Return the first place of the family, from `low` on, where all witnesses are certified; they are at its end."""
    high = len(sets) - 1
    while low < high:
        middle = (low + high) // 2
        enough = _all_certified(trials, witnesses, sets[middle])
        tell(f"{_said(sets[middle])}: {'enough' if enough else 'too few'} for {_counted(len(witnesses), 'hard input')}.")
        low, high = (low, middle) if enough else (middle + 1, high)
    return low


def _nodes(values: Iterable[Value]) -> frozenset[str]:
    return frozenset[str]().union(*(value.nodes for value in values))


def _all_certified(trials: Trials, rows: Sequence[int], keep: Keep) -> bool:
    return all(trials.counts(trials.decide([row], keep)[row]) for row in rows)


def _given_back(trials: Trials, keep: Keep, witnesses: Sequence[int], tell: Tell) -> Keep:
    """Give back values that the witnesses do not need, those first that matter least."""
    added, _ = trials.contributions(witnesses)
    values = values_of(trials.graph)
    shares = shares_of(values, added)
    kept = [value for value in values if value.kept <= keep.nodes]
    for value in sorted(kept, key=lambda value: shares[value.name])[:TRIED]:
        smaller = Keep(frozenset[str]().union(*(other.kept for other in kept if other != value)), keep.sums)
        if smaller.nodes < keep.nodes and _all_certified(trials, witnesses, smaller):
            tell(f"Without {value.name} the hard inputs stay certified.")
            keep, kept = smaller, [other for other in kept if other != value]
    return keep
