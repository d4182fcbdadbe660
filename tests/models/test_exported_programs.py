"""Exported programs are read without trust, and compute what the network computed."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from precisionkit.capture import capture
from precisionkit.errors import UnusableModelError
from precisionkit.models import ZOO, load_model
from precisionkit.models.load import LoadedModel
from precisionkit.models.pt2 import operators
from tests.programs import Parts, decomposed, exported, in_both_forms, saved, small_net, spoiled, tensor


def _opened(data: bytes, tmp_path: Path, **options: Any) -> LoadedModel:
    path = tmp_path / "net.pt2"
    path.write_bytes(data)
    return load_model(path, **options)


def _refused(data: bytes, tmp_path: Path, message: str) -> None:
    with pytest.raises(UnusableModelError, match=message) as caught:
        _opened(data, tmp_path)
    assert "\n" not in str(caught.value)


def _resnet() -> nn.Module:
    models = pytest.importorskip("torchvision").models
    return models.ResNet(models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=10)


def _mobilenet() -> nn.Module:
    models = pytest.importorskip("torchvision").models
    block = models.mobilenetv3.InvertedResidualConfig
    return models.MobileNetV3([block(16, 3, 16, 16, True, "RE", 2, 1, 1), block(16, 5, 24, 16, True, "HS", 1, 1, 1)], 32, num_classes=10)


def _vit() -> nn.Module:
    return pytest.importorskip("torchvision").models.VisionTransformer(16, 8, 1, 2, 16, 32, num_classes=10)


def _swin() -> nn.Module:
    return pytest.importorskip("torchvision").models.SwinTransformer([2, 2], 8, [2], [2], [3, 3], num_classes=10)


class _Shapes(nn.Module):
    """Arithmetic on sizes, several results, a literal infinity, a buffer that is not saved, a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.eye(4, dtype=torch.bool), persistent=False)
        self.scale = torch.linspace(0.5, 1, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch = x.shape[0]
        left, right = x.reshape(batch * 2, 8 // 2, 4).chunk(2, dim=1)
        joined = torch.cat([left, right], dim=1) * self.scale
        largest, _ = joined.masked_fill(self.mask, float("-inf")).max(dim=2)
        return largest.reshape(-1, 8) + torch.arange(8, device=x.device, dtype=x.dtype)


class _Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 5), nn.Linear(5, 5)
        self.second.weight = self.first.weight

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"logits": self.second(self.first(x))}


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "small": (small_net, (1, 8, 8)),
    "mlp": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(12, 7), nn.GELU(), nn.LayerNorm(7), nn.Linear(7, 3)), (3, 4)),
    "in place first": (lambda: nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 3)), (4,)),
    "shapes": (_Shapes, (8, 4)),
    "resnet": (_resnet, (3, 32, 32)),
    "mobilenet": (_mobilenet, (3, 32, 32)),
    "vit": (_vit, (3, 16, 16)),
    "swin": (_swin, (3, 16, 16)),
}


@pytest.mark.parametrize("name", NETS)
def test_a_program_computes_what_its_network_did(tmp_path: Path, name: str) -> None:
    build, shape = NETS[name]
    torch.manual_seed(0)
    net = build().eval()
    for data in in_both_forms(net, shape):
        model = _opened(data, tmp_path)
        for batch in (1, 3):
            x = torch.randn(batch, *shape)
            given = x.clone()
            with torch.no_grad():
                outputs = model.module(given)
                assert torch.equal(given, x), "the caller's tensor is changed"
                assert torch.equal(outputs, net(x.clone()))
        assert (model.arch, model.input_shape, model.classes) == ("exported program", shape, outputs.shape[1])
        assert model.parameters == sum(parameter.numel() for parameter in net.parameters())


def test_capture_finds_the_same_graph(tmp_path: Path) -> None:
    theirs = capture(small_net(), (1, 8, 8))
    for data in in_both_forms(small_net(), (1, 8, 8)):
        module = _opened(data, tmp_path).module
        ours = capture(module, (1, 8, 8))
        assert [(n.operator, n.shape, dict(n.attributes)) for n in ours.nodes] == [
            (n.operator, n.shape, dict(n.attributes)) for n in theirs.nodes
        ]
        x = torch.randn(2, 1, 8, 8)
        assert torch.equal(module(x), small_net()(x)), "capture changed the module"


