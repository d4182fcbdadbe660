"""An independent check of certificates, in numpy alone.

`check` derives every claim of a certificate again, from the weights, the inputs and the arithmetic that it names.  It shares no code with
the analysis that found the claims, imports no torch, and is short enough to be read: `rounding` (formats, and bounds computed upwards),
`operators` (values, errors and transposes), `proof` (enclosures forward, functionals backward) and `certificate` (the file).

Its bounds are those of proofs/bounds.md, theorems 1, 2, 6 to 8, 11 and 13 to 18, in their simplest form.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from precisionkit.checker.certificate import Certificate, CertificateError, Source, parse, read, write
from precisionkit.checker.operators import OPERATORS, REFERENCE, Rule
from precisionkit.checker.proof import METHODS, Network, Node, least_gaps
from precisionkit.checker.rounding import FORMATS

__all__ = ["FORMATS", "METHODS", "OPERATORS", "REFERENCE", "Certificate", "CertificateError", "Network", "Node", "Rule", "Source"]
__all__ += ["Verified", "assumptions", "check", "derive", "read", "write"]

_SAME = 2.0**-20
"""Claims are those of the network if they agree so far with what is derived, in units of what they are a difference of; libraries differ
in the last bits.  Nothing is proved by it: what is derived has to be positive by itself."""


@dataclass(frozen=True)
class Verified:
    """What `check` derived.

    Attributes
    ----------
    certificate : Certificate
    places : (k,) int array
        Rows of the certificate that were checked.
    least : (k, 2) array
        The least gap of each, in every run of the reference and of the half program.
    sha256 : str
        Of the file.
    """

    certificate: Certificate
    places: NDArray[np.int64]
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
        Called with the number of inputs done and their total.

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
    size = certificate.network.batch(certificate.inputs.shape[1:])
    total = len(certificate.index)
    places = np.arange(total)
    if sample is not None and sample < total:
        places = np.sort(np.random.default_rng(seed).choice(total, sample, replace=False))
    least = np.empty((len(places), 2))
    done = 0
    for program, rule in enumerate((REFERENCE, certificate.rule)):
        step = "half program" if program else "reference program"
        network = _rounded(certificate.network, rule, step)
        for method in range(len(METHODS)):
            (mine,) = np.nonzero(certificate.methods[places, program] == method)
            for chunk in _chunks(mine, size):
                rows = places[chunk]
                least[chunk, program] = _confirmed(certificate, network, rule, rows, program, step)
                done += len(chunk)
                if on_progress is not None:
                    on_progress(done // 2, len(places))
    return Verified(certificate, places, least, hashlib.sha256(data).hexdigest())


def assumptions(certificate: Certificate) -> tuple[str, ...]:
    """What an accepted certificate takes for granted, one sentence each."""
    used = {node.operator for node in certificate.network.nodes}
    half = certificate.rule.storage.name
    accumulate = certificate.rule.accumulate.name
    sentences = [
        f"Both programs start from the inputs and weights of the certificate; the half program rounds them to {half}, to nearest even.",
        f"Every operator stores its result, rounded to nearest even, in binary32 or {half}, with subnormal numbers kept. So it may be that "
        "kernels store less often, except in front of a dot product, or a convolution once more before it adds its bias.",
        f"Dot products are summed in binary32 in the reference program and in {accumulate} in the half program, in any order, with or "
        "without FMA, rounded to nearest: no truncating tensor cores, and no Winograd, FFT or Strassen algorithms.",
        "Additions of tensors are computed in binary32, then stored.",
        "This check ran in IEEE binary64 with subnormal numbers, and numpy's matrix products are direct sums.",
    ]
    if "batch_norm" in used:
        sentences.insert(4, "Batch normalisation is computed in binary32; square roots and their reciprocals err by at most two ulps.")
    return tuple(sentences)


def _confirmed(
    certificate: Certificate, network: Network, rule: Rule, rows: NDArray[np.int64], program: int, step: str
) -> NDArray[np.float64]:
    method = METHODS[certificate.methods[rows[0], program]]
    try:
        least, scale = least_gaps(network, rule, certificate.inputs[rows], certificate.classes[rows], method)
    except OverflowError as error:
        raise CertificateError(step, f"the network cannot be run on the inputs: {error}.") from error
    claimed = certificate.least[rows, program]
    for bad in np.nonzero(~(least > 0))[0]:
        where = f"input {certificate.index[rows[bad]]}"
        raise CertificateError(step, f"{where}, claimed for every run: class {certificate.classes[rows[bad]]}. That cannot be derived.")
    for bad in np.nonzero(~(np.abs(least - claimed) <= _SAME * scale))[0]:
        where = f"input {certificate.index[rows[bad]]}"
        raise CertificateError(step, f"{where}: the least gap is claimed to be {claimed[bad]:.9g}, and is derived to be {least[bad]:.9g}.")
    return least


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


def _rounded(network: Network, rule: Rule, step: str) -> Network:
    try:
        return network.rounded(rule)
    except OverflowError as error:
        raise CertificateError(step, f"the constants cannot be stored: {error}.") from error
