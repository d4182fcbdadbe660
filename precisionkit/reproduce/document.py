"""The document of an experiment: tables, figures and what agrees, in a folder."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from pathlib import Path

import torch

from precisionkit.report.write import write_file
from precisionkit.reproduce import tables
from precisionkit.reproduce.claims import cifar10_claims, claims_table, mnist_claims
from precisionkit.reproduce.drawings import draw_batches, draw_epsilon, draw_networks
from precisionkit.reproduce.normalisation import normalisation_table
from precisionkit.reproduce.plan import Plan
from precisionkit.reproduce.runs import Result
from precisionkit.reproduce.study import Pair, Study
from precisionkit.reproduce.tables import Table

NAME = "report.md"


def write_document(
    plan: Plan, results: Sequence[Result], studies: Sequence[Study], pairs: Sequence[Pair], folder: Path, device: str, minutes: float
) -> list[Path]:
    """Write ``report.md``, a CSV file for each table, and figures; return the paths."""
    made = _tables(plan, results, studies, pairs, device)
    figures = _figures(plan, results, folder)
    for table in made:
        write_file(folder / f"{table.name}.csv", table.csv())
    text = "\n".join([_head(plan, device, minutes), *(table.markdown() for table in made), *(_shown(path) for path in figures)])
    write_file(folder / NAME, text.encode())
    return [folder / NAME, *(folder / f"{table.name}.csv" for table in made), *figures]


def _tables(plan: Plan, results: Sequence[Result], studies: Sequence[Study], pairs: Sequence[Pair], device: str) -> list[Table]:
    claims = mnist_claims if plan.name == "mnist" else cifar10_claims
    found = [claims_table(plan, claims(results, studies, pairs, device))]
    if plan.name == "mnist":
        found += [tables.batch_table(plan, results), tables.difference_table(plan, results), tables.epsilon_table(plan, results)]
        found += [tables.extra_table(plan, results)]
    else:
        found += [tables.network_table(plan, results)]
    found += [tables.cost_table(plan, results, device), normalisation_table()]
    return [*found, tables.study_table(plan, studies), tables.pair_table(plan, pairs)]


def _figures(plan: Plan, results: Sequence[Result], folder: Path) -> list[Path]:
    if plan.name == "cifar10":
        draw_networks(plan, results, folder / "accuracy.png")
        return [folder / "accuracy.png"]
    draw_batches(plan, results, folder / "accuracy.png")
    draw_epsilon(plan, results, folder / "epsilon.png")
    return [folder / "accuracy.png", folder / "epsilon.png"]


def _shown(path: Path) -> str:
    return f"![{path.stem}]({path.name})\n"


def _head(plan: Plan, device: str, minutes: float) -> str:
    size = "--full" if plan.full else "--quick"
    reduced = "" if plan.full else " **The networks, data and epochs are reduced**: the figures are not those of the paper's setting."
    where = torch.cuda.get_device_name() if device == "cuda" else f"{os.cpu_count()} CPU cores"
    return (
        f"# The paper on {'MNIST' if plan.name == 'mnist' else 'CIFAR-10'}, reproduced\n\n"
        f"Written by `precisionkit reproduce {plan.name} {size}`: {len(plan.settings)} runs, {minutes:.0f} minutes on {where}, "
        f"torch {torch.__version__.partition('+')[0]}, Python {platform.python_version()}.{reduced}\n"
    )
