"""Networks through PyTorch's two ONNX exporters and back: the same numbers, and the same operators, as before."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional
from torchvision.models.vision_transformer import VisionTransformer

from precisionkit.capture import capture
from precisionkit.errors import PrecisionKitError, UnusableModelError
from precisionkit.models import ZOO, LoadedModel, load_model

SHAPES = {"view", "flatten", "permute", "transpose", "unsqueeze", "squeeze", "select", "clone", "slice"}
AVERAGES = {"adaptive_avg_pool2d": "mean"}  # one exporter writes this average as a mean over two axes


def scrambled(net: nn.Module) -> nn.Module:
    """Give every layer of its own numbers that matter: statistics, and heads that start as zeros."""
    torch.manual_seed(0)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.1)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 2)  # type: ignore[arg-type]
            nn.init.uniform_(module.weight, 0.5, 2)
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, module.in_features**-0.5)
    return net.eval()


def export(net: nn.Module, path: Path, shape: tuple[int, ...], opset: int, *, dynamo: bool, free: bool = True, fold: bool = False) -> Path:
    options: dict[str, Any] = {"dynamo": dynamo, "opset_version": opset}
    if dynamo:
        options |= {"verbose": False, "external_data": False}
        options |= {"dynamic_shapes": ({0: torch.export.Dim("batch")},)} if free else {}
    else:
        options |= {"do_constant_folding": fold, "training": torch.onnx.TrainingMode.EVAL if fold else torch.onnx.TrainingMode.PRESERVE}
        options |= {"input_names": ["x"], "dynamic_axes": {"x": {0: "batch"}}} if free else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporters deprecate each other
        torch.onnx.export(net, (torch.randn(2 if free else 1, *shape),), str(path), **options)
    return path


def assert_same(model: LoadedModel, net: nn.Module, shape: tuple[int, ...]) -> None:
    assert model.input_shape == shape
    for batch in (1, 3):
        x = torch.randn(batch, *shape)
        with torch.no_grad():
            found, wanted = model.module(x), net(x)
        assert found.shape == wanted.shape == (batch, model.classes)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))


def operators(module: nn.Module, shape: tuple[int, ...]) -> list[str]:
    names = [node.operator for node in capture(module, shape).nodes]
    return [AVERAGES.get(name, name) for name in names if name not in SHAPES]


def _exported(module: nn.Module, shape: tuple[int, ...]) -> torch.export.ExportedProgram:
    return torch.export.export(module, (torch.randn(2, *shape),), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))


def aten(module: nn.Module, shape: tuple[int, ...]) -> list[str]:
    """Operators of the exported program that round, whether they are supported or not."""
    names = [
        str(n.target).split(".")[1]
        for n in _exported(module, shape).run_decompositions({}).graph.nodes
        if str(n.target).startswith("aten.")
    ]
    moves = {*SHAPES, "_unsafe_view", "alias", "expand", "sym_size", "reshape"}
    return [AVERAGES.get(name, name) for name in names if name not in moves]


@functools.cache
def own_operators(name: str) -> list[str]:
    return operators(scrambled(ZOO[name].build()), ZOO[name].input_shape)


def _print(parameter: nn.Parameter) -> tuple[tuple[int, ...], float]:
    return tuple(parameter.shape), float(parameter.detach().double().sum())


DEEP = {"cifar_resnet32", "cifar_resnet44", "cifar_resnet56", "cifar_resnet110"}
OLD = [
    (name, opset)
    for name in ZOO
    if not name.startswith("paper_")
    for opset in (9, 11, 13, 17)
    # the exporter itself refuses a slice with steps in version 9
    if not (name.startswith("cifar_resnet") and (opset == 9 or (name in DEEP and opset != 13)))
]
NEW = [(name, 18) for name in ("mnist_cnn_small", "lenet5", "cifar_conv_small_sigmoid", "cifar_resnet20")]
NEW += [("digits_cnn", 20), ("mnist_fc_3layer", 21)]


@pytest.mark.parametrize(("name", "opset"), OLD)
def test_the_zoo_through_the_older_exporter(tmp_path: Path, name: str, opset: int) -> None:
    net, shape = scrambled(ZOO[name].build()), ZOO[name].input_shape
    model = load_model(export(net, tmp_path / "net.onnx", shape, opset, dynamo=False))
    assert_same(model, net, shape)
    if name not in DEEP:
        assert operators(model.module, shape) == own_operators(name)
    # the exporter keeps one of several that are equal
    assert {_print(p) for p in model.module.parameters()} == {_print(p) for p in net.parameters()}


@pytest.mark.parametrize(("name", "opset"), NEW)
def test_the_zoo_through_the_newer_exporter(tmp_path: Path, name: str, opset: int) -> None:
    net, shape = scrambled(ZOO[name].build()), ZOO[name].input_shape
    model = load_model(export(net, tmp_path / "net.onnx", shape, opset, dynamo=True))
    assert_same(model, net, shape)
    # this exporter folds batch normalisation into convolutions
    assert operators(model.module, shape) == [n for n in own_operators(name) if n != "batch_norm"]


VIT = {"image_size": 32, "patch_size": 8, "num_layers": 2, "num_heads": 4, "hidden_dim": 64, "mlp_dim": 128, "num_classes": 10}
LARGE: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "resnet18": (torchvision.models.resnet18, 13),
    "mobilenet_v2": (torchvision.models.mobilenet_v2, 11),
    "mobilenet_v3_small": (torchvision.models.mobilenet_v3_small, 9),
    "densenet121": (torchvision.models.densenet121, 17),
    "efficientnet_b0": (torchvision.models.efficientnet_b0, 17),
    "convnext_tiny": (torchvision.models.convnext_tiny, 11),
    "googlenet": (lambda: torchvision.models.googlenet(aux_logits=False, init_weights=False), 13),
    "vit": (lambda: VisionTransformer(**VIT), 17),
    "swin_t": (torchvision.models.swin_t, 17),
}


COMPARED = {"resnet18", "vit"}


@pytest.mark.parametrize("name", LARGE)
def test_large_networks_through_the_older_exporter(tmp_path: Path, name: str) -> None:
    build, opset = LARGE[name]
    net, shape = scrambled(build()), (3, 32, 32) if name == "vit" else (3, 64, 64)
    model = load_model(export(net, tmp_path / "net.onnx", shape, opset, dynamo=False))
    assert_same(model, net, shape)
    if name in COMPARED:
        assert aten(model.module, shape) == aten(net, shape)
    else:
        _exported(model.module, shape)


@pytest.mark.parametrize("free", [True, False])
def test_a_transformer_through_the_newer_exporter(tmp_path: Path, free: bool) -> None:
    net, shape = scrambled(VisionTransformer(**VIT)), (3, 32, 32)
    model = load_model(export(net, tmp_path / "net.onnx", shape, 18, dynamo=True, free=free))
    assert_same(model, net, shape)
    assert aten(model.module, shape) == aten(net, shape)


def test_an_average_of_channels_last_through_the_newer_exporter(tmp_path: Path) -> None:
    """It is written as places that count through the batch."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.head = nn.LayerNorm(6), nn.Linear(6, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            return self.head(functional.adaptive_avg_pool2d(h, 1).permute(0, 2, 3, 1).flatten(1))

    for free in (True, False):
        net = scrambled(Net())
        model = load_model(export(net, tmp_path / "net.onnx", (6, 5, 5), 18, dynamo=True, free=free))
        assert_same(model, net, (6, 5, 5))


