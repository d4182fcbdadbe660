"""Methods that bound what every run of a program can compute."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from precisionkit.bound.interval import interval
from precisionkit.bound.result import LogitBounds
from precisionkit.bound.substitution import EFFORT, substitution

Method = Callable[..., LogitBounds]
"""Takes a program, a batch of stored inputs and the classes in question."""

METHODS = ("interval", "zonotope")
"""Names, the cheapest first."""


def ladder(name: str, effort: float = EFFORT) -> tuple[tuple[str, Method], ...]:
    """Return the methods that a name stands for, the cheapest first: one, or all of them for ``auto``."""
    methods: dict[str, Method] = {"interval": interval, "zonotope": partial(substitution, effort=effort)}
    return tuple(methods.items()) if name == "auto" else ((name, methods[name]),)


__all__ = ["EFFORT", "METHODS", "LogitBounds", "Method", "interval", "ladder", "substitution"]
