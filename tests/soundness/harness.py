"""Exact results by mpmath at 50 digits, runs of an operator, and the enclosures that have to hold."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from precisionkit.arithmetic import ANY, Arithmetic, parse_run, permitted
from precisionkit.bound.interval import stored
from precisionkit.enclosure import Bounded, Enclosure
from precisionkit.evaluate import has_fast_run
from precisionkit.formats import BINARY32, Format, round_to_nearest
from precisionkit.ops import BY_NAME, run_rounded
from precisionkit.ops._store import DTYPES, store
from precisionkit.truth import Mpmath

from .cases import Case, draw

JUDGE = Mpmath(50)
MP = JUDGE.context


def operands(case: Case, family: str, rng: np.random.Generator, fmt: Format) -> list[Tensor | None]:
    """Stored operands in binary64; a variance is made positive."""
    count = len(case.activations) + len(case.constants)
    found: list[Tensor | None] = []
    shapes = iter(case.activations)
    for place in range(count):
        shape = case.constants[place] if place in case.constants else next(shapes)
        values = None if shape is None else torch.from_numpy(draw(family, rng, shape, fmt))
        if values is not None and case.operator == "batch_norm" and place == 4:
            values = values.abs()
        if values is not None and case.operator == "div" and place == 1:
            values = torch.where(values == 0, torch.ones_like(values), values)
        if values is not None and case.operator in POSITIVE:
            values = torch.where(values == 0, torch.ones_like(values), values.abs())
        if values is not None and case.operator == "reciprocal":
            values = torch.where(values == 0, torch.ones_like(values), values)
        if values is not None and case.operator == "embedding" and place == 1:
            values = torch.from_numpy(rng.integers(0, case.constants[0][0], tuple(values.shape)).astype(np.float64))
        if values is not None and (case.operator, place) == ("masked", 0):
            values = torch.from_numpy(rng.integers(0, 2, tuple(values.shape)).astype(np.float64))
        if values is not None and (case.operator, place) == ("attention", 3) and place not in case.constants:
            values = torch.where(torch.from_numpy(rng.integers(0, 2, tuple(values.shape))) > 0, -torch.inf, 0.0).double()
            values[..., 0] = 0.0
        found.append(values)
    return found


POSITIVE = ("log", "sqrt", "rsqrt")


def is_fixed(case: Case, place: int) -> bool:
    """Whether every run has an operand, as it has constants, tokens, and masks that tokens choose."""
    return place in case.constants or case.operator == "embedding" or (case.operator, place) in (("masked", 0), ("attention", 3))


def enclosed(
    case: Case, values: list[Tensor | None], radii: list[Tensor | None] | None = None, centres: list[Any] | None = None
) -> list[Any]:
    """Activations as enclosures, constants as they are."""
    result: list[Any] = []
    for place, value in enumerate(values):
        if place in case.constants or value is None:
            result.append(value)
        elif radii is None or centres is None:
            result.append(Enclosure.exact(value))
        else:
            result.append(Enclosure(centres[place], radii[place]))
    return result


def exact(case: Case, values: list[Tensor | None]) -> np.ndarray:
    """The operator over mpmath numbers."""
    arrays = [None if v is None else JUDGE.array(v) for v in values]
    return BY_NAME[case.operator].exact(JUDGE, case.attributes, *arrays)


TREES = ("sequential", "pairwise", "blocked:4", "sequential:fma", "pairwise:fma", "blocked:4:fma")


def emulates(arithmetic: Arithmetic) -> bool:
    """Whether sums along trees are runs of the arithmetic."""
    return arithmetic.order == ANY or arithmetic.order.is_tree or arithmetic.order.other_cores


def runs(case: Case, arithmetic: Arithmetic, values: list[Tensor | None], rng: np.random.Generator) -> list[Tensor]:
    """Several executions before the store, in binary64: by definition, torch's kernels, other orders."""
    record = BY_NAME[case.operator]
    carried = [None if v is None else v.float() for v in values]
    others = ((f"{arithmetic.order.name}:fma",) if arithmetic.order.is_tree else TREES) if emulates(arithmetic) else ()
    programs = [arithmetic, *(replace(arithmetic, order=permitted(parse_run(order), arithmetic)) for order in others)]
    found = [run_rounded(record, program, case.attributes, *carried) for program in programs]
    if has_fast_run(arithmetic) or record.rounded is None:
        found.append(record.apply(case.attributes, *carried))
    if arithmetic.order.name == "any" and case.operator in ("linear", "mm", "addmm"):
        found += [_permuted(case, arithmetic, carried, rng) for _ in range(3)]
    return [run.double() for run in found]


