from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from precisionkit.errors import UnusableDataError, UsageError
from precisionkit.models import Preprocess, parse_normalize
from precisionkit.models.preprocess import from_record, to_record

PLAIN = Preprocess(mean=None, std=None)


def _bytes(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def test_grey_bytes_become_one_channel() -> None:
    images = _bytes(3, 4, 5)
    batch = PLAIN(images)
    assert batch.shape == (3, 1, 4, 5)
    assert batch.dtype == torch.float32
    assert torch.equal(batch[:, 0], torch.from_numpy(images).float() / 255)


def test_channels_move_to_the_front_and_are_normalised_each() -> None:
    images = _bytes(2, 4, 5, 3)
    batch = Preprocess(mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))(images)
    exact = (images.transpose(0, 3, 1, 2) / 255 - np.array([0.1, 0.2, 0.3]).reshape(3, 1, 1)) / np.array([0.5, 0.6, 0.7]).reshape(3, 1, 1)
    assert batch.is_contiguous()
    np.testing.assert_allclose(batch.numpy(), exact, atol=1e-6)


def test_scale_and_resize() -> None:
    images = _bytes(2, 28, 28) % 17
    batch = Preprocess(mean=None, std=None, scale=16.0, resize=32)(images)
    assert batch.shape == (2, 1, 32, 32)
    assert 0 <= float(batch.min()) <= float(batch.max()) <= 1


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4, 4)])
def test_floats_pass_through(dtype: object, shape: tuple[int, ...]) -> None:
    images = np.linspace(-2, 2, int(np.prod(shape))).reshape(shape).astype(dtype)  # type: ignore[call-overload]
    batch = Preprocess(mean=(0.5,), std=(0.5,), resize=9)(images)
    assert batch.dtype == torch.float32
    np.testing.assert_array_equal(batch.numpy(), images.astype(np.float32))


def test_a_read_only_array_is_copied() -> None:
    images = np.ones((2, 3), dtype=np.float32)
    images.setflags(write=False)
    PLAIN(images)[0] = 0
    assert images.all()


@pytest.mark.parametrize(
    ("value", "text"), [(np.nan, "Image 1 holds NaN or infinity"), (-np.inf, "Image 1 holds NaN"), (1e39, "Image 1 holds a value beyond")]
)
def test_floats_that_are_not_float32_numbers_are_refused(value: float, text: str) -> None:
    images = np.zeros((3, 4))
    images[1, 2] = value
    with pytest.raises(UnusableDataError, match=text):
        PLAIN(images)


@pytest.mark.parametrize(
    ("images", "text"),
    [
        (np.zeros((2, 3), dtype=np.int64), "Images of type int64 cannot be used"),
        (np.zeros((2, 3), dtype=np.uint8), r"Byte images of shape \(2, 3\)"),
        (np.zeros(3), r"Floating images of shape \(3,\)"),
    ],
)
def test_other_arrays_are_refused(images: np.ndarray, text: str) -> None:
    with pytest.raises(UnusableDataError, match=text):
        PLAIN(images)


def test_the_number_of_channels_must_fit() -> None:
    with pytest.raises(UnusableDataError, match="The images have 1 channels, but the normalisation has 3"):
        Preprocess(mean=(0.0,) * 3, std=(1.0,) * 3)(_bytes(2, 4, 4))


def test_parse_normalize() -> None:
    assert parse_normalize("0.5,0.25/0.2,0.1") == ((0.5, 0.25), (0.2, 0.1))
    assert parse_normalize(" None ") == (None, None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0.5", "is not of the form MEANS/STDS"),
        ("a/b", "is not of the form MEANS/STDS"),
        ("1/2/3", "is not of the form MEANS/STDS"),
        ("", "is not of the form MEANS/STDS"),
        ("0.5,0.5/0.2", "has 2 means and 1 standard deviations"),
        ("0.5/0", "standard deviations positive"),
        ("nan/1", "values must be finite"),
        ("0/inf", "values must be finite"),
    ],
)
def test_parse_normalize_refuses(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_normalize(text)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mean": (0.0,), "std": None}, "needs both means and standard deviations"),
        ({"mean": None, "std": None, "scale": 0.0}, "cannot be divided by 0.0"),
        ({"mean": None, "std": None, "resize": 0}, "cannot be resized to 0"),
    ],
)
def test_a_senseless_preprocessing_is_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Preprocess(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (None, "must have exactly the fields"),
        ({"mean": None}, "must have exactly the fields"),
        ({"mean": ["a"], "std": [1], "scale": 1, "resize": None}, "is not a number"),
        ({"mean": 5, "std": [1], "scale": 1, "resize": None}, "is not a number"),
    ],
)
def test_a_damaged_record_is_refused(record: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        from_record(record)


_channels = st.lists(st.tuples(st.floats(-5, 5), st.floats(0.125, 5)), min_size=1, max_size=4)


@given(channels=st.none() | _channels, scale=st.floats(0.5, 1000), resize=st.none() | st.integers(1, 64))
def test_records_round_trip(channels: list[tuple[float, float]] | None, scale: float, resize: int | None) -> None:
    mean, std = (None, None) if channels is None else zip(*channels, strict=True)
    original = Preprocess(mean=mean, std=std, scale=scale, resize=resize)
    assert from_record(to_record(original)) == original
