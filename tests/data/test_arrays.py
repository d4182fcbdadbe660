"""Pairs of .npy files, tables of numbers, and tokens."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from precisionkit.data import load_dataset
from precisionkit.errors import UnusableDataError

IMAGES = np.random.default_rng(0).integers(0, 256, (4, 5, 6), dtype=np.uint8)
LABELS = np.array([0, 2, 1, 0])


def _refused(source: str | Path, message: str) -> None:
    with pytest.raises(UnusableDataError, match=message) as caught:
        load_dataset(str(source))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("beside", "source"), [("x_labels", "x.npy"), ("labels", "x.npy"), ("any", "x.npy,any.npy")])
def test_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beside: str, source: str) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", IMAGES)
    np.save(f"{beside}.npy", LABELS)
    np.savez("same.npz", x=IMAGES, y=LABELS)
    data = load_dataset(source)
    np.testing.assert_array_equal(data.images, IMAGES)
    assert data.labels is not None
    assert data.labels.tolist() == LABELS.tolist()
    assert data.sha256 == load_dataset("same.npz").sha256
    assert load_dataset(source, limit=2).images.shape == (2, 5, 6)


def test_labels_are_optional_and_the_nearest_count(tmp_path: Path) -> None:
    np.save(tmp_path / "labels.npy", IMAGES)
    assert load_dataset(str(tmp_path / "labels.npy")).labels is None
    np.save(tmp_path / "x.npy", IMAGES)
    np.save(tmp_path / "x_labels.npy", LABELS)
    assert load_dataset(str(tmp_path / "x.npy")).labels is not None


def test_a_large_array_is_mapped(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", IMAGES)
    images: Any = load_dataset(str(tmp_path / "x.npy")).images
    while images.base is not None and not isinstance(images, np.memmap):
        images = images.base
    assert isinstance(images, np.memmap)


@pytest.mark.parametrize("dtype", ["int64", "<i4", ">i8", "uint16", "int8"])
@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_tokens(tmp_path: Path, dtype: str, kind: str) -> None:
    tokens = np.array([[1, 2, 3], [4, 5, 0]], dtype=dtype)
    if kind == "npy":
        np.save(tmp_path / "x.npy", tokens)
    else:
        np.savez(tmp_path / "x.npz", input_ids=tokens, labels=np.array([1, 0]))
    images = load_dataset(str(tmp_path / f"x.{kind}")).images
    assert images.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(images[1:], tokens[1:])


CUT = object()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.array([None, {}]), "or holds Python objects: write it again with numpy.save"),
        (CUT, "is damaged, cut off, no .npy file"),
        (b"", "is damaged, cut off"),
        (b"no array", "is damaged, cut off"),
        (pickle.dumps(1), "is damaged, cut off"),
        (np.zeros((3, 2), dtype=[("a", "f4")]), "has images of type"),
        (np.zeros((3, 2), dtype="U2"), "has images of type <U2"),
        (np.zeros((3, 2), dtype=bool), "has images of type bool"),
        (np.zeros((3, 2), dtype=complex), "has images of type complex128"),
        (np.zeros((3, 2), dtype=np.uint8), r"give \(n, H, W\) or \(n, H, W, C\), or tokens as int64"),
        (np.zeros((3, 2, 2, 2), dtype=np.int32), r"has images of type int32 and shape \(3, 2, 2, 2\)"),
        (np.zeros((0, 5)), "holds no images"),
        (np.float64(3.0), r"has floating images of shape \(\)"),
    ],
)
def test_damage(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "x.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, IMAGES if content is CUT else content, allow_pickle=True)
    if content is CUT:
        path.write_bytes(path.read_bytes()[:-1])
    _refused(path, message)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array([0, 1, 2]), "has 4 images but 3 labels"),
        (np.array([0, 1, 2, -1]), "has the label -1"),
        (np.array([0.0, 1, 2, 3]), "has labels of type float64"),
        (np.array([{}] * 4), "or holds Python objects"),
    ],
)
def test_labels_are_checked(tmp_path: Path, labels: np.ndarray, message: str) -> None:
    np.save(tmp_path / "x.npy", IMAGES)
    np.save(tmp_path / "labels.npy", labels, allow_pickle=True)
    _refused(tmp_path / "x.npy", message)


def test_missing_files(tmp_path: Path) -> None:
    _refused(tmp_path / "no.npy", r"The data file .*no\.npy does not exist")
    np.save(tmp_path / "x.npy", IMAGES)
    _refused(f"{tmp_path}/x.npy,{tmp_path}/no.npy", r"The data file .*no\.npy does not exist")
    _refused("a.npy,b.npy,c.npy", "names 3 files: give IMAGES.npy, or IMAGES.npy,LABELS.npy")
