"""What a pickle would import and build, from its opcodes, without executing it."""

from __future__ import annotations

import io
import pickletools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_STRING_OPCODES = frozenset({"SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE"})
_STORING = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})
_FETCHING = frozenset({"GET", "BINGET", "LONG_BINGET"})

Extent = tuple[int, int]
"""Depth of nesting, and number of objects where a repeated one counts each time."""


@dataclass(frozen=True)
class Contents:
    """What the opcodes tell.

    Attributes
    ----------
    names : tuple of str
        Classes and functions that it would import.
    depth, size : int
        Of the deepest and the largest object.  Python hashes a key of a dictionary with all that is in it, as often as it is
        in it: a small pickle of tuples of tuples can take forever, or more stack than there is.
    """

    names: tuple[str, ...]
    depth: int
    size: int


def look_into(data: bytes, count: int) -> Contents:
    """Look into the first pickles in the bytes; what comes after damage is not seen."""
    stream = io.BytesIO(data)
    names: dict[str, None] = {}
    depth = size = 0
    for _ in range(count):
        try:
            for name, (deep, large) in _walk(stream):
                if name:
                    names[name] = None
                depth, size = max(depth, deep), max(size, large)
        except Exception:  # damaged bytes raise many types, in the loader as well, which judges the file
            break
    return Contents(tuple(names), depth, size)


def _walk(stream: io.BytesIO) -> Iterator[tuple[str, Extent]]:
    """Yield for each opcode what it imports, and the extent of what it builds."""
    strings: list[str] = []  # STACK_GLOBAL takes the two strings pushed last
    stack: list[Extent | None] = []  # None is a mark
    memo: dict[Any, Extent] = {}
    for opcode, argument, _position in pickletools.genops(stream):
        name = ""
        if opcode.name in _STRING_OPCODES:
            strings.append(str(argument))
        elif opcode.name in ("GLOBAL", "INST"):
            name = str(argument).replace(" ", ".", 1)
        elif opcode.name == "STACK_GLOBAL":
            name = ".".join(strings[-2:])
        if opcode.name in _STORING or opcode.name == "MEMOIZE":
            memo[argument if opcode.name in _STORING else len(memo)] = stack[-1] or (0, 1)
            yield name, (0, 1)
        elif opcode.name in _FETCHING:
            stack.append(memo[argument])
        else:
            yield name, _apply(opcode, stack)


def _apply(opcode: pickletools.OpcodeInfo, stack: list[Extent | None]) -> Extent:
    """Take from the stack what the opcode takes, and push what it builds of it."""
    before, after = opcode.stack_before, opcode.stack_after
    taken: list[Extent] = []
    single = len(before)
    if pickletools.markobject in before:
        single = before.index(pickletools.markobject)
        while (item := stack.pop()) is not None:
            taken.append(item)
    for _ in range(single):
        if (item := stack.pop()) is not None:
            taken.append(item)
    built = (1 + max(deep for deep, _ in taken), 1 + sum(large for _, large in taken)) if taken else (0, 1)
    stack.extend(None if item is pickletools.markobject else built for item in after)
    return built
