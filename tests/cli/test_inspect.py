"""The command that looks at a network: supported or not, on the terminal, as JSON, as a picture."""

import json

import jsonschema
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

from precisionkit.cli import main
from precisionkit.cli.shared import guarded
from precisionkit.errors import UsageError
from precisionkit.models import bundled_model, load_model
from precisionkit.report.schema import published_schema
from tests.programs import exported

DIGITS = str(bundled_model("digits_cnn"))
NETS = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(2, 4, 3), nn.Linear(4, 3)

    def forward(self, x):
        x = self.first(x)
        return self.last(({body}).mean((2, 3)))


def make():
    return Net()


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.last = nn.Embedding(9, 4), nn.Linear(4, 3)

    def forward(self, x):
        return self.last(self.table(x).sum(1))


def tokens():
    return Tokens()
"""


def run(*arguments):
    return CliRunner().invoke(main, ["inspect", *map(str, arguments)], catch_exceptions=False)


def words(text):
    return " ".join(text.split())


@pytest.fixture
def net(tmp_path, monkeypatch):
    """A folder with networks of which one has operators that are not supported, and their weights."""
    monkeypatch.chdir(tmp_path)
    name = f"nets_{abs(hash(str(tmp_path)))}"

    def made(body="torch.relu(x)", factory="make", module=None):
        (tmp_path / f"{name}.py").write_text(NETS.format(body=body))
        first = {"first.weight": torch.ones(4, 2, 3, 3), "first.bias": torch.ones(4)} if factory == "make" else {}
        table = {} if first else {"table.weight": torch.ones(9, 4)}
        torch.save({**first, **table, "last.weight": torch.ones(3, 4), "last.bias": torch.ones(3)}, tmp_path / "net.pt")
        return tmp_path / "net.pt", "--arch", f"{name}:{factory}"

    return made


def test_a_supported_network_is_shown_with_its_totals(tmp_path):
    result = run(DIGITS, "--json", tmp_path / "r.json")
    assert result.exit_code == 0, result.stderr
    report = json.loads((tmp_path / "r.json").read_text())
    jsonschema.validate(report, published_schema("inspect"))
    model = load_model(DIGITS)
    assert (report["supported"], report["classes"], report["input_shape"]) == (True, 10, [1, 8, 8])
    read = sum(operation["parameters"] for operation in report["operations"])
    buffers = sum(b.numel() for b in model.module.buffers() if b.is_floating_point())
    assert read == model.parameters + buffers
    said = words(result.stdout)
    products = sum(operation["multiplications"] for operation in report["operations"])
    assert f"100 % of them supported; {model.parameters:,} parameters; {products:,} multiplications an input" in said
    assert said.endswith("Supported: 10 classes.")
    first = report["operations"][0]
    assert (first["record"], first["kind"], first["shape"][0], first["inputs"]) == ("conv2d", "dot product", "n", [report["input"]])


def test_multiplications_are_those_of_torch(net, tmp_path):
    from torch.utils.flop_counter import FlopCounterMode

    from precisionkit.capture import capture

    run(*net(), "--input-shape", "2x6x5", "--json", tmp_path / "r.json")
    report = json.loads((tmp_path / "r.json").read_text())
    with FlopCounterMode(display=False) as counter:
        nn.Linear(4, 3)(nn.Conv2d(2, 4, 3)(torch.zeros(1, 2, 6, 5)).mean((2, 3)))
    assert sum(operation["multiplications"] for operation in report["operations"]) == counter.get_total_flops() // 2
    graph = capture(nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(48, 3)), (2, 6, 5))
    assert sum(map(graph.multiplications, graph.nodes)) == 4 * 12 * 18 + 48 * 3


def test_every_unsupported_operator_is_told(net, tmp_path):
    body = "torch.lgamma(x) + torch.erfinv(torch.lgamma(x.abs())) + x**3"
    result = run(*net(body), "--input-shape", "2x6x5", "--json", tmp_path / "r.json")
    assert result.exit_code == 1
    report = json.loads((tmp_path / "r.json").read_text())
    unknown = {operation["target"] for operation in report["operations"] if operation["record"] is None}
    assert unknown == {"aten.lgamma.default", "aten.erfinv.default", "aten.pow.Tensor_Scalar"}
    assert all((operation["record"] is None) == bool(operation["reason"]) for operation in report["operations"])
    assert (report["supported"], report["classes"]) == (False, None)
    said = words(result.stdout)
    assert "Not supported, at 2 nodes: No error rule is known for operator 'aten.lgamma.default'" in said
    assert "Not supported: No error rule is known for operator 'aten.erfinv.default'" in said
    assert "is not supported: the exponent 3 is not 2." in said
    assert said.count("Not supported") == 3
    assert report["operations"][-1]["multiplications"] == 12  # what follows is looked at as well


def test_a_network_whose_operators_are_supported_can_still_be_refused(net):
    result = run(*net("x[:, :1, :1, :1] + x.flip(0)"), "--input-shape", "2x6x5")
    assert result.exit_code == 1
    assert "100 % of them supported" in words(result.stdout)
    assert "Not supported: The captured graph computes other logits than the model" in words(result.stdout)


def test_the_data_set_or_the_model_say_the_shape(net, tmp_path):
    np.savez(tmp_path / "data.npz", images=np.zeros((3, 2, 6, 5), np.float32))
    assert "on inputs of 2x6x5 (float32)" in run(*net(), "--data", tmp_path / "data.npz").stdout
    np.savez(tmp_path / "bytes.npz", images=np.zeros((3, 8, 8), np.uint8))
    assert "on inputs of 1x8x8" in run(DIGITS, "--data", tmp_path / "bytes.npz").stdout
    assert "on inputs of 7 (int64)" in run(*net(factory="tokens"), "--input-shape", "7", "--tokens").stdout


REFUSED = [
    ((), "does not say the shape of its inputs: give --input-shape, such as 3x224x224, or --data."),
    (("--input-shape", "2x6"), "The model does not run on an input of shape 2x6:"),
    (("--input-shape", "2x0x5"), "The shape '2x0x5' of --input-shape is not of the form 3x224x224"),
    (("--input-shape", "-1"), "is not of the form 3x224x224"),
    (("--input-shape", "3x99999x99999"), "holds more than 134,217,728 numbers: give a smaller one."),
    (("--input-shape", "2x6x5", "--data", "digits"), "--input-shape and --data both say the shape of inputs; leave out one of them."),
    (("--input-shape", "2x6x5", "--picture", "net.gif"), "The figure 'net.gif' has the suffix '.gif'"),
    (("--input-shape", "2x6x5", "--picture", "no/net.png"), "the folder"),
    (("--input-shape", "2x6x5", "--json", "no/net.json"), "create it first"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_wrong_use_is_one_sentence(net, options, message):
    result = run(*net(), *options)
    assert result.exit_code == 2
    assert message in words(result.stderr)
    assert result.stderr.count("Error: ") == 1
    assert result.stdout == ""


def test_a_library_that_is_missing_is_named(net, monkeypatch):
    monkeypatch.setattr("precisionkit.figures.files.find_spec", lambda name: None if name == "fast_sugiyama" else name)
    result = run(*net(), "--input-shape", "2x6x5", "--picture", "net.png")
    assert result.exit_code == 2
    assert "This figure needs fast-sugiyama, which is not installed; run pip install 'precisionkit[figures]'." in words(result.stderr)


def test_messages_are_printed_as_they_are(capsys):
    def fail(_):
        raise UsageError("at net.py:100: [bold]x[/bold] :smile:")

    assert guarded(fail, less="") == 2
    assert capsys.readouterr().err == "Error: at net.py:100: [bold]x[/bold] :smile:\n"


@pytest.mark.parametrize("suffix", ["svg", "png", "pdf"])
def test_pictures_show_every_operator(net, tmp_path, suffix):
    pytest.importorskip("matplotlib")
    pytest.importorskip("fast_sugiyama")
    result = run(*net("torch.lgamma(x) + x"), "--input-shape", "2x6x5", "--picture", tmp_path / f"net.{suffix}")
    assert result.exit_code == 1, result.stderr
    content = (tmp_path / f"net.{suffix}").read_bytes()
    assert content[:8].lstrip(b"%\x89").startswith({"svg": b"<?xml", "png": b"PNG", "pdf": b"PDF"}[suffix])
    if suffix == "svg":
        text = content.decode()
        for label in ("conv2d  nx4x4x3", "lgamma  nx4x4x3", "mean  nx4", "linear  nx3", "not supported: 1", "2x6x5"):
            assert label in text
        assert text.count("fill: #d62728") == 2  # in the legend and in its place


class Dense(nn.Module):
    """Every layer reads all before it: most edges are far too long for a page."""

    def __init__(self, layers):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(2 * (i + 1), 2) for i in range(layers))

    def forward(self, x):
        found = [x]
        for layer in self.layers:
            found.append(torch.relu(torch.relu(layer(torch.cat(found, 1)))))
        return found[-1]


def test_pictures_of_large_networks_stay_narrow(tmp_path):
    Image = pytest.importorskip("PIL.Image")
    pytest.importorskip("fast_sugiyama")
    import dataclasses

    from precisionkit.figures import network_figure
    from precisionkit.inspection import inspect

    model = dataclasses.replace(load_model(DIGITS), module=Dense(40))
    report = inspect(model, (2,))
    network_figure(report, tmp_path / "net.png")
    with Image.open(tmp_path / "net.png") as picture:
        width, height = picture.size
    assert width < 16 * 1.95 * 150
    assert height > 150 * 0.5 * 4 * 40 / 2  # in two columns


class Long(nn.Module):
    """A chain of 400 operators with a shortcut around every 25 of them."""

    def forward(self, x):
        for _ in range(16):
            start = x
            for _ in range(24):
                x = torch.relu(x)
            x = x + start
        return x


def test_pictures_of_long_networks_go_on_in_further_columns(tmp_path):
    Image = pytest.importorskip("PIL.Image")
    pytest.importorskip("fast_sugiyama")
    import dataclasses

    from precisionkit.figures import network_figure
    from precisionkit.inspection import inspect

    report = inspect(dataclasses.replace(load_model(DIGITS), module=Long()), (2,))
    network_figure(report, tmp_path / "net.png")
    network_figure(report, tmp_path / "net.svg")
    with Image.open(tmp_path / "net.png") as picture:
        width, height = picture.size
    assert 0.5 < height / width < 2
    assert height < 45 * 150
    text = (tmp_path / "net.svg").read_text()
    assert all(f"{operation.name}  nx2" in text for operation in report.operations)


class Unlisted(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x):
        return self.last(torch.lgamma(torch.relu(self.first(x))) + torch.erfinv(x[:, :1]))


def test_operators_of_exported_programs_that_cannot_be_called_are_marked(tmp_path):
    (tmp_path / "net.pt2").write_bytes(exported(Unlisted().eval(), (4,)))
    result = run(tmp_path / "net.pt2", "--json", tmp_path / "r.json")
    assert result.exit_code == 1, result.stderr
    report = json.loads((tmp_path / "r.json").read_text())
    jsonschema.validate(report, published_schema("inspect"))
    operations = {operation["target"]: operation for operation in report["operations"]}
    assert [target for target, o in operations.items() if o["record"] is None] == ["aten.lgamma.default", "aten.erfinv.default"]
    assert (operations["aten.linear.default"]["record"], operations["aten.linear.default"]["kind"]) == ("unread", "not looked at")
    assert (operations["aten.lgamma.default"]["shape"], operations["aten.lgamma.default"]["inputs"]) == (["n", "5"], ["relu"])
    assert (report["supported"], report["model"]["parameters"], report["input_shape"]) == (False, 4 * 5 + 5 + 15 + 3, [4])
    said = words(result.stdout)
    assert "2 of them not supported, the others not looked at; 43 parameters" in said
    assert said.count("Not supported:") == 2
    assert "calls the operator 'torch.ops.aten.erfinv.default' (node 'erfinv')" in said


def test_operators_of_onnx_files_that_are_not_supported_are_marked(tmp_path):
    helper, TensorProto = (getattr(pytest.importorskip("onnx"), name) for name in ("helper", "TensorProto"))
    nodes = [helper.make_node("Relu", ["x"], ["r"]), helper.make_node("Det", ["r"], ["d"]), helper.make_node("Flatten", ["d"], ["y"])]
    ends = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)] for name, shape in (("x", ["batch", 3, 2, 2]), ("y", None))]
    graph = helper.make_graph(nodes, "graph", *ends)
    (tmp_path / "net.onnx").write_bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8).SerializeToString()
    )
    result = run(tmp_path / "net.onnx", "--json", tmp_path / "r.json")
    assert result.exit_code == 1, result.stderr
    report = json.loads((tmp_path / "r.json").read_text())
    jsonschema.validate(report, published_schema("inspect"))
    assert [(o["target"], o["record"], o["inputs"]) for o in report["operations"]] == [
        ("Relu", "unread", ["x"]),
        ("Det", None, ["r"]),
        ("Flatten", "unread", ["d"]),
    ]
    assert "the node 'd' (Det) is an operator that is not supported; certify the network" in words(result.stdout)


def test_a_use_that_is_not_supported_is_marked(tmp_path):
    helper, TensorProto = (getattr(pytest.importorskip("onnx"), name) for name in ("helper", "TensorProto"))
    nodes = [helper.make_node("Relu", ["x"], ["r"]), helper.make_node("Softmax", ["r"], ["y"], axis=3)]
    ends = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)] for name, shape in (("x", ["batch", 3]), ("y", None))]
    model = helper.make_model(helper.make_graph(nodes, "graph", *ends), opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    result = run(tmp_path / "net.onnx", "--json", tmp_path / "r.json")
    assert result.exit_code == 1, result.stderr
    assert [o["record"] for o in json.loads((tmp_path / "r.json").read_text())["operations"]] == ["unread", None]


def test_files_that_are_damaged_have_no_table(tmp_path):
    (tmp_path / "net.onnx").write_bytes(b"not ONNX")
    result = run(tmp_path / "net.onnx")
    assert (result.exit_code, result.stdout) == (2, "")


@pytest.mark.parametrize("option", ["--json", "--picture"])
def test_the_model_is_not_replaced(option, tmp_path):
    model = tmp_path / "model.svg"
    content = bundled_model("digits_cnn").read_bytes()
    model.write_bytes(content)
    result = CliRunner().invoke(main, ["inspect", str(model), option, str(model)], catch_exceptions=False)
    assert result.exit_code == 2
    assert " ".join(result.stderr.split()) == f"Error: {option} would overwrite '{model}', which is read; choose another name."
    assert model.read_bytes() == content


def test_two_outputs_are_two_files(tmp_path):
    target = str(tmp_path / "both.svg")
    result = CliRunner().invoke(main, ["inspect", DIGITS, "--json", target, "--picture", target], catch_exceptions=False)
    assert result.exit_code == 2
    assert result.stderr == "Error: --picture would overwrite the file of --json; choose another name.\n"
