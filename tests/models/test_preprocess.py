from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from precisionkit.errors import UnusableDataError, UsageError
from precisionkit.models import Preprocess, parse_normalize, read_preprocess
from precisionkit.models.preprocess import from_record, parse_resize, parse_size, to_record

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
        (np.zeros((2, 3), dtype=bool), "Images of type bool cannot be used"),
        (np.zeros((2, 3, 4), dtype=np.int64), r"Tokens of shape \(2, 3, 4\) cannot be used: give \(n, L\)"),
        (np.array([[1, 2], [3, -1]]), "Input 1 holds a negative token"),
        (np.array([[1], [2**64 - 1]], dtype=np.uint64), "Input 1 holds a negative token or one beyond int64"),
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
        ({"resize_shorter": -1}, "cannot be resized to -1"),
        ({"crop": (3, 0)}, "cannot be cropped to 0"),
        ({"resize": 1 << 20}, "cannot be resized to 1048576x1048576 pixels: at most 134217728 are allowed"),
        ({"resize": 3, "resize_shorter": 3}, "give one of resize and resize_shorter"),
        ({"interpolation": "sinc"}, "Unknown interpolation 'sinc': give one of bilinear, bicubic, nearest, box, hamming, lanczos"),
        ({"interpolation": "box", "antialias": False}, "Unknown interpolation 'box' without antialiasing"),
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
        ({"mean": ["a"], "std": [1], "scale": 1, "resize": None}, "mean must be a number, but is of type str"),
        ({"mean": 5, "std": [1], "scale": 1, "resize": None}, "mean must be a list of numbers"),
    ],
)
def test_a_damaged_record_is_refused(record: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        from_record(record)


_channels = st.lists(st.tuples(st.floats(-5, 5), st.floats(0.125, 5)), min_size=1, max_size=4)
_sizes = st.none() | st.integers(1, 64) | st.tuples(st.integers(1, 64), st.integers(1, 64))


@given(
    channels=st.none() | _channels,
    scale=st.floats(0.5, 1000),
    resize=_sizes,
    crop=_sizes,
    interpolation=st.sampled_from(["bilinear", "bicubic", "nearest"]),
    antialias=st.booleans(),
)
def test_records_round_trip(channels: list[tuple[float, float]] | None, **fields: Any) -> None:
    mean, std = (None, None) if channels is None else zip(*channels, strict=True)
    original = Preprocess(mean=mean, std=std, **fields)
    assert from_record(json.loads(json.dumps(to_record(original)))) == original


def test_an_old_record_means_what_it_meant() -> None:
    old = {"mean": [0.1307], "std": [0.3081], "scale": 255.0, "resize": 32}
    assert from_record(old) == Preprocess(mean=(0.1307,), std=(0.3081,), resize=32, antialias=False)
    images = _bytes(2, 28, 28)
    scaled = torch.nn.functional.interpolate(PLAIN(images), size=(32, 32), mode="bilinear", align_corners=False)
    assert torch.equal(from_record(old)(images), (scaled - 0.1307) / 0.3081)


def test_tokens_pass_through() -> None:
    tokens = np.array([[5, 0], [7, 2**40]])
    for dtype in (np.int64, ">i8", np.uint64):
        batch = Preprocess(mean=(0.5,), std=(0.5,), resize=9)(tokens.astype(dtype))
        assert batch.dtype == torch.int64
        assert batch.tolist() == tokens.tolist()


def _pictures(*sizes: tuple[int, ...]) -> np.ndarray:
    images = np.empty(len(sizes), dtype=object)
    images[:] = [_bytes(*size) for size in sizes]
    return images


def test_pictures_of_several_sizes_need_one_size() -> None:
    images = _pictures((9, 12), (12, 9))
    assert Preprocess(crop=8)(images).shape == (2, 1, 8, 8)
    assert Preprocess(resize=(4, 5))(images).shape == (2, 1, 4, 5)
    assert [Preprocess(crop=8).gives_one_size, Preprocess(resize_shorter=8).gives_one_size] == [True, False]
    with pytest.raises(UnusableDataError, match=r"Image 8 has the shape \(1, 10, 8\) .*, but image 7 has \(1, 8, 10\): give --crop"):
        Preprocess(resize_shorter=8)(images, 7)


def test_messages_count_from_the_first_image() -> None:
    with pytest.raises(UnusableDataError, match="Image 41 holds NaN"):
        PLAIN(np.array([[0.0], [np.nan]]), 40)


def test_odd_channels_and_long_pictures_are_not_resized(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Preprocess(resize=3)(_bytes(2, 4, 4, 1)).shape == (2, 1, 3, 3)
    with pytest.raises(UnusableDataError, match="Images of 4 channels cannot be resized"):
        Preprocess(resize=3)(_bytes(2, 4, 4, 4))
    with pytest.raises(UnusableDataError, match=r"An image of 70000x1 pixels .* would have 70000000x1000"):
        Preprocess(resize_shorter=1000)(_bytes(1, 1, 70_000))
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(UnusableDataError, match=r"Resizing images needs Pillow: pip install 'precisionkit\[vision\]'"):
        Preprocess(resize=3)(_bytes(2, 4, 4))


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("256", {"resize": None, "resize_shorter": 256, "antialias": True}),
        (" 24X32 ", {"resize": (24, 32), "resize_shorter": None, "antialias": True}),
        ("none", {"resize": None, "resize_shorter": None, "antialias": True}),
    ],
)
def test_parse_resize(text: str, fields: dict[str, object]) -> None:
    assert parse_resize(text) == fields


