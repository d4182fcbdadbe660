"""Torchvision's transforms, read and compared with what torchvision itself computes, to the bit."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import models
from torchvision import transforms as v1
from torchvision.transforms import v2

from precisionkit.errors import UsageError
from precisionkit.models import Preprocess, from_transform

NORMALIZE = v1.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
SIZES = ((37, 51), (80, 33), (20, 20), (64, 64), (13, 90))

EXACT: dict[str, Any] = {
    "preset": models.ResNet18_Weights.DEFAULT.transforms(),
    "preset, bicubic": models.Swin_T_Weights.DEFAULT.transforms(),
    "usual": v1.Compose([v1.Resize(33), v1.CenterCrop((40, 28)), v1.ToTensor(), NORMALIZE]),
    "nested": v1.Compose([v1.Compose([v1.Resize(33)]), v1.CenterCrop(24), v1.ToTensor()]),
    "bytes first": v1.Compose([v1.Resize((33, 20), interpolation=3), v1.PILToTensor(), v1.ConvertImageDtype(torch.float32)]),
    "crop alone": v1.Compose([v1.CenterCrop(25), v1.ToTensor()]),
    "odd padding": v1.Compose([v1.CenterCrop((41, 95)), v1.ToTensor()]),
    "on tensors": v1.Compose([v1.ToTensor(), v1.Resize(24, antialias=False), v1.CenterCrop(22), NORMALIZE]),
    "nearest": v1.Compose([v1.Resize(30, interpolation=v1.InterpolationMode.NEAREST_EXACT), v1.CenterCrop(31), v1.ToTensor()]),
    "box": v1.Compose([v1.Resize(30, interpolation=v1.InterpolationMode.BOX), v1.CenterCrop(31), v1.ToTensor()]),
    "v2, not scaled": v2.Compose([v2.CenterCrop(31), v2.PILToTensor(), v2.ToDtype(torch.float32), v2.Normalize([99.0] * 3, [50.0] * 3)]),
}


def _pictures() -> np.ndarray:
    generator = np.random.default_rng(0)
    images = np.empty(len(SIZES), dtype=object)
    images[:] = [generator.integers(0, 256, (*size, 3), dtype=np.uint8) for size in SIZES]
    return images


def _theirs(transform: Any) -> torch.Tensor:
    return torch.stack([transform(Image.fromarray(image)) for image in _pictures()])


@pytest.mark.parametrize("transform", EXACT.values(), ids=EXACT)
def test_the_numbers_are_torchvisions(transform: Any) -> None:
    assert torch.equal(from_transform(transform)(_pictures()), _theirs(transform))


def test_v2_multiplies_by_the_reciprocal() -> None:
    transform = v2.Compose([v2.Resize(30, interpolation=1), v2.CenterCrop(31), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    ours, theirs = from_transform(transform)(_pictures()), _theirs(transform)
    assert not torch.equal(ours, theirs)
    assert torch.equal(ours, torch.nextafter(theirs, ours)), "more than the last bit differs"


def test_one_size_gives_the_same_numbers_as_several() -> None:
    transform = from_transform(EXACT["usual"])
    images = np.random.default_rng(1).integers(0, 256, (3, 50, 41, 3), dtype=np.uint8)
    several = np.empty(3, dtype=object)
    several[:] = list(images)
    assert torch.equal(transform(images), transform(several))


TO_TENSOR = v1.ToTensor()
REFUSED: dict[str, tuple[Any, str]] = {
    "flip": (v1.Compose([v1.RandomHorizontalFlip(), TO_TENSOR]), "The transform RandomHorizontalFlip is not known here"),
    "function": (v1.Compose([v1.Lambda(abs), TO_TENSOR]), "The transform Lambda is not known here"),
    "no transform": (abs, "The transform builtin_function_or_method is not known here"),
    "subclass": (type("Mine", (v1.ToTensor,), {})(), "The transform Mine is not known here"),
    "twice": (v1.Compose([v1.Resize(3), v1.Resize(4), TO_TENSOR]), "Resize sets interpolation a second time"),
    "crop first": (v1.Compose([v1.CenterCrop(3), v1.Resize(4), TO_TENSOR]), "Resize comes after CenterCrop"),
    "normalised first": (v1.Compose([TO_TENSOR, v1.Normalize([0], [1]), v1.CenterCrop(2)]), "CenterCrop comes after Normalize"),
    "limit": (v1.Compose([v1.Resize(3, max_size=9), TO_TENSOR]), r"Resize limits the longer side \(max_size\)"),
    "tensor": (v1.Compose([TO_TENSOR, v1.Resize(3)]), "Resize works on a tensor, whose antialiasing differs from Pillow's"),
    "bytes": (v1.Compose([v1.PILToTensor()]), r"The transform leaves bytes: add ToTensor\(\)"),
    "bytes normalised": (v1.Compose([v1.PILToTensor(), NORMALIZE]), "Normalize is given bytes, not floats"),
    "two tensors": (v1.Compose([TO_TENSOR, TO_TENSOR]), "ToTensor is given floats, not picture"),
    "double": (v1.Compose([v1.PILToTensor(), v1.ConvertImageDtype(torch.float64)]), "converts to torch.float64, not to torch.float32"),
    "other preset": (models.segmentation.FCN_ResNet50_Weights.DEFAULT.transforms(), "The transform SemanticSegmentation is not known here"),
}


@pytest.mark.parametrize(("transform", "message"), REFUSED.values(), ids=REFUSED)
def test_other_transforms_are_refused_by_name(transform: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        from_transform(transform)


def test_without_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision.transforms", None)
    with pytest.raises(UsageError, match=r"Compose can be read only beside torchvision: pip install 'precisionkit\[vision\]'"):
        from_transform(EXACT["usual"])


def test_a_preset_gives_its_fields() -> None:
    assert from_transform(models.Swin_T_Weights.DEFAULT.transforms()) == Preprocess(
        mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), resize_shorter=232, crop=224, interpolation="bicubic"
    )
