"""Half programs that keep some nodes in binary32: which values are of which format, and casts where the two meet.

A kept node reads binary32 weights, sums in binary32 and stores binary32; what half nodes read of it is rounded once, by a cast.  An
operator that rounds nothing has the format of what it reads.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from precisionkit.errors import UsageError
from precisionkit.graph import Graph, Node

CAST = "cast"


@dataclass(frozen=True)
class Keep:
    """What a half program keeps in binary32.

    Attributes
    ----------
    nodes : frozenset of str
        Nodes whose weights, sums and results are of binary32.
    sums : frozenset of str
        Nodes that store half numbers but sum in binary32, where the arithmetic sums in a shorter format.
    """

    nodes: frozenset[str] = frozenset()
    sums: frozenset[str] = frozenset()

    @classmethod
    def of(cls, nodes: Iterable[str] = (), sums: Iterable[str] = ()) -> Keep:
        """From names in any order."""
        return cls(frozenset(nodes), frozenset(sums))

    def __bool__(self) -> bool:
        return bool(self.nodes or self.sums)


NOTHING = Keep()


@dataclass(frozen=True)
class Mixed:
    """A graph whose nodes are of two formats.

    Attributes
    ----------
    graph : Graph
        With a cast behind every value of binary32 that a half node reads.
    wide : frozenset of str
        Nodes, constants, and perhaps the input, that are of binary32.
    """

    graph: Graph
    wide: frozenset[str]


def check_keep(graph: Graph, keep: Keep) -> None:
    """Check that what is to be kept is there.

    Raises
    ------
    UsageError
        A name is that of no node, of one that rounds nothing, or of none that sums.
    """
    known = {node.name: node for node in graph.nodes if not node.record.hidden}
    for name in sorted(keep.nodes | keep.sums):
        if name not in known:
            some = ", ".join([*known][:8]) + (", ..." if len(known) > 8 else "")
            raise UsageError(
                f"The network has no node '{name}' to keep in binary32; 'precisionkit inspect' lists its {len(known)} nodes: {some}."
            )
    for name in sorted(keep.nodes):
        if not can_keep(graph, known[name]):
            raise UsageError(f"The {known[name]} rounds nothing, and has the format of what it reads; keep a node before or behind it.")
    for name in sorted(keep.sums):
        if known[name].record.products is None:
            raise UsageError(f"The {known[name]} has no sums of products to keep in binary32; keep the whole node (--keep-fp32).")


def can_keep(graph: Graph, node: Node) -> bool:
    """Whether keeping a node changes something: it rounds, or reads weights."""
    return not node.record.hidden and (node.record.stores or any(name in graph.constants for name in node.operands))


def mixed(graph: Graph, keep: Keep) -> Mixed:
    """Tell which values are of binary32, and cast them for the nodes that are not.

    Raises
    ------
    UsageError
        As `check_keep`.
    """
    check_keep(graph, keep)
    if not keep.nodes:
        return Mixed(graph, frozenset())
    wide = _wide(graph, keep.nodes)
    return _with_casts(graph, wide)


def _wide(graph: Graph, kept: frozenset[str]) -> frozenset[str]:
    """Values of binary32: results of kept nodes, what moves them on unrounded, and the input where a kept node reads it."""
    read_wide = not graph.tokens and graph.input in _read_unrounded(graph, kept)
    wide = {graph.input} if read_wide else set[str]()
    for node in graph.nodes:
        follows = not node.record.stores and not node.record.hidden and any(name in wide for name in node.operands)
        if follows or (node.name in kept and can_keep(graph, node)):
            wide.add(node.name)
    for node in reversed(graph.nodes):  # what a kernel computes on the way is of the kernel's own format
        if node.name in wide:
            wide |= {name for name in node.operands if name in graph.hidden}
    return frozenset(wide)


def _read_unrounded(graph: Graph, kept: frozenset[str]) -> set[str]:
    """What kept nodes read, through nodes that round nothing, or inside kernels."""
    read: set[str] = set()
    for node in reversed(graph.nodes):
        passes = node.name in read and (not node.record.stores or node.record.hidden)
        if (node.name in kept and can_keep(graph, node)) or passes:
            read |= {name for name in node.operands if name is not None}
    return read


def _with_casts(graph: Graph, wide: frozenset[str]) -> Mixed:
    nodes: list[Node] = []
    constants = dict(graph.constants)
    kept_constants: set[str] = set()
    narrow_readers = [node for node in graph.nodes if node.name not in wide]
    cast = {name for node in narrow_readers for name in node.operands if name in wide}
    shared = {name for node in narrow_readers for name in node.operands if name in graph.constants}
    if graph.input in cast:
        nodes.append(_cast(graph.input, graph.input_shape))
    for node in graph.nodes:
        if node.name in wide:
            names = {name: _own(name) if name in shared else name for name in node.operands if name is not None and name in constants}
            kept_constants |= set(names.values())
            constants |= {own: graph.constants[name] for name, own in names.items()}
        else:
            names = {name: _cast_of(name) for name in node.operands if name in cast and name is not None}
        nodes.append(replace(node, operands=tuple(name if name is None else names.get(name, name) for name in node.operands)))
        if node.name in cast:
            nodes.append(_cast(node.name, node.shape))
    return Mixed(replace(graph, nodes=tuple(nodes), constants=constants), wide | kept_constants)


def _cast_of(name: str) -> str:
    return f"{name}.cast"


def _own(constant: str) -> str:
    return f"{constant}.fp32"


def _cast(name: str, shape: tuple[int, ...]) -> Node:
    return Node(_cast_of(name), CAST, (name,), {}, shape, "")
