"""The names of kept nodes in ONNX files, for the lists that converters take: all of them, or none with the reason why."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from precisionkit.graph import Graph
from precisionkit.mixed import Keep, can_keep, mixed
from precisionkit.models.onnx.network import Network
from precisionkit.tune.exported import EXPORTED, Unmatched, exported

_SUMS = "Converters cannot keep sums alone, so nodes of which only those are kept have no names in their lists."


@dataclass(frozen=True)
class Names:
    """Names for converters.

    Attributes
    ----------
    names : tuple of str
        Of nodes of one ONNX file, each once.
    about : str
        Of which file they are, or why there are none; empty where nothing is to be said.
    """

    names: tuple[str, ...] = ()
    about: str = ""


def converter_names(module: nn.Module, graph: Graph, keep: Keep) -> Names:
    """Name the nodes that a converter has to keep in binary32.

    Of a model that was read from an ONNX file they are nodes of that file.  Any other is exported, and the names are those of the
    exported file, if it is found to be the same network.

    Parameters
    ----------
    module : nn.Module
    graph : Graph
        As it was captured.
    keep : Keep
    """
    sums = [_SUMS] if keep.sums - keep.nodes else []
    if not keep.nodes:
        return Names(about="".join(sums))
    try:
        if isinstance(module, Network):
            return Names(_in_file(module, graph, keep.nodes), "".join(sums))
        network, own, found = exported(module, graph)
        return Names(_in_file(network, own, frozenset(found[name] for name in keep.nodes)), " ".join([EXPORTED, *sums]))
    except Unmatched as reason:
        return Names(about=" ".join([f"There are no names for converters: {reason}.", *sums]))


def _in_file(network: Network, graph: Graph, kept: frozenset[str]) -> tuple[str, ...]:
    """All names of the nodes that compute what is kept, and of those that pass it on unrounded."""
    wide = mixed(graph, Keep(kept)).wide
    paths = {node.name: node.module for node in graph.nodes}
    modules = {paths[name] for name in paths if name in wide and name not in graph.hidden}
    for node in graph.nodes:
        if node.name in wide and node.name not in graph.hidden and not node.module:
            raise Unmatched(f"the {node} cannot be traced to a node of the file; export the model otherwise, and run tune on that file")
        if node.module in modules and node.name not in wide and can_keep(graph, node):
            raise Unmatched(f"the plan keeps a part of the file's node that the {node} is of, and a converter the whole")
    found = network.nodes_of(modules, set(paths.values()) - modules)
    for one in found:
        if not one.own:
            raise Unmatched(
                f"in the file, {one} has no name of its own; give each node a name that no other has, and run tune on that file"
            )
    return tuple(one.own for one in found)


def patterns(names: Sequence[str]) -> tuple[str, ...]:
    """Regular expressions, each of which matches one name alone."""
    return tuple(f"^{re.escape(name)}$" for name in names)
