"""Names for converters: all that a kept node is made of in an ONNX file, or none and the reason."""

import dataclasses
import re
import warnings
from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from precisionkit.capture import capture
from precisionkit.data import load_dataset
from precisionkit.mixed import Keep, can_keep
from precisionkit.models import bundled_model, load_model
from precisionkit.tune import exported as exporting
from precisionkit.tune.names import Names, converter_names, patterns

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")

PRODUCTS = ("Conv", "Gemm", "MatMul")


class Residual(nn.Module):
    shape, products = (8,), 5

    def __init__(self):
        super().__init__()
        self.blocks, self.out = nn.ModuleList(nn.Linear(8, 8) for _ in range(4)), nn.Linear(8, 3)

    def forward(self, x):
        for block in self.blocks:
            x = x + torch.tanh(block(x))
        return self.out(x)


class Rows(nn.Module):
    """Linear layers on inputs of three dimensions, which are exported as MatMul and Add."""

    shape, products = (4, 8), 2

    def __init__(self):
        super().__init__()
        self.inner, self.out = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.out(F.gelu(self.inner(x))).mean(1)


class Attention(nn.Module):
    shape, products = (5, 8), 4

    def __init__(self):
        super().__init__()
        self.inner, self.out = nn.Linear(8, 24), nn.Linear(8, 3)

    def forward(self, x):
        query, key, value = self.inner(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4).unbind(0)
        return self.out(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2).mean(1))


class Normalised(nn.Module):
    shape, products = (2, 4, 4), 2

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.out = nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Linear(12, 3)
        self.norm.running_var.mul_(3)

    def forward(self, x):
        return self.out(torch.relu(self.norm(self.conv(x))).flatten(1))


class OneByOne(nn.Module):
    shape = (8,)

    def __init__(self):
        super().__init__()
        self.out = nn.Linear(8, 3)

    def forward(self, x):
        return torch.cat([self.out(x[i : i + 1]) for i in range(len(x))])


def made(kind):
    torch.manual_seed(0)
    return kind().eval()


