"""Upper bounds are never below the exact result, and only just above it."""

from fractions import Fraction

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from precisionkit.outward import TINY, U, add_up, mul_up, narrowed_up, next_up, own_error, sum_of_products_up

positive = st.floats(min_value=0, max_value=1e150)
tensor = lambda *values: torch.tensor(values, dtype=torch.float64)  # noqa: E731


@given(positive, positive)
def test_sums_and_products_are_rounded_up(a, b):
    for bound, exact in (
        (add_up(tensor(a), tensor(b)), Fraction(a) + Fraction(b)),
        (mul_up(tensor(a), tensor(b)), Fraction(a) * Fraction(b)),
    ):
        value = Fraction(bound.item())
        assert exact <= value <= exact * (1 + Fraction(2) ** -51) + 2 * Fraction(TINY)


@given(st.floats(min_value=0, max_value=1e39))
def test_numbers_are_rounded_up_to_binary32(x):
    found = narrowed_up(tensor(x), torch.float32)
    below = torch.nextafter(found, torch.tensor(-1.0))
    assert found.dtype == torch.float32
    assert found.double().item() >= x
    assert below.double().item() < x or x == 0


def test_binary64_is_not_rounded():
    assert narrowed_up(tensor(0.1), torch.float64).item() == 0.1


def test_no_nan_becomes_a_bound():
    """torch's vectorised minimum gives a NaN whose bits are all ones, next to which 0.0 would come."""
    ones = torch.full((64,), -1, dtype=torch.int64).view(torch.float64)
    for found in (add_up(ones, 0.0), mul_up(ones, 1.0), next_up(ones), add_up(torch.minimum(ones, ones + 1), 0.0)):
        assert found.isnan().all()


def test_the_successor_of_zeros_is_tiny_and_inf_stays():
    assert next_up(tensor(0.0, -0.0)).tolist() == [TINY, TINY]
    assert next_up(tensor(np.inf)).item() == np.inf
    assert next_up(tensor(1.0)).item() == 1 + 2.0**-52


@given(st.lists(st.tuples(positive, st.floats(min_value=0, max_value=1e100)), min_size=1, max_size=30))
def test_sums_of_products_are_rounded_up(pairs):
    a, b = (torch.tensor(column, dtype=torch.float64) for column in zip(*pairs, strict=True))
    exact = sum((Fraction(x) * Fraction(y) for x, y in pairs), Fraction(0))
    n = len(pairs)
    bound = Fraction(sum_of_products_up((a @ b).reshape(1), n).item())
    assert exact <= bound <= exact * (1 + Fraction(4 * n + 8, 2**53)) + 3 * n * Fraction(TINY)
    computed = Fraction((a @ b).item())
    assert abs(computed - exact) <= Fraction(own_error(tensor(float(bound)), n).item())


def test_sums_of_products_that_vanish_are_rounded_up():
    """Each product is half the smallest number and becomes zero."""
    for n in (1, 2, 7, 40):
        a, b = torch.full((n,), TINY, dtype=torch.float64), torch.full((n,), 0.5, dtype=torch.float64)
        assert (a @ b).item() == 0
        assert n * Fraction(TINY) / 2 <= Fraction(sum_of_products_up((a @ b).reshape(1), n).item())
        assert n * Fraction(TINY) / 2 <= Fraction(own_error(tensor(0.0), n).item())


def test_a_binary64_sum_that_loses_every_addition_errs_by_no_more_than_its_bound():
    """1 + u + u + ...: each addition is a tie that goes back to 1."""
    for n in (2, 7, 40):
        total = 1.0
        for _ in range(n - 1):
            total += U
        exact = 1 + (n - 1) * Fraction(U)
        error = exact - Fraction(total)
        assert total == 1
        bound = Fraction(own_error(sum_of_products_up(tensor(total), n), n).item())
        assert error <= bound <= 2.1 * error
