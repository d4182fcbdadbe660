"""What the property tests draw: networks that are captured once, arithmetics, stored inputs, and the methods that bound them.

The quick profile draws from the networks of `covering`, which use every operator, so that each is captured once; the long one draws networks at random.
"""

from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from hypothesis import Phase, settings
from hypothesis import strategies as st

from precisionkit.arithmetic import REFERENCE, Arithmetic
from precisionkit.bound import Ladder
from precisionkit.capture import capture
from precisionkit.evaluate import Program
from precisionkit.formats import BINARY64
from precisionkit.testing import Network, arithmetics, covering, inputs, networks

QUICK = 60
"""Examples of the profile that tests run in by default, see tests/conftest.py."""
UNSHRUNK = (Phase.explicit, Phase.reuse, Phase.generate)
"""Networks are small as they are, and making them smaller takes minutes."""
METHODS = dict(Ladder.of("auto", REFERENCE).proofs)


def examples(quick):
    """This many examples in the quick profile, and more in a longer one, in proportion."""
    return settings(max_examples=max(1, quick * settings.default.max_examples // QUICK), phases=UNSHRUNK)


def runnable():
    """Arithmetics that have runs: sums in binary64 have none."""
    return arithmetics().filter(lambda arithmetic: arithmetic.accumulate != BINARY64)


def is_long():
    return settings.default.max_examples > QUICK


@lru_cache(maxsize=64)
def captured(network):
    return capture(network.module(), network.input_shape, network.dtype)


def some_networks():
    """Token networks and others; few in the quick profile, so that they are captured once."""
    return networks() if is_long() else st.sampled_from(covering())


@dataclass(frozen=True)
class Drawn:
    """A network, its program in an arithmetic, and a batch of stored inputs."""

    network: Network
    program: Program
    stored: torch.Tensor

    def __repr__(self):
        return f"{self.network}, {self.program.arithmetic.name}, inputs {self.stored.tolist()}"

    def _repr_pretty_(self, printer, cycle):
        printer.text(repr(self))

    def with_arithmetic(self, arithmetic):
        return Program(self.program.graph, arithmetic, self.program.constants)

    def with_order(self, order):
        return self.with_arithmetic(replace(self.program.arithmetic, order=order))


@st.composite
def programs(draw, which: st.SearchStrategy[Arithmetic] | None = None, batch=3, **options):
    network = draw(some_networks())
    arithmetic = draw(arithmetics() if which is None else which)
    program = Program.of(captured(network), arithmetic)
    images = draw(inputs(network, arithmetic.storage, batch=batch, **options))
    return Drawn(network, program, program.inputs(images))
