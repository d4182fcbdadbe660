"""What can be analysed, operator by operator, from the records and from how networks are read: for the terminal and the documentation."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

import msgspec

from precisionkit import theorems
from precisionkit.capture.expansions import READ_AS
from precisionkit.capture.export import decompositions
from precisionkit.capture.moves import MADE, MOVES
from precisionkit.errors import UsageError, shown
from precisionkit.ops import BY_NAME, Operator

_OWN = "precisionkit."
"""Targets of records that stand for no operator of torch."""
_STEPS = "the steps that torch decomposes it into"


class Part(msgspec.Struct, frozen=True):
    """Something that an operator's kernels compute on the way, with the bound of its error."""

    name: str
    bound: str


class Entry(msgspec.Struct, frozen=True):
    """One operator.

    Attributes
    ----------
    name : str
        Of the record; of torch's operator where there is none.
    targets : tuple of str
        Operators of torch that are read as this one; empty where reading a network makes it.
    bound : str
        Radius of the result before the store, or how torch's operator is read.
    parts : tuple of Part
    assumes : str
        Of a backend, beside the arithmetic.
    source : str
        Where the bound is proved.
    worth : str
        How: in Coq, in part, on paper alone; ``unproved`` where it names no theorem, as records of the user's own.
    """

    name: str
    targets: tuple[str, ...]
    bound: str
    parts: tuple[Part, ...] = ()
    assumes: str = ""
    source: str = ""
    worth: str = ""

    @property
    def proof(self) -> str:
        """Where and how the bound is proved."""
        return f"{self.source} ({self.worth})" if self.worth else self.source

    @property
    def words(self) -> tuple[str, ...]:
        """What it can be asked for by."""
        return (self.name, *self.targets, *(part.name for part in self.parts))


class Catalogue(msgspec.Struct, frozen=True):
    """Everything that can be analysed.

    Attributes
    ----------
    operators : tuple of Entry
        With an error rule of their own.
    read_as : tuple of Entry
        Read as several of those.
    moves : tuple of Entry
        Operators that move, repeat or fill in numbers, read as `rearrange`, `view` or a record of their own.
    made : tuple of Entry
        Operators that make constants of shapes alone.
    """

    operators: tuple[Entry, ...]
    read_as: tuple[Entry, ...]
    moves: tuple[Entry, ...]
    made: tuple[Entry, ...]

    @property
    def entries(self) -> tuple[Entry, ...]:
        """All of them."""
        return (*self.operators, *self.read_as, *self.moves, *self.made)


def catalogue(operators: Iterable[Operator] | None = None) -> Catalogue:
    """List what can be analysed; by default with every operator that is registered."""
    records = tuple(BY_NAME.values() if operators is None else operators)
    own = {target for record in records for target in record.targets}
    read_as = dict(READ_AS) | {str(target): _STEPS for target in decompositions()}
    return Catalogue(
        tuple(_entry(record) for record in records if not record.hidden),
        tuple(Entry(_short(target), (target,), f"read as {text}") for target, text in sorted(read_as.items())),
        tuple(Entry(_short(target), (target,), "moves numbers; rounds nothing but what it fills in") for target in sorted(MOVES - own)),
        tuple(Entry(_short(target), (target,), "makes a constant of shapes alone") for target in sorted(MADE)),
    )


def _entry(record: Operator) -> Entry:
    parts = tuple(Part(s.operator, BY_NAME[s.operator].bound) for s in record.statistics)
    targets = tuple(target for target in record.targets if not target.startswith(_OWN) and target not in READ_AS)
    return Entry(record.name, targets, record.bound, parts, record.assumption, record.source, _worth(record, parts))


def _worth(record: Operator, parts: Sequence[Part]) -> str:
    sources = [record.source, *(BY_NAME[part.name].source for part in parts)]
    return theorems.worth(n for source in sources for n in theorems.numbers_in(source))


def _short(target: str) -> str:
    """The name of an operator of torch without its library and overload."""
    return target.split(".")[1]


def find(known: Catalogue, wanted: str) -> Catalogue:
    """Take the operators with this text in a name of theirs.

    Raises
    ------
    UsageError
        There are none.
    """
    text = wanted.lower()

    def chosen(entries: Sequence[Entry]) -> tuple[Entry, ...]:
        return tuple(entry for entry in entries if any(text in word.lower() for word in entry.words))

    found = Catalogue(*(chosen(getattr(known, name)) for name in known.__struct_fields__))
    if found.entries:
        return found
    names = dict.fromkeys(name for entry in known.entries for name in (entry.name, *map(_short, entry.targets)))
    near = difflib.get_close_matches(_short(text) if text.count(".") else text, names, n=5)
    raise UsageError(
        f"No supported operator has '{shown(wanted)}' in its name"
        + (f"; the nearest names are {', '.join(near)}. " if near else ". ")
        + "'precisionkit ops' lists all; docs/custom-operators.md says how to add one."
    )
