"""Fetch a named data set with torchvision, if it is installed."""

from __future__ import annotations

import contextlib
import io
import logging
import socket
from collections.abc import Iterator
from pathlib import Path

_LOG = logging.getLogger("precisionkit")
_PATIENCE = 20.0  # seconds that one network call may take


def download(torchvision_class: str, root: Path, split: str) -> str | None:
    """Fetch a set into the root in torchvision's layout; return None, or why it failed."""
    try:
        from torchvision import datasets
    except ImportError:
        return "torchvision is not installed"
    _LOG.info("Fetching %s with torchvision into %s.", torchvision_class, root)
    there = set(root.rglob("*")) | {root} if root.is_dir() else set()
    try:
        root.mkdir(parents=True, exist_ok=True)
        with patience(), contextlib.redirect_stdout(io.StringIO()):  # stdout belongs to results
            getattr(datasets, torchvision_class)(str(root), train=split == "train", download=True)
    except (OSError, RuntimeError, ValueError, EOFError) as error:
        _LOG.debug("The download failed.", exc_info=error)
        _remove_new_folders(root, there)
        return f"the download failed ({type(error).__name__}: {str(error).splitlines()[0][:100] if str(error) else 'no reason given'})"
    return None


def _remove_new_folders(root: Path, there: set[Path]) -> None:
    """Take away empty folders that a failed download has made."""
    for folder in [*sorted((p for p in root.rglob("*") if p.is_dir()), reverse=True), root]:
        if folder not in there and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


@contextlib.contextmanager
def patience() -> Iterator[None]:
    """Limit how long one network call may take."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_PATIENCE)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
