"""Damaged, hostile and unsuitable ONNX files: one clear sentence each, quickly, and nothing read outside the file's folder."""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_files as files
import pytest
import torch
from onnx import AttributeProto, ModelProto, TensorProto, helper, numpy_helper

from precisionkit.arithmetic import REFERENCE
from precisionkit.capture import capture
from precisionkit.errors import PrecisionKitError, UnsupportedOperatorError, UnusableModelError, UsageError
from precisionkit.evaluate import Program, execute
from precisionkit.models import load_model

W = np.arange(12, dtype=np.float32).reshape(4, 3)
NODES = [files.node("MatMul", ["x", "w"])]


def _net() -> ModelProto:
    """A small network with all usual parts."""
    rng = np.random.default_rng(0)
    nodes = [
        files.node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1]),
        files.node("Relu", ["c"], ["r"]),
        files.node("Reshape", ["r", "shape"], ["f"]),
        files.node("Gemm", ["f", "v", "u"], ["y"], transB=1),
    ]
    constants = {
        "w": rng.normal(size=(2, 1, 3, 3)).astype(np.float32),
        "b": np.zeros(2, np.float32),
        "shape": np.array([0, -1]),
        "v": rng.normal(size=(5, 72)).astype(np.float32),
        "u": np.zeros(5, np.float32),
    }
    return files.model(nodes, constants, x=(files.OPEN, 1, 6, 6))


def _refused(path: Path, message: str, error: type[PrecisionKitError] = PrecisionKitError, **options: Any) -> str:
    start = time.monotonic()
    with pytest.raises(error, match=message) as caught:
        load_model(path, **options)
    assert time.monotonic() - start < 5
    text = str(caught.value)
    assert text.startswith(f"The model file {path} ")
    assert "\n" not in text
    assert len(text) < 2000
    return text


def test_a_good_file_describes_itself(tmp_path: Path) -> None:
    path = files.saved(_net(), tmp_path, "Net.ONNX")
    model = load_model(path)
    assert (model.arch, model.input_shape, model.classes, model.parameters) == ("ONNX", (1, 6, 6), 5, 385)
    assert model.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert not model.module.training
    assert {name for name, _ in model.module.named_parameters()} == {"w", "b", "v", "u"}


def test_no_truncation_passes_or_crashes(tmp_path: Path) -> None:
    data = _net().SerializeToString()
    path = tmp_path / "net.onnx"
    for length in (*range(0, len(data), 41), *range(len(data) - 12, len(data))):
        path.write_bytes(data[:length])
        _refused(path, "is empty|no ONNX file, or is damaged or cut off|uses before|before anything|nothing computes|empty graph")


def test_no_changed_byte_crashes(tmp_path: Path) -> None:
    data = _net().SerializeToString()
    path = tmp_path / "net.onnx"
    rng = np.random.default_rng(0)
    outcomes = set()
    for place in rng.integers(0, len(data), 300):
        changed = bytearray(data)
        changed[place] ^= 1 << rng.integers(0, 8)
        path.write_bytes(bytes(changed))
        try:
            load_model(path)
            outcomes.add("loaded")
        except PrecisionKitError:
            outcomes.add("refused")
    assert outcomes == {"loaded", "refused"}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"\0" * 100, "is no ONNX file, or is damaged or cut off"),
        (b"<html>not found</html>", "is no ONNX file, or is damaged or cut off"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is only a Git LFS pointer"),
        (b"\x12" * 2000, "is no ONNX file, or is damaged or cut off"),
    ],
)
def test_files_that_are_no_onnx(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "net.onnx").write_bytes(data)
    _refused(tmp_path / "net.onnx", message, UnusableModelError)


def _deep() -> ModelProto:
    graph = helper.make_graph([files.node("Relu", ["x"])], "g", [], [files.value("y", None)])
    for _ in range(20):
        node = helper.make_node("If", ["x"], ["y"], then_branch=graph)
        graph = helper.make_graph([node], "g", [], [files.value("y", None)])
    proto = files.model([files.node("Relu", ["x"])])
    proto.graph.CopyFrom(graph)
    proto.graph.input.append(files.value("x", ["batch", 3]))
    return proto


