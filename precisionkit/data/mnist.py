"""Find MNIST and Fashion-MNIST, which share file names and layout, in a data folder."""

from __future__ import annotations

from pathlib import Path

from precisionkit.data.dataset import Arrays
from precisionkit.data.idx import read_idx

_STEMS = {"test": "t10k", "train": "train"}


def read_folder(folder: Path, split: str) -> Arrays | None:
    """Return the split in a folder of idx files, or None when it is not there."""
    images = _file(folder, f"{_STEMS[split]}-images", 3)
    labels = _file(folder, f"{_STEMS[split]}-labels", 1)
    if images is None or labels is None:
        return None
    return Arrays(read_idx(images, axes=3), read_idx(labels, axes=1))


def read_unnamed_folder(folder: Path, split: str, first_labels: dict[str, tuple[int, ...]]) -> Arrays | None:
    """Return the split in a folder whose name does not tell which of the two sets it is; the first labels must be as given."""
    found = read_folder(folder, split)
    if found is None or found.labels is None:
        return None
    expected = first_labels[split]
    return found if tuple(found.labels[: len(expected)].tolist()) == expected else None


def _file(folder: Path, stem: str, axes: int) -> Path | None:
    for name in (f"{stem}-idx{axes}-ubyte", f"{stem}.idx{axes}-ubyte"):  # unpackers on some systems turn the dash into a dot
        for path in (folder / name, folder / f"{name}.gz"):
            if path.is_file():
                return path
    return None
