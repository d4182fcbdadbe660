"""Formats and the one rounding, against numpy, ml_dtypes and all numbers of 16 bits."""

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from precisionkit.errors import UnsupportedArithmeticError
from precisionkit.formats import BFLOAT16, BINARY16, BINARY32, BINARY64, FORMATS, Format, parse_format, round_to_nearest, ufp

NUMPY = {BINARY16: np.float16, BFLOAT16: ml_dtypes.bfloat16, BINARY32: np.float32, BINARY64: np.float64}
HALVES = [BINARY16, BFLOAT16]


def by_name(fmt):
    return fmt.name


def all_numbers(fmt):
    with np.errstate(invalid="ignore"):
        numbers = np.arange(65536, dtype=np.uint16).view(NUMPY[fmt]).astype(np.float64)
    numbers[np.isnan(numbers)] = np.nan  # a signalling NaN is a warning
    return numbers


@pytest.mark.parametrize("fmt", FORMATS, ids=by_name)
def test_properties_are_those_of_the_library(fmt):
    info = ml_dtypes.finfo(NUMPY[fmt])
    assert (fmt.max, fmt.eps, fmt.smallest_normal) == (float(info.max), float(info.eps), float(info.smallest_normal))
    assert fmt.smallest_subnormal == float(info.smallest_subnormal)
    assert fmt.unit_roundoff == fmt.eps / 2
    assert fmt.eta == fmt.smallest_subnormal / 2


@pytest.mark.parametrize("fmt", HALVES, ids=by_name)
def test_every_number_of_the_format_is_kept(fmt):
    numbers = all_numbers(fmt)
    np.testing.assert_array_equal(round_to_nearest(numbers, fmt), numbers)


@pytest.mark.parametrize("fmt", HALVES, ids=by_name)
def test_midpoints_go_to_even_and_their_neighbours_to_the_nearer_number(fmt):
    numbers = np.unique(all_numbers(fmt)[np.isfinite(all_numbers(fmt))])
    low, high = numbers[:-1], numbers[1:]
    middle = (low + high) / 2
    np.testing.assert_array_equal(round_to_nearest(np.nextafter(middle, -np.inf), fmt), low)
    np.testing.assert_array_equal(round_to_nearest(np.nextafter(middle, np.inf), fmt), high)
    spacing = high - low
    even = np.where(np.mod(low / spacing, 2) == 0, low, high)
    np.testing.assert_array_equal(round_to_nearest(middle, fmt), even)


@pytest.mark.parametrize("fmt", [BINARY16, BFLOAT16, BINARY32], ids=by_name)
def test_overflow_begins_half_an_ulp_above_the_largest_number(fmt):
    below, at = np.nextafter(fmt.overflow_threshold, 0), fmt.overflow_threshold
    got = round_to_nearest(np.array([below, at, -at, np.inf, np.nan, 0.0, -0.0]), fmt)
    np.testing.assert_array_equal(got, [fmt.max, np.inf, -np.inf, np.inf, np.nan, 0.0, -0.0])
    assert np.signbit(got[-1])


@given(st.lists(st.floats(width=64), min_size=1, max_size=20))
def test_numpy_and_torch_round_alike_and_as_numpy_does(values):
    array = np.array(values)
    for fmt in (BINARY16, BINARY32):
        with np.errstate(over="ignore"):
            expected = array.astype(NUMPY[fmt]).astype(np.float64)
        np.testing.assert_array_equal(round_to_nearest(array, fmt), expected)
    for fmt in FORMATS:
        np.testing.assert_array_equal(round_to_nearest(torch.from_numpy(array), fmt).numpy(), round_to_nearest(array, fmt))


@given(st.floats(width=32))
def test_bfloat16_from_binary32_is_the_librarys(value):
    expected = np.array([value], dtype=np.float32).astype(ml_dtypes.bfloat16).astype(np.float64)
    np.testing.assert_array_equal(round_to_nearest(np.array([value]), BFLOAT16), expected)


@given(st.floats(min_value=2.0**-1022, allow_infinity=False))
def test_ufp_is_the_largest_power_of_two_below(value):
    power = ufp(np.array([-value]))[0]
    assert power <= value
    assert value / 2 < power
    assert np.frexp(power)[0] == 0.5


def test_rounding_is_single_where_binary32_in_between_would_round_twice():
    x = np.array([1 + 2.0**-11 + 2.0**-30])
    assert round_to_nearest(x, BINARY16)[0] == 1 + 2.0**-10
    assert float(torch.from_numpy(x).half()[0]) == 1.0  # why torch's cast of binary64 is never used


def test_any_format_can_be_made():
    e4m3 = Format("e4m3", "e4m3", 4, -6, 8)
    np.testing.assert_array_equal(
        round_to_nearest(np.array([1.06, 1.0625, 1.1875, 2.0**-9, 2.0**-10]), e4m3), [1.0, 1.0, 1.25, 2.0**-9, 0.0]
    )


def test_products_of_halves_in_wider_formats():
    assert BINARY16.products_exact_in(BINARY32)
    assert BINARY16.products_never_underflow_in(BINARY32)
    assert BFLOAT16.products_exact_in(BINARY32)
    assert not BFLOAT16.products_never_underflow_in(BINARY32)
    assert not BINARY32.products_exact_in(BINARY32)


def test_an_unknown_format_is_named_with_the_known_ones():
    with pytest.raises(UnsupportedArithmeticError, match=r"^The format 'fp8' is not known; choose one of fp16, bf16, fp32, fp64\.$"):
        parse_format("fp8")