def _deeper() -> bytes:
    """Graphs in graphs, deeper than any parser goes, as bytes: helper functions would need too long."""

    def field(number: int, content: bytes) -> bytes:
        size, length = b"", len(content)
        while True:
            size += bytes([length & 127 | (128 if length > 127 else 0)])
            length >>= 7
            if not length:
                return bytes([number << 3 | 2]) + size + content

    graph = b""
    for _ in range(5000):
        graph = field(1, field(5, field(6, graph)))  # graph.node.attribute.g
    return field(7, graph) + field(8, b"\x10\x0d")


def _typed(attribute: AttributeProto) -> ModelProto:
    node = files.node("Relu", ["x"])
    node.op_type = "LeakyRelu"
    node.attribute.append(attribute)
    return files.model([node])


def _with_tensor(change: Callable[[TensorProto], None]) -> ModelProto:
    proto = files.model(NODES, {"w": W})
    change(proto.graph.initializer[0])
    return proto


def _set(**fields: Any) -> Callable[[TensorProto], None]:
    def change(tensor: TensorProto) -> None:
        for name, value in fields.items():
            if isinstance(value, list):
                del getattr(tensor, name)[:]
                getattr(tensor, name).extend(value)
            else:
                setattr(tensor, name, value)

    return change


def _without_raw(**fields: Any) -> Callable[[TensorProto], None]:
    def change(tensor: TensorProto) -> None:
        tensor.ClearField("raw_data")
        _set(**fields)(tensor)

    return change


def _functions(count: int, calls: int) -> ModelProto:
    """Functions that each call the next one several times."""
    made = []
    for i in range(count):
        inner = [helper.make_node(f"f{i + 1}", ["a"] if j == 0 else [f"t{j - 1}"], [f"t{j}"], domain="own") for j in range(calls)]
        made.append(helper.make_function("own", f"f{i}", ["a"], [f"t{calls - 1}"], inner, [helper.make_opsetid("own", 1)]))
    last = helper.make_function("own", f"f{count}", ["a"], ["b"], [files.node("Relu", ["a"], ["b"])], [helper.make_opsetid("", 18)])
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    return files.model([helper.make_node("f0", ["x"], ["y"], domain="own")], opset_imports=imports, functions=[*made, last])


def _recursive() -> ModelProto:
    proto = _functions(2, 1)
    proto.functions[-1].node[0].CopyFrom(helper.make_node("f0", ["a"], ["b"], domain="own"))
    return proto


def _big_result() -> ModelProto:
    nodes = [
        files.node("Expand", ["one", "shape"], ["e"]),
        files.node("Add", ["e", "e"], ["f"]),
        files.node("ReduceMean", ["f"], ["m"], keepdims=0),
        files.node("Add", ["x", "m"], ["y"]),
    ]
    return files.model(nodes, {"one": np.ones(1, np.float32), "shape": np.array([2**20, 2**20])})


def _much_work() -> ModelProto:
    shape = {"one": np.ones((1, 1), np.float32), "shape": np.array([2048, 2048])}
    nodes = [files.node("Expand", ["one", "shape"], ["h0"])]
    nodes += [files.node("MatMul", [f"h{i}", f"h{i}"], [f"h{i + 1}"]) for i in range(3)]
    nodes += [files.node("ReduceMean", ["h3"], ["m"], keepdims=0), files.node("Add", ["x", "m"], ["y"])]
    return files.model(nodes, shape)


def _doubling(kind: str) -> ModelProto:
    """A shape, or an image, that doubles 40 times."""
    nodes = [files.node("Shape", ["x"], ["h0"])] if kind == "sizes" else [files.node("Relu", ["x"], ["h0"])]
    nodes += [files.node("Concat", [f"h{i}", f"h{i}"], [f"h{i + 1}"], axis=0 if kind == "sizes" else 1) for i in range(40)]
    nodes.append(files.node("Reshape", ["x", "h40"]) if kind == "sizes" else files.node("Relu", ["h40"]))
    return files.model(nodes)


