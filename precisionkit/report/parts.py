"""What the records of several reports have in common: numbers, the model, the data, the arithmetic."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

Count = Annotated[int, msgspec.Meta(ge=0)]
Seconds = Annotated[float, msgspec.Meta(ge=0)]
Size = Annotated[float, msgspec.Meta(ge=0)]
Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class _Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the records."""


class ModelInfo(_Record, frozen=True, kw_only=True):
    """The model: where it was read from, the hash of the file's bytes, its architecture, how many numbers were trained."""

    path: str
    sha256: Sha256
    arch: str
    parameters: Count


class DataInfo(_Record, frozen=True, kw_only=True):
    """The data set: how many inputs were asked for, and the hash of images and labels."""

    name: str
    split: str
    inputs: Count
    sha256: Sha256


class ArithmeticInfo(_Record, frozen=True, kw_only=True):
    """The half program's formats, summation order and fusion, the reference program's arithmetic, and all that is assumed of both.

    `kept` and `kept_sums` are nodes that the half program computes, or sums, in binary32.
    """

    storage: str
    accumulate: str
    order: str
    fuse: Literal["none", "epilogue"]
    reference: str
    assumptions: tuple[str, ...]
    kept: tuple[str, ...] = ()
    kept_sums: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """The half program in a line: its formats, order, fusion, and how much of it is kept in binary32."""
        parts = [self.storage, f"sums in {self.accumulate}", f"order {self.order}"]
        parts += ["fused epilogues"] if self.fuse == "epilogue" else []
        parts += [f"{_nodes(self.kept)} kept in binary32"] if self.kept else []
        parts += [f"sums of {_nodes(self.kept_sums)} kept in binary32"] if self.kept_sums else []
        return ", ".join(parts)


def _nodes(names: tuple[str, ...]) -> str:
    return f"{len(names)} node{'s' * (len(names) != 1)}"
