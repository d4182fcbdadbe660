"""Sizes of images: Pillow's resizing and cropping from the middle, as torchvision does them to Pillow's images."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from precisionkit.errors import UnusableDataError, UsageError

INTERPOLATIONS = ("bilinear", "bicubic", "nearest", "box", "hamming", "lanczos")

_MOST_PIXELS = 1 << 27  # of a resized image, near Pillow's own limit for one that it opens


def check_size(what: str, size: tuple[int, int]) -> None:
    """Refuse a size without pixels, or with too many."""
    if min(size) < 1:
        raise UsageError(f"Images cannot be {what} to {min(size)} pixels: the side must be at least 1.")
    if size[0] * size[1] > _MOST_PIXELS:
        raise UsageError(f"Images cannot be {what} to {size[0]}x{size[1]} pixels: at most {_MOST_PIXELS} are allowed.")


def shorter_to(side: int, height: int, width: int) -> tuple[int, int]:
    """Height and width once the shorter side has the given length; the longer is rounded down, as by torchvision."""
    longer = int(side * max(height, width) / min(height, width))
    if side * longer > _MOST_PIXELS:
        raise UnusableDataError(
            f"An image of {width}x{height} pixels (width x height) would have {longer}x{side} once its shorter side is resized to {side}, "
            f"but at most {_MOST_PIXELS} pixels are allowed: remove it."
        )
    return (side, longer) if height <= width else (longer, side)


def resized_by_pillow(image: np.ndarray, size: tuple[int, int], interpolation: str) -> np.ndarray:
    """Resize bytes, (H, W) or (H, W, C) with one or three channels, to (height, width)."""
    try:
        from PIL import Image
    except ImportError:
        raise UnusableDataError(
            "Resizing images needs Pillow: pip install 'precisionkit[vision]', or give images of the network's own size."
        ) from None
    if image.ndim == 3 and image.shape[2] == 1:
        return resized_by_pillow(image[:, :, 0], size, interpolation)[:, :, np.newaxis]
    if image.ndim == 3 and image.shape[2] != 3:
        raise UnusableDataError(f"Images of {image.shape[2]} channels cannot be resized: give one channel or three, or resize them first.")
    picture = Image.fromarray(np.ascontiguousarray(image))
    return np.asarray(picture.resize((size[1], size[0]), Image.Resampling[interpolation.upper()]))


def centre_crop(batch: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Cut (height, width) from the middle of (n, C, H, W); what is smaller is padded with zeros, the odd pixel behind."""
    missing = [max(wanted - there, 0) for wanted, there in zip(size, batch.shape[2:], strict=True)]
    if any(missing):
        padding = [part for gap in reversed(missing) for part in (gap // 2, (gap + 1) // 2)]
        batch = functional.pad(batch, padding)
    top, left = (round((there - wanted) / 2) for wanted, there in zip(size, batch.shape[2:], strict=True))
    return batch[:, :, top : top + size[0], left : left + size[1]].contiguous()
