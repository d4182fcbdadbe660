"""What the theorems of proofs/bounds.md are worth: proved in Coq, proved there in part, or on paper alone.

`tests/test_proofs_table.py` keeps this and proofs/README.md together.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import groupby

_HERE = "proofs/bounds.md, theorem"
IN_COQ = frozenset({1, 2, 3, 4, 5, 8, 11, 13, 14, 16, 17, 18, 23})
"""Proved in Coq, for all numbers, formats, lengths and orders."""
IN_PART = frozenset({7, 9, 15, 20, 21, 22, 24})
"""The inequalities that they rest on are, and not their use."""
ON_PAPER = frozenset({6, 10, 12, 19, 25, 26, 27})
"""Proved in proofs/bounds.md alone."""
BASIC = frozenset({1, 13, 14, 15})
"""What every verdict rests on: stores, the margin lemma, composition, and the analysis' own rounding."""
SUBSTITUTED = frozenset({16, 17, 18})
"""Functionals that are pulled back."""
SKETCHED = frozenset({19})
"""Sketches."""
RANDOM = frozenset({20})
"""The model of random rounding."""


def numbers_in(source: str) -> frozenset[int]:
    """The theorems that a record's source names: of ``proofs/bounds.md, theorems 2 to 5 and 21`` 2, 3, 4, 5 and 21; of others none."""
    found = set[int]()
    for first, last in re.findall(r"(\d+)(?: to (\d+))?", source.removeprefix(_HERE) if source.startswith(_HERE) else ""):
        found |= set(range(int(first), int(last or first) + 1))
    return frozenset(found)


def worth(numbers: Iterable[int]) -> str:
    """How theorems are proved, in words: ``2 to 5 in Coq, 21 in Coq in part``; without any ``unproved``."""
    chosen = frozenset(numbers)
    parts = ((IN_COQ, "in Coq"), (IN_PART, "in Coq in part"), (ON_PAPER, "on paper alone"))
    return ", ".join(f"{_listed(chosen & group)} {how}" for group, how in parts if chosen & group) or "unproved"


def _listed(numbers: frozenset[int]) -> str:
    """``1, 3 to 5 and 7``."""
    runs = [[n for _, n in run] for _, run in groupby(enumerate(sorted(numbers)), lambda pair: pair[1] - pair[0])]
    words = [word for run in runs for word in ([f"{run[0]} to {run[-1]}"] if len(run) > 2 else map(str, run))]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
