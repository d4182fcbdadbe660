"""Recognise what kind of model file a file is from its bytes, without unpickling or executing anything.

A file is read once; what is hashed, inspected and loaded are the same bytes.
"""

from __future__ import annotations

import enum
import hashlib
import io
import tarfile
from dataclasses import dataclass, field
from pathlib import Path

from precisionkit.errors import UnusableModelError
from precisionkit.errors import shown as shown  # used beside the file's own description
from precisionkit.models.archive import Archive
from precisionkit.models.pickles import look_into

FORMATS = "a PyTorch state dict (.pt, .pth, .th), a .safetensors file, an exported program (.pt2) or an .onnx file"

_LARGEST_PICKLE = 64 << 20  # a pickle holds names and shapes; more than this in a zip is damaged or hostile
_PROGRAM_ENTRIES = ("serialized_exported_program.json", "archive_format", "models/model.json")
_LEGACY_MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # what torch.save wrote first before it wrote zip files
_LFS = b"version https://git-lfs"
_LEGACY_PICKLES = 5  # magic number, protocol, machine, object, storage keys
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"7z\xbc\xaf": "7z"}
_DEEPEST = 1000  # objects in objects; checkpoints have ten
_LARGEST_OBJECT = 10_000_000  # parts of one object, counted as often as they appear in it


class Kind(enum.Enum):
    """The kinds of model files that are told apart."""

    SAFETENSORS = enum.auto()
    PICKLE = enum.auto()  # written by torch.save, zip or legacy
    TORCHSCRIPT = enum.auto()
    PROGRAM = enum.auto()  # written by torch.export.save
    ONNX = enum.auto()  # by its name: the format has no mark of its own


@dataclass(frozen=True)
class ModelFile:
    """The bytes of a model file and what they were recognised as.

    Attributes
    ----------
    path : str
        As the user gave it.
    data : bytes
        The whole file.
    kind : Kind
        What the bytes are.
    names : tuple of str
        Classes and functions that its pickle would import; empty for other kinds.
    """

    path: str
    data: bytes = field(repr=False)
    kind: Kind
    names: tuple[str, ...] = ()

    @property
    def sha256(self) -> str:
        """Hexadecimal SHA-256 of the file."""
        return hashlib.sha256(self.data).hexdigest()

    @property
    def code_names(self) -> tuple[str, ...]:
        """Names in its pickle beyond what torch writes for plain tensors."""
        return tuple(name for name in self.names if not _is_plain(name))


def read_model_file(path: str | Path) -> ModelFile:
    """Read a file and recognise it; UnusableModelError in one sentence when it is no model file."""
    data = _read(Path(path))
    where = f"The model file {path}"
    if data.startswith(b"PK"):
        return _recognise_zip(str(path), data)
    if _is_safetensors(data):
        return ModelFile(str(path), data, Kind.SAFETENSORS)
    if Path(path).suffix == ".safetensors":
        raise UnusableModelError(f"{where} is not a valid safetensors file: its header is cut off or damaged; fetch or write it again.")
    if data[:1] == b"\x80":
        if _LEGACY_MAGIC not in data[:32]:
            raise UnusableModelError(
                f"{where} is a bare pickle, not written by torch.save, and is not opened because a pickle can run code: "
                "save the weights with torch.save(model.state_dict(), FILE)."
            )
        return ModelFile(str(path), data, Kind.PICKLE, _look_into(data, _LEGACY_PICKLES, where))
    if Path(path).suffix.lower() == ".onnx" and not data.startswith(_LFS):
        return ModelFile(str(path), data, Kind.ONNX)
    raise UnusableModelError(f"{where} {_what_else(data)}; give {FORMATS}.")


def _is_plain(name: str) -> bool:
    storage = name.startswith("torch.") and name.endswith("Storage")
    return storage or name.startswith(("torch._utils._rebuild", "torch._tensor.", "torch.storage.", "torch.Size", "collections."))


def _read(path: Path) -> bytes:
    where = f"The model file {path}"
    if path.is_dir():
        raise UnusableModelError(f"{where} is a directory: give the file that holds the weights, {FORMATS}.")
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UnusableModelError(f"{where} does not exist: check the path.") from None
    except OSError as error:
        raise UnusableModelError(f"{where} cannot be read ({error.strerror}): check its permissions.") from None
    if not data:
        raise UnusableModelError(f"{where} is empty: fetch or write it again.")
    return data


def _recognise_zip(path: str, data: bytes) -> ModelFile:
    where = f"The model file {path}"
    archive = Archive(data, where)
    if "constants.pkl" in archive or any(name.startswith("code/") for name in archive.names):
        return ModelFile(path, data, Kind.TORCHSCRIPT)
    if any(name in archive for name in _PROGRAM_ENTRIES):
        return ModelFile(path, data, Kind.PROGRAM)
    if "data.pkl" not in archive:
        raise UnusableModelError(f"{where} is a zip archive without a PyTorch model in it; give {FORMATS}.")
    archive.check()
    pickle = archive.read("data.pkl", _LARGEST_PICKLE + 1)
    if len(pickle) > _LARGEST_PICKLE:
        raise UnusableModelError(f"{where} holds a pickle of more than {_LARGEST_PICKLE} bytes and is not opened; give {FORMATS}.")
    return ModelFile(path, data, Kind.PICKLE, _look_into(pickle, 1, where))


def _is_safetensors(data: bytes) -> bool:
    """Whether the bytes start like the format: the length of a JSON header in 8 bytes, then the header."""
    return data[8:9] == b"{" and int.from_bytes(data[:8], "little") <= len(data) - 8


def _what_else(data: bytes) -> str:
    if data.startswith(_LFS):
        return "is only a Git LFS pointer (git lfs pull fetches the file itself)"
    if data.startswith(b"\x89HDF"):
        return "is an HDF5 file, which is not read"
    for start, name in _COMPRESSED.items():
        if data.startswith(start):
            return f"is compressed by {name} (unpack it first)"
    if _is_tar(data):
        return "is a tar archive, the format of PyTorch before 0.4, which is not read"
    try:
        data[:4096].decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < min(len(data), 4096) - 4:
            return "is of no known kind"
    return "is of no known kind" if b"\0" in data[:4096] else "is a text file"


def _is_tar(data: bytes) -> bool:
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
            return archive.next() is not None  # zeros are an empty archive
    except (tarfile.TarError, EOFError, ValueError):
        return False


def _look_into(pickle: bytes, count: int, where: str) -> tuple[str, ...]:
    """Return the names in the pickles; refuse objects that Python could not hash, or not in time."""
    contents = look_into(pickle, count)
    if contents.depth > _DEEPEST or contents.size > _LARGEST_OBJECT:
        raise UnusableModelError(
            f"{where} holds a pickle of objects nested {contents.depth} deep that repeat each other {contents.size} times, more than "
            f"{_DEEPEST} and {_LARGEST_OBJECT}, and is not opened; give {FORMATS}."
        )
    return contents.names


def refuse_other_shapes(given: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    """Raise ValueError for inputs of a shape that a file was not made for."""
    if given != wanted:
        seen, needed = ("x".join(map(str, s)) for s in (given, wanted))
        raise ValueError(f"the file was made for inputs of shape {needed}, not {seen}")