@pytest.mark.parametrize("text", ["", "x", "1x2x3", "-1", "1.5", "²", "1" * 10])
def test_parse_size_refuses(text: str) -> None:
    with pytest.raises(UsageError, match="of --crop is not of the form N or HEIGHTxWIDTH"):
        parse_size(text, "crop")


def test_what_is_done_is_described() -> None:
    whole = Preprocess(mean=(0.5,), std=(0.5,), resize_shorter=256, crop=224, interpolation="bicubic")
    assert whole.describe() == "shorter side resized to 256 (bicubic, Pillow), middle 224x224, divided by 255, normalised"
    assert Preprocess(resize=(3, 4), antialias=False).describe() == "resized to 3x4 (bilinear, no antialiasing), divided by 255"


class TestFiles:
    def _read(self, tmp_path: Path, name: str, content: str) -> Preprocess:
        (tmp_path / name).write_text(content)
        return read_preprocess(tmp_path / name)

    def test_json_and_yaml(self, tmp_path: Path) -> None:
        expected = Preprocess(mean=(0.5, 0.25, 1.0), std=(1.0, 2.0, 3.0), resize_shorter=256, crop=(224, 200))
        content = {"mean": [0.5, 0.25, 1], "std": [1, 2, 3], "resize_shorter": 256, "crop": [224, 200]}
        assert self._read(tmp_path, "p.json", json.dumps(content)) == expected
        assert self._read(tmp_path, "p.yaml", "".join(f"{key}: {value}\n" for key, value in content.items())) == expected

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("p.json", "{", "is not JSON"),
            ("p.json", "[" * 50_000, "is not JSON"),
            ("p.json", "[1]", "holds no fields: give some of mean, std"),
            ("p.yaml", "a: [", "is not YAML"),
            ("p.yaml", "!!python/object/apply:os.getcwd []", "is not YAML"),
            ("p.yaml", "", "holds no fields"),
            ("p.json", " " * 70_000, "is longer than 65536 bytes"),
            ("p.json", '{"colour": 1}', "has no field 'colour': there are mean, std"),
            ("p.json", '{"mean": [1]}', "cannot be used. A normalisation needs both"),
            ("p.json", '{"mean": [1], "std": [NaN]}', "values must be finite"),
            ("p.json", '{"scale": 1' + "0" * 400 + "}", "cannot be divided by inf"),
            ("p.json", '{"scale": true}', "scale must be a number, but is of type bool"),
            ("p.json", '{"crop": 2.5}', "crop must be a whole number, but is of type float"),
            ("p.json", '{"crop": [1, 2, 3]}', "crop must be a whole number, or height and width, but has 3 entries"),
            ("p.json", '{"resize_shorter": [1]}', "resize_shorter must be a whole number"),
            ("p.json", '{"interpolation": 2}', "interpolation must be a word"),
            ("p.json", '{"antialias": 1}', "antialias must be true or false"),
        ],
    )
    def test_refused(self, tmp_path: Path, name: str, content: str, message: str) -> None:
        with pytest.raises(UsageError, match=re.escape(message)) as caught:
            self._read(tmp_path, name, content)
        assert len(str(caught.value)) < 400

    def test_no_file_and_no_yaml(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(UsageError, match="cannot be read"):
            read_preprocess(tmp_path / "no.json")
        monkeypatch.setitem(sys.modules, "yaml", None)
        with pytest.raises(UsageError, match=r"needs PyYAML: pip install 'precisionkit\[yaml\]', or write it as JSON"):
            self._read(tmp_path, "p.yml", "scale: 1")
