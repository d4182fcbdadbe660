"""Cauchy sketches: row sums of absolute generators for every neuron at once, at the price of a few dozen forward passes.

The zonotope's deviation at neuron i is ``sum_j G_ij s_j`` with ``|s_j| <= 1``, so its radius is ``N_i = sum_j |G_ij|``.  With
independent standard Cauchy numbers C in place of the symbols, ``sum_j G_ij C_j`` is ``N_i`` times one standard Cauchy number
(stability; Indyk, J. ACM 53, 2006).  An order statistic of K such samples bounds N_i, with a failure probability that is
computed, not assumed; nothing is assumed of the rounding errors.  Proof: proofs/bounds.md, theorem 19.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from functools import cache, lru_cache

import numpy as np
import torch
from torch import Tensor

from precisionkit.bound.walk import relied_on
from precisionkit.enclosure import Enclosure
from precisionkit.graph import Graph, Node
from precisionkit.ops.adjoint import Lines
from precisionkit.outward import U, add_up, hypot_up, mul_up

_SEED = 20230130
_KEPT_BYTES = 3 * 2**29
"""Largest size of the random numbers that are kept between images; beyond it they are drawn again, with the same seeds."""


_FLOOR = 2.0**-18
"""Least radius of a symbol, in units of the coordinate's deviation, so that it outweighs the rounding of the samples."""

_BORNE = 2.0**-5
"""Samples whose rounding is a larger share of a symbol's radius, divided by the sketch's factor, count as infinite."""


