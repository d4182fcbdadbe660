"""State dicts and safetensors files that claim too much or are damaged: one sentence each, soon, with little memory."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import pickle
import struct
import time
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._utils import _rebuild_tensor_v2

from precisionkit.errors import UnusableModelError
from precisionkit.models import ZOO, load_model
from tests.programs import zipped

ARCH = "mnist_6_100"
SECONDS = 10


def refused(data: bytes, path: Path, message: str, *, lines: int = 1) -> None:
    path.write_bytes(data)
    start = time.monotonic()
    with pytest.raises(UnusableModelError, match=message) as caught:
        load_model(path, arch=ARCH)
    assert time.monotonic() - start < SECONDS
    assert len(str(caught.value).splitlines()) == lines
    assert len(str(caught.value)) < 1000


def _safetensors(header: Any, body: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def _claim(shape: list[int], offsets: list[int], dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


PAIR = _claim([2], [0, 8])
DAMAGED = "is a damaged or cut off safetensors file"
HEADER = "is not a valid safetensors file: its header is cut off or damaged"
SAFETENSORS: dict[str, tuple[bytes, str]] = {
    "header beyond the file": (_safetensors({"a": PAIR}, bytes(8), 2**40), HEADER),
    "header beyond 63 bits": (_safetensors({"a": PAIR}, bytes(8), 2**64 - 1), HEADER),
    "header is a list": (_safetensors(b"[]"), HEADER),
    "header is no JSON": (_safetensors(b"{xxx"), DAMAGED),
    "nested header": (_safetensors(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"), DAMAGED),
    "empty": (_safetensors({}), "holds no weights"),
    "huge": (_safetensors({"a": _claim([2**40], [0, 8])}, bytes(8)), DAMAGED),
    "overflow": (_safetensors({"a": _claim([2**32, 2**32], [0, 0])}), DAMAGED),
    "huge and empty": (_safetensors({"a": _claim([0, 2**62, 2**62], [0, 0])}), DAMAGED),
    "negative": (_safetensors({"a": _claim([-2], [0, 8])}, bytes(8)), DAMAGED),
    "overlapping": (_safetensors({"a": PAIR, "b": _claim([2], [4, 12])}, bytes(12)), DAMAGED),
    "outside": (_safetensors({"a": _claim([2], [8, 16])}, bytes(8)), DAMAGED),
    "reversed": (_safetensors({"a": _claim([2], [8, 0])}, bytes(8)), DAMAGED),
    "too few": (_safetensors({"a": _claim([3], [0, 8])}, bytes(8)), DAMAGED),
    "too long": (_safetensors({"a": PAIR}, bytes(9)), DAMAGED),
    "unknown type": (_safetensors({"a": _claim([2], [0, 8], "F31")}, bytes(8)), DAMAGED),
    "type of four bits": (_safetensors({"a": _claim([2], [0, 1], "F4")}, bytes(1)), DAMAGED),
    "other metadata": (_safetensors({"__metadata__": {"a": 5}, "a": PAIR}, bytes(8)), DAMAGED),
    "control characters": (_safetensors({"\x1b[31m\n": PAIR}, bytes(8)), r"1 tensor unexpected \(\\x1b\[31m\\n\)"),
    "long name": (_safetensors({"x" * 10**6: PAIR}, bytes(8)), r"1 tensor unexpected \(x+\.\.\.\)"),
}


@pytest.mark.parametrize(("data", "message"), SAFETENSORS.values(), ids=SAFETENSORS)
def test_safetensors_that_claim_too_much(tmp_path: Path, data: bytes, message: str) -> None:
    refused(data, tmp_path / "x.safetensors", message)


class _Call:
    """Pickles as a call."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def _saved(content: object, *, whole: bool) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=whole)
    return stream.getvalue()


def _tensor(size: tuple[int, ...], stride: tuple[int, ...] = (1,), offset: int = 0) -> _Call:
    """A tensor in the bytes of four numbers."""
    return _Call(_rebuild_tensor_v2, torch.ones(4)._typed_storage(), offset, size, stride, False, OrderedDict())


