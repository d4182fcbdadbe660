"""What a file says of a network that cannot be opened because of some of its operators: enough to show which."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Listed:
    """One operator as a file lists it; nothing of it is checked.

    Attributes
    ----------
    name, target : str
        Of its first result, and of the operator.
    shape : tuple of str
        Of its first result, as far as the file tells.
    dtype : str
    inputs : tuple of str
        Names of operators that it reads, or of the input.
    reason : str
        Why it cannot be read; empty for the others.
    """

    name: str
    target: str
    shape: tuple[str, ...]
    dtype: str
    inputs: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class Outline:
    """A network as its file lists it.

    Attributes
    ----------
    path, sha256, arch : str
        As of a loaded model.
    parameters : int
        Numbers in its tensors.
    input : str
    input_shape : tuple of int
        Without the batch; what the file leaves open is left out.
    input_dtype : str
    operators : tuple of Listed
    """

    path: str
    sha256: str
    arch: str
    parameters: int
    input: str
    input_shape: tuple[int, ...]
    input_dtype: str
    operators: tuple[Listed, ...]
