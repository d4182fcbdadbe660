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
# # bfloat16, fp8, and the accumulator
#
# An arithmetic has two formats: the one that numbers are stored in, and the one that dot products are summed in. Which of the two
# matters, and when? One network, `mnist_fc_3layer` (784-128-64-10, ReLU), trained below for two epochs, is certified in many arithmetics:
# storage in binary16 or bfloat16, accumulators of 32 or 16 bits, several orders of summation. A proof needs a margin above the bound, so
# images with small margins tell arithmetics apart: we take 30 test images of MNIST, every eighth of the 240 with the smallest margins.
# The package does not certify storage in 8 bits; for fp8 we round the weights alone.

# %%
import copy
import tempfile
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

from precisionkit import operations
from precisionkit.arithmetic import parse_arithmetic, parse_order, parse_run
from precisionkit.certify import Settings as Method
from precisionkit.certify import certify
from precisionkit.data import load_dataset
from precisionkit.enclosure import Enclosure
from precisionkit.errors import UnsupportedArithmeticError
from precisionkit.formats import BFLOAT16, BINARY16, E4M3, E5M2, Rounding, round_into, round_to_nearest, ufp
from precisionkit.models import load_model
from precisionkit.ops import BY_NAME
from precisionkit.training import Settings, train

torch.set_num_threads(1)
plt.rcParams.update({"figure.dpi": 80, "font.size": 10})

# %%
with tempfile.TemporaryDirectory() as folder:
    settings = Settings(arch="mnist_fc_3layer", data="mnist", optimizer="adam", epochs=2, batch=128, seed=1)
    trained = train(settings, Path(folder))
    model = load_model(trained.path)
print(f"{trained.history[-1].accuracy:.2%} of the test images are right")

mnist = load_dataset("mnist")
images = model.preprocess(mnist.images)
with torch.no_grad():
    reference = model.module(images)
margins = -reference.topk(2).values.diff(dim=1)[:, 0]
rows = margins.argsort()[:240:8].sort().values.numpy()
with tempfile.TemporaryDirectory() as folder:
    np.savez(Path(folder) / "hard.npz", images=mnist.images[rows], labels=mnist.labels[rows])
    hard = load_dataset(str(Path(folder) / "hard.npz"))
print(f"the {len(rows)} images have margins up to {margins[rows].max():.3g}; the median of all images is {margins.median():.3g}")

# %% [markdown]
# ## Certified fractions
#
# `certify` compares each arithmetic with binary32 in any order. *Proved*: no run of either program changes the prediction. *Probable*:
# none does, except with a probability of at most $10^{-6}$ under a model of random rounding. *Observed*: the two runs made here agree.
# *Flipped*: they differ. The names read storage/accumulator-order.

# %%
CASES = [
    ("fp32", "fp32", "any"),
    *(("fp16", "fp32", order) for order in ("exact", "any", "tensorcore:hopper", "splitk:4")),
    *(("fp16", "fp16", order) for order in ("pairwise", "blocked:28", "sequential", "tensorcore:hopper", "any")),
    *(("bf16", "fp32", order) for order in ("any", "tensorcore:hopper", "splitk:4")),
    *(("bf16", "bf16", order) for order in ("pairwise", "sequential", "any")),
]
reports = {}
print(f"{'arithmetic':<28}{'proved':>7}{'probable':>9}{'observed':>9}{'flipped':>8}{'median bound':>14}{'measured':>11}")
for case in CASES:
    arithmetic = parse_arithmetic(*case)
    found = certify(model, hard, arithmetic, Method(probe=not reports)).summary  # probes the kernels once
    reports[arithmetic.name] = found
    counts = f"{found.proved:>7}{found.probable:>9}{found.observed:>9}{found.flipped:>8}"
    print(f"{arithmetic.name:<28}{counts}{found.median_bound:>14.3g}{found.median_measured_error:>11.3g}")

# %%
figure, axes = plt.subplots(figsize=(7.4, 5), layout="constrained")
places, left = np.arange(len(reports)), np.zeros(len(reports))
for verdict, shade, hatch in (("proved", "0.35", ""), ("probable", "0.75", "//"), ("observed", "w", ""), ("flipped", "k", "")):
    share = np.array([100 * getattr(found, verdict) / found.inputs for found in reports.values()])
    axes.barh(places, share, left=left, color=shade, hatch=hatch, edgecolor="k", linewidth=0.8, label=verdict)
    left += share
for place, found in enumerate(reports.values()):
    axes.text(102, place, f"{found.median_bound:.2g}", va="center", fontsize=9)
axes.text(102, -1, "median bound", fontsize=9, va="center")
axes.set_yticks(places, list(reports))
axes.invert_yaxis()
axes.set(xlabel="share of 30 hard test images (%)", xlim=(0, 100))
figure.legend(loc="outside upper center", ncols=4)
axes.grid(axis="x", alpha=0.3)

