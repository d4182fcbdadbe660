"""Choose the threshold of a guard from calibration inputs, or try a plan on others."""

from __future__ import annotations

import platform
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray

from precisionkit.data import Dataset
from precisionkit.devices import find_device
from precisionkit.errors import UsageError
from precisionkit.guard.guarded import GuardedHalf
from precisionkit.guard.half import half_of
from precisionkit.guard.identity import built, device_text, network_hash, switches
from precisionkit.guard.observe import Case, Observed, case_of
from precisionkit.guard.rates import MOST_ROWS, expected_counts, plain_limits, rate_limits
from precisionkit.guard.rows import written
from precisionkit.guard.threshold import check_probability, check_risk, choose, inputs_needed, upper_limit
from precisionkit.guard.timing import time_runs
from precisionkit.models import LoadedModel
from precisionkit.report import Environment
from precisionkit.report.guard import GuardCounts, GuardPlan, GuardReport, Interval, Kernels, Score, Storage
from precisionkit.task import data_info, holds_tokens, model_info

RISKS = (1e-2, 1e-3, 1e-4, 1e-5)
"""Of which a report says how many inputs they need."""


@dataclass(frozen=True)
class Settings:
    """How to calibrate.

    Attributes
    ----------
    risk, confidence : float
        With this confidence, a new input is accepted and disagrees with at most this probability.
    storage : str
        ``fp16`` or ``bf16``.
    score : str
        ``error`` or ``disagreement``, as `scores` says.
    kernels : str or None
        None chooses ``native`` on a GPU and ``rounded`` on a CPU, whose own half kernels are slow.
    device : str
        ``cpu`` or ``cuda``.
    batch_size : int
    window, false_alarm : int, float
        Rows that are counted together, and the probability that such a count is wrongly called unexpected.
    """

    risk: float = 1e-3
    confidence: float = 0.99
    storage: Storage = "fp16"
    score: Score = "error"
    kernels: Kernels | None = None
    device: str = "cpu"
    batch_size: int = 64
    window: int = 1000
    false_alarm: float = 1e-6


def calibrate(
    model: LoadedModel, data: Dataset, settings: Settings | None = None, on_progress: Callable[[int, int], None] | None = None
) -> tuple[GuardedHalf, GuardReport]:
    """Choose a threshold from inputs that are independent draws from the distribution of future ones.

    Parameters
    ----------
    model : LoadedModel
    data : Dataset
        Not those that the model was trained on, whose margins are larger.
    settings : Settings
    on_progress : callable or None
        Called with the number of inputs done and their total.

    Raises
    ------
    PrecisionKitError
        There are too few inputs for the risk; or of the kind that says what is unusable or unsupported.
    """
    settings = settings or Settings()
    _check(settings)
    choose(np.zeros(len(data.images)), settings.risk, settings.confidence)  # too few are refused before the runs
    kernels: Kernels = settings.kernels or ("rounded" if settings.device == "cpu" else "native")
    case = case_of(model, data, settings.device, settings.batch_size, on_progress, needs_graph=kernels == "rounded")
    half = half_of(case.module, settings.storage, kernels, case.input_shape, tokens=holds_tokens(data), graph=case.graph)
    found = case.observe(half, settings.score)
    threshold, allowed = choose(found.scores, settings.risk, settings.confidence)
    n, fallen_back = len(found.margins), int((found.margins <= threshold).sum())
    device = find_device(settings.device)
    plan = GuardPlan(
        version=version("precisionkit"),
        storage=settings.storage,
        kernels=kernels,
        device=device_text(device),
        flags=switches(device),
        batch_size=settings.batch_size,
        built=built(device),
        input_shape=case.input_shape,
        tokens=holds_tokens(data),
        weights=network_hash(case.module),
        model=model_info(model),
        data=data_info(data),
        preprocess=case.preprocess,
        rows=written(found.rows),
        score=settings.score,
        threshold=threshold,
        risk=settings.risk,
        confidence=settings.confidence,
        allowed=allowed,
        fallen_back=fallen_back,
        window=settings.window,
        expected=expected_counts(fallen_back, n, allowed, settings.window, settings.false_alarm),
        false_alarm=settings.false_alarm,
    )
    guarded = GuardedHalf(case.module, plan, half=half)
    low, high = rate_limits(fallen_back, n, allowed, settings.confidence)
    report = _report(case, guarded, found, settings.risk, (low, high))
    return guarded, report


