"""Batches: both programs of one network run, bounded by one method after the other, and decided."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from precisionkit.arithmetic import REFERENCE, Arithmetic, Order
from precisionkit.bound import Ladder, LogitBounds, Method
from precisionkit.bound.linearised import linearised
from precisionkit.decide import Decision, Side, contradictions, decide, total_error, with_probable
from precisionkit.errors import RefutedError, UnusableDataError
from precisionkit.evaluate import Program, Run, execute
from precisionkit.formats import BINARY32
from precisionkit.graph import Graph
from precisionkit.mixed import NOTHING, Keep
from precisionkit.report import CERTIFIED, Input

_BATCH_BYTES = 4 * 2**20
"""Size aimed at for the largest binary64 tensor of a batch: it stays in a processor's cache, and small in memory."""


def batch_size(graph: Graph) -> int:
    """Return how many inputs of a network are best bounded at once."""
    return max(1, min(512, _BATCH_BYTES // (8 * graph.largest)))


@dataclass
class Clock:
    """Seconds spent, by name."""

    seconds: dict[str, float] = field(default_factory=lambda: {"reference": 0.0, "half": 0.0, "bound": 0.0})

    @contextmanager
    def time(self, name: str) -> Iterator[None]:
        """Add what the block takes."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - start


class Worker:
    """Both programs of one network, ready to take batches."""

    def __init__(
        self,
        graph: Graph,
        arithmetic: Arithmetic,
        ladder: Ladder,
        device: torch.device,
        analysis: torch.device,
        native: bool,
        emulate: Order | None,
        linearised_failure: float | None,
        keep: Keep = NOTHING,
    ) -> None:
        self._graph, self._ladder, self._device, self._analysis = graph, ladder, device, analysis
        self._native, self._emulate = native, emulate
        self._runs = Program.of(graph, REFERENCE, device), Program.of(graph, arithmetic, device, keep)
        self._bounds = Program.of(graph, REFERENCE, analysis), Program.of(graph, arithmetic, analysis, keep)
        self._same = arithmetic == REFERENCE
        self._linearised_failure = linearised_failure
        self.clock = Clock()

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
        """Another method for some rows: the half program first, then the reference where that gave something."""
        reference, before = bounds
        half = before.sharpened(rows, method(self._bounds[1], stored[1].to(self._analysis)[rows], before.classes[rows]))
        if self._same:
            return half, half
        rows = rows[(half.keeps_class() | (half.gap_error < before.gap_error).any(1))[rows]]
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
        if self._runs[1].arithmetic.random_stores:
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
            return execute(self._runs[1], inputs, native=self._native, emulate=self._emulate)
        runs = [execute(self._runs[1], piece, emulate=self._emulate) for piece in inputs.split(max(1, inputs.shape[0] // 3))]
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
        if verdict in CERTIFIED:
            return None
        programs = ("reference", "half")
        for name, run, bound, program in zip(programs, runs, bounds, self._bounds, strict=True):
            nodes = program.graph.nodes
            if bound.certain_overflow[row] >= 0:
                node = nodes[int(bound.certain_overflow[row])]
                return f"the {name} program overflows {program.format_of(node.name).name} at {node}"
            if not run.finite[row]:
                return f"the run of the {name} program stored an infinity or a NaN"
        if verdict == "flipped":
            return "the two runs predict different classes"
        for name, bound, program in zip(programs, bounds, self._bounds, strict=True):
            if bound.overflow[row] >= 0:
                return f"the bound does not exclude overflow in the {name} program at {program.graph.nodes[int(bound.overflow[row])]}"
        return "the bound does not stay below the margin"


def _observed(decision: Decision) -> Tensor:
    return torch.tensor([i for i, verdict in enumerate(decision.verdict) if verdict == "observed"], dtype=torch.int64, device="cpu")


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