class Pieces(nn.Module):
    """A convolution, something, and a linear layer."""

    def __init__(self, middle: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 4, 3), nn.Linear(64, 5)
        self.middle = middle

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.middle(self.conv(x)).flatten(1))


class Layer(nn.Module):
    def __init__(self, *shape: int, affine: bool = True) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(shape, elementwise_affine=affine)
        if affine:
            nn.init.normal_(self.norm.weight)
            nn.init.normal_(self.norm.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x)


class Group(nn.Module):
    def __init__(self, affine: bool = True) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(2, 4, affine=affine)
        if affine:
            nn.init.normal_(self.norm.weight)
            nn.init.normal_(self.norm.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x)


def _attend(x: torch.Tensor) -> torch.Tensor:
    return functional.scaled_dot_product_attention(x, x * 0.5, x * 2)


def _attend_masked(x: torch.Tensor) -> torch.Tensor:
    return functional.scaled_dot_product_attention(x, x * 0.5, x * 2, attn_mask=torch.linspace(-1, 1, 16).reshape(4, 4))


MERGED: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], str, int]] = {
    "gelu": (functional.gelu, "gelu", 11),
    "gelu by tanh": (lambda x: functional.gelu(x, approximate="tanh"), "gelu", 11),
    "gelu by powers": (lambda x: 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3))), "gelu", 13),
    "silu": (functional.silu, "silu", 9),
    "mish": (functional.mish, "mish", 11),
    "hard swish": (functional.hardswish, "hardswish", 9),
    "hard swish, written out": (lambda x: x * functional.relu6(x + 3) / 6, "hardswish", 13),
    "relu6": (functional.relu6, "hardtanh", 11),
    "layer norm": (Layer(4), "layer_norm", 11),
    "layer norm, plain": (Layer(4, affine=False), "layer_norm", 13),
    "layer norm of images": (Layer(4, 4, 4), "layer_norm", 11),
    "group norm": (Group(), "group_norm", 11),
    "group norm, plain": (Group(affine=False), "group_norm", 13),
    "attention": (_attend, "scaled_dot_product_attention", 14),
    "attention with a mask": (_attend_masked, "scaled_dot_product_attention", 14),
}


