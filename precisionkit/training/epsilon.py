"""Why the epsilon of Adam and RMSProp breaks half precision: the second moments that become zero, in exact arithmetic.

Theorem 27 of proofs/bounds.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from precisionkit.errors import UsageError
from precisionkit.formats import Format, round_to_nearest
from precisionkit.training.optimizers import ALPHA, BETAS
from precisionkit.training.settings import Settings

_DECAY = {"adam": BETAS[1], "rmsprop": ALPHA}


@dataclass(frozen=True)
class EpsilonAnalysis:
    """What an epsilon does in a format.

    Attributes
    ----------
    optimizer, fmt : str, Format
    epsilon, stored : float
        As given, and as the format has it: what is added to a denominator of zero.
    vanishing : float
        Largest gradient of the format whose second moment stays zero: its square's share is at most eta.
    amplification : float
        Largest update of gradients up to `vanishing`, in units of the learning rate: ``vanishing / stored``; infinite where `stored`
        is zero, and NaN for gradients of zero then.  In exact arithmetic Adam's first update is at most 1.
    sufficient : float
        Smallest epsilon of the format with an amplification of at most 1.
    """

    optimizer: str
    fmt: Format
    epsilon: float
    stored: float
    vanishing: float
    amplification: float
    sufficient: float

    def describe(self) -> str:
        """Say it in two sentences."""
        lost = f"gradients up to {self.vanishing:.2g} have a second moment of zero in {self.fmt.name}"
        if self.stored == 0:
            return (
                f"The epsilon {self.epsilon:g} is zero in {self.fmt.name}, and {lost}: their update is a division by zero, infinite, or "
                f"NaN for a gradient of zero. An epsilon of {self.sufficient:.2g} or more keeps such updates below the learning rate."
            )
        return (
            f"The epsilon {self.epsilon:g} is {self.stored:.3g} in {self.fmt.name}, and {lost}: their update can reach "
            f"{self.amplification:.3g} times the learning rate. An epsilon of {self.sufficient:.2g} or more keeps it below 1."
        )


def analyse_epsilon(optimizer: str, epsilon: float, fmt: Format) -> EpsilonAnalysis:
    """Tell what an epsilon does in a format (theorem 27).

    Parameters
    ----------
    optimizer : str
        ``adam`` or ``rmsprop``.
    epsilon : float
    fmt : Format
        Of gradients, state and weights.

    Raises
    ------
    UsageError
        The optimizer has no epsilon.
    """
    if optimizer not in _DECAY:
        raise UsageError(f"The optimizer {optimizer} has no epsilon: give one of {', '.join(_DECAY)}.")
    vanishing = _vanishing(1 - _DECAY[optimizer], fmt)
    stored = _stored(epsilon, fmt)
    amplification = vanishing / stored if stored else math.inf
    return EpsilonAnalysis(optimizer, fmt, epsilon, stored, vanishing, amplification, sufficient=vanishing)


def analyse_settings(settings: Settings) -> EpsilonAnalysis | None:
    """Tell what the epsilon of a run does, for gradients under its loss scale; None where there is none."""
    if settings.optimizer not in _DECAY:
        return None
    return analyse_epsilon(settings.optimizer, settings.epsilon * settings.loss_scale, settings.formats.storage)


def _stored(value: float, fmt: Format) -> float:
    return float(round_to_nearest(np.array([value]), fmt)[0])


def _vanishing(share: float, fmt: Format) -> float:
    """Largest number g of the format with ``share * g**2 <= eta``, which rounds to zero (a tie goes to the even neighbour, zero)."""

    def vanishes(g: float) -> bool:
        return Fraction(share) * Fraction(g) ** 2 <= Fraction(fmt.eta)

    g = _stored(math.sqrt(fmt.eta / share), fmt)
    step = max(math.ldexp(fmt.eps, math.frexp(g)[1] - 1), fmt.smallest_subnormal)
    while not vanishes(g):
        g -= step
    while vanishes(g + step):
        g += step
    return g
