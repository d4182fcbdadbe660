"""Hypothesis strategies for numerical code: formats and their numbers, sums with a chosen condition, arithmetics, networks, inputs.

    >>> from hypothesis import given
    >>> from precisionkit.testing import arithmetics, networks
    >>> @given(networks(), arithmetics(), strategies.data())
    ... def test_mine(network, arithmetic, data): ...

They need Hypothesis: ``pip install 'precisionkit[testing]'``.  docs/pytest.md shows their use.
"""

try:
    import hypothesis as _  # noqa: F401
except ModuleNotFoundError:
    raise ModuleNotFoundError(
        "precisionkit.testing draws its values with Hypothesis, which is not installed: run pip install 'precisionkit[testing]'.",
        name="hypothesis",
    ) from None

from precisionkit.testing.arithmetics import arithmetics
from precisionkit.testing.blocks import BLOCKS, Block
from precisionkit.testing.cancelling import DotProduct, cancelling, dot_products, greatest_condition
from precisionkit.testing.families import FAMILIES, draw
from precisionkit.testing.networks import Network, covering, inputs, networks
from precisionkit.testing.numbers import KINDS, arrays, formats, halfway, numbers

__all__ = [
    "BLOCKS",
    "FAMILIES",
    "KINDS",
    "Block",
    "DotProduct",
    "Network",
    "arithmetics",
    "arrays",
    "cancelling",
    "covering",
    "dot_products",
    "draw",
    "formats",
    "greatest_condition",
    "halfway",
    "inputs",
    "networks",
    "numbers",
]
