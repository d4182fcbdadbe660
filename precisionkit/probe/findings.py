"""What a probe finds, and how it is shown."""

from __future__ import annotations

import msgspec
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text


class Witness(msgspec.Struct, frozen=True):
    """A result that an arithmetic does not allow.

    Attributes
    ----------
    kernel, suite : str
    got : float
    allowed : tuple of float
        The ends of what is allowed, or, if `listed`, all of it.
    listed : bool
    """

    kernel: str
    suite: str
    got: float
    allowed: tuple[float, ...]
    listed: bool

    def __str__(self) -> str:
        """In words."""
        numbers = [f"{value:.9g}" for value in dict.fromkeys(self.allowed)]
        allowed = (" or " if self.listed else " to ").join(numbers)
        return f"{self.kernel}, {self.suite}: got {self.got:.9g}, allowed is {allowed}"


class Judgement(msgspec.Struct, frozen=True):
    """Whether an arithmetic is refuted, with the first witness, and how many results were judged."""

    arithmetic: str
    witness: Witness | None
    results: int
    bit_exact: bool


class Answer(msgspec.Struct, frozen=True):
    """One property of one kernel."""

    kernel: str
    question: str
    answer: str


class Findings(msgspec.Struct, frozen=True):
    """Everything that a probe found.

    Attributes
    ----------
    device, storage : str
    judgements : tuple of Judgement
        Of arithmetics, by their names.
    answers : tuple of Answer
    warnings : tuple of str
        What no arithmetic here covers: Winograd convolutions, flushed subnormal numbers, rows computed in a short format.
    """

    device: str
    storage: str
    judgements: tuple[Judgement, ...]
    answers: tuple[Answer, ...]
    warnings: tuple[str, ...]

    def judgement(self, arithmetic: str) -> Judgement | None:
        """Of one arithmetic, if it was judged."""
        return next((j for j in self.judgements if j.arithmetic == arithmetic), None)


def render_findings(findings: Findings) -> RenderableType:
    """Lay the findings out for a terminal."""
    judged = Table("arithmetic", "", "results", "witness", box=None, padding=(0, 2, 0, 0))
    for j in findings.judgements:
        said = "refuted" if j.witness else "bit for bit" if j.bit_exact else "consistent"
        judged.add_row(j.arithmetic, said, f"{j.results:,}", str(j.witness or ""))
    answers = Table("kernel", "", "", box=None, padding=(0, 2, 0, 0))
    for a in findings.answers:
        answers.add_row(a.kernel, a.question, a.answer)
    warnings = [Text(f"Warning: {warning}", style="bold") for warning in findings.warnings]
    heading = Text(
        f"{findings.device}, {findings.storage}; consistent means that no result tried contradicts the arithmetic, not that none could\n"
    )
    return Group(heading, judged, Text(), answers, *warnings)
