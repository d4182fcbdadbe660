"""A data set in one .npz file; pickled objects in it are never opened."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from precisionkit.data.dataset import Arrays
from precisionkit.errors import UnusableDataError, shown

IMAGE_KEYS = ("images", "x", "X", "data", "tokens", "input_ids")
LABEL_KEYS = ("labels", "y", "targets")

_EXPANSION = 1100  # more than deflate can expand
_HEADER = 1 << 16  # more than the header of an array is long


def read_npz(path: Path) -> Arrays:
    """Return the arrays under the usual keys."""
    try:
        with path.open("rb") as stream:  # np.load leaves a damaged file open if it opens the file itself
            archive = np.load(stream, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise UnusableDataError(
                    f"The file {path} holds a single array: write images and labels with numpy.savez(FILE, images=, labels=), or "
                    "call it .npy."
                )
            keys = tuple(archive.files)
            wanted = (*IMAGE_KEYS, *LABEL_KEYS, "class_names")
            arrays = {key: _read(archive, key) for key in keys if key in wanted}
    except (OSError, ValueError, EOFError, KeyError, zlib.error, zipfile.BadZipFile, NotImplementedError):
        raise UnusableDataError(
            f"The file {path} is damaged, no .npz file, or holds Python objects: write it again with numpy.savez(FILE, images=, labels=)."
        ) from None
    images = _first(arrays, IMAGE_KEYS)
    if images is None:
        named = ", ".join(shown(key, 30) for key in keys[:10])
        raise UnusableDataError(
            f"The file {path} has the arrays {named or '(none)'}, but none is called {', '.join(IMAGE_KEYS)}: rename the images."
        )
    names = arrays.get("class_names")
    return Arrays(images, _first(arrays, LABEL_KEYS), None if names is None else tuple(str(name) for name in names.reshape(-1)))


def _read(archive: np.lib.npyio.NpzFile, key: str) -> np.ndarray:
    """Read one array, once it is clear that it needs no more memory than its part of the file can give."""
    zipped = archive.zip
    assert zipped is not None  # it is open
    info = zipped.getinfo(key if key in zipped.namelist() else f"{key}.npy")
    with zipped.open(info) as stream:
        version = np.lib.format.read_magic(stream)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read_header(stream)
    announced = math.prod(shape) * dtype.itemsize
    if announced > info.file_size or info.file_size > _EXPANSION * info.compress_size + _HEADER:
        raise ValueError("an array is announced that the file does not hold")
    array: np.ndarray = archive[key]
    return array


def _first(arrays: Mapping[str, np.ndarray], keys: tuple[str, ...]) -> np.ndarray | None:
    return next((arrays[key] for key in keys if key in arrays), None)
