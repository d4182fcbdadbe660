"""What a program with kept nodes costs, and what is kept of each node."""

from __future__ import annotations

import math

from precisionkit.evaluate import Program
from precisionkit.formats import BINARY32
from precisionkit.graph import Graph, Node
from precisionkit.mixed import Keep, mixed
from precisionkit.report.plan import Cost, KeptNode


def cost_of(program: Program) -> Cost:
    """Add up bytes and multiplications of a program, casts included."""
    graph = program.graph

    def size(name: str) -> int:
        return 4 if program.format_of(name) == BINARY32 else 2

    numbers = {name: value.numel() for name, value in graph.constants.items() if value.is_floating_point()}
    stored = [node for node in graph.nodes if program.stores(node) and not node.record.hidden]
    products = [(node.name, graph.multiplications(node)) for node in graph.nodes]
    total = sum(count for _, count in products)
    in_binary32 = sum(count for name, count in products if program.format_of(name) == BINARY32)
    return Cost(
        weight_bytes=sum(count * size(name) for name, count in numbers.items()),
        result_bytes=sum(math.prod(node.shape) * size(node.name) for node in stored),
        fp32_multiplications=in_binary32 / total if total else 0.0,
    )


def kept_nodes(graph: Graph, keep: Keep) -> tuple[KeptNode, ...]:
    """Describe what is kept of every node, in the order of the network; nodes that round nothing follow what they read."""
    made = mixed(graph, keep)
    read = {name for node in made.graph.nodes if node.name in made.wide for name in node.operands}
    return tuple(
        _kept(graph, node, whole=node.name in made.wide, read=node.name in read)
        for node in graph.nodes
        if (node.name in made.wide or node.name in keep.sums) and not node.record.hidden
    )


def _kept(graph: Graph, node: Node, *, whole: bool, read: bool) -> KeptNode:
    weights = [graph.constants[name] for name in node.operands if name is not None and name in graph.constants]
    return KeptNode(
        name=node.name,
        operator=node.operator,
        module=node.module,
        source=node.source,
        weights=whole and bool(weights),
        sums=node.record.products is not None,
        result=whole and (read or node.name == graph.output),
        parameters=sum(weight.numel() for weight in weights if weight.is_floating_point()),
        multiplications=graph.multiplications(node),
        entries=math.prod(node.shape),
    )
