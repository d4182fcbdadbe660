"""The published experiment, done exactly: margins and discrepancies as rational numbers, the lemma's premise against its conclusion.

Outputs of both programs are floating-point numbers, so their margin Gamma and their discrepancy delta are rational and are
compared without rounding.  Source of the lemma: Yun, Kang, Fu, arXiv 2301.12809; its repair: proofs/bounds.md, theorem 13.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from statistics import fmean
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from precisionkit.arithmetic import REFERENCE, Arithmetic, Order, parse_run, permitted
from precisionkit.bound.interval import interval
from precisionkit.data import Dataset
from precisionkit.evaluate import Program, Run, device_flags, execute
from precisionkit.formats import Format
from precisionkit.lemma import published_lemma, repaired_lemma
from precisionkit.models import LoadedModel
from precisionkit.ops._store import store
from precisionkit.report import Cells, LemmaReport, Output, Row, Spread, TruthInfo
from precisionkit.task import arithmetic_info, captured, data_info, describe_run, model_info
from precisionkit.truth import Arb, Mpmath, Objects, Samples, agree_on, distances, exact_logits

Kind = Literal["logits", "probabilities"]
_BATCH = 100
_LARGE = 2e6
"""Multiplications of a network from which on mpmath judges single neurons, not whole networks."""
REPAIRED = "Gamma > 2 delta"
PREMISES = ("Gamma >= 2 delta", REPAIRED, "gap by gap")
"""As published; repaired; and gap by gap: ``z_c - z_j`` exceeds what that gap differs by, for every other class j."""
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


@dataclass(frozen=True)
class Outcome:
    """One input, on one kind of output.

    Attributes
    ----------
    gamma, delta : Fraction
        Margin of the reference program's output; largest difference of an entry between the two outputs.
    premises : tuple of bool
        Which of `PREMISES` hold.
    kept : bool
        Whether both outputs have the same first-index argmax.
    """

    gamma: Fraction
    delta: Fraction
    premises: tuple[bool, ...]
    kept: bool

    @property
    def boundary(self) -> bool:
        """Whether the published premise holds with equality."""
        return self.gamma == 2 * self.delta


def outcome(reference: Sequence[float], half: Sequence[float]) -> Outcome:
    """Compare two output vectors exactly; the smallest index among the largest entries is predicted."""
    a, b = [Fraction(v) for v in reference], [Fraction(v) for v in half]
    predicted = _first_argmax(a)
    largest, second = sorted(a, reverse=True)[:2]
    gamma, delta = largest - second, max(abs(x - y) for x, y in zip(a, b, strict=True))
    gaps = [(a[predicted] - a[j], b[predicted] - b[j]) for j in range(len(a)) if j != predicted]
    pairwise = all(gap > abs(other - gap) for gap, other in gaps)
    premises = published_lemma(gamma, delta), repaired_lemma(gamma, delta), pairwise
    return Outcome(gamma, delta, premises, predicted == _first_argmax(b))


def run_experiment(
    model: LoadedModel,
    data: Dataset,
    arithmetic: Arithmetic,
    *,
    emulate: str | None = None,
    arb: int = 0,
    judged: int = 0,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> LemmaReport:
    """Run both programs on a data set and compare their outputs exactly.

    Parameters
    ----------
    emulate : str or None
        Order of the half run, see `arithmetic.parse_run`.
    arb, judged : int
        Inputs whose exact networks are computed by Arb, and by mpmath as well.
    on_progress : callable
        Called with the number of inputs done and their total.

    Raises
    ------
    PrecisionKitError
        Of the kind that says what is unusable or unsupported.
    RefutedError
        mpmath and Arb contradict each other.
    """
    order = None if emulate is None else permitted(parse_run(emulate), arithmetic)
    engines = (Arb(), Mpmath()) if arb else None
    graph = captured(model, data, tuple(model.preprocess(data.images[:1]).shape[1:]))
    programs = _Programs(model, Program.of(graph, REFERENCE), Program.of(graph, arithmetic), order)
    found: dict[Kind, dict[int, Outcome]] = {"logits": {}, "probabilities": {}}
    skipped: list[int] = []
    with device_flags(arithmetic):
        for first in range(0, len(data.images), _BATCH):
            runs = programs.run(data.images[first : first + _BATCH], first)
            logits = [run.logits for run in runs]
            outputs: dict[Kind, list[Tensor]] = {
                "logits": logits,
                "probabilities": [softmax(*pair) for pair in zip(logits, programs.storage, strict=True)],
            }
            finite = (runs[0].finite & runs[1].finite).tolist()
            skipped += [first + row for row, fine in enumerate(finite) if not fine]
            for kind, (a, b) in outputs.items():
                found[kind] |= {first + row: outcome(a[row].tolist(), b[row].tolist()) for row, fine in enumerate(finite) if fine}
            on_progress(min(first + _BATCH, len(data.images)), len(data.images))
        truth = compare_with_truth(programs, data, engines, min(arb, len(data.images)), judged) if engines else None
    return LemmaReport(
        model=model_info(model),
        data=data_info(data),
        arithmetic=arithmetic_info(arithmetic, graph),
        run=describe_run(arithmetic, emulate, native=False),
        outputs=tuple(_output(kind, outcomes) for kind, outcomes in found.items() if outcomes),
        skipped=tuple(skipped),
        truth=truth,
        rows=tuple(
            Row(index=i, kind=kind, gamma=str(o.gamma), delta=str(o.delta), kept=o.kept)
            for kind, outcomes in found.items()
            for i, o in outcomes.items()
        ),
    )


def _output(kind: Kind, outcomes: dict[int, Outcome]) -> Output:
    return Output(
        kind=kind,
        tables=tuple(_cells(premise, {i: (o.premises[k], o.kept) for i, o in outcomes.items()}) for k, premise in enumerate(PREMISES)),
        boundary=tuple(i for i, o in outcomes.items() if o.boundary),
        gamma=spread([o.gamma for o in outcomes.values()]),
        delta=spread([o.delta for o in outcomes.values()]),
    )


def _cells(premise: str, found: dict[int, tuple[bool, bool]]) -> Cells:
    count = Counter(found.values())
    return Cells(
        premise=premise,
        holds_kept=count[True, True],
        holds_changed=count[True, False],
        fails_kept=count[False, True],
        fails_changed=count[False, False],
        violations=tuple(i for i, cell in found.items() if cell == (True, False)),
    )


def spread(values: Sequence[Fraction]) -> Spread:
    """Mean, variance (of the population), extremes and quantiles, computed exactly and rounded at the end."""
    mean = sum(values, Fraction(0)) / len(values)
    variance = sum(((v - mean) ** 2 for v in values), Fraction(0)) / len(values)
    levels = np.quantile(np.array([float(v) for v in values]), QUANTILES)
    return Spread(
        mean=float(mean),
        variance=float(variance),
        least=float(min(values)),
        largest=float(max(values)),
        quantiles={f"{100 * level:g} %": float(value) for level, value in zip(QUANTILES, levels, strict=True)},
    )


def softmax(logits: Tensor, storage: Format) -> Tensor:
    """Probabilities as torch gives them: computed in binary32 and stored once."""
    return store(torch.softmax(logits.float(), 1), storage).double()


@dataclass(frozen=True)
class _Programs:
    """Both programs of a model."""

    model: LoadedModel
    reference: Program
    half: Program
    emulate: Order | None

    @property
    def storage(self) -> tuple[Format, Format]:
        return self.reference.arithmetic.storage, self.half.arithmetic.storage

    def inputs(self, images: NDArray[Any], first: int) -> tuple[Tensor, Tensor]:
        preprocessed = self.model.preprocess(images, first)
        return self.reference.inputs(preprocessed, first), self.half.inputs(preprocessed, first)

    def run(self, images: NDArray[Any], first: int) -> tuple[Run, Run]:
        a, b = self.inputs(images, first)
        return execute(self.reference, a), execute(self.half, b, emulate=self.emulate)


def compare_with_truth(programs: _Programs, data: Dataset, engines: tuple[Arb, Mpmath], count: int, judged: int) -> TruthInfo | None:
    """Compute the exact networks of the first inputs by Arb, have mpmath judge some, and compare the runs, where finite, with them."""
    arb, judge = engines
    large = sum(map(programs.half.graph.multiplications, programs.half.graph.nodes)) > _LARGE
    size = 1 if large else 50
    errors: dict[str, list[float]] = {"reference": [], "half": [], "weights": []}
    agree = neurons = 0
    centre_error = 0.0
    used = by_mpmath = 0
    for first in range(0, count, size):
        images = data.images[first : min(first + size, count)]
        inputs, runs = programs.inputs(images, first), programs.run(images, first)
        balls = []
        for program, stored in zip((programs.reference, programs.half), inputs, strict=True):
            samples = Samples(judge, arb) if large and first < judged else None
            balls.append(exact_logits(arb, program, stored, samples))
            neurons += samples.compared if samples else 0
            if not large and first < judged:
                agree_on(judge, arb, program, stored[: judged - first], balls[-1])
        finite = runs[0].finite & runs[1].finite
        reference, half = (exact[finite.numpy()] for exact in balls)
        used += len(half)
        by_mpmath += 0 if large else int(finite[: max(judged - first, 0)].sum())
        centre_error = max([centre_error, *distances(arb, arb.array(interval(programs.half, inputs[1]).centre[finite]), half)])
        errors["reference"] += distances(arb, arb.array(runs[0].logits[finite]), reference)
        errors["half"] += distances(arb, arb.array(runs[1].logits[finite]), half)
        errors["weights"] += distances(arb, reference, half)
        agree += sum(_predicted(p) == _predicted(q) for p, q in zip(reference, half, strict=True))
    if not used:
        return None
    means = {name: (fmean(values), max(values)) for name, values in errors.items()}
    return TruthInfo(
        inputs=used,
        by_mpmath=by_mpmath,
        neurons_by_mpmath=neurons,
        reference_error=means["reference"],
        half_error=means["half"],
        weights=means["weights"],
        binary64_error=centre_error,
        agree=agree,
    )


def _first_argmax(values: Sequence[Any]) -> int:
    return max(range(len(values)), key=lambda i: (values[i], -i))


def _predicted(balls: Objects) -> int:
    return _first_argmax([ball.mid() for ball in balls.tolist()])
