"""Architectures of timm, by their registered names, with or without the tag of published weights."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from precisionkit.errors import UnusableModelError, UsageError, shown
from precisionkit.models.architecture import Architecture, Details
from precisionkit.models.preprocess import Preprocess
from precisionkit.models.tensors import Tensors

_CLASSES = 1000


def find(name: str) -> Architecture:
    """Return what timm knows of an architecture."""
    try:
        import timm
    except ImportError:
        raise UsageError("Models of timm need it: pip install 'precisionkit[timm]'.") from None
    if not timm.is_model(name):
        raise UsageError(f"timm has no model {shown(name)!r}: give one of its names, as timm:resnet10t; timm.list_models() lists them.")
    configuration = timm.get_pretrained_cfg(name)
    return Architecture(
        name=f"timm:{name}",
        classes=getattr(configuration, "num_classes", 0) or _CLASSES,
        build=partial(_build, name),
        adapt=_same,
        published=partial(_published, name, configuration),
        verified=False,
        details=partial(_details, name),
    )


def _build(name: str, classes: int, published: bool) -> nn.Module:
    import timm

    del published
    module: nn.Module = timm.create_model(name, pretrained=False, num_classes=classes)
    return module


def _same(found: Tensors) -> Tensors:
    return found


def _details(name: str, sha256: str | None) -> Details:
    import timm

    del sha256
    with torch.device("meta"):
        configuration = timm.data.resolve_model_data_config(timm.create_model(name, pretrained=False))
    return Details(None, _preprocess(name, configuration), tuple(configuration["input_size"]))


def _preprocess(name: str, configuration: dict[str, Any]) -> Preprocess:
    """Read the settings of timm's evaluation transform."""
    height, width = configuration["input_size"][1:]
    larger = tuple(math.floor(side / configuration["crop_pct"]) for side in (height, width))
    squashed = configuration["crop_mode"] == "squash"
    if not squashed and (configuration["crop_mode"] != "center" or larger[0] != larger[1]):
        raise UsageError(
            f"timm:{name} is given images with the crop mode {configuration['crop_mode']} in {height}x{width}, which is not known here: "
            "give its preprocessing with --preprocess FILE."
        )
    return Preprocess(
        mean=tuple(configuration["mean"]),
        std=tuple(configuration["std"]),
        resize=(larger[0], larger[1]) if squashed else None,
        resize_shorter=None if squashed else larger[0],
        crop=(height, width),
        interpolation=configuration["interpolation"],
    )


def _published(name: str, configuration: Any, download: bool) -> Path:
    repository = getattr(configuration, "hf_hub_id", None)
    if not repository:
        raise UnusableModelError(f"timm:{name} has no published weights on the hub: give --weights FILE.")
    import huggingface_hub

    try:
        return Path(huggingface_hub.hf_hub_download(repository, "model.safetensors", local_files_only=not download))
    except Exception as error:  # the library raises errors of many packages
        how = "cannot be fetched" if download else "are not in the cache"
        way_out = "" if download else "--download fetches them, and "
        raise UnusableModelError(
            f"The weights of timm:{name} ({repository}) {how} ({type(error).__name__}): {way_out}--weights FILE reads others."
        ) from error
