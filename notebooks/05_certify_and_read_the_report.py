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
# # Certify a network, and read the report
#
# We train `mnist_fc_3layer` (784-128-64-10, ReLU) for two epochs, certify it on the 10,000 test images of MNIST for storage in bfloat16,
# and go through the report: what the verdicts mean, margins against bounds, what is assumed, which inputs stay open and why, and what one
# can do about them. The same can be done from the command line; the last section says how.

# %%
import tempfile
from collections import Counter
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from rich.console import Console

from precisionkit.arithmetic import parse_arithmetic
from precisionkit.capture import capture
from precisionkit.certify import Settings as Method
from precisionkit.certify import certify
from precisionkit.data import load_dataset
from precisionkit.evaluate import Program, execute
from precisionkit.models import load_model
from precisionkit.report import conclusion, render, write_json
from precisionkit.training import Settings, train

torch.set_num_threads(1)
plt.rcParams.update({"figure.dpi": 80, "font.size": 10})

# %%
with tempfile.TemporaryDirectory() as folder:
    settings = Settings(arch="mnist_fc_3layer", data="mnist", optimizer="adam", epochs=2, batch=128, seed=1)
    trained = train(settings, Path(folder))
    model = load_model(trained.path)
mnist = load_dataset("mnist")
report = certify(model, mnist, parse_arithmetic(storage="bf16", accumulate="fp32", order="any"))

console = Console(width=116, force_jupyter=False, force_terminal=False)
with console.capture() as text:
    console.print(render(report))
shown = text.get()[: text.get().index("Assumed")].splitlines()
print("\n".join(line.rstrip() for line in shown if not line.startswith("time ")))  # which differs from run to run

# %% [markdown]
# ## What the numbers are
#
# Two programs are compared: the *reference*, binary32 weights in binary32 arithmetic, and the *half* program, weights and input rounded
# to bfloat16. Each of them has many *runs*, one for every order of additions that its arithmetic allows. Let $g_j = z_c - z_j$ be the gap
# between the predicted class $c$ and class $j$ in exact arithmetic, for each program with its own weights, and $e_j$ a bound on how far
# $g_j$ of any run differs from it (theorems 14 and 16 of [proofs/bounds.md](../proofs/bounds.md)). The report prints, for the class $j$
# that comes closest,
#
# $$ \text{margin} = g_j^{\text{ref}}, \qquad
# \text{bound} = e_j^{\text{ref}} + |g_j^{\text{half}} - g_j^{\text{ref}}| + e_j^{\text{half}}. \tag{1} $$
#
# $$ \text{proved} \iff
# \min_j \min\bigl(g_j^{\text{ref}} - e_j^{\text{ref}},\ g_j^{\text{half}} - e_j^{\text{half}}\bigr) > 0,
# \text{ or } \ge 0 \text{ for } j > c \tag{2} $$
#
# (theorem 13). The minimum in (2) is `lower_margin`. Margin above bound implies (2). *Probable* is the same with bounds $e_j$ that hold
# except with a stated probability, if rounding errors are random (theorem 20). *Observed* says only that two runs agreed. *Flipped* is a
# witness: two runs made here differ. For every input there is a record:

# %%
rest = [i for i in report.inputs if i.verdict != "proved"]
for record in (report.inputs[0], min(rest, key=lambda i: i.lower_margin)):
    for name in type(record).__struct_fields__:
        if not name.startswith("linearised"):
            print(f"{name:<21}{getattr(record, name)}")
    print()
print("methods:", dict(Counter(i.method for i in report.inputs)))

# %% [markdown]
# ## Margins against bounds

# %%
other = certify(model, mnist, parse_arithmetic("fp16"))
figure, panels = plt.subplots(1, 2, figsize=(8, 3.6), layout="constrained", sharex=True, sharey=True)
panels[0].set_ylabel("bound of the change (in units of the logits)")
marks = {"proved": (".", 2, "0.6", "0.6"), "observed": ("s", 5, "k", "w"), "probable": ("^", 7, "k", "k"), "flipped": ("*", 10, "k", "k")}
for axes, of in zip(panels, (report, other), strict=True):
    for verdict, (mark, size, edge, face) in marks.items():
        points = np.array([(i.margin, i.bound) for i in of.inputs if i.verdict == verdict])
        if len(points):
            label = f"{verdict} ({len(points):,})"
            axes.loglog(*points.T, mark, color=edge, markersize=size, markerfacecolor=face, label=label)
    axes.plot([5e-5, 20], [5e-5, 20], "k--", linewidth=1, label="margin = bound")
    axes.axhline(of.summary.median_measured_error, color="k", linestyle=":", label="median measured error")
    axes.set(title=of.arithmetic.storage, xlabel="margin (in units of the logits)", xlim=(1e-3, 30), ylim=(5e-5, 1))
    axes.legend(fontsize=8, loc="lower right")
    axes.grid(alpha=0.3)

# %% [markdown]
# **Figure 1.** Every test image by its margin and its bound (1). To the right of the dashed line the prediction is proved. Bounds differ
# little between images; it is the margin that decides. The bounds are 20 to 30 times the measured errors (printed below): they hold for
# all runs and all signs of the rounding errors.

# %%
for of in (report, other):
    ratio = of.summary.median_bound / of.summary.median_measured_error
    print(f"{of.arithmetic.storage}: median bound / median measured error = {ratio:.0f}; {conclusion(of)}")

# %% [markdown]
# ## What is assumed
#
# A proof speaks of the arithmetic that was named, not of a device. The report lists what is taken for granted, and which theorems the
# bounds rest on. Whether a device keeps to an arithmetic can be probed (`precisionkit probe`): a probe may refute it, and cannot prove
# it.

