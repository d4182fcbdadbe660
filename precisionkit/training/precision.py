"""The precisions that networks are trained in: what is stored in which format, and in which format sums are accumulated.

"Pure" half precision has neither a binary32 copy of the weights nor a scaled loss.  As published (Yun, Kang, Fu, arXiv 2301.12809) it
is 16-bit storage: the frameworks accumulated in binary32 and kept batch normalisation's parameters in binary32.  ``fp16`` is that;
``strict-fp16`` stores and accumulates everything in binary16.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from precisionkit.errors import UsageError, shown
from precisionkit.formats import BFLOAT16, BINARY16, BINARY32, Format


@dataclass(frozen=True)
class Precision:
    """One way of training.

    Attributes
    ----------
    name : str
    storage : Format
        Of weights, gradients and the optimizer's state; of activations too, unless `autocast`.
    statistics : Format
        Of batch normalisation's weights, biases and running statistics.
    accumulate : Format
        Of the sums in matrix products, convolutions, means and batch normalisation.
    autocast : Format or None
        Format that torch's autocast runs products in, with a scaled loss (`torch.amp.GradScaler`).
    """

    name: str
    storage: Format
    statistics: Format
    accumulate: Format
    autocast: Format | None

    @property
    def pure_half(self) -> bool:
        """Whether everything that is stored, apart from batch normalisation's parameters, has 16 bits."""
        return self.storage != BINARY32

    @property
    def strict(self) -> bool:
        """Whether sums are accumulated in the storage format too."""
        return self.accumulate != BINARY32


_ALL = (
    Precision("fp32", BINARY32, BINARY32, BINARY32, None),
    Precision("fp16", BINARY16, BINARY32, BINARY32, None),
    Precision("bf16", BFLOAT16, BINARY32, BINARY32, None),
    Precision("mixed", BINARY32, BINARY32, BINARY32, BINARY16),
    Precision("strict-fp16", BINARY16, BINARY16, BINARY16, None),
)

PRECISIONS: Mapping[str, Precision] = MappingProxyType({precision.name: precision for precision in _ALL})


def find_precision(name: str) -> Precision:
    """Return a precision by its name.

    Raises
    ------
    UsageError
        There is none of that name.
    """
    if name not in PRECISIONS:
        raise UsageError(f"Unknown precision {shown(name)!r}: give one of {', '.join(PRECISIONS)}.")
    return PRECISIONS[name]
