from __future__ import annotations

import gzip
import io
import json
import logging
import os
import pickle
import sys
import zipfile
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from precisionkit.data import NAMED, Dataset, load_dataset
from precisionkit.data import cifar10 as cifar10_module
from precisionkit.data.dataset import Arrays, fingerprint, make_dataset
from precisionkit.data.idx import read_idx
from precisionkit.errors import UnusableDataError, UsageError

FIRST = {"mnist": (7, 2, 1, 0, 4, 1, 4, 9, 5, 9), "fashion_mnist": (9, 2, 1, 1, 6, 1, 4, 6, 5, 7)}


def _images(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def _idx(array: np.ndarray) -> bytes:
    return bytes((0, 0, 8, array.ndim)) + np.asarray(array.shape, dtype=">u4").tobytes() + array.tobytes()


def _write_mnist(folder: Path, labels: tuple[int, ...], *, stem: str = "t10k", packed: bool = True, dot: bool = False) -> np.ndarray:
    folder.mkdir(parents=True, exist_ok=True)
    images = _images(len(labels), 28, 28)
    for kind, array in (("images", images), ("labels", np.asarray(labels, dtype=np.uint8))):
        path = folder / f"{stem}-{kind}{'.' if dot else '-'}idx{array.ndim}-ubyte{'.gz' if packed else ''}"
        path.write_bytes(gzip.compress(_idx(array)) if packed else _idx(array))
    return images


def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision.datasets as tv

    def unreachable(*_: object, **__: object) -> None:
        print("Downloading")  # torchvision talks on stdout
        raise URLError("closed")

    for name in ("MNIST", "FashionMNIST", "CIFAR10"):
        monkeypatch.setattr(getattr(tv, name), "download", unreachable)


def _refused(source: str, message: str, **options: Any) -> None:
    with pytest.raises(UnusableDataError, match=message) as caught:
        load_dataset(source, **options)
    assert "\n" not in str(caught.value)


class TestDigits:
    def test_both_splits(self) -> None:
        test, train = load_dataset("digits"), load_dataset("digits", split="train")
        assert test.images.shape == (360, 8, 8)
        assert train.images.shape == (1437, 8, 8)
        assert (test.images.dtype, int(test.images.max())) == (np.uint8, 16)
        assert test.labels is not None
        assert test.labels.dtype == np.int64
        assert test.class_names == tuple("0123456789")
        assert (test.name, test.split) == ("digits", "test")

    def test_limit(self) -> None:
        first, whole = load_dataset("digits", limit=5), load_dataset("digits")
        assert len(first.images) == 5
        np.testing.assert_array_equal(first.images, whole.images[:5])
        assert first.sha256 != whole.sha256
        assert load_dataset("digits", limit=1000).sha256 == whole.sha256

    def test_skip(self) -> None:
        part, whole = load_dataset("digits", skip=3, limit=5), load_dataset("digits")
        np.testing.assert_array_equal(part.images, whole.images[3:8])
        assert part.labels is not None
        assert whole.labels is not None
        assert part.labels.tolist() == whole.labels[3:8].tolist()
        assert len(load_dataset("digits", skip=359).images) == 1
        assert len({load_dataset("digits", skip=skip, limit=5).sha256 for skip in (0, 3, 4)}) == 3
        _refused("digits", r"^The data set digits has 360 images, so skipping 360 leaves none: skip fewer\.$", skip=360)

    def test_without_scikit_learn(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
        _refused("digits", r"scikit-learn, which is not installed: pip install 'precisionkit\[digits\]'")


class TestMnist:
    @pytest.mark.parametrize("packed", [True, False])
    @pytest.mark.parametrize("dot", [True, False])
    @pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST/raw"), ("mnist", "mnist"), ("mnist", "."), ("fashion_mnist", "."),
                                                  ("fashion_mnist", "FashionMNIST/raw"), ("fashion_mnist", "fashion_mnist")])  # fmt: skip
    def test_layouts(self, tmp_path: Path, name: str, folder: str, packed: bool, dot: bool) -> None:
        images = _write_mnist(tmp_path / folder, FIRST[name], packed=packed, dot=dot)
        data = load_dataset(name, root=tmp_path, download=False)
        np.testing.assert_array_equal(data.images, images)
        assert data.labels is not None
        assert tuple(data.labels) == FIRST[name]
        assert data.class_names == NAMED[name].class_names

    def test_one_set_is_not_taken_for_the_other(self, tmp_path: Path) -> None:
        _write_mnist(tmp_path, FIRST["mnist"])
        _refused("fashion_mnist", "are not under", root=tmp_path, download=False)

    def test_the_fingerprint_does_not_depend_on_the_source(self, tmp_path: Path) -> None:
        images = _write_mnist(tmp_path / "mnist", FIRST["mnist"])
        np.savez(tmp_path / "same.npz", x=images, y=np.asarray(FIRST["mnist"], dtype=np.int32))
        assert load_dataset("mnist", root=tmp_path).sha256 == load_dataset(str(tmp_path / "same.npz")).sha256

    def test_the_root_comes_from_the_environment(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        _write_mnist(tmp_path / "a" / "mnist", FIRST["mnist"])
        monkeypatch.setenv("PRECISIONKIT_DATA", str(tmp_path / "a"))
        assert len(load_dataset("mnist").images) == 10
        monkeypatch.delenv("PRECISIONKIT_DATA")
        monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
        _refused("mnist", r"home/\.cache/precisionkit", download=False)

    def test_train(self, tmp_path: Path) -> None:
        _write_mnist(tmp_path / "mnist", (1, 2), stem="train")
        assert load_dataset("mnist", split="train", root=str(tmp_path)).split == "train"
        _refused("mnist", "The test images of mnist are not under", root=tmp_path, download=False)

    def test_labels_must_be_as_many(self, tmp_path: Path) -> None:
        _write_mnist(tmp_path / "mnist", (1, 2, 3), packed=False)
        (tmp_path / "mnist" / "t10k-labels-idx1-ubyte").write_bytes(_idx(np.zeros(2, dtype=np.uint8)))
        _refused("mnist", "has 3 images but 2 labels", root=tmp_path)


class TestIdx:
    @given(shape=st.lists(st.integers(0, 5), min_size=3, max_size=3))
    def test_round_trip(self, tmp_path_factory: pytest.TempPathFactory, shape: list[int]) -> None:
        path = tmp_path_factory.mktemp("idx") / "file"
        path.write_bytes(_idx(_images(*shape)))
        np.testing.assert_array_equal(read_idx(path, axes=3), _images(*shape))

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", r"is no idx file of bytes with 1 axes \(it starts with nothing\)"),
            (b"\0\0\x08\x03\0\0\0\1", r"it starts with 00 00 08 03"),
            (b"\0\0\x0d\x01\0\0\0\1a", "is no idx file of bytes"),
            (b"\0\0\x08\x01\0\0", "is no idx file of bytes"),
            (b"\0\0\x08\x01\0\0\0\5abc", "is cut off or damaged: it has 11 bytes unpacked, its header announces 13"),
            (b"\0\0\x08\x01\0\0\0\1abc", "is cut off or damaged"),
            (gzip.compress(_idx(np.zeros(99, dtype=np.uint8)), mtime=0)[:-9], "damaged gzip file"),
            (b"\x1f\x8bnonsense", "damaged gzip file"),
        ],
    )
    def test_damage(self, tmp_path: Path, content: bytes, message: str) -> None:
        (tmp_path / "labels").write_bytes(content)
        with pytest.raises(UnusableDataError, match=message):
            read_idx(tmp_path / "labels", axes=1)


