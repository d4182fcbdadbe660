"""What every loader returns, checked in one place."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from precisionkit.errors import UnusableDataError

_CHANNELS = (1, 2, 3, 4)  # last axis of byte images


@dataclass(frozen=True)
class Arrays:
    """Images and labels as a reader found them, not yet checked."""

    images: np.ndarray
    labels: np.ndarray | None
    class_names: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Dataset:
    """Images with their labels.

    Attributes
    ----------
    name, split : str
        Name of the set, or path of the file or folder; part of it (``test``, ``train``, or ``all``).
    images : (n, H, W) or (n, H, W, C) uint8, or floating (n, C, H, W) or (n, d)
        Bytes are raw images; floating numbers are already preprocessed.
    labels : (n,) int64, or None
        None when unknown.
    class_names : tuple of str, or None
        In the order of the labels.
    sha256 : str
        Of dtypes, shapes and bytes of images and labels; the same from every source of the same set.
    """

    name: str
    split: str
    images: np.ndarray
    labels: np.ndarray | None
    class_names: tuple[str, ...] | None
    sha256: str


def make_dataset(arrays: Arrays, *, name: str, split: str, limit: int | None = None) -> Dataset:
    """Check what a reader found and bring it into the form of `Dataset`; keep the first `limit` images."""
    where = f"The data set {name}"
    images = _checked_images(np.asarray(arrays.images), where)
    labels = None if arrays.labels is None else _checked_labels(np.asarray(arrays.labels), len(images), where)
    if labels is not None and arrays.class_names is not None and int(labels.max()) >= len(arrays.class_names):
        raise UnusableDataError(
            f"{where} has the label {int(labels.max())} but only {len(arrays.class_names)} class names: labels count from 0, "
            "so correct them or leave the names out."
        )
    images = np.ascontiguousarray(images[:limit])
    labels = None if labels is None else np.ascontiguousarray(labels[:limit])
    return Dataset(name, split, images, labels, arrays.class_names, fingerprint(images, labels))


def fingerprint(images: np.ndarray, labels: np.ndarray | None) -> str:
    """Return the SHA-256 of both arrays with their dtypes and shapes."""
    digest = hashlib.sha256()
    for array in (images, labels):
        if array is None:
            digest.update(b"none\n")
        else:
            little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
            digest.update(f"{little.dtype.str} {little.shape}\n".encode())
            digest.update(little.data if little.size else b"")
    return digest.hexdigest()


def _checked_images(images: np.ndarray, where: str) -> np.ndarray:
    if images.dtype == np.uint8:
        if images.ndim not in (3, 4):
            raise UnusableDataError(f"{where} has byte images of shape {images.shape}: give (n, H, W) or (n, H, W, C).")
        if images.ndim == 4 and images.shape[3] not in _CHANNELS:
            raise UnusableDataError(
                f"{where} has byte images of shape {images.shape}, whose last axis is taken as the channels and must be 1 to 4 long: "
                "move the channels to the end, as in images.transpose(0, 2, 3, 1)."
            )
    elif np.issubdtype(images.dtype, np.floating):
        if images.ndim < 2:
            raise UnusableDataError(f"{where} has floating images of shape {images.shape}: give (n, C, H, W) or (n, d).")
        images = images.astype(images.dtype.newbyteorder("="), copy=False)
    else:
        raise UnusableDataError(
            f"{where} has images of type {images.dtype}: give bytes (uint8), or floating numbers that are already preprocessed."
        )
    if images.size == 0:
        raise UnusableDataError(f"{where} holds no images (shape {images.shape}): give at least one.")
    return images


def _checked_labels(labels: np.ndarray, images: int, where: str) -> np.ndarray:
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
