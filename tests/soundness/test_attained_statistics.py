"""Statistics of rows as kernels compute them, step by step in binary32, against what the rules allow: on hard data, and on data chosen to err.

Means and deviations in two passes, by Welford's updates and by Chan's merges; sums of exponentials in one and in two passes; attention
in blocks of 16 keys with rescaling.
"""

import numpy as np
import pytest
import torch

from precisionkit.arithmetic import REFERENCE, parse_arithmetic
from precisionkit.enclosure import Enclosure
from precisionkit.formats import round_to_nearest
from precisionkit.ops import BY_NAME
from precisionkit.ops._store import store

from .cases import Case
from .harness import JUDGE, MP, bounded, distance, enclosed, exact, violations

F32 = np.float32
EPS = 1e-5


# -------------------------------------------------------------------------------------------------------------- algorithms
def two_passes(x):
    """Mean, and sum of squared distances from it."""
    mean = F32(np.add.accumulate(x, dtype=F32)[-1] / F32(len(x)))
    distances = x - mean
    return mean, np.add.accumulate(distances * distances, dtype=F32)[-1]


def welford(x):
    mean, squares = F32(0), F32(0)
    for count, value in enumerate(x, 1):
        distance = value - mean
        mean = mean + distance / F32(count)
        squares = squares + distance * (value - mean)
    return mean, squares


def chan(x):
    """Halves merged, recursively."""
    if len(x) == 1:
        return x[0], F32(0)
    half = len(x) // 2
    (first, below), (second, above) = chan(x[:half]), chan(x[half:])
    share, difference = F32(len(x) - half) / F32(len(x)), second - first
    return first + difference * share, below + above + difference * difference * (share * F32(half))


def chan_of_welford(x):
    """Four lanes by Welford's updates, merged; as vectorised kernels do."""
    lanes = [(*welford(x[lane::4]), len(x[lane::4])) for lane in range(4) if len(x[lane::4])]
    mean, squares, count = lanes[0]
    for other, more, size in lanes[1:]:
        share, difference = F32(size) / F32(count + size), other - mean
        mean, squares = mean + difference * share, squares + more + difference * difference * (share * F32(count))
        count += size
    return mean, squares


ALGORITHMS = {"two passes": two_passes, "welford": welford, "chan": chan, "lanes": chan_of_welford}


def inverse_of(squares, count):
    return F32(1) / np.sqrt(squares / F32(count) + F32(EPS))


# -------------------------------------------------------------------------------------------------------------------- data
def spread(n):
    return np.random.default_rng(n).standard_normal(n)


DATA = {
    "normal": spread,
    "mean 1000": lambda n: 1000 + spread(n),
    "mean 100000": lambda n: 100_000 + spread(n),
    "small deviation": lambda n: 1 + 2.0**-12 * spread(n),
    "constant": lambda n: np.full(n, 0.1),
    "one large": lambda n: np.where(np.arange(n) == 0, 10_000, 1) + 0.01 * spread(n),
    "growing": lambda n: 2.0 ** np.linspace(0, 20, n),
    "falling": lambda n: 2.0 ** np.linspace(20, 0, n),
    "alternating": lambda n: 1000.0 * (-1.0) ** np.arange(n) + spread(n),
}


def row(x):
    return torch.from_numpy(x.astype(np.float64))[None]


def judged(name, x, attributes):
    """Exact value and what a run may err by."""
    record = BY_NAME[name]
    result = record.error_rule(REFERENCE, attributes, Enclosure.exact(row(x)))
    return record.exact(JUDGE, attributes, JUDGE.array(row(x))).flat[0], result.fresh.item()


def share(computed, truth, fresh):
    """Of what a run may err by; a share above 1 is a violation, and without a bound there is none."""
    if not np.isfinite(fresh):
        return 0.0
    found = float(abs(MP.mpf(float(computed)) - truth) / MP.mpf(fresh))
    assert found <= 1
    return found


def shares_of(x, algorithm):
    """Of mean and inverse deviation."""
    attributes = {"normalized_shape": (len(x),), "eps": EPS}
    mean, squares = ALGORITHMS[algorithm](x)
    inverse = inverse_of(squares, len(x))
    return [share(c, *judged(f"layer_norm_{name}", x, attributes)) for name, c in (("mean", mean), ("inverse", inverse))]


@pytest.mark.parametrize("n", [1, 2, 7, 64, 768, 4096])
@pytest.mark.parametrize("data", DATA)
def test_every_way_to_compute_mean_and_deviation_is_within_the_bounds(data, n):
    x = DATA[data](n).astype(F32)
    for algorithm in ALGORITHMS:
        shares_of(x, algorithm)


# ------------------------------------------------------------------------------------------------------- data chosen to err
def greedy(n, draw, algorithm, error, tries=40):
    """Numbers chosen one after the other, of some that are drawn, such that what a run errs by is largest in one direction."""
    rng = np.random.default_rng(0)
    chosen = np.zeros(0, dtype=F32)
    for _ in range(n):
        candidates = [np.append(chosen, F32(v)) for v in draw(rng, tries)]
        chosen = max(candidates, key=lambda x: error(ALGORITHMS[algorithm](x), x.astype(np.float64)))
    return chosen


def of_mean(found, x):
    return (float(found[0]) - x.mean()) * len(x)


def of_squares(found, x):
    return float(found[1]) - x.var() * len(x)


CHOSEN = {
    "mean in two passes": ("two passes", lambda rng, k: 1 + 0.01 * rng.random(k), of_mean, 64, 0, 0.2),
    "mean by welford": ("welford", lambda rng, k: 1 + 0.5 * rng.random(k), of_mean, 64, 0, 0.2),
    "deviation in two passes": ("two passes", lambda rng, k: rng.standard_normal(k), of_squares, 24, 1, 0.005),
    "deviation by welford": ("welford", lambda rng, k: rng.standard_normal(k), of_squares, 24, 1, 0.01),
}
"""Algorithm, numbers, what is to err, how many numbers, which statistic, and the least share."""


