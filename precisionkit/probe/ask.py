"""The probe: which arithmetics are consistent with a device's kernels, which are refuted, and what else shows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from precisionkit.arithmetic import ANY, TENSOR_CORES, Arithmetic, parse_arithmetic
from precisionkit.enclosure import Enclosure
from precisionkit.formats import BINARY16, BINARY32, Format, round_to_nearest
from precisionkit.ops._runs import run_dots
from precisionkit.ops._store import DTYPES, store, store_error
from precisionkit.ops.conv import CONV2D
from precisionkit.ops.linear import LINEAR
from precisionkit.probe.findings import Answer, Findings, Judgement, Witness
from precisionkit.probe.kernels import Dot, Kernels, row_functions
from precisionkit.probe.suites import QUARTER, suites_for
from precisionkit.probe.tree import describe, meetings

_TERMS = 32
"""Terms of the sums whose tree is revealed."""
_BATCHES = (1, 2, 3, 8, 64)
_FAR = 64
_PLACES = 16


def candidates(storage: Format) -> Iterator[Arithmetic]:
    """Arithmetics that a probe judges for a storage format; the widest bounds last."""
    option = storage.option
    yield parse_arithmetic(option, "fp32")
    if storage == BINARY32:
        return
    for unit in TENSOR_CORES:
        totals = [total for factor, total in unit.formats if factor == storage]
        yield from (parse_arithmetic(option, total.option, f"tensorcore:{unit.name}") for total in totals)
    yield from (parse_arithmetic(option, "fp32", f"gpu:{u.name}") for u in TENSOR_CORES if (storage, BINARY32) in u.formats)
    yield from (parse_arithmetic(option, "fp32", f"splitk:{parts}") for parts in (2, 4, 16))
    yield parse_arithmetic(option, option)


def probe(kernels: Kernels) -> Findings:
    """Put every question to every kernel."""
    found = [judge(kernels, arithmetic) for arithmetic in candidates(kernels.storage)]
    warnings = [*_winograd(kernels), *_flushed(kernels), *_short_rows(kernels)]
    return Findings(kernels.name, kernels.storage.name, tuple(found), (*_answers(kernels), *_attention(kernels)), tuple(warnings))


def judge(kernels: Kernels, arithmetic: Arithmetic) -> Judgement:
    """Compare every dot product of every suite with what an arithmetic allows, and with a tensor core's emulation, bit for bit."""
    exact = one_unit = arithmetic.order.tensor_core is not None and not arithmetic.order.other_cores
    taps = kernels.taps if arithmetic.order.tensor_core is not None else {}  # no other order knows of steps
    witness, results = None, 0
    for name, (a, b) in suites_for(kernels.storage).items():
        emulated = _emulated(arithmetic, a, b) if one_unit else None
        allowed = {count: _Allowed.of(arithmetic, a, b, emulated, count) for count in {1, *taps.values()}}
        for kernel, dot in kernels.dots.items():
            got = _each(dot, a, b).double()
            results += len(got)
            here = allowed[taps.get(kernel, 1)]
            if witness is None and (outside := here.outside(got)) is not None:
                witness = Witness(kernel, name, float(got[outside]), here.told(outside), here.few is not None)
            exact = exact and emulated is not None and torch.equal(got.nan_to_num(nan=0.5), emulated.nan_to_num(nan=0.5))
    return Judgement(arithmetic.name, witness, results, exact)


@dataclass(frozen=True)
class _Allowed:
    """What an arithmetic allows for each row of a suite: an interval, all of it where overflow is not excluded, or a few numbers."""

    low: Tensor
    high: Tensor
    few: list[set[float]] | None

    @classmethod
    def of(cls, arithmetic: Arithmetic, a: Tensor, b: Tensor, emulated: Tensor | None, taps: int) -> _Allowed:
        """Find it; `taps` as in `Kernels`."""
        ends = [_ends(arithmetic, row, weights, taps) for row, weights in zip(a.double(), b.double(), strict=True)]
        low, high = (torch.tensor(end, dtype=torch.float64) for end in zip(*ends, strict=True))
        return cls(low, high, _few(arithmetic, a, b, emulated, taps))

    def outside(self, got: Tensor) -> int | None:
        """The first row with a result that is not allowed."""
        anything = (self.low == -torch.inf) & (self.high == torch.inf)
        wrong = ~anything & ((got < self.low) | (got > self.high) | got.isnan())
        if self.few is not None:
            wrong |= torch.tensor([value not in known for value, known in zip(got.tolist(), self.few, strict=True)])
        return int(wrong.nonzero()[0]) if wrong.any() else None

    def told(self, row: int) -> tuple[float, ...]:
        """For a witness."""
        return tuple(sorted(self.few[row])) if self.few is not None else (float(self.low[row]), float(self.high[row]))


