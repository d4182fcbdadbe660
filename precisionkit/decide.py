"""From bounds and runs to verdicts: the strongest statement that holds for each input (theory section 1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from precisionkit.lemma import gaps, keeps_argmax, least_gaps, predictions
from precisionkit.report import Verdict

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Side:
    """What is known of one program on a batch: its bounds and one run.

    Attributes
    ----------
    centre, gap_error : (batch, classes)
        Logits of the binary64 centre; errors of the gaps of the class in question.
    bounded : (batch,)
        Overflow is excluded, so that the bounds hold.
    overflows : (batch,)
        Overflow is certain.
    logits : (batch, classes)
        Of the run.
    finite : (batch,)
        The run stored no infinity and no NaN.
    """

    centre: Floats
    gap_error: Floats
    bounded: Flags
    overflows: Flags
    logits: Floats
    finite: Flags


@dataclass(frozen=True)
class Decision:
    """Verdicts of a batch; every array has the length of the batch.

    Attributes
    ----------
    verdict : list of str
    prediction_reference, prediction_half : int arrays
        First-index argmax of the two runs.
    margin : float array
        Gap between the centre's class and another, in the exact network with binary32 weights: of a class that is kept, the other that
        comes closest to it in the least; of one that is not, the other whose margin is the smallest share of its bound.  Of a flipped
        input the other class is the one that the half run predicts; or, where that is the centre's, the one that the reference run
        predicts.
    bound : float array
        Bound on how far that gap can differ between any run of the half program and any run of the reference; inf where no
        bound holds.
    measured_error : float array
        The same difference between the two runs made.
    lower_margin : float array
        The least that any gap of the class is, in every run of both programs; -inf where no bound holds.
    rival : int array
        The other class of that gap.
    """

    verdict: list[Verdict]
    prediction_reference: Integers
    prediction_half: Integers
    margin: Floats
    bound: Floats
    measured_error: Floats
    lower_margin: Floats
    rival: Integers


def decide(reference: Side, half: Side, classes: Integers) -> Decision:
    """Decide a batch by the repaired lemma on both programs.

    Parameters
    ----------
    reference, half : Side
    classes : (batch,)
        The class of each input whose gaps were bounded: the argmax of the reference's centre.

    Notes
    -----
    Proved is what `keeps_argmax` gives for the smaller of the two programs' least gaps: both always predict the class c.  That is
    implied by ``margin > bound`` for every other class, and is slightly sharper.
    Theorem 13 of proofs/bounds.md; the assumptions are those of both arithmetics.
    """
    gaps_reference, gaps_half = gaps(reference.centre, classes), gaps(half.centre, classes)
    bounded = reference.bounded & half.bounded
    errors = [np.where(bounded[:, None], side.gap_error, np.inf) for side in (reference, half)]
    errors = [np.where(np.isnan(error), np.inf, error) for error in errors]
    least = np.minimum(least_gaps(gaps_reference, errors[0]), least_gaps(gaps_half, errors[1]))
    kept = keeps_argmax(least, classes)
    row = np.arange(len(classes))
    total = total_error(reference, half, errors[0], errors[1], classes)
    with np.errstate(invalid="ignore"):
        difference = gaps(half.logits, classes) - gaps(reference.logits, classes)
    least[row, classes] = np.inf
    of_reference, of_half = predictions(reference.logits), predictions(half.logits)
    invalid = ~reference.finite | ~half.finite | reference.overflows | half.overflows
    verdicts: NDArray[np.str_] = np.where(
        invalid, "invalid", np.where(of_reference != of_half, "flipped", np.where(kept, "proved", "observed"))
    )
    ranked = np.where(kept[:, None], least, _shares(gaps_reference, total))
    ranked[row, classes] = np.inf
    # of a flip the pair that flipped, as another may be tighter
    other = np.where(of_half != classes, of_half, of_reference)
    rival = np.where(verdicts == "flipped", other, ranked.argmin(axis=1))
    return Decision(
        cast(list[Verdict], verdicts.tolist()),
        of_reference,
        of_half,
        gaps_reference[row, rival],
        total[row, rival],
        np.abs(difference)[row, rival],
        least.min(axis=1),
        rival,
    )


def _shares(margins: Floats, errors: Floats) -> Floats:
    """Margins in units of their bounds; of inputs without bounds, the margins."""
    bounded = np.isfinite(errors).any(axis=1, keepdims=True) & (errors > 0)
    with np.errstate(over="ignore"):  # by next to nothing
        return np.where(bounded, margins / np.where(errors > 0, errors, 1.0), margins)


def total_error(reference: Side, half: Side, error_reference: Floats, error_half: Floats, classes: Integers) -> Floats:
    """Errors of both programs, and how far rounding the weights and the input moves the gaps of the centres; rounded up."""
    middle = np.abs(gaps(half.centre, classes) - gaps(reference.centre, classes))
    total: Floats = np.nextafter(np.nextafter(error_reference + error_half, np.inf) + np.nextafter(middle, np.inf), np.inf)
    return total


def with_probable(proved: Decision, likely: Decision, allowed: Flags) -> Decision:
    """Turn ``observed`` into ``probable`` where the bounds of `likely`, which hold with a probability, decide.

    Parameters
    ----------
    proved, likely : Decision
        By bounds that hold for every run, and by sharper ones that hold with a probability.
    allowed : (batch,) bool array
        Where the runs made stay inside the latter.
    """
    taken = np.asarray([a == "observed" and b == "proved" for a, b in zip(proved.verdict, likely.verdict, strict=True)]) & allowed
    return Decision(
        ["probable" if take else verdict for take, verdict in zip(taken, proved.verdict, strict=True)],
        proved.prediction_reference,
        proved.prediction_half,
        np.where(taken, likely.margin, proved.margin),
        np.where(taken, likely.bound, proved.bound),
        np.where(taken, likely.measured_error, proved.measured_error),
        np.where(taken, likely.lower_margin, proved.lower_margin),
        np.where(taken, likely.rival, proved.rival),
    )


def contradictions(reference: Side, half: Side, classes: Integers) -> Flags:
    """Inputs on which a run left what its bounds allow: a bug, or a device that does not obey the arithmetic.

    ``|gap of the run - gap of the centre| <= gap_error`` has to hold wherever overflow is excluded.  The deviation is computed
    here with three roundings, which are taken off before it is compared.
    """
    wrong = np.zeros(len(classes), dtype=np.bool_)
    for side in (reference, half):
        with np.errstate(invalid="ignore"):
            of_run = gaps(side.logits, classes)
            deviation = np.abs(of_run - gaps(side.centre, classes))
            least = deviation * (1 - 2.0**-51) - np.abs(of_run) * 2.0**-51
            wrong |= side.bounded & ((least > side.gap_error).any(axis=1) | ~side.finite)
    return wrong
