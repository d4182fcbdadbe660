"""Models by name: ``torchvision:NAME``, ``timm:NAME``, and ``hf:FOLDER`` for a folder of Hugging Face's library.

The libraries are imported when they are named.  Weights come from a file, from a library's cache, or are random; nothing is fetched
unless it is asked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from precisionkit.errors import UnusableModelError, UsageError, shown
from precisionkit.models import huggingface, timm_models, torchvision_models
from precisionkit.models.architecture import Architecture, Named
from precisionkit.models.tensors import Tensors, fit, without_prefixes

LIBRARIES: dict[str, Callable[[str], Architecture]] = {"torchvision": torchvision_models.find, "timm": timm_models.find}
FOLDER = "hf"

Reader = Callable[[str], tuple[Tensors, str]]
"""Reads a file of weights safely: its tensors and its SHA-256."""


@dataclass(frozen=True)
class Asked:
    """What is asked for beside the name.

    Attributes
    ----------
    weights : str or None
        A file, ``default``, or ``random`` or ``random:SEED``.
    read : callable
        Reads a file of weights.
    download : bool
        Whether published weights may be fetched.
    preprocessed : bool
        Whether the caller brings the preprocessing, so that the model's own is not needed.
    """

    weights: str | None
    read: Reader
    download: bool = False
    preprocessed: bool = False


def is_named(model: str) -> bool:
    """Whether a model is given by a library's name for it."""
    prefix, colon, _ = model.partition(":")
    return bool(colon) and prefix in (*LIBRARIES, FOLDER)


def load_named(model: str, asked: Asked) -> Named:
    """Build a model by its name and give it weights.

    Raises
    ------
    PrecisionKitError
        The library is missing or does not know the name, or the weights are missing, damaged, or do not fit.
    """
    prefix, _, name = model.partition(":")
    seed = None if asked.weights is None else seed_of(asked.weights)
    if prefix == FOLDER:
        if asked.weights is not None and seed is None:
            raise UsageError(f"{shown(model)} reads the weights of its folder: leave out --weights, or give --weights random.")
        return _with_arch(huggingface.load_folder(name, asked.read, seed=seed, preprocessed=asked.preprocessed), seed)
    architecture = LIBRARIES[prefix](name)
    if asked.weights is None:
        raise UsageError(f"{shown(model)} names an architecture: give its weights with --weights FILE, default or random.")
    return _random(architecture, seed) if seed is not None else _with_weights(architecture, asked)


def seed_of(weights: str) -> int | None:
    """Seed of ``random`` or ``random:SEED``; None for other weights."""
    word, _, number = weights.partition(":")
    if word != "random":
        return None
    if number and not (number.isascii() and number.isdigit() and len(number) <= 9):
        raise UsageError(f"The seed of --weights {shown(weights)} is no number of at most nine digits: give random, or random:7.")
    return int(number or 0)


def _random(architecture: Architecture, seed: int | None) -> Named:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed or 0)
        module = architecture.build(architecture.classes, False)
    details = architecture.details(None)
    return _with_arch(
        Named(
            module=module,
            path=architecture.name,
            sha256=digest(module),
            arch=architecture.name,
            preprocess=details.preprocess,
            input_shape=details.input_shape,
            classes=architecture.classes,
            input_dtype=torch.float32,
        ),
        seed,
    )


def _with_arch(named: Named, seed: int | None) -> Named:
    return named if seed is None else named.called(f"{named.arch} (random weights, seed {seed})")


def refuse_no_file(model: str, weights: str, choice: str) -> None:
    """UnusableModelError where weights are neither a file nor one of the words that stand for some."""
    if not Path(weights).exists():
        raise UnusableModelError(f"The weights {shown(weights)!r} of {shown(model)} do not exist as a file: check the path; give {choice}.")


def _with_weights(architecture: Architecture, asked: Asked) -> Named:
    if asked.weights != "default":
        refuse_no_file(architecture.name, str(asked.weights), "FILE, default or random")
    path = str(architecture.published(asked.download)) if asked.weights == "default" else str(asked.weights)
    found, sha256 = asked.read(path)
    details = architecture.details(sha256)
    if asked.weights == "default" and architecture.verified and details.note is None:
        raise UnusableModelError(f"The weights {path} are not those that {architecture.name} was published with: remove the file.")
    where = f"The model file {path}"
    adapted = architecture.adapt(without_prefixes(found))
    classes = _classes(architecture, adapted)
    module = architecture.build(classes, details.note is not None)
    fit(adapted, module, arch=architecture.name, where=where, way_out="give the weights of this architecture")
    return Named(
        module=module,
        path=path,
        sha256=sha256,
        arch=architecture.name + (f" ({details.note})" if details.note else ""),
        preprocess=details.preprocess,
        input_shape=details.input_shape,
        classes=classes,
        input_dtype=torch.float32,
    )


def _classes(architecture: Architecture, found: Tensors) -> int:
    """Number of classes that the weights were trained for: the side of the tensors that grows with the classes."""
    few, many = (_shapes(architecture, architecture.classes + more) for more in (0, 1))
    for key, shape in few.items():
        grown = [side for side, (a, b) in enumerate(zip(shape, many[key], strict=True)) if a != b]
        if grown and key in found and found[key].dim() == len(shape):
            return max(1, found[key].shape[grown[0]])
    return architecture.classes


def _shapes(architecture: Architecture, classes: int) -> dict[str, tuple[int, ...]]:
    try:
        with torch.device("meta"):
            module = architecture.build(classes, False)
    except NotImplementedError:  # some compute with numbers when they are built
        module = architecture.build(classes, False)
    return {key: tuple(value.shape) for key, value in module.state_dict().items()}


def digest(module: nn.Module) -> str:
    """SHA-256 of the names and numbers of a module's tensors."""
    hashed = hashlib.sha256()
    for key, value in module.state_dict().items():
        hashed.update(f"{key} {tuple(value.shape)} {value.dtype}\n".encode())
        hashed.update(value.detach().cpu().contiguous().numpy().tobytes())
    return hashed.hexdigest()
