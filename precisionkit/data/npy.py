"""Images or tokens in one .npy file, labels in another; both are mapped into memory, and pickled objects are never opened."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from precisionkit.data.dataset import Arrays
from precisionkit.errors import UnusableDataError


def is_npy(source: str) -> bool:
    """Whether the source is ``FILE.npy`` or ``FILE.npy,FILE.npy``."""
    return all(part.endswith(".npy") for part in source.split(","))


def read_npy(source: str) -> Arrays:
    """Return the images in ``FILE.npy`` with the labels beside them, in ``FILE_labels.npy`` or ``labels.npy``, or in a second file."""
    if Path(source).is_file():
        images, labels = Path(source), _labels_beside(Path(source))
    else:
        first, *rest = source.split(",")
        if len(rest) > 1:
            raise UnusableDataError(f"The data {source!r} names {1 + len(rest)} files: give IMAGES.npy, or IMAGES.npy,LABELS.npy.")
        images, labels = Path(first), Path(rest[0]) if rest else None
    return Arrays(_mapped(images), None if labels is None else np.array(_mapped(labels)))


def _labels_beside(images: Path) -> Path | None:
    beside = (images.with_name(f"{images.stem}_labels.npy"), images.with_name("labels.npy"))
    return next((path for path in beside if path.is_file() and path != images), None)


def _mapped(path: Path) -> np.ndarray:
    if not path.is_file():
        raise UnusableDataError(f"The data file {path} does not exist: check the path.")
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError, EOFError, OverflowError):
        raise UnusableDataError(
            f"The file {path} is damaged, cut off, no .npy file, or holds Python objects: write it again with numpy.save(FILE, ARRAY)."
        ) from None
