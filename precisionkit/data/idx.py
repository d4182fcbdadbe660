"""Read the idx format of MNIST: two zero bytes, type (8 = bytes), number of axes, their sizes as big-endian int32, then data."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from precisionkit.errors import UnusableDataError

_BYTES = 8


def read_idx(path: Path, *, axes: int) -> np.ndarray:
    """Return the array of bytes in an idx file, gzipped or not.

    Parameters
    ----------
    path : Path
        The file.
    axes : int
        Expected number of axes: 3 for images, 1 for labels.
    """
    data = _unpacked(path)
    header = 4 + 4 * axes
    if len(data) < header or data[:4] != bytes((0, 0, _BYTES, axes)):
        raise UnusableDataError(
            f"The file {path} is no idx file of bytes with {axes} axes (it starts with {data[:4].hex(' ') or 'nothing'}): fetch it again."
        )
    shape = tuple(int(size) for size in np.frombuffer(data, dtype=">u4", count=axes, offset=4))
    expected = header + math.prod(shape)
    if len(data) != expected:
        raise UnusableDataError(
            f"The file {path} is cut off or damaged: it has {len(data)} bytes unpacked, its header announces {expected}; fetch it again."
        )
    return np.frombuffer(data, dtype=np.uint8, offset=header).reshape(shape)


def _unpacked(path: Path) -> bytes:
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data
    except (OSError, EOFError, zlib.error):
        raise UnusableDataError(f"The file {path} cannot be read or is a damaged gzip file: fetch it again.") from None