def _growing() -> ModelProto:
    """Broadcasting squares the number of entries, again and again."""
    nodes, name = [], "x"
    for i in range(5):
        nodes += [
            files.node("Unsqueeze", [name, "last"], [f"a{i}"]),
            files.node("Unsqueeze", [name, "second"], [f"b{i}"]),
            files.node("Add", [f"a{i}", f"b{i}"], [f"c{i}"]),
            files.node("Flatten", [f"c{i}"], [f"d{i}"]),
        ]
        name = f"d{i}"
    nodes.append(files.node("Relu", [name]))
    return files.model(nodes, {"last": np.array([-1]), "second": np.array([1])})


def _half() -> ModelProto:
    return files.model(NODES, {"w": W.astype(np.float16)}, kind=TensorProto.FLOAT16)


CASES: dict[str, tuple[Callable[[], ModelProto], str, type[PrecisionKitError]]] = {
    "no nodes": (lambda: files.model([]), "holds an empty graph", UnusableModelError),
    "a cycle": (
        lambda: files.model([files.node("Add", ["x", "b"], ["a"]), files.node("Relu", ["a"], ["b"]), files.node("Relu", ["b"])]),
        r"the node 'a' \(Add\) uses 'b' before anything computes it",
        UnusableModelError,
    ),
    "a node that feeds itself": (lambda: files.model([files.node("Add", ["x", "y"])]), "uses 'y' before anything", UnusableModelError),
    "a missing value": (lambda: files.model(NODES), "uses 'w' before anything computes it", UnusableModelError),
    "a result twice": (
        lambda: files.model([files.node("Relu", ["x"]), files.node("Abs", ["x"])]),
        "'y' is computed twice",
        UnusableModelError,
    ),
    "a constant computed": (lambda: files.model([files.node("Relu", ["x"], ["w"])], {"w": W}), "'w' is computed twice", UnusableModelError),
    "no such output": (lambda: files.model([files.node("Relu", ["x"], ["z"])]), "output 'y', which nothing computes", UnusableModelError),
    "two constants of one name": (
        lambda: _both(files.model(NODES, {"w": W}), lambda p: p.graph.initializer.append(p.graph.initializer[0])),
        "two of its initialisers have the same name",
        UnusableModelError,
    ),
    "two inputs": (
        lambda: files.model([files.node("Add", ["x", "z"])], inputs=[files.value("x", ["b", 3]), files.value("z", ["b", 3])]),
        r"has 2 inputs \(x, z\), but a classifier has one, the images",
        UnusableModelError,
    ),
    "no input": (lambda: files.model([files.node("Relu", ["w"])], {"w": W}, inputs=[]), "has 0 inputs, but", UnusableModelError),
    "two outputs": (
        lambda: files.model([files.node("Relu", ["x"]), files.node("Abs", ["x"], ["z"])], outputs=[files.value(n, None) for n in "yz"]),
        r"has 2 outputs \(y, z\), but a classifier has one, the logits: keep it alone, with onnx\.utils\.extract_model",
        UnusableModelError,
    ),
    "the same output twice": (
        lambda: files.model([files.node("Relu", ["x"])], outputs=[files.value("y", None)] * 2),
        r"has 2 outputs \(y, y\)",
        UnusableModelError,
    ),
    "no version": (lambda: files.model([files.node("Relu", ["x"])], opset_imports=[]), "no ONNX file, or is damaged", UnusableModelError),
    "another domain's version": (
        lambda: files.model([files.node("Relu", ["x"])], opset_imports=[helper.make_opsetid("com.microsoft", 1)]),
        r"does not name one version of the ONNX operators: export it again with torch\.onnx\.export",
        UnusableModelError,
    ),
    "an old version": (lambda: files.model([files.node("Relu", ["x"])], opset=8), "uses version 8 .* but 9 to 23 are read", UnusableModelError),
    "a new version": (lambda: files.model([files.node("Relu", ["x"])], opset=99), "uses version 99 .* but 9 to 23 are read", UnusableModelError),
    "no such operator": (
        lambda: files.model([files.node("Frobnicate", ["x"])]),
        r"uses the node 'y' \(Frobnicate\), which version 13 of the ONNX operators does not define",
        UnsupportedOperatorError,
    ),
    "an operator of a later version": (lambda: files.model([files.node("Gelu", ["x"])]), "which version 13 .* does not define", UnsupportedOperatorError),
    "an operator of an earlier version": (
        lambda: files.model([files.node("Upsample", ["x", "s"])], {"s": np.ones(4, np.float32)}),
        r"\(Upsample\) is an operator that version 13 of ONNX no longer has",
        UnsupportedOperatorError,
    ),
    "another domain": (
        lambda: files.model([helper.make_node("FusedConv", ["x"], ["y"], domain="com.microsoft")]),
        r"the node 'y' \(FusedConv\) of the domain 'com\.microsoft', which is not part of ONNX",
        UnsupportedOperatorError,
    ),
    "an operator that is not supported": (
        lambda: files.model([files.node("CumSum", ["x", "w"])], {"w": np.array(1)}),
        r"the node 'y' \(CumSum\) is an operator that is not supported; certify the network that the file was exported from",
        UnsupportedOperatorError,
    ),
    "control flow": (_deep, r"\(If\), which holds a graph of its own \(control flow\)", UnsupportedOperatorError),
    "an attribute of another type": (
        lambda: _typed(helper.make_attribute("alpha", "0.1")),
        r"the node 'y' \(LeakyRelu\) has the attribute 'alpha' of another type than float",
        UnusableModelError,
    ),
    "an attribute that is not there": (lambda: _typed(helper.make_attribute("beta", 0.1)), "'beta', which its operator does not have", UnusableModelError),
    "a missing attribute": (lambda: files.model([files.node("Concat", ["x", "x"])]), "has no attribute 'axis'", UnusableModelError),
    "too few operands": (lambda: files.model([files.node("MatMul", ["x"])]), "has 1 inputs, but between 2 and 2", UnusableModelError),
    "too many operands": (lambda: files.model([files.node("Relu", ["x", "x"])]), "has 2 inputs, but between 1 and 1", UnusableModelError),
    "an operand left out": (lambda: files.model([files.node("MatMul", ["x", ""])]), "lacks its operand 1", UnsupportedOperatorError),
    "shapes that do not fit": (
        lambda: files.model(NODES, {"w": W[:3]}),
        r"does not fit together: the node 'y' \(MatMul\) cannot take its operands \(.*\); export the network again",
        UnusableModelError,
    ),
    "a bias that is no vector": (
        lambda: files.model([files.node("Conv", ["x", "w", "b"])], {"w": W.reshape(3, 4, 1), "b": W}, x=(files.OPEN, 4, 5)),
        r"the node 'y' \(Conv\) has a bias of the shape \(4, 3\) for 3 channels",
        UnsupportedOperatorError,
    ),
    "too few bytes": (
        lambda: _with_tensor(_set(raw_data=W.tobytes()[:-1])),
        r"gives the tensor 'w' the shape \(4, 3\), which takes 48 bytes, but holds 47",
        UnusableModelError,
    ),
    "too many bytes": (lambda: _with_tensor(_set(dims=[4, 2])), "takes 32 bytes, but holds 48", UnusableModelError),
    "a huge claim": (lambda: _with_tensor(_set(dims=[2**40, 3])), r"the shape \(1099511627776, 3\), which is impossible", UnusableModelError),
    "huge claims multiplied": (lambda: _with_tensor(_set(dims=[2**39] * 8)), r"takes \d{90,} bytes, but holds 48", UnusableModelError),
    "many dimensions": (lambda: _with_tensor(_set(dims=[1] * 1000)), "which is impossible", UnusableModelError),
    "a negative size": (lambda: _with_tensor(_set(dims=[-4, -3])), r"the shape \(-4, -3\), which is impossible", UnusableModelError),
    "too few numbers": (lambda: _with_tensor(_without_raw(float_data=[1.0])), "takes 12 numbers, but holds 1", UnusableModelError),
    "numbers of another type": (lambda: _with_tensor(_without_raw(int64_data=[1] * 12)), "takes 12 numbers, but holds 0", UnusableModelError),
    "strings for weights": (
        lambda: _with_tensor(_without_raw(data_type=TensorProto.STRING, string_data=[b"a"] * 12)),
        "holds the tensor 'w' of the ONNX type 8, but weights are real numbers",
        UnusableModelError,
    ),
    "complex weights": (lambda: _with_tensor(_set(data_type=TensorProto.COMPLEX64)), "of the ONNX type 14, but", UnusableModelError),
    "half weights": (_half, r"is a program in float16 \(the tensor 'w'\), but a float32 program is needed: export model\.float\(\)", UnusableModelError),
    "double weights": (
        lambda: files.model(NODES, {"w": W.astype(np.float64)}, kind=TensorProto.DOUBLE),
        "takes an input of the ONNX type 11, but float32 images",
        UnusableModelError,
    ),
    "one double weight": (
        lambda: files.model([files.node("Mul", ["x", "w"])], {"w": np.ones((4, 4))}),
        r"has a constant in torch\.float64, but a float32 program is needed",
        UnsupportedOperatorError,
    ),
    "a sequence of tensors": (
        lambda: files.model([files.node("Relu", ["x"])], inputs=[helper.make_tensor_sequence_value_info("x", 1, None)]),
        "takes an input of the ONNX type 0",
        UnusableModelError,
    ),
    "functions without end": (_recursive, "the local function f0, which calls itself", UnusableModelError),
    "functions that multiply": (lambda: _functions(40, 4), "nodes once its local functions are inlined, more than", UnusableModelError),
    "a huge constant": (_big_result, "makes constants that are too large for the size of the file", UnsupportedOperatorError),
    "much work for constants": (_much_work, "makes constants that are too large for the size of the file", UnsupportedOperatorError),
    "sizes without end": (lambda: _doubling("sizes"), r"\(Concat\) makes a shape of 1024 sizes", UnsupportedOperatorError),
    "an image without end": (lambda: _doubling("image"), r"\(Concat\) makes \d+ batch numbers, more than", UnsupportedOperatorError),
    "squares of squares": (_growing, r"\(Add\) makes \d+ batch numbers, more than", UnsupportedOperatorError),
    "a huge image": (lambda: files.model([files.node("Relu", ["x"])], x=(1, 2**40)), r"its input makes 1099511627776 batch numbers, more", UnusableModelError),
    "a huge batch": (lambda: files.model([files.node("Relu", ["x"])], x=(2**62, 3)), "its input makes 3 batch numbers, more", UnusableModelError),
    "no logits": (
        lambda: files.model([files.node("Relu", ["x"])], x=(files.OPEN, 3, 4)),
        r"returns \(batch, 3, 4\) as torch\.float32, but logits of the shape \(batch, classes\) are needed",
        UnusableModelError,
    ),
    "a constant output": (
        lambda: files.model([files.node("Relu", ["w"])], {"w": W}),
        "returns nothing that depends on the input, but logits",
        UnusableModelError,
    ),
    "no dimensions": (lambda: files.model([files.node("Relu", ["x"])], x=()), "takes a single number, but a batch", UnusableModelError),
}  # fmt: skip


