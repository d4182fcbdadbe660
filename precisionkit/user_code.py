"""Import what the user names as ``package.module:name``, and call functions of hers: her code runs because she asks for it."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from precisionkit.errors import UsageError, shown


def is_named(text: str) -> bool:
    """Whether the text has the form ``package.module:function``."""
    module_name, colon, attribute = text.partition(":")
    return bool(colon) and all(part.isidentifier() for part in (*module_name.split("."), *attribute.split(".")))


def call_named(text: str, kind: str, returns: str) -> object:
    """Import the module, with the current directory on the path, and call the function without arguments.

    Parameters
    ----------
    text : str
        ``package.module:function``.
    kind, returns : str
        What the function is called and what it must return, in messages.

    Raises
    ------
    UsageError
        There is no such function, or it raises.
    """
    module_name, _, attribute = text.partition(":")
    with current_directory_on_path():
        return _call(_find(module_name, attribute, f"{kind} {text}"), f"{kind} {text}", returns)


def find_named(text: str, kind: str) -> object:
    """Import the module, with the current directory on the path, and return what it calls by the name.

    Raises
    ------
    UsageError
        The text has another form, or there is nothing of that name.
    """
    if not is_named(text):
        raise UsageError(f"The name {shown(text)!r} of the {kind} is not of the form package.module:name, as in mine.records:MINE.")
    module_name, _, attribute = text.partition(":")
    with current_directory_on_path():
        return _find(module_name, attribute, f"{kind} {text}")


def brief(error: Exception) -> str:
    """Type of an error and the first line of its text."""
    first = str(error).strip().splitlines()[:1]
    return f"{type(error).__name__} ({shown(first[0], 120)})" if first else type(error).__name__


def _find(module_name: str, attribute: str, what: str) -> object:
    try:
        found: object = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise UsageError(
            f"The {what} cannot be imported, because there is no module {error.name}: run in the directory that holds it, or install it."
        ) from None
    except Exception as error:  # the user's own code may raise anything
        raise UsageError(f"Importing {module_name} for the {what} failed with {brief(error)}: correct that module.") from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            near = difflib.get_close_matches(part, [name for name in vars(found) if not name.startswith("_")], n=3)
            say = f"the nearest names are {', '.join(near)}" if near else "name something that it defines"
            raise UsageError(f"The module {module_name} has no {attribute}, for the {what}: {say}.")
        found = getattr(found, part)
    return found


def _call(function: object, what: str, returns: str) -> object:
    if not callable(function):
        raise UsageError(f"The {what} is a {type(function).__name__} and cannot be called: name a function without arguments.")
    try:
        return function()
    except Exception as error:  # the user's own code may raise anything
        raise UsageError(f"Calling the {what} without arguments failed with {brief(error)}: it must return {returns}.") from error


@contextmanager
def current_directory_on_path() -> Iterator[None]:
    """Let modules in the current directory be imported."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        if here in sys.path:
            sys.path.remove(here)
