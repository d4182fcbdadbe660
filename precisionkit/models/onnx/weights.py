"""Tensors of an ONNX file: in the file itself, or in other files of its own folder."""

from __future__ import annotations

import hashlib
import math
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from precisionkit.errors import UnusableModelError
from precisionkit.models.files import shown

if TYPE_CHECKING:
    from onnx import TensorProto

# by the numbers of TensorProto.DataType: how raw bytes are laid out, and the field that holds them otherwise
_TYPES = {
    1: ("<f4", "float_data"),
    2: ("|u1", "int32_data"),
    3: ("|i1", "int32_data"),
    5: ("<i2", "int32_data"),
    6: ("<i4", "int32_data"),
    7: ("<i8", "int64_data"),
    9: ("|b1", "int32_data"),
    11: ("<f8", "double_data"),
}
_HALF = {10: "float16", 16: "bfloat16"}
_EXTERNAL = 1  # TensorProto.DataLocation


class Weights:
    """Reads tensors, whatever they claim about their size, in memory that the real bytes bound."""

    def __init__(self, data: bytes, path: str, where: str) -> None:
        self._folder = Path(path).parent
        self._where = where
        self._hash = hashlib.sha256(data)
        self._files: dict[str, bytes] = {}
        self._parts: set[tuple[str, int, int]] = set()
        self._claimed: dict[str, int] = {}

    @property
    def sha256(self) -> str:
        """Hexadecimal SHA-256 of the ONNX file, followed by its external files in the order of their names."""
        whole = self._hash.copy()
        for name in sorted(self._files):
            whole.update(self._files[name])
        return whole.hexdigest()

    def read(self, proto: TensorProto) -> Tensor:
        """Return the tensor; UnusableModelError in one sentence if its bytes are not what it claims."""
        name = f"the tensor {shown(proto.name)!r}" if proto.name else "a tensor"
        shape = tuple(proto.dims)
        if min(shape, default=0) < 0 or len(shape) > 16 or max(shape, default=0) >= 2**40:
            raise self._error(f"gives {name} the shape {shown(str(shape))}, which is impossible")
        if proto.data_type in _HALF:
            raise UnusableModelError(
                f"{self._where} is a program in {_HALF[proto.data_type]} ({name}), but a float32 program is needed: export model.float()."
            )
        if proto.data_type not in _TYPES:
            raise UnusableModelError(
                f"{self._where} holds {name} of the ONNX type {proto.data_type}, but weights are real numbers: export model.float()."
            )
        if proto.HasField("segment"):
            raise self._error(f"stores only a segment of {name}")
        layout, field = _TYPES[proto.data_type]
        count = math.prod(shape)
        if proto.data_location == _EXTERNAL:
            array = self._external(proto, name, np.dtype(layout), count)
        elif proto.HasField("raw_data"):
            self._check_size(name, shape, count * np.dtype(layout).itemsize, len(proto.raw_data))
            array = np.frombuffer(proto.raw_data, dtype=layout)
        else:
            values = getattr(proto, field)
            self._check_size(name, shape, count, len(values), "numbers")
            array = _converted(values, layout)
        return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=True)).reshape(shape)

    def _external(self, proto: TensorProto, name: str, dtype: np.dtype[np.generic], count: int) -> np.ndarray:
        entries = {entry.key: entry.value for entry in proto.external_data}
        if not all(isinstance(text, str) for text in entries.values()):  # protobuf hands over what is no text as bytes
            raise self._error(f"looks for {name} under a name that is no text")
        location, size = entries.get("location", ""), count * dtype.itemsize
        data = self._file(location, name)
        offset, length = self._number(entries, "offset", 0, name), self._number(entries, "length", size, name)
        self._check_size(name, tuple(proto.dims), size, length)
        if offset + length > len(data):
            raise self._error(f"looks for {name} in the bytes {offset} to {offset + length} of {shown(location)!r}, which has {len(data)}")
        part = (location, offset, length)
        if part not in self._parts:
            self._claimed[location] = self._claimed.get(location, 0) + length
            if self._claimed[location] > len(data):
                raise self._error(f"has tensors that overlap in {shown(location)!r}")
            self._parts.add(part)
        return np.frombuffer(data[offset : offset + length], dtype=dtype)

    def _number(self, entries: Mapping[str, str], key: str, default: int, name: str) -> int:
        text = entries.get(key, str(default))
        if not (text.isascii() and text.isdigit() and len(text) < 20):
            raise self._error(f"gives {name} the {key} {shown(text)!r} in its external file, which is no size")
        return int(text)

    def _file(self, location: str, name: str) -> bytes:
        """Read a file of the model's own folder; paths that lead out of it, in any spelling, are refused."""
        if location in self._files:
            return self._files[location]
        parts = location.split("/")
        if not location or "\\" in location or "\0" in location or ":" in location or any(part in ("", "..") for part in parts):
            raise UnusableModelError(
                f"{self._where} looks for {name} in {shown(location)!r}, but only files in its own folder are opened: "
                "save it again with its weights beside it."
            )
        place = self._folder
        try:
            for part in parts:
                place = place / part
                if stat.S_ISLNK(place.lstat().st_mode):
                    raise UnusableModelError(
                        f"{self._where} looks for {name} in {shown(location)!r}, which is a symbolic link and is not followed: "
                        "copy the file itself beside the model."
                    )
            with os.fdopen(_open_regular(place), "rb") as stream:
                self._files[location] = stream.read()
        except FileNotFoundError:
            raise UnusableModelError(
                f"{self._where} has its weights in {shown(location)!r}, which is missing: put that file beside it."
            ) from None
        except OSError as error:
            raise UnusableModelError(
                f"{self._where} has its weights in {shown(location)!r}, which cannot be read ({error.strerror}): check that file."
            ) from None
        return self._files[location]

    def _check_size(self, name: str, shape: Sequence[int], wanted: int, given: int, unit: str = "bytes") -> None:
        if wanted != given:
            raise self._error(f"gives {name} the shape {shown(str(tuple(shape)))}, which takes {wanted} {unit}, but holds {given}")

    def _error(self, what: str) -> UnusableModelError:
        return UnusableModelError(f"{self._where} is damaged: it {what}; fetch or export it again.")


def _open_regular(path: Path) -> int:
    """Open a file that is no link, and no pipe or device whose reading would never end."""
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(0, "it is no regular file")
    return handle


def _converted(values: Sequence[float], layout: str) -> np.ndarray:
    """Numbers of a repeated field in the tensor's own type; integers that it does not hold wrap round, as ONNX says nothing else."""
    with np.errstate(all="ignore"):
        return np.array(values, dtype=np.float64 if layout in ("<f4", "<f8") else np.int64).astype(layout)