def _both(proto: ModelProto, change: Callable[[ModelProto], None]) -> ModelProto:
    change(proto)
    return proto


@pytest.mark.parametrize("case", CASES)
def test_unusable_files(tmp_path: Path, case: str) -> None:
    build, message, error = CASES[case]
    _refused(files.saved(build(), tmp_path), message, error)


def test_graphs_deeper_than_any_parser_goes(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(_deeper())
    _refused(tmp_path / "net.onnx", "is no ONNX file, or is damaged or cut off", UnusableModelError)


@pytest.mark.parametrize("name", ["Relu", "hidden", "x"])
def test_names_that_are_no_text(tmp_path: Path, name: str) -> None:
    data = files.model([files.node("Relu", ["x"], ["hidden"]), files.node("Abs", ["hidden"])]).SerializeToString()
    (tmp_path / "net.onnx").write_bytes(data.replace(name.encode(), b"\xff" * len(name)))
    _refused(tmp_path / "net.onnx", "is damaged: a name in it is no text", UnusableModelError)


def test_weights_that_are_not_finite_in_a_file_for_one_image(tmp_path: Path) -> None:
    path = files.saved(files.model(NODES, {"w": np.full((4, 3), np.nan, np.float32)}, x=(1, 4)), tmp_path)
    _refused(path, "holds NaN or infinity in the tensor w", UnusableModelError)


def test_a_file_for_one_image_that_does_not_run(tmp_path: Path) -> None:
    """Integers for a bias pass for a fitting shape until numbers are computed."""
    nodes = [files.node("LayerNormalization", ["x", "w", "b"])]
    proto = files.model(nodes, {"w": np.ones(4, np.int64), "b": np.ones(4, np.int64)}, x=(1, 4), opset=17)
    _refused(files.saved(proto, tmp_path), r"does not run on an image of its own shape \(.*\): export it again", UnusableModelError)


def test_too_many_nodes(tmp_path: Path) -> None:
    proto = files.model([files.node("Relu", ["x"])])
    proto.graph.node.extend([files.node("Relu", ["x"], [f"n{i}"]) for i in range(100_001)])
    _refused(files.saved(proto, tmp_path), "has 100002 nodes, more than the 100000 that are read", UnusableModelError)


def test_local_functions_are_inlined(tmp_path: Path) -> None:
    model = load_model(files.saved(_functions(3, 2), tmp_path))
    assert torch.equal(model.module(torch.tensor([[-1.0, 2, 3, -4]])), torch.tensor([[0.0, 2, 3, 0]]))


def test_initialisers_among_the_inputs_are_none(tmp_path: Path) -> None:
    """Files of old versions list them there."""
    inputs = [files.value("x", ["batch", 4]), files.value("w", [4, 3])]
    proto = files.model(NODES, {"w": W}, inputs=inputs, opset=9)
    proto.ir_version = 3
    assert torch.equal(load_model(files.saved(proto, tmp_path)).module(torch.eye(4)), torch.from_numpy(W))


def test_what_the_output_does_not_need_may_be_unsupported(tmp_path: Path) -> None:
    proto = files.model([files.node("CumSum", ["x", "axis"], ["z"]), *NODES], {"w": W, "axis": np.array(1)})
    assert load_model(files.saved(proto, tmp_path)).classes == 3


def test_names_may_be_anything(tmp_path: Path) -> None:
    """Two constants made of one, and names that a module has for something else."""
    nodes = [
        files.node("MatMul", ["x", "forward"], ["training"]),
        files.node("Gemm", ["x", "forward"], ["a/b:0"]),
        files.node("Mul", ["training", "_parameters"], ["forward'"]),
        files.node("Add", ["forward'", "a/b:0"], ["\x1b[31m"]),
        files.node("Relu", ["\x1b[31m"]),
    ]
    model = load_model(files.saved(files.model(nodes, {"forward": W, "_parameters": np.ones(3, np.float32) * 2}), tmp_path))
    assert torch.equal(model.module(torch.eye(4)), torch.from_numpy(3 * W))
    assert not model.module.training


def test_names_cannot_write_to_the_terminal(tmp_path: Path) -> None:
    proto = files.model([files.node("Relu", ["\x1b[31m\n"])])
    assert _refused(files.saved(proto, tmp_path), r"uses .*x1b\[31m.*n' before anything computes it").isprintable()


def test_an_infinite_weight(tmp_path: Path) -> None:
    path = files.saved(files.model(NODES, {"w": np.full((4, 3), np.inf, np.float32)}), tmp_path)
    _refused(path, "holds NaN or infinity in the tensor w")


def test_a_negative_variance(tmp_path: Path) -> None:
    vector = np.ones(4, np.float32)
    proto = files.model([files.node("BatchNormalization", ["x", "s", "s", "s", "v"])], {"s": vector, "v": -vector}, opset=15)
    _refused(files.saved(proto, tmp_path), "holds the negative variance -1 in the tensor v_running_var")


OPEN_SIZES: dict[str, tuple[Any, tuple[int, ...] | None, str | tuple[int, ...]]] = {
    "named sizes": (("batch", 1, "h", "w"), (1, 6, 6), (1, 6, 6)),
    "no shape": (None, (1, 6, 6), (1, 6, 6)),
    "the file's own": (("batch", 1, 6, 6), (1, 7, 7), (1, 6, 6)),
    "numbers below one": ((-1, 1, 6, 0), (1, 6, 6), (1, 6, 6)),
    "unknown": (("batch", 1, "h", "w"), None, r"leaves the shape of its images open \(it says 1x\?x\?\): give data"),
    "unknown rank": (None, None, r"leaves the shape of its images open \(it says nothing\)"),
    "another rank": (("batch", 1, "h", "w"), (36,), r"it says 1x\?x\?\), and data of the shape 36 do not fit"),
}


@pytest.mark.parametrize("case", OPEN_SIZES)
def test_sizes_that_the_file_leaves_open_come_from_the_data(tmp_path: Path, case: str) -> None:
    declared, given, wanted = OPEN_SIZES[case]
    proto = _net()
    proto.graph.input[0].CopyFrom(files.value("x", declared))
    path = files.saved(proto, tmp_path)
    if isinstance(wanted, str):
        _refused(path, wanted, UnusableModelError, input_shape=given)
    else:
        assert load_model(path, input_shape=given).input_shape == wanted


def test_an_architecture_is_not_needed(tmp_path: Path) -> None:
    path = files.saved(_net(), tmp_path)
    _refused(path, "is an ONNX file, which holds its own architecture: leave out --arch lenet5", UsageError, arch="lenet5")


def test_without_the_package_onnx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    _refused(files.saved(_net(), tmp_path), r"which the package onnx reads, but it is not installed: pip install 'precisionkit\[onnx\]'")


def _external(folder: Path, location: str, **entries: int) -> Path:
    proto = files.model(NODES, {"w": W})
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, text in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=str(text))
    folder.mkdir(exist_ok=True)
    return files.saved(proto, folder)


