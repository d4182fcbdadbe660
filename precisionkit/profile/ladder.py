"""Bounds of single entries, from the coarsest to the truth, for some inputs one by one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from precisionkit.arithmetic import Order
from precisionkit.bound.adjoint import deviate_for
from precisionkit.evaluate import Program, execute
from precisionkit.graph import Node
from precisionkit.profile.a_priori import a_priori
from precisionkit.profile.enclosing import Enclosed, enclose
from precisionkit.profile.settings import Settings
from precisionkit.profile.traces import Traced, Tracer
from precisionkit.report.profile import Ladder
from precisionkit.truth import Arb, Objects, exact_logits

NO_LADDER = Ladder(entries=0, a_priori=None, running=None, zonotope=None, probable=None, measured=None, truth=None)


@dataclass(frozen=True)
class Rungs:
    """Errors of the chosen entries of one node for one input, each the largest; infinite or NaN where there is none."""

    entries: int
    running: float
    zonotope: float
    probable: float
    measured: float
    truth: float


def chosen_entries(radius: Tensor, most: int) -> Tensor:
    """Spread evenly over the entries of one input, with the one of the largest radius; in order."""
    flat = radius.flatten()
    if flat.numel() <= most:
        return torch.arange(flat.numel(), dtype=torch.int64, device=flat.device)
    spread = torch.linspace(0, flat.numel() - 1, most - 1, dtype=torch.float64, device=flat.device).round().long()
    widest = flat.nan_to_num(torch.inf).argmax()
    chosen: Tensor = torch.cat([spread, widest[None]]).unique()
    return chosen


def climb(
    program: Program, inputs: Iterable[Tensor], count: int, settings: Settings, emulate: Order | None, arb: Arb | None, largest: float
) -> tuple[dict[str, Ladder], bool]:
    """Make the ladder of every node that runs compute, and say whether a bound rests on a sketch.

    Parameters
    ----------
    inputs : iterable of (1, ...) tensors
        `count` stored inputs, of at most the size `largest`.
    settings : Settings
        Of which entries, effort and confidence are read.
    emulate : Order or None
        Of the half run.
    arb : Arb or None
        Computes the truth.
    """
    graph = program.graph
    nodes = [node for node in graph.nodes if node.name not in graph.hidden]
    looked_at = count * sum(min(settings.entries, math.prod(node.shape)) for node in nodes)
    # half of the confidence is for enclosures on the way, half for both directions of every entry
    deviate = deviate_for(settings.confidence / 2 / (2 * looked_at)) if program.arithmetic.random_stores and looked_at else None
    tracer, found, sketched = Tracer(program, settings.effort), {node.name: list[Rungs]() for node in nodes}, False
    for one in inputs:
        proved = tracer.proved(one)
        likely = None if deviate is None else (tracer.likely(one, settings.confidence / 2 / count) or proved, deviate)
        sketched |= proved.sketched
        chosen = _choose(program, one, settings.entries)
        errors = _errors(program, one, chosen, emulate, arb)
        for name, rungs in _of_input(program, chosen, errors, proved, likely).items():
            found[name].append(rungs)
    norms = a_priori(program, largest)
    ladders = {name: _joined(rungs, norms[name]) for name, rungs in found.items()}
    return {node.name: ladders.get(node.name, NO_LADDER) for node in graph.nodes}, sketched


@dataclass(frozen=True)
class _Chosen:
    """Entries of one node that are looked at, with their centres and radii by the interval method."""

    places: Tensor
    centre: Tensor
    radius: Tensor


@dataclass(frozen=True)
class _Errors:
    """Largest distances of the run's chosen entries of every node from the centre, and from the exact network where that is known."""

    measured: dict[str, float]
    truth: dict[str, float]


