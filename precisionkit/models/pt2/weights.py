"""The tensors of an exported program, from raw bytes."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from precisionkit.errors import UnusableModelError
from precisionkit.models.archive import Archive
from precisionkit.models.files import shown
from precisionkit.models.pt2.schema import DTYPES, STRIDED, Payload, Payloads, Size, TensorMeta, damaged, decode

WEIGHTS, CONSTANTS = "weights", "constants"
"""Folders of tensors: parameters and buffers; other constants."""

_PATH = re.compile(r"(weight|tensor)_[0-9]{1,9}")
_MOST_DIMENSIONS = 64  # torch's own limit
_MOST_SHARING = 2  # views of the same bytes count as often as they are named, since a cast would copy them

RENEW = "where you trust it, write it again by torch.export.save(torch.export.load(OLD), NEW) in PyTorch 2.9 or later"
"""The way out of an old format."""

Place = tuple[str, int, tuple[int, ...], tuple[int, ...], int]
"""File, dtype, sizes, strides and offset: tensors at the same place are one tensor under two names."""


def read_tensors(archive: Archive, folder: str, where: str) -> dict[str, Tensor]:
    """Return the tensors of one folder by their names in the module; a parameter is an `nn.Parameter` without gradient."""
    name = f"data/{folder}/model_{folder}_config.json"
    if name not in archive:
        raise UnusableModelError(
            f"{where} is an exported program without {name}, as PyTorch before 2.9 wrote it with pickled weights, which are not opened: "
            f"{RENEW}."
        )
    payloads = decode(archive.read(name), Payloads, name, where).config
    storages: dict[str, bytearray] = {}
    found: dict[tuple[Place, bool], Tensor] = {}
    tensors = {}
    for key, payload in payloads.items():
        meta = _checked(payload, key, where)
        path = f"data/{folder}/{payload.path_name}"
        if path not in storages:
            if path not in archive:
                raise damaged(where, f"the bytes of the tensor {shown(key)}, {shown(path)}, are missing")
            storages[path] = bytearray(archive.read(path))
        place = _place(payload.path_name, meta, key, where)
        if (place, payload.is_param) not in found:
            tensor = _tensor(storages[path], place, key, where)
            found[place, payload.is_param] = nn.Parameter(tensor, requires_grad=False) if payload.is_param else tensor
        tensors[key] = found[place, payload.is_param]
    _check_total(found, storages, folder, where)
    return tensors


def _checked(payload: Payload, key: str, where: str) -> TensorMeta:
    if payload.use_pickle or payload.tensor_meta is None:
        raise UnusableModelError(
            f"{where} stores {shown(key)} as a pickle, which can run code and is not opened: export a model of plain tensors."
        )
    if not _PATH.fullmatch(payload.path_name):
        raise damaged(where, f"the tensor {shown(key)} is said to be in {shown(payload.path_name)}")
    if payload.tensor_meta.dtype not in DTYPES or payload.tensor_meta.layout != STRIDED:
        raise UnusableModelError(
            f"{where} holds the tensor {shown(key)} in the type {payload.tensor_meta.dtype} and layout {payload.tensor_meta.layout} of "
            "torch's schema, but only dense real tensors are read: export an unquantised, dense model."
        )
    return payload.tensor_meta


def _place(path: str, meta: TensorMeta, key: str, where: str) -> Place:
    numbers = [_number(size, key, where) for size in (*meta.sizes, *meta.strides, meta.storage_offset)]
    dimensions = len(meta.sizes)
    if len(meta.strides) != dimensions or dimensions > _MOST_DIMENSIONS:
        raise damaged(where, f"the tensor {shown(key)} has {dimensions} sizes and {len(meta.strides)} strides")
    return path, meta.dtype, tuple(numbers[:dimensions]), tuple(numbers[dimensions:-1]), numbers[-1]


def _number(size: Size, key: str, where: str) -> int:
    if size.as_int is None or size.as_int < 0:
        raise damaged(where, f"the tensor {shown(key)} has a size, stride or offset that is not a number of at least 0")
    return size.as_int


def _tensor(storage: bytearray, place: Place, key: str, where: str) -> Tensor:
    _, code, sizes, strides, offset = place
    dtype = DTYPES[code]
    available = len(storage) // dtype.itemsize
    needed = math.prod(sizes)
    last = offset + sum((n - 1) * stride for n, stride in zip(sizes, strides, strict=True)) if needed else 0
    if needed > available or (needed and last >= available):
        raise damaged(
            where,
            f"the tensor {shown(key)} of the sizes {shown(str(sizes))} takes {shown(str(max(needed, last + 1)))} numbers, "
            f"but {available} are stored",
        )
    if dtype is torch.bool and max(storage, default=0) > 1:
        raise damaged(where, f"the truth values of the tensor {shown(key)} are neither 0 nor 1")
    try:
        if not needed:
            return torch.empty(sizes, dtype=dtype)
        return torch.frombuffer(storage, dtype=dtype, count=available).as_strided(sizes, strides, offset)
    except (RuntimeError, OverflowError, TypeError):  # sizes beyond 63 bits, where a dimension has one entry or none
        raise damaged(where, f"the tensor {shown(key)} has impossible sizes or strides") from None


def _check_total(found: Mapping[tuple[Place, bool], Tensor], storages: Mapping[str, bytearray], folder: str, where: str) -> None:
    claimed = sum(tensor.numel() * tensor.dtype.itemsize for tensor in found.values())
    stored = sum(map(len, storages.values()))
    if claimed > _MOST_SHARING * stored:
        raise damaged(where, f"its {folder} take {claimed} bytes, but {stored} are stored")