@pytest.mark.parametrize("location", ["w.bin", "./w.bin", "more/w.bin"])
def test_external_data_beside_the_file(tmp_path: Path, location: str) -> None:
    path = _external(tmp_path / "net", location, offset=8, length=48)
    data = tmp_path / "net" / location
    data.parent.mkdir(exist_ok=True)
    data.write_bytes(b"12345678" + W.tobytes())
    model = load_model(path)
    assert torch.equal(model.module(torch.eye(4)), torch.from_numpy(W))
    assert model.sha256 == hashlib.sha256(path.read_bytes() + data.read_bytes()).hexdigest()


@pytest.mark.parametrize("location", ["../w.bin", "more/../../w.bin", "..", "", "C:w.bin", "..\\w.bin", "a//w.bin", "w.bin\0"])
def test_external_data_outside_the_folder(tmp_path: Path, location: str) -> None:
    (tmp_path / "w.bin").write_bytes(W.tobytes())
    _refused(_external(tmp_path / "net", location), "only files in its own folder are opened", UnusableModelError)


def test_external_data_by_an_absolute_path(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(W.tobytes())
    path = _external(tmp_path / "net", str(tmp_path / "w.bin"))
    _refused(path, "only files in its own folder are opened", UnusableModelError)


@pytest.mark.parametrize("where", ["file", "folder"])
def test_external_data_behind_a_link(tmp_path: Path, where: str) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "w.bin").write_bytes(W.tobytes())
    path = _external(tmp_path / "net", "w.bin" if where == "file" else "link/w.bin")
    if where == "file":
        (tmp_path / "net" / "w.bin").symlink_to(tmp_path / "secret" / "w.bin")
    else:
        (tmp_path / "net" / "link").symlink_to(tmp_path / "secret")
    _refused(path, "which is a symbolic link and is not followed", UnusableModelError)


