"""Small ONNX files, built by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPEN = "batch"


def node(kind: str, inputs: Sequence[str], outputs: Sequence[str] = ("y",), **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, list(inputs), list(outputs), **attributes)


def value(name: str, shape: Sequence[int | str | None] | None, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def model(
    nodes: Sequence[onnx.NodeProto],
    constants: Mapping[str, np.ndarray] | None = None,
    *,
    x: Sequence[int | str | None] | None = (OPEN, 4),
    opset: int = 13,
    **changes: Any,
) -> onnx.ModelProto:
    """A model from ``x`` to ``y``; `changes` replace inputs, outputs, functions or opset_imports."""
    initialisers = [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()]
    inputs = changes.pop("inputs", [value("x", x, changes.pop("kind", TensorProto.FLOAT))])
    graph = helper.make_graph(list(nodes), "graph", inputs, changes.pop("outputs", [value("y", None)]), initialisers)
    imports = changes.pop("opset_imports", [helper.make_opsetid("", opset)])
    return helper.make_model(graph, opset_imports=imports, ir_version=8, **changes)


def saved(proto: onnx.ModelProto, folder: Path, name: str = "net.onnx") -> Path:
    path = folder / name
    path.write_bytes(proto.SerializeToString())
    return path
