"""Make a profile: both walks over the data set, the tightest input's shares, and the ladder."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from precisionkit.arithmetic import REFERENCE, Arithmetic, Order, parse_run, permitted
from precisionkit.batch import batch_size as best_size
from precisionkit.bound.attribution import first_order_shares
from precisionkit.bound.pulling import direct_sums
from precisionkit.data import Dataset
from precisionkit.errors import UnusableDataError
from precisionkit.evaluate import Program, device_flags, execute
from precisionkit.graph import Graph, Node, interpret
from precisionkit.models import LoadedModel
from precisionkit.profile.enclosing import Enclosed, enclose
from precisionkit.profile.ladder import NO_LADDER, climb
from precisionkit.profile.rows import node_profile
from precisionkit.profile.settings import Settings
from precisionkit.profile.tally import Proved, Seen
from precisionkit.report.profile import Ladder, Profile
from precisionkit.task import arithmetic_info, captured, data_info, model_info, theorems_used
from precisionkit.truth import Arb


def make_profile(
    model: LoadedModel,
    data: Dataset,
    arithmetic: Arithmetic,
    settings: Settings | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Profile:
    """Say of every node of a half program how large its numbers are, what its roundings add, and how that compares with what happens.

    Parameters
    ----------
    model : LoadedModel
    data : Dataset
    arithmetic : Arithmetic
        Of the half program.
    settings : Settings
    on_progress : callable or None
        Called with the number of inputs done and their total; those of the ladder count once more.

    Raises
    ------
    PrecisionKitError
        Of the kind that says what is unusable or unsupported.
    """
    settings = settings or Settings()
    ladder_inputs, arb = settings.ladder_inputs(data), Arb() if settings.truth else None
    emulate = None if settings.emulate is None else permitted(parse_run(settings.emulate), arithmetic)
    captured_graph = captured(model, data, tuple(model.preprocess(data.images[:1]).shape[1:]))
    half = Program.of(captured_graph, arithmetic, keep=settings.keep)
    graph = half.graph
    source = _Source(model, data, Program.of(captured_graph, REFERENCE), half, on_progress, len(data.images) + ladder_inputs)
    with device_flags(arithmetic):
        survey = _survey(source, emulate, settings.batch_size)
        shares = _shares(source, survey)
        ladders, sketched = _ladders(source, ladder_inputs, settings, emulate, arb, survey.largest_input)
    methods = {"interval", *(["zonotope"] if ladder_inputs else []), *(["adjoint"] if _has_probable(ladders) else [])}
    rests_on = theorems_used(arithmetic, graph, methods, sketched=sketched)
    return Profile(
        model=model_info(model),
        data=data_info(data),
        arithmetic=arithmetic_info(arithmetic, graph, probable=_has_probable(ladders), rests_on=rests_on, keep=settings.keep),
        inputs=len(data.images),
        ladder_inputs=ladder_inputs,
        tightest=survey.tightest.index,
        confidence=settings.confidence,
        nodes=tuple(
            node_profile(source.half, node, survey.seen.get(n := node.name), survey.proved[n], shares.get(n, 0.0), ladders[n])
            for node in graph.nodes
        ),
    )


@dataclass(frozen=True)
class _Source:
    """Both programs, and inputs for them."""

    model: LoadedModel
    data: Dataset
    reference: Program
    half: Program
    on_progress: Callable[[int, int], None] | None
    total: int

    @property
    def graph(self) -> Graph:
        """Of the half program."""
        return self.half.graph

    def images(self, first: int, count: int) -> Tensor:
        """Some preprocessed inputs."""
        images = self.model.preprocess(self.data.images[first : first + count], first)
        if tuple(images.shape[1:]) != self.graph.input_shape:
            raise UnusableDataError(
                f"The inputs have the shape {tuple(images.shape[1:])}, but the first had {self.graph.input_shape}; make them equal."
            )
        return images

    def stored(self, index: int) -> Tensor:
        """One input of the half program."""
        return self.half.inputs(self.images(index, 1), index)

    def done(self, inputs: int) -> None:
        """Tell of progress."""
        if self.on_progress is not None:
            self.on_progress(inputs, self.total)


@dataclass(frozen=True)
class _Tightest:
    """The input with the smallest margin: the class of the exact network with binary32 weights, and the one that comes closest."""

    index: int
    margin: float
    predicted: int
    rival: int


@dataclass(frozen=True)
class _Survey:
    """What was found over all inputs."""

    seen: dict[str, Seen]
    proved: dict[str, Proved]
    tightest: _Tightest
    largest_input: float


def _survey(source: _Source, emulate: Order | None, batch_size: int | None) -> _Survey:
    """Run and enclose the half program on all inputs, batch by batch."""
    half, graph = source.half, source.graph
    size = batch_size or best_size(graph)
    seen = {node.name: Seen() for node in graph.nodes if node.name not in graph.hidden}
    proved = {node.name: Proved() for node in graph.nodes}
    tightest, largest = _Tightest(0, math.inf, 0, 0), 0.0

    def look(node: Node, result: Tensor) -> None:
        seen[node.name].add(result, None if node.name in half.unstored else half.format_of(node.name))

    def count(found: Enclosed) -> None:
        proved[found.node.name].add(found)

    for first in range(0, len(source.data.images), size):
        images = source.images(first, size)
        stored = half.inputs(images, first)
        largest = max(largest, float(stored.abs().amax())) if stored.is_floating_point() else math.inf
        execute(half, stored, emulate=emulate, observe=look)
        enclose(half, stored, count)
        tightest = min(tightest, _tightest(centre(source.reference, images), first), key=lambda found: found.margin)
        source.done(first + len(images))
    return _Survey(seen, proved, tightest, largest)


def centre(program: Program, inputs: Tensor) -> Tensor:
    """Logits of the binary64 centre."""

    def run_node(node: Node, operands: tuple[Tensor | None, ...]) -> Tensor | None:
        return None if node.record.hidden else node.record.apply(node.attributes, *operands)

    constants = {name: value.double() for name, value in program.constants.items()}
    with direct_sums():
        return interpret(program.graph, inputs.double() if inputs.is_floating_point() else inputs, constants, run_node)


def _tightest(logits: Tensor, first: int) -> _Tightest:
    """Of a batch; one without finite logits has no margin."""
    pairs = logits.topk(min(2, logits.shape[1]), 1)
    margins = (pairs.values[:, 0] - pairs.values[:, -1]).nan_to_num(torch.inf, torch.inf)
    row = int(margins.argmin())
    return _Tightest(first + row, float(margins[row]), int(pairs.indices[row, 0]), int(pairs.indices[row, -1]))


def _shares(source: _Source, survey: _Survey) -> dict[str, float]:
    """Part of every node in the first-order error of the tightest input's closest gap; none where that is not finite."""
    found = survey.tightest
    classes, rivals = (torch.tensor([c], device="cpu") for c in (found.predicted, found.rival))
    shares = first_order_shares(source.half, source.stored(found.index), classes, rivals, apart=True)
    total = float(shares.total)
    if not (math.isfinite(total) and total > 0):
        return {}
    return {name: min(1.0, max(0.0, float(value) / total)) for name, value in shares.by_node.items()}


def _ladders(
    source: _Source, count: int, settings: Settings, emulate: Order | None, arb: Arb | None, largest: float
) -> tuple[dict[str, Ladder], bool]:
    if not count:
        return dict.fromkeys((node.name for node in source.graph.nodes), NO_LADDER), False

    def inputs() -> Iterator[Tensor]:
        for index in range(count):
            yield source.stored(index)
            source.done(len(source.data.images) + index + 1)

    return climb(source.half, inputs(), count, settings, emulate, arb, largest)


def _has_probable(ladders: dict[str, Ladder]) -> bool:
    return any(ladder.probable is not None for ladder in ladders.values())