EXTERNAL: dict[str, tuple[dict[str, Any], bytes | None, str]] = {
    "missing": ({}, None, "has its weights in 'w.bin', which is missing: put that file beside it"),
    "too short": ({}, W.tobytes()[:-1], r"in the bytes 0 to 48 of 'w\.bin', which has 47"),
    "beyond the end": ({"offset": 1}, W.tobytes(), r"in the bytes 1 to 49 of 'w\.bin', which has 48"),
    "another length": ({"length": 12}, W.tobytes(), r"the shape \(4, 3\), which takes 48 bytes, but holds 12"),
    "a negative offset": ({"offset": -1}, W.tobytes(), r"the offset '-1' in its external file, which is no size"),
    "a huge offset": ({"offset": 10**30}, W.tobytes(), "which is no size"),
}


@pytest.mark.parametrize("case", EXTERNAL)
def test_damaged_external_data(tmp_path: Path, case: str) -> None:
    entries, data, message = EXTERNAL[case]
    path = _external(tmp_path, "w.bin", **entries)
    if data is not None:
        (tmp_path / "w.bin").write_bytes(data)
    _refused(path, message, UnusableModelError)


def test_external_data_that_is_no_file(tmp_path: Path) -> None:
    path = _external(tmp_path, "w.bin")
    (tmp_path / "w.bin").mkdir()
    _refused(path, "which cannot be read", UnusableModelError)


