"""A small experiment from end to end: runs on disk that are not trained twice, the trained networks, the document."""

import dataclasses
import gc
import multiprocessing
import time

import msgspec
import pytest
from click.testing import CliRunner

from precisionkit.cli import main
from precisionkit.errors import UnusableDataError
from precisionkit.reproduce import Findings, Plan, Where, results, studies, write_document
from precisionkit.reproduce.normalisation import normalisation_table
from precisionkit.reproduce.plan import slug
from precisionkit.training import Settings


def settings(**changes):
    return Settings(**{"arch": "digits_cnn", "data": "digits", "epochs": 2, "batch": 64} | changes)


RUNS = (
    *(settings(precision=precision, seed=seed) for precision in ("fp32", "fp16", "mixed") for seed in (0, 1)),
    *(settings(precision="fp16", optimizer=optimizer, epsilon=1e-8) for optimizer in ("adam", "rmsprop")),
    *(
        settings(precision=precision, optimizer=optimizer, epsilon=1e-3)
        for precision in ("fp32", "fp16")
        for optimizer in ("adam", "rmsprop")
    ),
    settings(precision="bf16"),
    settings(precision="strict-fp16"),
)
PLAN = Plan("mnist", False, "digits, reduced", RUNS, tuple(one for one in RUNS if one.seed == 0 and one.optimizer == "sgd"), 60)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("experiment")
    return folder, results(PLAN, Where(folder, None, None, "cpu"), workers=2)


def test_every_run_has_a_result_in_the_order_of_the_plan(made):
    _, found = made
    assert tuple(one.settings for one in found) == RUNS
    broke = [one for one in found if one.broke]
    assert {one.settings.epsilon for one in broke} == {1e-8}
    assert len(broke) == 2
    assert all(one.accuracy > 0.5 for one in found if not one.broke)


def test_what_is_there_is_not_trained_again(made):
    folder, found = made
    counts = []
    again = results(PLAN, Where(folder, None, None, "cpu"), workers=1, on_progress=lambda done, total: counts.append((done, total)))
    assert again == found
    assert counts == [(len(RUNS), len(RUNS))]


def test_an_interruption_ends_the_runs_at_hand(tmp_path):
    """As Ctrl-C while runs that would take minutes are trained; what was done stays."""
    slow = tuple(settings(epochs=500, seed=seed) for seed in range(40))
    plan = dataclasses.replace(PLAN, settings=(settings(epochs=1), *slow), studied=())

    def interrupt(done, total):
        if done == 1:
            raise KeyboardInterrupt

    before = set(multiprocessing.active_children())
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        results(plan, Where(tmp_path, None, None, "cpu"), workers=2, on_progress=interrupt)
    gc.collect()
    for process in set(multiprocessing.active_children()) - before:
        process.join(20)
    assert set(multiprocessing.active_children()) <= before
    assert time.monotonic() - start < 60
    assert len(list((tmp_path / "runs").glob("*.json"))) == 1


def test_one_process_and_several_give_the_same(made, tmp_path):
    _, found = made
    few = dataclasses.replace(PLAN, settings=RUNS[:3], studied=())
    for one, other in zip(results(few, Where(tmp_path, None, None, "cpu"), workers=1), found, strict=False):
        assert msgspec.structs.replace(one, seconds=0) == msgspec.structs.replace(other, seconds=0)


def test_results_of_other_settings_are_refused(made, tmp_path):
    folder, _ = made
    (tmp_path / "runs").mkdir()
    changed = settings(precision="fp32", epochs=3)
    (tmp_path / "runs" / f"{slug(changed)}.json").write_bytes((folder / "runs" / f"{slug(RUNS[0])}.json").read_bytes())
    plan = dataclasses.replace(PLAN, settings=(changed,), studied=())
    with pytest.raises(UnusableDataError, match="belongs to other settings or data: choose another folder"):
        results(plan, Where(tmp_path, None, None, "cpu"), workers=1)
    for content in (b"{}", b'{"data": "\xff"}', b'{"settings": ' * 100_000, b'{"x": ' * 100_000):
        (tmp_path / "runs" / f"{slug(changed)}.json").write_bytes(content)
        with pytest.raises(UnusableDataError, match="is no result of this version"):
            results(plan, Where(tmp_path, None, None, "cpu"), workers=1)


def test_the_trained_networks_are_studied_and_the_document_written(made):
    folder, found = made
    alone, pairs = studies(PLAN, Where(folder, None, None, "cpu"))
    assert {(one.trained_in, one.run_in) for one in alone} == {
        ("fp32", "binary16"), ("fp16", "binary16"), ("mixed", "binary16"), ("bf16", "bfloat16"), ("strict-fp16", "binary16, sums in binary16"),
    }  # fmt: skip
    assert all(one.violations == 0 and one.proved + one.probable <= one.kept <= one.images for one in alone)
    assert all(one.proved + one.probable > 0 for one in alone if one.trained_in != "strict-fp16")
    assert [one.images for one in alone if one.trained_in != "strict-fp16"] == [60] * 4
    assert [one.images for one in alone if one.trained_in == "strict-fp16"] == [6]  # slow, and hard to bound
    assert {one.trained_in for one in pairs} == {"fp16", "mixed", "bf16", "strict-fp16"}
    assert next(one for one in pairs if one.trained_in == "fp16").delta > next(one for one in alone if one.trained_in == "fp16").delta
    paths = write_document(Findings(PLAN, found, alone, pairs, "cpu"), folder)
    assert all(path.stat().st_size > 0 for path in paths)
    text = (folder / "report.md").read_text()
    assert "**The networks, data and epochs are reduced**" in text
    for section in text.split("### ")[1:]:
        assert "reduced" in section or section.startswith("Batch normalisation")


def test_batch_normalisation_in_binary16_overflows_and_vanishes():
    rows = {row[0]: row for row in normalisation_table().rows}
    assert rows["1024"][2] == "inf"
    assert rows["300"][2] == "inf"
    assert float(rows["1"][2]) == pytest.approx(float(rows["1"][1]), rel=1e-2)
    assert rows["6.104e-05"][2] == "0"
    assert float(rows["1024"][3]) < 0.01 < 1 < float(rows["1024"][5])  # every output is zero


def test_wrong_use_is_told(tmp_path):
    result = CliRunner().invoke(main, ["reproduce", "mnist", "--device", "tpu", "--out", str(tmp_path)])
    assert (result.exit_code, "Unknown device 'tpu'" in result.stderr) == (2, True)
