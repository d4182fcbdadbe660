"""Read one image file as bytes."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from precisionkit.errors import UnusableDataError

_GREY = ("1", "L")
_WIDE = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")


def read_image(path: Path) -> np.ndarray:
    """Return (H, W) for a grey image and (H, W, 3) for any other, uint8."""
    try:
        from PIL import Image
    except ImportError:
        raise UnusableDataError(f"Reading the image {path} needs Pillow: pip install precisionkit[vision].") from None
    try:
        with _no_warnings(), Image.open(path) as image:
            if image.mode in _WIDE:
                raise UnusableDataError(
                    f"The image {path} has more than 8 bits per channel ({image.mode}): convert it to 8 bits, or use .npz."
                )
            return np.asarray(image.convert("L" if image.mode in _GREY else "RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        raise UnusableDataError(f"The image {path} cannot be read: it is damaged or no image; repair or remove it.") from None


@contextmanager
def _no_warnings() -> Iterator[None]:
    """Silence Pillow's warnings about odd metadata: what matters is whether the pixels can be read."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
