"""Read torchvision's transforms as a `Preprocess`; what does not say the same is refused by name."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from precisionkit.errors import UsageError
from precisionkit.models.preprocess import Preprocess

_BY_NUMBER: Mapping[object, str] = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}  # Pillow's


class _Stage(enum.IntEnum):
    """What an image is after some steps of a transform."""

    PICTURE = 0  # of Pillow
    BYTES = 1  # tensor of bytes
    FLOATS = 2
    NORMALISED = 3


def from_transform(transform: object) -> Preprocess:
    """Read a preset of torchvision for image classification, or a `Compose` of its transforms, v1 or v2.

    Parameters
    ----------
    transform : object
        `ImageClassification`, or any of Resize, CenterCrop, ToTensor, PILToTensor, ToImage, ConvertImageDtype, ToDtype, Normalize,
        alone or composed, that starts from an image of Pillow.

    Raises
    ------
    UsageError
        It has another step, or steps in another order than this package's: resize, crop, scale, normalise.

    Notes
    -----
    Bytes are divided by 255, as by `ToTensor`; `v2.ToDtype` multiplies by 1/255 instead, which differs in the last bit.
    """
    try:
        from torchvision.transforms import _presets as presets
    except ImportError:
        raise UsageError(f"{type(transform).__name__} can be read only beside torchvision: pip install 'precisionkit[vision]'.") from None
    if isinstance(transform, presets.ImageClassification):
        return Preprocess(
            mean=tuple(transform.mean),
            std=tuple(transform.std),
            crop=transform.crop_size[0],
            **_resize(transform.resize_size, transform.interpolation),
        )
    fields: dict[str, Any] = {}
    stage = _Stage.PICTURE
    for step in _steps(transform):
        taken, stage = _read(step, stage, fields)
        if twice := taken.keys() & fields.keys():
            raise _refusal(step, f"sets {min(twice)} a second time")
        fields |= taken
    if stage < _Stage.FLOATS:
        raise UsageError("The transform leaves bytes: add ToTensor(), or ToDtype(torch.float32, scale=True).")
    return Preprocess(**fields)


def _steps(transform: object) -> Iterator[object]:
    from torchvision import transforms as v1
    from torchvision.transforms import v2

    if isinstance(transform, v1.Compose | v2.Compose):
        for step in transform.transforms:
            yield from _steps(step)
    else:
        yield transform


def _read(step: Any, stage: _Stage, fields: dict[str, Any]) -> tuple[dict[str, Any], _Stage]:
    """Fields that a step sets, and what the image is after it."""
    from torchvision import transforms as v1
    from torchvision.transforms import v2

    if not type(step).__module__.startswith("torchvision."):  # a class of the user's own may do anything
        raise _refusal(step, "is not known here")
    if isinstance(step, v1.Resize | v2.Resize):
        return _resized(step, stage, fields), stage
    if isinstance(step, v1.CenterCrop | v2.CenterCrop):
        if stage is _Stage.NORMALISED:
            raise _refusal(step, "comes after Normalize")
        return {"crop": tuple(step.size)}, stage
    if isinstance(step, v1.ToTensor | v2.ToTensor):
        _expect(step, stage, _Stage.PICTURE)
        return {"scale": 255.0}, _Stage.FLOATS
    if isinstance(step, v1.PILToTensor | v2.PILToTensor | v2.ToImage):
        _expect(step, stage, _Stage.PICTURE)
        return {}, _Stage.BYTES
    if isinstance(step, v1.ConvertImageDtype | v2.ConvertImageDtype | v2.ToDtype):
        _expect(step, stage, _Stage.BYTES)
        if step.dtype != torch.float32:
            raise _refusal(step, f"converts to {step.dtype}, not to torch.float32")
        return {"scale": 255.0 if getattr(step, "scale", True) else 1.0}, _Stage.FLOATS
    if isinstance(step, v1.Normalize | v2.Normalize):
        _expect(step, stage, _Stage.FLOATS)
        return {"mean": tuple(map(float, step.mean)), "std": tuple(map(float, step.std))}, _Stage.NORMALISED
    raise _refusal(step, "is not known here")


def _resized(step: Any, stage: _Stage, fields: dict[str, Any]) -> dict[str, Any]:
    if "crop" in fields:
        raise _refusal(step, "comes after CenterCrop")
    if step.max_size is not None:
        raise _refusal(step, "limits the longer side (max_size)")
    sizes = [step.size] if isinstance(step.size, int) else list(step.size or ())
    if stage is _Stage.PICTURE:
        return _resize(sizes, step.interpolation)
    if stage is not _Stage.FLOATS or step.antialias:
        raise _refusal(step, "works on a tensor, whose antialiasing differs from Pillow's")
    return _resize(sizes, step.interpolation) | {"antialias": False}


def _resize(sizes: list[int], interpolation: Any) -> dict[str, Any]:
    named = {"interpolation": interpolation_name(interpolation)}
    if len(sizes) == 1:
        return named | {"resize_shorter": sizes[0]}
    return named | {"resize": tuple(sizes)}


def interpolation_name(interpolation: Any) -> str:
    """Name of an interpolation that is given as Pillow's number or as a name of torchvision's."""
    value = getattr(interpolation, "value", interpolation)
    name = _BY_NUMBER.get(value, str(value))
    return "nearest" if name == "nearest-exact" else name  # the same for Pillow


def _expect(step: object, stage: _Stage, wanted: _Stage) -> None:
    if stage is not wanted:
        raise _refusal(step, f"is given {stage.name.lower()}, not {wanted.name.lower()}")


def _refusal(step: object, why: str) -> UsageError:
    return UsageError(
        f"The transform {type(step).__name__} {why}: only Resize, CenterCrop, ToTensor (or PILToTensor or ToImage with ConvertImageDtype "
        "or ToDtype) and Normalize can be read, in this order; preprocess the images yourself and give them as floating numbers."
    )
