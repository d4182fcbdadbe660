"""What a library of architectures says of one of them, and what comes of it with weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from precisionkit.models.preprocess import Preprocess
from precisionkit.models.tensors import Tensors


@dataclass(frozen=True)
class Details:
    """What follows from the weights: what they are, the preprocessing, the shape of an image; the note is None for unknown weights."""

    note: str | None
    preprocess: Preprocess
    input_shape: tuple[int, ...] | None


@dataclass(frozen=True)
class Architecture:
    """One architecture of a library.

    Attributes
    ----------
    name : str
        With the library's prefix.
    classes : int
        Of its published form.
    build : callable
        Returns the module for a number of classes, and whether it is for published weights.
    adapt : callable
        Renames and drops tensors as the library does when it reads published files.
    published : callable
        Finds the published weights in a cache, or fetches them if it is told to.
    verified : bool
        Whether published weights are known by their hashes.
    details : callable
        What is known of weights with a hash, or of random ones (None).
    """

    name: str
    classes: int
    build: Callable[[int, bool], nn.Module]
    adapt: Callable[[Tensors], Tensors]
    published: Callable[[bool], Path]
    verified: bool
    details: Callable[[str | None], Details]


@dataclass(frozen=True)
class Named:
    """A model by name with its weights; the fields are those of `LoadedModel`."""

    module: nn.Module
    path: str
    sha256: str
    arch: str
    preprocess: Preprocess
    input_shape: tuple[int, ...] | None
    classes: int | None
    input_dtype: torch.dtype

    def called(self, arch: str) -> Named:
        """Return the same under another description."""
        return dataclasses.replace(self, arch=arch)
