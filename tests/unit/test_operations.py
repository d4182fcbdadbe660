"""Correctly rounded operations against SoftFloat, and in other formats against exact rational results."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from precisionkit import operations
from precisionkit.errors import UnsupportedArithmeticError, UsageError
from precisionkit.formats import BFLOAT16, BINARY32, BINARY64, E4M3, E5M2, NEAREST, STOCHASTIC, TF32, TOWARDS_ZERO, round_into
from tests.rationals import rounded_fraction
from tests.softfloat import CASES, disagreements


@pytest.mark.parametrize(("name", "fmt", "direction"), CASES, ids=lambda x: getattr(x, "name", getattr(x, "direction", x)))
def test_every_operation_is_that_of_softfloat(name, fmt, direction):
    tried, differ = disagreements(name, fmt, direction, 4000)
    assert tried >= 4000
    assert not differ


OTHER = [BFLOAT16, TF32, E5M2, E4M3]


@given(
    st.sampled_from(OTHER),
    st.booleans(),
    st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=3, max_size=3),
    st.integers(-40, 40),
)
def test_other_formats_round_the_exact_result(fmt, truncate, numbers, shift):
    direction = TOWARDS_ZERO if truncate else NEAREST
    mantissas = np.frexp(np.array(numbers))[0] * 2.0 ** np.array([shift, shift // 2 - 3, 2 - shift]).clip(
        fmt.emin - fmt.precision, fmt.emax
    )
    a, b, c = (round_into(mantissas[i : i + 1], fmt) for i in range(3))
    x, y, z = (Fraction(float(t[0])) for t in (a, b, c))
    cases = [(operations.add(a, b, fmt, direction), x + y), (operations.multiply(a, b, fmt, direction), x * y)]
    cases.append((operations.fma(a, b, c, fmt, direction), x * y + z))
    if y:
        cases.append((operations.divide(a, b, fmt, direction), x / y))
    for got, exact in cases:
        np.testing.assert_equal(abs(got[0]), abs(rounded_fraction(exact, fmt, truncate=truncate)))
        assert got[0] * float(np.sign(exact.numerator)) >= 0 or np.isnan(got[0])


@given(st.lists(st.floats(width=32), min_size=3, max_size=3))
def test_numpy_and_torch_compute_alike(numbers):
    arrays = [np.array([x], dtype=np.float64) for x in numbers]
    tensors = [torch.from_numpy(a) for a in arrays]
    for operation, arity in (
        (operations.add, 2),
        (operations.multiply, 2),
        (operations.divide, 2),
        (operations.sqrt, 1),
        (operations.fma, 3),
    ):
        np.testing.assert_array_equal(operation(*tensors[:arity], BINARY32).numpy(), operation(*arrays[:arity], BINARY32))


def test_stochastic_rounding_sees_what_binary64_cannot_hold():
    """1 + 2**-60 is one in binary64; rounded to odd, it is above one, and so goes up sometimes, but hardly ever."""
    one, tiny = np.ones(2), np.full(2, 2.0**-60)
    got = operations.add(one, tiny, BFLOAT16, STOCHASTIC, np.array([0.0, 0.5]))
    np.testing.assert_array_equal(got, [1 + BFLOAT16.eps, 1.0])


def test_a_sum_is_rounded_once():
    """Half an ulp and a little: to nearest in binary64 first, it would be a tie, and go down."""
    a, b = np.array([1.0]), np.array([BFLOAT16.eps / 2])
    assert operations.add(a, b, BFLOAT16)[0] == 1
    assert operations.fma(np.array([2.0**-60]), np.array([2.0**-60]), operations.add(a, b, BINARY64), BFLOAT16)[0] == 1 + BFLOAT16.eps


@pytest.mark.parametrize("direction", [NEAREST, TOWARDS_ZERO], ids=lambda r: r.direction)
def test_exact_quotients_and_roots_are_exact(direction):
    """Which a rounded reciprocal would miss: 49 times 1/49 is below 1 in binary64, and truncated."""
    numbers = np.arange(1.0, 65.0)
    products = numbers[:, None] * numbers
    quotients = operations.divide(products, np.tile(numbers, (64, 1)), BINARY32, direction)
    np.testing.assert_array_equal(quotients, np.tile(numbers[:, None], 64))
    np.testing.assert_array_equal(operations.sqrt(numbers * numbers, BINARY32, direction), numbers)


@pytest.mark.parametrize("operand", [1.0, np.ones(1, dtype=np.float32), torch.ones(1)], ids=["number", "numpy", "torch"])
def test_operands_that_are_not_binary64_are_refused(operand):
    with pytest.raises(UsageError, match=r"^Operands are numpy arrays or torch tensors of binary64"):
        operations.add(operand, operand, BFLOAT16)


def test_operations_of_binary64_are_the_librarys_and_no_more():
    assert operations.add(np.array([0.1]), np.array([0.2]), BINARY64)[0] == 0.1 + 0.2
    message = r"^binary64 has 53 bits; correctly rounded operations are made for formats of at most 24 bits, and for binary64 to nearest\.$"
    with pytest.raises(UnsupportedArithmeticError, match=message):
        operations.fma(np.ones(1), np.ones(1), np.ones(1), BINARY64)
    with pytest.raises(UnsupportedArithmeticError, match=message):
        operations.add(np.ones(1), np.ones(1), BINARY64, TOWARDS_ZERO)
