"""Rules whose runs stay far below them, against their theorems in 50 digits: a rule that is 1 % smaller, or larger, is found.

Inputs are known to every run, so that each figure is the theorem's rounding alone; the analysis' own rounding is below 2^-20 of it.
"""

import math

import numpy as np
import pytest
import torch

from precisionkit.arithmetic import REFERENCE, parse_arithmetic
from precisionkit.enclosure import Enclosure
from precisionkit.ops import BY_NAME

from .cases import Case
from .harness import JUDGE, MP, statistics

V = MP.mpf(2) ** -24
U = MP.mpf(2) ** -11
SHARP = MP.mpf(2) ** -19
X = torch.from_numpy(np.random.default_rng(3).standard_normal((1, 2, 48))).float().double()
ROWS = [JUDGE.array(row) for row in X[0]]
HALF = parse_arithmetic("fp16")


def fresh(name, attributes, *operands, arithmetic=REFERENCE):
    return BY_NAME[name].error_rule(arithmetic, attributes, *operands).fresh


def near(found, expected):
    for a, e in zip(found.flatten().tolist(), expected, strict=True):
        assert e * (1 - SHARP) <= MP.mpf(a) <= e * (1 + SHARP)


def grown(k):
    return k * (1 + k)


def argument(row, v=V):
    return 6 * v * max(abs(x) for x in row)


def test_the_mean_of_a_row():
    """Theorem 25: the larger of two passes and of updates."""
    n = len(ROWS[0])
    expected = []
    for row in ROWS:
        size = [abs(x) for x in row]
        updates = (MP.mpf(n) / 2 + 8 * MP.log(n, 2) + 8) * MP.mpf("1.01") * V * max(size)
        expected.append(max((n + 2) * V * sum(size) / n, updates))
    near(fresh("layer_norm_mean", {"normalized_shape": (n,), "eps": 1e-5}, Enclosure.exact(X)), expected)


def test_the_inverse_deviation_of_a_row():
    """Theorem 25, updates: D from the mean, its effect on the variance, then on the root."""
    n, eps, expected = len(ROWS[0]), MP.mpf(1e-5), []
    for row in ROWS:
        size, mean = [abs(x) for x in row], sum(row) / n
        total = sum((x - mean) ** 2 for x in row) / n + eps
        updates = (MP.mpf(n) / 2 + 8 * MP.log(n, 2) + 8) * MP.mpf("1.01") * V * max(size)
        off, levels = max((n + 2) * V * sum(size) / n, updates), MP.log(n, 2)
        sums = ((n + 12) * V * total + 2 * MP.sqrt(levels) * off * MP.sqrt(total)) / total
        squares = levels * off**2 / total
        small = (sums + squares) / 2 * (1 + 2 * (sums + squares))
        expected.append((small + 7 * V) / MP.sqrt(total))
    near(fresh("layer_norm_inverse", {"normalized_shape": (n,), "eps": 1e-5}, Enclosure.exact(X)), expected)


@pytest.mark.parametrize(("name", "blocks"), [("logsumexp", 0), ("attention_logsumexp", 3)])
def test_the_sum_of_exponentials(name, blocks):
    """Theorem 24: each exponential, its argument, n roundings, and so for every rescaling."""
    n = len(ROWS[0])
    expected = [grown((1 + blocks) * (argument(row) + 9 * V) + (n + 3 * blocks) * V) for row in ROWS]
    near(fresh(name, {"dim": -1}, Enclosure.exact(X)), expected)


def softmax_operands():
    x = Enclosure.exact(X)
    return x, Enclosure.exact(BY_NAME["logsumexp"].error_rule(REFERENCE, {"dim": -1}, x).centre)


def probabilities():
    for row in ROWS:
        powers = [MP.exp(x) for x in row]
        for power in powers:
            yield row, power / sum(powers)


def test_the_softmax():
    expected = [y * grown(argument(row) + 13 * V) for row, y in probabilities()]
    near(fresh("softmax", {"dim": -1}, *softmax_operands()), expected)


def test_stored_probabilities():
    """Theorem 26: three rescalings for 48 keys, and a store relative to the probability."""
    expected = []
    for row, y in probabilities():
        before = y * grown(4 * (argument(row) + 9 * V) + 7 * V)
        expected.append(before + U * (y + before) + MP.mpf(2) ** -25)
    near(fresh("attention_weights", {}, *softmax_operands(), arithmetic=HALF), expected)


def test_scores_are_scaled_in_any_place():
    """Theorem 26 on one product, which is exact but for its scale: five roundings, and one of the sum with the mask."""
    q, k = torch.tensor([[[1.5]]], dtype=torch.float64), torch.tensor([[[1.25]]], dtype=torch.float64)
    mask = torch.tensor([[0.75]], dtype=torch.float64)
    size = MP.mpf(1.875) / 4
    expected = 6 * V * size + 2 * V * (size + MP.mpf(0.75))
    found = fresh("attention_scores", {"scale": 0.25}, Enclosure.exact(q), Enclosure.exact(k), mask, arithmetic=HALF)
    near(found, [expected])


