"""Files that figures can be written to."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from precisionkit.errors import UsageError

SUFFIXES = (".png", ".svg", ".pdf")


def check_figure(path: Path, *libraries: str) -> None:
    """Refuse, before a long run, a figure that could not be drawn.

    Parameters
    ----------
    libraries : str
        Modules that draw it; matplotlib alone by default.

    Raises
    ------
    UsageError
        The suffix is none of `SUFFIXES`, or a library is not installed.
    """
    if path.suffix not in SUFFIXES:
        raise UsageError(f"The figure '{path}' has the suffix '{path.suffix}'; name it with one of {', '.join(SUFFIXES)}.")
    for library in libraries or ("matplotlib",):
        if find_spec(library) is None:
            name = library.replace("_", "-")
            raise UsageError(f"This figure needs {name}, which is not installed; run pip install 'precisionkit[figures]'.")
