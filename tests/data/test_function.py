"""Data from a function of the user's own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from precisionkit.data import LazyInputs, function, load_dataset
from precisionkit.errors import PrecisionKitError, UnusableDataError, UsageError

SOURCE = """
import numpy as np
import torch
from torch.utils.data import DataLoader, TensorDataset

X = np.arange(40, dtype=np.float32).reshape(10, 4)
Y = np.arange(10) % 3
PARTS = (slice(0, 4), slice(4, 8), slice(8, 10))

def generator():
    buffer = np.empty((4, 4), np.float32)  # used again for every batch
    for part in PARTS:
        rows = X[part]
        buffer[: len(rows)] = rows
        yield buffer[: len(rows)], Y[part]

def listed(): return [(X[part], Y[part]) for part in PARTS]
def tensors(): return [[torch.from_numpy(X[part]), torch.from_numpy(Y[part])] for part in PARTS]
def loader(): return DataLoader(TensorDataset(torch.from_numpy(X), torch.from_numpy(Y)), batch_size=3)
def pair(): return X, Y
def bare(): return X
def unlabelled(): return [X[part] for part in PARTS]
def tokens(): return [(X[part].astype(np.int64), Y[part]) for part in PARTS]
def brain(): return [torch.from_numpy(X[part]).bfloat16() for part in PARTS]

def raising(): raise ValueError("bad\\nworse")
def late():
    yield X, Y
    raise KeyError("lost")
def nothing(): return None
def number(): return 5
def text(): return "batches"
def dictionary(): return [{"x": X}]
def triple(): return [(X, Y, Y)]
def single(): return TensorDataset(torch.from_numpy(X), torch.from_numpy(Y))
def samples(): return [(X[0], Y[:1])]
def sampled(): return [(X[0], Y[0])]
def empty(): return []
def exhausted(): return iter(())
def hollow(): return [X[:0]]
def short_labels(): return [(X, Y[:-1])]
def ragged(): return [X[:, :2], X]
def half_labelled(): return [(X, Y), X]
def objects(): return [np.array([{}, {}])]
def float_labels(): return [(X, Y / 2)]
def forever():
    while True:
        yield X
class Long:
    def __init__(self, length): self.length = length
    def __len__(self): return self.length
    def __iter__(self): return iter(listed())
def too_long(): return Long(2)
class Shuffled(Long):
    draws = np.random.default_rng(0)
    def __iter__(self): return iter([X[self.draws.permutation(10)]])
def shuffled(): return Shuffled(1)
class Shrinking(Long):
    times = 0
    def __iter__(self):
        Shrinking.times += 1
        return iter(listed()[: 4 - Shrinking.times])
def shrinking(): return Shrinking(3)
"""
X = np.arange(40, dtype=np.float32).reshape(10, 4)
Y = np.arange(10) % 3


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "batches_for_test.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", ["generator", "listed", "tensors", "loader", "pair", "bare", "unlabelled", "tokens", "brain"])
@pytest.mark.parametrize("limit", [None, 6])
def test_batches(name: str, limit: int | None) -> None:
    data = load_dataset(f"batches_for_test:{name}", limit=limit)
    expected = X[:limit]
    assert data.images.shape == expected.shape
    assert data.images.dtype == (np.int64 if name == "tokens" else np.float32)
    assert isinstance(data.images, LazyInputs) == (name not in ("generator", "pair", "bare"))
    for start, stop in ((0, 1), (0, 3), (3, 6), (5, 6), (1, 4), (0, len(expected))):
        np.testing.assert_array_equal(data.images[start:stop], expected[start:stop])
    if name in ("bare", "unlabelled", "brain"):
        assert data.labels is None
    else:
        assert data.labels is not None
        assert data.labels.tolist() == Y[:limit].tolist()
    assert (data.name, data.split) == (f"batches_for_test:{name}", "all")


@pytest.mark.parametrize("name", ["generator", "listed", "loader"])
def test_inputs_that_are_skipped(name: str) -> None:
    data = load_dataset(f"batches_for_test:{name}", skip=2, limit=4)
    assert data.images.shape == (4, *X.shape[1:])
    for start, stop in ((0, 4), (1, 3), (0, 1)):
        np.testing.assert_array_equal(data.images[start:stop], X[2:6][start:stop])
    assert data.labels is not None
    assert data.labels.tolist() == Y[2:6].tolist()


def test_the_fingerprint_does_not_depend_on_the_batches() -> None:
    found = {name: load_dataset(f"batches_for_test:{name}").sha256 for name in ("listed", "loader", "generator", "pair", "unlabelled")}
    assert found["listed"] == found["loader"]
    assert found["generator"] == found["pair"]
    assert len(set(found.values())) == 3


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("raising", UsageError, "Calling the data function batches_for_test:raising without arguments failed with ValueError (bad)"),
        ("late", UsageError, "The data function batches_for_test:late failed in batch 1 with KeyError ('lost')"),
        ("nothing", UnusableDataError, "returned NoneType, but it must return batches of (inputs, labels) or of inputs"),
        ("number", UnusableDataError, "returned int"),
        ("text", UnusableDataError, "gave str as batch 0"),
        ("dictionary", UnusableDataError, "gave dict as batch 0: give (inputs, labels) or inputs as arrays of numpy or tensors"),
        ("triple", UnusableDataError, "gave tuple as batch 0"),
        ("single", UnusableDataError, "returned TensorDataset, but it must return batches"),
        ("samples", UnusableDataError, "in batch 0, has floating images of shape (4,)"),
        ("sampled", UnusableDataError, "gave ndarray and int64 as batch 0"),
        ("empty", UnusableDataError, "gave no batches: give at least one"),
        ("exhausted", UnusableDataError, "gave no batches"),
        ("hollow", UnusableDataError, "in batch 0, holds no images"),
        ("short_labels", UnusableDataError, "in batch 0, has 10 images but 9 labels"),
        (
            "ragged",
            UnusableDataError,
            "gave float32 of shape (10, 4) without labels as batch 1, but float32 of shape (10, 2) without labels",
        ),
        ("half_labelled", UnusableDataError, "without labels as batch 1, but float32 of shape (10, 4) with labels as the first"),
        ("objects", UnusableDataError, "has images of type object"),
        ("float_labels", UnusableDataError, "has labels of type float64"),
        ("too_long", UnusableDataError, "gave more batches than its length, 2: correct its length"),
        ("absent", UsageError, "The module batches_for_test has no absent"),
        ("PARTS", UsageError, "is a tuple and cannot be called"),
    ],
)
def test_nonsense(name: str, error: type[PrecisionKitError], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)) as caught:
        load_dataset(f"batches_for_test:{name}")
    assert "\n" not in str(caught.value)


def test_batches_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(load_dataset("batches_for_test:forever", limit=25).images) == 25
    monkeypatch.setattr(function, "_MOST_BYTES", 1 << 12)
    with pytest.raises(UnusableDataError, match=r"gave more than 0 GiB of inputs, .* as a DataLoader, or choose a --limit"):
        load_dataset("batches_for_test:forever")


@pytest.mark.parametrize(
    ("name", "message"),
    [("shuffled", "gave other inputs when it was gone through again"), ("shrinking", "has fewer rows than when it was opened")],
)
def test_inputs_must_stay_the_same(name: str, message: str) -> None:
    images: Any = load_dataset(f"batches_for_test:{name}").images
    with pytest.raises(UnusableDataError, match=message):
        images[:]


def test_a_missing_module() -> None:
    with pytest.raises(UsageError, match="The data function no_such_module:f cannot be imported, because there is no module"):
        load_dataset("no_such_module:f")
