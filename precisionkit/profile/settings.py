"""How a profile is made, and what it refuses."""

from __future__ import annotations

from dataclasses import dataclass

from precisionkit.bound import CONFIDENCE, EFFORT
from precisionkit.data import Dataset
from precisionkit.errors import UsageError
from precisionkit.mixed import NOTHING, Keep

LADDER, ENTRIES = 4, 32
"""Default numbers of inputs of the ladder, and of entries of a node for each of them."""


@dataclass(frozen=True)
class Settings:
    """How to make a profile.

    Attributes
    ----------
    ladder : int or None
        How many of the first inputs the ladder looks at; None takes `LADDER`, or all where there are fewer.
    entries : int
        Most entries of a node that the ladder looks at for each input.
    truth : bool
        Compute the exact network of the ladder's inputs by Arb.
    confidence : float
        Probability with which any `probable` bound may fail, under the model of random rounding.
    effort : float
        Limit of the work of sharpening enclosures for one input of the ladder, in forward passes.
    batch_size : int or None
        None chooses it from the size of the network's largest tensor.
    emulate : str or None
        Make the half run in this order, bit-exact by definition: as `arithmetic.parse_run` reads it and `permitted` allows it.
    keep : Keep
        Nodes that the half program keeps in binary32.
    """

    ladder: int | None = None
    entries: int = ENTRIES
    truth: bool = False
    confidence: float = CONFIDENCE
    effort: float = EFFORT
    batch_size: int | None = None
    emulate: str | None = None
    keep: Keep = NOTHING

    def ladder_inputs(self, data: Dataset) -> int:
        """How many inputs the ladder looks at.

        Raises
        ------
        UsageError
            More than the data set has, or none although the truth about them is asked for; or no entries.
        """
        total = len(data.images)
        asked = min(LADDER, total) if self.ladder is None else self.ladder
        if not 0 <= asked <= total:
            raise UsageError(f"--ladder {asked} is more than the {total} inputs of '{data.name}'; give at most {total}, or more inputs.")
        if self.truth and not asked:
            raise UsageError("--truth computes the exact network of the ladder's inputs, but --ladder 0 asks for none; give at least 1.")
        if self.entries < 1:
            raise UsageError(f"--entries {self.entries} leaves nothing to look at; give at least 1, or --ladder 0 for no ladder.")
        return asked
