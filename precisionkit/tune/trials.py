"""Deciding some inputs of a data set with some nodes kept in binary32."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256

import numpy as np
import torch
from msgspec.structs import replace
from torch import Tensor

from precisionkit.arithmetic import Arithmetic
from precisionkit.batch import Worker, batch_size
from precisionkit.bound import Ladder, LogitBounds, Method
from precisionkit.bound.attribution import first_order_shares
from precisionkit.bound.interval import interval
from precisionkit.data import Dataset
from precisionkit.evaluate import Program, device_flags
from precisionkit.graph import Graph
from precisionkit.lemma import gaps
from precisionkit.mixed import CAST, NOTHING, Keep
from precisionkit.models import LoadedModel
from precisionkit.report import Input
from precisionkit.report.plan import Level

_CPU = torch.device("cpu")
_KEPT_BYTES = 2**28
"""Size up to which bounds are remembered."""


class Remembering:
    """A method of bounding that is not asked twice: the reference program is the same whatever is kept."""

    def __init__(self, method: Method) -> None:
        self._method, self._known = method, dict[object, LogitBounds]()

    def __call__(self, program: Program, inputs: Tensor, classes: Tensor) -> LogitBounds:
        """Bound what is not known yet, in one batch."""
        keys = [self._key(program, one, c) for one, c in zip(inputs, classes.tolist(), strict=True)]
        found = {key: self._known[key] for key in keys if key in self._known}
        new = [place for place, key in enumerate(keys) if key not in found]
        if new:
            bounds = self._method(program, inputs[new], classes[new])
            found = {keys[place]: bounds.rows(slice(i, i + 1)) for i, place in enumerate(new)} | found
        if len(self._known) * 3 * program.graph.classes * 8 > _KEPT_BYTES:
            self._known.clear()
        self._known |= found
        return LogitBounds.joined([found[key] for key in keys])

    @staticmethod
    def _key(program: Program, one: Tensor, label: int) -> object:
        return program.arithmetic, program.wide, program.wide_sums, label, sha256(one.numpy().tobytes()).digest()


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
    _ladder: Ladder = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        full = Ladder.of("auto", self.arithmetic, self.effort, self.confidence)
        proofs = tuple((name, method if method is interval else Remembering(method)) for name, method in full.proofs)
        likely = None if full.likely is None or self.at == "proved" else Remembering(full.likely)
        object.__setattr__(self, "_ladder", Ladder(proofs, likely))

    @property
    def _quick(self) -> Ladder:
        """Enough to tell what counts: no proof is needed where a probability is."""
        return Ladder(self._ladder.proofs[:1], self._ladder.likely) if self._ladder.likely is not None else self._ladder

    def images(self, rows: Sequence[int]) -> Tensor:
        """Preprocessed inputs of the data set."""
        return torch.cat([self.model.preprocess(self.data.images[row : row + 1], row) for row in rows])

    def _batches(self, rows: Sequence[int]) -> Iterator[Sequence[int]]:
        size = batch_size(self.graph)
        return (rows[first : first + size] for first in range(0, len(rows), size))

    def decide(self, rows: Sequence[int], keep: Keep, *, fully: bool = False) -> dict[int, Input]:
        """Decide inputs, in batches; `fully` by all methods that `certify` has, else by those that tell what counts."""
        ladder = self._ladder if fully else self._quick
        worker = Worker(self.graph, self.arithmetic, ladder, _CPU, _CPU, False, None, None, keep)
        found = dict[int, Input]()
        with device_flags(self.arithmetic):
            for some in self._batches(rows):
                found |= zip(some, worker.batch(self.images(some), some[0], None), strict=True)
        return {row: replace(one, index=row) for row, one in found.items()}

    def counts(self, found: Input) -> bool:
        """Whether a verdict is as strong as was asked for."""
        return found.verdict == "proved" or (self.at == "probable" and found.verdict == "probable")

    def contributions(self, rows: Sequence[int], keep: Keep = NOTHING) -> tuple[dict[str, float], np.ndarray]:
        """First-order errors of the closest gap: the share of each node, averaged; their sum for each input, in units of its margin."""
        program = Program.of(self.graph, self.arithmetic, keep=keep)
        totals, added = [], dict.fromkeys((node.name for node in self.graph.nodes), 0.0)
        for some in self._batches(rows):
            inputs = program.inputs(self.images(some), some[0])
            bounds = interval(program, inputs)
            closest = gaps(bounds.centre.numpy(), bounds.classes.numpy())
            np.put_along_axis(closest, bounds.classes.numpy()[:, None], np.inf, axis=1)
            rivals = closest.argmin(1)
            shares = first_order_shares(program, inputs, bounds.classes, torch.from_numpy(rivals))
            total = shares.total.numpy()
            totals.append(total / np.maximum(closest.min(1), np.finfo(float).tiny))
            for name in added.keys() & shares.by_node.keys():
                share = np.divide(shares.by_node[name].numpy(), total, out=np.zeros_like(total), where=total > 0)
                added[name] += float(share.sum()) / len(rows)
        return added, np.concatenate(totals)

    def overflowing(self, row: int, keep: Keep) -> str | None:
        """Return the first node of the network of which overflow in half is not excluded for an input."""
        program = Program.of(self.graph, self.arithmetic, keep=keep)
        place = int(interval(program, program.inputs(self.images([row]), row)).overflow[0])
        if place < 0:
            return None
        node = program.graph.nodes[place]
        return node.operands[0] if node.operator == CAST else node.name
