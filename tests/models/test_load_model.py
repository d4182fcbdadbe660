from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from precisionkit.errors import UnusableModelError, UsageError
from precisionkit.models import ZOO, Preprocess, bundled_model, load_model, save_model

ARCH = "mnist_fc_3layer"
State = dict[str, torch.Tensor]


@pytest.fixture
def state() -> State:
    torch.manual_seed(0)
    return dict(ZOO[ARCH].build().state_dict())


@pytest.fixture
def resnet() -> State:
    torch.manual_seed(0)
    return dict(ZOO["cifar_resnet20"].build().state_dict())


def _saved(tmp_path: Path, content: object, name: str = "net.pt", **options: Any) -> Path:
    path = tmp_path / name
    torch.save(content, path, **options)
    return path


def _same(module: nn.Module, state: State) -> bool:
    return all(torch.equal(value, state[key]) for key, value in module.state_dict().items())


WRAPPERS = {
    "bare": lambda s: s,
    "ordered": OrderedDict,
    "state_dict": lambda s: {"epoch": 3, "state_dict": s, "optimizer": {"state": {}}},
    "model_state_dict": lambda s: {"model_state_dict": s, "loss": 0.5},
    "model": lambda s: {"model": s},
    "net": lambda s: {"net": s, "acc": 90.0},
    "list of one": lambda s: {"acc": torch.tensor(1), "state_dict": [s]},
    "list": lambda s: [s],
    "module.": lambda s: {f"module.{k}": v for k, v in s.items()},
    "_orig_mod.": lambda s: {f"_orig_mod.{k}": v for k, v in s.items()},
    "both": lambda s: {"model": {f"module._orig_mod.{k}": v for k, v in s.items()}},
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
@pytest.mark.parametrize("zipped", [True, False])
def test_state_dicts_load_in_any_usual_wrapper(tmp_path: Path, state: State, wrap: Any, zipped: bool) -> None:
    path = _saved(tmp_path, wrap(state), _use_new_zipfile_serialization=zipped)
    model = load_model(path, arch=ARCH)
    assert _same(model.module, state)
    assert not model.module.training
    assert not any(p.requires_grad for p in model.module.parameters())
    assert model.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (model.path, model.arch, model.parameters) == (str(path), ARCH, 109386)
    assert (model.input_shape, model.classes, model.preprocess) == ((1, 28, 28), 10, ZOO[ARCH].preprocess)


def test_safetensors(tmp_path: Path, state: State) -> None:
    path = tmp_path / "net.safetensors"
    safetensors.torch.save_file(state, path)
    assert _same(load_model(path, arch=ARCH).module, state)


@pytest.mark.parametrize("with_counters", [True, False])
def test_batch_counters_do_not_matter(tmp_path: Path, resnet: State, with_counters: bool) -> None:
    chosen = {k: v for k, v in resnet.items() if with_counters or not k.endswith("num_batches_tracked")}
    assert len(chosen) == (116 if with_counters else 97)
    assert load_model(_saved(tmp_path, chosen), arch="cifar_resnet20").parameters == 269722


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_cast_to_binary32(tmp_path: Path, state: State, dtype: torch.dtype) -> None:
    cast = {k: v.to(dtype) for k, v in state.items()}
    module = load_model(_saved(tmp_path, cast), arch=ARCH).module
    assert _same(module, {k: v.float() for k, v in cast.items()})
    assert {p.dtype for p in module.parameters()} == {torch.float32}


def test_a_caller_may_replace_the_preprocessing(tmp_path: Path, state: State) -> None:
    mine = Preprocess(mean=(0.5,), std=(0.5,))
    assert load_model(_saved(tmp_path, state), arch=ARCH, preprocess=mine).preprocess == mine


class TestOwnFormat:
    def test_round_trip(self, tmp_path: Path) -> None:
        module = ZOO["cifar_resnet20"].build()
        mine = Preprocess(mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 3.0), scale=16.0, resize=32)
        path = tmp_path / "new" / "own.pt"
        save_model(path, module, arch="cifar_resnet20", preprocess=mine)
        assert torch.load(path, weights_only=True)["format"] == "precisionkit.model/1"
        model = load_model(path)
        assert _same(model.module, dict(module.state_dict()))
        assert (model.arch, model.preprocess) == ("cifar_resnet20", mine)
        assert list(path.parent.iterdir()) == [path]

    def test_same_content_same_bytes(self, tmp_path: Path) -> None:
        module = ZOO[ARCH].build()
        for name in ("a.pt", "b.pt"):
            save_model(tmp_path / name, module, arch=ARCH, preprocess=ZOO[ARCH].preprocess)
        assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()

    def test_an_unwritable_place(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(UnusableModelError, match=r"The model cannot be written to .*file/net\.pt \(.*\): choose another place"):
            save_model(tmp_path / "file" / "net.pt", ZOO[ARCH].build(), arch=ARCH, preprocess=ZOO[ARCH].preprocess)

    def test_a_failed_write_leaves_nothing(self, tmp_path: Path) -> None:
        (tmp_path / "net.pt").mkdir()
        with pytest.raises(UnusableModelError, match="cannot be written"):
            save_model(tmp_path / "net.pt", ZOO[ARCH].build(), arch=ARCH, preprocess=ZOO[ARCH].preprocess)
        assert [p.name for p in tmp_path.iterdir()] == ["net.pt"]

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"format": "precisionkit.model/2"}, r"has the format precisionkit\.model/2, but this version reads precisionkit\.model/1"),
            ({"arch": 5}, "names no architecture"),
            ({"preprocess": {}}, "describes no usable preprocessing. The preprocessing must have exactly"),
            ({"state_dict": {}}, "holds no weights"),
        ],
    )
    def test_damage(self, tmp_path: Path, change: dict[str, object], message: str) -> None:
        content = torch.load(bundled_model("digits_cnn"), weights_only=True)
        with pytest.raises(UnusableModelError, match=message):
            load_model(_saved(tmp_path, content | change))

    def test_a_factory_named_by_the_file_is_not_imported(self, tmp_path: Path) -> None:
        content = torch.load(bundled_model("digits_cnn"), weights_only=True) | {"arch": "antigravity:fly"}
        with pytest.raises(UsageError, match=r"asks to import the code 'antigravity:fly', .*: add --arch antigravity:fly"):
            load_model(_saved(tmp_path, content))


