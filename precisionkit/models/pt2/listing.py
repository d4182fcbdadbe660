"""An exported program as its file lists it, operators that cannot be called included."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from precisionkit.models.files import ModelFile, shown
from precisionkit.models.outline import Listed, Outline
from precisionkit.models.pt2 import operators
from precisionkit.models.pt2.read import open_program, read_weights
from precisionkit.models.pt2.schema import DTYPES, Call, TensorMeta, decode
from precisionkit.models.pt2.steps import first_name, objection


def list_program(file: ModelFile) -> Outline:
    """List an exported program; UnusableModelError where its file is damaged."""
    where = f"The model file {file.path}"
    opened = open_program(file, where)
    graph = opened.graph
    makers: dict[str, str] = {opened.start: opened.start}
    found = []
    for call in graph.nodes:
        if operators.base_name(call.target) in operators.SKIPPED:
            continue
        name = first_name(call, where)
        read = [makers[item] for item in _names([item.arg for item in call.inputs]) if item in makers]
        makers |= dict.fromkeys(_names(call.outputs), name)
        reason = objection(call, where)
        if name not in graph.tensor_values and not reason:
            continue  # sizes
        shape, dtype = _described(graph.tensor_values.get(name), where)
        found.append(Listed(shown(name), shown(_target(call)), shape, dtype, tuple(dict.fromkeys(read)), reason))
    return Outline(
        path=file.path,
        sha256=file.sha256,
        arch="exported program",
        parameters=sum(tensor.numel() for tensor in read_weights(file).values() if tensor.is_floating_point()),
        input=opened.start,
        input_shape=opened.shape,
        input_dtype=str(opened.dtype).removeprefix("torch."),
        operators=tuple(found),
    )


def _target(call: Call) -> str:
    return call.target.removeprefix("torch.ops.")


def _names(value: Any) -> Iterator[str]:
    """Names in any arguments or results, of whichever types."""
    if isinstance(value, msgspec.Raw):
        yield from _names(msgspec.json.decode(value))
    elif isinstance(value, dict):
        for key, item in value.items():
            if key in ("name", "as_name") and isinstance(item, str):
                yield item
            else:
                yield from _names(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _names(item)


def _described(meta: msgspec.Raw | None, where: str) -> tuple[tuple[str, ...], str]:
    if meta is None:
        return (), ""
    found = decode(meta, TensorMeta, "the shape of a result", where)
    sizes = tuple("n" if size.as_expr is not None and size.as_expr.is_symbol else str(size) for size in found.sizes)
    return sizes, str(DTYPES.get(found.dtype, "")).removeprefix("torch.")
