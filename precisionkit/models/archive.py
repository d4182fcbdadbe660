"""Zip archives of model files: nothing is unpacked to disk, and no more is read than the file has bytes."""

from __future__ import annotations

import io
import stat
import struct
import zipfile
import zlib
from typing import NoReturn

from precisionkit.errors import UnusableModelError

_MOST_ENTRIES = 100_000  # one for each tensor; the largest networks have thousands
_DAMAGE = (
    zipfile.BadZipFile,
    EOFError,
    NotImplementedError,
    RuntimeError,
    OSError,
    ValueError,
    KeyError,
    OverflowError,
    struct.error,
    zlib.error,
)


class Archive:
    """The entries of a zip file under their names without the first folder, which is the archive's own name.

    Parameters
    ----------
    data : bytes
        The whole file.
    where : str
        Names the file in error messages.
    """

    def __init__(self, data: bytes, where: str) -> None:
        self._where = where
        self._size = len(data)
        try:
            self._file = zipfile.ZipFile(io.BytesIO(data))
        except _DAMAGE:
            self._damaged()
        self._entries = {entry.filename.partition("/")[2] or entry.filename: entry for entry in self._file.infolist()}

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the entries, in the order of the file."""
        return tuple(self._entries)

    def check(self) -> None:
        """Refuse what torch never writes: names that leave the archive, links, compression, encryption, more bytes than the file."""
        entries = self._file.infolist()
        if len(entries) > _MOST_ENTRIES:
            self._refuse(f"holds {len(entries)} entries, more than {_MOST_ENTRIES}")
        if len(self._entries) < len(entries):
            self._refuse("holds two entries of the same name")
        for entry in entries:
            if objection := _objection(entry):
                self._refuse(f"holds the entry {_shown(entry.filename)}, {objection}")
        if (total := sum(entry.file_size for entry in entries)) > self._size:
            self._refuse(f"claims {total} bytes in its entries, but is {self._size} bytes long")

    def read(self, name: str, limit: int | None = None) -> bytes:
        """Return the bytes of one entry, at most `limit` of them."""
        try:
            with self._file.open(self._entries[name]) as stream:
                return stream.read(-1 if limit is None else limit)
        except _DAMAGE:
            self._damaged()

    def _damaged(self) -> NoReturn:
        raise UnusableModelError(f"{self._where} is damaged or cut off: its zip archive cannot be read; fetch or write it again.") from None

    def _refuse(self, what: str) -> NoReturn:
        raise UnusableModelError(f"{self._where} {what}, as torch never writes, and is not opened; fetch or write it again.")


def _objection(entry: zipfile.ZipInfo) -> str:
    parts = entry.filename.replace("\\", "/").split("/")
    if parts[0] == "" or ".." in parts or ":" in parts[0]:
        return "whose name leads out of the archive"
    if stat.S_ISLNK(entry.external_attr >> 16):
        return "which is a link"
    if entry.flag_bits & 1:
        return "which is encrypted"
    return "" if entry.compress_type == zipfile.ZIP_STORED else "which is compressed"


def _shown(text: str) -> str:
    safe = ascii(text)
    return safe if len(safe) <= 80 else f"{safe[:77]}..."
