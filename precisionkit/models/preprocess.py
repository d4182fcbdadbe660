"""From stored images to the tensor that a network takes, the same way for every data source.

An image of bytes is resized by Pillow and cropped if the network asks for it, divided by `scale`, and normalised per channel, in this
order, which is torchvision's.  The arithmetic is binary32, as in the training code of the known networks, and it is done once: what it
gives is the input of both programs, so its rounding is part of the program, the same for both.  An array of floats is taken as already
preprocessed, one of integers as tokens.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from precisionkit.errors import UnusableDataError, UsageError
from precisionkit.models.resizing import INTERPOLATIONS, centre_crop, check_size, resized_by_pillow, shorter_to

Size = int | tuple[int, int]

_OLD_FIELDS = frozenset({"mean", "std", "scale", "resize"})  # of files that were written before there was Pillow's resizing


@dataclass(frozen=True)
class Preprocess:
    """How images become the input of one network; its rounding is part of the program: the same for both programs.

    Attributes
    ----------
    mean, std : tuple of float, or None
        Per channel, on the scale [0, 1]; None means no normalisation.
    scale : float
        Byte images are divided by this value.
    resize : int or (int, int) or None
        Side of the square, or height and width, that images are resized to.
    resize_shorter : int or None
        What the shorter side is resized to, in proportion.
    crop : int or (int, int) or None
        Side of the square, or height and width, that is cut from the middle after resizing; smaller images are padded with zeros.
    interpolation : str
        Of resizing: bilinear, bicubic, nearest, box, hamming or lanczos.
    antialias : bool
        True: bytes are resized by Pillow, with antialiasing, as by torchvision.  False: binary32 numbers are resized by
        `torch.nn.functional.interpolate` after the division.
    """

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    scale: float = 255.0
    resize: Size | None = None
    resize_shorter: int | None = None
    crop: Size | None = None
    interpolation: str = "bilinear"
    antialias: bool = True

    def __post_init__(self) -> None:
        if (self.mean is None) != (self.std is None):
            raise UsageError("A normalisation needs both means and standard deviations: give both, or neither.")
        if self.mean is not None and self.std is not None:
            _check_normalisation(self.mean, self.std)
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise UsageError(f"Images cannot be divided by {self.scale}: the scale must be a positive number, such as 255.")
        if self.resize is not None and self.resize_shorter is not None:
            raise UsageError("Images are resized either to a size or by their shorter side: give one of resize and resize_shorter.")
        for name, size in (("resized", self.resize), ("resized", self.resize_shorter), ("cropped", self.crop)):
            if size is not None:
                check_size(name, _pair(size))
        known = INTERPOLATIONS if self.antialias else ("bilinear", "bicubic", "nearest")
        if self.interpolation not in known:
            without = "" if self.antialias else " without antialiasing"
            raise UsageError(f"Unknown interpolation {self.interpolation!r}{without}: give one of {', '.join(known)}.")

    @property
    def gives_one_size(self) -> bool:
        """Whether images of different sizes become equal."""
        return self.resize is not None or self.crop is not None

    def __call__(self, images: np.ndarray, first: int = 0) -> torch.Tensor:
        """Return the network's input.

        Parameters
        ----------
        images : (n, H, W) or (n, H, W, C) uint8, (n,) object, or a floating or integer array with the batch first
            An array of objects holds images of several sizes.  Floating arrays are taken as already preprocessed and only converted
            to binary32; integers are tokens, (n, L).
        first : int
            Place of the first image in the data set, for messages.

        Returns
        -------
        torch.Tensor
            (n, C, H, W) float32, or the floating array's own shape; int64 for tokens.
        """
        if images.dtype == object:
            return self._from_pictures(images, first)
        if images.dtype == np.uint8:
            return self._normalised(self._scaled(images))
        if np.issubdtype(images.dtype, np.floating):
            return _from_floats(images, first)
        if np.issubdtype(images.dtype, np.integer):
            return _from_tokens(images, first)
        raise UnusableDataError(
            f"Images of type {images.dtype} cannot be used: give bytes (uint8), floating numbers that are already preprocessed, "
            "or integers, which are tokens."
        )

    def describe(self) -> str:
        """Say in a few words what is done to bytes."""
        steps = []
        if self.resize is not None:
            steps.append(f"resized to {_shown(self.resize)} ({self._how})")
        if self.resize_shorter is not None:
            steps.append(f"shorter side resized to {self.resize_shorter} ({self._how})")
        if self.crop is not None:
            steps.append(f"middle {_shown(self.crop)}")
        steps.append(f"divided by {self.scale:g}")
        if self.mean is not None:
            steps.append("normalised")
        return ", ".join(steps)

    @property
    def _how(self) -> str:
        return f"{self.interpolation}, {'Pillow' if self.antialias else 'no antialiasing'}"

    def _from_pictures(self, images: np.ndarray, first: int) -> torch.Tensor:
        batches = [self._scaled(image[np.newaxis]) for image in images]
        shapes = [tuple(batch.shape[1:]) for batch in batches]
        for place, shape in enumerate(shapes):
            if shape != shapes[0]:
                raise UnusableDataError(
                    f"Image {first + place} has the shape {shape} (channels, height, width), but image {first} has {shapes[0]}: give "
                    "--crop SIZE, or --resize HEIGHTxWIDTH, which make the sizes equal."
                )
        return self._normalised(torch.cat(batches))

    def _scaled(self, images: np.ndarray) -> torch.Tensor:
        """Resize, divide, and crop images of one size; (n, C, H, W) float32."""
        if images.ndim not in (3, 4):
            raise UnusableDataError(f"Byte images of shape {images.shape} cannot be used: give (n, H, W) or (n, H, W, C).")
        size = self._target(images.shape[1], images.shape[2])
        if size is not None and self.antialias:
            images = np.stack([resized_by_pillow(image, size, self.interpolation) for image in images])
        channels_last = images[..., np.newaxis] if images.ndim == 3 else images
        channels_first = np.ascontiguousarray(np.moveaxis(channels_last, 3, 1), dtype=np.float32)
        batch = torch.from_numpy(channels_first) / self.scale
        if size is not None and not self.antialias:
            aligned = None if self.interpolation == "nearest" else False
            batch = functional.interpolate(batch, size=size, mode=self.interpolation, align_corners=aligned)
        return batch if self.crop is None else centre_crop(batch, _pair(self.crop))

    def _target(self, height: int, width: int) -> tuple[int, int] | None:
        """Size to resize to, None if it is there already."""
        if self.resize is not None:
            size = _pair(self.resize)
        elif self.resize_shorter is not None:
            size = shorter_to(self.resize_shorter, height, width)
        else:
            return None
        return None if size == (height, width) else size

    def _normalised(self, batch: torch.Tensor) -> torch.Tensor:
        if self.mean is None or self.std is None:
            return batch
        if len(self.mean) != batch.shape[1]:
            raise UnusableDataError(
                f"The images have {batch.shape[1]} channels, but the normalisation has {len(self.mean)}: "
                "use the data set that the network was trained for, or give --normalize MEANS/STDS with one value per channel."
            )
        mean = torch.tensor(self.mean, dtype=torch.float32).view(1, -1, 1, 1)
        std = torch.tensor(self.std, dtype=torch.float32).view(1, -1, 1, 1)
        return (batch - mean) / std


FIELDS = tuple(field.name for field in fields(Preprocess))


def parse_normalize(text: str) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """Return the means and standard deviations of ``MEANS/STDS``, for example ``0.5,0.5/0.2,0.2``; ``none`` gives no normalisation.

    Returns
    -------
    tuple
        (mean, std), as the two fields of `Preprocess`.
    """
    if text.strip().lower() == "none":
        return None, None
    parts = text.split("/")
    try:
        if len(parts) != 2:
            raise ValueError
        mean, std = (tuple(float(word) for word in part.split(",")) for part in parts)
    except ValueError:
        raise UsageError(
            f"The normalisation {text!r} is not of the form MEANS/STDS, such as 0.5,0.5,0.5/0.2,0.2,0.2 (one value per channel), or none."
        ) from None
    _check_normalisation(mean, std)
    return mean, std


def parse_resize(text: str) -> dict[str, object]:
    """Return the fields of `Preprocess` that ``N`` (the shorter side), ``HEIGHTxWIDTH`` or ``none`` set; images are resized by Pillow."""
    size = parse_size(text, "resize")
    if isinstance(size, int):
        return {"resize": None, "resize_shorter": size, "antialias": True}
    return {"resize": size, "resize_shorter": None, "antialias": True}


def parse_size(text: str, option: str) -> Size | None:
    """Return the size that ``N``, ``HEIGHTxWIDTH`` or ``none`` means."""
    words = text.strip().lower().split("x")
    if words == ["none"]:
        return None
    if len(words) > 2 or not all(word.isascii() and word.isdigit() and len(word) <= 9 for word in words):
        raise UsageError(f"The size {text!r} of --{option} is not of the form N or HEIGHTxWIDTH, such as 256 or 224x224, or none.")
    return int(words[0]) if len(words) == 1 else (int(words[0]), int(words[1]))


def to_record(preprocess: Preprocess) -> dict[str, object]:
    """Return plain data that can be stored in a model file."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(preprocess).items()}


