"""Load a data set by name, from a file, or from a folder."""

from __future__ import annotations

import os
from pathlib import Path

from precisionkit.data.dataset import Arrays, Dataset, make_dataset
from precisionkit.data.download import download as fetch
from precisionkit.data.folder import read_class_folders
from precisionkit.data.function import read_function
from precisionkit.data.hub import PREFIX, read_hub
from precisionkit.data.named import NAMED, SPLITS, NamedSet
from precisionkit.data.npy import is_npy, read_npy
from precisionkit.data.npz import read_npz
from precisionkit.data.tables import is_saved, parquet_files, read_parquet, read_saved
from precisionkit.errors import UnusableDataError, UsageError, shown
from precisionkit.user_code import is_named

_VARIABLE = "PRECISIONKIT_DATA"
_FILES = (".npz", ".npy", ".parquet")


def load_dataset(
    source: str,
    *,
    split: str = "test",
    root: str | Path | None = None,
    skip: int = 0,
    limit: int | None = None,
    download: bool | None = None,
) -> Dataset:
    """Load a data set.

    Parameters
    ----------
    source : str
        A known name; a file .npz, .npy (with its labels beside it, or ``IMAGES.npy,LABELS.npy``) or .parquet; a folder with one
        subfolder of images per class, of Parquet files, or of `datasets.save_to_disk`; ``hf:OWNER/NAME[:CONFIGURATION]`` on Hugging
        Face's hub; or ``package.module:function``, which is imported and returns batches.
    split : str
        ``test`` or ``train`` of a known name; the part of a folder or of a set on the hub that has parts.
    root : str or Path or None
        Where named sets lie; by default $PRECISIONKIT_DATA, else a folder in the user's cache.
    skip : int
        Leave out so many images at the beginning.
    limit : int or None
        Keep only the first images, behind those that are skipped.
    download : bool or None
        Whether a set that is not found may be fetched; None allows it for known names and forbids it for the hub.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"The limit {limit} leaves no images: give at least 1.")
    if skip < 0:
        raise UsageError(f"The number {skip} of images to skip is negative: give 0 or more.")
    last = None if limit is None else skip + limit
    if source in NAMED:
        entry = NAMED[source]
        if split not in SPLITS:
            raise UsageError(f"Unknown split {shown(split)!r}: give one of {', '.join(SPLITS)}.")
        found = _named(entry, split, Path(root) if root else _default_root(), download=download is not False)
        arrays = Arrays(found.images, found.labels, entry.class_names, split=split)
    elif source.startswith(PREFIX):
        arrays = read_hub(source, split, last, download=download is True)
    else:
        arrays = _from_path(source, split, last)
    return make_dataset(arrays, name=source, skip=skip, limit=limit)


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


def _from_path(source: str, split: str, limit: int | None) -> Arrays:
    path = Path(source)
    if path.is_dir():
        return _from_folder(path, split, limit)
    if is_npy(source):
        return read_npy(source)
    if path.suffix in _FILES and not path.is_file():
        raise UnusableDataError(f"The data file {source} does not exist: check the path.")
    if path.suffix == ".npz":
        return read_npz(path)
    if path.suffix == ".parquet":
        return read_parquet(source, split, limit)
    if path.is_file():
        raise UnusableDataError(
            f"The data file {source} is not an .npz file, nor {', '.join(_FILES[1:])}: write one with numpy.savez(FILE, images=, labels=)."
        )
    if is_named(source):
        return read_function(source, limit=limit)
    raise UnusableDataError(
        f"The data set {shown(source)!r} is neither a known name ({', '.join(NAMED)}) nor an existing .npz file or folder, nor "
        "package.module:function: check the spelling."
    )


def _from_folder(folder: Path, split: str, limit: int | None) -> Arrays:
    if is_saved(folder):
        return read_saved(folder, split, limit)
    if parquet_files(folder):
        return read_parquet(str(folder), split, limit)
    return read_class_folders(folder, limit=limit)
