"""What the publications say, held against the results."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from precisionkit.reproduce.plan import PUBLISHED, USUAL, WORKING, Plan
from precisionkit.reproduce.runs import Result
from precisionkit.reproduce.statistics import NAMES, Difference, chosen, difference, ended_pairs
from precisionkit.reproduce.study import Pair, Study
from precisionkit.reproduce.tables import Table

TOLERATED = 0.6
"""Percentage points that "the same accuracy" leaves: the largest difference of fp16 and fp32 in the published table."""

_MOST = 0.95
"""Share of images that a premise holds for, if it is to explain something."""


@dataclass(frozen=True)
class Claim:
    """A published statement and what was measured.

    Attributes
    ----------
    said, measured : str
    verdict : str
        ``agrees``, ``does not agree``, or ``not decided`` with the reason.
    """

    said: str
    measured: str
    verdict: str


def claims_table(plan: Plan, claims: Sequence[Claim]) -> Table:
    """What agrees with the publications and what does not."""
    sources = "Sources: arXiv 2301.12809 and, for epsilon, 2307.16189"
    note = f"{plan.what}. {sources}. The same accuracy: the difference is at most {TOLERATED} points."
    rows = tuple((claim.said, claim.measured, claim.verdict) for claim in claims)
    return Table("claims", "What agrees with the paper", note, ("statement", "measured here", "verdict"), rows)


def mnist_claims(results: Sequence[Result], studies: Sequence[Study], pairs: Sequence[Pair], device: str) -> list[Claim]:
    """Statements on the dense network."""
    sgd = chosen(results, optimizer="sgd")
    claims = [_ended("With SGD, pure half training is as accurate as fp32", sgd, "fp16")]
    claims += [_ended("So is mixed precision", sgd, "mixed")]
    claims += list(_epsilons(results))
    claims += [_same_everywhere(results)]
    return [*claims, *_common(results, studies, pairs, device)]


def cifar10_claims(results: Sequence[Result], studies: Sequence[Study], pairs: Sequence[Pair], device: str) -> list[Claim]:
    """Statements on the networks of the published table."""
    claims = [_ended("Pure half training is as accurate as fp32, over all networks", results, "fp16")]
    for arch, published in PUBLISHED.items():
        if found := chosen(results, arch=arch):
            said = f"{arch}: fp16 - fp32 is {published.accuracy['fp16'] - published.accuracy['fp32']:+.1f} points"
            claims.append(_ended(said, found, "fp16"))
    return [*claims, *_common(results, studies, pairs, device)]


def _ended(said: str, results: Sequence[Result], precision: str) -> Claim:
    """The same accuracy as fp32, by runs that all ended."""
    made = _same(said, difference(results, precision, "fp32"))
    runs = chosen(results, precision=precision)
    broke = sum(bool(one.broke) for one in runs)
    return made if not broke else Claim(said, f"{broke} of {len(runs)} runs broke; {made.measured}", "does not agree: runs broke")


def _same(said: str, made: Difference | None) -> Claim:
    if made is None:
        return Claim(said, "no pair of runs ended", "not decided: nothing to compare")
    measured = f"{made} points over {made.pairs} pairs"
    low, high = made.mean - made.half_width, made.mean + made.half_width
    if low >= -TOLERATED and high <= TOLERATED:
        return Claim(said, measured, "agrees")
    if high < -TOLERATED or low > TOLERATED:
        return Claim(said, measured, f"does not agree: {made.one} is {'worse' if made.mean < 0 else 'better'}")
    return Claim(said, measured, "not decided: the interval reaches beyond the tolerance")


def _epsilons(results: Sequence[Result]) -> Iterator[Claim]:
    for optimizer in ("adam", "rmsprop"):
        name = NAMES[optimizer]
        small = [one for epsilon in USUAL for one in chosen(results, optimizer=optimizer, epsilon=epsilon, precision="fp16")]
        broke = sum(bool(one.broke) for one in small)
        said = f"{name} breaks in pure half with the usual epsilons 1e-8 and 1e-7"
        yield Claim(said, f"{broke} of {len(small)} runs broke", _all_or_none(broke, len(small)))
        large = chosen(results, optimizer=optimizer, epsilon=WORKING)
        ended = sum(not one.broke for one in chosen(large, precision="fp16"))
        made = _same(f"With epsilon {WORKING:g} {name} works in pure half, as accurately as in fp32", difference(large, "fp16", "fp32"))
        runs = len(chosen(large, precision="fp16"))
        verdict = made.verdict if ended == runs else _all_or_none(ended, runs)
        yield Claim(made.said, f"{ended} of {runs} runs ended; {made.measured}", verdict)


def _all_or_none(count: int, total: int) -> str:
    if total == 0:
        return "not decided: no run"
    if count == total:
        return "agrees"
    return "does not agree" if count == 0 else f"agrees in part: {count} of {total}"


def _same_everywhere(results: Sequence[Result]) -> Claim:
    said = "With SGD, that holds for every batch size"
    sgd = chosen(results, optimizer="sgd")
    found = {size: _ended(said, chosen(sgd, batch=size), "fp16") for size in sorted({one.settings.batch for one in sgd})}
    measured = "; ".join(f"{size}: {one.measured.partition(' points')[0]}" for size, one in found.items())
    return Claim(said, measured, next((one.verdict for one in found.values() if one.verdict != "agrees"), "agrees"))


def _common(results: Sequence[Result], studies: Sequence[Study], pairs: Sequence[Pair], device: str) -> Iterator[Claim]:
    yield from _size(results)
    yield from _time(results, device)
    violations, images = sum(one.violations for one in studies), sum(one.images for one in studies)
    if images:
        premise = sum(one.premise for one in studies)
        said = "Gamma > 2 delta explains why predictions are kept"
        measured = f"the premise holds for {premise / images:.2%} of {images} images of trained networks, {violations} violations"
        yield Claim(said, measured, "agrees" if premise >= _MOST * images and not violations else "does not agree")
    if pairs:
        agree, premise, total = (sum(values) for values in zip(*((one.agree, one.premise, one.images) for one in pairs), strict=True))
        said = "(Not published.) Gamma > 2 delta also between a network trained in fp32 and one trained in half"
        measured = f"the premise holds for {premise / total:.2%} of {total} images, {agree / total:.2%} predict the same"
        yield Claim(said, measured, "holds" if premise == total else "holds in part: two trainings differ by more than one rounding")


def _size(results: Sequence[Result]) -> Iterator[Claim]:
    pairs = ended_pairs(results, "fp16", "fp32")
    if pairs:
        ratios = [a.memory / b.memory for a, b in pairs]
        verdict = "agrees" if max(ratios) <= 0.52 else "does not agree"
        range_ = " to ".join(dict.fromkeys(f"{ratio:.1%}" for ratio in (min(ratios), max(ratios))))
        yield Claim("Pure half needs half the memory", f"{range_} of fp32's", verdict)


def _time(results: Sequence[Result], device: str) -> Iterator[Claim]:
    pairs = ended_pairs(results, "fp16", "fp32")
    if pairs:
        ratio = sum(a.seconds for a, _ in pairs) / sum(b.seconds for _, b in pairs)
        decided = "agrees" if ratio < 1 else "does not agree"
        verdict = decided if device != "cpu" else "not decided: a CPU computes half products by fp32 kernels"
        yield Claim("Pure half trains faster than fp32", f"{ratio:.2f} times fp32's time on {device}", verdict)
