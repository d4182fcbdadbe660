"""Architectures of torchvision for image classification, by their registered names."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from torch import nn

from precisionkit.data.download import patience
from precisionkit.errors import UnusableModelError, UsageError, shown
from precisionkit.models.architecture import Architecture, Details
from precisionkit.models.tensors import Tensors
from precisionkit.models.transforms import from_transform

_CLASSES = 1000
_NORMALISING = ("googlenet", "inception_v3")  # they can undo one normalisation of the input and apply another
_AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")  # heads for training alone
_RENAMES = (
    (r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2."),
    (r"(encoder_layer_\d+\.mlp)\.linear_1\.", r"\1.0."),
    (r"(encoder_layer_\d+\.mlp)\.linear_2\.", r"\1.3."),
)


def find(name: str) -> Architecture:
    """Return what torchvision knows of an architecture."""
    try:
        from torchvision import models
    except ImportError:
        raise UsageError("Models of torchvision need it: pip install 'precisionkit[vision]'.") from None
    if name not in models.list_models(module=models):
        raise UsageError(
            f"torchvision has no classification model {shown(name)!r}: give one of its names, as torchvision:resnet18; "
            "torchvision.models.list_models() lists them."
        )
    entries = list(models.get_model_weights(name))
    default = models.get_model_weights(name).DEFAULT
    return Architecture(
        name=f"torchvision:{name}",
        classes=_CLASSES,
        build=partial(_build, name),
        adapt=_adapted,
        published=partial(_published, name, default),
        verified=True,
        details=partial(_details, name, entries, default),
    )


def _build(name: str, classes: int, published: bool) -> nn.Module:
    from torchvision import models

    special = {"aux_logits": False, "init_weights": True, "transform_input": published} if name in _NORMALISING else {}
    module: nn.Module = models.get_model(name, weights=None, num_classes=classes, **special)
    return module


def _adapted(found: Tensors) -> Tensors:
    renamed = {}
    for key, value in found.items():
        for pattern, replacement in _RENAMES:
            key = re.sub(pattern, replacement, key)
        if not key.startswith(_AUXILIARY):
            renamed[key] = value
    return renamed


def _details(name: str, entries: list[Any], default: Any, sha256: str | None) -> Details:
    entry = next((entry for entry in entries if sha256 is not None and sha256.startswith(_hash_start(entry))), None)
    if name in _NORMALISING and entry is None and sha256 is not None:
        raise UsageError(
            f"torchvision:{name} normalises its input a second time with some weights and not with others (transform_input), which only "
            "the published ones tell: give the file as MODEL, with --arch package.module:factory for a function that builds the network."
        )
    transform = (entry or default).transforms()
    return Details(None if entry is None else entry.name, from_transform(transform), (3, transform.crop_size[0], transform.crop_size[0]))


def _hash_start(entry: Any) -> str:
    """First digits of the SHA-256 of published weights, which torchvision keeps in their file names."""
    return str(entry.url).rpartition("-")[2].partition(".")[0]


def _published(name: str, entry: Any, download: bool) -> Path:
    path = Path(torch.hub.get_dir()) / "checkpoints" / str(entry.url).rpartition("/")[2]
    if path.is_file():
        return path
    if not download:
        raise UnusableModelError(
            f"The weights of torchvision:{name} are not in torch's cache ({path}): --download fetches them, --weights FILE reads others."
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with patience():
            torch.hub.download_url_to_file(entry.url, str(path), hash_prefix=_hash_start(entry), progress=False)
    except (URLError, OSError, RuntimeError) as error:
        raise UnusableModelError(f"The weights of torchvision:{name} cannot be fetched from {entry.url} ({shown(str(error))}).") from error
    return path
