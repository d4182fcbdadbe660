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
# # How errors grow through depth
#
# A rounding error made in one layer travels through all layers behind it. We follow the errors through `mnist_9_200`, a network with nine
# hidden layers of 200 neurons and ReLU, trained below for two epochs, on test images of MNIST, in binary16 with sums in binary32. For
# every layer we compare the errors of real runs, against the exact network by mpmath, with what the methods of the package allow:
# interval, zonotope (backward substitution), first order, and the probabilistic bound. We see why intervals blow up with depth and the
# others do not, and whether the model behind the probabilistic bound is calibrated.

# %%
import math
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

from precisionkit.arithmetic import parse_arithmetic, parse_run
from precisionkit.bound import adjoint, interval, substitution
from precisionkit.bound.linearised import Tangents, linearised
from precisionkit.bound.pulling import direct_sums
from precisionkit.bound.substitution import Settled
from precisionkit.bound.walk import relied_on, row_sums, walk
from precisionkit.capture import capture
from precisionkit.data import load_dataset
from precisionkit.enclosure import Enclosure
from precisionkit.evaluate import Program, execute
from precisionkit.models import load_model
from precisionkit.training import Settings, train
from precisionkit.truth import Mpmath, exact_logits

torch.set_num_threads(1)
plt.rcParams.update({"figure.dpi": 80, "font.size": 10})

# %%
with tempfile.TemporaryDirectory() as folder:
    settings = Settings(arch="mnist_9_200", data="mnist", optimizer="adam", epochs=2, batch=128, seed=1)
    trained = train(settings, Path(folder))
    model = load_model(trained.path)
print(f"{trained.history[-1].accuracy:.2%} of the test images are right")

images = model.preprocess(load_dataset("mnist", limit=300).images)
graph = capture(model.module, tuple(images.shape[1:]))
program = Program.of(graph, parse_arithmetic("fp16", "fp32", "any"))
inputs = program.inputs(images)[:2]
layers = [node.name for node in graph.nodes if node.operator == "linear"]
print(f"{program.arithmetic.name}; {len(layers)} linear layers, each followed by ReLU but the last")

# %% [markdown]
# ## Measured errors, and the truth
#
# The exact network has the weights and the input rounded to binary16, and no rounding in between. mpmath computes it with 50 digits, for
# two images. The runs are torch's own kernels and two named orders, bit for bit by definition. The package's bounds are around a
# *centre*, the same network in binary64; its own error must not matter, and does not.

# %%
truth, centres, runs = {}, {}, []
exact_logits(Mpmath(50), program, inputs, observe=lambda node, operands, value: truth.update({node.name: value}))
for order in (None, "sequential", "pairwise"):
    seen = {}
    emulate = None if order is None else parse_run(order)
    execute(program, inputs, emulate=emulate, observe=lambda node, value, seen=seen: seen.update({node.name: value}))
    runs.append(seen)
interval(program, inputs, observe=lambda node, enclosure: centres.update({node.name: enclosure}))


def distance(name, values):
    """Largest distance of some values from the exact ones."""
    return max(float(abs(a - b)) for a, b in zip(Mpmath(50).array(values).flat, truth[name].flat, strict=True))


measured = [max(distance(name, run[name]) for run in runs) for name in layers]
own = [distance(name, centres[name].centre) for name in layers]
print(f"largest measured error {max(measured):.3g}; largest error of the binary64 centre {max(own):.3g}")

# %% [markdown]
# ## The bounds
#
# Let $W_l$ be the weights of layer $l$, $D_l$ the diagonal matrix of ReLU's slopes, and $r_l$ the local errors of its neurons: half an
# ulp for the store, and the error of the sum (theorems 1 and 3 of [proofs/bounds.md](../proofs/bounds.md)). To first order the error of
# layer $L$ is $\sum_l W_L D_{L-1} \cdots D_l\, \rho_l$, $|\rho_l| \le r_l$. The methods differ in where they take magnitudes:
#
# $$ \text{interval (theorem 14):}\quad e_L = \sum_{l \le L} |W_L| D_{L-1} |W_{L-1}| \cdots D_l\, r_l \tag{1} $$
#
# $$ \text{zonotope (theorem 16):}\quad e_L = \sum_{l \le L} \bigl|W_L D_{L-1} W_{L-1} \cdots D_l\bigr|\, r_l \tag{2} $$
#
# $$ \text{random rounding (theorem 20):}\quad e_{L,i} = t\, \Bigl(\textstyle\sum_{l \le L} \sum_j
# \bigl(W_L D_{L-1} \cdots D_l\bigr)_{ij}^2\, r_{l,j}^2\Bigr)^{1/2} \tag{3} $$
#
# (2) holds for all runs once every ReLU whose sign is open is enclosed between two lines (theorem 17). *First order* is (2) with the
# slopes at the centre, which proves nothing, but no sound method can be much sharper. (3) is a model: rounding errors have mean zero
# given all earlier ones (Higham and Mary, SIAM J. Sci. Comput. 41, 2019; Connolly, Higham and Mary, SIAM J. Sci. Comput. 43, 2021). By
# Azuma's inequality one direction of one neuron exceeds (3) with a probability of at most $e^{-t^2/2}$; we choose $t$ so that both
# directions of all hidden neurons together have $10^{-6}$.

