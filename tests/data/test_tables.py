"""Parquet files, folders of Hugging Face's save_to_disk, and its cache."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from precisionkit.data import Dataset, load_dataset, tables
from precisionkit.errors import UnusableDataError, UsageError

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")

PIXELS = [np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8) for seed in range(150)]
LABELS = [seed % 3 for seed in range(150)]


def _png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "png")
    return stream.getvalue()


ENCODED = [_png(pixels) for pixels in PIXELS]
HUGGING = {b"huggingface": json.dumps({"info": {"features": {"label": {"names": ["a", "b", "c"]}}}}).encode()}

FORMS = {
    "bytes": pa.table({"image": pa.array(ENCODED), "label": LABELS}),
    "struct": pa.table({"picture": pa.array([{"bytes": b, "path": None} for b in ENCODED]), "id": LABELS, "label": LABELS}),
    "large": pa.table({"img": pa.array(ENCODED, pa.large_binary()), "target": pa.array(LABELS, pa.int8())}),
    "named": pa.table({"image": pa.array(ENCODED), "thumbnail": pa.array(ENCODED), "label": LABELS}).replace_schema_metadata(HUGGING),
}
ROWS = np.arange(600).reshape(150, 4)
NUMBERS: dict[str, tuple[Any, str]] = {
    "list": (pa.table({"features": pa.array(list(ROWS / 8)), "y": LABELS}), "float64"),
    "fixed": (pa.table({"x": pa.FixedSizeListArray.from_arrays(pa.array(ROWS.ravel() / 8, pa.float32()), 4), "y": LABELS}), "float32"),
    "tokens": (pa.table({"input_ids": list(ROWS), "attention_mask": [[1] * 4] * 150, "labels": LABELS}), "int64"),
    "large": (pa.table({"tokens": pa.array(list(ROWS), pa.large_list(pa.int32())), "labels": LABELS}), "int32"),
    "columns": (pa.table({name: ROWS[:, i] for i, name in enumerate("abcd")} | {"class": LABELS}), "float64"),
    "mixed": (pa.table({"a": ROWS[:, 0].astype("f4"), "b": ROWS[:, 1] > 0, "c": ROWS[:, 2].astype("i2"), "label": LABELS}), "float32"),
}


def _is_ours(data: Dataset, count: int = 150) -> None:
    assert (data.images.shape, data.images.dtype) == ((count, 5, 6, 3), np.uint8)
    for start, stop in ((0, 1), (0, 10), (10, 20), (70, min(count, 140)), (3, 5), (0, count)):
        np.testing.assert_array_equal(data.images[start:stop], PIXELS[start:stop])
    assert data.labels is not None
    assert data.labels.tolist() == LABELS[:count]


def _refused(source: str | Path, message: str, **options: Any) -> None:
    with pytest.raises(UnusableDataError, match=message) as caught:
        load_dataset(str(source), **options).images[:]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("group", [40, 1000])
def test_images(tmp_path: Path, name: str, group: int) -> None:
    path = tmp_path / "x.parquet"
    parquet.write_table(FORMS[name], path, row_group_size=group)
    data = load_dataset(str(path))
    _is_ours(data)
    assert (data.name, data.split) == (str(path), "all")
    assert data.class_names == (("a", "b", "c") if name == "named" else None)
    _is_ours(load_dataset(str(path), limit=95), 95)
    part = load_dataset(str(path), skip=70, limit=25)
    np.testing.assert_array_equal(part.images[:], data.images[70:95])
    assert part.labels is not None
    assert part.labels.tolist() == LABELS[70:95]


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers(tmp_path: Path, name: str) -> None:
    table, dtype = NUMBERS[name]
    parquet.write_table(table, tmp_path / "x.parquet", row_group_size=40)
    data = load_dataset(str(tmp_path / "x.parquet"))
    assert data.images.dtype == dtype
    expected = ROWS.astype(dtype) / (8 if name in ("list", "fixed") else 1)
    if name == "mixed":
        expected = np.column_stack([ROWS[:, 0], ROWS[:, 1] > 0, ROWS[:, 2]])
    for start, stop in ((0, 1), (70, 150), (3, 9), (0, 150)):
        np.testing.assert_array_equal(data.images[start:stop], expected[start:stop])
    assert data.labels is not None
    assert data.labels.tolist() == LABELS


def test_sizes_may_differ_and_grey_is_colour_among_colours(tmp_path: Path) -> None:
    images = [np.zeros((4, 5), np.uint8), np.ones((4, 6, 3), np.uint8)]
    parquet.write_table(pa.table({"image": [_png(image) for image in images]}), tmp_path / "x.parquet")
    data = load_dataset(str(tmp_path / "x.parquet"))
    assert data.images.shape == (2, 4, None, 3)
    assert [image.shape for image in data.images[:]] == [(4, 5, 3), (4, 6, 3)]
    assert data.labels is None
    assert load_dataset(str(tmp_path / "x.parquet"), limit=1).images[:].shape == (1, 4, 5)


def test_hidden_labels_are_no_labels(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"a": [1.0, 2.0], "label": [-1, -1]}), tmp_path / "x.parquet")
    assert load_dataset(str(tmp_path / "x.parquet")).labels is None


def test_the_fingerprint_is_of_the_files(tmp_path: Path) -> None:
    def made(name: str, table: Any, **options: Any) -> str:
        (tmp_path / name).mkdir(exist_ok=True)
        parquet.write_table(table, tmp_path / name / "x.parquet")
        return load_dataset(str(tmp_path / name / "x.parquet"), **options).sha256

    table, _ = NUMBERS["list"]
    assert made("a", table) == made("b", table)
    assert len({made("a", table), made("a", table, limit=9), made("c", table.slice(1))}) == 3


class TestFolders:
    def test_parts(self, tmp_path: Path) -> None:
        for name, rows in (("data/test-00000-of-00002", slice(0, 90)), ("data/test-00001-of-00002", slice(90, 150))):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            parquet.write_table(FORMS["bytes"].slice(rows.start, rows.stop - rows.start), tmp_path / f"{name}.parquet")
        parquet.write_table(FORMS["bytes"].slice(0, 3), tmp_path / "data" / "validation-00000-of-00001.parquet")
        data = load_dataset(str(tmp_path))
        _is_ours(data)
        assert data.split == "test"
        for split in ("val", "validation", "dev"):
            assert len(load_dataset(str(tmp_path), split=split).images) == 3
        _refused(tmp_path, "has no part 'train', but test, validation: give one of them as --split", split="train")

    def test_one_part_is_not_taken_for_another(self, tmp_path: Path) -> None:
        parquet.write_table(FORMS["bytes"], tmp_path / "train.parquet")
        _refused(tmp_path, "has no part 'test', but train")

    def test_without_parts(self, tmp_path: Path) -> None:
        parquet.write_table(FORMS["bytes"].slice(0, 90), tmp_path / "one.parquet")
        parquet.write_table(FORMS["bytes"].slice(90), tmp_path / "two.parquet")
        _is_ours(load_dataset(str(tmp_path)))
        (tmp_path / "two.parquet").write_bytes(b"not needed for the first rows")
        _is_ours(load_dataset(str(tmp_path), limit=90), 90)
        parquet.write_table(NUMBERS["list"][0], tmp_path / "two.parquet")
        _refused(tmp_path, r"two\.parquet has other columns than the files before it")


def _changed(change: str, values: list[Any]) -> Any:
    return pa.table({change: values, "label": [0] * len(values)})


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pa.table({}), r"holds no rows|has the columns \(none\)"),
        (pa.table({"label": [0, 1]}), r"has the columns label \(int64\), which hold neither encoded images"),
        (pa.table({"text": ["a"], "label": [0]}), r"has the columns text \(string\), label \(int64\)"),
        (pa.table({"a": [1.0], "name": ["x"], "label": [0]}), "nor numbers alone: call the images image, or leave only numbers"),
        (pa.table({"p": [b"x"], "q": [b"y"]}), r"has several columns of images \(p, q\): call the one to use image"),
        (pa.table({"p": [[1.0]], "q": [[1.0]]}), r"has several columns of rows of numbers \(p, q\)"),
        (_changed("image", [b"no image"]), "Image 0 of the data set .* cannot be read"),
        (_changed("image", [ENCODED[0], b""]), "Image 1 of the data set .* cannot be read"),
        (_changed("image", [ENCODED[0], None]), "has images without bytes in the column image"),
        (_changed("image", [ENCODED[0], ENCODED[0][:-30]]), "Image 1 of the data set .* cannot be read"),
        (_changed("x", [[1.0], None]), "has empty rows in the column x"),
        (_changed("x", [[1.0], [None]]), "has empty fields in the column x"),
        (_changed("x", [[1.0], [1.0, 2.0]]), r"has rows of several lengths in the column x \(1 to 2\)"),
        (_changed("x", [[1.0]] * 64 + [[1.0, 2.0]]), "has rows of 2 numbers, but its first has 1"),
        (pa.table({"x": pa.array([[], []], pa.list_(pa.float32()))}), "has rows without numbers in the column x"),
        (pa.table({"x": pa.array([[1]], pa.list_(pa.uint8()))}), "has rows of bytes in the column x, whose meaning is not clear"),
        (_changed("a", [1.0, None]), "has empty fields in the column a"),
        (pa.table({"a": [1.0], "label": [None]}), "has labels of type null"),
        (pa.table({"a": [1.0, 2.0], "label": [1, None]}), "has empty fields in the column label"),
        (pa.table({"a": [1.0], "label": ["cat"]}), "has labels of type string in the column label: give one class number per row"),
        (pa.table({"a": [1.0, 1.0], "label": [0, -1]}), "has the label -1"),
        (pa.table({"input_ids": [[1, 2], [3, 0]], "attention_mask": [[1, 1], [1, 0]]}), "has padded rows .* attends to every token"),
    ],
)
def test_unusable_tables(tmp_path: Path, table: Any, message: str) -> None:
    parquet.write_table(table, tmp_path / "x.parquet")
    _refused(tmp_path / "x.parquet", message)


@pytest.mark.parametrize("part", [0.0, 0.3, 0.9])
def test_cut_off(tmp_path: Path, part: float) -> None:
    path = tmp_path / "x.parquet"
    parquet.write_table(FORMS["bytes"], path)
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    _refused(path, r"The file .*x\.parquet is damaged, cut off, or of another kind")


def test_pages_that_are_damaged(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    parquet.write_table(NUMBERS["columns"][0], path, compression="zstd")
    data = bytearray(path.read_bytes())
    data[4:200] = bytes(196)
    path.write_bytes(data)
    _refused(path, "is damaged, cut off, or of another kind")


def test_rows_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet.write_table(FORMS["bytes"], tmp_path / "x.parquet")
    monkeypatch.setattr(tables, "_MOST_ROWS", 100)
    _refused(tmp_path / "x.parquet", "has 150 rows, but at most 100 are read: split it")


def test_missing_file_and_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _refused(tmp_path / "x.parquet", r"The data file .*x\.parquet does not exist")
    parquet.write_table(FORMS["bytes"], tmp_path / "x.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    _refused(tmp_path / "x.parquet", r"is a table, which pyarrow reads: pip install 'precisionkit\[parquet\]'")


def _save(folder: Path, table: Any, files: int = 2) -> None:
    """Write what `datasets.save_to_disk` writes."""
    folder.mkdir(parents=True)
    names = [f"data-{number:05}-of-{files:05}.arrow" for number in range(files)]
    size = -(-len(table) // files)
    for number, name in enumerate(names):
        with pa.OSFile(str(folder / name), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table.slice(number * size, size))
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names], "_split": None}))


class TestSaved:
    def test_one_set(self, tmp_path: Path) -> None:
        _save(tmp_path / "set", FORMS["named"])
        data = load_dataset(str(tmp_path / "set"))
        _is_ours(data)
        assert (data.class_names, data.split) == (("a", "b", "c"), "all")

    def test_parts(self, tmp_path: Path) -> None:
        for part in ("test", "validation"):
            _save(tmp_path / part, FORMS["struct"])
        (tmp_path / "dataset_dict.json").write_text('{"splits": ["test", "validation"]}')
        data = load_dataset(str(tmp_path), split="val", limit=100)
        _is_ours(data, 100)
        assert data.split == "validation"
        _refused(tmp_path, "has no part 'train', but test, validation", split="train")

    @pytest.mark.parametrize("state", ["", "{}", "[]", '{"_data_files": 5}', '{"_data_files": [{"filename": "../x.arrow"}]}'])
    def test_damaged_lists(self, tmp_path: Path, state: str) -> None:
        _save(tmp_path / "set", FORMS["struct"])
        (tmp_path / "set" / "state.json").write_text(state)
        _refused(tmp_path / "set", r"state\.json is missing or damaged: save the data set again")

    def test_no_files(self, tmp_path: Path) -> None:
        _save(tmp_path / "set", FORMS["struct"])
        (tmp_path / "set" / "state.json").write_text('{"_data_files": []}')
        _refused(tmp_path / "set", "names no data files")

    @pytest.mark.parametrize("part", [0.0, 0.5, 0.99])
    def test_cut_off(self, tmp_path: Path, part: float) -> None:
        _save(tmp_path / "set", NUMBERS["tokens"][0], files=1)
        path = tmp_path / "set" / "data-00000-of-00001.arrow"
        path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
        with pytest.raises(UnusableDataError, match=r"is damaged, cut off|has empty|several lengths|holds no rows"):
            load_dataset(str(tmp_path / "set"))

    def test_offsets_that_point_elsewhere(self, tmp_path: Path) -> None:
        _save(tmp_path / "set", FORMS["bytes"], files=1)
        path = tmp_path / "set" / "data-00000-of-00001.arrow"
        data = path.read_bytes()
        offsets = np.concatenate([[0], np.cumsum([len(encoded) for encoded in ENCODED])]).astype("<i4").tobytes()
        assert data.count(offsets) == 1
        wrong = offsets[:400] + np.int32(2**31 - 9).tobytes() + offsets[404:]
        path.write_bytes(data.replace(offsets, wrong))
        _refused(tmp_path / "set", "is damaged, cut off, or of another kind")

    def test_what_the_library_itself_saves(self, tmp_path: Path) -> None:
        datasets = pytest.importorskip("datasets", reason="Hugging Face's library datasets is not installed")
        datasets.disable_progress_bars()
        features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b", "c"])})
        whole = datasets.Dataset.from_dict({"image": PIXELS, "label": LABELS}, features=features)
        whole.save_to_disk(tmp_path / "one")
        datasets.DatasetDict({"test": whole, "train": whole.select(range(5))}).save_to_disk(tmp_path / "two")
        for name in ("one", "two"):
            data = load_dataset(str(tmp_path / name))
            _is_ours(data)
            assert data.class_names == ("a", "b", "c")
        assert len(load_dataset(str(tmp_path / "two"), split="train").images) == 5


class TestHub:
    def test_a_cached_set(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        datasets = pytest.importorskip("datasets", reason="Hugging Face's library datasets is not installed")
        datasets.disable_progress_bars()
        folder = tmp_path / "someone___pictures" / "default" / "0.0.0" / "0123456789abcdef"
        folder.mkdir(parents=True)
        with pa.OSFile(str(folder / "pictures-test.arrow"), "wb") as sink, pa.ipc.new_stream(sink, FORMS["bytes"].schema) as writer:
            writer.write_table(FORMS["bytes"])
        features = {"image": {"dtype": "binary", "_type": "Value"}, "label": {"dtype": "int64", "_type": "Value"}}
        split = {"name": "test", "num_bytes": 1, "num_examples": 150, "dataset_name": "pictures"}
        info = {"features": features, "builder_name": "parquet", "dataset_name": "pictures", "config_name": "default"}
        (folder / "dataset_info.json").write_text(json.dumps(info | {"version": "0.0.0", "splits": {"test": split}}))
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
        data = load_dataset("hf:someone/pictures")
        _is_ours(data)
        assert (data.name, data.split) == ("hf:someone/pictures", "test")
        assert not datasets.config.HF_HUB_OFFLINE

    def test_nothing_is_fetched_unless_asked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        datasets = pytest.importorskip("datasets", reason="Hugging Face's library datasets is not installed")
        offline = []

        def seen(*_: object, **__: object) -> None:
            offline.append(datasets.config.HF_HUB_OFFLINE)
            raise ConnectionError("closed\nand more")

        monkeypatch.setattr(datasets, "load_dataset", seen)
        message = r"The test part of hf:no/such cannot be had \(ConnectionError: closed\): check the name and --split"
        _refused("hf:no/such", f"{message}, or let it be fetched with --download")
        _refused("hf:no/such", f"{message}\\.$", download=True)
        assert offline == [True, False]

    @pytest.mark.parametrize("name", ["", "a/b/c", "../x", "a b", "a/b:c:d", "http://x"])
    def test_other_names(self, name: str) -> None:
        with pytest.raises(UsageError, match="is no name on the hub: give hf:OWNER/NAME"):
            load_dataset(f"hf:{name}")

    def test_without_the_library(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "datasets", None)
        _refused("hf:some/set", r"which is not installed: pip install 'precisionkit\[datasets\]'")
