"""A folder with one subfolder of images per class, in the order of torchvision's ImageFolder; images are decoded when they are needed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from precisionkit.data.dataset import Arrays
from precisionkit.data.fingerprint import FileDigest
from precisionkit.data.images import Header, common, decode, read_header
from precisionkit.data.inputs import LazyInputs, stacked
from precisionkit.errors import UnusableDataError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


def read_class_folders(folder: Path, *, limit: int | None = None) -> Arrays:
    """Return all images, or the first `limit`; grey only when every one is grey."""
    classes = tuple(sorted(entry.name for entry in folder.iterdir() if entry.is_dir()))
    if not classes:
        raise UnusableDataError(f"The folder {folder} has no subfolders: put the images of each class into a subfolder named after it.")
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = _images(folder / name)
        if not found:
            raise UnusableDataError(f"The class folder {folder / name} holds no images ({', '.join(EXTENSIONS)}): fill or remove it.")
        paths += found
        labels += [label] * len(found)
    paths, labels = paths[:limit], labels[:limit]
    digest = FileDigest()
    kind = common(_headers(folder, paths, digest))

    def read(start: int, stop: int) -> np.ndarray:
        return stacked([decode(path, f"The image {path}", grey=kind.grey) for path in paths[start:stop]])

    images = LazyInputs((len(paths), *kind.shape), np.dtype(np.uint8), read)
    return Arrays(images, np.asarray(labels), classes, sha256=digest.finished(np.asarray(labels)))


def _headers(folder: Path, paths: list[Path], digest: FileDigest) -> Iterator[Header]:
    for path in paths:
        if not path.is_file():
            raise UnusableDataError(f"The image {path} is no file, but a broken link or a device: repair or remove it.")
        digest.add(path.relative_to(folder).as_posix(), path)
        yield read_header(path, f"The image {path}")


def _images(folder: Path) -> list[Path]:
    """Images under a folder, links followed, each folder once."""
    seen: set[tuple[int, int]] = set()
    waiting, found = [folder], list[Path]()
    while waiting:
        here = waiting.pop()
        try:
            status = here.stat()
            entries = list(here.iterdir())
        except OSError as error:
            raise UnusableDataError(f"The folder {here} cannot be read ({error.strerror}): check its permissions.") from None
        if (status.st_dev, status.st_ino) in seen:
            raise UnusableDataError(f"The folder {here} is a link to one that is read already: remove the link.")
        seen.add((status.st_dev, status.st_ino))
        folders = [entry for entry in entries if entry.is_dir()]
        waiting += folders
        found += [entry for entry in entries if entry.name.lower().endswith(EXTENSIONS) and entry not in folders]
    return sorted(found, key=lambda path: (str(path.parent), path.name))
