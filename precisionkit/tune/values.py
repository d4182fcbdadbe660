"""Which values of a network are rounded together, who reads them, and in which order keeping them pays most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from precisionkit.graph import Graph


@dataclass(frozen=True)
class Value:
    """Nodes whose rounding errors reach the rest of the network through one value.

    Attributes
    ----------
    name : str
        The last of the nodes.
    parts : frozenset of str
        A dot product, say, with the normalisation, the addition and the ReLU behind it, and what kernels compute on the way.
    nodes : frozenset of str
        Those of them that round and store.
    readers : frozenset of str
        Nodes that round, and read the value, perhaps through others that do not.
    """

    name: str
    parts: frozenset[str]
    nodes: frozenset[str]
    readers: frozenset[str]

    @property
    def kept(self) -> frozenset[str]:
        """What has to be of binary32 so that the value is rounded to binary32 alone."""
        return self.nodes | self.readers


def values_of(graph: Graph) -> tuple[Value, ...]:
    """Split a network into values, in its order."""
    uses = [name for node in graph.nodes for name in node.operands]
    ends: dict[str, str] = {}
    for node in reversed(graph.nodes):
        ends.setdefault(node.name, node.name)
        for name in node.operands:
            if name is not None and (name in graph.hidden or (uses.count(name) == 1 and graph.is_pointwise(node))):
                ends[name] = ends[node.name]
    rounding = {node.name for node in graph.nodes if node.record.stores and not node.record.hidden}
    members: dict[str, set[str]] = {}
    for node in graph.nodes:
        members.setdefault(ends[node.name], set()).add(node.name)
    readers = _readers(graph, rounding)
    made = [Value(end, frozenset(parts), frozenset(parts & rounding), readers[end] - parts) for end, parts in members.items()]
    return tuple(value for value in made if value.nodes)


def _readers(graph: Graph, rounding: set[str]) -> dict[str, frozenset[str]]:
    """For each node, the nodes that round and read it, directly or through others that do not."""
    readers: dict[str, frozenset[str]] = {}
    for node in reversed(graph.nodes):
        direct = [other for other in graph.nodes if node.name in other.operands]
        found = (frozenset({other.name}) if other.name in rounding else readers[other.name] for other in direct)
        readers[node.name] = frozenset[str]().union(*found)
    return readers


def shares_of(values: Sequence[Value], ends: Mapping[str, float]) -> dict[str, float]:
    """Add what nodes contribute to what their value does; `ends` are contributions by node, of any node."""
    inside = {name: value.name for value in values for name in value.parts}
    found = dict.fromkeys((value.name for value in values), 0.0)
    for name, share in ends.items():
        if name in inside:
            found[inside[name]] += share
    return found


def family(values: Sequence[Value], shares: Mapping[str, float]) -> tuple[frozenset[str], ...]:
    """Return growing sets of nodes, from none to all that matter: at each step, the value that takes most off for each node it adds.

    Parameters
    ----------
    shares : mapping of str to float
        What the rounding of each value adds to the bounds.
    """
    kept, left, sets = frozenset[str](), list(values), [frozenset[str]()]
    while left:
        best = max(left, key=lambda value: _worth(value, kept, left, shares))
        kept |= best.kept
        left = [value for value in left if not value.kept <= kept]
        sets.append(kept)
    return tuple(sets)


def _worth(value: Value, kept: frozenset[str], left: Sequence[Value], shares: Mapping[str, float]) -> float:
    grown = kept | value.kept
    gain = sum(shares[other.name] for other in left if other.kept <= grown)
    return gain / len(grown - kept)