@pytest.mark.parametrize("case", MERGED)
def test_operators_that_the_exporter_takes_apart_are_merged(tmp_path: Path, case: str) -> None:
    middle, name, opset = MERGED[case]
    net = scrambled(Pieces(middle))
    model = load_model(export(net, tmp_path / "net.onnx", (1, 6, 6), opset, dynamo=False))
    assert_same(model, net, (1, 6, 6))
    found = [n for n in aten(model.module, (1, 6, 6)) if n != "mul" or "attention" not in case]
    assert found == ["conv2d", name, "linear"]


KEPT: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], list[str]]] = {
    "another sigmoid product": (lambda x: x * torch.sigmoid(1.702 * x), ["mul", "sigmoid", "mul"]),
    "a product of two tensors": (lambda x: x * torch.sigmoid(x.flip(2)), ["sigmoid", "mul"]),
    "an inner result used elsewhere": (lambda x: (lambda s: x * s + s * 3)(torch.sigmoid(x)), ["sigmoid", "mul", "mul", "add"]),
    "a plain clamp": (lambda x: torch.clamp(x * 2, -1, 3) * 2, ["mul", "hardtanh", "mul"]),
    "attention written out": (lambda x: torch.softmax(x @ x.transpose(2, 3) * 0.5, -1) @ x, ["matmul", "mul", "softmax", "matmul"]),
}


@pytest.mark.parametrize("case", KEPT)
def test_what_only_looks_like_them_is_not_merged(tmp_path: Path, case: str) -> None:
    middle, names = KEPT[case]
    net = scrambled(Pieces(middle))
    model = load_model(export(net, tmp_path / "net.onnx", (1, 6, 6), 13, dynamo=False))
    assert_same(model, net, (1, 6, 6))
    assert [n for n in aten(model.module, (1, 6, 6)) if n != "flip"] == ["conv2d", *names, "linear"]


class Token(nn.Module):
    """A class token before patches, heads taken apart and put together again, windows merged with the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.token, self.head = nn.Linear(4, 8), nn.Parameter(torch.randn(1, 1, 8)), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n = x.shape[0]
        h = torch.cat([self.token.expand(n, -1, -1), self.embed(x)], 1)
        h = h.reshape(n, 4, 2, 4).permute(0, 2, 1, 3).reshape(n * 2, 4, 4).softmax(-1)
        h = h.reshape(n, 2, 4, 4).permute(0, 2, 1, 3).reshape(n, 4, 8)
        return self.head(h.mean(1))


FIXED = [(Token, (3, 4), dynamo) for dynamo in (False, True)]
FIXED += [(lambda: ZOO["lenet5"].build(), (1, 32, 32), False), (lambda: ZOO["digits_cnn"].build(), (1, 8, 8), True)]


@pytest.mark.parametrize(("build", "shape", "dynamo"), FIXED)
def test_a_batch_of_one_is_freed(tmp_path: Path, build: Callable[[], nn.Module], shape: tuple[int, ...], dynamo: bool) -> None:
    net = scrambled(build())
    path = export(net, tmp_path / "net.onnx", shape, 18 if dynamo else 13, dynamo=dynamo, free=False, fold=True)
    assert_same(load_model(path), net, shape)


MIXED: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "softmax over the batch": lambda x: torch.softmax(x, 0) + x,
    "the batch taken for channels": lambda x: x.reshape(2, -1).softmax(0).reshape(1, -1),
    "the first image alone": lambda x: x[0].reshape(1, -1),
    "the mean of the batch": lambda x: x - x.mean(0, keepdim=True) + 1,
}


@pytest.mark.parametrize("case", MIXED)
def test_a_batch_that_is_mixed_is_not_freed(tmp_path: Path, case: str) -> None:
    class Net(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return MIXED[case](x)

    path = export(Net().eval(), tmp_path / "net.onnx", (4,), 13, dynamo=False, free=False)
    with pytest.raises(PrecisionKitError, match=r"the batch|a batch"):
        load_model(path)


def test_a_freed_batch_is_checked_by_numbers(tmp_path: Path) -> None:
    class Net(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.softmax(x, 0) + x

    path = export(Net().eval(), tmp_path / "net.onnx", (4,), 13, dynamo=False, free=False)
    with pytest.raises(UnusableModelError, match="was made for a batch of 1 and gives other results when the batch is free"):
        load_model(path)


def test_external_data_of_the_newer_exporter(tmp_path: Path) -> None:
    net = scrambled(ZOO["digits_cnn"].build())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(net, (torch.randn(2, 1, 8, 8),), dynamo=True, verbose=False, opset_version=18)
        assert program is not None
        program.save(str(tmp_path / "net.onnx"), external_data=True)
    assert (tmp_path / "net.onnx.data").stat().st_size > 20_000
    assert_same(load_model(tmp_path / "net.onnx"), net, (1, 8, 8))