def test_a_normalised_number():
    """Theorem 25: seven units on ``(|x| + |m|) s |w|``, three on ``|b|``; what m and s err by is theirs."""
    n = X.shape[-1]
    case = Case("layer_norm", {"normalized_shape": (n,), "eps": 1e-5})
    rng = np.random.default_rng(5)
    w, b = (torch.from_numpy(rng.standard_normal(n)).float().double() for _ in range(2))
    given = [Enclosure.exact(X), w, b]
    hidden, _ = statistics(case, REFERENCE, given)
    found = BY_NAME["layer_norm"].error_rule(REFERENCE, case.attributes, *given, *hidden).fresh
    least = []
    for row in ROWS:
        mean = sum(row) / n
        s = 1 / MP.sqrt(sum((x - mean) ** 2 for x in row) / n + MP.mpf(1e-5))
        least += [
            7 * V * (abs(x) + abs(mean)) * s * abs(MP.mpf(c)) + 3 * V * abs(MP.mpf(d))
            for x, c, d in zip(row, w.tolist(), b.tolist(), strict=True)
        ]
    for a, e in zip(found.flatten().tolist(), least, strict=True):
        assert e * (1 - SHARP) <= MP.mpf(a) <= e * (1 + MP.mpf(2) ** -9)  # above, s and m of any run, not of the centre


def test_batch_normalisation():
    """Theorem 7: twelve units on ``(|x| + |mean|) |a|``, three on the bias."""
    w, b, m, var = (torch.tensor(v, dtype=torch.float32).double() for v in ((1.3, -0.4), (0.6, -30.0), (-0.7, 5.0), (0.9, 0.02)))
    expected = []
    for c, row in enumerate(ROWS):
        a = abs(MP.mpf(w[c].item())) / MP.sqrt(MP.mpf(var[c].item()) + MP.mpf(1e-5))
        rest = 3 * V * abs(MP.mpf(b[c].item()))
        expected += [12 * V * (abs(x) + abs(MP.mpf(m[c].item()))) * a + rest for x in row]
    near(fresh("batch_norm", {"eps": 1e-5}, Enclosure.exact(X), w, b, m, var), expected)


def test_the_average_of_one_number():
    """Theorem 10: no addition, and four roundings of a division, before or after the sum."""
    found = fresh("avg_pool2d", {"kernel_size": (1, 1)}, Enclosure.exact(X[..., None]))
    near(found, [5 * V * abs(x) for row in ROWS for x in row])


def test_the_average_of_a_row():
    """Theorem 10: ``(n - 1) v ufp(S + (n - 1) v S) / n`` for the sum, five units for the division."""
    n, expected = len(ROWS[0]), []
    for row in ROWS:
        total = sum(abs(x) for x in row)
        power = MP.mpf(2) ** int(MP.floor(MP.log(total * (1 + (n - 1) * V), 2)))
        expected.append(((n - 1) * V * power + 5 * V * total) / n)
    near(fresh("mean", {"dim": (-1,)}, Enclosure.exact(X)), expected)


@pytest.mark.parametrize("scale", [0.25, 0.75, 1.5])
def test_scaled_sums_round_like_the_worse_of_both_ways(scale):
    """Theorem 26: half an ulp of a partial sum that is scaled behind it, or of one of scaled factors, a little larger."""
    k = Enclosure.exact(torch.ones(1, 1, X.shape[-1], dtype=torch.float64))
    turned = Enclosure.exact(k.centre.transpose(1, 2))
    behind, front = (fresh("matmul", {}, Enclosure.exact(x), turned).flatten().tolist() for x in (X, X * (scale * (1 + 2.0**-16))))
    roundings = [8 * V * sum(abs(x) for x in row) for row in ROWS]
    expected = [max(scale * MP.mpf(b), MP.mpf(f)) + scale * r for b, f, r in zip(behind, front, roundings, strict=True)]
    for a, e in zip(fresh("attention_scores", {"scale": scale}, Enclosure.exact(X), k).flatten().tolist(), expected, strict=True):
        assert e * (1 - SHARP) <= MP.mpf(a) <= e * (1 + 2.0**-16)  # of the sums' roundings, what the scale's do


def test_rescaled_outputs_round_with_every_block():
    """Theorem 26: three blocks of keys, and nine roundings for them beside five."""
    keys = X.shape[-1]
    value = Enclosure.exact(torch.linspace(-1, 2, keys, dtype=torch.float64).reshape(1, keys, 1))
    scores, total = softmax_operands()
    weights = Enclosure.exact(torch.exp(scores.centre - total.centre))
    sums = fresh("matmul", {}, weights, value)
    size = weights.centre @ value.centre.abs()
    expected = [2 * MP.mpf(f) + 14 * V * MP.mpf(s) for f, s in zip(sums.flatten().tolist(), size.flatten().tolist(), strict=True)]
    near(fresh("attention", {}, scores, scores, value, None, weights), expected)


def test_one_part_in_a_hundred_is_found():
    assert math.isclose(float(grown(V)), float(V), rel_tol=1e-6)
    with pytest.raises(AssertionError):
        near(torch.tensor([0.99]), [MP.mpf(1)])