# %%
neurons = relied_on(graph)
t = math.sqrt(2 * math.log(2 * neurons / 1e-6))


def radii(strategy, deviate=None):
    """Largest radius of a neuron of each layer, by backward substitution."""
    with direct_sums():
        trace, *_ = walk(program, inputs, strategy)
        found = []
        for name in layers:
            centre = Enclosure.exact(centres[name].centre)
            places = torch.ones_like(centre.centre, dtype=torch.bool).nonzero()
            up, down = row_sums(trace, name, centre, places, symmetric=False, deviate=deviate)
            found.append(torch.maximum(up, down).max().item())
    return found


by_interval = [centres[name].radius.max().item() for name in layers]
by_zonotope = radii(Settled())
by_chance = radii(Settled(t), t)
first_order = radii(Tangents())
print(f"t = {t:.2f} for {neurons:,} hidden neurons\n")
print(f"{'layer':>5}{'median |z|':>12}{'measured':>11}{'random (3)':>12}{'first order':>13}{'zonotope (2)':>14}{'interval (1)':>14}")
for k, row in enumerate(zip(measured, by_chance, first_order, by_zonotope, by_interval, strict=True)):
    assert row[0] <= min(row[3:])
    size = centres[layers[k]].centre.abs().median()
    print(f"{k + 1:>5}{size:>12.3g}{row[0]:>11.3g}{row[1]:>12.3g}{row[2]:>13.3g}{row[3]:>14.3g}{row[4]:>14.3g}")

# %%
figure, axes = plt.subplots(figsize=(6.6, 4.8), layout="constrained")
depth = np.arange(1, len(layers) + 1)
for values, style, label in (
    (by_interval, "-s", "interval (1)"),
    (by_zonotope, "-o", "zonotope (2)"),
    (first_order, "--x", "first order, worst case"),
    (by_chance, ":^", "random rounding (3), $10^{-6}$"),
    (measured, "-.D", "measured, against mpmath"),
):
    axes.semilogy(depth, values, style, color="k", markerfacecolor="w" if style == "-o" else "k", label=label)
axes.semilogy(
    depth, [centres[name].centre.abs().median().item() for name in layers], "-", color="0.6", linewidth=4, label="median magnitude $|z|$"
)
axes.set(xlabel="linear layer", ylabel="largest error of a neuron (absolute)", xticks=depth)
figure.legend(fontsize=9, loc="outside lower center", ncols=2)
axes.grid(alpha=0.3)

# %% [markdown]
# **Figure 1.** Errors of the neurons before ReLU, layer by layer: the largest over all neurons and two images. Intervals grow by about a
# constant factor a layer, and end above the numbers themselves. The zonotope stays close to first order: there is little left to gain in
# the worst case. In the first layers few roundings add up, and (3) is larger than (2); the method then keeps the smaller one.
#
# ## Why intervals blow up
#
# Take errors of size 1 in the first layer, and nothing afterwards. Equation (1) multiplies them by $|W_l|$ in every layer: the factor is
# a row sum of magnitudes, as if all errors conspired in every neuron of every layer. But the neurons of a layer share the errors of the
# one before, and cannot all be at their worst at once: in the product $W_L D_{L-1} \cdots W_2 D_1$ terms of opposite sign cancel,
# *before* magnitudes are taken.

