"""The margin lemma, repaired: when a prediction is kept.

Published (Yun, Kang, Fu, arXiv 2301.12809): ``Gamma(M32, x) >= 2 delta`` implies equal predictions.  With a first-index argmax this
is false: M32 = (.25, .75), M16 = (.5, .5) has Gamma = 2 delta = .5 and the prediction goes from 1 to 0.  What holds, class by
class (proofs/bounds.md, theorem 13): class c is the first-index argmax of every run if, for every other class j, the gap
``z_c - z_j`` of every run is positive, or non-negative where ``c < j`` (the tie rule).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def predictions(logits: Floats) -> NDArray[np.int64]:
    """First-index argmax of every row; shape (batch, classes) to (batch,)."""
    result: NDArray[np.int64] = logits.argmax(axis=1)
    return result


def gaps(logits: Floats, classes: NDArray[np.int64]) -> Floats:
    """``z_c - z_j`` for the given class c of every row and all j; shape (batch, classes), zero at j = c."""
    with np.errstate(invalid="ignore"):  # infinite logits have no gap
        result: Floats = np.take_along_axis(logits, classes[:, None], axis=1) - logits
    return result


def least_gaps(centre_gaps: Floats, errors: Floats) -> Floats:
    """Lower bounds of the gaps of every run, rounded to nearest: their signs are exact.

    Parameters
    ----------
    centre_gaps, errors : (batch, classes)
        Every run's gap differs from the centre's by at most the error.

    Notes
    -----
    ``fl(a - b) > 0`` if and only if ``a > b``, and ``fl(a - b) >= 0`` if and only if ``a >= b``: binary64 subtraction is monotone
    and does not underflow to zero.
    """
    with np.errstate(invalid="ignore"):
        result: Floats = centre_gaps - errors
    return result


def keeps_argmax(lower_gaps: Floats, classes: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether class c is the first-index argmax of every run, given lower bounds of its gaps.

    Strict for j < c, with equality allowed for j > c.  NaN keeps nothing.
    """
    columns = np.arange(lower_gaps.shape[1])[None, :]
    later = columns > classes[:, None]
    kept = np.where(later, lower_gaps >= 0, lower_gaps > 0) | (columns == classes[:, None])
    result: NDArray[np.bool_] = kept.all(axis=1)
    return result


def published_lemma(margin: Any, delta: Any) -> Any:
    """The published condition ``Gamma >= 2 delta``, for the record; not sound for equality."""
    return margin >= 2 * delta


def repaired_lemma(margin: Any, delta: Any) -> Any:
    """The strict condition ``Gamma > 2 delta``: sound for every tie rule."""
    return margin > 2 * delta