def try_plan(
    model: LoadedModel,
    data: Dataset,
    plan: GuardPlan,
    batch_size: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> GuardReport:
    """Count what a plan does on inputs that it was not calibrated on.

    Parameters
    ----------
    batch_size : int or None
        None takes that of the calibration; others are warned of, because sums may come in another order.

    Raises
    ------
    PrecisionKitError
        The plan belongs to another network or preprocessing, or to some of these very inputs; or of the kind that says what is unusable or
        unsupported.
    """
    rows = batch_size or plan.batch_size
    if rows != plan.batch_size:
        warnings.warn(
            f"The plan was calibrated in batches of {plan.batch_size:,}, not of {rows:,}, which may be summed in another order: the trial "
            "is about these batches; leave --batch-size out to have the plan's.",
            stacklevel=2,
        )
    case = case_of(model, data, plan.device_type, rows, on_progress, needs_graph=False)
    case.check_preprocess(plan.preprocess)
    guarded = GuardedHalf(case.module, plan)
    found = case.observe(guarded.half_run, plan.score, plan.rows)
    n, accepted = len(found.margins), found.margins > plan.threshold
    risk = min(1.0, upper_limit(int((accepted & found.disagree).sum()), n, 1 - plan.confidence))
    return _report(case, guarded, found, risk, plain_limits(n - int(accepted.sum()), n, plan.confidence))


def _check(settings: Settings) -> None:
    check_risk(settings.risk, settings.confidence)
    check_probability(settings.false_alarm, "probability of a false alarm")
    if settings.storage not in get_args(Storage):
        raise UsageError(f"A guard runs in fp16 or bf16, not in '{settings.storage}': choose one of them.")
    if not 1 <= settings.window <= MOST_ROWS:
        raise UsageError(f"A window of {settings.window:,} rows cannot be watched: choose 1 to {MOST_ROWS:,}.")


def _report(case: Case, guarded: GuardedHalf, found: Observed, risk: float, limits: tuple[float, float]) -> GuardReport:
    plan, data = guarded.plan, data_info(case.data)
    counts = _counts(found, plan.threshold, case.data.labels)
    products = sum(map(case.graph.multiplications, case.graph.nodes)) if case.graph else None
    return GuardReport(
        purpose="calibration" if data == plan.data else "trial",
        plan=plan,
        data=data,
        counts=counts,
        risk=risk,
        fall_back=Interval(low=limits[0], high=limits[1], confidence=plan.confidence),
        inputs_needed={f"{r:g}": inputs_needed(r, plan.confidence) for r in sorted({*RISKS, plan.risk}, reverse=True)},
        multiplications=products,
        spent_half=products,
        spent_reference=None if products is None else products * counts.fallen_back / counts.inputs,
        timing=time_runs(guarded, case.inputs, len(case.data.images), case.batch_size),
        environment=_environment(plan),
    )


def _counts(found: Observed, threshold: float, labels: NDArray[np.int64] | None) -> GuardCounts:
    falls_back, disagree = found.margins <= threshold, found.disagree
    guarded = np.where(falls_back, found.reference, found.half)
    correct = [None if labels is None else int((p == labels).sum()) for p in (found.reference, found.half, guarded)]
    return GuardCounts(
        inputs=len(falls_back),
        fallen_back=int(falls_back.sum()),
        disagreements=int(disagree.sum()),
        accepted_disagreements=int((disagree & ~falls_back).sum()),
        correct_reference=correct[0],
        correct_half=correct[1],
        correct_guarded=correct[2],
    )


def _environment(plan: GuardPlan) -> Environment:
    versions = {name: version(name) for name in ("precisionkit", "torch", "numpy", "scipy")} | {"python": platform.python_version()}
    return Environment(versions=versions, device=plan.device, flags={**plan.flags, "threads": torch.get_num_threads()})
