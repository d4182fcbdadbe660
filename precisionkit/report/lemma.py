"""The records of the published experiment, done exactly, whose JSON is the format ``precisionkit.lemma/1``, and how they are shown."""

from __future__ import annotations

from typing import Literal

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from precisionkit.report.parts import ArithmeticInfo, Count, DataInfo, ModelInfo, Size, _Record

LEMMA_SCHEMA: Literal["precisionkit.lemma/1"] = "precisionkit.lemma/1"


class Cells(_Record, frozen=True, kw_only=True):
    """Inputs by whether the premise holds and whether the prediction is kept, and the indices of those that violate the lemma."""

    premise: str
    holds_kept: Count
    holds_changed: Count
    fails_kept: Count
    fails_changed: Count
    violations: tuple[int, ...]


class Spread(_Record, frozen=True, kw_only=True):
    """Of margins or discrepancies: computed from exact numbers, rounded at the end; quantiles by their level."""

    mean: float
    variance: Size
    least: float
    largest: float
    quantiles: dict[str, float]


class Output(_Record, frozen=True, kw_only=True):
    """One kind of output; `boundary` lists the inputs with ``Gamma = 2 delta`` exactly."""

    kind: Literal["logits", "probabilities"]
    tables: tuple[Cells, ...]
    boundary: tuple[int, ...]
    gamma: Spread
    delta: Spread


class TruthInfo(_Record, frozen=True, kw_only=True):
    """The exact networks of the first inputs: how many by Arb, how many of them by mpmath, or how many single neurons.

    Means and maxima over inputs of the largest error of a logit: of the two runs against their exact networks, and between the two
    exact networks; the largest error of a binary64 evaluation; how many inputs the exact networks agree on.
    """

    inputs: Count
    by_mpmath: Count
    neurons_by_mpmath: Count
    reference_error: tuple[Size, Size]
    half_error: tuple[Size, Size]
    weights: tuple[Size, Size]
    binary64_error: Size
    agree: Count


class Row(_Record, frozen=True, kw_only=True):
    """One input and kind of output: margin and discrepancy as exact fractions."""

    index: Count
    kind: str
    gamma: str
    delta: str
    kept: bool


class LemmaReport(_Record, frozen=True, kw_only=True):
    """The whole experiment; `skipped` lists inputs on which a run stored an infinity or a NaN."""

    schema: Literal["precisionkit.lemma/1"] = LEMMA_SCHEMA
    model: ModelInfo
    data: DataInfo
    arithmetic: ArithmeticInfo
    run: str
    outputs: tuple[Output, ...]
    skipped: tuple[int, ...]
    truth: TruthInfo | None
    rows: tuple[Row, ...]


def render_lemma(report: LemmaReport) -> RenderableType:
    """Lay the experiment out for a terminal."""
    heading = Text(
        f"{report.model.arch} on {report.data.name}, {report.data.inputs:,} inputs\n"
        f"{report.arithmetic.words}, against {report.arithmetic.reference}\n"
        f"half run: {report.run}"
    )
    parts: list[RenderableType] = [heading]
    if report.skipped:
        parts.append(Text(f"{len(report.skipped):,} inputs were left out: a run stored an infinity or a NaN."))
    for output in report.outputs:
        parts += [Text(f"\n{output.kind}", style="bold"), _contingency(output), _spreads(output), _boundary(output)]
    if report.truth is not None:
        parts.append(_truth(report.truth))
    parts.append(Text(f"\n{lemma_conclusion(report)}", style="bold"))
    return Group(*parts)


def violations(report: LemmaReport) -> int:
    """Inputs that contradict the repaired lemma, in either form; none, if the toolkit is right."""
    return sum(cells.holds_changed for output in report.outputs for cells in output.tables[1:])


def lemma_conclusion(report: LemmaReport) -> str:
    """Say what was found, in one or two sentences."""
    if not report.outputs:
        return "No input was compared: on each, a run stored an infinity or a NaN."
    published = {output.kind: output.tables[0].violations for output in report.outputs if output.tables[0].violations}
    found = "; ".join(f"{kind}: inputs {', '.join(map(str, indices[:5]))}" for kind, indices in published.items())
    said = f"is violated ({found})" if published else "is not violated here"
    wrong = violations(report)
    repaired = f"is violated {wrong} times: please report it" if wrong else "is not violated"
    return f"The lemma as published, with >=, {said}. The repaired lemma {repaired}."


def _contingency(output: Output) -> Table:
    table = Table("premise", "holds, kept", "holds, changed", "fails, kept", "fails, changed", box=None, padding=(0, 2, 0, 0))
    for column in table.columns[1:]:
        column.justify = "right"
    for cells in output.tables:
        counts = (cells.holds_kept, cells.holds_changed, cells.fails_kept, cells.fails_changed)
        table.add_row(cells.premise, *(f"{count:,}" for count in counts))
    return table


def _spreads(output: Output) -> Table:
    table = Table("", "mean", "variance", "min", "median", "95 %", "max", box=None, padding=(0, 2, 0, 0))
    for column in table.columns[1:]:
        column.justify = "right"
    for name, spread in (("Gamma", output.gamma), ("delta", output.delta)):
        figures = (spread.mean, spread.variance, spread.least, spread.quantiles["50 %"], spread.quantiles["95 %"], spread.largest)
        table.add_row(name, *(f"{figure:.3g}" for figure in figures))
    return table


def _boundary(output: Output) -> Text:
    if not output.boundary:
        return Text("no input with Gamma = 2 delta exactly")
    shown = ", ".join(map(str, output.boundary[:20]))
    return Text(f"{len(output.boundary):,} inputs with Gamma = 2 delta exactly: {shown}{', ...' if len(output.boundary) > 20 else ''}")


def _truth(truth: TruthInfo) -> Text:
    judged = f"; mpmath (50 digits) lies in its balls for {truth.by_mpmath:,} of them" if truth.by_mpmath else ""
    judged += f"; mpmath (50 digits) lies in its balls for {truth.neurons_by_mpmath:,} neurons" if truth.neurons_by_mpmath else ""
    lines = [f"\nexact networks of {truth.inputs:,} inputs by Arb{judged}; largest error of a logit, mean / worst:"]
    for name, (mean, worst) in (
        ("reference run against its exact network", truth.reference_error),
        ("half run against its exact network", truth.half_error),
        ("exact half network against exact reference network", truth.weights),
    ):
        lines.append(f"  {name:52} {mean:.3g} / {worst:.3g}")
    lines.append(f"  {'binary64 evaluation of the half network':52} {truth.binary64_error:.3g} at worst")
    lines.append(f"  the exact networks predict the same class for {truth.agree:,} of {truth.inputs:,}")
    return Text("\n".join(lines))
