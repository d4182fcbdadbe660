# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # One layer: bounds against truth
#
# The error of a dot product depends on the format of its accumulator and on the order of its additions. We take the first layer (784
# inputs, 128 neurons) of `mnist_fc_3layer`, trained below for two epochs, and 20 test images of MNIST. For every order that the package
# knows we compare three numbers: what an emulated run really errs by, against the exact result; what the textbook bound allows; and what
# the package's bound allows. At the end we look for runs that come close to the bound.

# %%
import math
import tempfile
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

from precisionkit import operations
from precisionkit.arithmetic import parse_arithmetic, parse_order, parse_run
from precisionkit.data import load_dataset
from precisionkit.enclosure import Enclosure
from precisionkit.formats import BINARY16, round_to_nearest
from precisionkit.models import load_model
from precisionkit.ops import BY_NAME
from precisionkit.probe import probe, torch_kernels
from precisionkit.training import Settings, train
from precisionkit.truth import Arb, Mpmath

torch.set_num_threads(1)
plt.rcParams.update({"figure.dpi": 80, "font.size": 10})

# %%
with tempfile.TemporaryDirectory() as folder:
    settings = Settings(arch="mnist_fc_3layer", data="mnist", optimizer="adam", epochs=2, batch=128, seed=1)
    trained = train(settings, Path(folder))
    model = load_model(trained.path)
print(f"{trained.history[-1].accuracy:.2%} of the test images are right")


def to_half(values):
    return torch.as_tensor(round_to_nearest(values.double(), BINARY16)).float()


x = to_half(model.preprocess(load_dataset("mnist", limit=20).images).flatten(1))
w, b = to_half(model.module.fc1.weight), to_half(model.module.fc1.bias)
linear = BY_NAME["linear"]
print(f"{linear.name}: {linear.bound}; {linear.source}")

# %% [markdown]
# ## Truth
#
# Weights, biases and inputs are stored numbers of binary16. The exact value of $y = \sum_k w_k x_k + b$ is then a binary rational with
# few bits, and 50 decimal digits hold all of them. mpmath computes it, Arb's balls must contain it, and rational arithmetic must agree to
# the last bit. Every operator of the package is one record, `BY_NAME["linear"]`, with its exact meaning, its rounded runs and its error
# rule.

# %%
judge, arb = Mpmath(50), Arb(128)
exact = linear.exact(judge, {}, *map(judge.array, (x, w, b)))
with arb.working():
    balls = linear.exact(arb, {}, *map(arb.array, (x, w, b)))
inside = sum(arb.contains(ball, value) for ball, value in zip(balls.flat, exact.flat, strict=True))
rational = [sum((Fraction(p) * Fraction(q) for p, q in zip(row.tolist(), w[0].tolist(), strict=True)), Fraction(b[0].item())) for row in x]
equal = sum(judge.context.mpf(q.numerator) / q.denominator == value for q, value in zip(rational, exact[:, 0], strict=True))
print(f"{exact.size:,} dot products by mpmath; {inside:,} lie in Arb's balls; the {equal} that were tried equal the rational results")


def errors(results):
    """Distance from the exact results, rounded once at the end."""
    return np.vectorize(float)(abs(judge.array(results) - exact))


