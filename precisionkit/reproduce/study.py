"""Margins, discrepancies and certificates of the trained networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from statistics import fmean

import msgspec
import numpy as np
import torch

from precisionkit.arithmetic import Arithmetic, parse_arithmetic
from precisionkit.certify import certify
from precisionkit.data import Dataset, load_dataset
from precisionkit.experiment import outcome, run_experiment
from precisionkit.formats import BINARY32
from precisionkit.models import LoadedModel, load_model
from precisionkit.report import Output
from precisionkit.reproduce.runs import model_of
from precisionkit.training import Settings

_BATCH = 500


class Study(msgspec.Struct, frozen=True, kw_only=True):
    """One trained network, run in binary32 and in half.

    Attributes
    ----------
    arch, trained_in, run_in : str
        The network, the precision of its training, the formats that it is run in.
    images : int
    gamma, delta : float
        Mean margin of the binary32 run's logits; mean largest difference of a logit between the runs.
    premise, kept : int
        Inputs with ``Gamma > 2 delta``; inputs with the same prediction.
    violations : int
        Inputs where the premise holds and the prediction changes: none, by the lemma.
    proved, probable : int
        Inputs whose prediction provably, or probably, cannot change.
    bound : float or None
        Median bound of the gap to the tightest other class.
    """

    arch: str
    trained_in: str
    run_in: str
    images: int
    gamma: float
    delta: float
    premise: int
    kept: int
    violations: int
    proved: int
    probable: int
    bound: float | None


class Pair(msgspec.Struct, frozen=True, kw_only=True):
    """Two networks of one seed, trained in binary32 and in another precision, both run in binary32.

    Attributes
    ----------
    arch, trained_in : str
    images : int
    delta : float
        Mean largest difference of a logit.
    premise, agree : int
        Inputs with ``Gamma > 2 delta``, and with the same prediction.
    """

    arch: str
    trained_in: str
    images: int
    delta: float
    premise: int
    agree: int


def study(folder: Path, settings: Settings, images: int, root: str | None, download: bool | None) -> Study:
    """Run and certify one network in the format it was trained in, in binary16 where that has 32 bits.

    Parameters
    ----------
    folder : Path
        Of the results.
    settings : Settings
        Of the run that trained it.
    images : int
        How many test images.
    root, download
        Of the data, as `load_dataset` takes them.
    """
    model = load_model(model_of(folder, settings))
    data = load_dataset(settings.test or settings.data, split="test", root=root, limit=images, download=download)
    arithmetic = _arithmetic(settings)
    logits = _logits(run_experiment(model, data, arithmetic).outputs)
    summary = certify(model, data, arithmetic).summary
    strict = next(cells for cells in logits.tables if cells.premise == "Gamma > 2 delta")
    return Study(
        arch=settings.arch,
        trained_in=settings.precision,
        run_in=_described(arithmetic),
        images=len(data.images),
        gamma=logits.gamma.mean,
        delta=logits.delta.mean,
        premise=strict.holds_kept + strict.holds_changed,
        kept=strict.holds_kept + strict.fails_kept,
        violations=len(strict.violations),
        proved=summary.proved,
        probable=summary.probable,
        bound=summary.median_bound,
    )


def _arithmetic(settings: Settings) -> Arithmetic:
    storage = settings.how.storage.option if settings.how.pure_half else "fp16"
    return parse_arithmetic(storage, "fp16" if settings.how.strict else "fp32", "any", "none")


def _described(arithmetic: Arithmetic) -> str:
    sums = "" if arithmetic.accumulate == BINARY32 else f", sums in {arithmetic.accumulate.name}"
    return f"{arithmetic.storage.name}{sums}"


def _logits(outputs: Sequence[Output]) -> Output:
    return next(output for output in outputs if output.kind == "logits")


def pair(folder: Path, single: Settings, other: Settings, images: int, root: str | None, download: bool | None) -> Pair:
    """Compare two trained networks on the test images, both in binary32."""
    data = load_dataset(single.test or single.data, split="test", root=root, limit=images, download=download)
    a, b = (_run(load_model(model_of(folder, settings)), data) for settings in (single, other))
    found = [outcome(x, y) for x, y in zip(a, b, strict=True)]
    return Pair(
        arch=other.arch,
        trained_in=other.precision,
        images=len(found),
        delta=fmean(float(one.delta) for one in found),
        premise=sum(one.gamma > 2 * Fraction(one.delta) for one in found),
        agree=sum(one.kept for one in found),
    )


@torch.no_grad()
def _run(model: LoadedModel, data: Dataset) -> list[list[float]]:
    batches = range(0, len(data.images), _BATCH)
    runs = [model.module(model.preprocess(np.asarray(data.images[first : first + _BATCH]), first)) for first in batches]
    return torch.cat(runs).double().tolist()


def studies(
    folder: Path,
    studied: Sequence[Settings],
    images: int,
    root: str | None,
    download: bool | None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[tuple[Study, ...], tuple[Pair, ...]]:
    """Study every network that was kept, and compare it with the one trained in binary32 where there is one."""
    there = [settings for settings in studied if model_of(folder, settings).is_file()]
    singles = {settings.arch: settings for settings in there if settings.precision == "fp32"}
    alone: list[Study] = []
    pairs: list[Pair] = []
    for done, settings in enumerate(there):
        on_progress(done, len(there))
        alone.append(study(folder, settings, images, root, download))
        if settings.precision != "fp32" and (single := singles.get(settings.arch)) is not None:
            pairs.append(pair(folder, single, settings, images, root, download))
    on_progress(len(there), len(there))
    return tuple(alone), tuple(pairs)
