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
# # Training in pure 16 bits, and its limits
#
# Can a network be trained with weights, gradients and optimizer state in 16 bits, without a binary32 copy and without loss scaling? Here a
# dense network (784-128-64-10) learns real MNIST images in five precisions. Then three limits are looked at one by one: updates that are
# too small for a weight to move, the epsilon of Adam and RMSProp, and batch normalisation's variance. The claim studied is that of Yun,
# Kang and Fu ([arXiv 2301.12809](https://arxiv.org/abs/2301.12809)); epsilon is the subject of [arXiv 2307.16189](https://arxiv.org/abs/2307.16189).

# %%
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib_inline.backend_inline import set_matplotlib_formats

from precisionkit.formats import BFLOAT16, BINARY16
from precisionkit.training import PRECISIONS, DivergedError, Job, Settings, analyse_epsilon, find_failure, train
from precisionkit.training.batch_norm import statistics

torch.set_num_threads(1)
set_matplotlib_formats("png")
plt.rcParams |= {"figure.dpi": 80, "figure.figsize": (7, 3)}
COMMON = {"arch": "mnist_fc_3layer", "data": "mnist", "limit": 10_000, "epochs": 2, "batch": 128}
folder = Path(tempfile.mkdtemp())

# %% [markdown]
# ## Five precisions
#
# On a CPU without half arithmetic, half products are computed by binary32 kernels from half tensors and stored once, forward and backward.
# `strict-fp16` accumulates them in binary16 as well.

# %%
STYLES = {"fp32": ("k", "-"), "fp16": ("C0", "--"), "bf16": ("C1", "-."), "mixed": ("C2", ":"), "strict-fp16": ("C3", (0, (1, 3)))}


def losses(precision):
    """Losses of every step of one run, its accuracy, and its bytes."""
    found = []

    def on_step(run):
        found.append((run.progress.loss, run.progress.rows))

    done = train(Settings(**COMMON, precision=precision), folder / precision, on_step=on_step)
    sums = np.array(found)
    sums[1:] -= np.where(sums[1:, 1:] > sums[:-1, 1:], sums[:-1], 0)  # the sums start anew in each epoch
    return sums[:, 0] / sums[:, 1], done


for precision in PRECISIONS:
    curve, done = losses(precision)
    smooth = np.convolve(curve, np.ones(10) / 10, "valid")
    plt.plot(smooth, color=STYLES[precision][0], linestyle=STYLES[precision][1], label=precision)
    sizes = f"weights {done.memory / 1e3:.0f} kB, momentum {done.optimizer_memory / 1e3:.0f} kB"
    print(f"{precision:12} accuracy {done.history[-1].accuracy:.2%}, {sizes}")
plt.xlabel("step")
plt.ylabel("loss (mean of ten steps)")
plt.legend()
plt.show()

# %% [markdown]
# *Loss against steps, one seed. The curves lie on each other, also that of bfloat16, with its eight bits.* Sums in binary16 do not hurt
# this small network: its longest sum has 784 products.
#
# ## Updates that do not move a weight
#
# SGD stores $w \leftarrow \mathrm{RN}(w - \eta m)$. If $|\eta m|$ is below half an ulp of $w$, which is $u\,\mathrm{ufp}(w)$ (theorem 1 of
# proofs/bounds.md), the weight stays. `Watch` compares every stored number with the binary32 result of the same operator. Below, the
# share of a layer's absolute sum of updates that was lost, in steps of a run in each half format.


# %%
def lost_updates(precision, every=8, steps=72):
    """Share of the updates of fc1's weights that is lost, every few steps."""
    shares = []
    run = Job.load(Settings(**COMMON, precision=precision)).start()
    weight = run.module.fc1.weight
    for number, (rows, scale) in zip(range(steps), run.remaining(), strict=False):
        before = weight.detach().float().clone()
        run.step(rows, scale)
        if number % every == 0:
            wanted = run.settings.learning_rate * run.optimizer.state[weight]["momentum_buffer"].float()
            stayed = weight.detach().float() == before
            shares.append((number, float(wanted[stayed].abs().sum() / wanted.abs().sum())))
    return np.array(shares)


for precision, marker in (("fp16", "s--"), ("bf16", "o-.")):
    shares = lost_updates(precision)
    plt.plot(shares[:, 0], 100 * shares[:, 1], marker, color=STYLES[precision][0], label=precision)