# %% [markdown]
# ## The textbook bound
#
# On its way into the sum a term meets $k$ roundings of the accumulator (roundoff $v$) and $l$ of the storage format (roundoff $u$). With
# $S = \sum_k |w_k x_k| + |b|$,
#
# $$ |\hat y - y| \le \bigl((1+v)^k (1+u)^l - 1\bigr)\, S, \qquad (1+v)^k - 1 \le \gamma_k = \frac{k v}{1 - k v} \tag{1} $$
#
# (Higham, *Accuracy and Stability of Numerical Algorithms*, 2002, lemma 3.1 and sections 3.1 and 4.2). For $n$ products and a bias,
# $k = n$ in any order if products are exact, one more if they are rounded; $k = \lceil \log_2 n \rceil + 1$ for pairwise sums, and
# $k = (K - 1) + \lceil n / K \rceil$ for blocks of $K$. Partial sums that are stored in $s$ parts meet at most $l = 2 s$ stores, an exact
# dot product $l = 1$. For tensor cores, which align and truncate, there is no such bound. Underflow is not covered.
#
# ## The package's bound
#
# *Any order* ([proofs/bounds.md](../proofs/bounds.md), theorem 3): every partial sum is the sum of a subset of the terms, so it lies
# between $-N$ and $P$, the sums of the negative and of the positive terms. With $m$ terms
#
# $$ |\hat y - y| \le (m - 1)\, v\, \mathrm{ufp}\bigl(\max(P, N) + (m - 1) v S\bigr) \quad (+\text{ errors of the products}). \tag{2} $$
#
# *A named tree* (theorem 4): half an ulp of each actual partial sum,
# $\sum_{\text{nodes}} v\, \mathrm{ufp}(|s_{\text{node}}| + \text{radius})$. If the inputs are known exactly, as in a first layer, all
# that a run may choose is whether products are fused; the ends of the sum are then computed and not bounded. *Tensor cores* (theorem 5)
# by the number of terms and steps, *parts* by theorem 21, *exact* by theorem 1.

# %%
n = x.shape[1]
TREES = ("sequential", "pairwise", "blocked:28")
CASES = [  # storage, accumulator, order, the runs that are made, and (k, l) of the textbook bound
    ("fp16", "fp32", "any", TREES, (n, 0)),
    ("fp16", "fp32", "sequential", ("sequential",), (n, 0)),
    ("fp16", "fp32", "pairwise", ("pairwise",), (math.ceil(math.log2(n)) + 1, 0)),
    ("fp16", "fp32", "blocked:28", ("blocked:28",), (27 + 28, 0)),
    ("fp16", "fp32", "splitk:4", ("splitk:4",), (n, 8)),
    ("fp16", "fp32", "exact", ("exact",), (0, 1)),
    *(("fp16", "fp32", f"tensorcore:{unit}", (unit,), None) for unit in ("volta", "ampere", "hopper")),
    ("fp16", "fp32", "gpu:hopper", ("hopper", *TREES), None),
    ("fp16", "fp16", "any", TREES, (n + 1, 0)),
    ("fp16", "fp16", "sequential", ("sequential", "sequential:fma"), (n + 1, 0)),
    ("fp16", "fp16", "pairwise", ("pairwise", "pairwise:fma"), (math.ceil(math.log2(n)) + 2, 0)),
    ("fp16", "fp16", "blocked:28", ("blocked:28", "blocked:28:fma"), (27 + 28 + 1, 0)),
    ("fp16", "fp16", "tensorcore:hopper", ("hopper",), None),
    ("fp32", "fp32", "any", TREES, (n + 1, 0)),
]
size = (x.abs().double() @ w.abs().double().T + b.abs().double()).numpy()  # S; its own error of 1e-13 does not show

# %% [markdown]
# Sums are compared before they are stored: the store's error is the subject of another study, and would hide that of a binary32
# accumulator. `error_rule` takes an enclosure of the inputs. For trees we also give it inputs that are known to within $2^{-40}$ only, so
# that theorem 4 has something to do.

# %%
known = Enclosure.exact(x.double())
nearly_known = Enclosure(x.double(), torch.full_like(x.double(), 2.0**-40))
table, allowed = [], {}
print(f"{'arithmetic':<28}{'largest error':>14}{'bound / error: textbook':>25}{'package':>10}{'nearly known':>14}")
for storage, accumulate, order, runs, factors in CASES:
    arithmetic = parse_arithmetic(storage, accumulate, order)
    bounds = [linear.error_rule(arithmetic, {}, inputs, w.double(), b.double()) for inputs in (known, nearly_known)]
    package, tree = (bound.fresh.numpy() for bound in bounds)
    results = [linear.rounded(replace(arithmetic, order=parse_run(run)), {}, x, w, b) for run in runs]
    error = np.max([errors(result) for result in results], axis=0)
    assert (error <= package).all()
    v, u = arithmetic.accumulate.unit_roundoff, arithmetic.storage.unit_roundoff
    textbook = np.full_like(size, np.nan) if factors is None else ((1 + v) ** factors[0] * (1 + u) ** factors[1] - 1) * size
    assert not (error > textbook).any()
    with np.errstate(divide="ignore"):
        ratios = textbook / error, package / error
    table.append((arithmetic.name, *ratios))
    medians = [f"{np.median(r):.3g}" if factors or i else "-" for i, r in enumerate(ratios)]
    fourth = f"{np.median(tree / error):.3g}" if arithmetic.order.is_tree else ""
    print(f"{arithmetic.name:<28}{error.max():>14.3g}{medians[0]:>25}{medians[1]:>10}{fourth:>14}")
    allowed[arithmetic.name] = np.median(tree)
