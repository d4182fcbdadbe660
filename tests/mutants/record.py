"""A small wrong change, and the tests that must fail with it."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path


@dataclass(frozen=True)
class Mutant:
    """A wrong change to one place of the package.

    Attributes
    ----------
    name : str
        What is wrong, in words.
    file : str
        Of the package, as ``ops/_dot.py``.
    old, new : str
        The text that is replaced, which is found once, and what stands there instead.
    tests : tuple of str
        Node ids below ``tests/``; at least one of them must fail.
    keyword : str
        As for pytest's ``-k``: of those tests, the ones that are run.
    hangs : bool
        A run that does not end counts as caught.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    keyword: str = ""
    hangs: bool = False

    def changed(self, source: str) -> str:
        """The source of the file with the change.

        Raises
        ------
        ValueError
            The text is not found exactly once, or what results is the same or no Python.
        """
        found = source.count(self.old)
        if found != 1:
            raise ValueError(f"The mutant '{self.name}' is stale: its text is found {found} times in {self.file}, not once.")
        changed = source.replace(self.old, self.new)
        try:
            same = ast.dump(ast.parse(changed)) == _tree(source)
        except SyntaxError as error:
            raise ValueError(f"The mutant '{self.name}' makes {self.file} no Python: {error}.") from error
        if same:
            raise ValueError(f"The mutant '{self.name}' changes nothing in {self.file}.")
        return changed

    def lacking(self, tests: Path) -> list[str]:
        """Those of its tests whose file holds no function of that name."""
        return [test for test in self.tests if not _defines(tests / test.partition("::")[0], test)]


@lru_cache(maxsize=4)
def _tree(source: str) -> str:
    return ast.dump(ast.parse(source))


def _defines(path: Path, test: str) -> bool:
    function = test.partition("::")[2].partition("[")[0]
    return path.is_file() and f"\ndef {function}(" in path.read_text()


def mutant(name: str, file: str, old: str, new: str, *tests: str, keyword: str = "", hangs: bool = False) -> Mutant:
    """The same with its tests one after the other."""
    return Mutant(name, file, old, new, tests, keyword, hangs)
