"""Whether a record's error rule encloses what runs give."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from precisionkit.bound.interval import Stored, stored
from precisionkit.custom.schema import call
from precisionkit.custom.tried import JUDGE, Tried, beyond
from precisionkit.custom.use import FEW_BITS, within
from precisionkit.enclosure import Bounded
from precisionkit.errors import InvalidOperatorError
from precisionkit.formats import BFLOAT16, BINARY32
from precisionkit.ops import run_rounded
from precisionkit.ops._store import DTYPES, store

_NATIVE_EXCEPT = (BFLOAT16, "subnormal")
"""Half instructions of some CPUs take subnormal numbers for zero, against the arithmetic's assumption."""


def check_meaning(tried: Tried) -> None:
    """`apply` keeps shapes, dtypes and images apart, as torch's operator does."""
    record, attributes = tried.record, tried.use.attributes
    single = [None if v is None else v.float() for v in tried.values]
    found = tried.ask("apply", attributes, *single)
    for operator, target in zip(tried.operators, record.targets, strict=True):
        expected = call(operator, record, tried.use, single)
        if not isinstance(found, Tensor) or (found.shape, found.dtype) != (expected.shape, expected.dtype):
            shown = f"{tuple(found.shape)} in {found.dtype}" if isinstance(found, Tensor) else type(found).__name__
            tried.fail(f"apply gives {shown}, but {target} gives {tuple(expected.shape)} in {expected.dtype}", "apply")
    if not found.numel():
        tried.fail("its result is empty", "use")
    if tried.family != FEW_BITS:  # others may cancel, and then their rounding shows
        return
    whole = tried.ask("apply", attributes, *tried.values)
    scale = 1e-9 * float(whole.abs().nan_to_num(0.0, 0.0).amax())
    for image in range(len(whole)):
        some = [v[image : image + 1] if v is not None and tried.use.is_activation(i) else v for i, v in enumerate(tried.values)]
        alone = tried.ask("apply", attributes, *some)
        if alone.shape[1:] != whole.shape[1:] or not torch.allclose(alone[0], whole[image], rtol=1e-9, atol=scale, equal_nan=True):
            tried.fail(f"apply gives other numbers for image {image} alone than in its batch", "apply")


def check_points(tried: Tried) -> int:
    """Check the rule for exact operands; returns the number of images for which something was claimed."""
    truth = tried.exact(tried.values)
    result, radius, claimed = _bounded(tried, tried.enclosed(tried.values))
    if truth.shape != tuple(result.centre.shape):
        tried.fail(f"exact gives the shape {truth.shape}, the error rule {tuple(result.centre.shape)}", "exact")
    fresh = radius if result.fresh is None else result.fresh
    _compare(tried, "apply in binary64", result.centre, truth, fresh, claimed)
    for name, run in _runs(tried):
        if result.form is not None:  # else the operation and its store are one rounding
            _compare(tried, f"{name}, before its store,", run, truth, fresh + result.carried, claimed)
    for name, run in _stored_runs(tried):
        _compare(tried, f"{name}, stored,", run, result.centre, radius, claimed)
    return int(claimed.sum())


def check_around(tried: Tried) -> None:
    """Check the rule for operands that lie somewhere in an enclosure."""
    around = [_around(tried, place, value) for place, value in enumerate(tried.values)]
    result, radius, claimed = _bounded(tried, tried.enclosed([c for c, _ in around], [r for _, r in around]))
    claimed = claimed & radius.isfinite().flatten(1).all(1)
    for name, run in _stored_runs(tried):
        _compare(tried, f"{name}, stored, for operands in an enclosure", run, result.centre, radius, claimed)


def _stored_runs(tried: Tried) -> list[tuple[str, Tensor]]:
    return [*((name, _kept(tried, run)) for name, run in _runs(tried)), *_native(tried)]


