"""A folder with one subfolder of images per class, in the order of torchvision's ImageFolder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from precisionkit.data.dataset import Arrays
from precisionkit.data.images import read_image
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
        found = list(_images(folder / name))
        if not found:
            raise UnusableDataError(f"The class folder {folder / name} holds no images ({', '.join(EXTENSIONS)}): fill or remove it.")
        paths += found
        labels += [label] * len(found)
    images = [read_image(path) for path in paths[:limit]]
    for path, image in zip(paths, images, strict=False):
        if image.shape[:2] != images[0].shape[:2]:
            raise UnusableDataError(
                f"The image {path} is {_size(image)} pixels, but {paths[0]} is {_size(images[0])}: all images must be of one size, "
                "so resize them first."
            )
    if any(image.ndim == 3 for image in images):
        images = [image if image.ndim == 3 else np.repeat(image[:, :, np.newaxis], 3, axis=2) for image in images]
    return Arrays(np.stack(images), np.asarray(labels[:limit]), classes)


def _images(folder: Path) -> Iterator[Path]:
    for here, _, names in sorted(os.walk(folder, followlinks=True)):
        for name in sorted(names):
            if name.lower().endswith(EXTENSIONS):
                yield Path(here) / name


def _size(image: np.ndarray) -> str:
    return f"{image.shape[1]}x{image.shape[0]}"
