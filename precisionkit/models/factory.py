"""Build a module from ``--arch``: a zoo name, or ``package.module:factory`` in the user's own code."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import nn

from precisionkit.errors import UsageError
from precisionkit.models.files import shown
from precisionkit.models.zoo import ZOO


def build(arch: str) -> nn.Module:
    """Return a fresh module of the named architecture.

    Naming a factory runs the user's own code: its module is imported with the current directory on the path.
    """
    if arch in ZOO:
        return ZOO[arch].build()
    module_name, colon, attribute = arch.partition(":")
    if not (colon and module_name and attribute):
        raise UsageError(
            f"Unknown architecture {shown(arch)!r}: give one of {', '.join(ZOO)}, or package.module:factory for a function "
            "without arguments that returns your network."
        )
    with _current_directory_on_path():
        module = _call(_find(module_name, attribute, arch), arch)
    if not isinstance(module, nn.Module):
        raise UsageError(f"The factory {arch} returned {type(module).__name__}, but it must return a torch.nn.Module.")
    return module


def _find(module_name: str, attribute: str, arch: str) -> object:
    try:
        found: object = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise UsageError(
            f"The factory {arch} cannot be imported, because there is no module {error.name}: "
            "run in the directory that holds it, or install it."
        ) from None
    except Exception as error:  # the user's own code may raise anything
        raise UsageError(f"Importing {module_name} for the factory {arch} failed with {_brief(error)}: correct that module.") from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise UsageError(f"The module {module_name} has no {attribute}: name a function in it, as in {module_name}:make_net.")
        found = getattr(found, part)
    return found


def _call(factory: object, arch: str) -> object:
    if not callable(factory):
        raise UsageError(f"The factory {arch} is a {type(factory).__name__} and cannot be called: name a function without arguments.")
    try:
        return factory()
    except Exception as error:  # the user's own code may raise anything
        raise UsageError(
            f"Calling the factory {arch} without arguments failed with {_brief(error)}: it must return the network."
        ) from error


def _brief(error: Exception) -> str:
    first = str(error).strip().splitlines()[:1]
    return f"{type(error).__name__} ({shown(first[0], 120)})" if first else type(error).__name__


@contextmanager
def _current_directory_on_path() -> Iterator[None]:
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        if here in sys.path:
            sys.path.remove(here)
