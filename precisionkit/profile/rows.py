"""From what was counted of a node to its record."""

from __future__ import annotations

import math

from precisionkit.evaluate import Program
from precisionkit.graph import Node
from precisionkit.profile.condition import is_dot_product
from precisionkit.profile.tally import Proved, Seen
from precisionkit.report.profile import Ladder, NodeProfile


def node_profile(program: Program, node: Node, seen: Seen | None, proved: Proved, share: float, ladder: Ladder) -> NodeProfile:
    """Build the record of one node; figures that are not finite become null."""
    dots = is_dot_product(node)
    return NodeProfile(
        name=node.name,
        operator=node.operator,
        source=node.source,
        shape=node.shape,
        format="" if node.name in program.unstored else program.format_of(node.name).name,
        parameters=sum(program.constants[name].numel() for name in node.operands if name is not None and name in program.constants),
        multiplications=program.graph.multiplications(node),
        least_seen=_finite(seen.least) if seen else None,
        largest_seen=_largest_seen(seen, proved),
        largest_proved=_finite(proved.largest),
        overflow_distance=_finite(proved.headroom),
        subnormal_seen=seen.subnormal / seen.entries if seen and seen.entries else 0.0,
        normal_proved=proved.normal / proved.entries if proved.entries else 1.0,
        fresh=_finite(proved.fresh),
        amplification=_finite(proved.amplification),
        condition=_finite(proved.conditions.median) if dots else None,
        worst_condition=_finite(proved.conditions.worst) if dots and proved.conditions.median is not None else None,
        share=share,
        ladder=ladder,
    )


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _largest_seen(seen: Seen | None, proved: Proved) -> float | None:
    """None where the run stored an infinity or NaN that is not there on purpose."""
    return None if seen is None or seen.beyond > proved.masked else _finite(seen.largest)