plt.xlabel("step")
plt.ylabel("updates lost (% of their sum)")
plt.ylim(0, None)
plt.legend()
plt.show()

# %% [markdown]
# *Share of the updates of the first layer that is lost, by absolute sum.* bfloat16 has three bits less than binary16, so its half ulp is
# eight times larger: it loses far more. Gradients do not vanish in it, updates do; so early in training this does not show in the loss.
#
# ## Epsilon
#
# Adam keeps $v \leftarrow \mathrm{RN}(\mathrm{RN}(\beta_2 v) + (1-\beta_2) g^2)$ and divides by $\sqrt{\hat v} + \varepsilon$. With $\eta$
# half the smallest positive number, every gradient with $|g| \le g_0 = \sqrt{\eta / (1 - \beta_2)}$ leaves $v = 0$, and the update is up
# to $g_0/\mathrm{RN}(\varepsilon)$ learning rates, which in exact arithmetic is at most 1 (theorem 27).

# %%
grid = np.geomspace(3e-8, 1e-1, 100)
for optimizer, style in (("adam", "-"), ("rmsprop", "--")):
    found = [analyse_epsilon(optimizer, float(epsilon), BINARY16) for epsilon in grid]
    plt.loglog(grid, [one.amplification for one in found], style, label=f"{optimizer}: $g_0$ = {found[0].vanishing:.2g}")
plt.axhline(1, color="k", linewidth=0.8)
plt.axvspan(3e-8, 1.2e-7, color="0.85")
plt.xlabel("epsilon")
plt.ylabel("largest update / learning rate")
plt.legend()
plt.show()
print(analyse_epsilon("adam", 1e-8, BINARY16).describe())
print(f"In bfloat16: {analyse_epsilon('adam', 1e-8, BFLOAT16).amplification:.1e} learning rates.")

# %% [markdown]
# *Largest update of gradients whose second moment is zero, in binary16. Grey: the smallest numbers of the format; left of $2^{-25}$
# epsilon is zero.* Now a run that breaks, and what the toolkit finds. Repairs are tried from the start, the smallest first.

# %%
job = Job.load(Settings(**COMMON | {"limit": 4_000}, precision="fp16", optimizer="adam", epsilon=1e-8))
try:
    train(job, folder / "broken")
except DivergedError as error:
    print(error)
    for sentence in find_failure(job, folder / "broken", error).describe():
        print("-", sentence)

# %% [markdown]
# ## Batch normalisation
#
# The variance is a mean of squares of deviations. Stored in binary16, a square overflows above $\sqrt{65520} = 255.97$, and is zero up to
# $2^{-12.5} = 1.7 \cdot 10^{-4}$. The published "pure" networks kept these numbers in binary32; in strict binary16 they limit what
# batch normalisation can take.

# %%
deviations = 2.0 ** np.arange(-15, 11)
numbers = torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(0))
ratios = []
for deviation in deviations:
    x = (numbers * deviation).half()
    ratios.append(float(statistics(x)[1]) / float(x.double().var(correction=0)))
finite = np.isfinite(ratios)
plt.semilogx(deviations[finite], np.array(ratios)[finite], "o-", base=2)
plt.plot(deviations[~finite], np.ones((~finite).sum()), "rx", label="infinite")
plt.xlabel("standard deviation of the batch")
plt.ylabel("variance in binary16 / exact")
plt.legend()
plt.show()

# %% [markdown]
# *Variance of a batch of 4,096 normal numbers, each step stored in binary16, over the exact variance of the same numbers.* It is right
# from $2^{-12}$ to $2^{5}$. At $2^{6}$ it is infinite: one of 4,096 normal numbers is off by four standard deviations, which is 256.
#
# ## In one step
#
# `Watch` names what is lost, by operator and tensor.

# %%
run = Job.load(Settings(**COMMON, precision="fp16", optimizer="adam", epsilon=1e-4)).start()
for event in run.observed_step(*next(run.remaining())).events:
    print("-", event.describe())

# %% [markdown]
# ## Take-aways
#
# * Pure binary16 storage trains this network as binary32 does, with half the memory; what limits it is range, not precision.
# * bfloat16 has the range and lacks the bits: its weights miss a fifth of their updates here, and learn all the same.
# * The usual epsilon breaks Adam and RMSProp in binary16, for a reason that three lines of exact arithmetic show; 1e-3 works.
