"""Write reports: first to a temporary file beside the target, then renamed, so that nothing is ever half-written."""

from __future__ import annotations

import csv
import io
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from precisionkit.errors import ReportError, UsageError
from precisionkit.report.records import Input, Report

COLUMNS = Input.__struct_fields__
TABLE_SUFFIXES = (".csv", ".parquet")


def check_writable(path: str | Path, *, table: bool = False) -> None:
    """Refuse, before a long run, a report that could not be written.

    Raises
    ------
    UsageError
        A table has another suffix than .csv or .parquet.
    ReportError
        The target is a folder, or its folder is missing or not writable, or pyarrow is missing for a .parquet file.
    """
    target = Path(path)
    if table and target.suffix not in TABLE_SUFFIXES:
        raise UsageError(f"The table '{path}' has the suffix '{target.suffix}'; name it with one of {', '.join(TABLE_SUFFIXES)}.")
    if table and target.suffix == ".parquet":
        _import_parquet()
    if target.is_dir():
        raise ReportError(f"The file '{path}' is a folder; name a file in it.")
    if target.exists() and not target.stat().st_mode & 0o222:
        raise ReportError(f"The file '{path}' is there already and is read-only; choose another name.")
    folder = target.absolute().parent
    if not folder.is_dir():
        raise ReportError(f"The file '{path}' cannot be written, because the folder '{folder}' does not exist; create it first.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ReportError(f"The file '{path}' cannot be written, because the folder '{folder}' is not writable; choose another one.")


def check_outputs(outputs: Mapping[str, Path | None], inputs: Iterable[str | Path | None]) -> None:
    """`check_writable` for the files that options name, and no two the same, and none that is read.

    Parameters
    ----------
    outputs : mapping of option to path
        ``--table`` is a table.
    inputs : iterable of paths
        Of what is read; others are no matter.

    Raises
    ------
    UsageError, ReportError
        As `check_writable`; two options name one file, or one names a file that is read.
    """
    taken = {Path(path).resolve(): f"'{path}', which is read" for path in inputs if path is not None and Path(path).is_file()}
    for option, path in outputs.items():
        if path is None:
            continue
        check_writable(path, table=option == "--table")
        if (target := path.resolve()) in taken:
            raise UsageError(f"{option} would overwrite {taken[target]}; choose another name.")
        taken[target] = f"the file of {option}"


def write_json(report: object, path: str | Path) -> None:
    """Write a report, or anything of msgspec's kinds, as JSON; numbers that are not finite are null.

    Raises
    ------
    ReportError
        It could not be written; an older file of that name is left as it was.
    """
    write_file(path, msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")


def write_table(report: Report, path: str | Path) -> None:
    """Write one row for each input, as .csv or .parquet (which needs pyarrow).

    Raises
    ------
    ReportError, UsageError
        As `check_writable` and `write_json`.
    """
    suffix = Path(path).suffix
    if suffix == ".csv":
        write_file(path, csv_bytes(COLUMNS, ([getattr(item, name) for name in COLUMNS] for item in report.inputs)))
    elif suffix == ".parquet":
        write_file(path, _parquet(report))
    else:
        check_writable(path, table=True)


def csv_bytes(header: Iterable[str], rows: Iterable[Iterable[object]]) -> bytes:
    """Return a table as CSV, with the header as its first row."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue().encode()


def _import_parquet() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ReportError("A .parquet table needs pyarrow: pip install 'precisionkit[parquet]', or name a .csv file.") from error
    return pyarrow, pyarrow.parquet


def _parquet(report: Report) -> bytes:
    pyarrow, parquet = _import_parquet()
    kinds = dict.fromkeys(("index", "label", "prediction_reference", "prediction_half"), "int64") | dict.fromkeys(
        ("verdict", "method", "reason"), "string"
    )
    fields = [(name, getattr(pyarrow, kinds.get(name, "float64"))()) for name in COLUMNS]
    columns = {name: [getattr(item, name) for item in report.inputs] for name in COLUMNS}
    table = pyarrow.table(columns, schema=pyarrow.schema(fields))
    sink = io.BytesIO()
    parquet.write_table(table, sink)
    return sink.getvalue()


def write_file(path: str | Path, content: bytes) -> None:
    """Write beside the target, flush to the disk, rename; raises ReportError, and then an older file is left as it was."""
    target = Path(path)
    temporary: Path | None = None
    try:
        with tempfile.NamedTemporaryFile(dir=target.absolute().parent, prefix=f".{target.name}.", delete=False) as file:
            temporary = Path(file.name)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        mode = 0o666 & ~_umask()
        temporary.chmod(mode)
        temporary.replace(target)
    except OSError as error:
        raise ReportError(
            f"The file '{path}' could not be written ({error.strerror or error}) and nothing of it was left behind; "
            "free some space or choose another place."
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _umask() -> int:
    """The process's mask, which temporary files ignore."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
