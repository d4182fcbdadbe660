"""Load a data set by name, from a file, or from a folder."""

from __future__ import annotations

import os
from pathlib import Path

from precisionkit.data.dataset import Arrays, Dataset, make_dataset
from precisionkit.data.download import download as fetch
from precisionkit.data.folder import read_class_folders
from precisionkit.data.named import NAMED, SPLITS, NamedSet
from precisionkit.data.npz import read_npz
from precisionkit.errors import UnusableDataError, UsageError

_VARIABLE = "PRECISIONKIT_DATA"


def load_dataset(
    source: str, *, split: str = "test", root: str | Path | None = None, limit: int | None = None, download: bool = True
) -> Dataset:
    """Load a data set.

    Parameters
    ----------
    source : str
        A known name, an .npz file, or a folder with one subfolder of images per class.
    split : str
        ``test`` or ``train``; files and folders have only one part.
    root : str or Path or None
        Where named sets lie; by default $PRECISIONKIT_DATA, else a folder in the user's cache.
    limit : int or None
        Keep only the first images.
    download : bool
        Whether torchvision may fetch a named set that is not found.
    """
    if split not in SPLITS:
        raise UsageError(f"Unknown split {split!r}: give one of {', '.join(SPLITS)}.")
    if limit is not None and limit < 1:
        raise UsageError(f"The limit {limit} leaves no images: give at least 1.")
    if source in NAMED:
        entry = NAMED[source]
        arrays = _named(entry, split, Path(root) if root else _default_root(), download=download)
        return make_dataset(Arrays(arrays.images, arrays.labels, entry.class_names), name=source, split=split, limit=limit)
    return make_dataset(_from_path(source, limit), name=source, split="all", limit=limit)


def _default_root() -> Path:
    named = os.environ.get(_VARIABLE)
    return Path(named) if named else Path.home() / ".cache" / "precisionkit"


def _named(entry: NamedSet, split: str, root: Path, *, download: bool) -> Arrays:
    found = _find(entry, split, root)
    if found is not None:
        return found
    where = root if root.is_dir() else f"{root}, a folder that does not exist"
    why = "downloading is switched off"
    if download and entry.torchvision is not None:
        why = fetch(entry.torchvision, root, split) or "the download left it incomplete"
        found = _find(entry, split, root)
        if found is not None:
            return found
    layouts = ", ".join(layout.text for layout in entry.layouts)
    raise UnusableDataError(
        f"The {split} images of {entry.name} are not under {where}, and {why}: put them there in one of the layouts {layouts}, "
        f"or name another folder with --data-root or {_VARIABLE}, or give an .npz file (images, labels) or a folder with one subfolder "
        "of images per class as the data."
    )


def _find(entry: NamedSet, split: str, root: Path) -> Arrays | None:
    for layout in entry.layouts:
        found = layout.read(root, split)
        if found is not None:
            return found
    return None


def _from_path(source: str, limit: int | None) -> Arrays:
    path = Path(source)
    if path.is_dir():
        return read_class_folders(path, limit=limit)
    if path.suffix == ".npz":
        if not path.is_file():
            raise UnusableDataError(f"The data file {source} does not exist: check the path.")
        return read_npz(path)
    if path.is_file():
        raise UnusableDataError(f"The data file {source} is not an .npz file: write one with numpy.savez(FILE, images=, labels=).")
    raise UnusableDataError(
        f"The data set {source!r} is neither a known name ({', '.join(NAMED)}) nor an existing .npz file or folder: check the spelling."
    )