def test_the_module_is_a_usual_one(tmp_path: Path) -> None:
    module = _opened(exported(small_net(), (1, 8, 8)), tmp_path).module
    assert {name for name, _ in module.named_parameters()} == {name for name, _ in small_net().named_parameters()}
    assert module.state_dict().keys() == small_net().state_dict().keys()
    assert not module.eval().training
    assert not module.train().training
    assert not any(parameter.requires_grad for parameter in module.parameters())


def test_tied_weights_stay_one_tensor(tmp_path: Path) -> None:
    net = _Tied().eval()
    model = _opened(exported(net, (5,)), tmp_path)
    assert model.parameters == 35
    x = torch.randn(3, 5)
    assert torch.equal(model.module(x), net(x)["logits"])


def test_a_program_can_fill_an_architecture(tmp_path: Path) -> None:
    net = ZOO["mnist_6_100"].build()
    data = exported(net, (1, 28, 28), free=False)
    data = spoiled(data, lambda parts: parts.entries.update({"models/model.json": b"{}"}) or parts.graph.clear())  # it is not looked at
    model = _opened(data, tmp_path, arch="mnist_6_100")
    batch = torch.randn(2, 1, 28, 28)
    assert model.arch == "mnist_6_100"
    assert torch.equal(model.module(batch), net(batch))