class TestCifar10:
    labels = np.arange(10, dtype=np.uint8)
    images = _images(10, 32, 32, 3)

    def _records(self) -> np.ndarray:
        return np.concatenate([self.labels[:, np.newaxis], self.images.transpose(0, 3, 1, 2).reshape(10, -1)], axis=1)

    def _is_ours(self, found: Arrays | Dataset | None, times: int = 1) -> None:
        assert found is not None
        assert found.labels is not None
        np.testing.assert_array_equal(found.images, np.concatenate([self.images] * times))
        np.testing.assert_array_equal(found.labels, np.concatenate([self.labels] * times))

    @pytest.mark.parametrize("folder", [".", "cifar10"])
    def test_npz(self, tmp_path: Path, folder: str) -> None:
        (tmp_path / folder).mkdir(exist_ok=True)
        np.savez(tmp_path / folder / "cifar10_test.npz", images=self.images, labels=self.labels)
        data = load_dataset("cifar10", root=tmp_path, download=False)
        self._is_ours(data)
        assert data.class_names == cifar10_module.CLASSES

    @pytest.mark.parametrize(("split", "files"), [("test", ["test_batch"]), ("train", [f"data_batch_{n}" for n in range(1, 6)])])
    def test_binary(self, tmp_path: Path, split: str, files: list[str]) -> None:
        folder = tmp_path / "cifar-10-batches-bin"
        folder.mkdir()
        for name in files:
            assert cifar10_module.read_binary(tmp_path, split, records=10) is None
            (folder / f"{name}.bin").write_bytes(self._records().tobytes())
        self._is_ours(cifar10_module.read_binary(tmp_path, split, records=10), len(files))
        _refused("cifar10", r"cut off or damaged: it has 30730 bytes, but 30730000 are needed", root=tmp_path, split=split)

    def test_labels_are_checked(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "cifar10_test.npz", images=self.images, labels=self.labels + 1)
        _refused("cifar10", "does not hold CIFAR-10: .* and labels 0 to 9", root=tmp_path)
        np.savez(tmp_path / "cifar10_test.npz", images=self.images[:, 1:], labels=self.labels)
        _refused("cifar10", r"but are uint8 \(10, 31, 32, 3\)", root=tmp_path)
        np.savez(tmp_path / "cifar10_test.npz", images=self.images)
        _refused("cifar10", "holds no labels", root=tmp_path)

    def test_sheets(self, tmp_path: Path) -> None:
        folder = tmp_path / "cifar10"
        folder.mkdir()
        for number in range(1, 6):
            Image.fromarray(self.images.reshape(10, 1024, 3)).save(folder / f"cifar10_data_batch_{number}.png")
        (folder / "cifar10_train_labels.json").write_text(json.dumps(self.labels.tolist() * 5))
        self._is_ours(cifar10_module.read_sheets(tmp_path, "train", records=10), 5)
        assert cifar10_module.read_sheets(tmp_path, "test", records=10) is None
        _refused("cifar10", r"has the shape \(10, 1024, 3\), but \(10000, 1024, 3\) is needed", root=tmp_path, split="train")
        (folder / "cifar10_train_labels.json").write_text("{")
        with pytest.raises(UnusableDataError, match="is not a JSON list of labels"):
            cifar10_module.read_sheets(tmp_path, "train", records=10)

    def test_pickles_are_opened_by_torchvision_only_after_its_check(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from torchvision.datasets import CIFAR10

        folder = tmp_path / "cifar-10-batches-py"
        folder.mkdir()
        batch = {"data": self._records()[:, 1:], "labels": self.labels.tolist()}
        (folder / "test_batch").write_bytes(pickle.dumps(batch))
        (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list(cifar10_module.CLASSES)}))
        _refused("cifar10", r"is incomplete or damaged \(torchvision's md5 check fails\)", root=tmp_path)
        monkeypatch.setattr(CIFAR10, "_check_integrity", lambda _: True)
        monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
        self._is_ours(load_dataset("cifar10", root=tmp_path))

    def test_pickles_without_torchvision(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "cifar-10-batches-py").mkdir()
        monkeypatch.setitem(sys.modules, "torchvision.datasets", None)
        _refused("cifar10", r"which only torchvision opens here.*pip install 'precisionkit\[vision\]'", root=tmp_path)


