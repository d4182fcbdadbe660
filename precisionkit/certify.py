"""Certify a data set: capture, run, bound, decide, report."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from precisionkit.arithmetic import REFERENCE, Arithmetic
from precisionkit.bound import CONFIDENCE, EFFORT, METHODS, Ladder, LogitBounds, Method
from precisionkit.bound.adjoint import MODEL
from precisionkit.bound.linearised import linearised
from precisionkit.capture import capture
from precisionkit.data import Dataset
from precisionkit.decide import Decision, Side, contradictions, decide, total_error, with_probable
from precisionkit.errors import RefutedError, UnsupportedArithmeticError, UnusableDataError, UnusableModelError, UsageError
from precisionkit.evaluate import Program, Run, device_flags, execute, has_fast_run
from precisionkit.formats import BINARY32
from precisionkit.graph import Graph
from precisionkit.models import LoadedModel
from precisionkit.report import ArithmeticInfo, DataInfo, Environment, Input, ModelInfo, Report, Timing, summarise

_BATCH_BYTES = 4 * 2**20
"""Size aimed at for the largest binary64 tensor of a batch: it stays in a processor's cache, and small in memory."""


@dataclass(frozen=True)
class Settings:
    """How to certify.

    Attributes
    ----------
    method : str
        ``interval``, ``zonotope``, or ``auto`` for the cheapest that decides each input.
    effort : float
        Limit of the zonotope and of the adjoint method's work for one input, in forward passes.
    confidence : float
        Failure probability of a `probable` verdict.
    device : str
        Where both programs run: ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
    batch_size : int or None
        None chooses it from the size of the network's largest tensor.
    native : bool
        On a CPU, run the real half kernels, which are slow, instead of binary32 kernels with one rounding each.
    linearised : bool
        Report first-order numbers as well.
    """

    method: str = "auto"
    effort: float = EFFORT
    confidence: float = CONFIDENCE
    device: str = "cpu"
    batch_size: int | None = None
    native: bool = False
    linearised: bool = False


