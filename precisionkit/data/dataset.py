"""What every loader returns, checked in one place."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from precisionkit.data.fingerprint import fingerprint
from precisionkit.data.inputs import Inputs, LazyInputs
from precisionkit.errors import UnusableDataError

_CHANNELS = (1, 2, 3, 4)  # last axis of byte images


@dataclass(frozen=True)
class Arrays:
    """Images and labels as a reader found them, not yet checked.

    Attributes
    ----------
    images : np.ndarray or LazyInputs
    labels : np.ndarray or None
    class_names : tuple of str or None
    sha256 : str or None
        Where the reader knows it; of images that are read lazily, always.
    split : str
        The part that was read, ``all`` where there are none.
    """

    images: np.ndarray | LazyInputs
    labels: np.ndarray | None
    class_names: tuple[str, ...] | None = None
    sha256: str | None = None
    split: str = "all"


@dataclass(frozen=True)
class Dataset:
    """Inputs with their labels.

    Attributes
    ----------
    name, split : str
        Name of the set, or path of the file or folder; part of it (``test``, ``train``, ..., or ``all``).
    images : Inputs
        An array, or `LazyInputs` that are read from files in slices: (n, H, W) or (n, H, W, C) uint8, where H and W may differ
        between images, floating (n, C, H, W) or (n, d), or integer (n, L).  Bytes are raw images; floating numbers are already
        preprocessed; integers are tokens.
    labels : (n,) int64, or None
        None when unknown.
    class_names : tuple of str, or None
        In the order of the labels.
    sha256 : str
        Of dtypes, shapes and bytes of images and labels, the same from every source of the same arrays.  Of what is read lazily: of the
        names and bytes of the files and of the labels (`fingerprint.FileDigest`), or of the batches (`function.read_function`), and of
        the number of images skipped.
    """

    name: str
    split: str
    images: Inputs
    labels: np.ndarray | None
    class_names: tuple[str, ...] | None
    sha256: str


def make_dataset(arrays: Arrays, *, name: str, skip: int = 0, limit: int | None = None) -> Dataset:
    """Check what a reader found and bring it into the form of `Dataset`; keep the first `limit` images behind the first `skip`."""
    where = f"The data set {name}"
    images = arrays.images if isinstance(arrays.images, LazyInputs) else checked_inputs(arrays.images, where)
    labels = None if arrays.labels is None else checked_labels(np.asarray(arrays.labels), len(images), where)
    if labels is not None and arrays.class_names is not None and int(labels.max()) >= len(arrays.class_names):
        raise UnusableDataError(
            f"{where} has the label {int(labels.max())} but only {len(arrays.class_names)} class names: labels count from 0, "
            "so correct them or leave the names out."
        )
    if skip >= len(images):
        raise UnusableDataError(f"{where} has {len(images):,} images, so skipping {skip:,} leaves none: skip fewer.")
    kept = slice(skip, None if limit is None else skip + limit)
    labels = None if labels is None else np.ascontiguousarray(labels[kept])
    if isinstance(images, LazyInputs):
        assert arrays.sha256 is not None  # lazy readers keep the limit, and hash what they read
        sha256 = hashlib.sha256(f"{arrays.sha256} from {skip}\n".encode()).hexdigest() if skip else arrays.sha256
        return Dataset(name, arrays.split, images.behind(skip), labels, arrays.class_names, sha256)
    images = np.ascontiguousarray(images[kept])
    return Dataset(name, arrays.split, images, labels, arrays.class_names, fingerprint(images, labels))


def checked_inputs(images: np.ndarray, where: str) -> np.ndarray:
    """Refuse arrays that hold neither images nor preprocessed numbers nor tokens; floating ones get the machine's byte order."""
    if images.dtype == np.uint8:
        if images.ndim not in (3, 4):
            raise UnusableDataError(
                f"{where} has byte images of shape {images.shape}: give (n, H, W) or (n, H, W, C), or tokens as int64, (n, L)."
            )
        if images.ndim == 4 and images.shape[3] not in _CHANNELS:
            raise UnusableDataError(
                f"{where} has byte images of shape {images.shape}, whose last axis is taken as the channels and must be 1 to 4 long: "
                "move the channels to the end, as in images.transpose(0, 2, 3, 1)."
            )
    elif np.issubdtype(images.dtype, np.floating):
        if images.ndim < 2:
            raise UnusableDataError(f"{where} has floating images of shape {images.shape}: give (n, C, H, W) or (n, d).")
        images = images.astype(images.dtype.newbyteorder("="), copy=False)
    elif not (np.issubdtype(images.dtype, np.integer) and images.ndim == 2):
        raise UnusableDataError(
            f"{where} has images of type {images.dtype} and shape {images.shape}: give bytes (uint8), floating numbers that are already "
            "preprocessed, or integer tokens (n, L)."
        )
    if images.size == 0:
        raise UnusableDataError(f"{where} holds no images (shape {images.shape}): give at least one.")
    return images


def checked_labels(labels: np.ndarray, images: int, where: str) -> np.ndarray:
    """Return one class number per image as int64."""
    if labels.shape == (images, 1):
        labels = labels[:, 0]
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise UnusableDataError(
            f"{where} has labels of type {labels.dtype} and shape {labels.shape}: give one class number per image, counted from 0."
        )
    if len(labels) != images:
        raise UnusableDataError(f"{where} has {images} images but {len(labels)} labels: give one label per image, or none.")
    if int(labels.min()) < 0 or int(labels.max()) > np.iinfo(np.int64).max:
        raise UnusableDataError(f"{where} has the label {int(labels.min())}: labels count classes from 0, so correct or leave them out.")
    return labels.astype(np.int64)