def write(module, sample, path, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own
        torch.onnx.export(module, (sample,), dynamo=True, verbose=False, **options).save(str(path))


def everything(graph):
    return Keep.of(node.name for node in graph.nodes if can_keep(graph, node))


def sums(graph):
    return [node.name for node in graph.nodes if node.record.products is not None and not node.record.hidden]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Paths of nets that are exported as the names' sentence says."""
    folder = tmp_path_factory.mktemp("exported")
    found = {}

    def path_of(kind):
        if kind not in found:
            found[kind] = folder / f"{kind.__name__}.onnx"
            write(made(kind), torch.zeros(2, *kind.shape), found[kind], dynamic_shapes=({0: torch.export.Dim("batch")},))
        return found[kind]

    return path_of


def nodes_of(path):
    return {node.name: node for node in onnx.load(str(path)).graph.node}


@pytest.mark.parametrize("kind", [Residual, Rows, Attention])
def test_names_of_a_module_are_those_of_the_file_that_is_told(files, kind):
    own = nodes_of(files(kind))
    graph = capture(made(kind), kind.shape)
    found = converter_names(made(kind), graph, everything(graph))
    assert set(found.names) <= set(own)
    assert {name for name, node in own.items() if node.op_type in PRODUCTS} <= set(found.names)
    assert "dynamic_shapes=({0: torch.export.Dim('batch')},); for any other file, run tune on that file." in found.about


def test_names_of_a_module_are_not_those_of_other_nodes(files):
    """An addition is exported under a number that depends on what else is exported."""
    additions = [name for name, node in nodes_of(files(Residual)).items() if node.op_type == "Add"]
    graph = capture(made(Residual), Residual.shape)
    second = [node.name for node in graph.nodes if node.operator == "add"][1]
    assert converter_names(made(Residual), graph, Keep.of([second])).names == (additions[1],)


@pytest.mark.parametrize("kind", [Residual, Rows, Attention, Normalised])
def test_every_kept_product_is_named_in_a_file(files, kind):
    own = nodes_of(files(kind))
    module = load_model(files(kind)).module
    graph = capture(module, kind.shape)
    named = [converter_names(module, graph, Keep.of([name])).names for name in sums(graph)]
    products = [[name for name in names if own[name].op_type in PRODUCTS] for names in named]
    assert sum(len(names) for names in products) == kind.products
    assert Counter(name for names in products for name in names) == Counter(n for n in own if own[n].op_type in PRODUCTS)


@pytest.mark.parametrize("kind", [Residual, Rows, Attention, Normalised])
def test_a_converter_keeps_what_is_named(files, kind):
    """All weights of kept products are of binary32, and of no others."""
    pytest.importorskip("onnxconverter_common")
    from onnxconverter_common.float16 import convert_float_to_float16

    module = load_model(files(kind)).module
    graph = capture(module, kind.shape)
    for kept in ([], sums(graph)[:1], sums(graph)[-1:], everything(graph).nodes):
        names = converter_names(module, graph, Keep.of(kept)).names
        made = convert_float_to_float16(onnx.load(str(files(kind))), node_block_list=list(names), keep_io_types=True)
        wide = {tensor.name for tensor in made.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT}
        makers = {output: node for node in made.graph.node for output in node.output}
        for node in made.graph.node:
            weights = [name for name in node.input if name not in makers and name in {t.name for t in made.graph.initializer}]
            if node.op_type in PRODUCTS and weights:
                assert (node.name in names) == (weights[0] in wide), (node.name, kept)


def test_a_folded_batch_norm_is_another_program():
    graph = capture(made(Normalised), Normalised.shape)
    found = converter_names(made(Normalised), graph, Keep.of(sums(graph)))
    assert found.names == ()
    assert re.fullmatch(
        r"There are no names for converters: the ONNX file that torch.onnx.export writes is another program, in which the node 'conv2d' "
        r"\(conv2d\) has other weights, as when it is folded with others; export the model, and run tune on the file\.",
        found.about,
    )


def test_what_cannot_be_exported_has_no_names(monkeypatch):
    def fails(*arguments, **options):
        raise RuntimeError("No decomposition.\nAnd more.")

    monkeypatch.setattr(torch.onnx, "export", fails)
    graph = capture(made(Residual), Residual.shape)
    assert converter_names(made(Residual), graph, everything(graph)) == Names(
        about="There are no names for converters: torch.onnx.export fails on this model (No decomposition); export it otherwise, and run "
        "tune on the file."
    )


def test_what_cannot_be_read_again_has_no_names():
    graph = capture(made(OneByOne), OneByOne.shape)
    found = converter_names(made(OneByOne), graph, everything(graph))
    assert found.names == ()
    assert found.about.startswith("There are no names for converters: ")
    assert found.about.endswith(" takes a part of the batch.") or "torch.onnx.export fails" in found.about  # by the exporter's version


def test_a_package_that_is_missing_is_told(monkeypatch):
    monkeypatch.setattr(exporting, "find_spec", lambda name: None if name == "onnxscript" else True)
    graph = capture(made(Residual), Residual.shape)
    found = converter_names(made(Residual), graph, everything(graph))
    assert found.names == ()
    assert found.about.endswith("and onnxscript is not installed; pip install onnxscript, or export the model, and run tune on the file.")


def test_nothing_is_named_where_nothing_is_kept_whole():
    graph = capture(made(Residual), Residual.shape)
    assert converter_names(made(Residual), graph, Keep()) == Names()
    found = converter_names(made(Residual), graph, Keep.of([], ["linear"]))
    assert (found.names, found.about[:39]) == ((), "Converters cannot keep sums alone, so n")


def written(folder, nodes, functions=(), **constants):
    """A file from x, (n, 8), to y."""
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    ends = [[helper.make_tensor_value_info(name, kind, ["n", size])] for name, size in (("x", 8), ("y", 3))]
    weights = [onnx.numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()]
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    graph = helper.make_graph([helper.make_node(*node[:3], **node[3]) for node in nodes], "net", *ends, weights)
    path = folder / "net.onnx"
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=8, functions=list(functions)), str(path))
    return load_model(path).module


RANDOM = np.random.default_rng(0)
SQUARE, TALL, WIDE, ROW = (RANDOM.normal(size=size) for size in ((8, 8), (8, 3), (3, 8), (8,)))


def kept_names(module, *, keep=None):
    graph = capture(module, (8,))
    return converter_names(module, graph, everything(graph) if keep is None else Keep.of(keep))


