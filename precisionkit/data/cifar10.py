"""Find CIFAR-10 in a data folder, in any of four layouts."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np

from precisionkit.data.dataset import Arrays
from precisionkit.data.images import read_image
from precisionkit.data.npz import read_npz
from precisionkit.errors import UnusableDataError

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

_RECORDS = 10_000  # in every batch file
_PIXELS = 3 * 32 * 32
_BATCHES = {"test": ("test_batch",), "train": tuple(f"data_batch_{number}" for number in range(1, 6))}


def read_binary(root: Path, split: str, *, records: int = _RECORDS) -> Arrays | None:
    """Return the split from the official binary layout: records of one label byte and 3 x 32 x 32 image bytes."""
    paths = [root / "cifar-10-batches-bin" / f"{name}.bin" for name in _BATCHES[split]]
    if not all(path.is_file() for path in paths):
        return None
    table = np.concatenate([_batch(path, records) for path in paths])
    return _checked(table[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), table[:, 0], paths[0].parent)


def read_npz_file(root: Path, split: str) -> Arrays | None:
    """Return the split from ``cifar10/cifar10_SPLIT.npz`` or ``cifar10_SPLIT.npz``."""
    for path in (root / "cifar10" / f"cifar10_{split}.npz", root / f"cifar10_{split}.npz"):
        if path.is_file():
            found = read_npz(path)
            if found.labels is None:
                raise UnusableDataError(f"The file {path} holds no labels: add an array labels.")
            return _checked(np.asarray(found.images), found.labels, path)
    return None


def read_sheets(root: Path, split: str, *, records: int = _RECORDS) -> Arrays | None:
    """Return the training split from lossless image sheets: one row of 1024 RGB pixels per image, labels in a JSON list."""
    folder = root / "cifar10"
    paths = [folder / f"cifar10_{name}.png" for name in _BATCHES["train"]]
    labels = folder / "cifar10_train_labels.json"
    if split != "train" or not all(path.is_file() for path in (*paths, labels)):
        return None
    images = np.concatenate([_sheet(path, records) for path in paths])
    try:
        numbers = np.asarray(json.loads(labels.read_text()))
    except ValueError:
        raise UnusableDataError(f"The file {labels} is not a JSON list of labels: fetch or write it again.") from None
    return _checked(images, numbers, labels)


def read_pickles(root: Path, split: str) -> Arrays | None:
    """Return the split from torchvision's layout, whose pickles are opened only by torchvision, after it checked their md5."""
    folder = root / "cifar-10-batches-py"
    if not folder.is_dir():
        return None
    try:
        from torchvision.datasets import CIFAR10
    except ImportError:
        raise UnusableDataError(
            f"The folder {folder} holds pickles, which only torchvision opens here, after a check: pip install 'precisionkit[vision]', or "
            "put the binary version (cifar-10-batches-bin) beside it."
        ) from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy dislikes how these old pickles spell a dtype
            found = CIFAR10(str(root), train=split == "train", download=False)
    except (RuntimeError, OSError, ValueError, KeyError, EOFError):
        raise UnusableDataError(
            f"The folder {folder} is incomplete or damaged (torchvision's md5 check fails): fetch it again, or delete it."
        ) from None
    return _checked(np.asarray(found.data), np.asarray(found.targets), folder)


def _batch(path: Path, records: int) -> np.ndarray:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UnusableDataError(f"The file {path} cannot be read ({error.strerror}): check its permissions.") from None
    if len(data) != records * (1 + _PIXELS):
        raise UnusableDataError(
            f"The file {path} is cut off or damaged: it has {len(data)} bytes, but {records * (1 + _PIXELS)} are needed; fetch it again."
        )
    return np.frombuffer(data, dtype=np.uint8).reshape(records, 1 + _PIXELS)


def _sheet(path: Path, records: int) -> np.ndarray:
    sheet = read_image(path)
    if sheet.shape != (records, 1024, 3):
        raise UnusableDataError(
            f"The sheet {path} has the shape {sheet.shape}, but {(records, 1024, 3)} is needed: fetch or write it again."
        )
    return sheet.reshape(records, 32, 32, 3)


def _checked(images: np.ndarray, labels: np.ndarray, path: Path) -> Arrays:
    good = images.dtype == np.uint8 and images.shape[1:] == (32, 32, 3) and np.issubdtype(labels.dtype, np.integer)
    if not good or (labels.size and (int(labels.min()) < 0 or int(labels.max()) >= len(CLASSES))):
        raise UnusableDataError(
            f"{path} does not hold CIFAR-10: images must be bytes of shape (n, 32, 32, 3), but are {images.dtype} {images.shape}, "
            "and labels 0 to 9; fetch or write it again."
        )
    return Arrays(images, labels, CLASSES)