def test_external_data_in_a_constant_are_read_under_the_same_rules(tmp_path: Path) -> None:
    tensor = numpy_helper.from_array(W, "w")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../w.bin")
    proto = files.model([files.node("Constant", [], ["w"], value=tensor), *NODES])
    _refused(files.saved(proto, tmp_path), "only files in its own folder are opened", UnusableModelError)


def test_tensors_that_overlap_outside(tmp_path: Path) -> None:
    """Many tensors of one large external file would fill the memory; the same one many times does not."""
    nodes = [files.node("MatMul", ["x", "w0"], ["h0"])]
    nodes += [files.node("MatMul", ["x", f"w{i}"], [f"m{i}"]) for i in range(1, 4)]
    nodes += [files.node("Add", [f"h{i - 1}", f"m{i}"], ["y" if i == 3 else f"h{i}"]) for i in range(1, 4)]
    proto = files.model(nodes, {f"w{i}": W for i in range(4)})
    for shift in (0, 4):
        for i, tensor in enumerate(proto.graph.initializer):
            tensor.ClearField("raw_data")
            del tensor.external_data[:]
            tensor.data_location = TensorProto.EXTERNAL
            for key, text in {"location": "w.bin", "offset": str(shift * i), "length": "48"}.items():
                tensor.external_data.add(key=key, value=text)
        (tmp_path / "w.bin").write_bytes(W.tobytes() + b"\0" * 16)
        path = files.saved(proto, tmp_path)
        if shift:
            _refused(path, "has tensors that overlap in 'w.bin'", UnusableModelError)
        else:
            assert torch.equal(load_model(path).module(torch.eye(4)), torch.from_numpy(4 * W))