@dataclass
class _Clock:
    """Seconds spent, by name."""

    seconds: dict[str, float] = field(default_factory=lambda: {"reference": 0.0, "half": 0.0, "bound": 0.0})

    @contextmanager
    def time(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - start


def certify(
    model: LoadedModel,
    data: Dataset,
    arithmetic: Arithmetic,
    settings: Settings | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Say of every input whether running the model in the arithmetic can change its prediction.

    Parameters
    ----------
    model : LoadedModel
    data : Dataset
    arithmetic : Arithmetic
        Of the half program; the reference program has binary32 weights and `REFERENCE`.
    settings : Settings
    on_progress : callable or None
        Called with the number of inputs done and their total.

    Returns
    -------
    Report
        With ``complete=False`` and the inputs done so far when it is interrupted by Ctrl-C.

    Raises
    ------
    PrecisionKitError
        Of the kind that says what is unusable or unsupported; `RefutedError` when a run leaves its proved enclosure.
    """
    settings = settings or Settings()
    start = time.perf_counter()
    device, analysis = _devices(settings.device)
    native = _runs_native(settings, arithmetic)
    images = model.preprocess(data.images[:1])
    graph = _captured(model, data, tuple(images.shape[1:]))
    _check_labels(data, graph)
    ladder = Ladder.of(_method(settings.method), arithmetic, settings.effort, settings.confidence)
    worker = _Worker(graph, arithmetic, ladder, device, analysis, native, settings.confidence if settings.linearised else None)
    size = settings.batch_size or max(1, min(512, _BATCH_BYTES // (8 * graph.largest)))
    total, inputs, complete = len(data.images), list[Input](), True
    with device_flags(arithmetic) as flags:
        try:
            for first in range(0, total, size):
                inputs += worker.batch(model.preprocess(data.images[first : first + size]), first, data.labels)
                if on_progress is not None:
                    on_progress(len(inputs), total)
        except KeyboardInterrupt:
            complete = False
    seconds = worker.clock.seconds
    elapsed = time.perf_counter() - start
    return Report(
        complete=complete,
        model=ModelInfo(path=model.path, sha256=model.sha256, arch=model.arch, parameters=model.parameters),
        data=DataInfo(name=data.name, split=data.split, inputs=total, sha256=data.sha256),
        arithmetic=ArithmeticInfo(
            storage=arithmetic.storage.name,
            accumulate=arithmetic.accumulate.name,
            order=arithmetic.order.name,
            fuse="epilogue" if arithmetic.fused else "none",
            reference=REFERENCE.name,
            assumptions=_assumptions(arithmetic, graph, probable=any(i.verdict == "probable" for i in inputs)),
        ),
        method=_method(settings.method),
        confidence=settings.confidence,
        summary=summarise(inputs),
        timing=Timing(
            total_s=elapsed,
            reference_s=seconds["reference"],
            half_s=seconds["half"],
            bound_s=seconds["bound"],
            inputs_per_s=len(inputs) / elapsed,
        ),
        environment=_environment(device, {**flags, "native": native, "batch_size": size}),
        inputs=tuple(inputs),
    )


def _method(name: str) -> str:
    if name not in ("auto", *METHODS):
        raise UsageError(f"The method '{name}' is not available in this version; choose one of auto, {', '.join(METHODS)}.")
    return name


def _devices(name: str) -> tuple[torch.device, torch.device]:
    """Device of the runs, and of the analysis, which needs binary64."""
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UsageError(f"The device '{name}' cannot be used here ({str(error).splitlines()[0]}); choose --device cpu.") from error
    return device, torch.device("cpu") if device.type == "mps" else device


def _runs_native(settings: Settings, arithmetic: Arithmetic) -> bool:
    """Whether the half run uses the device's half kernels."""
    on_device = torch.device(settings.device).type != "cpu"
    if arithmetic.storage == BINARY32:
        return False
    if arithmetic.fused:  # torch's eager kernels store every result
        if settings.native:
            raise UnsupportedArithmeticError(
                "torch's half kernels store every operator's result, which is no run of --fuse epilogue; leave out --native."
            )
        return False
    if settings.native and not on_device and not has_fast_run(arithmetic):
        raise UnsupportedArithmeticError(
            f"The half kernels of this CPU sum in binary32 in an order of their own, which is no run of {arithmetic.name}; "
            "leave out --native."
        )
    return settings.native or on_device


def _captured(model: LoadedModel, data: Dataset, shape: tuple[int, ...]) -> Graph:
    try:
        return capture(model.module, shape)
    except UnusableModelError as error:
        if model.input_shape is None or tuple(model.input_shape) == shape:
            raise
        given, wanted = ("x".join(map(str, s)) for s in (shape, model.input_shape))
        raise UnusableDataError(
            f"The data set '{data.name}' gives inputs of shape {given}, but the model '{model.arch}' takes {wanted}; "
            "use the model with the data set that it was trained for."
        ) from error


def _check_labels(data: Dataset, graph: Graph) -> None:
    if data.labels is None or not len(data.labels):
        return
    largest, smallest = int(data.labels.max()), int(data.labels.min())
    if largest >= graph.classes or smallest < 0:
        label = largest if largest >= graph.classes else smallest
        raise UnusableModelError(
            f"The data set '{data.name}' has the label {label}, but the model has {graph.classes} classes, 0 to {graph.classes - 1}; "
            "use the model with the data set that it was trained for."
        )


def _assumptions(arithmetic: Arithmetic, graph: Graph, *, probable: bool) -> tuple[str, ...]:
    """Of both programs, and of the input."""
    decided = (f"Decided on the logits, before {', '.join(graph.removed)}.",) if graph.removed else ()
    model = (MODEL,) if probable else ()
    return (
        *arithmetic.assumptions,
        "The reference program stores and sums in binary32 (no TF32), in any order, under the same assumptions.",
        "Both programs start from the same preprocessed binary32 input and binary32 weights, which the half program rounds once.",
        "A prediction is the first index among the largest logits.",
        "The bounds are computed in IEEE binary64 by direct sums, with subnormal numbers kept.",
        *decided,
        *model,
    )


def _environment(device: torch.device, flags: dict[str, Any]) -> Environment:
    versions = {name: version(name) for name in ("precisionkit", "torch", "numpy")} | {"python": platform.python_version()}
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return Environment(versions=versions, device=f"{device} ({name})", flags={**flags, "threads": torch.get_num_threads()})


class _Worker:
    """Both programs of one network, ready to take batches."""

    def __init__(
        self,
        graph: Graph,
        arithmetic: Arithmetic,
        ladder: Ladder,
        device: torch.device,
        analysis: torch.device,
        native: bool,
        linearised: float | None,
    ) -> None:
        self._graph, self._ladder, self._native, self._device, self._analysis = graph, ladder, native, device, analysis
        self._runs = Program.of(graph, REFERENCE, device), Program.of(graph, arithmetic, device)
        self._bounds = Program.of(graph, REFERENCE, analysis), Program.of(graph, arithmetic, analysis)
        self._same = arithmetic == REFERENCE
        self._linearised_failure = linearised
        self.clock = _Clock()

    def batch(self, images: Tensor, first: int, labels: NDArray[np.int64] | None) -> list[Input]:
        """Decide one batch, whose first input has the index `first` in the data set."""
        if tuple(images.shape[1:]) != self._graph.input_shape:
            raise UnusableDataError(
                f"The inputs have the shape {tuple(images.shape[1:])}, but the first had {self._graph.input_shape}; make them equal."
            )
        stored = self._runs[0].inputs(images, first), self._runs[1].inputs(images, first)
        with self.clock.time("reference"):
            reference_run = execute(self._runs[0], stored[0].to(self._device))
        with self.clock.time("half"):
            half_run = self._half_run(stored[1].to(self._device))
        runs = reference_run, half_run
        with self.clock.time("bound"):
            (name, method), *sharper = self._ladder.proofs
            bounds = self._bound(method, stored, None)
            decision, used = self._decide(bounds, runs, first), [name] * len(images)
            for name, method in sharper:
                rows = _observed(decision)
                if not len(rows):
                    break
                bounds = self._sharpen(method, stored, bounds, rows.to(self._analysis))
                decision = self._decide(bounds, runs, first)
                for row in rows.tolist():
                    used[row] = name
            likely = bounds
            if self._ladder.likely is not None and len(rows := _observed(decision)):
                likely = self._sharpen(self._ladder.likely, stored, bounds, rows.to(self._analysis))
                decision = self._with_probable(decision, likely, runs)
                for row in (i for i in rows.tolist() if decision.verdict[i] == "probable"):
                    used[row] = "adjoint"
            first_order = self._linearised(stored, bounds, runs, decision)
        return self._rows(decision, bounds, likely, first_order, runs, used, first, labels)

    def _bound(self, method: Method, stored: tuple[Tensor, Tensor], classes: Tensor | None) -> tuple[LogitBounds, LogitBounds]:
        """Bounds of both programs, on the gaps of the same class."""
        reference = method(self._bounds[0], stored[0].to(self._analysis), classes)
        if self._same:
            return reference, reference
        return reference, method(self._bounds[1], stored[1].to(self._analysis), reference.classes)

    def _sharpen(
        self, method: Method, stored: tuple[Tensor, Tensor], bounds: tuple[LogitBounds, LogitBounds], rows: Tensor
    ) -> tuple[LogitBounds, LogitBounds]:
        """Another method for some rows: the half program first, then the reference where the half program keeps the class."""
        reference, half = bounds
        half = half.sharpened(rows, method(self._bounds[1], stored[1].to(self._analysis)[rows], half.classes[rows]))
        if self._same:
            return half, half
        rows = rows[half.keeps_class()[rows]]
        if len(rows):
            reference = reference.sharpened(rows, method(self._bounds[0], stored[0].to(self._analysis)[rows], half.classes[rows]))
        return reference, half

    def _linearised(
        self, stored: tuple[Tensor, Tensor], bounds: tuple[LogitBounds, LogitBounds], runs: tuple[Run, Run], decision: Decision
    ) -> NDArray[np.float64]:
        """First-order counterparts of the decision's bounds, worst case and random; NaN where not asked for.  (2, batch)."""
        row, classes = np.arange(len(decision.rival)), bounds[0].classes
        found = np.full((2, len(row)), np.nan)
        if self._linearised_failure is None:
            return found
        orders = [linearised(p, inputs.to(self._analysis), classes) for p, inputs in zip(self._bounds, stored, strict=True)]
        kinds = [[order.worst for order in orders]]
        if self._runs[1].arithmetic.unbiased_sums:
            kinds.append([order.random(self._linearised_failure / 2) for order in orders])
        sides = _side(bounds[0], runs[0]), _side(bounds[1], runs[1])
        for kind, (reference, half) in enumerate(kinds):
            total = total_error(*sides, reference.cpu().numpy(), half.cpu().numpy(), classes.cpu().numpy())
            found[kind] = total[row, decision.rival]
        return found

    def _decide(self, bounds: tuple[LogitBounds, LogitBounds], runs: tuple[Run, Run], first: int) -> Decision:
        """Verdicts; stops at the first input whose runs contradict its bounds."""
        classes = bounds[0].classes.cpu().numpy()
        reference, half = _side(bounds[0], runs[0]), _side(bounds[1], runs[1])
        decision = decide(reference, half, classes)
        wrong = contradictions(reference, half, classes)
        proved = np.asarray([v == "proved" for v in decision.verdict])
        wrong |= proved & ((decision.prediction_reference != classes) | (decision.prediction_half != classes))
        if wrong.any():
            raise RefutedError(
                f"Input {first + int(wrong.nonzero()[0][0])}: a run on {self._device} left the enclosure that was proved for it. "
                f"Either the device does not obey {self._runs[1].arithmetic.name}, or precisionkit has a bug; "
                "no result of this run can be relied on. Please report it."
            )
        return decision

    def _with_probable(self, decision: Decision, likely: tuple[LogitBounds, LogitBounds], runs: tuple[Run, Run]) -> Decision:
        """Take the verdicts of bounds that hold with a probability, where the runs made do not contradict them."""
        classes = likely[0].classes.cpu().numpy()
        sides = _side(likely[0], runs[0]), _side(likely[1], runs[1])
        return with_probable(decision, decide(*sides, classes), ~contradictions(*sides, classes))

    def _half_run(self, inputs: Tensor) -> Run:
        """One run; for binary32 against itself in batches of another size, which torch's kernels sum in another order."""
        if self._runs[1].arithmetic.storage != BINARY32:
            return execute(self._runs[1], inputs, native=self._native)
        runs = [execute(self._runs[1], piece) for piece in inputs.split(max(1, inputs.shape[0] // 3))]
        return Run(torch.cat([run.logits for run in runs]), torch.cat([run.finite for run in runs]))

    def _rows(
        self,
        decision: Decision,
        bounds: tuple[LogitBounds, LogitBounds],
        likely: tuple[LogitBounds, LogitBounds],
        first_order: NDArray[np.float64],
        runs: tuple[Run, Run],
        used: list[str],
        first: int,
        labels: NDArray[np.int64] | None,
    ) -> list[Input]:
        reasons = [self._reason(v, i, bounds, runs) for i, v in enumerate(decision.verdict)]
        return [
            Input(
                index=first + i,
                label=None if labels is None else int(labels[first + i]),
                prediction_reference=int(decision.prediction_reference[i]),
                prediction_half=int(decision.prediction_half[i]),
                verdict=decision.verdict[i],
                margin=_finite(decision.margin[i]),
                bound=_finite(decision.bound[i]),
                measured_error=_finite(decision.measured_error[i]),
                lower_margin=_finite(decision.lower_margin[i]),
                linearised_worst=_finite(first_order[0, i]),
                linearised_random=_finite(first_order[1, i]),
                method=used[i],
                failure=self._failure(likely if decision.verdict[i] == "probable" else bounds, i),
                reason=reasons[i],
            )
            for i in range(len(decision.verdict))
        ]

    def _failure(self, bounds: tuple[LogitBounds, LogitBounds], row: int) -> float:
        """Probability that the bounds of one input are wrong, for either program."""
        reference, half = (float(bound.failure[row]) for bound in bounds)
        return reference if self._same else reference + half

    def _reason(self, verdict: str, row: int, bounds: tuple[LogitBounds, LogitBounds], runs: tuple[Run, Run]) -> str | None:
        """Why an input is not proved."""
        if verdict in ("proved", "probable"):
            return None
        nodes, programs = self._graph.nodes, ("reference", "half")
        for name, run, bound, program in zip(programs, runs, bounds, self._bounds, strict=True):
            fmt = program.arithmetic.storage.name
            if bound.certain_overflow[row] >= 0:
                return f"the {name} program overflows {fmt} at {nodes[int(bound.certain_overflow[row])]}"
            if not run.finite[row]:
                return f"the run of the {name} program stored an infinity or a NaN"
        if verdict == "flipped":
            return "the two runs predict different classes"
        for name, bound in zip(programs, bounds, strict=True):
            if bound.overflow[row] >= 0:
                return f"the bound does not exclude overflow in the {name} program at {nodes[int(bound.overflow[row])]}"
        return "the bound does not stay below the margin"


def _observed(decision: Decision) -> Tensor:
    return torch.tensor([i for i, verdict in enumerate(decision.verdict) if verdict == "observed"], dtype=torch.int64)


def _side(bounds: LogitBounds, run: Run) -> Side:
    return Side(
        bounds.centre.cpu().numpy(),
        bounds.gap_error.cpu().numpy(),
        (bounds.overflow < 0).cpu().numpy(),
        (bounds.certain_overflow >= 0).cpu().numpy(),
        run.logits.numpy(),
        run.finite.numpy(),
    )


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
