"""Images and labels for training: preprocessed once, in the network's format, drawn in an order that seed and epoch alone decide."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from precisionkit.data import Dataset, load_dataset
from precisionkit.errors import UnusableDataError, UsageError
from precisionkit.models import Preprocess, parse_normalize

_LARGEST = 8 << 30  # bytes of preprocessed images that are kept


@dataclass(frozen=True)
class Examples:
    """Inputs as the network takes them, and labels.

    Attributes
    ----------
    inputs : (n, ...) tensor
    labels : (n,) int64 tensor
    """

    inputs: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def rows(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the inputs and labels of some rows."""
        return self.inputs[rows], self.labels[rows]


def load_parts(source: str, test: str | None, limit: int | None, root: str | None, *, download: bool | None) -> tuple[Dataset, Dataset]:
    """Load the images that train and those that test.

    Raises
    ------
    UsageError
        Both are the same.
    UnusableDataError
        One of them cannot be read, or has no labels.
    """
    train = load_dataset(source, split="train", root=root, limit=limit, download=download)
    held = load_dataset(test or source, split="test", root=root, download=download)
    if train.sha256 == held.sha256 or (train.split == held.split == "all" and test in (None, source)):
        raise UsageError(f"The data set {source} has no part of its own for testing: name another one with --test.")
    for data in (train, held):
        if data.labels is None:
            raise UnusableDataError(f"The {data.split} images of {data.name} have no labels, which training needs.")
    return train, held


def measured(preprocess: Preprocess, data: Dataset, normalize: str | None) -> Preprocess:
    """Return a preprocessing with the means and deviations of the training images, per channel, or those that were asked for.

    Of images that come preprocessed, as floating numbers, it is left as it is.
    """
    if normalize is not None:
        mean, std = parse_normalize(normalize)
        return dataclasses.replace(preprocess, mean=mean, std=std)
    if data.images.dtype != np.uint8:
        return preprocess
    plain = dataclasses.replace(preprocess, mean=None, std=None)
    channels = plain(data.images[:1]).shape[1]
    total, squares = torch.zeros(2, channels, dtype=torch.float64)
    count = 0
    for first in range(0, len(data.images), 1000):
        batch = plain(data.images[first : first + 1000], first).double()
        total += batch.sum((0, 2, 3))
        squares += (batch * batch).sum((0, 2, 3))
        count += batch.numel() // batch.shape[1]
    mean_of = total / count
    deviation = (squares / count - mean_of**2).clamp_min(0).sqrt()
    means, deviations = (tuple(round(value, 4) for value in values.tolist()) for values in (mean_of, deviation))
    if min(deviations) == 0:
        raise UnusableDataError(f"A channel of the images of {data.name} is constant and cannot be normalised: give --normalize.")
    return dataclasses.replace(preprocess, mean=means, std=deviations)


def examples(data: Dataset, preprocess: Preprocess, dtype: torch.dtype, device: torch.device) -> Examples:
    """Preprocess a data set and store it in a format on a device.

    Raises
    ------
    UnusableDataError
        It needs more than 8 GiB.
    """
    one = preprocess(data.images[:1])
    kept = dtype if one.is_floating_point() else one.dtype
    size = one.numel() * len(data.images) * kept.itemsize
    if size > _LARGEST:
        raise UnusableDataError(
            f"The {len(data.images)} inputs of {data.name} take {size >> 20} MiB, more than the {_LARGEST >> 20} MiB that are kept in "
            "memory: take fewer with --limit, or smaller images."
        )
    inputs = torch.empty((len(data.images), *one.shape[1:]), dtype=kept)
    for first in range(0, len(inputs), 1000):
        inputs[first : first + 1000] = preprocess(data.images[first : first + 1000], first)
    assert data.labels is not None  # checked where it was loaded
    return Examples(inputs.to(device), torch.from_numpy(data.labels).to(device))


def batches(
    count: int, size: int, seed: int, epoch: int, *, skip: int = 0, rank: int = 0, world: int = 1
) -> Iterator[tuple[Tensor, float]]:
    """Yield the rows of one process's share of every batch of an epoch, and the weight of its mean loss.

    The order depends on seed and epoch alone.  The shares of processes are every `world`-th row; where they differ in length, the weight
    makes the mean over processes the mean over the batch.  A last batch with fewer rows than processes is left out.

    Parameters
    ----------
    count, size : int
        Number of examples; rows of a batch over all processes.
    skip : int
        Number of batches that are done already.
    """
    order = torch.randperm(count, generator=torch.Generator().manual_seed(_mixed(seed, epoch)))
    for batch in torch.split(order, size)[skip:]:
        if len(batch) >= world:
            share = batch[rank::world]
            yield share, len(share) * world / len(batch)


def steps_of(count: int, size: int, world: int = 1) -> int:
    """Number of batches in an epoch."""
    full, left = divmod(count, size)
    return full + (left >= world)


def seed_step(seed: int, epoch: int, step: int, rank: int) -> None:
    """Set the state of torch's random numbers (of dropout) for one step, so that it depends on nothing that was done before."""
    torch.manual_seed(_mixed(seed, epoch, step, rank))


def _mixed(*numbers: int) -> int:
    """One seed from several numbers (numpy's SeedSequence, which is the same everywhere)."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))