def _few(arithmetic: Arithmetic, a: Tensor, b: Tensor, emulated: Tensor | None, taps: int) -> list[set[float]] | None:
    """All results that a sum can have, for each row, where they are so few: in one step of a tensor core, or of three terms.

    Three exact products, zeros apart, have at most three sums in any order, as adding zero is exact.
    """
    unit, fmt = arithmetic.order.tensor_core, arithmetic.accumulate
    if unit is not None and emulated is not None and a.shape[1] <= unit.terms and taps == 1:
        return [{value} for value in emulated.tolist()]
    products = a.double() * b.double()
    three = bool(((products != 0).sum(1) == 3).all())
    if arithmetic.order != ANY or not three or not torch.equal(round_to_nearest(products, fmt), products):
        return None
    return [_in_any_order(row[row != 0], fmt, arithmetic.storage) for row in products]


def _in_any_order(terms: Tensor, accumulate: Format, storage: Format) -> set[float]:
    def rounded(value: Tensor) -> Tensor:
        return torch.as_tensor(round_to_nearest(value, accumulate))

    sums = [rounded(rounded(terms[i] + terms[j]) + terms[3 - i - j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    return {float(round_to_nearest(value, storage)) for value in sums}


def contradiction(kernels: Kernels, arithmetic: Arithmetic) -> str | None:
    """Why the device is none of the arithmetic, in a sentence, or None: the short probe that runs before a data set is certified."""
    witness = judge(kernels, arithmetic).witness
    if witness is not None:
        return str(witness)
    return next(iter([*_winograd(kernels), *_flushed(kernels)]), None)


def _each(dot: Dot, a: Tensor, b: Tensor) -> Tensor:
    """The diagonal: row k of a with row k of b."""
    return dot(a, b.T.contiguous()).diagonal().contiguous()


def _ends(arithmetic: Arithmetic, row: Tensor, weights: Tensor, taps: int) -> tuple[float, float]:
    """Ends of the results that an arithmetic allows, each rounded to the storage format; infinite where overflow is not excluded."""
    if taps == 1:
        bounded = LINEAR.error_rule(arithmetic, {}, Enclosure.exact(row[None]), weights[None])
    else:
        side = math.isqrt(taps)
        x, w = (F.pad(t, (0, -len(t) % taps)).reshape(1, -1, side, side) for t in (row, weights))
        bounded = CONV2D.error_rule(arithmetic, {}, Enclosure.exact(x), w)
    assert bounded.fresh is not None
    if bounded.peak is not None and bool((bounded.peak > arithmetic.partial_format.max).any()):
        return -math.inf, math.inf
    # rounding is monotone, and the ends are stepped outwards beyond their own rounding
    reach = bounded.fresh * (1 + 2.0**-50) + bounded.centre.abs() * 2.0**-52
    fmt = arithmetic.storage
    return round_to_nearest(bounded.centre - reach, fmt).item(), round_to_nearest(bounded.centre + reach, fmt).item()


def _emulated(arithmetic: Arithmetic, a: Tensor, b: Tensor) -> Tensor:
    sums = run_dots(arithmetic, b[None], a.T[None, None], None)[0, 0].diagonal()
    return store(sums.contiguous(), arithmetic.storage).double()


def _answers(kernels: Kernels) -> Iterator[Answer]:
    for name, dot in kernels.dots.items():
        found = meetings(dot, kernels.storage, _TERMS)
        yield Answer(name, f"tree of a sum of {_TERMS}", describe(found))
        yield Answer(name, "accumulator", accumulator := _accumulator(kernels.storage, dot))
        yield Answer(name, "products", _products(kernels.storage, dot))
        if accumulator.startswith("aligns") and (step := _step(dot)) is not None:
            yield Answer(name, "terms in one step", step)
        yield Answer(name, "rows", "the same bits in every batch size tried" if _same_in_batches(dot) else "depend on the batch size")
    if torch.get_num_threads() > 1:
        same = _same_in_threads(kernels.dots["matmul"])
        yield Answer("matmul", "threads", "the same bits with one thread" if same else "depend on the number of threads")


def _accumulator(storage: Format, dot: Dot) -> str:
    """How the accumulator rounds ``1 + t - 1``, with -1 as the last of the three."""
    a, b = suites_for(storage)[QUARTER]
    rows = [row for row in range(len(a)) if a[row, 2] == -a.abs().max()]
    values = set(_each(dot, a, b)[rows].tolist())
    known = {
        0.0: "truncates, or is shorter than binary32",
        2.0**-24: "aligns, and truncates to 24 or 25 fraction bits",
        1.25 * 2.0**-24: "keeps more bits than binary32, or adds what cancels first",
        2.0**-23: "binary32, to nearest",
    }
    return ", ".join(known.get(v, f"unknown: {QUARTER} gives {v:g}") for v in sorted(values))


def _products(storage: Format, dot: Dot) -> str:
    """Whether a square with twice the bits is kept, wherever it stands beside the number that takes its rounded value away."""
    e = max(storage.eps, 2.0**-12)
    pairs = [(i, j) for i in range(_PLACES) for j in range(_PLACES) if i != j]
    a, b = torch.zeros(len(pairs), _PLACES), torch.ones(_PLACES, len(pairs))
    for row, (i, j) in enumerate(pairs):
        a[row, i], b[i, row] = 1 + e, 1 + e
        a[row, j] = -1 - 2 * e
    kept = dot(a, b).diagonal() == float(round_to_nearest(torch.tensor(e * e, dtype=torch.float64), storage))
    if kept.all():
        return "exact"
    return "rounded" if not kept.any() else "rounded, or fused into the sum that they join, by place"


def _step(dot: Dot) -> str | None:
    """How many terms a unit aligns and adds at once: 2^-24 beside 1 survives as long as -1 comes within the same step.

    None where it does not survive next to them: to nearest, and where fewer bits are kept.
    """
    a = torch.zeros(_FAR, _FAR + 2)
    a[:, 0], a[:, 1] = 1.0, 2.0**-12
    b = torch.ones(_FAR + 2, 1)
    b[1] = 2.0**-12
    a[torch.arange(_FAR), torch.arange(2, _FAR + 2)] = -1.0
    survives = (dot(a, b)[:, 0] == 2.0**-24).tolist()
    if not survives[0]:
        return None
    return (
        f"more than {_FAR}, or sums keep more bits than binary32, or begin at the end" if all(survives) else str(2 + survives.index(False))
    )


def _same_in_batches(dot: Dot) -> bool:
    rng = torch.Generator().manual_seed(3)
    a, b = torch.randn(64, 300, generator=rng).half().float(), torch.randn(300, 40, generator=rng).half().float()
    whole = dot(a, b)
    return all(bool((dot(a[:size], b) == whole[:size]).all()) for size in _BATCHES)


def _same_in_threads(dot: Dot) -> bool:
    rng = torch.Generator().manual_seed(4)
    a, b = torch.randn(128, 512, generator=rng).half().float(), torch.randn(512, 128, generator=rng).half().float()
    threads, whole = torch.get_num_threads(), dot(a, b)
    try:
        torch.set_num_threads(1)
        return bool((dot(a, b) == whole).all())
    finally:
        torch.set_num_threads(threads)


def _winograd(kernels: Kernels) -> Iterator[str]:
    """Outputs whose window holds zeros alone are zero in a direct convolution; Winograd and FFT leak what lies beside it."""
    rng = torch.Generator().manual_seed(5)
    for batch, channels in ((1, 8), (16, 32)):
        x = torch.zeros(batch, channels, 16, 16)
        x[:, :, :, :6] = store(torch.randn(batch, channels, 16, 6, generator=rng) * 8, kernels.storage)
        w = store(torch.randn(channels, channels, 3, 3, generator=rng), kernels.storage)
        if bool((kernels.convolve(x, w)[..., 7:] != 0).any()):
            yield (
                f"The 3x3 convolution of {channels} channels, batch {batch}, is not zero where all of its terms are: an algorithm such as "
                "Winograd or FFT, which no bound here covers."
            )
            return


def _flushed(kernels: Kernels) -> Iterator[str]:
    """Subnormal numbers that become zero."""
    suites = suites_for(kernels.storage)
    for name in ("subnormal factors", "a subnormal result"):
        for kernel, dot in kernels.dots.items():
            if bool((_each(dot, *suites[name]) == 0).any()):
                yield f"{kernel} flushes subnormal numbers to zero ({name}), which no bound here covers."
                return


def _excess(kernels: Kernels) -> dict[str, float]:
    """For each kernel that acts on rows: the largest error, in units of what binary32 inside and one store allow."""
    rng, fmt = np.random.default_rng(6), kernels.storage
    large = 300.0 if fmt == BINARY16 else 3.0  # its square is beyond binary16
    x = torch.from_numpy(round_to_nearest(rng.standard_normal((4, 96)) * large, fmt)).float()
    functions, found = row_functions(DTYPES[fmt]), {}
    for name, kernel in kernels.rows.items():
        exact = functions[name](x.double())
        # roundings of 96 terms and a handful more, relative to the largest of them
        scale = x.double().abs().sum(1, keepdim=True) if name in ("sum", "mean") else exact.abs().amax(1, keepdim=True)
        inside = 256 * BINARY32.unit_roundoff * scale
        errors = (kernel(x).double() - exact).abs() / (inside + store_error(fmt, exact.abs() + inside))
        found[name] = float(errors.nan_to_num(torch.inf).max())
    return found


def _short_rows(kernels: Kernels) -> Iterator[str]:
    """Reductions, normalisations and softmax whose results are not those of a wide computation with one rounding."""
    for name, times in _excess(replace(kernels, rows={n: k for n, k in kernels.rows.items() if n != "attention"})).items():
        if times > 1:
            yield f"{name} is {times:.3g} times further from the exact result than binary32 inside and one store would be."


def _attention(kernels: Kernels) -> Iterator[Answer]:
    """Whether attention stores scores or probabilities on the way, as many of its kernels do."""
    for times in _excess(replace(kernels, rows={n: k for n, k in kernels.rows.items() if n == "attention"})).values():
        said = "binary32 inside, stored once" if times <= 1 else f"stores on the way: {times:.3g} times the error of one store"
        yield Answer("attention", "scores and probabilities", said)
