"""Data sets in tables: Parquet files, data sets that Hugging Face's library saved, or that it keeps in its cache.

Rows are read when they are needed, a few at a time.  Needs pyarrow.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from precisionkit.data.columns import Form, Roles, encoded, find_roles, labels_of, numbers
from precisionkit.data.dataset import Arrays
from precisionkit.data.fingerprint import FileDigest
from precisionkit.data.images import Header, common, decode, read_header
from precisionkit.data.inputs import LazyInputs, Replay, stacked
from precisionkit.errors import UnusableDataError, shown

_AT_ONCE = 64  # rows
_MOST_ROWS = 1 << 28  # labels of more would fill the memory, and a small file can announce any number
_PARTS = {"train": "train", "test": "test", "validation": "validation", "val": "validation", "dev": "validation"}


class Rows(Protocol):
    """A table whose rows are read in order from any of them on."""

    @property
    def where(self) -> str:
        """Its name in messages."""

    @property
    def schema(self) -> Any:
        """Of Arrow."""

    @property
    def length(self) -> int:
        """Number of rows."""

    @property
    def files(self) -> Sequence[Path]:
        """That hold it."""

    def batches(self, start: int, columns: list[str]) -> Iterator[Any]:
        """Tables of at most `_AT_ONCE` rows, which together are the rows from one on."""


def read_rows(rows: Rows, split: str, limit: int | None) -> Arrays:
    """Return the inputs and labels of a table."""
    if rows.length > _MOST_ROWS:
        raise UnusableDataError(f"{rows.where} has {rows.length} rows, but at most {_MOST_ROWS} are read: split it.")
    length = rows.length if limit is None else min(limit, rows.length)
    if not length:
        raise UnusableDataError(f"{rows.where} holds no rows: give at least one.")
    roles = find_roles(rows.schema, rows.where)
    labels = None if roles.label is None else _labels(rows, roles.label, length)
    digest = FileDigest()
    for path in rows.files:
        digest.add(path.name, path)
    images = _pictures(rows, roles, length) if roles.form is Form.PICTURES else _numbers(rows, roles, length)
    return Arrays(images, labels, roles.class_names, digest.finished(length if labels is None else labels), split)


def _labels(rows: Rows, name: str, length: int) -> np.ndarray | None:
    import pyarrow

    pieces = [table.column(name) for table in _first(rows.batches(0, [name]), length)]
    whole = pyarrow.chunked_array([chunk for piece in pieces for chunk in piece.chunks], type=rows.schema.field(name).type)
    return labels_of(whole, name, rows.where)


def _first(tables: Iterator[Any], length: int) -> Iterator[Any]:
    """The tables up to a number of rows."""
    while length > 0:
        table = next(tables, None)
        if table is None:
            return
        yield table.slice(0, length)
        length -= len(table)


def _pictures(rows: Rows, roles: Roles, length: int) -> LazyInputs:
    name = roles.inputs[0]

    def pieces(start: int) -> Iterator[list[bytes]]:
        return (encoded(table, name, rows.where) for table in rows.batches(start, roles.read))

    kind = common(_headers(itertools.islice(itertools.chain.from_iterable(pieces(0)), length), rows.where))
    replay = Replay(pieces, rows.where)

    def read(start: int, stop: int) -> np.ndarray:
        data = itertools.chain.from_iterable(replay.read(start, stop))
        return stacked([decode(one, _image(place, rows.where), grey=kind.grey) for place, one in enumerate(data, start)])

    return LazyInputs((length, *kind.shape), np.dtype(np.uint8), read)


def _headers(data: Iterator[bytes], where: str) -> Iterator[Header]:
    return (read_header(one, _image(place, where)) for place, one in enumerate(data))


def _image(place: int, where: str) -> str:
    return f"Image {place} of {where[:1].lower()}{where[1:]}"


def _numbers(rows: Rows, roles: Roles, length: int) -> LazyInputs:
    def pieces(start: int) -> Iterator[np.ndarray]:
        return (numbers(table, roles, rows.where) for table in rows.batches(start, roles.read))

    replay = Replay(pieces, rows.where)
    first = replay.read(0, 1)[0]
    width, dtype = first.shape[1], first.dtype
    if not width:
        raise UnusableDataError(f"{rows.where} has rows without numbers in the column {shown(roles.inputs[0])}: fill them.")

    def read(start: int, stop: int) -> np.ndarray:
        found = replay.read(start, stop)
        if wrong := next((piece.shape[1] for piece in found if piece.shape[1] != width), None):
            raise UnusableDataError(f"{rows.where} has rows of {wrong} numbers, but its first has {width}: cut them to one length.")
        return np.concatenate(found)

    return LazyInputs((length, width), dtype, read)


@dataclass(frozen=True)
class ParquetRows:
    """Parquet files, one after the other."""

    where: str
    schema: Any
    files: Sequence[Path]
    groups: Sequence[tuple[Path, int, int]]  # file, number of the row group in it, rows

    @property
    def length(self) -> int:
        """Number of rows."""
        return sum(rows for _, _, rows in self.groups)

    @classmethod
    def open(cls, paths: Sequence[Path], limit: int | None, where: str) -> ParquetRows:
        """Read the footers of the files, as far as the first `limit` rows go."""
        _need_pyarrow(where)
        import pyarrow.parquet as parquet

        schema, files, groups = None, list[Path](), list[tuple[Path, int, int]]()
        for path in paths:
            with _arrow_errors(f"The file {path}"), parquet.ParquetFile(path) as file:
                schema = _same_schema(schema, file.schema_arrow, path)
                files.append(path)
                groups += [(path, number, file.metadata.row_group(number).num_rows) for number in range(file.metadata.num_row_groups)]
            if limit is not None and sum(rows for _, _, rows in groups) >= limit:
                break
        return cls(where, schema, files, groups)

    def batches(self, start: int, columns: list[str]) -> Iterator[Any]:
        """Tables of a few rows, from one on; of the first row group, rows are read from its beginning."""
        import pyarrow
        import pyarrow.parquet as parquet

        for path, number, rows in self.groups:
            if start >= rows:
                start -= rows
                continue
            with _arrow_errors(f"The file {path}"), parquet.ParquetFile(path) as file:
                for batch in file.iter_batches(_AT_ONCE, row_groups=[number], columns=columns, use_threads=False):
                    if start < len(batch):
                        yield pyarrow.Table.from_batches([batch.slice(start)])
                    start = max(0, start - len(batch))


@dataclass(frozen=True)
class ArrowRows:
    """Arrow files, mapped into memory."""

    where: str
    table: Any
    files: Sequence[Path]

    @property
    def schema(self) -> Any:
        """Of Arrow."""
        return self.table.schema

    @property
    def length(self) -> int:
        """Number of rows."""
        return len(self.table)

    @classmethod
    def open(cls, paths: Sequence[Path], where: str) -> ArrowRows:
        """Map the files."""
        _need_pyarrow(where)
        import pyarrow

        schema, tables = None, []
        for path in paths:
            with _arrow_errors(f"The file {path}"):
                table = pyarrow.ipc.open_stream(pyarrow.memory_map(str(path))).read_all()
                schema = _same_schema(schema, table.schema, path)
                tables.append(table)
        return cls(where, pyarrow.concat_tables(tables), paths)

    def batches(self, start: int, columns: list[str]) -> Iterator[Any]:
        """Tables of a few rows, from one on, checked before they are used: a damaged file could point anywhere."""
        chosen = self.table.select(columns)
        for first in range(start, self.length, _AT_ONCE):
            with _arrow_errors(self.where):
                part = chosen.slice(first, _AT_ONCE)
                part.validate(full=True)
                yield part


def parquet_files(folder: Path) -> list[Path]:
    """Parquet files in a folder or in its subfolders."""
    return sorted(path for pattern in ("*.parquet", "*/*.parquet") for path in folder.glob(pattern) if path.is_file())


def read_parquet(source: str, split: str, limit: int | None) -> Arrays:
    """Return the inputs and labels in one file, or in those files of a folder whose names start with the split."""
    where, part = f"The data set {source}", "all"
    paths = parquet_files(Path(source)) if Path(source).is_dir() else [Path(source)]
    parts = {path: _part(path) for path in paths}
    if Path(source).is_dir() and all(parts.values()):
        part = _chosen(split, sorted({str(name) for name in parts.values()}), source)
        paths = [path for path in paths if parts[path] == part]
    return read_rows(ParquetRows.open(paths, limit, where), part, limit)


def _chosen(split: str, there: list[str], source: str) -> str:
    """The part of a folder that a split names."""
    part = next((name for name in (split, _PARTS.get(split)) if name in there), None)
    if part is None:
        listed = ", ".join(shown(name, 30) for name in there[:10])
        raise UnusableDataError(f"The folder {source} has no part {split!r}, but {listed}: give one of them as --split.")
    return part


def _part(path: Path) -> str | None:
    """Part that a file's name starts with, as ``test-00000-of-00001.parquet``."""
    return _PARTS.get(re.split(r"[-_.]", path.stem)[0])