class TestMisfits:
    def test_no_architecture_fits(self, tmp_path: Path) -> None:
        path = _saved(tmp_path, {"a.weight": torch.zeros(2, 2)})
        with pytest.raises(UsageError, match=r"fit no built-in one \(mnist_fc_3layer, .*give --arch package.module:factory\."):
            load_model(path)

    @pytest.mark.parametrize("arch", ["nope", "nope:", ":nope", ""])
    def test_unknown_architecture(self, tmp_path: Path, state: State, arch: str) -> None:
        with pytest.raises(UsageError, match=r"Unknown architecture '.*': give one of mnist_fc_3layer, .* or package.module:factory"):
            load_model(_saved(tmp_path, state), arch=arch)

    def test_names_and_shapes(self, tmp_path: Path, state: State) -> None:
        del state["fc1.bias"]
        state["fc9.bias"] = torch.zeros(1)
        state["fc3.weight"] = torch.zeros(10, 65)
        with pytest.raises(UnusableModelError) as caught:
            load_model(_saved(tmp_path, state), arch=ARCH)
        text = str(caught.value)
        assert "\n" not in text
        for part in (
            "1 tensor missing (fc1.bias)",
            "1 tensor unexpected (fc9.bias)",
            "1 tensor of another shape (fc3.weight is (10, 65), not (10, 64))",
        ):
            assert part in text
        assert text.endswith("give the --arch that it was trained with.")

    def test_the_right_architecture_is_named(self, tmp_path: Path, state: State) -> None:
        with pytest.raises(UnusableModelError, match=r"does not fit the architecture lenet5: .*, \.\.\.\).*fit --arch mnist_fc_3layer\."):
            load_model(_saved(tmp_path, state), arch="lenet5")

    def test_control_characters_in_names_are_not_printed(self, tmp_path: Path, state: State) -> None:
        state["\x1b[31mred\n"] = torch.zeros(1)
        with pytest.raises(UnusableModelError) as caught:
            load_model(_saved(tmp_path, state), arch=ARCH)
        assert "\x1b" not in str(caught.value)
        assert r"\x1b[31mred\n" in str(caught.value)