def _permuted(case: Case, arithmetic: Arithmetic, values: list[Any], rng: np.random.Generator) -> Tensor:
    """The same sum in a random order, or from the largest magnitude down."""
    place, weight_place, dim = {"linear": (0, 1, 1), "mm": (0, 1, 0), "addmm": (1, 2, 0)}[case.operator]
    order = torch.from_numpy(rng.permutation(values[weight_place].shape[dim]))
    shuffled = list(values)
    shuffled[place] = values[place].index_select(-1, order)
    shuffled[weight_place] = values[weight_place].index_select(dim, order)
    return run_rounded(BY_NAME[case.operator], arithmetic, case.attributes, *shuffled)


def native_runs(case: Case, arithmetic: Arithmetic, values: list[Tensor | None]) -> list[Tensor]:
    """torch's half kernels on this CPU, which store their result themselves."""
    if not has_fast_run(arithmetic) or arithmetic.storage == BINARY32:
        return []
    dtype = DTYPES[arithmetic.storage]
    return [BY_NAME[case.operator].apply(case.attributes, *[None if v is None else v.to(dtype) for v in values]).double()]


def statistics(case: Case, arithmetic: Arithmetic, given: list[Any]) -> tuple[list[Enclosure], Tensor]:
    """Enclosures of what the operator's kernels compute on the way, and for which images their overflow is excluded."""
    record = BY_NAME[case.operator]
    known = dict(zip(record.operands, given, strict=False))
    found, excluded = [], torch.tensor(True, device="cpu")
    for statistic in record.statistics:
        hidden = BY_NAME[statistic.operator]
        operands = [known.get(name) for name in statistic.operands]
        result = hidden.error_rule(arithmetic, case.attributes, *operands)
        store = stored(arithmetic, result, unstored=True)
        known[statistic.operator], excluded = Enclosure(result.centre, store.radius), excluded & store.excluded
        found += [known[statistic.operator]] if statistic.given else []
    return found, excluded


def bounded(case: Case, arithmetic: Arithmetic, given: list[Any]) -> tuple[Bounded, Tensor, Tensor]:
    """The error rule, the radius after the store, and for which images overflow is excluded."""
    record = BY_NAME[case.operator]
    hidden, finite = statistics(case, arithmetic, given)
    result = record.error_rule(arithmetic, case.attributes, *given, *hidden)
    store = stored(arithmetic, result, unstored=record.hidden)
    radius, excluded = store.radius, store.excluded & finite
    return result, radius, excluded


def kept(case: Case, arithmetic: Arithmetic, run: Tensor) -> Tensor:
    """Store a run, if the operator stores."""
    if not BY_NAME[case.operator].stores:
        return run
    return store(run.float(), arithmetic.storage).double()


def violations(deviation: np.ndarray, bound: Tensor, excluded: Tensor) -> list[str]:
    """Entries at which an exact deviation exceeds its bound, where a bound is claimed."""
    wrong = []
    flat = np.broadcast_to(bound.numpy(), deviation.shape)
    for index in np.ndindex(*deviation.shape):
        if excluded[index[0]] and not deviation[index] <= MP.mpf(float(flat[index])):
            wrong.append(f"{index}: |computed - exact| = {MP.nstr(deviation[index], 17)} > {float(flat[index])!r}")
    return wrong


def distance(computed: Tensor, reference: Any) -> np.ndarray:
    """|computed - reference| without rounding that matters (50 digits); inf where computed is not finite."""
    reference = reference.numpy() if isinstance(reference, Tensor) else reference

    def one(a: float, b: Any) -> Any:
        return abs(MP.mpf(a) - MP.mpf(b)) if np.isfinite(a) else MP.inf

    return np.vectorize(one, otypes=[object])(computed.numpy(), reference)


def around(values: Tensor, fmt: Format, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """A centre that is no number of the format, and a radius that reaches the values: some lie at the end of their enclosure."""
    size = values.abs().clamp_min(fmt.smallest_subnormal)
    radius = size * torch.from_numpy(rng.choice([0.0, 2.0**-9, 2.0**-3, 1.0], values.shape))
    share = torch.from_numpy(rng.choice([-1.0, -0.5, 0.25, 1.0], values.shape))
    centre = values + share * radius
    # the centre was rounded: make the radius reach the value
    return centre, torch.maximum(radius, (values - centre).abs() * (1 + 2.0**-50))


def stored_numbers(values: np.ndarray, fmt: Format) -> bool:
    """Whether all are numbers of the format."""
    return bool((round_to_nearest(values, fmt) == values).all())
