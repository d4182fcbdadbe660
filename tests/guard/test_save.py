"""Plans and guarded models as files: they come back the same, or are refused."""

import json

import pytest
import safetensors.torch
import torch

from precisionkit.errors import PrecisionKitError, UnusableModelError, UsageError
from precisionkit.guard import GuardedHalf, load_guarded, read_plan, save_guarded
from precisionkit.models import bundled_model, load_model
from tests.guard.nets import inputs, net, plan_for


@pytest.fixture
def guarded():
    model = net()
    return GuardedHalf(model, plan_for(model))


def test_a_plan_comes_back_with_its_network(guarded, tmp_path):
    assert save_guarded(guarded, tmp_path / "guard.json") == (tmp_path / "guard.json",)
    assert read_plan(tmp_path / "guard.json") == guarded.plan
    for model in (net(), net):
        loaded = load_guarded(tmp_path / "guard.json", model)
        assert torch.equal(loaded(inputs()), guarded(inputs()))


def test_a_folder_holds_the_weights(guarded, tmp_path):
    plan, weights = save_guarded(guarded, tmp_path / "folder")
    assert sorted(tmp_path.joinpath("folder").iterdir()) == [plan, weights]
    loaded = load_guarded(tmp_path / "folder", lambda: net(seed=5).train())
    assert torch.equal(loaded(inputs()), guarded(inputs()))
    assert set(safetensors.torch.load(weights.read_bytes())) == set(net().state_dict())
    save_guarded(guarded, tmp_path / "folder")  # again


def test_a_loaded_model_of_other_weights_is_refused(guarded, tmp_path):
    save_guarded(guarded, tmp_path / "guard.json")
    loaded = load_model(bundled_model("digits_cnn"))
    for model in (net(seed=5), lambda: net(seed=5), loaded):
        with pytest.raises(
            UsageError, match=r"^The plan belongs to a network with the hash [0-9a-f]{12}, but this one has [0-9a-f]{12}: a thr"
        ):
            load_guarded(tmp_path / "guard.json", model)


def changed(plan, **fields):
    text = json.loads(plan.read_text())
    text.update(fields)
    plan.write_text(json.dumps(text))


WRONG = {
    "missing": (
        lambda p: p.unlink(),
        r"^The plan '.*' cannot be read \(No such file or directory\): give what 'precisionkit guard --out' wrote\.$",
    ),
    "another's": (
        lambda p: p.write_text('{"schema": "precisionkit.plan/1"}'),
        r"^The file '.*' is no plan of a guard, but a plan of 'precisionkit tune': calibrate again with",
    ),
    "no json": (lambda p: p.write_text("{"), r"^The file '.*' is no precisionkit\.guard-plan/1 \(.*\): calibrate again with"),
    "binary": (lambda p: p.write_bytes(b"\xff\x80"), r"is no precisionkit\.guard-plan/1"),
    "other format": (lambda p: changed(p, schema="precisionkit.guard-plan/2"), r"is no precisionkit\.guard-plan/1"),
    "no threshold": (lambda p: changed(p, threshold=None), r"is no precisionkit\.guard-plan/1"),
    "negative threshold": (lambda p: changed(p, threshold=-1.0), r"is no precisionkit\.guard-plan/1"),
    "unknown field": (lambda p: changed(p, extra=1), r"is no precisionkit\.guard-plan/1"),
    "too many": (lambda p: changed(p, fallen_back=5001), r"contradicts itself, so it was changed: calibrate again"),
    "rows": (lambda p: changed(p, rows="AAAAAAAAAAA="), r"contradicts itself, so it was changed: calibrate again"),
    "no base64": (lambda p: changed(p, rows="*"), r"contradicts itself, so it was changed"),
    "no hashes": (lambda p: changed(p, rows="AAAA"), r"contradicts itself, so it was changed"),
    "risk": (lambda p: changed(p, risk=1e-9), r"contradicts itself, so it was changed"),
    "confidence": (lambda p: changed(p, confidence=0.9999999), r"contradicts itself, so it was changed"),
    "allowed": (lambda p: changed(p, allowed=4000), r"contradicts itself, so it was changed"),
    "false alarm": (lambda p: changed(p, false_alarm=1e-300), r"contradicts itself, so it was changed"),
    "expected": (lambda p: changed(p, expected=[0, 1000]), r"contradicts itself, so it was changed"),
    "window": (lambda p: changed(p, window=500), r"contradicts itself, so it was changed"),
    "endless window": (lambda p: changed(p, window=10**9), r"contradicts itself, so it was changed"),
    "fall-backs": (lambda p: changed(p, fallen_back=500), r"contradicts itself, so it was changed"),
    "no flags": (
        lambda p: changed(p, flags={}),
        r"^The plan was made with torch\.backends\.[a-z.0-9_]* = unset, but here it is .*: set it as it was",
    ),
    "interval": (lambda p: changed(p, expected=[5, 4]), r"contradicts itself"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_damaged_plan_is_refused(guarded, tmp_path, case):
    (plan,) = save_guarded(guarded, tmp_path / "guard.json")
    change, said = WRONG[case]
    change(plan)
    with pytest.raises(PrecisionKitError, match=said):
        load_guarded(plan, net)


def test_damaged_weights_are_refused(guarded, tmp_path):
    _, weights = save_guarded(guarded, tmp_path / "folder")
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-8])
    with pytest.raises(UnusableModelError, match=r"^The weights '.*' are missing or damaged"):
        load_guarded(tmp_path / "folder", net)
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(UsageError, match=r"^The plan belongs to a network with the hash"):
        load_guarded(tmp_path / "folder", net)
    weights.write_bytes(whole)
    with pytest.raises(UnusableModelError, match=r"^The weights '.*' do not fit the network that was given"):
        load_guarded(tmp_path / "folder", lambda: torch.nn.Linear(4, 3))


def test_a_file_is_no_folder(guarded, tmp_path):
    (tmp_path / "name").write_text("")
    with pytest.raises(
        UsageError, match=r"is a file, but a guarded model is a FOLDER, and a plan a file that ends in \.json: choose another"
    ):
        save_guarded(guarded, tmp_path / "name")
