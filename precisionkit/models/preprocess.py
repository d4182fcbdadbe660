"""From stored images to the tensor that a network takes, the same way for every data source.

An image of bytes is divided by `scale`, resized if the network asks for it, and normalised per channel; the arithmetic is
binary32, as in the training code of the known networks.  An array of floats is taken as already preprocessed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from precisionkit.errors import UnusableDataError, UsageError


@dataclass(frozen=True)
class Preprocess:
    """How images become the input of one network.

    Attributes
    ----------
    mean, std : tuple of float, or None
        Per channel, on the scale [0, 1]; None means no normalisation.
    scale : float
        Byte images are divided by this value.
    resize : int or None
        Side of the square that images are resized to (bilinear) before they are normalised.
    """

    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    scale: float = 255.0
    resize: int | None = None

    def __post_init__(self) -> None:
        if (self.mean is None) != (self.std is None):
            raise UsageError("A normalisation needs both means and standard deviations: give both, or neither.")
        if self.mean is not None and self.std is not None:
            _check_normalisation(self.mean, self.std)
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise UsageError(f"Images cannot be divided by {self.scale}: the scale must be a positive number, such as 255.")
        if self.resize is not None and self.resize < 1:
            raise UsageError(f"Images cannot be resized to {self.resize} pixels: the side must be at least 1.")

    def __call__(self, images: np.ndarray) -> torch.Tensor:
        """Return the network's input.

        Parameters
        ----------
        images : (n, H, W) or (n, H, W, C) uint8, or a floating array with the batch first
            Floating arrays are taken as already preprocessed and only converted to binary32.

        Returns
        -------
        torch.Tensor
            (n, C, H, W) float32, or the floating array's own shape.
        """
        if images.dtype == np.uint8:
            return self._from_bytes(images)
        if np.issubdtype(images.dtype, np.floating):
            return _from_floats(images)
        raise UnusableDataError(
            f"Images of type {images.dtype} cannot be used: give bytes (uint8), or floating numbers that are already preprocessed."
        )

    def _from_bytes(self, images: np.ndarray) -> torch.Tensor:
        if images.ndim not in (3, 4):
            raise UnusableDataError(f"Byte images of shape {images.shape} cannot be used: give (n, H, W) or (n, H, W, C).")
        channels_last = images[..., np.newaxis] if images.ndim == 3 else images
        channels_first = np.ascontiguousarray(np.moveaxis(channels_last, 3, 1), dtype=np.float32)
        batch = torch.from_numpy(channels_first) / self.scale
        if self.resize is not None and tuple(batch.shape[2:]) != (self.resize, self.resize):
            batch = functional.interpolate(batch, size=(self.resize, self.resize), mode="bilinear", align_corners=False)
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


def to_record(preprocess: Preprocess) -> dict[str, object]:
    """Return plain data that can be stored in a model file."""
    return {
        "mean": None if preprocess.mean is None else list(preprocess.mean),
        "std": None if preprocess.std is None else list(preprocess.std),
        "scale": preprocess.scale,
        "resize": preprocess.resize,
    }


def from_record(record: object) -> Preprocess:
    """Read what `to_record` wrote; UsageError when the record is not one."""
    if not isinstance(record, Mapping) or set(record) != {"mean", "std", "scale", "resize"}:
        raise UsageError("The preprocessing must have exactly the fields mean, std, scale, resize.")
    try:
        return Preprocess(
            mean=None if record["mean"] is None else tuple(float(value) for value in record["mean"]),
            std=None if record["std"] is None else tuple(float(value) for value in record["std"]),
            scale=float(record["scale"]),
            resize=None if record["resize"] is None else int(record["resize"]),
        )
    except (TypeError, ValueError):
        raise UsageError("The preprocessing holds something that is not a number.") from None


def _check_normalisation(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    if len(mean) != len(std) or not mean:
        raise UsageError(f"The normalisation has {len(mean)} means and {len(std)} standard deviations: give one of each per channel.")
    if not all(map(math.isfinite, (*mean, *std))) or min(std) <= 0:
        raise UsageError(f"The normalisation {mean}/{std} is not usable: values must be finite and standard deviations positive.")


def _from_floats(images: np.ndarray) -> torch.Tensor:
    if images.ndim < 2:
        raise UnusableDataError(f"Floating images of shape {images.shape} cannot be used: give (n, C, H, W) or (n, d).")
    with np.errstate(over="ignore"):  # an overflow is reported below, with the image's index
        single = np.array(images, dtype=np.float32, order="C")
    bad = ~np.isfinite(single).reshape(len(single), -1).all(axis=1)
    if bad.any():
        index = int(np.flatnonzero(bad)[0])
        why = "a value beyond the range of float32" if np.isfinite(images[index]).all() else "NaN or infinity"
        raise UnusableDataError(f"Image {index} holds {why}: every input must be a finite float32 number, so repair or remove it.")
    return torch.from_numpy(single)
