"""Data sets by their name on Hugging Face's hub, from the cache of its library; nothing is fetched unless it is asked for."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator
from pathlib import Path

from precisionkit.data.dataset import Arrays
from precisionkit.data.tables import ArrowRows, read_rows
from precisionkit.errors import UnusableDataError, UsageError, first_line, shown

PREFIX = "hf:"

_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?(:[\w.-]+)?")


def read_hub(source: str, split: str, limit: int | None, *, download: bool) -> Arrays:
    """Return one part of ``hf:OWNER/NAME`` or ``hf:OWNER/NAME:CONFIGURATION``."""
    text = source.removeprefix(PREFIX)
    name, _, configuration = text.partition(":")
    if not _NAME.fullmatch(text) or Path(name).exists():
        raise UsageError(
            f"{shown(source)!r} is no name on the hub: give hf:OWNER/NAME or hf:OWNER/NAME:CONFIGURATION; a folder of save_to_disk is "
            "named without hf:."
        )
    files = [Path(file) for file in _cached(name, configuration or None, split, download=download)]
    return read_rows(ArrowRows.open(files, f"The data set {source}"), split, limit)


def _cached(name: str, configuration: str | None, split: str, *, download: bool) -> list[str]:
    try:
        import datasets
    except ImportError:
        raise UnusableDataError(
            f"The data set hf:{name} is read by Hugging Face's library, which is not installed: pip install 'precisionkit[datasets]'."
        ) from None
    try:
        with _offline(not download), contextlib.redirect_stdout(io.StringIO()):  # stdout belongs to results
            found = datasets.load_dataset(name, configuration, split=split)
        return [file["filename"] for file in found.cache_files]
    except Exception as error:  # the library raises errors of many packages
        way_out = "" if download else ", or let it be fetched with --download"
        reason = shown(first_line(error), 200)
        raise UnusableDataError(
            f"The {split} part of hf:{name} cannot be had ({type(error).__name__}: {reason}): check the name and --split{way_out}."
        ) from error


@contextlib.contextmanager
def _offline(switched_off: bool) -> Iterator[None]:
    """Keep the library from the network."""
    import datasets

    before = datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = before or switched_off
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE = before
