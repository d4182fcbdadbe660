"""Both runs of a model on data, and what is kept of each row."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from precisionkit.data import Dataset
from precisionkit.devices import find_device
from precisionkit.errors import UnsupportedOperatorError, UnusableDataError, UnusableModelError, UsageError
from precisionkit.graph import Graph
from precisionkit.guard.half import check_logits, margins
from precisionkit.guard.identity import device_of, in_own_formats
from precisionkit.guard.rows import check_new, read, row_hashes
from precisionkit.models import LoadedModel
from precisionkit.models.preprocess import to_record
from precisionkit.report.guard import Score
from precisionkit.task import captured, check_inputs, check_labels


@dataclass(frozen=True)
class Observed:
    """Of every row: half margin, score, the predictions of both runs, whether they disagree, and the hash of the input."""

    margins: NDArray[np.float64]
    scores: NDArray[np.float64]
    half: NDArray[np.int64]
    reference: NDArray[np.int64]
    disagree: NDArray[np.bool_]
    rows: NDArray[np.uint64]


@dataclass(frozen=True)
class Case:
    """A model with data, brought to a device."""

    model: LoadedModel
    module: nn.Module
    data: Dataset
    graph: Graph | None
    input_shape: tuple[int, ...]
    batch_size: int
    advance: Callable[[int, int], None]

    @property
    def preprocess(self) -> dict[str, Any] | None:
        """How its images become inputs, as plain data; None where they are inputs already."""
        return to_record(self.model.preprocess) if self.data.images.dtype in (np.uint8, object) else None

    def check_preprocess(self, recorded: Mapping[str, Any] | None) -> None:
        """Refuse images that become inputs in another way than those of a plan.

        Raises
        ------
        UsageError
            With the first difference.
        """
        for name, value in (self.preprocess or {}).items():
            if recorded is not None and recorded.get(name) != value:
                raise UsageError(
                    f"The plan was calibrated on images with the preprocessing {name} = {recorded.get(name)}, but here it is {value}: "
                    "preprocess them as it was, or calibrate again."
                )

    def inputs(self, first: int) -> Tensor:
        """One preprocessed batch on the device."""
        return self._preprocessed(first).to(device_of(self.module))

    def _preprocessed(self, first: int) -> Tensor:
        return self.model.preprocess(self.data.images[first : first + self.batch_size], first)

    def observe(self, half: nn.Module, score: Score, calibrated: str = "") -> Observed:
        """Run both on everything; refuse inputs that a plan was calibrated on, whose hashes it holds."""
        seen = read(calibrated)
        total, parts = len(self.data.images), list[Observed]()
        for first in range(0, total, self.batch_size):
            x = self._preprocessed(first)
            if tuple(x.shape[1:]) != self.input_shape:
                raise UnusableDataError(
                    f"Input {first} has the shape {tuple(x.shape[1:])}, but the first had {self.input_shape}: make them equal."
                )
            check_new(rows := row_hashes(x), first, seen)
            x = x.to(device_of(self.module))
            with in_own_formats():
                logits = half(x), self.module(x)
            parts.append(observed(*logits, score, rows))
            if not first:
                check_labels(self.data, logits[0].shape[1])
            self.advance(min(first + self.batch_size, total), total)
        return Observed(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Observed)))


def scores(half: Tensor, reference: Tensor, score: Score) -> Tensor:
    """Score of every row: a threshold that accepts a row that disagrees lies below it.

    ``disagreement``: the half margin of a row that disagrees, else 0.  ``error``: by how much the half run favours its own prediction over
    another class more than the reference run does, ``max over j of (h_c - h_j) - (r_c - r_j)``; a row that disagrees has ``r_j >= r_c``
    for some j, and so a margin of at most that.  Rows that no threshold accepts have 0; rows whose reference logits
    are not finite disagree, by infinity.
    """
    margin = margins(half).double()
    h, r = half.double(), reference.double()
    c = h.argmax(1)
    disagree = torch.where(disagreements(half, reference), margin, 0.0)
    if score == "disagreement":
        return disagree
    favoured = ((h.gather(1, c[:, None]) - h) - (r.gather(1, c[:, None]) - r)).amax(1)
    favoured = torch.where(r.isfinite().all(1), favoured, torch.inf)
    return torch.where(margin > 0, torch.maximum(favoured, disagree), 0.0)


def disagreements(half: Tensor, reference: Tensor) -> Tensor:
    """Rows that the two runs predict differently; logits of a reference run that are not finite agree with no finite ones."""
    return (half.argmax(1) != reference.argmax(1)) | (half.isfinite().all(1) & ~reference.isfinite().all(1))


def observed(half: Tensor, reference: Tensor, score: Score, rows: NDArray[np.uint64]) -> Observed:
    """Read what is needed from the logits of a batch."""
    check_logits(half)
    check_logits(reference)
    margin, scored = margins(half).double().cpu().numpy(), scores(half, reference, score).cpu().numpy()
    h, r, disagree = (array.cpu().numpy() for array in (half.argmax(1), reference.argmax(1), disagreements(half, reference)))
    return Observed(margin, scored, h, r, disagree, rows)


def case_of(
    model: LoadedModel, data: Dataset, device: str, batch_size: int, on_progress: Callable[[int, int], None] | None, *, needs_graph: bool
) -> Case:
    """Check that a model and data belong together, and bring the model to a device."""
    check_inputs(model, data)
    shape = tuple(model.preprocess(data.images[:1]).shape[1:])
    module = model.module if device == "cpu" else copy.deepcopy(model.module).to(find_device(device))
    return Case(
        model, module, data, _graph(model, data, shape, needed=needs_graph), shape, batch_size, on_progress or (lambda done, total: None)
    )


def _graph(model: LoadedModel, data: Dataset, shape: tuple[int, ...], *, needed: bool) -> Graph | None:
    """The captured network; None where it cannot be captured and is not needed."""
    try:
        return captured(model, data, shape)
    except (UnsupportedOperatorError, UnusableModelError):
        if needed:
            raise
        return None
