"""Files that carry code: refused without trust and never executed; usable with trust."""

from __future__ import annotations

import argparse
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from precisionkit.errors import UnusableModelError
from precisionkit.models import load_model


class Bomb:
    """Writes a marker file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.marker, "boom")


def _net() -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(72, 10))
    return net.eval()


def _script(net: nn.Module, path: Path, *, trace: bool) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates TorchScript
        script: Any = torch.jit.trace(net, torch.zeros(2, 1, 8, 8)) if trace else torch.jit.script(net)
        script.save(str(path))
    return path


def _pickled(content: object, path: Path, *, zipped: bool = True) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


def _agrees(module: nn.Module) -> bool:
    batch = torch.randn(5, 1, 8, 8)
    program = torch.export.export(module, (batch,), dynamic_shapes=({0: torch.export.Dim("batch")},)).module()
    return torch.allclose(module(batch), _net()(batch), atol=1e-6) and torch.allclose(program(batch[:3]), _net()(batch[:3]), atol=1e-6)


def _bare_bomb(bomb: Bomb, path: Path) -> None:
    path.write_bytes(pickle.dumps({"state_dict": bomb}))


def _old_bare_bomb(bomb: Bomb, path: Path) -> None:
    path.write_bytes(pickle.dumps({"state_dict": bomb}, protocol=0))


def _zip_bomb(bomb: Bomb, path: Path) -> None:
    _pickled({"state_dict": bomb}, path)


def _zip_bomb_protocol_4(bomb: Bomb, path: Path) -> None:
    torch.save({"state_dict": bomb}, path, pickle_protocol=4)


def _legacy_bomb(bomb: Bomb, path: Path) -> None:
    _pickled({"state_dict": bomb}, path, zipped=False)


BOMBS = [_bare_bomb, _old_bare_bomb, _zip_bomb, _zip_bomb_protocol_4, _legacy_bomb]


@pytest.mark.parametrize("build", BOMBS)
@pytest.mark.parametrize("arch", [None, "lenet5"])
@pytest.mark.parametrize("suffix", ["pt", "pt2", "safetensors"])
def test_a_bomb_never_goes_off_without_trust(tmp_path: Path, build: Callable[[Bomb, Path], None], arch: str | None, suffix: str) -> None:
    marker = tmp_path / "marker"
    path = tmp_path / f"bomb.{suffix}"
    build(Bomb(marker), path)
    with pytest.raises(UnusableModelError):
        load_model(path, arch=arch)
    assert not marker.exists()


@pytest.mark.parametrize("build", [_zip_bomb, _zip_bomb_protocol_4, _legacy_bomb])
def test_the_bombs_are_real(tmp_path: Path, build: Callable[[Bomb, Path], None]) -> None:
    marker = tmp_path / "marker"
    path = tmp_path / "bomb.pt"
    build(Bomb(marker), path)
    with pytest.raises(UnusableModelError, match="holds no weights"):
        load_model(path, trust=True)
    assert marker.exists()


@pytest.mark.parametrize("build", [_zip_bomb, _zip_bomb_protocol_4, _legacy_bomb])
def test_the_refusal_names_what_the_pickle_calls(tmp_path: Path, build: Callable[[Bomb, Path], None]) -> None:
    path = tmp_path / "bomb.pt"
    build(Bomb(tmp_path / "marker"), path)
    with pytest.raises(UnusableModelError, match=r"it names .*pathlib"):
        load_model(path)


REFUSED = {
    "pickled": (lambda p: _pickled(_net(), p), r"holds pickled Python objects .*torch\.nn\.modules", "torch.load("),
    "legacy": (lambda p: _pickled(_net(), p, zipped=False), "holds pickled Python objects", "torch.load("),
    "namespace": (lambda p: _pickled({"args": argparse.Namespace(lr=1)}, p), r"it names argparse\.Namespace\)", "torch.load("),
    "script": (lambda p: _script(_net(), p, trace=False), "is a TorchScript archive", "torch.jit.load("),
}


@pytest.mark.parametrize(("write", "message", "opener"), REFUSED.values(), ids=REFUSED)
def test_refusals_show_the_way_out(tmp_path: Path, write: Callable[[Path], Path], message: str, opener: str) -> None:
    path = write(tmp_path / "net.pt")
    with pytest.raises(UnusableModelError, match=message) as caught:
        load_model(path)
    first, *code, last = str(caught.value).splitlines()
    assert first.endswith("save its weights and name the architecture:")
    assert [line[:4] for line in code] == ["    "] * 3
    assert opener in code[0]
    assert str(path) in code[0]
    assert "state_dict" in code[1]
    assert "--arch" in code[2]
    assert last == "--trust loads it, which runs code from the file."


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("wrap", [lambda net: net, lambda net: {"net": net, "epoch": 3}, lambda net: net.half()])
def test_trusted_pickled_modules(tmp_path: Path, zipped: bool, wrap: Callable[[nn.Module], object]) -> None:
    model = load_model(_pickled(wrap(_net().train()), tmp_path / "net.pt", zipped=zipped), trust=True)
    assert not model.module.training
    assert {p.dtype for p in model.module.parameters()} == {torch.float32}
    assert (model.arch, model.input_shape, model.classes, model.parameters) == ("Sequential", None, None, 754)


def test_a_trusted_module_can_fill_a_named_architecture(tmp_path: Path) -> None:
    from precisionkit.models import ZOO

    net = ZOO["mnist_6_100"].build()
    files = [_pickled(net, tmp_path / "a.pt"), tmp_path / "b.pt"]
    batch = torch.zeros(2, 1, 28, 28)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates TorchScript
        torch.jit.script(net).save(str(files[1]))
    for path in files:
        model = load_model(path, arch="mnist_6_100", trust=True)
        assert model.arch == "mnist_6_100"
        assert torch.equal(model.module(batch), net(batch))


@pytest.mark.parametrize("trace", [True, False])
def test_trusted_torchscript(tmp_path: Path, trace: bool) -> None:
    path = _script(_net(), tmp_path / "net.pt", trace=trace)
    model = load_model(path, trust=True, input_shape=(1, 8, 8))
    assert (model.arch, model.input_shape, model.parameters) == ("TorchScript", (1, 8, 8), 754)
    assert _agrees(model.module)
    with pytest.raises(UnusableModelError, match="does not tell the shape of its input: load its weights with --arch"):
        load_model(path, trust=True)


def test_torchscript_that_cannot_be_converted(tmp_path: Path) -> None:
    path = _script(_net(), tmp_path / "net.pt", trace=False)
    with pytest.raises(
        UnusableModelError, match=r"cannot be converted for inputs of shape \(1, 9, 9\) \(\w+\): load its weights with --arch"
    ):
        load_model(path, trust=True, input_shape=(1, 9, 9))


def test_torchscript_whose_conversion_differs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("precisionkit.models.foreign._agree", lambda *_: False)
    path = _script(_net(), tmp_path / "net.pt", trace=False)
    with pytest.raises(UnusableModelError, match="whose conversion computes other values: load its weights with --arch"):
        load_model(path, trust=True, input_shape=(1, 8, 8))


def test_trust_does_not_help_a_damaged_file(tmp_path: Path) -> None:
    path = _script(_net(), tmp_path / "net.pt", trace=False)
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(tmp_path / "bad.pt", "w") as target:
        for name in source.namelist():
            target.writestr(name, b"" if name.endswith("data.pkl") else source.read(name))
    with pytest.raises(UnusableModelError, match=r"cannot be opened, even trusted \(\w+\)"):
        load_model(tmp_path / "bad.pt", trust=True)


def test_a_trusted_pickle_whose_class_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "vanishing_for_test.py").write_text("from torch import nn\nclass Net(nn.Linear): pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import vanishing_for_test  # type: ignore[import-not-found]

    path = _pickled(vanishing_for_test.Net(2, 2), tmp_path / "net.pt")
    del vanishing_for_test.Net
    with pytest.raises(UnusableModelError, match=r"the Python code of its classes is not found \(.*Net.*\)"):
        load_model(path, trust=True)


def test_a_trusted_module_with_nan(tmp_path: Path) -> None:
    net = _net()
    net[4].bias.data[0] = float("nan")
    with pytest.raises(UnusableModelError, match=r"holds NaN or infinity in the tensor 4\.bias"):
        load_model(_pickled(net, tmp_path / "net.pt"), trust=True)
