"""Formats and the one rounding, against numpy, ml_dtypes and all numbers of 16 bits."""

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from precisionkit.errors import UnsupportedArithmeticError
from precisionkit.formats import (
    BFLOAT16,
    BINARY16,
    BINARY32,
    BINARY64,
    E4M3,
    E5M2,
    FORMATS,
    STOCHASTIC,
    TF32,
    TOWARDS_ZERO,
    Format,
    Rounding,
    parse_format,
    round_into,
    round_to_nearest,
    ufp,
)

NUMPY = {
    BINARY16: np.float16,
    BFLOAT16: ml_dtypes.bfloat16,
    BINARY32: np.float32,
    BINARY64: np.float64,
    E5M2: ml_dtypes.float8_e5m2,
    E4M3: ml_dtypes.float8_e4m3fn,
}
SHORT = [BINARY16, BFLOAT16, E5M2, E4M3]
NARROW = [fmt for fmt in FORMATS if fmt != BINARY64]


def by_name(fmt):
    return fmt.name


def all_numbers(fmt):
    unsigned = {1: np.uint8, 2: np.uint16}[np.dtype(NUMPY[fmt]).itemsize]
    with np.errstate(invalid="ignore"):
        numbers = np.arange(np.iinfo(unsigned).max + 1, dtype=unsigned).view(NUMPY[fmt]).astype(np.float64)
    numbers[np.isnan(numbers)] = np.nan  # a signalling NaN is a warning
    return numbers


@pytest.mark.parametrize("fmt", NUMPY, ids=by_name)
def test_properties_are_those_of_the_library(fmt):
    info = ml_dtypes.finfo(NUMPY[fmt])
    assert (fmt.max, fmt.eps, fmt.smallest_normal) == (float(info.max), float(info.eps), float(info.smallest_normal))
    assert fmt.smallest_subnormal == float(info.smallest_subnormal)
    assert fmt.unit_roundoff == fmt.eps / 2
    assert fmt.eta == fmt.smallest_subnormal / 2


@pytest.mark.parametrize("fmt", SHORT, ids=by_name)
def test_every_number_of_the_format_is_kept(fmt):
    numbers = all_numbers(fmt)
    np.testing.assert_array_equal(round_to_nearest(numbers, fmt), numbers)


@pytest.mark.parametrize("fmt", SHORT, ids=by_name)
def test_midpoints_go_to_even_and_their_neighbours_to_the_nearer_number(fmt):
    numbers = np.unique(all_numbers(fmt)[np.isfinite(all_numbers(fmt))])
    low, high = numbers[:-1], numbers[1:]
    middle = (low + high) / 2
    np.testing.assert_array_equal(round_to_nearest(np.nextafter(middle, -np.inf), fmt), low)
    np.testing.assert_array_equal(round_to_nearest(np.nextafter(middle, np.inf), fmt), high)
    spacing = high - low
    even = np.where(np.mod(low / spacing, 2) == 0, low, high)
    np.testing.assert_array_equal(round_to_nearest(middle, fmt), even)
    inner = np.where(middle > 0, low, high)  # towards zero
    for x in (middle, np.nextafter(low, high), np.nextafter(high, low)):
        np.testing.assert_array_equal(round_into(x, fmt, TOWARDS_ZERO), inner)


@pytest.mark.parametrize("fmt", [BINARY16, BFLOAT16, TF32, BINARY32, E5M2], ids=by_name)
def test_overflow_begins_half_an_ulp_above_the_largest_number(fmt):
    below, at = np.nextafter(fmt.overflow_threshold, 0), fmt.overflow_threshold
    got = round_to_nearest(np.array([below, at, -at, np.inf, np.nan, 0.0, -0.0]), fmt)
    np.testing.assert_array_equal(got, [fmt.max, np.inf, -np.inf, np.inf, np.nan, 0.0, -0.0])
    assert np.signbit(got[-1])


def test_without_infinities_what_is_beyond_is_nan_and_the_tie_is_the_largest_number():
    got = round_to_nearest(np.array([464.0, np.nextafter(464, 500), -1e9, np.inf]), E4M3)
    np.testing.assert_array_equal(got, [448, np.nan, np.nan, np.nan])
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(got, np.array([464.0, 465, -1e9, np.inf]).astype(NUMPY[E4M3]).astype(np.float64))


