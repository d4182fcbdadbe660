"""Strategies for small random classifiers, and for inputs of theirs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from precisionkit.errors import UsageError
from precisionkit.formats import BINARY32, Format
from precisionkit.testing.blocks import BLOCKS, Block, Embedded, Shape
from precisionkit.testing.families import FAMILIES, draw

_STARTS: tuple[Shape, ...] = ((6,), (4, 5), (2, 5, 4), (2, 3, 3, 2))
"""Shapes of inputs: a vector, rows, an image, a volume."""
_LARGEST = 120
"""Entries of a tensor from which on no block may make it larger."""
_WORDS, _WIDTH = 7, 4
_SEEDS = st.integers(0, 2**32 - 1)


@dataclass(frozen=True)
class Network:
    """A small classifier; `module` and everything in it are made anew from the other fields.

    Attributes
    ----------
    input_shape : tuple of int
        Without the batch.
    blocks : tuple of str
        Names of its blocks, in order; a linear layer follows.
    classes : int
    seed : int
        Of its weights.
    tokens : bool
        It takes integers, which an embedding turns into rows.
    """

    input_shape: Shape
    blocks: tuple[str, ...]
    classes: int
    seed: int
    tokens: bool = False

    @property
    def dtype(self) -> torch.dtype:
        """Of the input."""
        return torch.int64 if self.tokens else torch.float32

    def module(self) -> nn.Module:
        """Build it, in evaluation mode; torch's random numbers are left as they were."""
        layers, shape = self._layers()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed + 1)
            return nn.Sequential(*layers, nn.Flatten(), nn.Linear(math.prod(shape), self.classes)).eval()

    def last_shape(self) -> Shape:
        """Shape of what the last block gives, without the batch."""
        return self._layers()[1]

    def _layers(self) -> tuple[list[nn.Module], Shape]:
        """The blocks, and the shape of what they give."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            layers: list[nn.Module] = [Embedded(_WORDS, _WIDTH)] if self.tokens else []
            value = torch.zeros(2, *self.input_shape, dtype=self.dtype)
            with torch.no_grad():
                value = nn.Sequential(*layers)(value)
                for name in self.blocks:
                    layers.append(_BY_NAME[name].build(tuple(value.shape[1:])))
                    value = layers[-1].eval()(value)
        return layers, tuple(value.shape[1:])


_BY_NAME = {block.name: block for block in BLOCKS}


def _fits(block: Block, shape: Shape) -> bool:
    """Whether a block takes such a tensor, and does not make a large one larger."""
    takes = len(shape) in block.ranks and all(length >= block.least for length in shape[1:])
    return takes and (math.prod(shape) <= _LARGEST or not block.grows)


@st.composite
def _networks(draw_: st.DrawFn, chosen: Sequence[Block], most: int, tokens: bool | None) -> Network:
    on_tokens = draw_(st.booleans()) if tokens is None else tokens
    shape = (5,) if on_tokens else draw_(st.sampled_from(_STARTS))
    classes, seed = draw_(st.integers(2, 4)), draw_(_SEEDS)
    network = Network(shape, (), classes, seed, on_tokens)
    for _ in range(draw_(st.integers(1, most))):
        fitting = [block.name for block in chosen if _fits(block, network.last_shape())]
        if not fitting:
            break
        network = replace(network, blocks=(*network.blocks, draw_(st.sampled_from(fitting))))
    return network


def covering(seed: int = 0, most: int = 4) -> tuple[Network, ...]:
    """Networks, the same at every call, that together have every block, and so use every supported operator.

    Parameters
    ----------
    seed : int
        Of their weights, and of the order of the blocks.
    most : int
        Blocks of one network.
    """
    rng = np.random.default_rng(seed)
    left = [BLOCKS[place].name for place in rng.permutation(len(BLOCKS))]
    found: list[Network] = []
    while left:
        rank = _BY_NAME[left[0]].ranks[0]
        network = Network(next(s for s in _STARTS if len(s) == rank), (), 3, int(rng.integers(2**32)))
        for _ in range(most):
            here = network.last_shape()
            fitting = [name for name in left if _fits(_BY_NAME[name], here)]
            if not fitting:
                break
            left.remove(fitting[0])
            network = replace(network, blocks=(*network.blocks, fitting[0]))
        found.append(network)
    return (*found, Network((5,), ("residual", "relu"), 3, seed, tokens=True))


def networks(*, blocks: Sequence[str] | None = None, most: int = 4, tokens: bool | None = None) -> st.SearchStrategy[Network]:
    """Draw a small classifier: some blocks in a row, behind an embedding where it takes tokens, and a linear layer.

    Parameters
    ----------
    blocks : sequence of str or None
        Names in `BLOCKS` to choose from; None chooses from all, which together use every supported operator.
    most : int
        Blocks of one network.
    tokens : bool or None
        Whether it takes integers; None draws that.

    Raises
    ------
    UsageError
        There is no such block.
    """
    if unknown := [name for name in blocks or () if name not in _BY_NAME]:
        raise UsageError(f"There is no block '{unknown[0]}'; choose of {', '.join(_BY_NAME)}.")
    if most < 1:
        raise UsageError(f"A network of at most {most} blocks is none; choose 1 or more.")
    chosen = BLOCKS if blocks is None else tuple(_BY_NAME[name] for name in blocks)
    return _networks(chosen, most, tokens)


def inputs(
    network: Network, fmt: Format = BINARY32, *, batch: int = 3, families: Sequence[str] = ("normal", "scales", "cancelling", "ties")
) -> st.SearchStrategy[Tensor]:
    """Draw a batch of inputs of a network, all of one family.

    Parameters
    ----------
    network : Network
    fmt : Format
        The numbers are of this format.
    batch : int
    families : sequence of str
        Of `FAMILIES`; for tokens they do not matter.

    Returns
    -------
    strategy of (batch, *input_shape) binary32 or int64 tensors
    """
    if unknown := [family for family in families if family not in FAMILIES]:
        raise UsageError(f"There is no family of numbers '{unknown[0]}'; choose of {', '.join(FAMILIES)}.")
    shape = (batch, *network.input_shape)

    def made(family: str, seed: int) -> Tensor:
        rng = np.random.default_rng(seed)
        if network.tokens:
            return torch.from_numpy(rng.integers(0, _WORDS, shape))
        return torch.from_numpy(draw(family, rng, shape, fmt)).float()

    return st.builds(made, st.sampled_from(tuple(families)), _SEEDS)
