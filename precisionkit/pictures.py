"""Pictures of inputs for a report: PNG files in base64, made of the data as they are read."""

from __future__ import annotations

import struct
import zlib
from base64 import b64encode
from collections.abc import Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from precisionkit.data.inputs import Inputs
from precisionkit.report import CERTIFIED, WORST_FIRST, Input, Picture

MOST_PICTURES = 200
LONGEST_SIDE = 64
"""Pixels; larger images are made smaller by averaging squares."""

_DARK = 31
"""No picture can be seen whose bytes are all at most that."""
_COLOURS = {1: 0, 2: 4, 3: 2, 4: 6}
"""PNG's number for channels: grey, grey and alpha, RGB, RGBA."""


def pictures(images: Inputs, inputs: Sequence[Input]) -> tuple[Picture, ...]:
    """Show the inputs that are not certified, at most `MOST_PICTURES`, the most important verdicts first; none where they are no images."""
    left = (item for item in inputs if item.verdict not in CERTIFIED)
    shown = sorted(left, key=lambda item: (WORST_FIRST.index(item.verdict), item.index))
    made = (picture(images[item.index : item.index + 1][0], item.index) for item in shown)
    kept = islice((one for one in made if one is not None), MOST_PICTURES)
    return tuple(sorted(kept, key=lambda one: one.index))


def picture(image: NDArray[np.generic], index: int) -> Picture | None:
    """Show one input, or return None where it is no image.

    Parameters
    ----------
    image : (H, W) or (H, W, C) bytes, or (C, H, W) floating numbers
        Bytes are shown as they are, but multiplied if all are small; floating numbers of one or three channels are scaled.
    """
    if image.dtype == np.uint8 and image.ndim in (2, 3):
        shown, made = _bytes(np.atleast_3d(image))
    elif image.dtype.kind == "f" and image.ndim == 3 and image.shape[0] in (1, 3) and np.isfinite(image).all():
        low, high = float(image.min()), float(image.max())
        shown = np.moveaxis(image.astype(np.float64) - low, 0, 2) * (255 / (high - low) if high > low else 0.0)
        made = "numbers of each image scaled, its least to black and its largest to white"
    else:
        return None
    every = -(-max(shown.shape[:2]) // LONGEST_SIDE)
    if every > 1:
        shown, made = _smaller(shown, every), f"{made}, made smaller by {every}"
    if 0 in shown.shape or shown.shape[2] not in _COLOURS:
        return None
    return Picture(index=index, png=b64encode(png(np.rint(shown).astype(np.uint8))).decode(), made=made)


def _bytes(image: NDArray[np.generic]) -> tuple[NDArray[np.float64], str]:
    """Bytes as they are, or, where all are so small that nothing would be seen, multiplied."""
    shown = image.astype(np.float64)
    largest = int(shown.max(initial=0))
    if not 0 < largest <= _DARK:
        return shown, "bytes as they are"
    return shown * (255 // largest), f"bytes multiplied by {255 // largest}, since they are small"


def _smaller(image: NDArray[np.float64], every: int) -> NDArray[np.float64]:
    """Average squares of pixels; what is left over at the edges is cut off."""
    height, width = max(image.shape[0] // every, 1), max(image.shape[1] // every, 1)
    cut = image[: height * every, : width * every]
    rows = np.add.reduceat(cut, np.arange(height) * every, axis=0)
    sums = np.add.reduceat(rows, np.arange(width) * every, axis=1)
    averages: NDArray[np.float64] = sums / (min(every, cut.shape[0]) * min(every, cut.shape[1]))
    return averages


def png(image: NDArray[np.uint8]) -> bytes:
    """Write (height, width, channels) bytes of 1 to 4 channels as a PNG file."""
    height, width, channels = image.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), image.reshape(height, width * channels)], axis=1)
    header = struct.pack(">IIBBBBB", width, height, 8, _COLOURS[channels], 0, 0, 0)
    chunks = _chunk(b"IHDR", header), _chunk(b"IDAT", zlib.compress(rows.tobytes(), 9)), _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
