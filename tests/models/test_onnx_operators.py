"""Every operator against onnx's own reference, in the versions in which its meaning changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_files as files
import pytest
import torch
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator

from precisionkit.errors import UnsupportedOperatorError
from precisionkit.models import load_model
from precisionkit.models.onnx.build import OPERATORS
from precisionkit.models.onnx.read import NEWEST

RNG = np.random.default_rng(0)


def weights(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def positive(*shape: int) -> np.ndarray:
    return RNG.uniform(0.5, 2, size=shape).astype(np.float32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def number(value: float) -> np.ndarray:
    return np.array(value, dtype=np.float32)


IMAGE = (2, 6, 5)
# name: operator, versions, shape of one input, further operands (None: left out), attributes
CASES: dict[str, tuple[str, tuple[int, ...], tuple[int, ...], tuple[np.ndarray | None, ...], dict[str, Any]]] = {
    "conv": ("Conv", (9, 11), IMAGE, (weights(3, 2, 3, 2), weights(3)), {"pads": [1, 0, 1, 0], "strides": [2, 1]}),
    "conv without bias": ("Conv", (11,), IMAGE, (weights(3, 2, 3, 3),), {"dilations": [2, 1]}),
    "conv in groups": ("Conv", (11,), IMAGE, (weights(4, 1, 3, 3), weights(4)), {"group": 2, "kernel_shape": [3, 3]}),
    "conv, uneven pads": ("Conv", (11,), IMAGE, (weights(3, 2, 3, 3),), {"pads": [0, 1, 1, 2]}),
    "conv, same upper": ("Conv", (11,), IMAGE, (weights(3, 2, 3, 3),), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    "conv, same lower": ("Conv", (11,), IMAGE, (weights(3, 2, 2, 2),), {"auto_pad": "SAME_LOWER"}),
    "conv, valid": ("Conv", (11,), IMAGE, (weights(3, 2, 2, 2),), {"auto_pad": "VALID"}),
    "conv 1d": ("Conv", (11,), (2, 9), (weights(3, 2, 3), weights(3)), {"strides": [2]}),
    "conv 3d": ("Conv", (11,), (2, 4, 4, 4), (weights(3, 2, 2, 2, 2),), {}),
    "transposed conv": (
        "ConvTranspose",
        (11,),
        IMAGE,
        (weights(2, 3, 3, 3), weights(3)),
        {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]},
    ),
    "gemm": ("Gemm", (9, 13), (4,), (weights(3, 4), weights(3)), {"transB": 1}),
    "gemm, other way": ("Gemm", (9, 13), (4,), (weights(4, 3), weights(1, 3)), {}),
    "gemm without bias": ("Gemm", (11, 13), (4,), (weights(4, 3),), {}),
    "gemm, one bias": ("Gemm", (13,), (4,), (weights(4, 3), weights(1)), {}),
    "gemm, scaled": ("Gemm", (13,), (4,), (weights(4, 3), weights(3)), {"alpha": 0.5, "beta": 2.0}),
    "matmul": ("MatMul", (9, 13), (5, 4), (weights(4, 3),), {}),
    "matmul, batched": ("MatMul", (13,), (2, 5, 4), (weights(2, 4, 3),), {}),
    "einsum": ("Einsum", (12,), (5, 4), (weights(3, 4),), {"equation": "bij,kj->bki"}),
    "layer norm": ("LayerNormalization", (17,), (3, 4), (weights(4), weights(4)), {"epsilon": 1e-3}),
    "layer norm, two axes": ("LayerNormalization", (17,), (3, 4), (weights(3, 4),), {"axis": -2}),
    "instance norm": ("InstanceNormalization", (9, 13), IMAGE, (weights(2), weights(2)), {"epsilon": 1e-3}),
    "group norm, by group": ("GroupNormalization", (18,), (4, 3, 3), (weights(2), weights(2)), {"num_groups": 2}),
    "group norm, by channel": ("GroupNormalization", (21,), (4, 3, 3), (weights(4), weights(4)), {"num_groups": 2}),
    "batch norm": (
        "BatchNormalization",
        (15,),
        IMAGE,
        (weights(2), weights(2), weights(2), positive(2)),
        {"epsilon": 1e-3},
    ),
    "max pool": ("MaxPool", (10, 12), IMAGE, (), {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    "max pool, rounded up": ("MaxPool", (12,), IMAGE, (), {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}),
    "max pool, uneven pads": ("MaxPool", (12,), IMAGE, (), {"kernel_shape": [2, 2], "pads": [0, 1, 1, 0]}),
    "max pool, dilated": ("MaxPool", (12,), IMAGE, (), {"kernel_shape": [2, 2], "dilations": [2, 2]}),
    "average pool": ("AveragePool", (10, 11), IMAGE, (), {"kernel_shape": [2, 2], "strides": [2, 2]}),
    "average pool, padded": ("AveragePool", (11, 19), IMAGE, (), {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
    "average pool, padding counts": (
        "AveragePool",
        (11,),
        IMAGE,
        (),
        {"kernel_shape": [3, 3], "pads": [1, 0, 0, 1], "count_include_pad": 1},
    ),
    "global average": ("GlobalAveragePool", (9,), IMAGE, (), {}),
    "global max": ("GlobalMaxPool", (9,), IMAGE, (), {}),
    "mean": ("ReduceMean", (11,), (3, 4), (), {"axes": [1], "keepdims": 0}),
    "mean, axes as operand": ("ReduceMean", (18,), (3, 4), (ints(-1),), {}),
    "sum": ("ReduceSum", (11,), (3, 4), (), {"axes": [2]}),
    "sum, axes as operand": ("ReduceSum", (13,), (3, 4), (ints(1),), {"keepdims": 0}),
    "sum over nothing": ("ReduceSum", (13,), (3, 4), (), {"noop_with_empty_axes": 1}),
    "max over axes": ("ReduceMax", (13, 17), (3, 4), (), {"axes": [1]}),
    "min over axes": ("ReduceMin", (18,), (3, 4), (ints(1, 2),), {}),
    "softmax, rest as one row": ("Softmax", (9, 11), (3, 4), (), {"axis": 1}),
    "softmax, last axis": ("Softmax", (11, 13), (3, 4), (), {"axis": 2}),
    "softmax, other default": ("Softmax", (13,), (3, 4), (), {}),
    "softmax, old default": ("Softmax", (11,), (3, 4), (), {}),
    "log softmax": ("LogSoftmax", (11, 13), (3, 4), (), {"axis": 1}),
    "clip by attributes": ("Clip", (9,), (4,), (), {"min": -0.5, "max": 0.5}),
    "clip from below": ("Clip", (9,), (4,), (), {"min": -0.5}),
    "clip by operands": ("Clip", (11, 13), (4,), (number(-0.5), number(0.5)), {}),
    "clip from above": ("Clip", (13,), (4,), (None, number(0.5)), {}),
    "clip by nothing": ("Clip", (13,), (4,), (), {}),
    "clip, crossed bounds": ("Clip", (13,), (4,), (number(0.5), number(-0.5)), {}),
    "leaky relu": ("LeakyRelu", (9,), (4,), (), {"alpha": 0.2}),
    "elu": ("Elu", (9,), (4,), (), {"alpha": 0.7}),
    "celu": ("Celu", (12,), (4,), (), {"alpha": 0.7}),
    "selu": ("Selu", (9,), (4,), (), {}),
    "prelu": ("PRelu", (9, 16), IMAGE, (weights(2, 1, 1),), {}),
    "prelu, one slope": ("PRelu", (16,), IMAGE, (weights(1),), {}),
    "hard sigmoid": ("HardSigmoid", (9,), (4,), (), {}),
    "hard sigmoid of torch": ("HardSigmoid", (9,), (4,), (), {"alpha": 1 / 6}),
    "hard swish": ("HardSwish", (14,), (4,), (), {}),
    "mish": ("Mish", (18,), (4,), (), {}),
    "gelu": ("Gelu", (20,), (4,), (), {}),
    "gelu by tanh": ("Gelu", (20,), (4,), (), {"approximate": "tanh"}),
    "dropout": ("Dropout", (9, 12), (4,), (), {}),
    "add": ("Add", (9, 14), (3, 4), (weights(4),), {}),
    "add a number": ("Add", (13,), (3, 4), (number(0.3),), {}),
    "sub": ("Sub", (13,), (3, 4), (weights(3, 1),), {}),
    "mul": ("Mul", (13,), (3, 4), (weights(1, 3, 4),), {}),
    "div": ("Div", (13,), (3, 4), (positive(4),), {}),
    "div by a number": ("Div", (13,), (3, 4), (number(0.3),), {}),
    "square": ("Pow", (9, 13), (4,), (number(2),), {}),
    "max": ("Max", (9, 13), (4,), (weights(4), weights(1)), {}),
    "max with a number": ("Max", (13,), (4,), (number(0.1),), {}),
    "min with a number": ("Min", (13,), (4,), (number(0.1),), {}),
    "sum of three": ("Sum", (9, 13), (4,), (weights(4), weights(4)), {}),
    "fmod": ("Mod", (13,), (4,), (positive(4),), {"fmod": 1}),
    "reshape": ("Reshape", (9, 13), (3, 4), (ints(0, 2, -1),), {}),
    "reshape, batch left over": ("Reshape", (13, 14), (3, 4), (ints(-1, 6, 2),), {}),
    "flatten": ("Flatten", (9, 13), (3, 4), (), {}),
    "flatten from axis 2": ("Reshape", (13,), (3, 4), (ints(0, 12),), {}),
    "transpose": ("Transpose", (9,), (3, 4), (), {"perm": [0, 2, 1]}),
    "squeeze": ("Squeeze", (11,), (1, 4), (), {"axes": [1]}),
    "squeeze, axes as operand": ("Squeeze", (13,), (4, 1), (ints(-1),), {}),
    "squeeze all": ("Squeeze", (13,), (1, 4), (), {}),
    "unsqueeze": ("Unsqueeze", (11,), (3, 4), (), {"axes": [1, 4]}),
    "unsqueeze, axes as operand": ("Unsqueeze", (13,), (3, 4), (ints(-1, 1),), {}),
    "expand": ("Expand", (9,), (1, 4), (ints(1, 3, 1),), {}),
    "tile": ("Tile", (9,), (3, 4), (ints(1, 2, 1),), {}),
    "slice by attributes": ("Slice", (9,), (3, 4), (), {"axes": [1, 2], "starts": [1, -3], "ends": [9999, -1]}),
    "slice by operands": ("Slice", (10, 13), (5, 4), (ints(4, 0), ints(-9999, 3), ints(1, 2), ints(-2, 2)), {}),
    "slice of the whole batch": ("Slice", (13,), (5, 4), (ints(0, 1), ints(2**63 - 1, 3)), {}),
    "gather one": ("Gather", (9, 13), (3, 4), (np.array(-1),), {"axis": 1}),
    "gather several": ("Gather", (13,), (3, 4), (ints(2, 0, 0, -1),), {"axis": 2}),
    "gather a matrix": ("Gather", (13,), (3, 4), (np.array([[0, 1], [2, 2]]),), {"axis": 1}),
    "pad by attributes": ("Pad", (9,), (3, 4), (), {"pads": [0, 1, 0, 0, 0, 2], "value": 0.5}),
    "pad by operands": ("Pad", (11, 13), (3, 4), (ints(0, 1, 0, 0, 0, 2), number(0.5)), {}),
    "pad, reflected": ("Pad", (13,), (3, 4), (ints(0, 0, 1, 0, 0, 2),), {"mode": "reflect"}),
    "pad with the edge": ("Pad", (13,), (3, 4), (ints(0, 0, 1, 0, 0, 2),), {"mode": "edge"}),
    "pad along axes": ("Pad", (18,), (3, 4), (ints(1, 2), None, ints(2)), {}),
    "pad nothing": ("Pad", (13,), (3, 4), (ints(0, 0, 0, 0, 0, 0),), {}),
    "nearest": (
        "Resize",
        (13,),
        IMAGE,
        (None, np.array([1, 1, 2, 2], np.float32)),
        {"nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"},
    ),
    "nearest, half pixels": ("Resize", (11, 13), IMAGE, (None, None, ints(3, 2, 9, 5)), {}),
    "nearest, ceil": (
        "Resize",
        (13,),
        IMAGE,
        (None, None, ints(3, 2, 4, 7)),
        {"nearest_mode": "ceil", "coordinate_transformation_mode": "align_corners"},
    ),
    "nearest, prefer ceil": ("Resize", (13,), IMAGE, (None, None, ints(3, 2, 4, 10)), {"nearest_mode": "round_prefer_ceil"}),
    "linear": (
        "Resize",
        (11, 13),
        IMAGE,
        (None, None, ints(3, 2, 9, 4)),
        {"mode": "linear", "coordinate_transformation_mode": "half_pixel"},
    ),
    "linear, corners": (
        "Resize",
        (13,),
        IMAGE,
        (None, None, ints(3, 2, 9, 4)),
        {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
    ),
    "linear, axes": ("Resize", (18,), IMAGE, (None, None, ints(9, 4)), {"mode": "linear", "axes": [2, 3]}),
    "old upsample": ("Upsample", (9,), IMAGE, (np.array([1, 1, 2, 3], np.float32),), {}),
    "old resize": ("Resize", (10,), IMAGE, (np.array([1, 1, 2, 3], np.float32),), {}),
    "depth to space": ("DepthToSpace", (11, 13), (8, 2, 3), (), {"blocksize": 2}),
    "depth to space, by columns": ("DepthToSpace", (13,), (8, 2, 3), (), {"blocksize": 2, "mode": "CRD"}),
    "space to depth": ("SpaceToDepth", (13,), (2, 4, 6), (), {"blocksize": 2}),
    "upper triangle": ("Trilu", (14,), (3, 4), (np.array(1),), {}),
    "lower triangle": ("Trilu", (14,), (3, 4), (), {"upper": 0}),
    **{
        kind.lower(): (kind, (13,), (4,), (), {})
        for kind in ("Abs", "Ceil", "Cos", "Erf", "Exp", "Floor", "Identity", "Neg", "Reciprocal", "Relu")
    },
    **{kind.lower(): (kind, (13,), (4,), (), {}) for kind in ("Sigmoid", "Sign", "Sin", "Softplus", "Softsign", "Tanh")},
}
# written as old versions want it, with attributes in the place of operands or other defaults
OLD_FORMS = {"group norm, by group", "mean", "sum", "max over axes", "clip by attributes", "clip from below", "squeeze", "unsqueeze"}
OLD_FORMS |= {"slice by attributes", "pad by attributes", "old upsample", "old resize"}
# the reference knows the later meanings of these alone; they are checked by hand below
RESIZED = [("old upsample", 9), ("old resize", 10)]
ROWS = [("softmax, rest as one row", 9), ("softmax, rest as one row", 11), ("softmax, old default", 11), ("log softmax", 11)]


def _model(case: str, opset: int) -> onnx.ModelProto:
    kind, _, shape, rest, attributes = CASES[case]
    names = ["" if array is None else f"c{i}" for i, array in enumerate(rest)]
    if kind == "Resize" and opset >= 11 and len(names) > 1 and not names[0]:
        names[0] = "roi"  # versions before 13 want it there, empty
    constants = {f"c{i}": array for i, array in enumerate(rest) if array is not None} | {"roi": np.zeros(0, np.float32)}
    if kind == "Resize" and opset >= 11 and len(names) == 3 and not names[1]:
        names[1] = "none"
        constants["none"] = np.zeros(0, np.float32)
    return files.model(
        [files.node(kind, ["x", *names], ["h"], **attributes), files.node("Flatten", ["h"], ["y"], axis=1)],
        {name: array for name, array in constants.items() if name in names},
        x=(3 if kind == "Resize" and opset >= 11 else files.OPEN, *shape),  # sizes name the batch
        opset=opset,
    )


def _input(shape: tuple[int, ...], batch: int = 3) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(batch, *shape)).astype(np.float32)


@pytest.mark.parametrize(
    ("case", "opset"), [(name, opset) for name, case in CASES.items() for opset in case[1] if (name, opset) not in (*RESIZED, *ROWS)]
)
def test_an_operator_computes_what_the_reference_does(tmp_path: Path, case: str, opset: int) -> None:
    proto = _model(case, opset)
    x = _input(CASES[case][2])
    (wanted,) = ReferenceEvaluator(proto).run(None, {"x": x})
    found = load_model(files.saved(proto, tmp_path)).module(torch.from_numpy(x)).numpy()
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("case", sorted(CASES.keys() - OLD_FORMS))
def test_an_operator_means_the_same_in_the_newest_version(tmp_path: Path, case: str) -> None:
    test_an_operator_computes_what_the_reference_does(tmp_path, case, NEWEST)


def test_every_operator_is_tried() -> None:
    elsewhere = {"And", "Cast", "CastLike", "Concat", "ConstantOfShape", "Equal", "GatherElements", "Greater", "GreaterOrEqual"}
    elsewhere |= {"Less", "LessOrEqual", "Log", "Not", "Or", "Range", "ScatterND", "Split", "Sqrt", "Where"}
    assert elsewhere | {case[0] for case in CASES.values()} >= set(OPERATORS)


GRAPHS: dict[str, tuple[list[onnx.NodeProto], dict[str, np.ndarray], int]] = {
    "comparisons": (
        [
            files.node("Greater", ["x", "a"], ["g"]),
            files.node("LessOrEqual", ["x", "b"], ["l"]),
            files.node("GreaterOrEqual", ["x", "b"], ["ge"]),
            files.node("Less", ["x", "a"], ["lt"]),
            files.node("And", ["g", "l"], ["and"]),
            files.node("Or", ["ge", "lt"], ["or"]),
            files.node("Not", ["or"], ["not"]),
            files.node("Where", ["and", "x", "a"], ["w"]),
            files.node("Where", ["not", "w", "b"], ["y"]),
        ],
        {"a": weights(4), "b": weights(4)},
        16,
    ),
    "equal and cast": (
        [
            files.node("Equal", ["x", "a"], ["e"]),
            files.node("Cast", ["e"], ["f"], to=TensorProto.FLOAT),
            files.node("Add", ["f", "x"], ["y"]),
        ],
        {"a": weights(4)},
        13,
    ),
    "root and logarithm": (
        [files.node("Abs", ["x"], ["a"]), files.node("Sqrt", ["a"], ["s"]), files.node("Log", ["s"], ["y"])],
        {},
        13,
    ),
    "split, new": (
        [files.node("Split", ["x", "parts"], ["", "b"], axis=1), files.node("Concat", ["b", "x", "b"], ["y"], axis=-1)],
        {"parts": ints(1, 3)},
        13,
    ),
    "split, old": (
        [files.node("Split", ["x"], ["a", "b"], axis=1, split=[1, 3]), files.node("Concat", ["b", "a"], ["y"], axis=1)],
        {},
        11,
    ),
    "split, unequal": (
        [files.node("Split", ["x"], ["a", "b", "c"], axis=1, num_outputs=3), files.node("Concat", ["c", "b", "a"], ["y"], axis=1)],
        {},
        18,
    ),
    "computed constants": (
        [
            files.node("Range", ["zero", "four", "one"], ["r"]),
            files.node("CastLike", ["r", "w"], ["f"]),
            files.node("ScatterND", ["w", "place", "update"], ["s"]),
            files.node("GatherElements", ["s", "order"], ["g"], axis=0),
            files.node("Mul", ["f", "g"], ["m"]),
            files.node("Add", ["x", "m"], ["y"]),
        ],
        {
            "zero": np.array(0),
            "four": np.array(4),
            "one": np.array(1),
            "w": weights(4),
            "place": np.array([[2]]),
            "update": weights(1),
            "order": ints(3, -2, 1, 0),
        },
        16,
    ),
    "shape arithmetic": (
        [
            files.node("Shape", ["x"], ["s"]),
            files.node("Gather", ["s", "zero"], ["b"]),
            files.node("Unsqueeze", ["b", "axis"], ["bb"]),
            files.node("Mul", ["bb", "two"], ["bbb"]),
            files.node("Concat", ["bbb", "rest"], ["shape"], axis=0),
            files.node("Reshape", ["x", "shape"], ["h"]),
            files.node("Relu", ["h"], ["r"]),
            files.node("Slice", ["s", "axis", "one"], ["first"]),
            files.node("Concat", ["first", "left"], ["back"], axis=0),
            files.node("Reshape", ["r", "back"], ["y"]),
        ],
        {"zero": np.array(0), "axis": ints(0), "one": ints(1), "two": ints(2), "rest": ints(2), "left": ints(-1)},
        13,
    ),
    "expanded by the batch": (
        [
            files.node("Shape", ["x"], ["s"]),
            files.node("ConstantOfShape", ["s"], ["c"], value=onnx.numpy_helper.from_array(np.array([2.5], np.float32))),
            files.node("Equal", ["s", "minus"], ["e"]),
            files.node("Where", ["e", "minus", "s"], ["size"]),
            files.node("Expand", ["token", "size"], ["t"]),
            files.node("Concat", ["c", "t", "x"], ["y"], axis=1),
        ],
        {"minus": ints(-1, -1), "token": weights(1, 4)},
        13,
    ),
}


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("batch", [1, 3])
def test_a_graph_computes_what_the_reference_does(tmp_path: Path, name: str, batch: int) -> None:
    nodes, constants, opset = GRAPHS[name]
    proto = files.model(nodes, constants, opset=opset)
    x = _input((4,), batch)
    (wanted,) = ReferenceEvaluator(proto).run(None, {"x": x})
    np.testing.assert_allclose(load_model(files.saved(proto, tmp_path)).module(torch.from_numpy(x)).numpy(), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("case", "opset"), RESIZED)
def test_old_resizing_repeats_entries(tmp_path: Path, case: str, opset: int) -> None:
    x = _input(IMAGE)
    found = load_model(files.saved(_model(case, opset), tmp_path)).module(torch.from_numpy(x))
    assert np.array_equal(found.numpy(), x.repeat(2, axis=2).repeat(3, axis=3).reshape(3, -1))


@pytest.mark.parametrize(("case", "opset"), ROWS)
def test_old_softmax_takes_the_rest_for_one_row(tmp_path: Path, case: str, opset: int) -> None:
    x = torch.from_numpy(_input((3, 4)))
    function = torch.log_softmax if case.startswith("log") else torch.softmax
    assert torch.equal(load_model(files.saved(_model(case, opset), tmp_path)).module(x), function(x.flatten(1), 1))


@pytest.mark.parametrize("opset", [9, 13])
def test_batch_normalisation_of_old_versions(tmp_path: Path, opset: int) -> None:
    """The reference takes these for training, by their momentum; one result means evaluation."""
    found = load_model(files.saved(_model("batch norm", opset), tmp_path))
    scale, bias, mean, variance = (torch.from_numpy(array) for array in CASES["batch norm"][3] if array is not None)
    x = torch.from_numpy(_input(IMAGE))
    wanted = torch.nn.functional.batch_norm(x, mean, variance, scale, bias, eps=float(np.float32(1e-3)))
    assert torch.equal(found.module(x), wanted.flatten(1))
    assert found.parameters == 4
    assert {name for name, _ in found.module.named_buffers()} == {"c2_running_mean", "c3_running_var"}


def test_one_image_chosen_for_all(tmp_path: Path) -> None:
    nodes = [files.node("Gather", ["x", "first"], ["g"], axis=0), files.node("Add", ["g", "g"], ["y"])]
    with pytest.raises(UnsupportedOperatorError, match=r"the node 'g' \(Gather\) works along the batch"):
        load_model(files.saved(files.model(nodes, {"first": ints(0)}), tmp_path))


def test_tokens(tmp_path: Path) -> None:
    nodes = [files.node("Gather", ["table", "x"], ["e"]), files.node("ReduceMean", ["e"], ["y"], axes=[1], keepdims=0)]
    proto = files.model(nodes, {"table": weights(7, 5)}, x=(files.OPEN, 4), kind=TensorProto.INT64)
    tokens = torch.tensor([[0, 1, 2, 6], [3, 3, 3, 3]])
    model = load_model(files.saved(proto, tmp_path))
    (wanted,) = ReferenceEvaluator(proto).run(None, {"x": tokens.numpy()})
    np.testing.assert_allclose(model.module(tokens).numpy(), wanted, rtol=1e-6)


REFUSED = {
    "resizing by other coordinates": ("Resize", 13, IMAGE, (None, None, ints(3, 2, 9, 4)), {"mode": "linear", "coordinate_transformation_mode": "asymmetric"}, "coordinates asymmetric, which torch lacks"),
    "cubic resizing": ("Resize", 13, IMAGE, (None, None, ints(3, 2, 9, 4)), {"mode": "cubic"}, "mode cubic, but nearest and linear"),
    "resizing the channels": ("Resize", 13, IMAGE, (None, None, ints(3, 4, 9, 4)), {}, "resizes the batch or the channels"),
    "averages of uneven pads": ("AveragePool", 11, IMAGE, (), {"kernel_shape": [2, 2], "pads": [0, 0, 1, 1]}, "different numbers of terms"),
    "a last window in the padding": ("MaxPool", 12, IMAGE, (), {"kernel_shape": [2, 2], "strides": [3, 3], "pads": [1, 1, 1, 1], "ceil_mode": 1}, "padding alone"),
    "training": ("BatchNormalization", 15, IMAGE, (weights(2),) * 4, {"training_mode": 1}, "export the network in evaluation mode"),
    "slicing the batch": ("Slice", 13, (4,), (ints(1), ints(3), ints(0)), {}, "takes a part of the batch"),
    "padding the batch": ("Pad", 13, (4,), (ints(1, 0, 0, 0),), {}, "pads the batch"),
    "gathering beyond the end": ("Gather", 13, (4,), (ints(4),), {"axis": 1}, "takes a place beyond 4"),
    "an axis that is not there": ("Softmax", 13, (4,), (), {"axis": 3}, "names the axis 3 of 2"),
    "casting to half": ("Cast", 13, (4,), (), {"to": TensorProto.FLOAT16}, "casts to the ONNX type 10, but only float32"),
    "casting to double": ("Cast", 13, (4,), (), {"to": TensorProto.DOUBLE}, r"computes in torch\.float64, but a float32 program"),
    "sums that run on": ("CumSum", 13, (4,), (np.array(1),), {}, "is an operator that is not supported; certify the network that the file was exported from"),
    "a recurrent network": ("GRU", 14, (4, 4), (weights(1, 12, 4), weights(1, 12, 4)), {"hidden_size": 4}, "is an operator that is not supported"),
    "reshaping to another size": ("Reshape", 13, (4,), (ints(0, 5),), {}, "makes the shape"),
    "huge results": ("Tile", 13, (4,), (ints(1, 2**30),), {}, "makes 4294967296 batch numbers, more than the"),
    "huge upsampling": ("Resize", 13, IMAGE, (None, None, ints(3, 2, 2**31, 5)), {}, "resizes to"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_imported_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    kind, opset, shape, rest, attributes, message = REFUSED[case]
    monkeypatch.setitem(CASES, case, (kind, (opset,), shape, rest, attributes))
    with pytest.raises(UnsupportedOperatorError, match=f"cannot be imported: the node 'h' \\({kind}\\) .*{message}"):
        load_model(files.saved(_model(case, opset), tmp_path))
