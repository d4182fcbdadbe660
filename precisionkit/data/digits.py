"""The 8x8 digits that come with scikit-learn: the first 1437 to train, the last 360 to test."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from precisionkit.data.dataset import Arrays
from precisionkit.errors import UnusableDataError

_TRAIN = 1437
_PARTS = {"train": slice(0, _TRAIN), "test": slice(_TRAIN, None)}


def read_digits(_root: Path, split: str) -> Arrays:
    """Return the split as bytes 0 to 16; it needs no file."""
    try:
        from sklearn.datasets import load_digits  # type: ignore[import-untyped]
    except ImportError:
        raise UnusableDataError(
            "The data set digits comes with scikit-learn, which is not installed: pip install 'precisionkit[digits]'."
        ) from None
    bunch = load_digits()
    part = _PARTS[split]
    return Arrays(bunch.images[part].astype(np.uint8), bunch.target[part], tuple("0123456789"))