@pytest.mark.parametrize("name", CHOSEN)
def test_numbers_chosen_to_err_reach_a_share_of_the_bound(name):
    algorithm, draw, error, n, place, least = CHOSEN[name]
    assert shares_of(greedy(n, draw, algorithm, error), algorithm)[place] >= least


# -------------------------------------------------------------------------------------------------- sums of exponentials
def safe(x):
    """Two passes: the maximum first."""
    largest = x.max()
    return np.log(np.add.accumulate(np.exp(x - largest), dtype=F32)[-1]) + largest


def online(x):
    """One pass, rescaled whenever the maximum grows (Milakov and Gimelshein, 2018), in blocks of 16."""
    largest, total = x[:16].max(), F32(0)
    for start in range(0, len(x), 16):
        block = x[start : start + 16]
        new = max(largest, block.max())
        total = total * np.exp(largest - new) + np.add.accumulate(np.exp(block - new), dtype=F32)[-1]
        largest = new
    return np.log(total) + largest


SCORES = {
    "normal": spread,
    "level": lambda n: np.zeros(n),
    "rising": lambda n: np.linspace(-20, 20, n),
    "large": lambda n: 60 * spread(n),
    "far": lambda n: 5000 + spread(n),
    "lost": lambda n: np.where(np.arange(n) == 0, 0.0, -24 * np.log(2)),
}


@pytest.mark.parametrize("n", [1, 5, 64, 4096])
@pytest.mark.parametrize("data", SCORES)
def test_logarithms_of_sums_of_exponentials_are_within_the_bounds(data, n):
    x = SCORES[data](n).astype(F32)
    one = {"dim": -1}
    # the logarithm is part of no statistic: operators that need it charge its contract
    logarithm = 9 * 2.0**-24 * (np.log(n) + abs(float(x.max())))
    for name, run in (("logsumexp", safe), ("attention_logsumexp", online)):
        truth, fresh = judged(name, x, one)
        share(run(x), truth, fresh + logarithm)


def test_a_sum_of_exponentials_that_loses_every_addition_reaches_the_bound():
    x = SCORES["lost"](4096).astype(F32)
    assert share(safe(x), *judged("logsumexp", x, {"dim": -1})) >= 0.95


# --------------------------------------------------------------------------------------------------------------- attention
def flash(query, key, value, scale, block=16):
    """Flash attention of one head (Dao et al., 2022) in binary32: blocks of keys, running maximum, sum and output, rescaled."""
    largest, total, output = np.full(len(query), -np.inf, F32), np.zeros(len(query), F32), np.zeros((len(query), value.shape[1]), F32)
    for start in range(0, len(key), block):
        scores = (query @ key[start : start + block].T) * F32(scale)
        new = np.maximum(largest, scores.max(1))
        powers, factor = np.exp(scores - new[:, None]), np.exp(largest - new)
        total = total * factor + np.add.accumulate(powers, axis=1, dtype=F32)[:, -1]
        output = output * factor[:, None] + powers @ value[start : start + block]
        largest = new
    return output / total[:, None]


HEADS = {
    "normal": (1.0, 0.0),
    "sharp": (8.0, 0.0),
    "level": (0.01, 0.0),
    "rising": (1.0, 0.2),
}
"""Size of queries and keys, and how much scores grow from key to key, so that every block is rescaled."""


@pytest.mark.parametrize("keys", [5, 64, 200])
@pytest.mark.parametrize("data", HEADS)
def test_flash_attention_is_within_the_bounds(data, keys):
    size, slope = HEADS[data]
    rng = np.random.default_rng(keys)
    query, key, value = (rng.standard_normal(shape).astype(F32) for shape in ((4, 8), (keys, 8), (keys, 3)))
    query, key = query * F32(size), key * F32(size)
    query[:, 0], key[:, 0] = 1, slope * np.arange(keys)
    values = [torch.from_numpy(t.astype(np.float64))[None] for t in (query, key, value)]
    case = Case("attention", {}, tuple(tuple(t.shape) for t in values), {3: None})
    result, _, excluded = bounded(case, REFERENCE, enclosed(case, [*values, None]))
    assert excluded.all()
    run = torch.from_numpy(flash(query, key, value, 8**-0.5).astype(np.float64))[None]
    off = distance(run, exact(case, [*values, None]))
    limit = (result.carried + result.fresh).numpy()
    assert max(float(d / MP.mpf(b)) for d, b in zip(off.flat, limit.flat, strict=True)) <= 1


@pytest.mark.parametrize("storage", ["fp16", "bf16", "fp32"])
def test_keys_that_a_mask_takes_out_leave_the_others_bounded(storage):
    arithmetic = parse_arithmetic(storage, "fp32")
    values = [round_to_nearest(torch.from_numpy(spread(size * 4).reshape(1, size, 4)), arithmetic.storage) for size in (3, 5, 5)]
    values.append(torch.full((3, 5), -torch.inf, dtype=torch.float64).triu(1))
    case = Case("attention", {}, tuple(tuple(t.shape) for t in values[:3]), {3: (3, 5)})
    _, radius, excluded = bounded(case, arithmetic, enclosed(case, values))
    assert excluded.all()
    assert radius.max() < 0.1
    kernel = BY_NAME["attention"].apply({}, *(t.float() for t in values))
    assert not violations(distance(store(kernel, arithmetic.storage).double(), exact(case, values)), radius, excluded)
