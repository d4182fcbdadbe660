"""Certify a data set: capture, run, bound, decide, report."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

import torch

from precisionkit.arithmetic import REFERENCE, Arithmetic, parse_run, permitted
from precisionkit.batch import Worker, batch_size
from precisionkit.bound import CONFIDENCE, EFFORT, METHODS, Ladder
from precisionkit.data import Dataset
from precisionkit.devices import find_device
from precisionkit.errors import UnsupportedArithmeticError, UsageError
from precisionkit.evaluate import device_flags, has_fast_run
from precisionkit.formats import BINARY32
from precisionkit.graph import Graph
from precisionkit.mixed import NOTHING, Keep
from precisionkit.models import LoadedModel
from precisionkit.pictures import pictures
from precisionkit.probe import contradiction, torch_kernels
from precisionkit.report import ArithmeticInfo, Environment, Input, Report, Timing, summarise
from precisionkit.stream import Batch, Keeping, run_batches
from precisionkit.task import (
    arithmetic_info,
    captured,
    data_info,
    describe_inputs,
    describe_run,
    describe_weights,
    model_info,
    theorems_used,
)


@dataclass(frozen=True)
class Settings:
    """How to certify.

    Attributes
    ----------
    method : str
        ``interval``, ``zonotope``, ``adjoint``, or ``auto`` for the cheapest that decides each input.
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
    emulate : str or None
        Make the half run in this order, bit-exact by definition: as `arithmetic.parse_run` reads it and `permitted` allows it.
    probe : bool
        Try first whether the kernels that the runs are made by obey the arithmetic, and refuse if they do not.
    keep : Keep
        Nodes that the half program keeps in binary32.
    pictures : bool
        Keep pictures of inputs that are not certified in the report, where the data are images.
    """

    method: str = "auto"
    effort: float = EFFORT
    confidence: float = CONFIDENCE
    device: str = "cpu"
    batch_size: int | None = None
    native: bool = False
    linearised: bool = False
    emulate: str | None = None
    probe: bool = True
    keep: Keep = NOTHING
    pictures: bool = False


def certify(
    model: LoadedModel,
    data: Dataset,
    arithmetic: Arithmetic,
    settings: Settings | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    keeping: Keeping | None = None,
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
        Called with the number of inputs done and their total, in each process its own.
    keeping : Keeping or None
        Keep results on disk while the run goes on, go on with those of a run that was killed, share it with other processes.

    Returns
    -------
    Report
        With ``complete=False`` and the inputs done so far when it is interrupted by Ctrl-C; in every process the whole.

    Raises
    ------
    PrecisionKitError
        Of the kind that says what is unusable or unsupported; `RefutedError` when a run leaves its proved enclosure.
    """
    settings = settings or Settings()
    start = time.perf_counter()
    device, analysis = _devices(settings.device)
    emulate = None if settings.emulate is None else permitted(parse_run(settings.emulate), arithmetic)
    native = _runs_native(settings, arithmetic)
    graph = captured(model, data, tuple(model.preprocess(data.images[:1]).shape[1:]))
    ladder = Ladder.of(_method(settings.method), arithmetic, settings.effort, settings.confidence)
    failure = settings.confidence if settings.linearised else None
    worker = Worker(graph, arithmetic, ladder, device, analysis, native, emulate, failure, settings.keep)
    size = settings.batch_size or batch_size(graph)
    starts = range(0, len(data.images), size)
    run = describe_run(arithmetic, settings.emulate, native=native)

    def decide(first: int) -> Batch:
        begun, before = time.perf_counter(), dict(worker.clock.seconds)
        inputs = worker.batch(model.preprocess(data.images[first : first + size], first), first, data.labels)
        spent = {name: seconds - before[name] for name, seconds in worker.clock.seconds.items()}
        return Batch(first=first, seconds={**spent, "all": time.perf_counter() - begun}, inputs=tuple(inputs))

    def advance(done: int, total: int) -> None:
        if on_progress is not None:
            on_progress(min(done * size, len(data.images)), min(total * size, len(data.images)))

    with device_flags(arithmetic) as flags:
        probed = _check_kernels(device, arithmetic, native=native) if settings.probe else "no"
        facts = {
            **flags,
            "native": native,
            "batch_size": size,
            "emulate": settings.emulate or "no",
            "run": run,
            "probed": probed,
            "inputs": describe_inputs(model, data),
            **describe_weights(model),
        }
        environment = _environment(device, facts)
        found = run_batches(starts, decide, keeping, _key(model, data, arithmetic, settings, environment), advance)
    elapsed = found.before + time.perf_counter() - start
    inputs = found.inputs
    return Report(
        complete=found.complete,
        model=model_info(model),
        data=data_info(data),
        arithmetic=_arithmetic(arithmetic, graph, inputs, settings.keep),
        method=_method(settings.method),
        confidence=settings.confidence,
        summary=summarise(inputs),
        timing=Timing(
            total_s=elapsed,
            reference_s=found.seconds("reference"),
            half_s=found.seconds("half"),
            bound_s=found.seconds("bound"),
            inputs_per_s=len(inputs) / elapsed,
        ),
        environment=environment,
        inputs=inputs,
        pictures=pictures(data.images, inputs) if settings.pictures else (),
    )