def from_record(record: object) -> Preprocess:
    """Read what `to_record` wrote, in this version or an earlier one; UsageError when the record is not one."""
    if not isinstance(record, Mapping) or not _OLD_FIELDS <= set(record) <= set(FIELDS):
        raise UsageError(f"The preprocessing must have exactly the fields {', '.join(FIELDS)}.")
    old = {"antialias": False} if set(record) == _OLD_FIELDS and record["resize"] is not None else {}
    return from_fields({**old, **record})


def from_fields(given: Mapping[str, Any]) -> Preprocess:
    """Build a `Preprocess` from some of its fields as plain data, with defaults for the others; UsageError for a value of a wrong type."""
    unknown = [name for name in given if name not in FIELDS]
    if unknown:
        raise UsageError(f"The preprocessing has no field {str(unknown[0])[:40]!r}: there are {', '.join(FIELDS)}.")
    return Preprocess(**{name: _READERS[name](name, value) for name, value in given.items()})


def _numbers(name: str, value: object) -> tuple[float, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list | tuple):
        raise _wrong(name, "a list of numbers, one per channel", value)
    return tuple(_number(name, item) for item in value)


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong(name, "a number", value)
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _whole(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise _wrong(name, "a whole number", value)
    return value


def _side(name: str, value: object) -> int | None:
    return None if value is None else _whole(name, value)


def _size(name: str, value: object) -> Size | None:
    if isinstance(value, list | tuple):
        if len(value) != 2:
            raise UsageError(f"The preprocessing's {name} must be a whole number, or height and width, but has {len(value)} entries.")
        return _whole(name, value[0]), _whole(name, value[1])
    return _side(name, value)


def _word(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise _wrong(name, "a word", value)
    return value


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise _wrong(name, "true or false", value)
    return value


_READERS: Mapping[str, Any] = {
    "mean": _numbers,
    "std": _numbers,
    "scale": _number,
    "resize": _size,
    "resize_shorter": _side,
    "crop": _size,
    "interpolation": _word,
    "antialias": _flag,
}


def _wrong(name: str, wanted: str, value: object) -> UsageError:
    return UsageError(f"The preprocessing's {name} must be {wanted}, but is of type {type(value).__name__}.")


def _pair(size: Size) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size


def _shown(size: Size) -> str:
    return "x".join(map(str, _pair(size)))


def _check_normalisation(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    if len(mean) != len(std) or not mean:
        raise UsageError(f"The normalisation has {len(mean)} means and {len(std)} standard deviations: give one of each per channel.")
    if not all(map(math.isfinite, (*mean, *std))) or min(std) <= 0:
        raise UsageError(f"The normalisation {mean}/{std} is not usable: values must be finite and standard deviations positive.")


def _from_floats(images: np.ndarray, first: int) -> torch.Tensor:
    if images.ndim < 2:
        raise UnusableDataError(f"Floating images of shape {images.shape} cannot be used: give (n, C, H, W) or (n, d).")
    with np.errstate(over="ignore"):  # an overflow is reported below, with the image's index
        single = np.array(images, dtype=np.float32, order="C")
    bad = ~np.isfinite(single).reshape(len(single), -1).all(axis=1)
    if bad.any():
        index = int(np.flatnonzero(bad)[0])
        why = "a value beyond the range of float32" if np.isfinite(images[index]).all() else "NaN or infinity"
        raise UnusableDataError(f"Image {first + index} holds {why}: every input must be a finite float32 number, so repair or remove it.")
    return torch.from_numpy(single)


def _from_tokens(tokens: np.ndarray, first: int) -> torch.Tensor:
    if tokens.ndim != 2:
        raise UnusableDataError(f"Tokens of shape {tokens.shape} cannot be used: give (n, L), or bytes (uint8) if they are images.")
    bad = ((tokens < 0) | (tokens > np.iinfo(np.int64).max)).any(axis=1)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise UnusableDataError(f"Input {first + row} holds a negative token or one beyond int64: tokens are numbers of words, from 0.")
    return torch.from_numpy(np.array(tokens, dtype=np.int64, order="C"))
