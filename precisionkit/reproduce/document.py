"""The document of an experiment: tables, figures and what agrees, in a folder."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from precisionkit.report.write import write_file
from precisionkit.reproduce import tables
from precisionkit.reproduce.claims import Claim, cifar10_claims, claims_table, mnist_claims
from precisionkit.reproduce.drawings import draw_batches, draw_epsilon, draw_networks
from precisionkit.reproduce.normalisation import normalisation_table
from precisionkit.reproduce.plan import Plan
from precisionkit.reproduce.runs import Result
from precisionkit.reproduce.study import Pair, Study
from precisionkit.reproduce.tables import Table

REPORT = "report.md"


@dataclass(frozen=True)
class Findings:
    """Everything that was measured.

    Attributes
    ----------
    plan : Plan
    results : tuple of Result
    studies, pairs : tuple of Study, Pair
        Of the trained networks.
    device : str
    """

    plan: Plan
    results: tuple[Result, ...]
    studies: tuple[Study, ...]
    pairs: tuple[Pair, ...]
    device: str

    @property
    def hours(self) -> float:
        """Spent in training steps, over all runs."""
        return sum(one.seconds for one in self.results) / 3600


@dataclass(frozen=True)
class _Experiment:
    """What is made of the results of one experiment.

    Attributes
    ----------
    title : str
    claims : callable
    tables : tuple of callable
    figures : mapping of str to callable
        By file name.
    """

    title: str
    claims: Callable[[Sequence[Result], Sequence[Study], Sequence[Pair], str], list[Claim]]
    tables: tuple[Callable[[Plan, Sequence[Result]], Table], ...]
    figures: Mapping[str, Callable[[Plan, Sequence[Result], Path], None]]


_EXPERIMENTS = {
    "mnist": _Experiment(
        "MNIST",
        mnist_claims,
        (tables.batch_table, tables.difference_table, tables.epsilon_table, tables.extra_table),
        {"accuracy.png": draw_batches, "epsilon.png": draw_epsilon},
    ),
    "cifar10": _Experiment("CIFAR-10", cifar10_claims, (tables.network_table,), {"accuracy.png": draw_networks}),
}


def write_document(findings: Findings, folder: Path) -> list[Path]:
    """Write ``report.md``, a CSV file for each table, and figures; return the paths, the report first."""
    experiment = _EXPERIMENTS[findings.plan.name]
    made = _tables(findings, experiment)
    figures = [folder / name for name in experiment.figures]
    for path in figures:
        experiment.figures[path.name](findings.plan, findings.results, path)
    for table in made:
        write_file(folder / f"{table.name}.csv", table.csv())
    shown = (f"![{path.stem}]({path.name})\n" for path in figures)
    text = "\n".join([_head(findings, experiment.title), *(table.markdown() for table in made), *shown])
    write_file(folder / REPORT, text.encode())
    return [folder / REPORT, *(folder / f"{table.name}.csv" for table in made), *figures]


def _tables(findings: Findings, experiment: _Experiment) -> list[Table]:
    plan, results, device = findings.plan, findings.results, findings.device
    claims = experiment.claims(results, findings.studies, findings.pairs, device)
    return [
        claims_table(plan, claims),
        *(table(plan, results) for table in experiment.tables),
        tables.cost_table(plan, results, device),
        normalisation_table(),
        tables.study_table(plan, findings.studies),
        tables.pair_table(plan, findings.pairs),
    ]


def _head(findings: Findings, title: str) -> str:
    plan = findings.plan
    size = "--full" if plan.full else "--quick"
    reduced = "" if plan.full else " **The networks, data and epochs are reduced**: the figures are not those of the paper's setting."
    where = torch.cuda.get_device_name() if findings.device == "cuda" else f"{os.cpu_count()} CPU cores"
    return (
        f"# The paper on {title}, reproduced\n\n"
        f"Written by `precisionkit reproduce {plan.name} {size}`: {len(findings.results)} runs, {findings.hours:.2g} hours of steps "
        f"in all, on {where}, torch {torch.__version__.partition('+')[0]}, Python {platform.python_version()}.{reduced}\n"
    )