# %% [markdown]
# **Figure 1.** Verdicts by arithmetic, and the median bound of the change of a gap (in units of the logits), against binary32. With a
# binary32 accumulator the storage format decides, and the order of the sums hardly matters; partial sums that are stored in half
# (`splitk`) are the exception. With a 16-bit accumulator the order is everything.
#
# ## Storage or accumulator?
#
# Let $u$ belong to the storage format, $v$ to the accumulator. One layer adds two local errors to a neuron $y$ (theorems 1 and 3 of
# [proofs/bounds.md](../proofs/bounds.md)):
#
# $$ \underbrace{u\,\mathrm{ufp}(y)}_{\text{store}} \quad\text{and}\quad
# \underbrace{(m-1)\, v\, \mathrm{ufp}\bigl(\max(P, N) + (m-1) v S\bigr)}_{\text{sum of } m \text{ terms, any order}},
# \qquad S = \sum_k |w_k x_k| + |b|, $$
#
# $P$, $N$ the sums of the positive and of the negative terms. The sum dominates if $m\, \max(P, N) / |y| > u / v$. For binary16 in a
# binary32 accumulator $u / v = 2^{13}$, for bfloat16 $2^{16}$, and 1 if the formats are the same. We compute both errors for the three
# layers, at the activations of the hard images.

# %%
linear = BY_NAME["linear"]
layers = [layer for layer in model.module if isinstance(layer, torch.nn.Linear)]
inputs, value = [], images[torch.from_numpy(rows)].flatten(1)
for layer in layers:
    inputs.append(value)
    value = torch.relu(layer(value)).detach()


def stored(values, fmt):
    return torch.as_tensor(round_to_nearest(values.detach().double(), fmt))


names = ("fp16/fp32-any", "bf16/fp32-any", "fp16/fp16-any", "fp16/fp16-pairwise")
print(f"{'layer':<10}{'terms':>6}  " + "".join(f"{name:>22}" for name in names))
for number, (layer, x) in enumerate(zip(layers, inputs, strict=True), 1):
    cells = []
    for case in (("fp16", "fp32", "any"), ("bf16", "fp32", "any"), ("fp16", "fp16", "any"), ("fp16", "fp16", "pairwise")):
        arithmetic = parse_arithmetic(*case)
        factors = [stored(values, arithmetic.storage) for values in (x, layer.weight, layer.bias)]
        bound = linear.error_rule(arithmetic, {}, Enclosure.exact(factors[0]), *factors[1:])
        ratio = bound.fresh / (arithmetic.storage.unit_roundoff * ufp(bound.centre))
        cells.append(f"{ratio.median():.3g}")
    print(f"{number:<10}{x.shape[1] + 1:>6}  " + "".join(f"{cell:>22}" for cell in cells))
print("(median bound of the sum, in units of the bound of one store)")

# %% [markdown]
# ## Errors against the number of terms
#
# The same with measured errors: dot products of the first layer, on the hard images, cut off after $n$ terms (the pixels in one random
# order, so that every part of the image is there). The exact value is the sum in binary64, whose own error does not show.

# %%
rng = np.random.default_rng(1)
order = rng.permutation(784)
lengths = [2, 4, 8, 16, 32, 64, 128, 256, 512, 784]
curves = (
    ("bf16", "bf16", "sequential", "-s"),
    ("bf16", "bf16", "pairwise", "-o"),
    ("bf16", "fp32", "sequential", "--^"),
    ("fp16", "fp16", "sequential", "-D"),
    ("fp16", "fp16", "pairwise", "-v"),
    ("fp16", "fp32", "sequential", "--x"),
)
figure, axes = plt.subplots(figsize=(6.8, 4.6), layout="constrained")
for storage, accumulate, tree, style in curves:
    arithmetic = replace(parse_arithmetic(storage, accumulate, tree), order=parse_run(tree))
    x, w = (stored(values[:, order], arithmetic.storage) for values in (inputs[0], layers[0].weight))
    errors = []
    for n in lengths:
        exact = x[:, :n] @ w[:, :n].T
        run = stored(linear.rounded(arithmetic, {}, x[:, :n].float(), w[:, :n].float()), arithmetic.storage)
        errors.append(float((run - exact).square().mean().sqrt() / exact.square().mean().sqrt()))
    axes.loglog(lengths, errors, style, color="k" if storage == "fp16" else "0.55", markersize=5, label=arithmetic.name)
for fmt in (BFLOAT16, BINARY16):
    axes.axhline(fmt.unit_roundoff, color="k", linewidth=0.8, linestyle=":")
    axes.text(2, fmt.unit_roundoff * 1.08, f"$u$ of {fmt.name}", fontsize=8)
axes.set(xlabel="number of terms $n$", ylabel="error / result (root mean squares)")
figure.legend(loc="outside right upper", fontsize=9)
axes.grid(alpha=0.3)

