"""Deciding some inputs of a data set with some nodes kept in binary32."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from msgspec.structs import replace
from torch import Tensor

from precisionkit.arithmetic import Arithmetic
from precisionkit.batch import Worker, batch_size
from precisionkit.bound import Ladder
from precisionkit.bound.attribution import first_order_shares
from precisionkit.bound.interval import interval
from precisionkit.data import Dataset
from precisionkit.evaluate import Program, device_flags
from precisionkit.graph import Graph
from precisionkit.lemma import gaps
from precisionkit.mixed import NOTHING, Keep
from precisionkit.models import LoadedModel
from precisionkit.report import Input
from precisionkit.report.plan import Level


@dataclass(frozen=True)
class Trials:
    """One network, data set and arithmetic, of which kept nodes are tried.

    Attributes
    ----------
    at : str
        Weakest verdict that counts.
    effort, confidence : float
        As in `certify.Settings`.
    """

    model: LoadedModel
    data: Dataset
    graph: Graph
    arithmetic: Arithmetic
    at: Level
    effort: float
    confidence: float

    def images(self, rows: Sequence[int]) -> Tensor:
        """Preprocessed inputs of the data set."""
        return torch.cat([self.model.preprocess(self.data.images[row : row + 1], row) for row in rows])

    def decide(self, rows: Sequence[int], keep: Keep) -> dict[int, Input]:
        """Decide inputs, in batches."""
        ladder = Ladder.of("auto", self.arithmetic, self.effort, self.confidence)
        ladder = ladder if self.at == "probable" else Ladder(ladder.proofs, None)
        cpu = torch.device("cpu")
        worker = Worker(self.graph, self.arithmetic, ladder, cpu, cpu, False, None, None, keep)
        size, found = batch_size(self.graph), dict[int, Input]()
        with device_flags(self.arithmetic):
            for some in (rows[first : first + size] for first in range(0, len(rows), size)):
                found |= zip(some, worker.batch(self.images(some), some[0], None), strict=True)
        return {row: replace(one, index=row) for row, one in found.items()}

    def counts(self, found: Input) -> bool:
        """Whether a verdict is as strong as was asked for."""
        return found.verdict == "proved" or (self.at == "probable" and found.verdict == "probable")

    def contributions(self, rows: Sequence[int], keep: Keep = NOTHING) -> tuple[dict[str, float], np.ndarray]:
        """First-order errors of the closest gap by node, each in units of its margin and averaged; and their sum for each input."""
        program = Program.of(self.graph, self.arithmetic, keep=keep)
        totals, added = [], dict.fromkeys((node.name for node in self.graph.nodes), 0.0)
        for row in rows:
            inputs = program.inputs(self.images([row]), row)
            bounds = interval(program, inputs)
            closest = gaps(bounds.centre.numpy(), bounds.classes.numpy())[0]
            closest[int(bounds.classes[0])] = np.inf
            rival = int(closest.argmin())
            shares = first_order_shares(program, inputs, bounds.classes, torch.tensor([rival]))
            margin = max(float(closest[rival]), np.finfo(float).tiny)
            totals.append(float(shares.total[0]) / margin)
            for name, share in shares.by_node.items():
                if name in added:
                    added[name] += float(share[0]) / float(shares.total[0]) / len(rows) if shares.total[0] > 0 else 0.0
        return added, np.asarray(totals)

    def overflowing(self, row: int, keep: Keep) -> str | None:
        """Return the first node of the half program of which overflow is not excluded for an input."""
        program = Program.of(self.graph, self.arithmetic, keep=keep)
        place = int(interval(program, program.inputs(self.images([row]), row)).overflow[0])
        return None if place < 0 else program.graph.nodes[place].name
