"""The names of a network's nodes in ONNX files, and the lists that converters take."""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import nn

from precisionkit.models.onnx.network import Network
from precisionkit.report.plan import KeptNode


def onnx_names(module: nn.Module, nodes: Sequence[KeptNode]) -> tuple[str, ...]:
    """Return the names of the nodes in an ONNX file, each once.

    Of a model that was read from an ONNX file they are the file's own; of others those that ``torch.onnx.export`` (dynamo) gives, which
    are ``node_`` and the name of the exported program's node.
    """
    if isinstance(module, Network):
        own = module.names_by_module
        return tuple(dict.fromkeys(own[node.module] for node in nodes if own.get(node.module)))
    return tuple(dict.fromkeys(f"node_{node.name}" for node in nodes))


def patterns(names: Sequence[str]) -> tuple[str, ...]:
    """Regular expressions, each of which matches one name alone."""
    return tuple(f"^{re.escape(name)}$" for name in names)
