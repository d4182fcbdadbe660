"""Applies mutants to a copy of the package, one at a time, and runs the tests that must notice them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from .record import Mutant

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("precisionkit", "tests", "pyproject.toml")
"""What tests need."""
LIMIT = 120.0
"""Seconds after which a run of tests is ended."""


@dataclass(frozen=True)
class Outcome:
    """What became of tests, in one word, and the end of what they printed.

    Attributes
    ----------
    word : {"passed", "failed", "late", "broken"}
        Broken: pytest could not run them, or found none.
    """

    word: str
    text: str
    seconds: float


@dataclass(frozen=True)
class Found:
    """A mutant and what its tests said; `complaint` is empty where it was caught."""

    mutant: Mutant
    seconds: float
    complaint: str = ""


class Copy:
    """A copy of the package and its tests in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._changes = folder, 0
        self._nursery: subprocess.Popen[str] | None = None
        for part in PARTS:
            if (ROOT / part).is_dir():
                shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__", "mutants"))
            else:
                shutil.copy2(ROOT / part, folder / part)

    @contextmanager
    def with_mutant(self, mutant: Mutant) -> Iterator[None]:
        """Apply a mutant, and take it back."""
        path = self.folder / "precisionkit" / mutant.file
        source, times = path.read_text(), path.stat()
        self._changes += 1
        path.write_text(mutant.changed(source))
        # a time of its own, so that no compiled file of another mutant or of the original is taken for this one's
        os.utime(path, (times.st_atime, times.st_mtime - 10 * self._changes))
        try:
            yield
        finally:
            path.write_text(source)
            os.utime(path, (times.st_atime, times.st_mtime))

    def run(self, tests: Iterable[str], keyword: str = "", *, first: bool = True, limit: float = LIMIT) -> Outcome:
        """Run tests on the copy as it is; with `first`, to the first that fails."""
        options = ["-q", "--no-header", "-p", "no:cacheprovider", "--tb=line", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
        options += ["-x"] * first + ["-k", keyword] * bool(keyword)
        begun = time.monotonic()
        answer = self._ask([*options, *(f"tests/{test}" for test in tests)], limit)
        seconds = time.monotonic() - begun
        if answer["code"] is None:
            return Outcome("late", f"more than {limit:g} s", seconds)
        text = "\n".join(answer["text"].splitlines()[-12:])
        return Outcome({0: "passed", 1: "failed"}.get(answer["code"], "broken"), text, seconds)

    def _ask(self, arguments: list[str], limit: float) -> dict[str, Any]:
        """Of a process that imported torch and others once; started when it is first needed."""
        if self._nursery is None:
            self._nursery = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("nursery.py"))],
                cwd=self.folder,
                # the names of some cases are hashes of their attributes
                env=os.environ | {"PYTHONPATH": str(self.folder), "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        assert self._nursery.stdin is not None
        assert self._nursery.stdout is not None
        self._nursery.stdin.write(json.dumps({"arguments": arguments, "limit": limit}) + "\n")
        self._nursery.stdin.flush()
        if not (line := self._nursery.stdout.readline()):
            raise RuntimeError("The process that runs the tests has ended; its last words are above.")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End the process that runs tests."""
        if self._nursery is not None:
            self._nursery.communicate()
            self._nursery = None

    def is_used(self) -> bool:
        """Whether tests import the copy, and not a package that is installed."""
        code = "import precisionkit; print(precisionkit.__file__)"
        environment = os.environ | {"PYTHONPATH": str(self.folder)}
        done = subprocess.run([sys.executable, "-c", code], cwd=self.folder, env=environment, capture_output=True, text=True, check=True)
        return Path(done.stdout.strip()).resolve().is_relative_to(self.folder.resolve())


@contextmanager
def copies(count: int) -> Iterator[list[Copy]]:
    """Copies in temporary folders."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        made = []
        for k in range(count):
            (Path(folder) / str(k)).mkdir()
            made.append(Copy(Path(folder) / str(k)))
        if not made[0].is_used():
            raise RuntimeError("Tests would import another precisionkit than the copy; unset what puts it in front of PYTHONPATH.")
        try:
            yield made
        finally:
            for copy in made:
                copy.close()


def stale(mutants: Iterable[Mutant]) -> list[str]:
    """Mutants that do not apply to the checkout, or whose tests do not exist, in sentences."""
    found = []
    for mutant in mutants:
        try:
            mutant.changed((ROOT / "precisionkit" / mutant.file).read_text())
        except (OSError, ValueError) as error:
            found.append(str(error))
        found += [f"The test {test} of the mutant '{mutant.name}' does not exist." for test in mutant.lacking(ROOT / "tests")]
    return found


def failing_without(copy: Copy, mutants: Iterable[Mutant], limit: float) -> list[str]:
    """What the tests say that fail on the package as it is; every selection is run once."""
    selections: dict[str, dict[str, None]] = {}
    for mutant in mutants:
        selections.setdefault(mutant.keyword, {}).update(dict.fromkeys(mutant.tests))
    outcomes = [copy.run(tests, keyword, first=False, limit=limit * len(tests)) for keyword, tests in selections.items()]
    return [outcome.text for outcome in outcomes if outcome.word != "passed"]


def tried(copy: Copy, mutant: Mutant, limit: float = LIMIT) -> Found:
    """Run a mutant's tests with it."""
    with copy.with_mutant(mutant):
        outcome = copy.run(mutant.tests, mutant.keyword, limit=limit)
    caught = outcome.word == "failed" or (outcome.word == "late" and mutant.hangs)
    return Found(mutant, outcome.seconds, "" if caught else f"{outcome.word}: {outcome.text}")


def tried_all(made: list[Copy], mutants: Iterable[Mutant], limit: float) -> Iterator[Found]:
    """Of all mutants, in their order, on as many copies at once as there are."""
    free: SimpleQueue[Copy] = SimpleQueue()
    for copy in made:
        free.put(copy)

    def one(mutant: Mutant) -> Found:
        copy = free.get()
        try:
            return tried(copy, mutant, limit)
        finally:
            free.put(copy)

    with ThreadPoolExecutor(len(made)) as pool:
        yield from pool.map(one, mutants)
