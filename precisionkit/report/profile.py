"""The records of a network's profile, node by node, whose JSON is ``precisionkit.profile/1``."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from precisionkit.report.parts import ArithmeticInfo, Count, DataInfo, ModelInfo, Size, _Record

PROFILE_SCHEMA: Literal["precisionkit.profile/1"] = "precisionkit.profile/1"

Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class Ladder(_Record, frozen=True, kw_only=True):
    """Errors of a node's stored result in the half program, from the coarsest bound to the truth.

    Each is the largest over the same entries.  `a_priori` bounds the distance of any run from the exact network with the program's own
    (rounded) weights; the other bounds that from its binary64 evaluation, whose error they count; null where a method has none.

    Attributes
    ----------
    entries : int
        How many entries of the node were looked at, over all inputs.
    a_priori : float or None
        From sizes of weights and inputs alone: the classical bound by norms, on every input of no larger numbers whose runs do not
        overflow.  Proved.
    running : float or None
        The interval method's radius, computed along with the values.  Proved.
    zonotope : float or None
        By pulling each entry back to the input.  Proved; not always below `running`, as it counts its own rounding.
    probable : float or None
        The same under the model of random rounding, with the confidence of the profile, which is divided over all entries.
    measured : float or None
        Of the half run made here, from the binary64 centre.
    truth : float or None
        Of the same run, from the exact network, by balls of Arb; where that was asked for.
    """

    entries: Count
    a_priori: Size | None
    running: Size | None
    zonotope: Size | None
    probable: Size | None
    measured: Size | None
    truth: Size | None


class NodeProfile(_Record, frozen=True, kw_only=True):
    """One node of the half program over all inputs.

    Attributes
    ----------
    name, operator, source, shape
        As in the graph.
    format : str
        Format in which its result is stored, empty where a kernel never stores it.
    parameters, multiplications : int
        Numbers in the constants that it reads; multiplications for one input.
    least_seen, largest_seen : float or None
        Smallest magnitude but zero, and largest, that the half run made here stored, or computed where it stores none.  The largest is
        null where it stored an infinity or a NaN.
    largest_proved : float or None
        No run stores more on any of the inputs; null where overflow, here or before, is not excluded.
    overflow_distance : float or None
        The format's overflow threshold divided by the largest number that is proved to be rounded here, intermediate results included:
        overflow is excluded above 1.  Null where overflow is not excluded before.
    subnormal_seen : float
        Share of the stored entries below the normal range that are not zero.
    normal_proved : float
        Share of the entries that are proved to be zero, or within the normal range, in every run.
    fresh : float or None
        Largest error that the node's own roundings add, the store included; null as `largest_proved`.
    amplification : float or None
        Largest error carried through the node divided by the largest error of its operands, the median over the inputs; null where
        these have no error.
    condition, worst_condition : float or None
        Of a dot product: ``(|W| |x| + |b|) / |W x + b|`` at the binary64 centre, median (to half a per cent) and largest over entries and
        inputs, without sums of zeros; null for other operators, and where terms cancel to zero.
    share : float
        Of the first-order worst-case error of the tightest input's closest gap: the part of this node's own roundings.
    ladder : Ladder
    """

    name: str
    operator: str
    source: str
    shape: tuple[int, ...]
    format: str
    parameters: Count
    multiplications: Count
    least_seen: Size | None
    largest_seen: Size | None
    largest_proved: Size | None
    overflow_distance: Size | None
    subnormal_seen: Share
    normal_proved: Share
    fresh: Size | None
    amplification: Size | None
    condition: Size | None
    worst_condition: Size | None
    share: Share
    ladder: Ladder


class Profile(_Record, frozen=True, kw_only=True):
    """A network's half program, node by node.

    Attributes
    ----------
    inputs : int
        How many inputs were looked at; the ladder's costlier steps look at the first `ladder_inputs` of them.
    tightest : int
        Index of the input whose margin is smallest.
    confidence : float
        Of the `probable` bounds.
    """

    schema: Literal["precisionkit.profile/1"] = PROFILE_SCHEMA
    model: ModelInfo
    data: DataInfo
    arithmetic: ArithmeticInfo
    inputs: Count
    ladder_inputs: Count
    tightest: Count
    confidence: Annotated[float, msgspec.Meta(gt=0, lt=1)]
    nodes: tuple[NodeProfile, ...]
