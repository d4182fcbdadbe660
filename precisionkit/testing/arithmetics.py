"""Strategies for arithmetics: every combination of formats and orders that `parse_arithmetic` accepts."""

from __future__ import annotations

from functools import cache
from itertools import product

from hypothesis import strategies as st

from precisionkit.arithmetic import ACCUMULATORS, STORAGE, TENSOR_CORES, Arithmetic, parse_arithmetic
from precisionkit.errors import UnsupportedArithmeticError, UsageError

_PARTS = (2, 64)
"""Least and largest K and S of ``blocked:K`` and ``splitk:S``."""
_ORDERS = (
    *("any", "sequential", "pairwise", "exact", "blocked:", "splitk:"),
    *(f"{kind}:{unit.name}" for kind in ("tensorcore", "gpu") for unit in TENSOR_CORES),
)
_FUSIONS = ("none", "epilogue")
_Options = tuple[str, str, str, str]


def _order(template: str, parts: int) -> str:
    return f"{template}{parts}" if template.endswith(":") else template


@cache
def _accepted() -> tuple[_Options, ...]:
    """Storage, accumulator, order and fusion of every arithmetic; a colon at the end of an order stands for a number."""
    formats = product((f.option for f in STORAGE), (f.option for f in ACCUMULATORS))
    found = []
    for (storage, accumulate), order, fuse in product(formats, _ORDERS, _FUSIONS):
        try:
            parse_arithmetic(storage, accumulate, _order(order, _PARTS[0]), fuse)
        except UnsupportedArithmeticError:
            continue
        found.append((storage, accumulate, order, fuse))
    return tuple(found)


def _parsed(options: _Options) -> st.SearchStrategy[Arithmetic]:
    storage, accumulate, order, fuse = options
    if not order.endswith(":"):
        return st.just(parse_arithmetic(storage, accumulate, order, fuse))
    return st.integers(*_PARTS).map(lambda parts: parse_arithmetic(storage, accumulate, _order(order, parts), fuse))


def _narrowed(options: _Options, wanted: tuple[str | None, ...]) -> _Options | None:
    """The options, with the order's number where it is given; None where they are not the wanted ones."""
    storage, accumulate, order, fuse = options
    want = wanted[2]
    if any(want not in (None, has) for want, has in zip((wanted[0], wanted[1], wanted[3]), (storage, accumulate, fuse), strict=True)):
        return None
    if want is None or want == order or (want.endswith(":") and order.startswith(want)):
        return options
    return (storage, accumulate, want, fuse) if order.endswith(":") and want.startswith(order) else None


def arithmetics(
    *, storage: str | None = None, accumulate: str | None = None, order: str | None = None, fuse: str | None = None
) -> st.SearchStrategy[Arithmetic]:
    """Draw an arithmetic of a half program: every one that parses, or those with the options that are given.

    Parameters
    ----------
    storage, accumulate, fuse : str or None
        As `parse_arithmetic` reads them; None draws any.
    order : str or None
        Likewise; ``blocked:``, ``splitk:``, ``tensorcore:`` and ``gpu:`` alone draw the rest.

    Raises
    ------
    UsageError
        No arithmetic has these options.
    """
    wanted = (storage, accumulate, order, fuse)
    chosen = [found for options in _accepted() if (found := _narrowed(options, wanted)) is not None]
    if not chosen:
        names = ("storage", "accumulate", "order", "fuse")
        given = ", ".join(f"{name} {value}" for name, value in zip(names, wanted, strict=True) if value)
        raise UsageError(f"No arithmetic has {given}; 'precisionkit certify --help' lists what goes together.")
    return st.sampled_from(chosen).flatmap(_parsed)
