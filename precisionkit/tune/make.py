"""A plan of what to keep in binary32, certified and priced."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from precisionkit.arithmetic import REFERENCE, Arithmetic
from precisionkit.bound import CONFIDENCE, EFFORT
from precisionkit.data import Dataset
from precisionkit.errors import UsageError
from precisionkit.evaluate import Program
from precisionkit.graph import fingerprint
from precisionkit.models import LoadedModel
from precisionkit.report import Input
from precisionkit.report.plan import LISTED, Certified, Level, Plan, Uncertified
from precisionkit.task import arithmetic_info, captured, data_info, holds_tokens, model_info
from precisionkit.tune.cost import cost_of, kept_nodes
from precisionkit.tune.names import converter_names, patterns
from precisionkit.tune.search import search
from precisionkit.tune.trials import Trials


@dataclass(frozen=True)
class Wanted:
    """What a plan is to reach.

    Attributes
    ----------
    target : float
        Percent of the inputs.
    at : str
        ``proved`` or ``probable``.
    effort, confidence : float
        As in `certify.Settings`.
    """

    target: float = 100.0
    at: Level = "probable"
    effort: float = EFFORT
    confidence: float = CONFIDENCE


def make_plan(
    model: LoadedModel, data: Dataset, arithmetic: Arithmetic, wanted: Wanted | None = None, tell: Callable[[str], None] = lambda said: None
) -> Plan:
    """Find what to keep in binary32, certify it, and say what it costs.

    Parameters
    ----------
    model : LoadedModel
    data : Dataset
    arithmetic : Arithmetic
        Of the half program.
    wanted : Wanted
    tell : callable
        Called with a sentence at each step.

    Raises
    ------
    PrecisionKitError
        Of the kind that says what is unusable or unsupported.
    """
    wanted = wanted or Wanted()
    if not 0 < wanted.target <= 100:
        raise UsageError(f"The target is {wanted.target:g} percent, but must be above 0 and at most 100.")
    if not len(data.images):
        raise UsageError("The data set is empty: nothing can be certified.")
    if arithmetic == REFERENCE:
        raise UsageError("The arithmetic is that of the reference program, binary32: there is nothing to keep; choose --storage fp16.")
    graph = captured(model, data, tuple(model.preprocess(data.images[:1]).shape[1:]))
    trials = Trials(model, data, graph, arithmetic, wanted.at, wanted.effort, wanted.confidence)
    found = search(trials, wanted.target, tell)
    nodes = kept_nodes(graph, found.keep)
    named = converter_names(model.module, graph, found.keep)
    probable = any(one.verdict == "probable" for one in found.after.values())
    return Plan(
        model=model_info(model),
        data=data_info(data),
        network=fingerprint(graph),
        input_shape=graph.input_shape,
        tokens=holds_tokens(data),
        arithmetic=arithmetic_info(arithmetic, graph, probable=probable, keep=found.keep),
        target=wanted.target,
        at=wanted.at,
        confidence=wanted.confidence,
        reached=found.reached,
        nodes=nodes,
        before=_certified(found.before.values()),
        after=_certified(found.after.values()),
        uncertified=_uncertified([one for one in found.after.values() if not trials.counts(one)]),
        half=cost_of(Program.of(graph, arithmetic)),
        kept=cost_of(Program.of(graph, arithmetic, keep=found.keep)),
        fp32=cost_of(Program.of(graph, REFERENCE)),
        nodes_to_exclude=patterns(named.names),
        node_block_list=named.names,
        about_names=named.about,
    )


def _uncertified(left: list[Input]) -> tuple[Uncertified, ...]:
    listed = sorted(left, key=lambda one: -math.inf if one.margin is None else -one.margin)[:LISTED]
    return tuple(Uncertified(index=one.index, margin=one.margin, bound=one.bound, reason=one.reason) for one in listed)


def _certified(inputs: Iterable[Input]) -> Certified:
    verdicts = [one.verdict for one in inputs]
    return Certified(
        inputs=len(verdicts), proved=verdicts.count("proved"), probable=verdicts.count("probable"), flipped=verdicts.count("flipped")
    )
