"""An independent check of certificates, in numpy alone.

`check` derives every claim of a certificate again, from the weights, the inputs and the arithmetic that it names.  It shares no code with
the analysis that found the claims, imports no torch, and is short enough to be read: `rounding` (formats, and bounds computed upwards),
`shapes` (what fits), `operators` (values, errors and transposes), `proof` (enclosures forward, functionals backward) and `certificate`
(the file).

Its bounds are those of proofs/bounds.md, theorems 1, 3, 6 to 8, 11 and 13 to 18, in a simple form.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from precisionkit.checker.certificate import Certificate, CertificateError, Source, encode, parse, read, write
from precisionkit.checker.operators import OPERATORS, REFERENCE, Rule
from precisionkit.checker.proof import METHODS, Network, Node, least_gaps
from precisionkit.checker.rounding import FORMATS

__all__ = ["FORMATS", "METHODS", "OPERATORS", "REFERENCE", "Certificate", "CertificateError", "Network", "Node", "Rule", "Source"]
__all__ += ["Verified", "assumptions", "check", "derive", "encode", "read", "write"]

_SAME = 2.0**-20
"""Claims are those of the network if they agree so far with what is derived, in units of what they are a difference of; libraries differ
in the last bits.  Nothing is proved by it: what is derived has to be positive by itself."""


@dataclass(frozen=True)
class Verified:
    """What `check` derived.

    Attributes
    ----------
    certificate : Certificate
    rows : (k,) int array
        Of the certificate: those that were checked.
    least : (k, 2) array
        The least gap of each, in every run of the reference and of the half program.
    sha256 : str
        Of the file.
    """

    certificate: Certificate
    rows: NDArray[np.int64]
    least: NDArray[np.float64]
    sha256: str


def check(path: Path, sample: int | None = None, seed: int = 0, on_progress: Callable[[int, int], None] | None = None) -> Verified:
    """Derive the claims of a certificate again.

    Parameters
    ----------
    path : path
    sample : int or None
        Number of inputs to draw; None checks them all.
    seed : int
        Of the draw.
    on_progress : callable or None
        Called with the number of inputs done, in either program, and their total.

    Returns
    -------
    Verified

    Raises
    ------
    CertificateError
        The file or one of its claims is not accepted; the step is named.
    OSError
        There is no such file.

    Notes
    -----
    Accepted: for every input that was checked, every run of the reference program (binary32, sums in any order) and every run of the half
    program that the arithmetic allows predicts the same class, the claimed one.
    """
    data = path.read_bytes()
    certificate = parse(data)
    total = len(certificate.index)
    rows = np.arange(total)
    if sample is not None and sample < total:
        rows = np.sort(np.random.default_rng(seed).choice(total, sample, replace=False))
    least = np.empty((len(rows), 2))
    done = 0
    for program, (step, rule) in enumerate((("reference program", REFERENCE), ("half program", certificate.rule))):
        try:
            for chunk, found in _derived(certificate, rule, rows, certificate.methods[rows, program]):
                _compare(certificate, step, rows[chunk], certificate.least[rows[chunk], program], *found)
                least[chunk, program] = found[0]
                done += len(chunk)
                if on_progress is not None:
                    on_progress(done, 2 * len(rows))
        except OverflowError as error:
            raise CertificateError(step, f"{error}.") from error
    return Verified(certificate, rows, least, hashlib.sha256(data).hexdigest())


def assumptions(certificate: Certificate) -> tuple[str, ...]:
    """What an accepted certificate takes for granted, one sentence each."""
    half, accumulate = certificate.rule.storage.name, certificate.rule.accumulate.name
    normalised = any(node.operator == "batch_norm" for node in certificate.network.nodes)
    norm = "Batch normalisation is computed in binary32; square roots and their reciprocals err by at most two ulps."
    return (
        f"Both programs start from the inputs and weights of the certificate; the half program rounds them to {half}, to nearest even.",
        f"Every operator stores its result, rounded to nearest even, in binary32 or {half}, with subnormal numbers kept. The proof holds "
        "as well where stores are left out, except in front of a dot product, and where a convolution stores before it adds its bias.",
        f"Dot products are summed in binary32 in the reference program and in {accumulate} in the half program, in any order, with or "
        "without FMA, rounded to nearest: no truncating tensor cores, and no Winograd, FFT or Strassen algorithms.",
        "Additions of tensors are computed in binary32, then stored.",
        *([norm] if normalised else []),
        "This check ran in IEEE binary64 with subnormal numbers, and numpy's matrix products are direct sums.",
    )


def _derived(
    certificate: Certificate, rule: Rule, rows: NDArray[np.int64], methods: NDArray[np.uint8]
) -> Iterator[tuple[NDArray[np.int64], tuple[NDArray[np.float64], NDArray[np.float64]]]]:
    """Places among the rows, and what `least_gaps` gives for them."""
    network, size = certificate.network.rounded(rule), certificate.network.batch(certificate.inputs.shape[1:])
    for place, method in enumerate(METHODS):
        for chunk in _chunks(np.nonzero(methods == place)[0], size):
            chosen = rows[chunk]
            yield chunk, least_gaps(network, rule, certificate.inputs[chosen], certificate.classes[chosen], method)


def _compare(
    certificate: Certificate,
    step: str,
    rows: NDArray[np.int64],
    claimed: NDArray[np.float64],
    least: NDArray[np.float64],
    scale: NDArray[np.float64],
) -> None:
    """Refuse what is not proved, and what is not as it was claimed."""
    wrong = ~(least > 0)
    if wrong.any():
        row = rows[wrong.argmax()]
        where = f"input {certificate.index[row]}"
        raise CertificateError(step, f"{where}, claimed for every run: class {certificate.classes[row]}. That cannot be derived.")
    other = ~(np.abs(least - claimed) <= _SAME * scale)
    if other.any():
        bad = other.argmax()
        where = f"input {certificate.index[rows[bad]]}"
        raise CertificateError(step, f"{where}: the least gap is claimed to be {claimed[bad]:.9g}, and is derived to be {least[bad]:.9g}.")


def derive(
    network: Network, rule: Rule, inputs: NDArray[np.float32], classes: NDArray[np.int64]
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Find the cheapest method that proves each input in one program, and the least gap; not positive where none does.

    Parameters
    ----------
    network : Network
        With binary32 constants.
    rule : Rule
    inputs : (n, ...) binary32 array
    classes : (n,) int array

    Raises
    ------
    OverflowError
        A constant or an input lies beyond the range of the storage format.
    ValueError
        Shapes do not fit.
    """
    network, size = network.rounded(rule), network.batch(inputs.shape[1:])
    methods = np.zeros(len(inputs), dtype=np.uint8)
    least = np.full(len(inputs), -np.inf)
    for method, name in enumerate(METHODS):
        (left,) = np.nonzero(~(least > 0))
        for rows in _chunks(left, size):
            least[rows], _ = least_gaps(network, rule, inputs[rows], classes[rows], name)
            methods[rows] = method
    return methods, least


def _chunks(rows: NDArray[np.int64], size: int) -> Iterator[NDArray[np.int64]]:
    for first in range(0, len(rows), size):
        yield rows[first : first + size]