class TestValues:
    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_weights_must_be_finite(self, tmp_path: Path, state: State, value: float) -> None:
        state["fc2.bias"][3] = value
        with pytest.raises(UnusableModelError, match=r"holds NaN or infinity in the tensor fc2\.bias"):
            load_model(_saved(tmp_path, state), arch=ARCH)

    def test_buffers_must_be_finite(self, tmp_path: Path, resnet: State) -> None:
        resnet["bn1.running_mean"][0] = float("nan")
        with pytest.raises(UnusableModelError, match=r"NaN or infinity in the tensor bn1\.running_mean"):
            load_model(_saved(tmp_path, resnet), arch="cifar_resnet20")

    def test_variances_must_not_be_negative(self, tmp_path: Path, resnet: State) -> None:
        resnet["layer1.0.bn2.running_var"][0] = -0.25
        with pytest.raises(UnusableModelError, match=r"negative variance -0\.25 in the tensor layer1\.0\.bn2\.running_var"):
            load_model(_saved(tmp_path, resnet), arch="cifar_resnet20")

    def test_float64_beyond_float32(self, tmp_path: Path, state: State) -> None:
        state["fc1.bias"] = torch.full((128,), 1e300, dtype=torch.float64)
        with pytest.raises(UnusableModelError, match=r"fc1\.bias that is beyond the range of torch\.float32"):
            load_model(_saved(tmp_path, state), arch=ARCH)

    @pytest.mark.parametrize(
        "tensor", [torch.zeros(128, dtype=torch.int8), torch.zeros(128).to_sparse(), torch.zeros(128, dtype=torch.complex64)]
    )
    def test_only_dense_floats(self, tmp_path: Path, state: State, tensor: torch.Tensor) -> None:
        state["fc1.bias"] = tensor
        with pytest.raises(UnusableModelError, match=r"holds the tensor fc1\.bias as torch\..*only dense floating weights are read"):
            load_model(_saved(tmp_path, state), arch=ARCH)


FACTORIES = """
from torch import nn
class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(3, 2).half())
def needs(argument): return argument
def text(): return "net"
number = 5
"""


class TestFactories:
    @pytest.fixture(autouse=True)
    def here(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "nets_for_test.py").write_text(FACTORIES)
        (tmp_path / "broken_for_test.py").write_text("raise ValueError('bad\\nworse')")
        (tmp_path / "lacking_for_test.py").write_text("import no_such_module_at_all")
        monkeypatch.chdir(tmp_path)
        self.path = _saved(tmp_path, {"0.weight": torch.ones(2, 3), "0.bias": torch.zeros(2)})

    def test_a_factory_in_the_current_directory(self) -> None:
        model = load_model(self.path, arch="nets_for_test:Net")
        assert model.module(torch.ones(1, 3)).tolist() == [[3.0, 3.0]]
        assert (model.arch, model.input_shape, model.classes, model.parameters) == ("nets_for_test:Net", None, None, 8)
        assert model.preprocess == Preprocess(mean=None, std=None)

    @pytest.mark.parametrize(
        ("arch", "message"),
        [
            ("no_such_module_at_all:f", "cannot be imported, because there is no module no_such_module_at_all"),
            ("lacking_for_test:f", "cannot be imported, because there is no module no_such_module_at_all"),
            ("broken_for_test:f", r"Importing broken_for_test .* failed with ValueError \(bad\)"),
            ("nets_for_test:nope", "The module nets_for_test has no nope"),
            ("nets_for_test:number", "is a int and cannot be called"),
            ("nets_for_test:needs", "without arguments failed with TypeError"),
            ("nets_for_test:text", "returned str, but it must return a torch.nn.Module"),
        ],
    )
    def test_errors(self, arch: str, message: str) -> None:
        with pytest.raises(UsageError, match=message):
            load_model(self.path, arch=arch)


def test_checkpoints_with_weights_under_any_one_key(tmp_path: Path) -> None:
    state = load_model(bundled_model("digits_cnn")).module.state_dict()
    assert load_model(_saved(tmp_path, {"epoch": 3, "weights": state, "optimizer": {"lr": 0.1}}), arch="digits_cnn").classes == 10
    with pytest.raises(UnusableModelError, match=r"holds the weights of 2 networks, under teacher, student: save those of one"):
        load_model(_saved(tmp_path, {"teacher": state, "student": state}), arch="digits_cnn")


