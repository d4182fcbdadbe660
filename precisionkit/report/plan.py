"""The records of a plan of what to keep in binary32, whose JSON is ``precisionkit.plan/1``."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from precisionkit.report.parts import ArithmeticInfo, Count, DataInfo, ModelInfo, Sha256, _Record

PLAN_SCHEMA: Literal["precisionkit.plan/1"] = "precisionkit.plan/1"

Level = Literal["proved", "probable"]
Percent = Annotated[float, msgspec.Meta(ge=0, le=100)]


class KeptNode(_Record, frozen=True, kw_only=True):
    """A node of the half program that is kept in binary32, and what of it.

    Attributes
    ----------
    name, operator, module, source : str
        Of the graph; the path of the module that it was captured in, and the user's line, empty where unknown.
    weights : bool
        It reads binary32 weights.
    sums : bool
        It sums products in binary32.
    result : bool
        Some other node reads its result in binary32; others read it through a cast.
    parameters, multiplications, entries : int
        Numbers in its weights; multiplications, and numbers of its result, for one input.
    """

    name: str
    operator: str
    module: str
    source: str
    weights: bool
    sums: bool
    result: bool
    parameters: Count
    multiplications: Count
    entries: Count


class Cost(_Record, frozen=True, kw_only=True):
    """What a program needs: bytes of weights, bytes of all results of one input, and the share of its multiplications in binary32."""

    weight_bytes: Count
    result_bytes: Count
    fp32_multiplications: Annotated[float, msgspec.Meta(ge=0, le=1)]


class Certified(_Record, frozen=True, kw_only=True):
    """How many inputs were certified."""

    inputs: Count
    proved: Count
    probable: Count
    flipped: Count


class Uncertified(_Record, frozen=True, kw_only=True):
    """An input that the plan leaves without a certificate, and why; numbers as in a report's input."""

    index: Count
    margin: float | None
    bound: float | None
    reason: str | None


LISTED = 20
"""Inputs that a plan lists as left."""


class Plan(_Record, frozen=True, kw_only=True):
    """What to keep in binary32, so that enough inputs are certified.

    Attributes
    ----------
    target : float
        Percent of the inputs that were to be certified.
    at : str
        ``proved``, or ``probable`` for that or better.
    confidence : float
        Of `probable` verdicts.
    reached : bool
        Whether the target was reached, by the certification that was made in the end.
    network : str
        Hash of the captured network, its weights included, which the plan is for.
    input_shape : tuple of int
        Of one input.
    tokens : bool
        Whether the inputs are integer tokens.
    arithmetic : ArithmeticInfo
        With the nodes that are kept, and what is assumed.
    nodes : tuple of KeptNode
        In the order of the network.
    before, after : Certified
        All in half, of the hardest inputs up to where too few were left to reach the target; of all inputs with the plan.
    uncertified : tuple of Uncertified
        Inputs that are not certified with the plan, the largest margins first, at most `LISTED`.
    half, kept, fp32 : Cost
        All in half; with the plan; all in binary32.
    nodes_to_exclude : tuple of str
        Patterns for ModelOpt's AutoCast, each for one node of an ONNX file.
    node_block_list : tuple of str
        Names of the same nodes, for the float16 converters of ONNX Runtime and onnxconverter-common; not of those whose sums alone are
        kept, which they cannot do.  All that are kept otherwise, with all that they were merged from in the file, or none.
    about_names : str
        Of which file they are, or why there are none; empty where nothing is to be said.
    """

    schema: Literal["precisionkit.plan/1"] = PLAN_SCHEMA
    model: ModelInfo
    data: DataInfo
    network: Sha256
    input_shape: tuple[int, ...]
    tokens: bool
    arithmetic: ArithmeticInfo
    target: Percent
    at: Level
    confidence: Annotated[float, msgspec.Meta(gt=0, lt=1)]
    reached: bool
    nodes: tuple[KeptNode, ...]
    before: Certified
    after: Certified
    uncertified: tuple[Uncertified, ...]
    half: Cost
    kept: Cost
    fp32: Cost
    nodes_to_exclude: tuple[str, ...]
    node_block_list: tuple[str, ...]
    about_names: str


