"""Exported programs for tests: small ones, and ways to spoil them."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

GRAPH = "models/model.json"
WEIGHTS = "data/weights/model_weights_config.json"
CONSTANTS = "data/constants/model_constants_config.json"


def small_net() -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(inplace=True), nn.Flatten(), nn.Dropout(), nn.Linear(72, 10))
    return net.eval()


def exported(net: nn.Module, shape: tuple[int, ...], *, free: bool = True, dtype: torch.dtype | None = None) -> bytes:
    """The bytes of a .pt2 file, its batch free unless told otherwise."""
    return saved(_program(net, shape, free=free, dtype=dtype))


def decomposed(net: nn.Module, shape: tuple[int, ...]) -> bytes:
    """The same after ``run_decompositions``, which leaves no operator that writes into its argument."""
    return saved(_program(net, shape).run_decompositions({}))


def in_both_forms(net: nn.Module, shape: tuple[int, ...]) -> tuple[bytes, bytes]:
    """As exported, and decomposed, from one export."""
    program = _program(net, shape)
    return saved(program), saved(program.run_decompositions({}))


def saved(program: torch.export.ExportedProgram) -> bytes:
    stream = io.BytesIO()
    torch.export.save(program, stream)
    return stream.getvalue()


def _program(
    net: nn.Module, shape: tuple[int, ...], *, free: bool = True, dtype: torch.dtype | None = None
) -> torch.export.ExportedProgram:
    dynamic = ({0: torch.export.Dim("batch")},) if free else None
    return torch.export.export(net, (torch.zeros(2, *shape, dtype=dtype),), dynamic_shapes=dynamic)


class Parts:
    """The entries of an exported program by name, its JSON parsed."""

    def __init__(self, data: bytes) -> None:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            self.entries: dict[str, bytes] = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
        self.graph: Any = json.loads(self.entries[GRAPH])
        self.weights: Any = json.loads(self.entries[WEIGHTS])
        self.constants: Any = json.loads(self.entries[CONSTANTS])

    @property
    def nodes(self) -> list[Any]:
        nodes: list[Any] = self.graph["graph_module"]["graph"]["nodes"]
        return nodes

    @property
    def values(self) -> Any:
        return self.graph["graph_module"]["graph"]["tensor_values"]

    @property
    def signature(self) -> Any:
        return self.graph["graph_module"]["signature"]

    def node(self, operator: str) -> Any:
        return next(node for node in self.nodes if f"aten.{operator}." in node["target"])

    def add(self, target: str, output: str = "extra", /, **arguments: Any) -> None:
        """Append a node, and make its result the output of the program."""
        inputs = [{"name": name, "arg": value, "kind": 1} for name, value in arguments.items()]
        self.nodes.append({"target": target, "inputs": inputs, "outputs": [tensor(output)], "metadata": {}})
        self.signature["output_specs"] = [{"user_output": {"arg": tensor(output)}}]

    def packed(self) -> bytes:
        contents = self.entries | {
            name: json.dumps(value).encode()
            for name, value in ((GRAPH, self.graph), (WEIGHTS, self.weights), (CONSTANTS, self.constants))
            if name in self.entries
        }
        return zipped({f"archive/{name}": content for name, content in contents.items()})


def zipped(entries: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return stream.getvalue()


def tensor(name: str) -> dict[str, Any]:
    return {"as_tensor": {"name": name}}


def spoiled(data: bytes, edit: Callable[[Parts], None]) -> bytes:
    """The program after a change to its parts."""
    parts = Parts(data)
    edit(parts)
    return parts.packed()