@cache
def rank_and_factor(samples: int, failure: float) -> tuple[int, float]:
    """Rank m and factor f such that ``N <= f |X|_(m)`` fails with at most the given probability; f |X|_(m) is typically least.

    It fails if at least m of the K numbers have ``|C| < 1/f``, each with probability ``q = (2 / pi) arctan(1/f)``: a binomial tail.
    """
    best = (math.inf, 0, math.inf)
    for rank in range(samples // 3, samples):
        low, high = 0.0, 1.0
        for _ in range(50):
            q = (low + high) / 2
            low, high = (q, high) if _binomial_tail(samples, rank, q) <= failure / 2 else (low, q)
        factor = (1 + 2.0**-40) / math.tan(math.pi / 2 * low) if low > 0 else math.inf
        best = min(best, (factor * math.tan(math.pi / 2 * (rank - 0.5) / samples), rank, factor))
    return best[1], best[2]


def _binomial_tail(n: int, least: int, q: float) -> float:
    """Probability of at least so many successes; its rounding, far below a factor of 2, is left to the caller."""
    return math.fsum(math.comb(n, k) * q**k * (1 - q) ** (n - k) for k in range(least, n + 1))


def normal_factor(samples: int, failure: float) -> float:
    """Return T such that ``|Y| <= T rms(X)`` fails with at most half the given probability (the other half is for rounding).

    X are K independent normal numbers of variance s**2 and Y, independent of them, exceeds ``t s`` with a probability of at most
    ``2 exp(-t**2 / 2)``; on average over X that is ``2 (1 + T**2 / K)**(-K / 2)``.
    """
    return math.sqrt(samples * math.expm1(2 / samples * math.log(4 / failure))) * (1 + 2.0**-40)


@dataclass(frozen=True)
class _State:
    """Sketch of one stored tensor of one image.

    Attributes
    ----------
    samples : (1 + pilot + K, ...) tensor or None
        First the shift, which is not random; None where there is none and no symbol has been drawn yet.
    own : (1, ...) tensor
        Radius of one symbol a coordinate that has not been drawn yet.
    span : (1, ...) tensor
        What the samples and their rounding are measured by: a bound of the deviation.
    size, lost : (1 + pilot + K,) tensors
        Upper bounds of a sample's magnitude, and of its rounding since its symbols were drawn, in units of the span.
    """

    samples: Tensor | None
    own: Tensor
    span: Tensor
    size: Tensor
    lost: Tensor

    @property
    def shift(self) -> Tensor:
        """Magnitude of the part that is not random; (1, ...)."""
        return torch.zeros_like(self.own) if self.samples is None else self.samples[:1].abs()

    def against(self, operand: Enclosure | Tensor | None) -> _State:
        """The same, measured by an enclosure's radius, which may be less than the span."""
        assert isinstance(operand, Enclosure)
        ratio = _largest_ratio(self.span, operand.radius)
        return replace(self, span=operand.radius, size=mul_up(self.size, ratio), lost=mul_up(self.lost, ratio))


class Sketch(ABC):
    """Carries samples along the graph, node by node, for one image.

    The first `pilot` samples give estimates that decide what is claimed of each neuron; the others, independent of them, test
    the claims.

    Parameters
    ----------
    graph : Graph
    pilot, samples : int
    failure : float
        Probability that any bound given for this image is wrong.
    """

    def __init__(self, graph: Graph, pilot: int, samples: int, failure: float) -> None:
        self._graph, self._pilot, self._samples = graph, pilot, samples
        self._states: dict[str, _State] = {}
        self._uses = {name: sum(node.operands.count(name) for node in graph.nodes) for name in graph.names}
        self._apart = {name for node in graph.nodes if not graph.is_pointwise(node) for name in node.operands if name is not None}
        self._symbols = sum(math.prod(node.shape) for node in graph.nodes)
        self._failure = failure / max(1, relied_on(graph))
        self._shares = torch.zeros(1 + pilot + samples, dtype=torch.float64, device="cpu")
        """For each sample, the largest ratio of its rounding to the radius of a symbol that stands for it."""

    @abstractmethod
    def estimate(self, name: str) -> Tensor:
        """Estimates of what `bound` bounds, from the pilot samples: nothing is proved of them."""

    @abstractmethod
    def bound(self, name: str, underflow: float) -> Tensor:
        """Bounds for the coordinates of one node, from the other samples, and what pulling back loses below the normal range."""

    @abstractmethod
    def _joined(self, a: Tensor, b: Tensor) -> Tensor:
        """Radius of one symbol in place of two independent ones, rounded up."""

    @abstractmethod
    def _of_lines(self, lines: Lines) -> tuple[Tensor, Tensor | None]:
        """Radius and centre of a nonlinear operator's own symbol."""

    @abstractmethod
    def _noise(self, name: str, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Random numbers for the symbols of one node, (pilot + K, ...), and the largest magnitude of each sample."""

    def step(
        self,
        node: Node,
        operands: tuple[Enclosure | Tensor | None, ...],
        reach: Tensor,
        radius: Tensor,
        carried: Tensor,
        lines: Lines | None,
    ) -> None:
        """Add one node.

        Parameters
        ----------
        reach : (1, ...) tensor
            Radius of the node's result.
        radius : (1, ...) tensor
            Radius of the node's own symbols, one a coordinate.
        carried : (1, ...) tensor
            What the operands' radii can move the result by.
        lines : Lines or None
            For a nonlinear node: slope `upper`, and a symbol for what lies between `above` and `under`.
        """
        states = tuple(self._states.get(name) if name is not None else None for name in node.operands)
        if lines is not None:
            state = self._through_lines(states[0], radius, lines)
        else:
            state = self._through_linear(node, states, operands, radius, carried)
        name = node.name
        if name in self._apart or self._uses[name] > 1:
            state = self._drawn(name, state, reach)
        self._states[name] = state
        for used in node.operands:
            if used is not None and used in self._uses:
                self._uses[used] -= 1
                if not self._uses[used]:
                    self._states.pop(used, None)

    def _through_lines(self, state: _State | None, radius: Tensor, lines: Lines) -> _State:
        symbol, centre = self._of_lines(lines)
        own = self._joined(symbol, radius)
        if state is None:
            # the operand is the same in every run, so that the lines do not matter
            return self._undrawn(own)
        slope = lines.upper
        samples = None if state.samples is None else lines.select(state.samples) * slope
        span = mul_up(lines.select(state.span), slope)
        size, lost = state.size, add_up(state.lost, mul_up(state.size, U))
        if centre is not None:
            samples = torch.zeros(self._rows, *own.shape[1:], dtype=own.dtype, device=own.device) if samples is None else samples
            samples[:1] += centre
            span = add_up(span, centre.abs())
            size = size.clamp_min(1.0)
            lost = add_up(lost, mul_up(size, 2 * U))
        return _State(samples, self._joined(own, mul_up(lines.select(state.own), slope)), span, size, lost)

    def _undrawn(self, own: Tensor) -> _State:
        nothing = torch.zeros(self._rows, dtype=own.dtype, device=own.device)
        return _State(None, own, torch.zeros_like(own), nothing, nothing)

    @property
    def _rows(self) -> int:
        return 1 + self._pilot + self._samples

    def _through_linear(
        self,
        node: Node,
        states: tuple[_State | None, ...],
        operands: tuple[Enclosure | Tensor | None, ...],
        radius: Tensor,
        carried: Tensor,
    ) -> _State:
        record = node.record
        assert record.linear is not None

        def image(parts: tuple[Tensor | None, ...]) -> Tensor:
            assert record.linear is not None
            rows = torch.zeros(next(p.shape[0] for p in parts if p is not None), dtype=torch.int64, device=radius.device)
            return record.linear(node.attributes, parts, rows, *operands)

        drawn = tuple(None if state is None else state.samples for state in states)
        samples = None if all(part is None for part in drawn) else image(drawn)
        known = [(place, state) for place, state in enumerate(states) if state is not None]
        if self._graph.is_pointwise(node):
            span = torch.zeros_like(radius)
            own = radius
            for place, state in known:
                open_, carries = (image(_only(place, len(states), part)).abs() * (1 + 2.0**-48) for part in (state.own, state.span))
                own, span = self._joined(own, open_), add_up(span, carries)
        else:  # the operands' symbols are drawn
            own, span = radius, carried
            known = [(place, state.against(operands[place])) for place, state in known]
        if samples is None:
            return self._undrawn(own)
        # |A| |sample| <= size |A| span, and each of its roundings is relative to that
        terms = record.linear_terms(node.attributes, *operands) + 2 if record.stores else 0
        size = torch.stack([state.size for _, state in known]).amax(0)
        lost = torch.stack([state.lost for _, state in known]).amax(0)
        return _State(samples, own, span, mul_up(size, 1 + 2 * terms * U), add_up(lost, mul_up(size, 2 * terms * U)))

    def _drawn(self, name: str, state: _State, reach: Tensor) -> _State:
        """Draw the symbols that are still open, and let their radii stand for the rounding so far.

        Where every run stores the same number there is nothing to stand for.
        """
        own, span = (torch.where(reach == 0, 0.0, part) for part in (torch.maximum(state.own, reach * _FLOOR), state.span))
        self._shares = torch.maximum(self._shares.to(own.device), mul_up(state.lost, _largest_ratio(span, own)))
        noise, largest = (part.to(own.device) for part in self._noise(name, tuple(own.shape[1:])))
        samples = torch.zeros(self._rows, *own.shape[1:], dtype=own.dtype, device=own.device)
        if state.samples is None:
            torch.mul(noise, own, out=samples[1:])
        else:  # not in place: these may be a view of another node's
            torch.addcmul(state.samples[1:], noise, own, out=samples[1:])
            samples[:1] = state.samples[:1]
        size = _sizes(samples, reach)
        # the product and the sum round
        lost = add_up(mul_up(size, U), mul_up(torch.cat([largest.new_zeros(1), largest]), _largest_ratio(own, reach) * U))
        return _State(samples, torch.zeros_like(own), reach, size, lost)

    def _keeps_noise(self) -> bool:
        return 8 * (self._pilot + self._samples) * self._symbols <= _KEPT_BYTES

    def _place(self, name: str) -> int:
        return self._graph.names.index(name)


class CauchySketch(Sketch):
    """Sketches the sums of absolute generators: nothing is assumed of the symbols."""

    def __init__(self, graph: Graph, pilot: int, samples: int, failure: float) -> None:
        super().__init__(graph, pilot, samples, failure)
        self._rank, self._factor = rank_and_factor(samples, self._failure) if samples else (0, math.inf)

    def _joined(self, a: Tensor, b: Tensor) -> Tensor:
        return add_up(a, b)

    def _of_lines(self, lines: Lines) -> tuple[Tensor, Tensor | None]:
        """The middle between the lines, and half the distance, with the rounding of the middle."""
        radius = mul_up(add_up(lines.above, lines.under), 0.5 * (1 + 2.0**-50))
        return radius, (lines.above - lines.under) / 2

    def _noise(self, name: str, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        return (_kept_cauchy if self._keeps_noise() else _draw_cauchy)(self._place(name), self._pilot + self._samples, shape)

    def estimate(self, name: str) -> Tensor:
        """From medians."""
        state = self._states[name]
        if state.samples is None:
            return state.own
        return state.own + state.shift + _order_statistic(state.samples[1 : 1 + self._pilot], (self._pilot + 1) // 2)

    def bound(self, name: str, underflow: float) -> Tensor:
        """Upper bounds of the deviations, ``|shift| + N``, all of them with the probability ``1 - failure``.

        With E the rounding of a sample, ``N <= f |X|_(m) <= f (|X + E|_(m) + share N + lost)``, solved for N, where samples that have
        lost more than their share count as infinite; the shift has lost at most as much as the others.
        """
        state = self._states[name]
        own = add_up(state.own, underflow)
        if state.samples is None:
            return own
        tested = self._tested(state)
        if tested is None:
            return torch.full_like(own, torch.inf)
        lost, factor, borne = tested
        quantile = _order_statistic(state.samples[1 + self._pilot :], self._rank, borne)
        return add_up(own, state.shift, lost, mul_up(add_up(quantile, lost), factor))

    def confirms(self, name: str, claim: Tensor, underflow: float) -> Tensor:
        """Whether the bound is at most what is claimed: as many samples as its rank lie below what the claim allows.  Boolean."""
        state = self._states[name]
        own = add_up(state.own, underflow)
        if state.samples is None:
            return own <= claim
        tested = self._tested(state)
        if tested is None:
            return torch.zeros_like(own, dtype=torch.bool)
        lost, factor, borne = tested
        # rounded down: the subtractions lose at most 2**-52 of what is subtracted from
        left = (claim - add_up(own, state.shift, lost)) - claim * 2.0**-51
        allowed = left / factor * (1 - 2.0**-50) - lost * (1 + 2.0**-51)
        below = (state.samples[1 + self._pilot :].abs() <= allowed * (1 - 2.0**-50)) & borne.reshape(-1, *[1] * (own.dim() - 1))
        return below.sum(0, keepdim=True) >= self._rank

    def _tested(self, state: _State) -> tuple[Tensor, float, Tensor] | None:
        """What rounding can hide, the factor of an order statistic, and which samples count; None where the shift has lost too much."""
        borne = self._factor * self._shares <= _BORNE
        if not borne[0]:
            return None
        share = float(torch.where(borne, self._shares, 0.0).amax())
        lost = mul_up(state.span, float(torch.where(borne, state.lost, 0.0).amax()))
        factor = self._factor / (1 - self._factor * share) * (1 + share) * (1 + 2.0**-40)
        return lost, factor, borne[1 + self._pilot :]


class NormalSketch(Sketch):
    """Sketches the standard deviations of sums of independent symbols of mean zero; nonlinear operators add none of their own."""

    def __init__(self, graph: Graph, pilot: int, samples: int, failure: float) -> None:
        super().__init__(graph, pilot, samples, failure)
        self._factor = normal_factor(samples, self._failure)

    def _joined(self, a: Tensor, b: Tensor) -> Tensor:
        return hypot_up(a, b)

    def _of_lines(self, lines: Lines) -> tuple[Tensor, Tensor | None]:
        return torch.zeros_like(lines.above), None

    def _noise(self, name: str, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        return (_kept_normal if self._keeps_noise() else _draw_normal)(self._place(name), self._pilot + self._samples, shape)

    def estimate(self, name: str) -> Tensor:
        """From root mean squares."""
        state = self._states[name]
        samples = state.samples
        if samples is None:
            return state.own * self._factor
        return self._joined(state.own, _root_mean_square(samples[1 : 1 + self._pilot])) * self._factor

    def bound(self, name: str, underflow: float) -> Tensor:
        """Bounds that the sum of the symbols exceeds anywhere with at most the probability `failure`, samples included.

        Rounding moves a sample by at most ``share sqrt(number of symbols)`` standard deviations and `lost`; up to 2**-12 standard
        deviations are covered by the reserve of `normal_factor`: ``exp(T**2 2**-13) (1 - 2**-12)**(-K / 2) < 2``.
        """
        state = self._states[name]
        own = add_up(state.own, underflow)
        if state.samples is None:
            return mul_up(own, self._factor)
        tested = slice(1 + self._pilot, None)
        if not float(self._shares[tested].amax()) * math.sqrt(self._symbols) <= 2.0**-12:
            return torch.full_like(own, torch.inf)
        rms = _root_mean_square(state.samples[tested]) * (1 + self._samples * 2.0**-50)
        return mul_up(self._joined(own, add_up(rms, mul_up(state.span, float(state.lost[tested].amax())))), self._factor)


def _largest_ratio(a: Tensor, b: Tensor) -> float:
    """Of non-negative numbers, rounded up; 0/0 is 0."""
    return float(torch.where(a == 0, 0.0, a / b).amax()) * (1 + 2.0**-50)


def _sizes(samples: Tensor, span: Tensor) -> Tensor:
    """Largest ratio of each sample's magnitudes to the span, rounded up; a zero span is measured by zeros alone."""
    zero = span[0] == 0
    low, high = torch.aminmax((samples * torch.where(zero, 0.0, 1 / span)).flatten(1), dim=1)
    size = torch.maximum(high.abs(), low.abs()) * (1 + 2.0**-50)
    return torch.where(samples[:, zero].any(1), torch.inf, size) if zero.any() else size


def _only(place: int, count: int, part: Tensor) -> tuple[Tensor | None, ...]:
    return tuple(part if i == place else None for i in range(count))


def _order_statistic(samples: Tensor, rank: int, borne: Tensor | None = None) -> Tensor:
    """The rank-th smallest magnitude, where samples that are not borne are infinite; (1, ...)."""
    magnitudes = samples.abs()
    if borne is not None and not borne.all():
        magnitudes[~borne] = torch.inf
    if magnitudes.device.type == "cpu":
        return torch.from_numpy(np.partition(magnitudes.numpy(), rank - 1, axis=0)[rank - 1 : rank])
    return magnitudes.kthvalue(rank, dim=0, keepdim=True).values


def _root_mean_square(samples: Tensor) -> Tensor:
    mean: Tensor = samples.square().mean(0, keepdim=True)
    return mean.sqrt()


def _draw_cauchy(place: int, count: int, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    return _with_sizes(
        torch.empty(count, *shape, dtype=torch.float64, device="cpu").cauchy_(generator=torch.Generator("cpu").manual_seed(_SEED + place))
    )


def _draw_normal(place: int, count: int, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    return _with_sizes(
        torch.empty(count, *shape, dtype=torch.float64, device="cpu").normal_(
            generator=torch.Generator("cpu").manual_seed(_SEED - 1 - place)
        )
    )


def _with_sizes(noise: Tensor) -> tuple[Tensor, Tensor]:
    """With each sample's largest magnitude."""
    return noise, noise.flatten(1).abs().amax(1)


_kept_cauchy, _kept_normal = lru_cache(maxsize=64)(_draw_cauchy), lru_cache(maxsize=64)(_draw_normal)