def test_the_importer_needs_no_checker_of_onnx(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """That one opens external files on its own."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr(onnx.checker, "check_model", refuse)
    monkeypatch.setattr(onnx, "load", refuse)
    assert load_model(files.saved(_net(), tmp_path)).classes == 5


def _attention(mask: np.ndarray[Any, Any]) -> ModelProto:
    nodes = [
        files.node("Reshape", ["x", "pairs"], ["tokens"]),
        files.node("MatMul", ["tokens", "tokens"], ["products"]),
        files.node("Add", ["products", "mask"], ["scores"]),
        files.node("Softmax", ["scores"], ["shares"], axis=-1),
        files.node("MatMul", ["shares", "tokens"], ["mixed"]),
        files.node("Reshape", ["mixed", "flat"]),
    ]
    return files.model(nodes, {"pairs": np.array([-1, 2, 2]), "flat": np.array([-1, 4]), "mask": mask.astype(np.float32)})


def test_a_mask_of_minus_infinities_is_added(tmp_path: Path) -> None:
    path = files.saved(_attention(np.array([[0, -np.inf], [0.5, 0]])), tmp_path)
    model = load_model(path)
    graph, x = capture(model.module, (4,)), torch.randn(3, 4)
    assert torch.allclose(execute(Program.of(graph, REFERENCE), x).logits.float(), model.module(x), atol=1e-6)


def test_a_mask_keeps_an_entry_of_every_row(tmp_path: Path) -> None:
    path = files.saved(_attention(np.array([[-np.inf, -np.inf], [0, 0]])), tmp_path)
    _refused(path, "holds a row of minus infinities in the tensor mask, and a mask must keep one entry of every row", UnusableModelError)


def test_nothing_is_computed_with_minus_infinity(tmp_path: Path) -> None:
    weight = np.ones((4, 3), np.float32)
    weight[0, 1] = -np.inf
    model = load_model(files.saved(files.model(NODES, {"w": weight}), tmp_path))
    with pytest.raises(UnusableModelError, match=r"holds infinity, and the node .* computes with it; minus infinity can be a mask"):
        capture(model.module, (4,))