class TestDownload:
    WAYS = ("--data-root", "PRECISIONKIT_DATA", ".npz", "subfolder of images per class")

    @pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10"])
    def test_a_closed_network_gives_one_clear_sentence(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        caplog: pytest.LogCaptureFixture,
        name: str,
    ) -> None:
        _offline(monkeypatch)
        with caplog.at_level(logging.INFO, "precisionkit"):
            _refused(
                name,
                rf"The test images of {name} are not under .*new, a folder that does not exist, and the download failed \(\w+: .+\)",
                root=tmp_path / "new",
            )
        assert not (tmp_path / "new").exists()
        assert "with torchvision into" in caplog.text
        assert capsys.readouterr().out == ""
        with pytest.raises(UnusableDataError) as caught:
            load_dataset(name, root=tmp_path)
        assert all(way in str(caught.value) for way in (*self.WAYS, *(layout.text for layout in NAMED[name].layouts)))

    def test_without_torchvision(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "torchvision", None)
        _refused("mnist", "and torchvision is not installed: put them there", root=tmp_path)

    def test_switched_off(self, tmp_path: Path) -> None:
        _refused("mnist", "and downloading is switched off", root=tmp_path, download=False)

    def test_what_was_fetched_is_found(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        import torchvision.datasets as tv

        def fetched(self: Any) -> None:
            _write_mnist(Path(self.raw_folder), FIRST["mnist"], packed=False)
            _write_mnist(Path(self.raw_folder), (1, 2), stem="train", packed=False)

        monkeypatch.setattr(tv.MNIST, "download", fetched)
        assert len(load_dataset("mnist", root=tmp_path).images) == 10

    def test_an_incomplete_download(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("torchvision.datasets.MNIST", lambda *_, **__: None)
        _refused("mnist", "and the download left it incomplete", root=tmp_path)


class TestNpz:
    @pytest.mark.parametrize("images", ["images", "x", "X", "data"])
    @pytest.mark.parametrize("labels", ["labels", "y", "targets"])
    def test_keys(self, tmp_path: Path, images: str, labels: str) -> None:
        path = tmp_path / "set.npz"
        np.savez_compressed(path, **{images: _images(3, 4, 4), labels: np.array([[2], [0], [1]]), "class_names": ["a", "b", "c"]})  # type: ignore[arg-type]
        data = load_dataset(str(path))
        assert data.labels is not None
        assert data.labels.tolist() == [2, 0, 1]
        assert (data.name, data.split, data.class_names) == (str(path), "all", ("a", "b", "c"))

    @pytest.mark.parametrize("dtype", ["<f4", ">f8", "<f2"])
    def test_floats_without_labels(self, tmp_path: Path, dtype: str) -> None:
        np.savez(tmp_path / "set.npz", x=np.ones((3, 1, 4, 4), dtype=dtype))
        data = load_dataset(str(tmp_path / "set.npz"), limit=2)
        assert (data.labels, data.class_names) == (None, None)
        assert data.images.shape == (2, 1, 4, 4)
        assert data.images.dtype.isnative

    @pytest.mark.parametrize(
        ("arrays", "message"),
        [
            ({"pictures": np.zeros(3)}, "has the arrays pictures, but none is called images, x, X, data"),
            ({}, r"has the arrays \(none\)"),
            ({"x": np.zeros((0, 4, 4), dtype=np.uint8)}, r"holds no images \(shape \(0, 4, 4\)\)"),
            ({"x": np.zeros((2, 0))}, "holds no images"),
            ({"x": np.zeros((2, 3, 3), dtype=np.int64)}, r"has images of type int64 and shape \(2, 3, 3\): give bytes"),
            ({"x": np.zeros((2, 3), dtype=np.uint8)}, r"has byte images of shape \(2, 3\): give"),
            ({"x": np.zeros((2, 3, 32, 32), dtype=np.uint8)}, r"move the channels to the end, as in images\.transpose"),
            ({"x": np.zeros(3)}, r"has floating images of shape \(3,\)"),
            ({"x": np.zeros((2, 3)), "y": np.zeros(3, dtype=int)}, "has 2 images but 3 labels: give one label per image, or none"),
            ({"x": np.zeros((2, 3)), "y": np.zeros(2)}, r"has labels of type float64 and shape \(2,\)"),
            ({"x": np.zeros((2, 3)), "y": np.eye(2, dtype=int)}, r"has labels of type int64 and shape \(2, 2\)"),
            ({"x": np.zeros((2, 3)), "y": np.array([-1, 0])}, "has the label -1: labels count classes from 0"),
            ({"x": np.zeros((2, 3)), "y": np.array([1, 2]), "class_names": ["a", "b"]}, "has the label 2 but only 2 class names"),
            ({"x": np.array([None, {}])}, "or holds Python objects"),
        ],
    )
    def test_unusable_contents(self, tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
        np.savez(tmp_path / "set.npz", **arrays)
        _refused(str(tmp_path / "set.npz"), message)

    @pytest.mark.parametrize("part", [0.0, 0.2, 0.5, 0.99])
    def test_cut_off(self, tmp_path: Path, part: float) -> None:
        path = tmp_path / "set.npz"
        np.savez_compressed(path, x=_images(20, 8, 8))
        path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
        _refused(str(path), "is damaged, no .npz file, or holds Python objects")

    def test_flipped_bytes(self, tmp_path: Path) -> None:
        path = tmp_path / "set.npz"
        np.savez(path, x=_images(20, 8, 8))
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 0xFF
        path.write_bytes(data)
        _refused(str(path), "is damaged")

    def test_a_single_array(self, tmp_path: Path) -> None:
        np.save(tmp_path / "set.npy", _images(2, 3, 3))
        (tmp_path / "set.npy").rename(tmp_path / "set.npz")
        _refused(str(tmp_path / "set.npz"), "holds a single array")

    def test_more_is_announced_than_there_is(self, tmp_path: Path) -> None:
        stream = io.BytesIO()
        np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": (10**13, 8, 8)})
        with zipfile.ZipFile(tmp_path / "set.npz", "w") as archive:
            archive.writestr("x.npy", stream.getvalue())
        _refused(str(tmp_path / "set.npz"), "is damaged, no .npz file")

    def test_pickles_are_not_opened(self, tmp_path: Path) -> None:
        (tmp_path / "set.npz").write_bytes(pickle.dumps({"x": 1}))
        _refused(str(tmp_path / "set.npz"), "is damaged, no .npz file")


class TestFolder:
    def _write(self, path: Path, array: np.ndarray) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(path)

    def test_grey_images_in_the_order_of_image_folder(self, tmp_path: Path) -> None:
        from torchvision.datasets import ImageFolder

        images = _images(4, 5, 6)
        for name, image in zip(["b/2.png", "b/10.PNG", "a/z.bmp", "a/deep/a.png"], images, strict=True):
            self._write(tmp_path / name, image)
        (tmp_path / "b" / "notes.txt").write_text("no image")
        data = load_dataset(str(tmp_path))
        theirs = ImageFolder(str(tmp_path))
        assert data.class_names == tuple(theirs.classes)
        assert data.labels is not None
        assert data.labels.tolist() == theirs.targets
        assert data.images.shape == (4, 5, 6)
        np.testing.assert_array_equal(data.images[:], [np.asarray(Image.open(path)) for path, _ in theirs.samples])
        assert load_dataset(str(tmp_path), limit=3).images.shape == (3, 5, 6)
        part = load_dataset(str(tmp_path), skip=1, limit=2)
        np.testing.assert_array_equal(part.images[:], data.images[1:3])
        np.testing.assert_array_equal(part.images[1:2], data.images[2:3])
        assert part.labels is not None
        assert part.labels.tolist() == theirs.targets[1:3]
        assert len({load_dataset(str(tmp_path), skip=skip, limit=2).sha256 for skip in (0, 1, 2)}) == 3

    def test_one_colour_image_makes_all_colour(self, tmp_path: Path) -> None:
        self._write(tmp_path / "a" / "1.png", _images(5, 6))
        self._write(tmp_path / "a" / "2.png", _images(5, 6, 3))
        data = load_dataset(str(tmp_path))
        assert data.images.shape == (2, 5, 6, 3)
        np.testing.assert_array_equal(data.images[:1][0, :, :, 2], _images(5, 6))

    def test_sizes_may_differ(self, tmp_path: Path) -> None:
        sizes = ((5, 6), (6, 6), (6, 6))
        for number, size in enumerate(sizes):
            self._write(tmp_path / "a" / f"{number}.png", _images(*size))
        images = load_dataset(str(tmp_path)).images
        assert (images.shape, images.dtype) == ((3, None, 6), np.uint8)
        assert [image.shape for image in images[:]] == list(sizes)
        assert images[1:].shape == (2, 6, 6)
        assert images[3:].shape == (0, 0, 6)

    def test_images_are_decoded_when_they_are_needed(self, tmp_path: Path) -> None:
        for number in range(3):
            self._write(tmp_path / "a" / f"{number}.png", _images(5, 6))
        images = load_dataset(str(tmp_path)).images
        (tmp_path / "a" / "1.png").unlink()
        assert images[2:].shape == (1, 5, 6)
        with pytest.raises(UnusableDataError, match=r"The image .*1\.png cannot be read"):
            images[:2]
        with pytest.raises(ValueError, match="only slices of neighbours"):
            images[::2]

    def test_the_fingerprint_is_of_names_bytes_and_labels(self, tmp_path: Path) -> None:
        def made(name: str, files: dict[str, int], **options: Any) -> str:
            for file, seed in files.items():
                self._write(tmp_path / name / file, np.full((5, 6), seed, dtype=np.uint8))
            return load_dataset(str(tmp_path / name), **options).sha256

        first = made("one", {"a/1.png": 1, "b/2.png": 2})
        assert first == made("same", {"a/1.png": 1, "b/2.png": 2})
        others = [
            made("pixels", {"a/1.png": 1, "b/2.png": 3}),
            made("names", {"a/1.png": 1, "b/3.png": 2}),
            made("labels", {"a/1.png": 1, "ab/3.png": 1, "b/2.png": 2}, limit=1),
            made("limit", {"a/1.png": 1, "b/2.png": 2}, limit=1),
        ]
        assert len({first, *others}) == 4  # the last two keep the same image
        assert others[2] == others[3]

    @pytest.mark.parametrize("target", ["..", "."])
    def test_loops_of_links(self, tmp_path: Path, target: str) -> None:
        self._write(tmp_path / "a" / "1.png", _images(5, 6))
        (tmp_path / "a" / "again").symlink_to(target, target_is_directory=True)
        _refused(str(tmp_path), "is a link to one that is read already: remove the link")

    def test_links_without_a_loop(self, tmp_path: Path) -> None:
        self._write(tmp_path / "set" / "a" / "1.png", _images(5, 6))
        self._write(tmp_path / "elsewhere" / "2.png", _images(5, 6))
        (tmp_path / "set" / "b").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
        assert load_dataset(str(tmp_path / "set")).labels.tolist() == [0, 1]
        (tmp_path / "elsewhere" / "3.png").symlink_to("nowhere")
        _refused(str(tmp_path / "set"), r"3\.png is no file, but a broken link or a device")

    def test_a_pipe_is_not_opened(self, tmp_path: Path) -> None:
        self._write(tmp_path / "a" / "1.png", _images(5, 6))
        os.mkfifo(tmp_path / "a" / "2.png")
        _refused(str(tmp_path), r"2\.png is no file")

    def test_too_many_pixels(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._write(tmp_path / "a" / "1.png", _images(50, 60))
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
        _refused(str(tmp_path), r"1\.png has more pixels than Pillow opens \(2000\)")

    def test_formats_that_need_other_programs_are_not_tried(self, tmp_path: Path) -> None:
        (tmp_path / "a").mkdir()
        Image.fromarray(_images(5, 6)).save(tmp_path / "a" / "x.eps")
        (tmp_path / "a" / "x.eps").rename(tmp_path / "a" / "x.png")
        _refused(str(tmp_path), r"x\.png cannot be read")

    @pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n1234"])
    def test_an_unreadable_image_is_named(self, tmp_path: Path, content: bytes) -> None:
        self._write(tmp_path / "a" / "1.png", _images(5, 6))
        (tmp_path / "a" / "2.png").write_bytes(content)
        _refused(str(tmp_path), r"The image .*2\.png cannot be read")

    def test_a_cut_off_image(self, tmp_path: Path) -> None:
        self._write(tmp_path / "a" / "1.png", _images(50, 60))
        (tmp_path / "a" / "1.png").write_bytes((tmp_path / "a" / "1.png").read_bytes()[:500])
        images = load_dataset(str(tmp_path)).images  # its first bytes are sound
        with pytest.raises(UnusableDataError, match=r"1\.png cannot be read"):
            images[:1]

    def test_sixteen_bits(self, tmp_path: Path) -> None:
        self._write(tmp_path / "a" / "1.png", np.full((4, 4), 999, dtype=np.uint16))
        _refused(str(tmp_path), "has more than 8 bits per channel")

    def test_no_classes(self, tmp_path: Path) -> None:
        _refused(str(tmp_path), "has no subfolders")
        (tmp_path / "empty").mkdir()
        _refused(str(tmp_path), "The class folder .*empty holds no images")

    def test_without_pillow(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._write(tmp_path / "a" / "1.png", _images(5, 6))
        monkeypatch.setitem(sys.modules, "PIL", None)
        _refused(str(tmp_path), r"Reading the image .*1\.png needs Pillow: pip install 'precisionkit\[vision\]'")


class TestArguments:
    def test_unknown_names(self, tmp_path: Path) -> None:
        _refused("imagenet", r"'imagenet' is neither a known name \(digits, mnist, fashion_mnist, cifar10\) nor an existing")
        _refused(str(tmp_path / "no.npz"), r"The data file .*no\.npz does not exist")
        (tmp_path / "set.csv").write_text("1,2")
        _refused(str(tmp_path / "set.csv"), r"set\.csv is not an \.npz file")

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"limit": 0}, "The limit 0 leaves no images"),
            ({"limit": -3}, "The limit -3"),
            ({"skip": -1}, "The number -1 of images to skip is negative: give 0 or more."),
            ({"split": "dev"}, "Unknown split 'dev'"),
        ],
    )
    def test_bad_options(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(UsageError, match=message):
            load_dataset("digits", **options)


class TestFingerprint:
    def test_it_sees_values_shapes_types_and_labels(self) -> None:
        images = np.zeros((2, 6), dtype=np.float32)
        variants = [
            fingerprint(images, None),
            fingerprint(images, np.array([0, 0])),
            fingerprint(images, np.array([0, 1])),
            fingerprint(images.reshape(3, 4), None),
            fingerprint(images.astype(np.float64), None),
            fingerprint(images + 1, None),
        ]
        assert len(set(variants)) == len(variants)

    def test_it_does_not_see_the_memory_layout(self) -> None:
        images = _images(3, 4, 5)
        assert fingerprint(images, None) == fingerprint(np.asfortranarray(images), None)

    def test_a_known_value(self) -> None:
        data = make_dataset(Arrays(np.arange(8, dtype=np.uint8).reshape(2, 2, 2), np.array([0, 1])), name="x")
        assert data.sha256 == KNOWN


KNOWN = "18ae922a1b53825187190707d3a37f7b7e0b75d2e697f7185e74954bfe48b7e5"


@pytest.mark.real
class TestRealFiles:
    @pytest.mark.parametrize(
        ("name", "shape"), [("mnist", (10_000, 28, 28)), ("fashion_mnist", (10_000, 28, 28)), ("cifar10", (10_000, 32, 32, 3))]
    )
    def test_test_sets(self, shared: Path, name: str, shape: tuple[int, ...]) -> None:
        data = load_dataset(name, root=shared / "data", download=False)
        assert data.images.shape == shape
        assert data.labels is not None
        assert sorted(set(data.labels.tolist())) == list(range(10))

    @pytest.mark.parametrize(("name", "folder"), [("mnist", "mnist"), ("fashion_mnist", "fashion_mnist"), ("cifar10", "cifar10")])
    def test_the_folder_itself_as_root(self, shared: Path, name: str, folder: str) -> None:
        inside = load_dataset(name, root=shared / "data" / folder, download=False)
        assert inside.sha256 == load_dataset(name, root=shared / "data", download=False).sha256

    def test_binary_and_npz_give_the_same_cifar10(self, shared: Path, tmp_path: Path) -> None:
        data = load_dataset("cifar10", root=shared / "data", download=False)
        assert data.labels is not None
        records = np.concatenate(
            [data.labels.astype(np.uint8)[:, np.newaxis], data.images.transpose(0, 3, 1, 2).reshape(10_000, -1)], axis=1
        )
        (tmp_path / "cifar-10-batches-bin").mkdir()
        (tmp_path / "cifar-10-batches-bin" / "test_batch.bin").write_bytes(records.tobytes())
        assert load_dataset("cifar10", root=tmp_path, download=False).sha256 == data.sha256

    def test_training_sheets(self, shared: Path) -> None:
        data = load_dataset("cifar10", split="train", root=shared / "data", download=False)
        assert data.images.shape == (50_000, 32, 32, 3)
        assert data.labels is not None
        assert np.bincount(data.labels).tolist() == [5000] * 10