# %%
constants = {name: value.double() for name, value in program.constants.items()}
weights = [constants[node.operands[1]] for node in graph.nodes if node.operator == "linear"]
together = torch.eye(200, dtype=torch.float64)
apart = torch.eye(200, dtype=torch.float64)
print(f"{'layer':>5}{'interval (1)':>15}{'zonotope (2)':>15}{'random, t = 1':>15}{'(1) / (2)':>12}   (median over neurons, one image)")
for k in range(1, len(layers)):
    slope = (centres[layers[k - 1]].centre[0] > 0).double()
    together, apart = weights[k] * slope @ together, weights[k].abs() * slope @ apart
    one, two, three = apart.sum(1).median(), together.abs().sum(1).median(), together.square().sum(1).sqrt().median()
    print(f"{k + 1:>5}{one:>15.3g}{two:>15.3g}{three:>15.3g}{one / two:>12.3g}")

# %% [markdown]
# The ratio grows geometrically with depth: that is the blow-up, and no sharper local error can mend it. What it means for the two images:

# %%
classes = interval(program, inputs).classes
run = execute(program, inputs).logits
print(f"{'image':>5}{'least gap':>11}{'measured':>11}" + "".join(f"{name:>14}" for name in ("interval", "zonotope", "adjoint")))
methods = [method(program, inputs, classes) for method in (interval, substitution, adjoint)]
for i, c in enumerate(classes.tolist()):
    gaps = methods[0].centre[i, c] - methods[0].centre[i]
    gaps[c] = torch.inf
    rival = gaps.argmin()
    error = ((run[i, c] - run[i, rival]) - gaps[rival]).abs()
    told = [f"{m.gap_error[i, rival]:.3g} {'keeps' if m.keeps_class()[i] else 'open'}" for m in methods]
    print(f"{i:>5}{gaps[rival]:>11.3g}{error:>11.3g}" + "".join(f"{text:>14}" for text in told))

# %% [markdown]
# The numbers are bounds of the error of the gap between the best class and its closest rival, for one program. A class is kept if every
# gap exceeds its bound (theorem 13).
#
# ## Is the model of random rounding calibrated?
#
# `linearised` predicts a standard deviation of a gap's error from above, by taking every rounding error as large as its bound allows. We
# divide real errors by it. Were rounding errors uniform within their bounds, the quotients would have the standard deviation $1/\sqrt 3$.
# The model allows 1, and tails of at most $2 e^{-s^2/2}$. (The centre in binary64 stands for the exact network here; its own error was
# seen not to matter.)

# %%
figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
scale = np.linspace(0, 5, 26)
for storage, style in (("fp16", "-o"), ("bf16", "--s")):
    half = Program.of(graph, parse_arithmetic(storage))
    stored = half.inputs(images)
    logits, centre = execute(half, stored).logits, interval(half, stored).centre
    best = centre.argmax(1)
    deviation = linearised(half, stored, best).deviation
    deviations = logits - centre
    gap_errors = deviations.gather(1, best[:, None]) - deviations
    others = torch.arange(10) != best[:, None]
    quotients = (gap_errors / deviation)[others].abs().numpy()
    mean_square = np.mean(quotients**2)
    beyond = np.array([np.mean(quotients > s) for s in scale])
    axes.semilogy(scale[beyond > 0], beyond[beyond > 0], style, color="k", markersize=4, label=f"measured, {half.arithmetic.storage.name}")
    print(f"{storage}: {quotients.size:,} errors of gaps, root mean square {mean_square**0.5:.3f}, largest {quotients.max():.2f}")
axes.semilogy(scale, np.minimum(1, 2 * np.exp(-(scale**2) / 2)), "k:^", markersize=4, label="allowed by the model")
axes.semilogy(scale, [math.erfc(s * math.sqrt(1.5)) for s in scale], "k-.", label="normal, uniform roundings")
axes.set(xlabel="error of a gap, in predicted standard deviations", ylabel="share of the errors beyond", ylim=(1e-4, 1.5), xlim=(0, 5))
axes.legend(fontsize=9)
axes.grid(alpha=0.3)

# %% [markdown]
# **Figure 2.** Tails of the standardised errors of the gaps, 300 images and nine gaps each. Real errors lie well below what the model
# allows. That supports the model for this network and arithmetic. It proves nothing.
#
# ## Take-aways
#
# 1. Real errors hardly grow with depth. Intervals grow geometrically, since they take magnitudes in every layer: (1) against (2).
# 2. Backward substitution keeps the signs to the end. It is nearly as sharp as first order, which is all that a worst case can give.
# 3. Under the model of random rounding errors add up by their squares. The deeper the network, the more that is worth; here the model is
#    on the safe side.
