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
# # Rounding and formats
#
# What one rounding does to a number, in every format that the package knows: binary32, bfloat16, binary16 and the two OCP formats of 8
# bits. We look at the unit roundoff, the unit in the first place, ties, double rounding, overflow, and at what happens below the normal
# range. The numbers that we round are real ones: the weights, the results of layers and the gradients of the network `mnist_fc_3layer`
# (784-128-64-10, ReLU), trained below for two epochs, on images of MNIST.

# %%
import copy
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

from precisionkit import operations
from precisionkit.data import load_dataset
from precisionkit.formats import (
    BFLOAT16,
    BINARY16,
    BINARY32,
    E4M3,
    E5M2,
    NEAREST,
    STOCHASTIC,
    TOWARDS_ZERO,
    Rounding,
    round_into,
    round_to_nearest,
    ufp,
)
from precisionkit.models import load_model
from precisionkit.training import Settings, train

torch.set_num_threads(1)
plt.rcParams.update({"figure.dpi": 80, "font.size": 10, "lines.linewidth": 1.5})
FORMATS = (BINARY32, BFLOAT16, BINARY16, E5M2, E4M3)

# %% [markdown]
# ## Formats
#
# A binary format is a triple $(p, e_{\min}, e_{\max})$ (IEEE 754-2019, section 3.3). Its finite numbers are
#
# $$ \pm\, m\, 2^{e-p+1}, \qquad 0 \le m < 2^p, \quad e_{\min} \le e \le e_{\max}. $$
#
# Numbers with $m \ge 2^{p-1}$ are normal. Those with $e = e_{\min}$ and $m < 2^{p-1}$ are subnormal. The *unit roundoff* is $u = 2^{-p}$.
# We write $\eta$ for half the smallest positive number, $\eta = 2^{e_{\min}-p}$. E5M2 and E4M3 are the formats of OCP OFP8, revision 1.0.
# E4M3 gives up the infinities for a larger range. Rounding to nearest overflows from the *threshold* on, half an ulp above the largest
# number. The table is compared with what torch says.

# %%
DTYPES = {
    BINARY32: torch.float32,
    BFLOAT16: torch.bfloat16,
    BINARY16: torch.float16,
    E5M2: torch.float8_e5m2,
    E4M3: torch.float8_e4m3fn,
}
print(f"{'format':<10}{'p':>3}{'emin':>6}{'emax':>6}{'u':>11}{'normal from':>13}{'eta':>11}{'largest':>11}{'threshold':>11}")
for fmt in FORMATS:
    known = torch.finfo(DTYPES[fmt])
    assert (known.max, known.eps, known.tiny) == (fmt.max, fmt.eps, fmt.smallest_normal)
    print(
        f"{fmt.name:<10}{fmt.precision:>3}{fmt.emin:>6}{fmt.emax:>6}{fmt.unit_roundoff:>11.3g}{fmt.smallest_normal:>13.3g}"
        f"{fmt.eta:>11.3g}{fmt.max:>11.4g}{fmt.overflow_threshold:>11.4g}"
    )

# %% [markdown]
# ## One rounding to nearest
#
# The *unit in the first place* of $t \ne 0$ is $\mathrm{ufp}(t) = 2^{\lfloor \log_2 |t| \rfloor}$ (Rump, Ogita and Oishi, SIAM J. Sci.
# Comput. 31, 2008). In the binade of a normal $t$, neighbours are one ulp apart, $\mathrm{ulp}(t) = 2u\,\mathrm{ufp}(t)$. Below the
# normal range they are $2\eta$ apart. So
#
# $$ |\mathrm{RN}(t) - t| \le \max\bigl(u\,\mathrm{ufp}(t),\ \eta\bigr) \tag{1} $$
#
# for every real $t$ below the threshold: theorem 1 of [proofs/bounds.md](../proofs/bounds.md). Since $\mathrm{ufp}(t) \le |t|$, this is
# never worse than the usual $|\mathrm{RN}(t) - t| \le u|t|$ (Higham, *Accuracy and Stability of Numerical Algorithms*, 2002, theorem
# 2.2), and up to twice as sharp. A tie goes to the neighbour whose last bit is even. The first and the third row below are ties in
# binary16.

