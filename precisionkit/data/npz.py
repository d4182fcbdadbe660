"""A data set in one .npz file; pickled objects in it are never opened."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from precisionkit.data.dataset import Arrays
from precisionkit.errors import UnusableDataError

IMAGE_KEYS = ("images", "x", "X", "data")
LABEL_KEYS = ("labels", "y", "targets")


def read_npz(path: Path) -> Arrays:
    """Return the arrays under the usual keys."""
    try:
        with path.open("rb") as stream:  # np.load leaves a damaged file open if it opens the file itself
            archive = np.load(stream, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise UnusableDataError(
                    f"The file {path} holds a single array: write images and labels with numpy.savez(FILE, images=, labels=)."
                )
            keys = tuple(archive.files)
            wanted = (*IMAGE_KEYS, *LABEL_KEYS, "class_names")
            arrays = {key: archive[key] for key in keys if key in wanted}
    except (OSError, ValueError, EOFError, KeyError, zlib.error, zipfile.BadZipFile, NotImplementedError):
        raise UnusableDataError(
            f"The file {path} is damaged, no .npz file, or holds Python objects: write it again with numpy.savez(FILE, images=, labels=)."
        ) from None
    images = _first(arrays, IMAGE_KEYS)
    if images is None:
        raise UnusableDataError(
            f"The file {path} has the arrays {', '.join(keys) or '(none)'}, but none is called {', '.join(IMAGE_KEYS)}: rename the images."
        )
    names = arrays.get("class_names")
    return Arrays(images, _first(arrays, LABEL_KEYS), None if names is None else tuple(str(name) for name in names.reshape(-1)))


def _first(arrays: Mapping[str, np.ndarray], keys: tuple[str, ...]) -> np.ndarray | None:
    return next((arrays[key] for key in keys if key in arrays), None)