def _bounded(tried: Tried, given: list[Any]) -> tuple[Bounded, Tensor, Tensor]:
    """The error rule, the radius behind the store, and for which images something is claimed."""
    result = tried.ask("error_rule", tried.arithmetic, tried.use.attributes, *given)
    if not isinstance(result, Bounded):
        tried.fail(f"error_rule gives a {type(result).__name__}, and not a Bounded", "error_rule")
    if result.fresh is not None and not tried.record.stores:
        tried.fail("error_rule says that it rounds (fresh), but the record that it does not store", "error_rule, or stores")
    for name in ("carried", "fresh", "second_order", "peak", "bias"):
        part = getattr(result, name)
        if part is not None and ((part < 0).any() or part.dtype != torch.float64):
            tried.fail(f"error_rule gives a {name} that is negative somewhere, or not in binary64", "error_rule")
    if result.carried.shape != result.centre.shape or result.centre.dtype != torch.float64:
        tried.fail(
            f"error_rule gives the shapes {tuple(result.centre.shape)} and {tuple(result.carried.shape)}, or not binary64", "error_rule"
        )
    store: Stored = stored(tried.arithmetic, result)
    finite = result.centre.isfinite().flatten(1).all(1) & ~store.radius.isnan().flatten(1).any(1)
    return result, store.radius, store.excluded & finite


def _runs(tried: Tried) -> list[tuple[str, Tensor]]:
    """Runs before the store, carried in binary32: by definition, and by torch's operators."""
    single = [None if v is None else v.float() for v in tried.values]
    runs = [("a run", run_rounded(tried.record, tried.arithmetic, tried.use.attributes, *single))]
    return runs + [
        (target, call(o, tried.record, tried.use, single)) for o, target in zip(tried.operators, tried.record.targets, strict=True)
    ]


def _native(tried: Tried) -> list[tuple[str, Tensor]]:
    """Runs by torch's operators in the storage format, where they have it."""
    storage = tried.arithmetic.storage
    if storage == BINARY32 or (storage, tried.family) == _NATIVE_EXCEPT:
        return []
    found = []
    for operator, target in zip(tried.operators, tried.record.targets, strict=True):
        halves = [None if v is None else v.to(DTYPES[storage]) for v in tried.values]
        try:
            found.append((f"{target} in {storage.name}", call(operator, tried.record, tried.use, halves).float()))
        except InvalidOperatorError:  # not every kernel exists in every format
            continue
    return found


def _kept(tried: Tried, run: Tensor) -> Tensor:
    return store(run.float(), tried.arithmetic.storage) if tried.record.stores else run


def _around(tried: Tried, place: int, value: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """A centre beside an operand, where the operator is defined, and a radius that reaches the operand."""
    if value is None or not tried.use.is_activation(place):
        return value, None
    size = value.abs().clamp_min(tried.arithmetic.storage.smallest_subnormal)
    radius = size * torch.from_numpy(tried.rng.choice([0.0, 2.0**-9, 2.0**-3, 1.0], value.shape))
    centre = within(tried.use, value + torch.from_numpy(tried.rng.choice([-1.0, -0.5, 0.25, 1.0], value.shape)) * radius)
    return centre, torch.maximum(radius, (value - centre).abs() * (1 + 2.0**-50))  # the centre was rounded


def _compare(tried: Tried, what: str, computed: Tensor, reference: Any, bound: Tensor, claimed: Tensor) -> None:
    """Complain where a distance exceeds its bound."""
    shape = computed.shape
    limits = torch.where(claimed.reshape(-1, *[1] * (len(shape) - 1)), bound, torch.inf).expand(shape)
    found = beyond(computed, reference, limits)
    if found is None:
        return
    index, apart = found
    expected = JUDGE.context.nstr(JUDGE.context.mpf(reference[index] if isinstance(reference, np.ndarray) else float(reference[index])), 12)
    tried.fail(
        f"at {tried.at(index, shape)} {what} gives {float(computed[index]):.9g}, which is {apart} from {expected}, more than the bound "
        f"{float(limits[index]):.5g}",
        "error_rule, exact or apply",
    )