# %%
for number, sentence in enumerate(report.arithmetic.assumptions, 1):
    print(f"{number:>2}. {sentence}")

# %% [markdown]
# ## The open inputs
#
# We call the inputs open that are not proved. (The verdict *undecided* is another thing: neither bounded nor run.) Here are the twelve
# with the smallest `lower_margin`. Open inputs are misclassified far more often than the others.

# %%
worst = sorted(rest, key=lambda i: i.lower_margin)[:12]
figure, panels = plt.subplots(2, 6, figsize=(8, 3.6), layout="constrained")
for axes, i in zip(panels.flat, worst, strict=True):
    axes.imshow(mnist.images[i.index], cmap="gray_r")
    axes.set(xticks=[], yticks=[])
    axes.set_title(f"no. {i.index}\n{i.label}, seen as {i.prediction_reference}", fontsize=8)
    axes.set_xlabel(f"margin {i.margin:.3f}\nbound {i.bound:.3f}", fontsize=8)
wrong = sum(i.label != i.prediction_reference for i in rest)
print(f"{len(rest)} inputs not proved, {wrong} of them misclassified in binary32 ({wrong / len(rest):.0%})")
everything = report.summary.inputs - report.summary.correct_reference
print(f"of all inputs {everything / report.summary.inputs:.1%} are misclassified")

# %% [markdown]
# **Figure 2.** Open test images: number, label and prediction, margin and bound.
#
# ## What can be done
#
# *Is it the method?* `linearised=True` adds first-order numbers, which prove nothing but show how far a sharper method could get: if the
# margin is below the first-order worst case, no method that is sound for all runs can do much. We certify the open inputs again, as a
# data set of their own.

# %%
rows = [i.index for i in rest]
with tempfile.TemporaryDirectory() as folder:
    np.savez(Path(folder) / "open.npz", images=mnist.images[rows], labels=mnist.labels[rows])
    open_inputs = load_dataset(str(Path(folder) / "open.npz"))
first_order = certify(model, open_inputs, parse_arithmetic("bf16"), Method(linearised=True))
below = sum(i.margin <= i.linearised_worst for i in first_order.inputs)
print(f"{below} of {len(rows)} margins lie below the first-order worst case, {len(rows) - below} above it")

# %% [markdown]
# *Is it the arithmetic?* We try others on the same inputs: exact sums, more bits in storage, and binary32 itself, of which is asked
# whether the prediction is the same on every machine and in every batch. A looser probability is tried as well.

# %%
choices = [("as above", ("bf16",), {}), ("random rounding, 1e-3", ("bf16",), {"method": "adjoint", "confidence": 1e-3})]
choices += [("exact sums", ("bf16", "fp32", "exact"), {}), ("binary16", ("fp16",), {}), ("binary32", ("fp32",), {})]
print(f"{'':<24}{'arithmetic':<18}{'proved':>8}{'probable':>10}{'observed':>10}")
for name, arithmetic, options in choices:
    again = certify(model, open_inputs, parse_arithmetic(*arithmetic), Method(**options))
    counts = again.summary
    print(f"{name:<24}{parse_arithmetic(*arithmetic).name:<18}{counts.proved:>8}{counts.probable:>10}{counts.observed:>10}")
    if name == "binary32":
        print("\nopen in binary32 as well:", [(rows[i.index], round(i.margin, 5)) for i in again.inputs if i.verdict != "proved"])

# %% [markdown]
# Exact sums do not help: errors of sums are not what decides here. An input that is not even proved in binary32 lies on a decision
# boundary: what it is called is an accident of the order of additions.
#
# *Keep the half program, and rerun where it is close.* The half run is accepted where its own margin exceeds a threshold; otherwise the
# input is computed again in binary32. We take the worst bound of this data set as the threshold:

# %%
images = model.preprocess(mnist.images)
half = Program.of(capture(model.module, tuple(images.shape[1:])), parse_arithmetic("bf16"))
top = execute(half, half.inputs(images)).logits.topk(2).values
threshold = report.summary.worst_bound
rerun = set((top[:, 0] - top[:, 1] <= threshold).nonzero().flatten().tolist())
print(f"margin of the half run at most {threshold:.3f}: {len(rerun)} of {len(images):,} inputs would be rerun")
print(f"{len(set(rows) & rerun)} of the {len(rows)} inputs that are not proved are among them")

# %% [markdown]
# If all of them are, the rule is safe on these inputs, since every accepted prediction is proved. For new inputs it is an estimate.
#
# ## Keep it
#
# The report is plain data. `write_json` writes it in the format `precisionkit.certify/1`, whose schema comes with the package. From the
# command line:
#
# ```console
# $ precisionkit certify model.pt --data mnist --storage bf16 --json report.json --table report.csv --fail-under 99
# ```
#
# The exit code is 0, or 1 if a prediction flipped or fewer than 99 % are certified.

# %%
with tempfile.TemporaryDirectory() as folder:
    write_json(report, Path(folder) / "report.json")
    size = (Path(folder) / "report.json").stat().st_size
print(f"{report.schema}: {size / 2**20:.1f} MiB; certified {report.certified_percent:.2f} %")

# %% [markdown]
# ## Take-aways
#
# 1. *Proved* is a statement about every run of both programs, under listed assumptions. *Observed* is one about two runs.
# 2. Open inputs are those with small margins. First-order numbers tell whether a sharper method could help, and usually it could not.
# 3. More bits in storage decide most of the rest; inputs that binary32 itself does not decide lie on a decision boundary.