@pytest.mark.parametrize("fmt", NARROW, ids=by_name)
def test_saturation_and_truncation_stop_at_the_largest_number(fmt):
    x = np.array([fmt.overflow_threshold * 1.01, -fmt.max * 4, np.inf, np.nan])
    np.testing.assert_array_equal(round_into(x, fmt, Rounding(saturate=True)), [fmt.max, -fmt.max, fmt.max, np.nan])
    np.testing.assert_array_equal(round_into(x[:2], fmt, TOWARDS_ZERO), [fmt.max, -fmt.max])
    assert not np.isfinite(round_into(x[2:3], fmt, TOWARDS_ZERO)[0])


@pytest.mark.parametrize("fmt", NARROW, ids=by_name)
def test_flushing_makes_subnormal_results_zero_after_rounding(fmt):
    least, tiny = fmt.smallest_normal, fmt.smallest_subnormal
    x = np.array([tiny, -(least - tiny), least - tiny / 4, least, -tiny / 4])
    got = round_into(x, fmt, Rounding(flush=True))
    np.testing.assert_array_equal(got, [0, 0, least, least, 0])
    np.testing.assert_array_equal(np.signbit(got), np.signbit(x))


@pytest.mark.parametrize("fmt", NARROW, ids=by_name)
@pytest.mark.parametrize("sign", [1, -1])
def test_stochastic_rounding_goes_up_as_often_as_the_value_exceeds_its_smaller_neighbour(fmt, sign):
    for low, spacing in ((1.0, fmt.eps), (fmt.smallest_normal / 2, fmt.smallest_subnormal), (0.0, fmt.smallest_subnormal)):
        exact = np.full(1000, sign * (low + 0.375 * spacing))
        got = round_into(exact, fmt, STOCHASTIC, (np.arange(1000) + 0.5) / 1000)
        assert set(got) == {sign * low, sign * (low + spacing)}
        assert (got == sign * (low + spacing)).mean() == 0.375
    numbers = np.array([1.0, -fmt.max, fmt.smallest_subnormal, 0.0])
    np.testing.assert_array_equal(round_into(numbers, fmt, STOCHASTIC, np.full(4, 0.999)), numbers)


def test_stochastic_rounding_needs_random_numbers():
    with pytest.raises(UnsupportedArithmeticError, match=r"^Stochastic rounding needs random numbers: give `uniform`, one in \[0, 1\)"):
        round_into(np.ones(1), BINARY16, STOCHASTIC)


@given(st.lists(st.floats(width=64), min_size=1, max_size=20))
def test_numpy_and_torch_round_alike_and_as_numpy_does(values):
    array = np.array(values)
    for fmt in (BINARY16, BINARY32):
        with np.errstate(over="ignore"):
            expected = array.astype(NUMPY[fmt]).astype(np.float64)
        np.testing.assert_array_equal(round_to_nearest(array, fmt), expected)
    uniform = np.linspace(0, 1, len(array), endpoint=False)
    for fmt in FORMATS:
        np.testing.assert_array_equal(round_to_nearest(torch.from_numpy(array), fmt).numpy(), round_to_nearest(array, fmt))
        for rounding in (TOWARDS_ZERO, STOCHASTIC, Rounding(flush=True, saturate=True)):
            ours = round_into(torch.from_numpy(array), fmt, rounding, torch.from_numpy(uniform)).numpy()
            np.testing.assert_array_equal(ours, round_into(array, fmt, rounding, uniform))


@given(st.floats(width=32))
def test_short_formats_from_binary32_are_the_librarys(value):
    single = np.array([value], dtype=np.float32)
    for fmt in (BFLOAT16, E5M2, E4M3):
        with np.errstate(over="ignore", invalid="ignore"):
            expected = single.astype(NUMPY[fmt]).astype(np.float64)
        np.testing.assert_array_equal(round_to_nearest(single.astype(np.float64), fmt), expected)


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
    six_bits = Format("e3m2", "e3m2", 3, -2, 4)
    np.testing.assert_array_equal(
        round_to_nearest(np.array([1.1, 1.125, 1.375, 28.0, 30.0, 0.0625, 0.03125]), six_bits), [1, 1, 1.5, 28, np.inf, 0.0625, 0]
    )


def test_products_of_halves_in_wider_formats():
    assert BINARY16.products_exact_in(BINARY32)
    assert BINARY16.products_never_underflow_in(BINARY32)
    assert BFLOAT16.products_exact_in(BINARY32)
    assert not BFLOAT16.products_never_underflow_in(BINARY32)
    assert not BINARY32.products_exact_in(BINARY32)


def test_an_unknown_format_is_named_with_the_known_ones():
    with pytest.raises(
        UnsupportedArithmeticError, match=r"^The format 'fp8' is not known; choose one of fp16, bf16, tf32, fp32, fp64, e5m2, e4m3\.$"
    ):
        parse_format("fp8")
