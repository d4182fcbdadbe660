"""Records that a user names as ``package.module:name``."""

from __future__ import annotations

from precisionkit.custom.use import Custom
from precisionkit.errors import UsageError
from precisionkit.ops import Operator
from precisionkit.user_code import find_named


def load_operators(name: str) -> tuple[Custom | Operator, ...]:
    """Import a module of the user's own, with the current directory on the path, and take the records that it holds.

    Parameters
    ----------
    name : str
        ``package.module:name`` of a `Custom`, an `Operator`, or a tuple or list of them.

    Raises
    ------
    UsageError
        There is nothing of that name, or it is something else.
    """
    found = find_named(name, "operators")
    several = tuple(found) if isinstance(found, (tuple, list)) else (found,)
    for one in several:
        if not isinstance(one, (Custom, Operator)):
            raise UsageError(
                f"The operators {name} hold a {type(one).__name__}: name an Operator or Custom of precisionkit.custom, or a tuple of them."
            )
    return several
