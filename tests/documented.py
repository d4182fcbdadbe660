"""The examples of README.md and docs/: blocks of commands and of Python, with the output that they show."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "proofs").glob("*.md"))]
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_SPAN = re.compile(r"(?<![`\w])`((?:precisionkit|make|python|pip|pytest|torchrun) [^`\n]+)`")
_FILE = re.compile(r"[Tt]he file `(\w+\.py)`[^\n]*\n\s*$")


@dataclass(frozen=True)
class Example:
    """A command or a block of Python, and what it is said to print."""

    page: str
    code: str
    shown: tuple[str, ...] = ()
    file: str | None = None

    @property
    def command(self) -> str:
        """Without its comment."""
        return re.sub(r"\s+#.*", "", self.code)

    @property
    def words(self) -> list[str]:
        """Of a command, as a shell takes it apart."""
        return shlex.split(self.command)


def page_name(path: Path) -> str:
    """Its place in the repository."""
    return path.relative_to(ROOT).as_posix()


def commands(path: Path) -> list[Example]:
    """What stands behind a dollar in blocks of a console, line by line."""
    found: list[Example] = []
    for kind, text in _BLOCK.findall(path.read_text()):
        if kind != "console":
            continue
        for line in text.replace("\\\n", "").splitlines():
            if line.startswith("$ "):
                found.append(Example(page_name(path), line.removeprefix("$ ")))
            else:
                found[-1] = Example(found[-1].page, found[-1].code, (*found[-1].shown, line))
    return found


def programs(path: Path) -> list[Example]:
    """Blocks of Python; one behind which a block of text stands prints that; one behind the words "the file `x.py`" is that file."""
    text = path.read_text()
    blocks = list(_BLOCK.finditer(text))
    found = []
    for block, behind in zip_longest(blocks, blocks[1:]):
        if block[1] != "python":
            continue
        shows = behind is not None and behind[1] == "text" and not text[block.end() : behind.start()].strip()
        named = _FILE.search(text[: block.start()])
        shown = tuple(behind[2].splitlines()) if shows and behind else ()
        found.append(Example(page_name(path), block[2], shown, named[1] if named else None))
    return found


def mentioned(path: Path) -> list[Example]:
    """Commands in running text."""
    return [Example(page_name(path), span) for span in _SPAN.findall(_BLOCK.sub("", path.read_text()))]


_TIME = re.compile(r"(?<![\w.])\d[\d.,]*(?= (?:s\b|s,|inputs/s|images/s))")
_DECIMAL = re.compile(r"(?<![\w.])\d+\.\d+(?:e[-+]?\d+)?")
_HASH = re.compile(r"\b[0-9a-f]{64}\b")


def missing(shown: tuple[str, ...], printed: str, tolerance: float = 0.1) -> str | None:
    """Return the first shown line that is not printed behind the ones before it; None if all are.

    Line breaks and columns may differ, times and hashes may be any; ``...`` stands for anything; decimals may be off by the tolerance,
    as the last bits of measured errors depend on the processor.
    """
    rest = _HASH.sub("HASH", " ".join(printed.split()))
    for line in shown:
        wanted = " ".join(line.split())
        if wanted in ("", "..."):
            continue
        decimals = [float(number) for number in _DECIMAL.findall(_TIME.sub("TIME", _HASH.sub("HASH", wanted)))]
        for match in re.finditer(_pattern(wanted), rest):
            if all(abs(float(got) - number) <= tolerance * abs(number) for got, number in zip(match.groups(), decimals, strict=True)):
                rest = rest[match.end() :]
                break
        else:
            return line
    return None


def _pattern(wanted: str) -> str:
    marked = _DECIMAL.sub("DECIMAL", _TIME.sub("TIME", _HASH.sub("HASH", wanted)))
    pattern = re.escape(marked).replace(re.escape("..."), ".*?")
    return pattern.replace("TIME", r"[\d.,]+").replace("DECIMAL", r"(\d+(?:\.\d+)?(?:e[-+]?\d+)?)")