CUT = "is damaged or cut off: its tensors cannot be read"
CLAIMS: dict[str, tuple[object, str]] = {
    "huge": (_tensor((2**40,)), CUT),
    "more than is there": (_tensor((5,)), CUT),
    "overflow": (_tensor((2**32, 2**32), (1, 1)), CUT),
    "negative": (_tensor((-4,)), CUT),
    "offset outside": (_tensor((2,), (1,), 2**40), CUT),
    "negative offset": (_tensor((2,), (1,), -2), CUT),
    "stride outside": (_tensor((2,), (2**40,)), CUT),
    "negative stride": (_tensor((2,), (-1,), 1), CUT),
    "repeated": (_tensor((2**40,), (0,)), "1 tensor unexpected"),
}


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize(("claim", "message"), CLAIMS.values(), ids=CLAIMS)
def test_tensors_that_claim_too_much(tmp_path: Path, claim: object, message: str, whole: bool) -> None:
    refused(_saved({"a": claim}, whole=whole), tmp_path / "x.pt", message)


@pytest.mark.parametrize("whole", [True, False])
def test_a_pickle_cannot_fill_the_memory(tmp_path: Path, whole: bool) -> None:
    refused(_saved({"a": _Call(bytearray, 2**36)}, whole=whole), tmp_path / "x.pt", r"it names __builtin__\.bytearray\)", lines=5)


