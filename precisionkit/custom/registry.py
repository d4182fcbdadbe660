"""Let records of one's own be known within a block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from precisionkit.capture.expansions import EXPANSIONS
from precisionkit.capture.export import decompositions
from precisionkit.capture.moves import MADE, MOVES
from precisionkit.custom.check import check_operator
from precisionkit.custom.use import Custom
from precisionkit.errors import InvalidOperatorError
from precisionkit.ops import BY_NAME, BY_TARGET, Operator, extended


@contextmanager
def registered(*operators: Custom | Operator) -> Iterator[None]:
    """Let operators of one's own be captured, run and bounded within a block.

    Each is first checked on its uses (`check_operator`), a second or so.  Reports list the record among the assumptions.  Everything
    that is done with a network that has such an operator belongs into the block; all threads see it.

    Parameters
    ----------
    operators : Custom or Operator
        An `Operator` stands for ``Custom(operator)``.

    Raises
    ------
    InvalidOperatorError
        A record is wrong, or its name or one of its targets is taken.
    """
    records: list[Operator] = []
    for given in operators:
        custom = given if isinstance(given, Custom) else Custom(given)
        _check_free(custom.record, records)
        check_operator(custom.record, *custom.uses)
        records.append(_marked(custom.record))
    with extended(records):
        yield


def _check_free(record: Operator, others: list[Operator]) -> None:
    if record.name in BY_NAME or any(record.name == other.name for other in others):
        raise InvalidOperatorError(f"There is a record of the name '{record.name}' already: choose another name.")
    read = set(EXPANSIONS) | {str(target) for target in decompositions()}
    for target in record.targets:
        known = BY_TARGET.get(target) or next((other for other in others if target in other.targets), None)
        if known is not None:
            raise InvalidOperatorError(f"The operator {target} has a record already, '{known.name}': register one record for it.")
        if target in read or target in MOVES or target in MADE:
            raise InvalidOperatorError(
                f"The operator {target} is read without a record of its own ('precisionkit ops {target}'): leave it out."
            )


def _marked(record: Operator) -> Operator:
    """Have reports say whose record it is."""
    targets = ", ".join(record.targets)
    own = f"The record of operator '{record.name}' ({targets}) is the user's own, checked on examples; its proof: {record.source}."
    return replace(record, assumption=f"{own} {record.assumption}".strip())