for tree in TREES:
    ratio = allowed["fp16/fp16-any"] / allowed[f"fp16/fp16-{tree}"]
    print(f"sums in binary16, inputs nearly known: bound for any order / bound for {tree} = {ratio:.0f} (medians)")

# %%
figure, axes = plt.subplots(figsize=(6.6, 5), layout="constrained")
for row, ratios in enumerate(r for _, *r in table):
    for of, shift, mark, fill, label in zip(ratios, (0.15, -0.15), "so", ("w", "k"), ("textbook (1)", "package"), strict=True):
        if np.isnan(of).all():
            continue
        low, middle, high = np.quantile(of[np.isfinite(of)], (0.05, 0.5, 0.95))
        axes.plot([low, high], [row + shift] * 2, "k-", linewidth=1)
        axes.plot(middle, row + shift, mark, color="k", markerfacecolor=fill, label=label if row == 0 else None)
axes.set_xscale("log")
axes.set_yticks(range(len(table)), [name for name, *_ in table])
axes.invert_yaxis()
axes.axvline(1, color="0.5", linestyle="--")
axes.set_xlabel("bound / measured error (no unit); 1 is attained")
axes.legend(loc="lower left", bbox_to_anchor=(0.05, 0))
axes.grid(axis="x", alpha=0.3)

# %% [markdown]
# **Figure 1.** How many times larger the bounds are than the largest error of the emulated runs: median (mark) and 5 % to 95 % (line)
# over 2,560 dot products. A bound for *any order* has to allow for the worst order, which none of the runs is, so hundreds of times more.
# For a named tree on known inputs the package computes the error, and the ratio is 1; where products may be fused or not it computes both
# ends, which is a little more. The textbook bound knows neither the signs of the terms nor the partial sums.
#
# ## How bad can an order be?
#
# *Constructed.* Let the terms be $1, v, v, \dots, v$. Added from the left, each sum $1 + v$ is a tie that goes back to 1, so the error is
# $(m - 1) v$: bound (2) is attained.

# %%
terms = 33
for storage, accumulate in (("fp16", "fp32"), ("fp16", "fp16"), ("bf16", "bf16")):
    arithmetic = parse_arithmetic(storage, accumulate, "any")
    v = arithmetic.accumulate.unit_roundoff
    factor = 2.0**-12 if accumulate == "fp32" else v  # v is no number of binary16 for binary32's v, but a product of two
    left, right = torch.full((1, terms), v / factor), torch.full((1, terms), factor)
    left[0, 0] = right[0, 0] = 1.0
    run = linear.rounded(replace(arithmetic, order=parse_run("sequential")), {}, left, right)
    bound = linear.error_rule(arithmetic, {}, Enclosure.exact(left.double()), right.double()).fresh.item()
    error = 1 + (terms - 1) * v - run.item()
    print(f"{arithmetic.name:<16}: error {error:.4g}, bound {bound:.4g}, {error / bound:.1%} of it attained")

# %% [markdown]
# (Where products are rounded, the bound charges them for it, though these here are exact.)
#
# *Real terms.* We take the dot product with the most cancellation, $S / |y|$, and add its 784 rounded products in binary16 in other
# orders: 2,000 random ones, by magnitude, all positive terms before all negative ones, and the order of an adversary who always takes the
# term whose addition rounds up the most, positive terms first.

