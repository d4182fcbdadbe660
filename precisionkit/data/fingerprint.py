"""SHA-256 of data sets: of arrays over their numbers, of files over their names and bytes, which needs no decoding."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from precisionkit.errors import UnusableDataError

_CHUNK = 1 << 20


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


class FileDigest:
    """SHA-256 of files: for each its name, its length and its bytes, then the labels, or how many rows there are."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256(b"files\n")

    def add(self, name: str, path: Path) -> None:
        """Take in one more file; `name` must not depend on where the data set lies."""
        try:
            with path.open("rb") as stream:
                self._digest.update(f"{len(name)} ".encode() + name.encode("utf-8", "surrogateescape"))
                length = 0
                while chunk := stream.read(_CHUNK):
                    self._digest.update(chunk)
                    length += len(chunk)
                self._digest.update(f"\n{length}\n".encode())
        except OSError as error:
            raise UnusableDataError(f"The file {path} cannot be read ({error.strerror}): check its permissions.") from None

    def finished(self, labels: np.ndarray | int) -> str:
        """Return the hexadecimal digest."""
        if isinstance(labels, int):
            self._digest.update(f"{labels} rows\n".encode())
        else:
            self._digest.update(np.ascontiguousarray(labels, dtype="<i8").tobytes())
        return self._digest.hexdigest()