def is_saved(folder: Path) -> bool:
    """Whether `datasets.save_to_disk` wrote the folder."""
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


def read_saved(folder: Path, split: str, limit: int | None) -> Arrays:
    """Return the inputs and labels in a folder of `datasets.save_to_disk`, or in the part of it that the split names."""
    part = "all"
    if (folder / "dataset_dict.json").is_file():
        part = _chosen(split, _listed(folder / "dataset_dict.json", "splits"), str(folder))
        folder = folder / part
    files = [folder / name for name in _listed(folder / "state.json", "_data_files")]
    if not files:
        raise UnusableDataError(f"The folder {folder} names no data files: save it again with save_to_disk.")
    return read_rows(ArrowRows.open(files, f"The data set {folder}"), part, limit)


def _listed(path: Path, key: str) -> list[str]:
    """Names in one of the JSON files; each is the plain name of a file or folder beside it."""
    try:
        listed = json.loads(path.read_bytes())[key]
        names = [item["filename"] if isinstance(item, dict) else item for item in listed]
        if not all(isinstance(name, str) and name == Path(name).name for name in names):
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise UnusableDataError(f"The file {path} is missing or damaged: save the data set again with save_to_disk.") from None
    return names


def _need_pyarrow(where: str) -> None:
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise UnusableDataError(f"{where} is a table, which pyarrow reads: pip install 'precisionkit[parquet]'.") from None


@contextmanager
def _arrow_errors(where: str) -> Iterator[None]:
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError, MemoryError):
        raise UnusableDataError(f"{where} is damaged, cut off, or of another kind: fetch or write it again.") from None


def _same_schema(first: Any, other: Any, path: Path) -> Any:
    if first is not None and not first.equals(other):
        raise UnusableDataError(f"The file {path} has other columns than the files before it: give files of one data set.")
    return other if first is None else first