# %%
u = BINARY16.unit_roundoff
print(f"{'t':<20}{'RN(t)':>20}{'ufp(t)':>14}{'error / ulp':>13}{'bound (1) / error':>19}")
for name, t in (
    ("1 + u", 1 + u),
    ("1 + 2 u", 1 + 2 * u),
    ("1 + 3 u", 1 + 3 * u),
    ("1/3", 1 / 3),
    ("1999.9", 1999.9),
    ("2.5 eta", 2.5 * BINARY16.eta),
):
    value = np.array([t])
    rounded, first = round_to_nearest(value, BINARY16)[0], ufp(value)[0]
    error, ulp = abs(rounded - t), max(2 * u * first, 2 * BINARY16.eta)
    ratio = f"{max(u * first, BINARY16.eta) / error:.3g}" if error else "exact"
    print(f"{name:<20}{rounded:>20.12g}{first:>14.5g}{error / ulp:>13.3g}{ratio:>19}")

# %% [markdown]
# binary16 has so few numbers that the rule can be checked on all of them. Every midpoint of two neighbours is a tie: (1) holds with
# equality, and the result has an even last bit.

# %%
bits = torch.arange(0x7C00, dtype=torch.int16)  # every finite number that is not negative, in order
numbers = bits.view(torch.float16).double()
midpoints = (numbers[:-1] + numbers[1:]) / 2
rounded = round_to_nearest(midpoints, BINARY16)
attained = (rounded - midpoints).abs() == torch.maximum(u * ufp(midpoints), torch.tensor(BINARY16.eta, dtype=torch.float64))
even = rounded.half().view(torch.int16) % 2 == 0
print(f"{len(midpoints):,} ties of binary16: bound (1) attained by {int(attained.sum()):,}, even last bit for {int(even.sum()):,}")

# %% [markdown]
# ## Double rounding
#
# Rounding to binary32 first and then to binary16 is not the same as rounding once. Let $t = 1 + 2^{-11} + 2^{-30}$, a little above the
# tie $1 + 2^{-11}$. binary32 loses the last term, so that the second rounding sees a tie and goes down. numpy converts binary64 to
# binary16 in one step. torch goes through binary32.

# %%
t = np.array([1 + 2.0**-11 + 2.0**-30])
print(f"once                     {round_to_nearest(t, BINARY16)[0]:.10f}")
print(f"binary32, then binary16  {round_to_nearest(round_to_nearest(t, BINARY32), BINARY16)[0]:.10f}")
print(f"numpy                    {t.astype(np.float16)[0]:.10f}")
print(f"torch                    {torch.from_numpy(t).half().item():.10f}")

# %% [markdown]
# How often does it happen? A value must lie within half an ulp of binary32 of a tie, and on the side to which the tie does not go. If the
# last bits are uniform, that has the probability $\tfrac12 \cdot 2u_{32} / 2u_{16} = 2^{-14}$. We train the network and take its first
# layer in binary64, on all 10,000 test images.

# %%
with tempfile.TemporaryDirectory() as folder:
    settings = Settings(arch="mnist_fc_3layer", data="mnist", optimizer="adam", epochs=2, batch=128, seed=1)
    trained = train(settings, Path(folder))
    model = load_model(trained.path)
data = load_dataset("mnist")
images, labels = model.preprocess(data.images), torch.from_numpy(data.labels)
print(f"{trained.history[-1].accuracy:.2%} of {len(labels):,} test images are right")

first_layer = copy.deepcopy(model.module).double()[:2](images.double()).flatten()
once = round_to_nearest(first_layer, BINARY16)
twice = round_to_nearest(round_to_nearest(first_layer, BINARY32), BINARY16)
expected = len(once) * 2.0**-14
print(f"{int((once != twice).sum())} of {len(once):,} sums are rounded wrongly; expected {expected:.0f}, give or take {expected**0.5:.0f}")