def _errors(program: Program, one: Tensor, chosen: dict[str, _Chosen], emulate: Order | None, arb: Arb | None) -> _Errors:
    values: dict[str, Tensor] = {}
    execute(program, one, emulate=emulate, observe=_keeper(chosen, values))
    measured = {name: float(_distances(values[name], some.centre).amax()) for name, some in chosen.items()}
    return _Errors(measured, {} if arb is None else _truth(arb, program, one, chosen, values))


def _of_input(
    program: Program, chosen: dict[str, _Chosen], errors: _Errors, proved: Traced, likely: tuple[Traced, float] | None
) -> dict[str, Rungs]:
    """Every rung for every node that runs compute, for one input."""
    rungs = {}
    for place, node in enumerate(program.graph.nodes):
        if node.name not in chosen:
            continue
        some = chosen[node.name]
        rungs[node.name] = Rungs(
            entries=len(some.places),
            running=float(some.radius.amax()) if place < proved.overflow else math.inf,
            zonotope=_bound(proved, place, node, some, None),
            probable=math.inf if likely is None else _bound(likely[0], place, node, some, likely[1]),
            measured=errors.measured[node.name],
            truth=errors.truth.get(node.name, math.inf),
        )
    return rungs


def _bound(traced: Traced, place: int, node: Node, some: _Chosen, deviate: float | None) -> float:
    """The largest bound of some entries; infinite where overflow is not excluded."""
    return float(traced.bounds(node, some.places, deviate).amax()) if place < traced.overflow else math.inf


def _choose(program: Program, one: Tensor, most: int) -> dict[str, _Chosen]:
    chosen: dict[str, _Chosen] = {}

    def visit(found: Enclosed) -> None:
        if found.node.name not in program.graph.hidden and found.result.centre.numel():
            radius = found.store.radius.flatten()
            places = chosen_entries(radius, most)
            chosen[found.node.name] = _Chosen(places, found.result.centre.flatten()[places], radius[places])

    enclose(program, one, visit)
    return chosen


def _keeper(chosen: dict[str, _Chosen], values: dict[str, Tensor]) -> Callable[[Node, Tensor], None]:
    def keep(node: Node, result: Tensor) -> None:
        if node.name in chosen:
            values[node.name] = result.flatten()[chosen[node.name].places].double()

    return keep


def _distances(values: Tensor, centre: Tensor) -> Tensor:
    """Rounded up; 0 where both are the same, infinities on purpose among them."""
    difference = (values - centre).abs()
    return torch.nextafter(difference, torch.full_like(difference, torch.inf)).masked_fill(values == centre, 0.0)


def _truth(arb: Arb, program: Program, one: Tensor, chosen: dict[str, _Chosen], values: dict[str, Tensor]) -> dict[str, float]:
    """Largest distance of the run's chosen entries from the exact network, rounded up, of every node."""
    found: dict[str, float] = {}

    def compare(node: Node, _: tuple[Any, ...], result: Objects) -> None:
        if node.name not in chosen or not values[node.name].isfinite().all():
            return
        balls = result.ravel()[chosen[node.name].places.tolist()]
        ends = [float(abs(ball - arb.number(value)).upper()) for ball, value in zip(balls, values[node.name].tolist(), strict=True)]
        if all(map(math.isfinite, ends)):  # a ball without an end says nothing
            found[node.name] = math.nextafter(max(ends), math.inf) if max(ends) > 0 else 0.0

    exact_logits(arb, program, one, compare)
    return found


def _joined(rungs: Sequence[Rungs], norm: float) -> Ladder:
    """The largest of several inputs."""
    if not rungs:
        return NO_LADDER

    def largest(name: str) -> float | None:
        values = [getattr(rung, name) for rung in rungs]
        return max(values) if all(map(math.isfinite, values)) else None

    running = largest("running")
    return Ladder(
        entries=sum(rung.entries for rung in rungs),
        # without a bound of the others overflow is not excluded
        a_priori=norm if running is not None and math.isfinite(norm) else None,
        running=running,
        zonotope=largest("zonotope"),
        probable=largest("probable"),
        measured=largest("measured"),
        truth=largest("truth"),
    )