def render_plan(plan: Plan) -> RenderableType:
    """Lay a plan out for a terminal: what is kept of each node, what it costs, what it gives."""
    table = Table("node", "operator", "module", "kept in fp32", "parameters", box=None, padding=(0, 2, 0, 0))
    table.columns[-1].justify = "right"
    for node in plan.nodes:
        what = ", ".join(name for name in ("weights", "sums", "result") if getattr(node, name)) or "operands"
        table.add_row(*map(Text, (node.name, node.operator, node.module, what, f"{node.parameters:,}")))
    heading = f"{plan.model.arch} on {plan.data.name}: {plan.arithmetic.words}\n"
    return Group(
        Text(heading),
        *([table] if plan.nodes else []),
        Text(),
        _costs(plan),
        *([Text(_options(plan))] if plan.nodes else []),
        *([Text(plan.about_names)] if plan.about_names else []),
        Text(_conclusion(plan), style="bold"),
    )


def _costs(plan: Plan) -> Table:
    table = Table("", "half", "plan", "fp32", box=None, padding=(0, 2, 0, 0))
    costs = (plan.half, plan.kept, plan.fp32)
    table.add_row("weights, MB", *(f"{cost.weight_bytes / 1e6:.4g}" for cost in costs))
    table.add_row("results of an input, MB", *(f"{cost.result_bytes / 1e6:.4g}" for cost in costs))
    table.add_row("multiplications in fp32", *(f"{100 * cost.fp32_multiplications:.3g} %" for cost in costs))
    return table


def _counted(count: int) -> str:
    return f"{count} node{'s' * (count != 1)}"


def _kept(plan: Plan) -> str:
    """What is kept, in words; nodes that round nothing follow what they read, and are not counted."""
    whole, sums = len(plan.arithmetic.kept), len(plan.arithmetic.kept_sums)
    parts = ([_counted(whole)] if whole else []) + ([f"the sums of {_counted(sums)}"] if sums else [])
    return f"{' and '.join(parts)} kept in fp32" if parts else "nothing kept in fp32"


_NAMED = 6
"""Options that are written out; more are read from the plan."""


def _options(plan: Plan) -> str:
    """The options with which `certify` keeps the same."""
    options = [f"--keep-fp32 {name}" for name in plan.arithmetic.kept] + [f"--keep-sums {name}" for name in plan.arithmetic.kept_sums]
    return f"The same for certify and profile: {' '.join(options) if len(options) <= _NAMED else '--plan FILE, with the JSON of this plan'}"


def _conclusion(plan: Plan) -> str:
    def certified(found: Certified) -> int:
        return found.proved + (found.probable if plan.at == "probable" else 0)

    hardest = "the hardest " if plan.before.inputs < plan.after.inputs else ""
    before = f"and all in half {certified(plan.before):,} of {hardest}{plan.before.inputs:,}"
    level = f"{plan.at}{' or better' * (plan.at == 'probable')}"
    said = f"with {_kept(plan)}, {certified(plan.after):,} of {plan.after.inputs:,} inputs are {level}, {before}."
    if plan.reached:
        return f"W{said[1:]}{_DEAR if _costs_as_much(plan) else ''}"
    other = ", or --at probable" if plan.at == "proved" else ""
    return f"The target of {plan.target:g} % is not reached: {said} {_why(plan)} Try a larger --effort, shorter sums (--order){other}."


_DEAR = (
    " That costs hardly less than fp32: the hardest inputs decide what has to be kept; a smaller --target leaves some of them to fp32, "
    "as 'precisionkit guard' does at run time."
)


def _costs_as_much(plan: Plan) -> bool:
    """Whether nine tenths of what fp32 adds are kept, of weights or of products."""
    added = plan.fp32.weight_bytes - plan.half.weight_bytes
    return plan.kept.weight_bytes - plan.half.weight_bytes >= 0.9 * added > 0 or plan.kept.fp32_multiplications >= 0.9


_SHOWN = 4
"""Inputs that are named."""


def _why(plan: Plan) -> str:
    """What stands in the way of the inputs that are left."""
    compared = [one for one in plan.uncertified if one.margin is not None and one.bound is not None]
    if not compared:
        return f"Of what is left: {plan.uncertified[0].reason}." if plan.uncertified else ""
    named = ", ".join(f"input {one.index} ({one.margin:.3g}, {one.bound:.3g})" for one in compared[:_SHOWN])
    return (
        f"Left, with margin and bound: {named}{', ...' * (len(compared) > _SHOWN)}. Where the bound is far above the margin, the work "
        "exceeded --effort; where they are close, fp32 itself, in every order of sums that is allowed, is not proved to differ less."
    )