# %% [markdown]
# For single operations the detour is harmless: if the wide format has at least $2p + 2$ bits, the sum, difference, product, quotient or
# root of two $p$-bit numbers is rounded correctly in two steps (Figueroa, SIGNUM Newsletter 30, 1995). For binary16 and binary32,
# $24 = 2 \cdot 11 + 2$. A fused multiply-add has three operands, and is not covered.

# %%
rng = np.random.default_rng(1)
a, b, c = (round_to_nearest(rng.standard_normal(1_000_000) * 2.0 ** rng.integers(-6, 6, 1_000_000), BINARY16) for _ in range(3))
c *= 2.0**-8
a32, b32, c32 = (x.astype(np.float32) for x in (a, b, c))
for name, exact, wide in (
    ("a + b", operations.add(a, b, BINARY16), a32 + b32),
    ("a b", operations.multiply(a, b, BINARY16), a32 * b32),
    ("a / b", operations.divide(a, b, BINARY16), a32 / b32),
    ("a b + c", operations.fma(a, b, c, BINARY16), operations.fma(a, b, c, BINARY32)),
):
    wrong = int((exact != round_to_nearest(wide.astype(np.float64), BINARY16)).sum())
    print(f"{name:<8} differs from its one rounding in {wrong:>3} of a million cases")

# %% [markdown]
# ## Relative errors across the range
#
# Storing $t$ has the relative error $|\mathrm{RN}(t) - t| / |t|$, at most $u / (1 + u)$ in the normal range (Jeannerod and Rump, Math.
# Comp. 87, 2018). The figure shows the largest one in each binade, and below it where the numbers of a network lie. The gradients are
# those of the mean loss of the first 256 training images.

# %%
batch = load_dataset("mnist", split="train", limit=256)
network = copy.deepcopy(model.module).requires_grad_(True)
loss = torch.nn.functional.cross_entropy(network(model.preprocess(batch.images)), torch.from_numpy(batch.labels))
loss.backward()
with torch.no_grad():
    hidden = [network[:depth](images) for depth in (2, 4, 6)]


def values(tensors):
    flat = torch.cat([t.detach().flatten() for t in tensors]).double().numpy()
    return flat[flat != 0]


kinds = {
    "weights": values(network.parameters()),
    "results of layers": values(hidden),
    "gradients": values(p.grad for p in network.parameters()),
    "squared gradients": values(p.grad.double() ** 2 for p in network.parameters()),
}

# %%
binades = np.arange(-60, 20)
samples = 2.0 ** (binades[:, None] + np.linspace(0, 1, 1000, endpoint=False)) * (1 + 1e-9 * np.pi)
figure, (above, below) = plt.subplots(2, 1, figsize=(6.4, 5), sharex=True, layout="constrained", height_ratios=(3, 2))
for fmt, style in zip(FORMATS, ("-o", "--s", "-D", ":^", "-.v"), strict=True):
    error = (np.abs(round_to_nearest(samples, fmt) - samples) / samples).max(axis=1)
    error[~np.isfinite(error)] = np.nan
    above.semilogy(binades + 0.5, error, style, color="k", markersize=4, markevery=5, label=f"{fmt.name}, $u = 2^{{-{fmt.precision}}}$")
above.set(ylabel="largest relative error of a store", ylim=(1e-8, 3))
above.legend(loc="lower left", bbox_to_anchor=(0.0, 0.14), fontsize=9)
above.grid(alpha=0.3)
for (name, of), style in zip(kinds.items(), ("-o", "--s", ":^", "-.v"), strict=True):
    count, _ = np.histogram(np.log2(np.abs(of)), np.arange(-60, 21))
    share = np.where(count > 0, 100 * count / len(of), np.nan)
    below.plot(binades + 0.5, share, style, color="k", markersize=4, label=name)
for place, side, name in ((BINARY16.emin, "left", " normal in binary16"), (np.log2(BINARY16.eta), "right", "0 in binary16 ")):
    below.axvline(place, color="0.5")
    below.text(place, 38, name, fontsize=9, ha=side)
below.set(xlabel="$\\log_2 |t|$", ylabel="share of the numbers (%)", xlim=(-60, 20), ylim=(0, 43))
below.legend(loc="center left", fontsize=9)
below.grid(alpha=0.3)

