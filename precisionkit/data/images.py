"""Read encoded images as bytes; nothing but the usual picture formats is tried."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from precisionkit.errors import UnusableDataError

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

_FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP", "GIF")  # Pillow opens others with programs of their own
_GREY = ("1", "L")
_WIDE = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")


@dataclass(frozen=True)
class Header:
    """What an image says of itself before its pixels are decoded: height and width, and whether it is grey."""

    size: tuple[int, int]
    grey: bool


@dataclass(frozen=True)
class Kind:
    """What a set of images has in common: height and width, if they have, and whether every image is grey."""

    size: tuple[int | None, int | None]
    grey: bool

    @property
    def shape(self) -> tuple[int | None, ...]:
        """Of one image: (H, W), or (H, W, 3) with colours."""
        return self.size if self.grey else (*self.size, 3)


def common(headers: Iterator[Header]) -> Kind:
    """Summarise the headers of one image or more."""
    sizes, grey = set(), True
    for header in headers:
        sizes.add(header.size)
        grey &= header.grey
    heights, widths = ({size[side] for size in sizes} for side in (0, 1))
    return Kind((_only(heights), _only(widths)), grey)


def _only(values: set[int]) -> int | None:
    return next(iter(values)) if len(values) == 1 else None


def read_image(path: Path) -> np.ndarray:
    """Return (H, W) for a grey image and (H, W, 3) for any other, uint8."""
    with _opened(path, f"The image {path}") as picture:
        return np.asarray(picture.convert("L" if picture.mode in _GREY else "RGB"))


def decode(source: Path | bytes, where: str, *, grey: bool) -> np.ndarray:
    """Return (H, W) or (H, W, 3), as asked, uint8; `where` names the image in messages."""
    with _opened(source, where) as picture:
        return np.asarray(picture.convert("L" if grey else "RGB"))


def read_header(source: Path | bytes, where: str) -> Header:
    """Read what an image says of itself, without decoding it."""
    with _opened(source, where) as picture:
        return Header((picture.height, picture.width), picture.mode in _GREY)


@contextmanager
def _opened(source: Path | bytes, where: str) -> Iterator[Picture]:
    try:
        from PIL import Image
    except ImportError:
        what = where[:1].lower() + where[1:]
        raise UnusableDataError(f"Reading {what} needs Pillow: pip install 'precisionkit[vision]'.") from None
    try:
        with _no_warnings(), Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=_FORMATS) as picture:
            if picture.mode in _WIDE:
                raise UnusableDataError(f"{where} has more than 8 bits per channel ({picture.mode}): convert it to 8 bits, or use .npz.")
            yield picture
    except UnusableDataError:
        raise
    except Image.DecompressionBombError:
        raise UnusableDataError(
            f"{where} has more pixels than Pillow opens ({2 * (Image.MAX_IMAGE_PIXELS or 0)}), which could fill the memory: "
            "make it smaller or remove it."
        ) from None
    except Exception:  # damaged images raise many types
        raise UnusableDataError(f"{where} cannot be read: it is damaged or no image; repair or remove it.") from None


@contextmanager
def _no_warnings() -> Iterator[None]:
    """Silence Pillow's warnings about odd metadata: what matters is whether the pixels can be read."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
