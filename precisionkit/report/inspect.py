"""The records of a network that is looked at and not certified, whose JSON is ``precisionkit.inspect/1``, and how they are shown."""

from __future__ import annotations

from collections import Counter
from typing import Literal

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from precisionkit.report.parts import Count, ModelInfo, _Record

INSPECT_SCHEMA: Literal["precisionkit.inspect/1"] = "precisionkit.inspect/1"

Kind = Literal["dot product", "entry by entry", "sum, norm or softmax", "choice or move", "not supported", "not looked at"]
KINDS: tuple[Kind, ...] = ("dot product", "entry by entry", "sum, norm or softmax", "choice or move", "not supported", "not looked at")


class Operation(_Record, frozen=True, kw_only=True):
    """One operator of the exported program.

    The shape is that of a batch of n.  The record is ``identity`` where nothing moves, ``constant`` where the input does not matter,
    ``tokens`` where they alone choose, and null where the operator is not supported, with the reason; ``unread`` in a file that cannot be
    opened because of others.  Entries and multiplications are for one input, parameters the
    numbers in the constants that it reads, inputs the operations that it reads.
    """

    name: str
    target: str
    shape: tuple[str, ...]
    dtype: str
    kind: Kind
    record: str | None
    parameters: Count
    entries: Count
    multiplications: Count
    inputs: tuple[str, ...]
    reason: str
    source: str

    @property
    def size(self) -> str:
        """The shape in words."""
        return "x".join(self.shape).replace("*n", "n")


class InspectReport(_Record, frozen=True, kw_only=True):
    """The whole network; the reason says why it is not supported as a whole, and is empty where it is."""

    schema: Literal["precisionkit.inspect/1"] = INSPECT_SCHEMA
    model: ModelInfo
    input: str
    input_shape: tuple[int, ...]
    input_dtype: str
    supported: bool
    reason: str
    classes: Count | None
    operations: tuple[Operation, ...]

    @property
    def multiplications(self) -> int:
        """For one input."""
        return sum(operation.multiplications for operation in self.operations)

    @property
    def unsupported(self) -> tuple[Operation, ...]:
        """Operations without a record."""
        return tuple(operation for operation in self.operations if operation.record is None)

    @property
    def totals(self) -> str:
        """In one line."""
        count, known = len(self.operations), len(self.operations) - len(self.unsupported)
        if not count:
            return "no operators"
        if any(operation.kind == "not looked at" for operation in self.operations):
            left = "the others not looked at"
            return f"{count:,} operators, {count - known:,} of them not supported, {left}; {self.model.parameters:,} parameters"
        largest = max(self.operations, key=lambda operation: operation.entries)
        return (
            f"{count:,} operators, {100 * known / count:.4g} % of them supported; {self.model.parameters:,} parameters; "
            f"{self.multiplications:,} multiplications an input; largest tensor {largest.entries:,} numbers ({largest.name})"
        )


def render_inspection(report: InspectReport) -> RenderableType:
    """Lay the network out for a terminal: its operators, totals, and what is not supported."""
    table = Table("node", "operator", "shape", "format", "record", "parameters", box=None, padding=(0, 2, 0, 0))
    table.columns[-1].justify = "right"
    for operation in report.operations:
        name, record = operation.target.removeprefix("aten."), operation.record or "not supported"
        cells = (operation.name, name, operation.size, operation.dtype, record, f"{operation.parameters:,}")
        table.add_row(*map(Text, cells), style=None if operation.record else "bold red")
    shape = "x".join(map(str, report.input_shape))
    heading = Text(f"{report.model.arch} on inputs of {shape or 'an open shape'} ({report.input_dtype})\n")
    return Group(heading, table, Text(), Text(report.totals), *map(Text, _verdict(report)))


def _verdict(report: InspectReport) -> list[str]:
    """Whether it is supported, and every reason why not, once for each operator of torch."""
    if report.supported:
        return [f"Supported: {report.classes:,} classes."]
    reasons = {operation.target: operation.reason for operation in reversed(report.unsupported)}
    counts = Counter(operation.target for operation in report.unsupported)
    said = [f"Not supported{f', at {count} nodes' if count > 1 else ''}: {reasons[target]}" for target, count in counts.items()]
    return said if report.reason in reasons.values() else [*said, f"Not supported: {report.reason}"]
