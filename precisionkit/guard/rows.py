"""Which inputs a plan was calibrated on: a hash of each, so that a trial can tell whether it has seen them."""

from __future__ import annotations

import base64
import hashlib

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from precisionkit.errors import UnusableDataError

_BYTES = 8
"""Of each hash: two of 46,050 inputs and as many others are equal by chance with a probability of 1e-10."""
_TYPE = np.dtype(f">u{_BYTES}")


def row_hashes(x: Tensor) -> NDArray[np.uint64]:
    """Hashes of the inputs of a batch, as the network takes them: neither labels nor the file that they come from matter."""
    rows = x.contiguous().numpy()
    return np.array([int.from_bytes(hashlib.sha256(row.tobytes()).digest()[:_BYTES], "big") for row in rows], dtype=np.uint64)


def written(hashes: NDArray[np.uint64]) -> str:
    """Hashes as text."""
    return base64.b64encode(np.sort(hashes).astype(_TYPE).tobytes()).decode()


def read(text: str) -> NDArray[np.uint64]:
    """What `written` wrote."""
    return np.frombuffer(base64.b64decode(text, validate=True), _TYPE).astype(np.uint64)


def count_of(text: str) -> int | None:
    """How many hashes a text holds; None where it is not one that `written` wrote."""
    try:
        return len(read(text))
    except ValueError:
        return None


def check_new(hashes: NDArray[np.uint64], first: int, calibrated: NDArray[np.uint64]) -> None:
    """Refuse inputs of the calibration.

    Parameters
    ----------
    hashes, first : (n,) array, int
        Of a batch of inputs, and the place of its first one in the data set.
    calibrated : array

    Raises
    ------
    UnusableDataError
        There are some among them, with their number.
    """
    seen = int(np.isin(hashes, calibrated).sum())
    if seen:
        raise UnusableDataError(
            f"The plan was calibrated on {seen:,} of the inputs {first:,} to {first + len(hashes) - 1:,} of these data, which tell nothing "
            "new of it: give others, as by --skip."
        )