# %% [markdown]
# **Figure 1.** *Above:* the largest relative error of storing $t$. It is $u$ in the normal range; below it grows like $\eta / |t|$, up to
# 1 where $t$ becomes zero. Curves end at the overflow threshold. *Below:* magnitudes of the numbers of a trained network, by binade; the
# vertical lines are the smallest normal number of binary16 and its $\eta$. Weights and layer results lie well inside binary16's normal
# range. Gradients reach below it, and their squares, which Adam stores, lie almost wholly below it.

# %%
print(f"{'':<19}" + "".join(f"{fmt.name:>20}" for fmt in FORMATS[1:]))
print(f"{'':<19}" + f"{'zero / subnormal':>20}" * 4)
for name, of in kinds.items():
    cells = []
    for fmt in FORMATS[1:]:
        stored = np.abs(round_to_nearest(of, fmt))
        cells.append(f"{np.mean(stored == 0):.2%} / {np.mean((stored > 0) & (stored < fmt.smallest_normal)):.2%}")
    print(f"{name:<19}" + "".join(f"{cell:>20}" for cell in cells))
print(f"\nAdam's usual epsilon, 1e-8, in binary16: {round_to_nearest(np.array([1e-8]), BINARY16)[0]}")

# %% [markdown]
# ## Why $\eta$ matters
#
# A bound of the form $u|t|$ is false below the normal range, and rounding errors of small numbers are common: we count how many stores in
# binary16 break it, and how many break (1).

# %%
print(f"{'':<19}{'numbers':>12}{'beyond u |t|':>15}{'beyond (1)':>13}")
for name, of in kinds.items():
    error = np.abs(round_to_nearest(of, BINARY16) - of)
    sound = np.maximum(u * ufp(of), BINARY16.eta)
    assert (error <= sound).all()
    print(f"{name:<19}{len(of):>12,}{np.mean(error > u * np.abs(of)):>15.2%}{np.mean(error > sound):>13.2%}")

# %% [markdown]
# ## Other directions
#
# Tensor cores truncate (Fasi, Higham, Mikaitis and Pranesh, PeerJ CS 7:e330, 2021). Then the error of one rounding may be a whole ulp,
# $2u\,\mathrm{ufp}(t)$, and it always points towards zero. Stochastic rounding has the same bound, but no bias (Croci et al., Royal
# Society Open Science 9, 2022). Values beyond the range become infinite, NaN where there is no infinity, or the largest number if the
# conversion saturates.

# %%
weights = kinds["weights"]
uniform = np.random.default_rng(2).random(len(weights))
print(f"{'rounding':<14}{'largest error':>15}{'mean error':>12}   (units of u ufp; positive is away from zero)")
for rounding in (NEAREST, TOWARDS_ZERO, STOCHASTIC):
    error = (np.abs(round_into(weights, E4M3, rounding, uniform)) - np.abs(weights)) / (E4M3.unit_roundoff * ufp(weights))
    normal = np.abs(weights) >= E4M3.smallest_normal
    print(f"{rounding.direction:<14}{np.abs(error[normal]).max():>15.3f}{error[normal].mean():>+12.3f}")
for fmt, value in ((BINARY16, 65519.0), (BINARY16, 65520.0), (E4M3, 464.0), (E4M3, 465.0)):
    nearest, saturated = (round_into(np.array([value]), fmt, r)[0] for r in (NEAREST, Rounding(saturate=True)))
    print(f"{fmt.name}: {value:g} becomes {nearest:g}, saturated {saturated:g}")

# %% [markdown]
# ## Take-aways
#
# 1. One rounding errs by at most $\max(u\,\mathrm{ufp}(t), \eta)$. The bound is attained by every tie; the term $\eta$ cannot be left
#    out.
# 2. Round once: a detour through binary32 spoils about one result in 16,000, and a comparison with an exact result notices.
# 3. Inference of this network fits binary16's range. Gradients reach below it, and squared gradients and Adam's $10^{-8}$ do not fit.