def test_integers_may_be_the_input(tmp_path: Path) -> None:
    class Scaled(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.float() / 255

    model = _opened(exported(Scaled(), (4,), dtype=torch.uint8), tmp_path)
    assert torch.equal(model.module(torch.full((1, 4), 51, dtype=torch.uint8)), torch.full((1, 4), 51) / 255)


def test_inputs_of_another_shape_are_none_of_the_program(tmp_path: Path) -> None:
    """Sizes may stand in it as numbers, so that it would compute something else."""
    model = _opened(exported(small_net(), (1, 8, 8)), tmp_path)
    with pytest.raises(UnusableModelError, match=r"shape 1x9x9: the file was made for inputs of shape 1x8x8, not 1x9x9\.?$"):
        capture(model.module, (1, 9, 9))


class _Flagged(nn.Module):
    def forward(self, x: torch.Tensor, negate: bool) -> torch.Tensor:
        return -x if negate else x


def test_arguments_that_are_fixed_are_a_part_of_the_program(tmp_path: Path) -> None:
    dynamic = ({0: torch.export.Dim("batch")}, None)
    data = saved(torch.export.export(_Flagged(), (torch.zeros(2, 3), True), dynamic_shapes=dynamic))
    assert torch.equal(_opened(data, tmp_path).module(torch.ones(2, 3)), -torch.ones(2, 3))


class _Two(nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x + y


def _two_inputs() -> bytes:
    sample, batch = torch.zeros(2, 3), torch.export.Dim("batch")
    return saved(torch.export.export(_Two(), (sample, sample), dynamic_shapes=({0: batch}, {0: batch})))


class _Pair(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x + 1, x * 2


class _Mean(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(dim=0, keepdim=True)


UNFIT: dict[str, tuple[Callable[[], bytes], str]] = {
    "fixed batch": (
        lambda: exported(small_net(), (1, 8, 8), free=False),
        r"was exported for the input shape \(2, 1, 8, 8\), but the batch, and only the batch, must be free: "
        r'export it again with dynamic_shapes=\(\{0: torch\.export\.Dim\("batch"\)\},\)\.$',
    ),
    "two inputs": (_two_inputs, r"is a program of 2 inputs, but a classifier has one: the images\.$"),
    "two results": (lambda: exported(_Pair(), (3,)), r"is a program of 2 results, but a classifier has one: a tensor of logits\.$"),
    "no classes": (
        lambda: exported(nn.Conv2d(1, 2, 3), (1, 8, 8)),
        r"returns the shape \(3, 2, 6, 6\) for 3 images, but a classifier returns \(batch, classes\)",
    ),
    "mixed batch": (lambda: exported(_Mean(), (3,)), r"returns the shape \(1, 3\) for 3 images"),
    "binary64": (
        lambda: exported(nn.Linear(3, 2).double(), (3,), dtype=torch.float64),
        r"is a program in torch\.float64 \(tensor weight\).*export model\.float\(\)",
    ),
    "truth values": (lambda: exported(nn.Flatten(), (3,), dtype=torch.bool), "takes an input of type 12 in torch's schema"),
    "training": (
        lambda: exported(nn.Sequential(nn.Linear(3, 2), nn.Dropout()), (3,)),
        r"was exported in training mode \(the operator 'torch\.ops\.aten\.dropout\.default' has train = True\): call model\.eval\(\)",
    ),
    "batch statistics": (
        lambda: exported(nn.BatchNorm1d(3), (3,)),
        r"was exported in training mode \(the operator 'torch\.ops\.aten\.batch_norm\.default' has training = True\)",
    ),
    "batch statistics, decomposed": (
        lambda: decomposed(nn.BatchNorm1d(3), (3,)),
        r"changes its weights when it runs: call model\.eval\(\) before torch\.export\.export",
    ),
    "no gradient": (
        lambda: exported(_NoGrad(), (3,)),
        r"calls the operator '.*higher_order.*' \(node '.*'\), which is not one of those that are known to only compute",
    ),
}


class _NoGrad(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            y = x + 1
        return y * x


@pytest.mark.parametrize(("build", "message"), UNFIT.values(), ids=UNFIT)
def test_a_program_that_is_no_classifier_is_refused(tmp_path: Path, build: Callable[[], bytes], message: str) -> None:
    _refused(build(), tmp_path, message)


def _in_place_on_weight(parts: Parts) -> None:
    parts.nodes.insert(
        0,
        {
            "target": "torch.ops.aten.neg_.default",
            "inputs": [{"name": "self", "arg": tensor("p_0_weight"), "kind": 1}],
            "outputs": [tensor("negated")],
            "metadata": {},
        },
    )


def test_a_program_must_not_change_its_weights(tmp_path: Path) -> None:
    data = spoiled(exported(small_net(), (1, 8, 8)), _in_place_on_weight)
    _refused(
        data,
        tmp_path,
        r"is not opened, because its operator 'aten\.neg_\.default' at node 'negated' changes a weight; call model\.eval\(\)",
    )


def _overloads(names: frozenset[str]) -> list[Any]:
    packets = [getattr(torch.ops.aten, name) for name in sorted(names) if hasattr(torch.ops.aten, name)]
    found = [
        operators.find(f"torch.ops.aten.{packet._qualified_op_name.partition('::')[2]}.{name}")
        for packet in packets
        for name in packet.overloads()
    ]
    return [overload for overload in found if overload is not None]


def test_every_listed_operator_exists() -> None:
    names = operators.FUNCTIONS | operators.IN_PLACE | operators.RECURRENT | operators.SKIPPED | operators.TRAINING.keys()
    assert [name for name in sorted(names) if not hasattr(torch.ops.aten, name)] == []


def test_functions_write_nothing_and_draw_nothing() -> None:
    overloads = _overloads(operators.FUNCTIONS | operators.RECURRENT)
    assert len(overloads) > 250
    for overload in overloads:
        assert not overload._schema.is_mutable, overload
        base = overload._schema.name.removeprefix("aten::")
        assert base in operators.TRAINING or torch.Tag.nondeterministic_seeded not in overload.tags, overload
        assert not any(re.search("Generator|Storage|Stream|Dimname", str(argument.type)) for argument in overload._schema.arguments), (
            overload
        )


def test_operators_in_place_write_into_their_first_argument_alone() -> None:
    overloads = _overloads(operators.IN_PLACE)
    assert len(overloads) > 40
    for overload in overloads:
        written = [
            place
            for place, argument in enumerate(overload._schema.arguments)
            if argument.alias_info is not None and argument.alias_info.is_write
        ]
        assert written == [0], overload


@pytest.mark.parametrize(
    "target",
    [
        "torch.ops.aten.from_file.default",
        "torch.ops.aten.add.out",
        "torch.ops.aten.add.str",
        "torch.ops.aten.mul.left_t",
        "torch.ops.aten.rand.default",
        "torch.ops.aten.bernoulli_.float",
        "torch.ops.aten.set_.source_Storage",
        "torch.ops.aten.resize_.default",
        "torch.ops.aten.item.default",
        "torch.ops.aten.lstm.data",
        "torch.ops.aten.__class__.default",
        "torch.ops.aten.add.__class__",
        "torch.ops.aten._assert_async.msg",
        "torch.ops.prim.Print.default",
        "torch.ops.higher_order.cond",
        "torch.ops.mine.op.default",
        "_operator.pow",
        "_operator.call",
        "builtins.eval",
        "os.system",
        "",
    ],
)
def test_other_operators_are_not_found(target: str) -> None:
    assert operators.find(target) is None


def test_programs_of_tokens_say_so(tmp_path):
    net = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, 3)).eval()
    program = torch.export.export(net, (torch.zeros(2, 3, dtype=torch.int64),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(program, tmp_path / "tokens.pt2")
    assert load_model(tmp_path / "tokens.pt2").input_dtype == torch.int64


class _Last(nn.Module):
    def __init__(self, recurrent: nn.RNNBase) -> None:
        super().__init__()
        self.recurrent, self.linear = (
            recurrent,
            nn.Linear(recurrent.hidden_size * (1 + recurrent.bidirectional), 3),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.recurrent(x if self.recurrent.batch_first else x.transpose(0, 1))[0]
        return self.linear(y[:, -1] if self.recurrent.batch_first else y[-1])


RECURRENT: dict[str, Callable[[], nn.RNNBase]] = {
    "lstm": lambda: nn.LSTM(3, 4, batch_first=True),
    "lstm, both ways, two layers": lambda: nn.LSTM(3, 4, num_layers=2, bidirectional=True, batch_first=True, dropout=0.5),
    "lstm without bias": lambda: nn.LSTM(3, 4, bias=False, batch_first=True),
    "gru, length first": lambda: nn.GRU(3, 4),
    "rnn": lambda: nn.RNN(3, 4, batch_first=True),
    "rnn, relu": lambda: nn.RNN(3, 4, nonlinearity="relu", batch_first=True),
}


@pytest.mark.filterwarnings("ignore:The tensor attributes self.recurrent:UserWarning")  # torch's own, of its flat weights
@pytest.mark.parametrize("name", RECURRENT)
def test_recurrent_layers_are_read_step_by_step(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net, x = _Last(RECURRENT[name]()).eval(), torch.randn(3, 2, 3)
    found = _opened(exported(net, (2, 3)), tmp_path).module
    torch.testing.assert_close(found(x), net(x), rtol=0, atol=1e-6)
    assert {node.operator for node in capture(found, (2, 3)).nodes} == {node.operator for node in capture(net, (2, 3)).nodes}


def _fewer_weights(parts: Parts) -> None:
    node = parts.node("lstm")
    weights = next(item for item in node["inputs"] if item["name"] == "params")
    weights["arg"]["as_tensors"] = weights["arg"]["as_tensors"][:3]


def _swapped_weights(parts: Parts) -> None:
    node = parts.node("lstm")
    weights = next(item for item in node["inputs"] if item["name"] == "params")
    weights["arg"]["as_tensors"].reverse()


def _many_layers(parts: Parts) -> None:
    next(item for item in parts.node("lstm")["inputs"] if item["name"] == "num_layers")["arg"]["as_int"] = 10**12


def _random_layer(parts: Parts) -> None:
    next(item for item in parts.node("lstm")["inputs"] if item["name"] == "train")["arg"]["as_bool"] = True


@pytest.mark.filterwarnings("ignore:The tensor attributes self.recurrent:UserWarning")
@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (_fewer_weights, "cannot run on a batch of 3"),
        (_swapped_weights, "cannot run on a batch of 3"),
        (_many_layers, "cannot run on a batch of 3"),
        (_random_layer, r"was exported in training mode .*train = True"),
    ],
)
def test_recurrent_layers_that_do_not_fit_are_refused(edit: Callable[[Parts], None], message: str, tmp_path: Path) -> None:
    _refused(spoiled(exported(_Last(nn.LSTM(3, 4, batch_first=True)).eval(), (2, 3)), edit), tmp_path, message)