class TestDamagedFiles:
    @pytest.mark.parametrize(
        ("content", "name", "message"),
        [
            (b"", "x.pt", "is empty"),
            (b"hello world\n", "x.pt", "is a text file; give a PyTorch state dict"),
            ("äöü".encode(), "x.pt", "is a text file"),
            (b"version https://git-lfs.github.com/spec/v1\noid", "x.pt", "is only a Git LFS pointer"),
            (b"\x89HDF\r\n\x1a\n", "x.h5", "is an HDF5 file"),
            (bytes(range(200, 256)) * 9, "x.pt", "is of no known kind"),
            (b"\x00" * 600, "x.pt", "is of no known kind"),
            (b"PK\x03\x04 and nothing more", "x.pt", "is damaged or cut off: its zip archive"),
            (b"\xff" * 20, "x.safetensors", "is not a valid safetensors file"),
            (b"\x10" + b"\0" * 7 + b"{" + b"x" * 20, "x.safetensors", "damaged or cut off safetensors file"),
        ],
    )
    def test_no_model(self, tmp_path: Path, content: bytes, name: str, message: str) -> None:
        (tmp_path / name).write_bytes(content)
        self._refused(tmp_path / name, message)

    def test_missing_directory_and_unreadable(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._refused(tmp_path / "no.pt", r"no\.pt does not exist")
        self._refused(tmp_path, "is a directory")

        def denied(_: Path) -> bytes:
            raise PermissionError(13, os.strerror(13))

        monkeypatch.setattr(Path, "read_bytes", denied)
        self._refused(tmp_path / "x.pt", r"cannot be read \(Permission denied\)")

    @pytest.mark.parametrize("zipped", [True, False])
    @pytest.mark.parametrize("part", [0.1, 0.5, 0.999])
    def test_cut_off(self, tmp_path: Path, state: State, zipped: bool, part: float) -> None:
        path = _saved(tmp_path, state, _use_new_zipfile_serialization=zipped)
        data = path.read_bytes()
        path.write_bytes(data[: int(part * len(data))])
        self._refused(path, "is damaged or cut off")

    def test_cut_off_safetensors(self, tmp_path: Path, state: State) -> None:
        path = tmp_path / "net.safetensors"
        safetensors.torch.save_file(state, path)
        path.write_bytes(path.read_bytes()[:-100])
        self._refused(path, "damaged or cut off safetensors")

    def test_tar(self, tmp_path: Path) -> None:
        import tarfile

        path = tmp_path / "old.pt"
        with tarfile.open(path, "w") as archive:
            archive.add(__file__, "storages")
        self._refused(path, "is a tar archive, the format of PyTorch before 0.4")

    def test_a_zip_whose_pickle_is_huge(self, tmp_path: Path, state: State, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("precisionkit.models.files._LARGEST_PICKLE", 100)
        self._refused(_saved(tmp_path, state), "holds a pickle of more than 100 bytes and is not opened")

    def test_a_bare_pickle(self, tmp_path: Path) -> None:
        import pickle

        (tmp_path / "x.pt").write_bytes(pickle.dumps({"a": 1}))
        self._refused(tmp_path / "x.pt", "is a bare pickle, not written by torch.save, and is not opened because a pickle can run code")

    def test_other_zip(self, tmp_path: Path) -> None:
        import numpy as np

        np.savez(tmp_path / "x.npz", a=np.zeros(3))
        self._refused(tmp_path / "x.npz", "is a zip archive without a PyTorch model")

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (5, "holds no weights, but an object of type int"),
            ([1, 2], "holds no weights, but an object of type list"),
            ({}, r"a dictionary with the keys \(none\)"),
            ({"epoch": 3, "lr": 0.1}, "a dictionary with the keys epoch, lr"),
            ({"w": torch.zeros(1), "epoch": 3}, "holds 'epoch', of type int, beside its tensors"),
            ({0: torch.zeros(1)}, "holds '0', of type Tensor, beside"),
            (torch.zeros(3), "an object of type Tensor"),
        ],
    )
    def test_no_state_dict(self, tmp_path: Path, content: object, message: str) -> None:
        self._refused(_saved(tmp_path, content), message)

    def _refused(self, path: Path, message: str) -> None:
        with pytest.raises(UnusableModelError, match=message) as caught:
            load_model(path, arch=ARCH)
        assert "\n" not in str(caught.value)
        assert "weights_only" not in str(caught.value)
