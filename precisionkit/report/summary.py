"""The summary that a person reads."""

from __future__ import annotations

from collections import Counter
from statistics import median
from typing import Literal

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from precisionkit.report.records import VERDICTS, Report, Summary, Verdict

MEANINGS: dict[Verdict, str] = {
    "proved": "no run of either program can change it",
    "probable": "no run changes it, save with the stated probability",
    "observed": "the two runs made here agree; nothing is proved",
    "flipped": "the two runs made here differ",
    "undecided": "neither bounded nor run",
    "invalid": "overflow or NaN",
}


def render(report: Report) -> RenderableType:
    """Lay the report out for a terminal of 80 columns; colour carries no meaning of its own."""
    last = Text(conclusion(report), style="bold")
    return Group(_heading(report), _verdicts(report.summary), _figures(report), _assumptions(report), last)


def conclusion(report: Report, where: Literal["above", "below"] = "above") -> str:
    """Say what it means, in one or two sentences; `where` the assumptions are said."""
    total = report.summary.inputs
    storage = report.arithmetic.storage
    start = "" if report.complete else f"Incomplete: interrupted after {total} of {report.data.inputs} inputs. "
    means = "provably cannot change" if not report.summary.probable else "cannot change (proved, or with the stated probability)"
    said = f"{report.summary.certified:,} of {total:,} predictions {means} in {storage} under the assumptions {where}"
    flips = f"; {report.summary.flipped:,} did change" if report.summary.flipped else "; none was seen to change"
    return start + said + flips + "."


def _heading(report: Report) -> Text:
    model, data = report.model, report.data
    flags = report.environment.flags
    made = flags.get("run")
    probed = flags.get("probed", "no")
    run = f"\nhalf run: {made}" if made else ""
    run += f"; kernels not refuted: {probed}" if made and probed != "no" else "; kernels not probed" if made else ""
    inputs = f"\ninputs: {flags['inputs']}, the same for both programs" if "inputs" in flags else ""
    inputs += f"\nweights: {flags['weights']}" if "weights" in flags else ""
    split = "" if data.split == "all" else f", {data.split} split"
    return Text(
        f"{model.arch} ({model.parameters:,} parameters) on {data.name}{split}\n"
        f"{report.arithmetic.words}, against {report.arithmetic.reference}; method {report.method}{run}{inputs}"
    )


def _verdicts(summary: Summary) -> Table:
    table = Table("verdict", "inputs", "share", "meaning", box=None, padding=(0, 2, 0, 0))
    table.columns[1].justify = table.columns[2].justify = "right"
    for verdict in VERDICTS:
        count = getattr(summary, verdict)
        table.add_row(verdict, f"{count:,}", percent(count, summary.inputs), MEANINGS[verdict])
    return table


def percent(part: int, whole: int) -> str:
    """A share with two digits."""
    return f"{100 * part / whole:.2f} %" if whole else "-"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _figures(report: Report) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    for row in figures(report):
        table.add_row(*row)
    return table


def figures(report: Report) -> list[tuple[str, str]]:
    """The numbers beside the verdicts, each with its name."""
    summary, timing = report.summary, report.timing
    rows = [
        ("right, reference / half", f"{_correct(summary.correct_reference)} / {_correct(summary.correct_half)}"),
        ("runs agree", f"{summary.agree:,} ({percent(summary.agree, summary.inputs)})"),
        ("bound, median / worst", f"{_number(summary.median_bound)} / {_number(summary.worst_bound)}"),
        ("measured error, median / worst", f"{_number(summary.median_measured_error)} / {_number(summary.worst_measured_error)}"),
        ("time", f"{timing.total_s:.1f} s, {timing.inputs_per_s:.4g} inputs/s on {report.environment.device}"),
    ]
    rows += _linearised(report)
    rows += [("not proved", f"{count:,}: {reason}") for reason, count in _reasons(report)]
    if sketched := [i.failure for i in report.inputs if i.failure and i.verdict == "proved"]:
        rows.append(("proved by sketches", f"{len(sketched):,}; their random numbers fail with probability {sum(sketched):.1g} in all"))
    if likely := [i.failure for i in report.inputs if i.verdict == "probable"]:
        rows.append(("probable", f"{len(likely):,}; each verdict is wrong with a probability of at most {max(likely):.1g}"))
    return rows


def _linearised(report: Report) -> list[tuple[str, str]]:
    """How far a sharper method could get, to first order."""
    rows = []
    for name, of in (("worst case", "linearised_worst"), ("random", "linearised_random")):
        known = [(i.margin, value) for i in report.inputs if (value := getattr(i, of)) is not None and i.margin is not None]
        if known:
            below = sum(margin > value for margin, value in known)
            middle = _number(median(value for _, value in known))
            share = percent(below, len(known))
            rows.append((f"linearised, {name}", f"median {middle}, below the margin for {share} (proves nothing)"))
    return rows


def _reasons(report: Report) -> list[tuple[str, int]]:
    """The most frequent reasons why inputs are not proved."""
    return Counter(i.reason for i in report.inputs if i.reason is not None).most_common(2)


def _correct(count: int | None) -> str:
    return "no labels" if count is None else f"{count:,}"


def _assumptions(report: Report) -> Text:
    lines = [f"  - {sentence}" for sentence in report.arithmetic.assumptions]
    return Text("\n".join([f"Assumed ({len(lines)}):", *lines]))