# %% [markdown]
# **Figure 2.** Relative errors of stored dot products. Dashed: a binary32 accumulator; the error is that of the one store, and does not
# grow with $n$. Solid: an accumulator in the storage format; sequential sums err more with every term, pairwise ones hardly. A 16-bit
# accumulator in binary16 can cost as much as going to bfloat16 with a wide one.
#
# *Swamping* is the extreme: a term of at most half an ulp of the sum is lost (at a tie, where the sum is even). We sum $2^{12}$ ones.

# %%
ones = [np.ones(1)] * 4096
for fmt in (BINARY16, BFLOAT16):
    for tree in ("sequential", "blocked:64", "pairwise"):
        total = parse_order(tree).fold(ones, lambda a, b, fmt=fmt: operations.add(a, b, fmt))[0]
        print(f"{fmt.name}, {tree}: {total:g}")

# %% [markdown]
# ## fp8
#
# Storage in 8 bits is refused:

# %%
try:
    parse_arithmetic("e4m3", "fp32")
except UnsupportedArithmeticError as error:
    print(error)

# %% [markdown]
# The formats themselves, E5M2 and E4M3, are there (`precisionkit.formats`), so the weights can be rounded to them. That is another
# network, and how far it is from the old one is computed, not bounded. Each tensor gets a scale, as in arXiv 2209.05433, here a power of
# two, so that its largest weight comes close to the largest number of the format; biases stay as they are. We evaluate in binary32, on
# all 10,000 test images.


# %%
def with_rounded_weights(fmt, *, scaled):
    module = copy.deepcopy(model.module)
    for layer in module:
        if isinstance(layer, torch.nn.Linear):
            weight = layer.weight.data.double()
            scale = 2.0 ** np.floor(np.log2(fmt.max / weight.abs().max().item())) if scaled else 1.0
            layer.weight.data = (torch.as_tensor(round_into(weight * scale, fmt, Rounding(saturate=True))) / scale).float()
    return module


print(f"{'weights in':<18}{'right':>8}{'changed':>9}{'median delta':>14}{'Gamma > 2 delta':>17}{'zeros':>8}")
for name, fmt, scaled in (
    ("binary16", BINARY16, False),
    ("bfloat16", BFLOAT16, False),
    ("E4M3, scaled", E4M3, True),
    ("E4M3, not scaled", E4M3, False),
    ("E5M2, scaled", E5M2, True),
):
    module = with_rounded_weights(fmt, scaled=scaled)
    with torch.no_grad():
        outputs = module(images)
    delta = (outputs - reference).abs().amax(1)
    right = float((outputs.argmax(1) == torch.from_numpy(mnist.labels)).double().mean())
    changed = int((outputs.argmax(1) != reference.argmax(1)).sum())
    safe = float((margins > 2 * delta).double().mean())
    zeros = np.mean([float((layer.weight == 0).double().mean()) for layer in module if isinstance(layer, torch.nn.Linear)])
    print(f"{name:<18}{right:>8.2%}{changed:>9}{delta.median():>14.3g}{safe:>17.2%}{zeros:>8.2%}")

# %% [markdown]
# Scaled numbers of E4M3 are numbers of binary16. So *the network with fp8 weights* can be certified in binary16 arithmetic, against
# binary32 arithmetic with the same weights. On hard images of its own, chosen in the same way:

# %%
eight = with_rounded_weights(E4M3, scaled=True)
assert all(torch.equal(p, stored(p, BINARY16).float()) for name, p in eight.named_parameters() if name.endswith("weight"))
with torch.no_grad():
    own = -eight(images).topk(2).values.diff(dim=1)[:, 0]
rows = own.argsort()[:240:8].sort().values.numpy()
with tempfile.TemporaryDirectory() as folder:
    np.savez(Path(folder) / "hard.npz", images=mnist.images[rows], labels=mnist.labels[rows])
    hard = load_dataset(str(Path(folder) / "hard.npz"))
print(f"{'':<20}{'proved':>8}{'probable':>10}{'observed':>10}{'flipped':>9}{'median bound':>14}")
for storage in ("fp16", "bf16"):
    found = certify(replace(model, module=eight), hard, parse_arithmetic(storage), Method(probe=False)).summary
    counts = f"{found.proved:>8}{found.probable:>10}{found.observed:>10}{found.flipped:>9}"
    print(f"{'fp8 weights, ' + storage:<20}{counts}{found.median_bound:>14.3g}")

# %% [markdown]
# ## Take-aways
#
# 1. With binary32 accumulators the storage format decides; the order of the sums hardly shows, unless partial sums are stored in half.
#    bfloat16 has eight times the unit roundoff of binary16, and decides fewer of the closest calls.
# 2. With 16-bit accumulators the order decides: pairwise or blocked sums are bearable in binary16, sequential ones change predictions,
#    and for any order nothing can be proved.
# 3. fp8 weights are a different network, whose predictions change by far more than any rounding in 16 bits; rounding while computing with
#    them is a separate question, with the same answers.
