"""A profile on the terminal: a line a node, the ladder, and what follows from them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from precisionkit.formats import BFLOAT16, BINARY32, Format, parse_format
from precisionkit.report.profile import NodeProfile, Profile

_BAR, _NAME, _OPERATOR = 8, 17, 12
"""Characters of the longest bar, and of lines of names."""
_RUNGS = ("a_priori", "running", "zonotope", "probable")
_CLOSE, _SUBNORMAL = 16.0, 0.01
"""Numbers seen within this factor of overflow are called large; share of subnormal numbers from which on they are worth a word."""


def render_profile(profile: Profile) -> RenderableType:
    """Lay the profile out for a terminal; colour carries no meaning of its own."""
    heading = Text(
        f"{profile.model.arch} ({profile.model.parameters:,} parameters) on {profile.data.name}, {profile.inputs:,} inputs\n"
        f"{profile.arithmetic.words}\n"
    )
    parts: list[RenderableType] = [heading, _nodes(profile)]
    if profile.ladder_inputs:
        of = f"the first {profile.ladder_inputs:,} inputs" if profile.ladder_inputs > 1 else "the first input"
        parts += [Text(f"\nErrors of single entries on {of}: bounds, and how many times what was {_base(profile)}"), _ladder(profile)]
    return Group(*parts, Text(), Text(profile_conclusion(profile), style="bold"))


def _table(*columns: str) -> Table:
    table = Table(*columns, box=None, padding=(0, 1, 0, 0))
    for column in table.columns[1:]:
        column.justify, column.no_wrap = "right", True
    table.columns[0].no_wrap = True
    return table


def _nodes(profile: Profile) -> Table:
    table = _table("node", "operator", "largest", "headroom", "fresh", "amplif.", "condition", "share")
    table.columns[1].justify = table.columns[-1].justify = "left"
    most = max((node.share for node in profile.nodes), default=0.0)
    for node in profile.nodes:
        condition = "" if node.condition is None else f"{node.condition:.2g} / {_number(node.worst_condition, 2)}"
        figures = (node.largest_proved, node.overflow_distance, node.fresh, node.amplification)
        names = _folded(node.name, _NAME), _folded(node.operator, _OPERATOR)
        table.add_row(*map(Text, (*names, *map(_number, figures), condition, _bar(node.share, most))))
    return table


def _bar(share: float, largest: float) -> str:
    """A share in per cent, with a bar as long as the largest of all fills."""
    return f"{100 * share:4.1f} % {'#' * round(_BAR * share / largest) if largest else ''}"


def _folded(name: str, most: int) -> str:
    """A whole name in lines that fit, which end behind an underscore or a dot where there is one."""
    lines = []
    while len(name) > most:
        cut = max(name.rfind(sign, 1, most) for sign in "_.") + 1 or most
        lines.append(name[:cut])
        name = name[cut:]
    return "\n".join([*lines, name])


def _number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}g}"


def _times(factor: float) -> str:
    return f"{factor:,.0f}" if 100 <= factor < 1e7 else f"{factor:.3g}"


def _base(profile: Profile) -> str:
    """The name of what the bounds are divided by."""
    return "true" if any(node.ladder.truth is not None for node in profile.nodes) else "measured"


def _ladder(profile: Profile) -> Table:
    base = "truth" if _base(profile) == "true" else "measured"
    table = _table("node", "entries", "a priori", "running", "zonotope", "probable", "measured", "truth")
    for node in (node for node in profile.nodes if node.ladder.entries):
        ladder = node.ladder
        rungs = (_with_ratio(getattr(ladder, name), getattr(ladder, base)) for name in _RUNGS)
        table.add_row(*map(Text, (_folded(node.name, _NAME), str(ladder.entries), *rungs, _number(ladder.measured), _number(ladder.truth))))
    return table


def _with_ratio(bound: float | None, error: float | None) -> str:
    return _number(bound) if bound is None or not error else f"{bound:.2g} x{bound / error:.3g}"


def profile_conclusion(profile: Profile) -> str:
    """Say in a few sentences which node adds and which amplifies most, how far overflow is, and what one could do."""
    return " ".join((*_errors(profile), _overflow(profile), *_advice(profile)))


def _largest(nodes: Iterable[NodeProfile], figure: Callable[[NodeProfile], float | None]) -> tuple[NodeProfile, float] | None:
    known = [(node, value) for node in nodes if (value := figure(node)) is not None and value > 0]
    return max(known, key=lambda pair: pair[1], default=None)


def _errors(profile: Profile) -> Iterable[str]:
    adds = _largest(profile.nodes, lambda node: node.share)
    amplifies = _largest(profile.nodes, lambda node: node.amplification)
    if adds:
        share = f"'{adds[0].name}' adds most, {100 * adds[1]:.3g} %"
        yield f"Of the first-order error of input {profile.tightest}, whose margin is smallest, {share}."
    if amplifies:
        yield f"Errors grow most in '{amplifies[0].name}', {_times(amplifies[1])}-fold on the median input."


def _overflow(profile: Profile) -> str:
    """How far from overflow; the first node of which that is not known."""
    open_ = next((node for node in profile.nodes if node.overflow_distance is None or node.overflow_distance <= 1), None)
    if open_ is not None:
        lost = next((node.name for node in profile.nodes if _ran_over(node)), None)
        largest = max((node.largest_seen or 0.0 for node in profile.nodes), default=0.0)
        seen = f"the half run stored nothing above {largest:.3g}" if lost is None else f"the half run stored infinities or NaN at '{lost}'"
        return f"The interval method does not exclude overflow from '{open_.name}' on; {seen}."
    closest = _largest(profile.nodes, lambda node: 1 / (node.overflow_distance or 1))
    if closest is None:
        return "Overflow is excluded: every number is zero."
    return f"Overflow is excluded: the closest to it is '{closest[0].name}', {_times(1 / closest[1])}-fold below."


def _ran_over(node: NodeProfile) -> bool:
    """Whether the half run stored an infinity or a NaN; what runs do not compute has no largest number either."""
    return node.largest_seen is None and (node.format != "" or node.least_seen is not None)


def _advice(profile: Profile) -> Iterable[str]:
    """The one thing that seems most worth trying."""
    large = next((node for node in profile.nodes if _is_large(profile, node)), None)
    subnormal = _largest(profile.nodes, lambda node: node.subnormal_seen)
    if large:
        other = ", or bfloat16 with its larger range be tried (--storage bf16)" if _has_less_range_than_bf16(profile, large) else ""
        yield f"Numbers of '{large.name}' could be scaled down{other}."
    elif subnormal and subnormal[1] > _SUBNORMAL:
        yield f"{100 * subnormal[1]:.3g} % of the results of '{subnormal[0].name}' are subnormal: scaling them up would keep more bits."
    else:
        yield from _advice_to_keep(profile)


def _is_large(profile: Profile, node: NodeProfile) -> bool:
    return _ran_over(node) or (node.largest_seen or 0.0) * _CLOSE > _own_format(profile, node).overflow_threshold


def _has_less_range_than_bf16(profile: Profile, node: NodeProfile) -> bool:
    return _own_format(profile, node).overflow_threshold < BFLOAT16.overflow_threshold


def _own_format(profile: Profile, node: NodeProfile) -> Format:
    """Of a node's results; those that a kernel does not store have the format of its sums."""
    if node.name in profile.arithmetic.kept:
        return BINARY32
    return parse_format(node.format or profile.arithmetic.accumulate)


def _advice_to_keep(profile: Profile) -> Iterable[str]:
    """Which node to keep in binary32, of those that are not kept."""
    left = [node for node in profile.nodes if node.format and _own_format(profile, node) != BINARY32]
    adds, most = _largest(left, lambda node: node.share), _largest(profile.nodes, lambda node: node.share)
    if most is None or not most[0].format or parse_format(profile.arithmetic.storage) == BINARY32:
        return
    if adds is None:
        yield "Nothing that is not kept in fp32 already adds to that error."
        return
    name = adds[0].name
    what = f"what reads '{name.removesuffix('.cast')}'" if adds[0].operator == "cast" else f"'{name}' and what reads its result"
    part = "the largest part of that error" if adds == most else f"most of what is not kept adds, {100 * adds[1]:.3g} %"
    yield f"Keeping {what} in fp32 would take away {part}; 'precisionkit tune' finds what is enough."