# %%
condition = size / np.vectorize(float)(abs(exact))
image, neuron = np.unravel_index(np.where(condition < 1e3, condition, 0).argmax(), condition.shape)
products = operations.multiply(w[neuron].double().numpy(), x[image].double().numpy(), BINARY16)
truth, bias = exact[image, neuron], b[neuron].double().numpy()


def in_order(order, tree="sequential"):
    """Errors of sums whose terms are permuted; one permutation a row."""
    total = parse_order(tree).fold(iter(products[np.atleast_2d(order)].T), lambda p, q: operations.add(p, q, BINARY16))
    return [float(abs(judge.number(value) - truth)) for value in operations.add(total, np.full_like(total, bias), BINARY16)]


def adversary():
    total, order = 0.0, []
    for some in (products > 0, products <= 0):
        left = some.nonzero()[0]
        while len(left):
            sums = total + products[left]  # exact in binary64
            rounded = round_to_nearest(sums, BINARY16)
            best = (rounded - sums).argmax()
            total = rounded[best]
            order.append(left[best])
            left = np.delete(left, best)
    return order


rng = np.random.default_rng(1)
shuffled = in_order([rng.permutation(n) for _ in range(2000)])
special = {
    "as stored": in_order(np.arange(n))[0],
    "smallest first": in_order(np.abs(products).argsort())[0],
    "largest first": in_order((-np.abs(products)).argsort())[0],
    "positive, then negative": in_order(np.lexsort((np.abs(products), products < 0)))[0],
    "pairwise": in_order(np.arange(n), "pairwise")[0],
    "adversary": in_order(adversary())[0],
}
any_order = linear.error_rule(parse_arithmetic("fp16", "fp16", "any"), {}, known, w.double(), b.double()).fresh[image, neuron].item()
print(f"S / |y| = {condition[image, neuron]:.0f}; bound for any order {any_order:.3g}; random orders: median {np.median(shuffled):.3g}")
for name, error in special.items():
    print(f"{name:<24}{error:>10.3g}{error / any_order:>10.2%} of the bound")

# %%
figure, axes = plt.subplots(figsize=(7.5, 3.2), layout="constrained")
axes.hist(shuffled, np.geomspace(1e-5, 1, 50), color="0.8", edgecolor="k", linewidth=0.5, label="2,000 random orders")
for height, (name, error), mark in zip((330, 300, 270, 240, 210, 180), special.items(), "osD^vX", strict=True):
    axes.plot([error, error], [0, height], marker=mark, markevery=[1], color="k", linewidth=1, label=name)
axes.axvline(any_order, color="k", linewidth=3, linestyle="--", label="bound for any order (2)")
axes.set(xscale="log", xlabel="absolute error of the sum in binary16", ylabel="number of orders")
figure.legend(fontsize=9, loc="outside right center")
axes.grid(axis="x", alpha=0.3)

# %% [markdown]
# **Figure 2.** One dot product with real terms, added in many orders, all in binary16. Positive terms first makes the partial sums as
# large as they can be. The adversary also makes every rounding error point upwards. Its order comes within a small factor of the bound,
# which takes each of the 784 roundings to be the largest possible. Usual orders stay orders of magnitude below.
#
# ## What does this machine do?
#
# The orders are assumptions. The package can try to refute them: `probe` sends constructed sums through torch's own kernels.

# %%
findings = probe(torch_kernels(torch.device("cpu"), BINARY16))
print("not refuted:", ", ".join(j.arithmetic for j in findings.judgements if j.witness is None))
print("refuted:    ", ", ".join(j.arithmetic for j in findings.judgements if j.witness is not None))
for answer in findings.answers:
    if answer.kernel == "matmul":
        print(f"matmul, {answer.question}: {answer.answer}")

# %% [markdown]
# ## Take-aways
#
# 1. The bound for any order is hundreds of times the error of usual orders. It cannot be lowered much: $1, v, \dots, v$ attains it, and
#    with the terms of a real neuron an adversary reaches a good part of it.
# 2. To name the order makes the bound smaller by one to two orders of magnitude. For inputs that are known exactly the package computes
#    what the runs can give.
# 3. With a binary32 accumulator all these errors are small beside the one store of the order `exact`; with a binary16 accumulator they
#    are the larger part.
