"""Classifiers in ONNX files, as torch modules that compute with the operators of the torch program.

`read` checks a file and turns it into plain data, `build` turns its graph into calls of torch functions, `merge` puts operators
together again that exporters take apart, `network` runs them.  Nothing of a file is executed, and nothing outside its own folder
is opened.  The package onnx is imported when a file is read.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from precisionkit.errors import UnusableModelError, first_line
from precisionkit.models.files import ModelFile, shown
from precisionkit.models.onnx.build import build
from precisionkit.models.onnx.listing import list_graph
from precisionkit.models.onnx.merge import merge
from precisionkit.models.onnx.network import Network, Program, check_freedom
from precisionkit.models.onnx.read import read_source

__all__ = ["Imported", "list_graph", "open_onnx"]


@dataclass(frozen=True)
class Imported:
    """An imported classifier.

    Attributes
    ----------
    module : Network
        Takes a batch of any size.
    input_shape : tuple of int
        Without the batch.
    classes : int
        Number of outputs.
    sha256 : str
        Of the file and its external data.
    input_dtype : torch.dtype
        float32, or int64 for tokens.
    """

    module: Network
    input_shape: tuple[int, ...]
    classes: int
    sha256: str
    input_dtype: torch.dtype


def open_onnx(file: ModelFile, input_shape: tuple[int, ...] | None, where: str) -> Imported:
    """Import a classifier.

    Parameters
    ----------
    file : ModelFile
        An ONNX file.
    input_shape : tuple of int or None
        Of one image; needed where the file leaves sizes open.
    where : str
        Names the file in error messages.
    """
    source = read_source(file.data, file.path, where)
    shape = _closed(source.input_shape, input_shape, where)
    program = build(source, shape, where)
    batch = source.input_shape[0] if source.input_shape else None
    if batch is not None and not _is_free(program, batch, where, floating=source.floating):
        raise UnusableModelError(
            f"{where} was made for a batch of {batch} and gives other results when the batch is free: export it with a free one, "
            "torch.onnx.export(model, (sample,), FILE, dynamic_shapes=({0: torch.export.Dim('batch')},))."
        )
    dtype = torch.float32 if source.floating else torch.int64
    return Imported(Network(merge(program)), program.input_shape, program.classes, source.sha256, dtype)


def _is_free(program: Program, batch: int, where: str, *, floating: bool) -> bool:
    try:
        return check_freedom(program, batch, floating=floating)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        reason = shown(first_line(error), 200)
        raise UnusableModelError(f"{where} does not run on an image of its own shape ({reason}): export it again.") from error


def _closed(declared: tuple[int | None, ...] | None, given: tuple[int, ...] | None, where: str) -> tuple[int, ...]:
    """The shape of one image: the file's, with what it leaves open from the data."""
    if declared is not None and not declared:
        raise UnusableModelError(f"{where} takes a single number, but a batch of images is needed: export it with a batch.")
    own = None if declared is None else declared[1:]
    if own is not None and all(size is not None for size in own):
        return tuple(size for size in own if size is not None)
    if given is None or (own is not None and len(own) != len(given)):
        says = "nothing" if own is None else "x".join("?" if size is None else str(size) for size in own)
        data = "" if given is None else f", and data of the shape {'x'.join(map(str, given))} do not fit"
        raise UnusableModelError(
            f"{where} leaves the shape of its images open (it says {says}){data}: give data of the right shape, "
            "or export it with fixed sizes."
        )
    return given if own is None else tuple(g if size is None else size for size, g in zip(own, given, strict=True))