def test_nodes_beside_the_products_are_named(tmp_path):
    """Those that make weights of weights, and those that pass numbers on, which are no nodes of the captured graph."""
    nodes = [
        ("MatMul", ["x", "a"], ["1"], {"name": "first"}),
        ("Add", ["1", "b"], ["2"], {"name": "bias"}),
        ("Identity", ["2"], ["3"], {"name": "between"}),
        ("Transpose", ["c"], ["4"], {"name": "turned", "perm": [1, 0]}),
        ("MatMul", ["3", "4"], ["5"], {"name": "second"}),
        ("Softmax", ["5"], ["6"], {"name": "shares", "axis": 1}),
        ("Identity", ["6"], ["y"], {"name": "end"}),
    ]
    module = written(tmp_path, nodes, a=SQUARE, b=ROW, c=WIDE)
    assert sorted(kept_names(module).names) == ["between", "bias", "end", "first", "second", "shares", "turned"]
    first, second = sums(capture(module, (8,)))
    assert sorted(kept_names(module, keep=[first]).names) == ["bias", "first"]
    assert sorted(kept_names(module, keep=[second]).names) == ["between", "end", "second", "shares", "turned"]


@pytest.mark.parametrize(
    ("names", "unnamed"),
    [(("a", "", "c"), "the node '2' \\(Tanh\\)"), (("same", "b", "same"), "the node 'same' \\(MatMul\\)")],
)
def test_a_node_without_a_name_of_its_own_is_told(tmp_path, names, unnamed):
    kinds = (("MatMul", ["x", "a"], ["1"]), ("Tanh", ["1"], ["2"]), ("MatMul", ["2", "c"], ["y"]))
    module = written(tmp_path, [(*node, {"name": name}) for node, name in zip(kinds, names, strict=True)], a=SQUARE, c=TALL)
    found = kept_names(module)
    assert found.names == ()
    assert re.fullmatch(
        rf"There are no names for converters: in the file, {unnamed} has no name of its own; give each node a name that no other has, "
        r"and run tune on that file\.",
        found.about,
    )


def test_nodes_of_local_functions_have_no_names(tmp_path):
    """They are none of the file's nodes, and a node inside may have the name of one outside."""
    helper = onnx.helper
    inner = [helper.make_node("Tanh", ["u"], ["v"], name="first")]
    function = helper.make_function("own", "Bent", ["u"], ["v"], inner, [helper.make_opsetid("", 17)])
    nodes = [
        ("MatMul", ["x", "a"], ["1"], {"name": "first"}),
        ("Bent", ["1"], ["2"], {"name": "call", "domain": "own"}),
        ("MatMul", ["2", "c"], ["y"], {"name": "second"}),
    ]
    module = written(tmp_path, nodes, [function], a=SQUARE, c=TALL)
    second = sums(capture(module, (8,)))[1]
    assert kept_names(module).names == ()
    assert kept_names(module, keep=[second]).names == ("second",)


def test_a_node_that_is_kept_in_part_is_told(tmp_path):
    nodes = [("Gemm", ["x", "a"], ["1"], {"name": "scaled", "alpha": 0.3}), ("MatMul", ["1", "c"], ["y"], {"name": "second"})]
    module = written(tmp_path, nodes, a=SQUARE, c=TALL)
    assert sorted(kept_names(module).names) == ["scaled", "second"]
    part = next(node.name for node in capture(module, (8,)).nodes if node.operator == "mul")
    found = kept_names(module, keep=[part])
    assert found.names == ()
    assert "There are no names for converters: the plan keeps a part of the file's node that the node" in found.about


def test_a_node_that_is_not_traced_to_the_file_is_told(tmp_path):
    module = written(tmp_path, [("MatMul", ["x", "c"], ["y"], {"name": "only"})], c=TALL)
    graph = capture(module, (8,))
    astray = dataclasses.replace(graph, nodes=tuple(dataclasses.replace(node, module="") for node in graph.nodes))
    found = converter_names(module, astray, everything(graph))
    assert found.names == ()
    assert "cannot be traced to a node of the file; export the model otherwise, and run tune on that file." in found.about


def test_patterns_match_one_name_alone():
    (pattern,) = patterns(["/layer1.0/conv"])
    assert re.search(pattern, "/layer1.0/conv")
    assert all(re.search(pattern, name) is None for name in ("/layer1x0/conv", "/layer1.0/conv2", "a/layer1.0/conv"))


def test_all_names_of_a_file_are_found(tmp_path):
    model = load_model(bundled_model("digits_cnn"))
    sample = model.preprocess(load_dataset("digits", limit=2).images)
    path = tmp_path / "net.onnx"
    write(model.module, sample, path)
    module = load_model(path).module
    graph = capture(module, (1, 8, 8))
    assert set(converter_names(module, graph, everything(graph)).names) == set(nodes_of(path))
