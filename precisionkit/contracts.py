"""What is taken for granted of a backend's elementary functions: bounds of their errors in the format that they compute in.

No standard bounds these errors, so they are assumptions; every report prints those that it uses.  `make contracts` measures them
on this machine for every number of the half formats.  The figures beside each are what was observed there and on other CPUs.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from precisionkit.formats import Format
from precisionkit.outward import add_up, mul_up


@dataclass(frozen=True)
class Contract:
    """``|computed - f(x)| <= v (result |f(x)| + argument |x| + absolute) + offset``, and `underflows` smallest normal numbers beside it.

    Attributes
    ----------
    result, argument, absolute : float
        In units of the unit roundoff v of the format that the function is computed in.  One ulp is at most 2 v of the result.
    offset : float
        Whatever the format.
    underflows : float
        In units of the smallest normal number: what steps below the normal range lose, times the factors behind them.
    """

    result: float = 0.0
    argument: float = 0.0
    absolute: float = 0.0
    offset: float = 0.0
    underflows: float = 1.0

    def error(self, fmt: Format, argument: Tensor, result: Tensor) -> Tensor:
        """Upper bound of the error, given upper bounds of the magnitudes of the argument and of the exact result."""
        parts = [mul_up(result, (self.result + 1) * fmt.unit_roundoff)]  # one more, as the bound speaks of the exact result
        if self.argument:
            parts.append(mul_up(argument, (self.argument + 1) * fmt.unit_roundoff))
        constant = self.absolute * fmt.unit_roundoff + self.offset + self.underflows * fmt.smallest_normal
        return add_up(parts[0], *parts[1:], constant * (1 + 2.0**-50))

    def sentence(self, name: str) -> str:
        """The assumption in words."""
        parts = [
            f"{factor:g} {unit}" for factor, unit in ((self.result, "v |f|"), (self.argument, "v |x|"), (self.absolute, "v")) if factor
        ]
        parts += [f"{self.offset:.2g}"] if self.offset else []
        return f"{name} err by at most {' + '.join(parts)} (v the unit roundoff of the internal format), beside underflow."


SQRT = Contract(result=4)
"""Two ulps; observed .75, and 1.48 for reciprocal square roots."""
EXP = Contract(result=8)
"""Four ulps; observed .56, of exp(x) - 1 1.0."""
LOG = Contract(result=8)
"""Four ulps; observed .92."""
TANH = Contract(result=8)
"""Four ulps; observed .60."""
SIGMOID = Contract(result=8)
"""Four ulps; observed 1.99."""
SILU = Contract(result=8, underflows=128)
"""Four ulps; observed 1.95."""
MISH = Contract(result=12, underflows=128)
"""Six ulps; observed 2.97."""
ELU = Contract(result=12)
"""Exponentials minus one, and products with one or two parameters; observed 1.6 ulps."""
SOFTPLUS = Contract(result=8, offset=2.1e-9)
"""Four ulps; above its threshold of 20 torch returns x itself, which is less by log(1 + exp(-20)) = 2.06e-9."""
ERF = Contract(result=8, absolute=16)
"""Observed .74 ulps in binary32; vectorised half kernels err by up to 5 * 2**-24, whatever the result."""
GELU = Contract(argument=16)
"""``x (1 + erf(x / sqrt 2)) / 2`` cancels for negative x; observed 6.3 v |x|."""
GELU_TANH = Contract(argument=16)
"""The same with a tanh; observed 1.93 v |x|."""
SIN = Contract(result=8, absolute=4)
"""Sines and cosines; observed .6 ulps."""