def _key(model: LoadedModel, data: Dataset, arithmetic: Arithmetic, settings: Settings, environment: Environment) -> dict[str, str]:
    """All that the results depend on, by the name that a refusal calls it."""
    how = replace(settings, keep=NOTHING, device="", batch_size=None, pictures=False)
    return {
        "model": f"{model.arch} {model.sha256}",
        "data set": f"{data.name} {data.split} {data.sha256}",
        "number of inputs": str(len(data.images)),
        "arithmetic": arithmetic.name,
        "nodes in fp32": ", ".join((*sorted(settings.keep.nodes), *(f"sums of {name}" for name in sorted(settings.keep.sums)))),
        "way of certifying": str(how),
        "device": environment.device,
        **{name: str(value) for name, value in (*environment.flags.items(), *environment.versions.items())},
    }


def _arithmetic(arithmetic: Arithmetic, graph: Graph, inputs: Sequence[Input], keep: Keep) -> ArithmeticInfo:
    """The arithmetic, with what was assumed and relied on for these inputs."""
    methods = {i.method for i in inputs}
    sketched = any(i.failure > 0 for i in inputs)
    rests_on = theorems_used(arithmetic, graph, methods, sketched=sketched)
    return arithmetic_info(arithmetic, graph, probable=any(i.verdict == "probable" for i in inputs), rests_on=rests_on, keep=keep)


def _method(name: str) -> str:
    if name not in ("auto", *METHODS):
        raise UsageError(f"The method '{name}' is not available in this version; choose one of auto, {', '.join(METHODS)}.")
    return name


def _devices(name: str) -> tuple[torch.device, torch.device]:
    """Device of the runs, and of the analysis, which needs binary64."""
    device = find_device(name)
    return device, torch.device("cpu") if device.type == "mps" else device


def _check_kernels(device: torch.device, arithmetic: Arithmetic, *, native: bool) -> str:
    """Refuse an arithmetic that the kernels of the runs are seen to break; return the names of those that they are not."""
    judged = (REFERENCE, arithmetic) if native else (REFERENCE,)
    for obeyed in judged:
        why = contradiction(torch_kernels(device, obeyed.storage), obeyed)
        if why is not None:
            raise UnsupportedArithmeticError(
                f"The kernels of {device} do not obey {obeyed.name}: {why.rstrip('.')}. So nothing could be proved for this device; "
                "'precisionkit probe' tells which arithmetics it does not contradict, and --no-probe certifies the arithmetic as it is."
            )
    return ", ".join(obeyed.name for obeyed in judged)


def _runs_native(settings: Settings, arithmetic: Arithmetic) -> bool:
    """Whether the half run uses the device's half kernels."""
    on_device = torch.device(settings.device).type != "cpu"
    if settings.emulate is not None and settings.native:
        raise UsageError("A run is made either by the half kernels (--native) or by emulation (--emulate); leave out one of them.")
    if arithmetic.storage == BINARY32 or settings.emulate is not None:
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


def _environment(device: torch.device, flags: dict[str, Any]) -> Environment:
    versions = {name: version(name) for name in ("precisionkit", "torch", "numpy")} | {"python": platform.python_version()}
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return Environment(versions=versions, device=f"{device} ({name})", flags={**flags, "threads": torch.get_num_threads()})