def _legacy(numbers: int) -> bytes:
    """The format before zip files, with a storage that claims so many numbers and has four."""
    from torch.serialization import MAGIC_NUMBER, PROTOCOL_VERSION

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: object) -> object:
            return ("storage", torch.FloatStorage, "0", "cpu", numbers, None) if isinstance(value, torch.TypedStorage) else None

    stream = io.BytesIO()
    machine = {"protocol_version": PROTOCOL_VERSION, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    for value in (MAGIC_NUMBER, PROTOCOL_VERSION, machine):
        pickle.dump(value, stream, protocol=2)
    Pickler(stream, protocol=2).dump({"a": _tensor((4,))})
    pickle.dump(["0"], stream, protocol=2)
    return stream.getvalue() + struct.pack("<q", numbers) + bytes(16)


@pytest.mark.parametrize("numbers", [2**62, 2**40, 2**33, 5, 0, -5])
def test_legacy_storages_that_claim_another_size(tmp_path: Path, numbers: int) -> None:
    refused(_legacy(numbers), tmp_path / "x.pt", CUT)


def test_a_legacy_file_is_what_the_others_spoil(tmp_path: Path) -> None:
    refused(_legacy(4), tmp_path / "x.pt", "1 tensor unexpected")


def _pickle(opcodes: bytes) -> bytes:
    return zipped({"archive/data.pkl": b"\x80\x02" + opcodes, "archive/version": b"3\n", "archive/byteorder": b"little"})


def _doubled(times: int) -> bytes:
    """A key of tuples of twice the same tuple; its hash takes two to the power of `times`."""
    doublings = b"".join(b"h%ch%c\x86q%c" % (i, i, i + 1) for i in range(times))
    return _pickle(b"]()q\x00" + doublings + b"e}h%cK\x01s\x86." % times)


NESTED = r"holds a pickle of objects nested \d+ deep that repeat each other \d+ times, more than 1000 and 10000000, and is not opened"
PICKLES: dict[str, tuple[bytes, str]] = {
    "doubled forty times": (_doubled(40), NESTED),
    "doubled ten times": (_doubled(10), "holds no weights"),
    "deep key": (_pickle(b"})" + b"\x85" * 20_000 + b"K\x01s."), NESTED),
    "deep list": (_pickle(b"]" * 20_000 + b"a" * 19_999 + b"."), NESTED),
    "number beyond the file": (_pickle(b"\x8b\xff\xff\xff\x7f\x01."), CUT),
    "text beyond the file": (_pickle(b"\x8d" + struct.pack("<Q", 2**60) + b"x."), CUT),
    "unknown opcode": (_pickle(b"\xff."), CUT),
    "no end": (_pickle(b"}"), CUT),
    "nothing": (_pickle(b"."), CUT),
    "stray mark": (_pickle(b"(((t0t."), CUT),
}


@pytest.mark.parametrize(("data", "message"), PICKLES.values(), ids=PICKLES)
def test_pickles_that_would_never_end(tmp_path: Path, data: bytes, message: str) -> None:
    refused(data, tmp_path / "x.pt", message)


def _entries(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _with(name: str, content: bytes | None) -> Callable[[dict[str, bytes]], bytes]:
    """The archive with one entry replaced, or left out."""

    def edit(entries: dict[str, bytes]) -> bytes:
        root = next(iter(entries)).partition("/")[0]
        changed = entries | {f"{root}/{name}": content or b""}
        if content is None:
            del changed[f"{root}/{name}"]
        return zipped(changed)

    return edit


ARCHIVES: dict[str, tuple[Callable[[dict[str, bytes]], bytes], str]] = {
    "no tensor": (_with("data/0", None), CUT),
    "short tensor": (_with("data/0", bytes(8)), CUT),
    "long tensor": (_with("data/0", bytes(10**6)), CUT),
    "no version": (_with("version", None), CUT),
    "later version": (_with("version", b"99\n"), CUT),
    "no number as version": (_with("version", b"x"), CUT),
    "unknown byte order": (_with("byteorder", b"middle"), CUT),
    "deflated": (lambda entries: zipped(entries, zipfile.ZIP_DEFLATED), "which is compressed, as torch never writes"),
    "lzma": (lambda entries: zipped(entries, zipfile.ZIP_LZMA), "which is compressed, as torch never writes"),
}


@pytest.mark.parametrize(("edit", "message"), ARCHIVES.values(), ids=ARCHIVES)
def test_archives_with_wrong_entries(tmp_path: Path, edit: Callable[[dict[str, bytes]], bytes], message: str) -> None:
    refused(edit(_entries(_saved(dict(ZOO[ARCH].build().state_dict()), whole=True))), tmp_path / "x.pt", message)


def _packed_script() -> bytes:
    return zipped({"archive/data.pkl": b".", "archive/code/__torch__.py": b"boom", "archive/constants.pkl": b"."})


OTHERS: dict[str, tuple[bytes, str, int]] = {
    "gzip": (gzip.compress(_saved({}, whole=True)), r"is compressed by gzip \(unpack it first\); give a PyTorch state dict", 1),
    "bzip2": (bz2.compress(_saved({}, whole=True)), r"is compressed by bzip2 \(unpack it first\)", 1),
    "xz": (lzma.compress(_saved({}, whole=True)), r"is compressed by xz \(unpack it first\)", 1),
    "zstd": (b"\x28\xb5\x2f\xfd" + bytes(50), r"is compressed by zstd \(unpack it first\)", 1),
    "7z": (b"7z\xbc\xaf\x27\x1c" + bytes(50), r"is compressed by 7z \(unpack it first\)", 1),
    "script": (_packed_script(), "is a TorchScript archive, and loading it can run code", 5),
}


@pytest.mark.parametrize(("data", "message", "lines"), OTHERS.values(), ids=OTHERS)
def test_other_files(tmp_path: Path, data: bytes, message: str, lines: int) -> None:
    refused(data, tmp_path / "x.pt", message, lines=lines)


@pytest.mark.parametrize("whole", [True, False])
def test_files_cut_anywhere(tmp_path: Path, whole: bool) -> None:
    data = _saved(dict(ZOO[ARCH].build().state_dict()), whole=whole)
    for size in [*range(20, len(data), len(data) // 40), len(data) - 30, len(data) - 1]:
        refused(data[:size], tmp_path / "x.pt", "is damaged or cut off")
