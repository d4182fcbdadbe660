"""Margins, discrepancies and certificates of the trained networks."""

from __future__ import annotations

from collections.abc import Callable
from statistics import fmean

import msgspec
import numpy as np
import torch

from precisionkit.arithmetic import Arithmetic, parse_arithmetic
from precisionkit.certify import certify
from precisionkit.data import Dataset, load_dataset
from precisionkit.experiment import REPAIRED, outcome, run_experiment
from precisionkit.formats import BINARY32
from precisionkit.models import LoadedModel, load_model
from precisionkit.reproduce.plan import Plan
from precisionkit.reproduce.runs import Where, model_of
from precisionkit.training import Settings

_BATCH = 500
_FEWER = 10
"""Runs with sums of 16 bits are emulated and hard to bound, which is slow: this many times fewer images are looked at."""

Logits = list[list[float]]
"""By image."""


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


def study(model: LoadedModel, settings: Settings, data: Dataset) -> Study:
    """Run and certify one network in the format it was trained in, in binary16 where that has 32 bits.

    Parameters
    ----------
    model : LoadedModel
    settings : Settings
        Of the run that trained it.
    data : Dataset
        Test images.
    """
    arithmetic = _arithmetic(settings)
    logits = next(output for output in run_experiment(model, data, arithmetic).outputs if output.kind == "logits")
    summary = certify(model, data, arithmetic).summary
    strict = next(cells for cells in logits.tables if cells.premise == REPAIRED)
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
    storage = settings.formats.storage.option if settings.formats.pure_half else "fp16"
    return parse_arithmetic(storage, "fp16" if settings.formats.strict else "fp32", "any", "none")


def _described(arithmetic: Arithmetic) -> str:
    sums = "" if arithmetic.accumulate == BINARY32 else f", sums in {arithmetic.accumulate.name}"
    return f"{arithmetic.storage.name}{sums}"


def pair(single: Logits, other: Logits, settings: Settings) -> Pair:
    """Compare the outputs of two trained networks; `settings` are those of the other."""
    found = [outcome(a, b) for a, b in zip(single, other, strict=True)]
    return Pair(
        arch=settings.arch,
        trained_in=settings.precision,
        images=len(found),
        delta=fmean(float(one.delta) for one in found),
        premise=sum(one.gamma > 2 * one.delta for one in found),
        agree=sum(one.kept for one in found),
    )


@torch.no_grad()
def _run(model: LoadedModel, data: Dataset) -> Logits:
    batches = range(0, len(data.images), _BATCH)
    runs = [model.module(model.preprocess(np.asarray(data.images[first : first + _BATCH]), first)) for first in batches]
    logits: Logits = torch.cat(runs).double().tolist()
    return logits


def studies(
    plan: Plan, where: Where, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> tuple[tuple[Study, ...], tuple[Pair, ...]]:
    """Study every network that was kept, and compare it with the one trained in binary32 where there is one."""
    there = [settings for settings in plan.studied if model_of(where.folder, settings).is_file()]
    if not there:
        return (), ()
    source = there[0].test or there[0].data
    sizes = {False: plan.images, True: -(-plan.images // _FEWER)}  # by whether sums are of 16 bits
    data = {
        strict: load_dataset(source, split="test", root=where.root, limit=size, download=where.download) for strict, size in sizes.items()
    }
    alone: list[Study] = []
    logits: dict[Settings, Logits] = {}
    for done, settings in enumerate(there):
        on_progress(done, len(there))
        model = load_model(model_of(where.folder, settings))
        alone.append(study(model, settings, data[settings.formats.strict]))
        logits[settings] = _run(model, data[False])
    on_progress(len(there), len(there))
    singles = {settings.arch: logits[settings] for settings in there if settings.precision == "fp32"}
    others = [settings for settings in there if settings.precision != "fp32" and settings.arch in singles]
    return tuple(alone), tuple(pair(singles[settings.arch], logits[settings], settings) for settings in others)
