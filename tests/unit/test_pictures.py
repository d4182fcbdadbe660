"""Pictures of inputs, read back by Pillow."""

import io
from base64 import b64decode

import numpy as np
import pytest

from precisionkit.pictures import LONGEST_SIDE, MOST_PICTURES, picture, pictures, png
from precisionkit.report import Input

Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
NOISE = np.random.default_rng(0).integers(0, 256, (8, 6, 4), dtype=np.uint8)


def pixels(content):
    return np.asarray(Image.open(io.BytesIO(content)))


def seen(made):
    return pixels(b64decode(made.png, validate=True))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_bytes_are_shown_as_they_are(channels):
    image = NOISE[:, :, :channels]
    assert np.array_equal(np.atleast_3d(pixels(png(image))), image)
    made = picture(image, 7)
    assert np.array_equal(np.atleast_3d(seen(made)), image)
    assert (made.index, made.made) == (7, "bytes as they are")


def test_a_grey_image_needs_no_channels():
    assert np.array_equal(seen(picture(NOISE[:, :, 0], 0)), NOISE[:, :, 0])


def test_small_bytes_are_multiplied_and_it_is_said():
    made = picture(NOISE[:, :, 0] // 15, 0)  # at most 17, as digits of 16 levels
    assert np.array_equal(seen(made), NOISE[:, :, 0] // 15 * 15)
    assert made.made == "bytes multiplied by 15, since they are small"
    assert picture(np.zeros((2, 2), np.uint8), 0).made == "bytes as they are"


def test_floating_numbers_are_scaled_and_it_is_said():
    image = np.linspace(-1, 3, 3 * 2 * 2, dtype=np.float32).reshape(3, 2, 2)
    made = picture(image, 0)
    assert seen(made)[0, 0, 0] == 0
    assert seen(made)[1, 1, 2] == 255
    assert np.array_equal(np.moveaxis(seen(made), 2, 0), np.rint((image + 1) / 4 * 255))
    assert made.made == "numbers of each image scaled, its least to black and its largest to white"
    assert seen(picture(np.full((1, 2, 2), 5.0), 0)).max() == 0


@pytest.mark.parametrize("shape", [(130, 70, 3), (64, 65, 3), (1000, 1, 3)])
def test_large_images_become_smaller(shape):
    image = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    made = picture(image, 0)
    found = seen(made)
    every = -(-max(shape[:2]) // LONGEST_SIDE)
    assert max(found.shape[:2]) <= LONGEST_SIDE
    assert made.made == f"bytes as they are, made smaller by {every}"
    assert found[0, 0] == pytest.approx(image[:every, :every].reshape(-1, 3).mean(axis=0), abs=0.51)


NO_IMAGES = {
    "tokens": np.zeros(5, np.int64),
    "a row of numbers": np.zeros(5, np.float32),
    "two channels of numbers": np.zeros((2, 4, 4), np.float32),
    "not finite": np.full((1, 4, 4), np.nan),
    "no pixels": np.zeros((0, 4), np.uint8),
}


@pytest.mark.parametrize("name", NO_IMAGES)
def test_what_is_no_image_is_not_shown(name):
    assert picture(NO_IMAGES[name], 0) is None


def decided(index, verdict):
    rest = dict.fromkeys(("label", "prediction_half", "margin", "bound", "measured_error", "lower_margin", "reason"))
    rest |= {"linearised_worst": None, "linearised_random": None, "prediction_reference": 0, "method": "interval", "failure": 0.0}
    return Input(index=index, verdict=verdict, **rest)


def test_the_most_important_are_shown():
    images = np.zeros((360, 2, 2), np.uint8)
    inputs = [decided(i, "observed") for i in range(300)]
    inputs += [decided(300 + i, "proved" if i % 2 else "flipped") for i in range(60)]
    kept = [made.index for made in pictures(images, inputs)]
    assert len(kept) == MOST_PICTURES
    assert kept == [*range(MOST_PICTURES - 30), *range(300, 360, 2)]
