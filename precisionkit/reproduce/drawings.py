"""Figures of the results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from precisionkit.formats import BINARY16
from precisionkit.reproduce.plan import PRECISIONS, Plan
from precisionkit.reproduce.runs import Result
from precisionkit.reproduce.statistics import NAMES, Mean, by_optimizer, chosen, difference
from precisionkit.training import analyse_epsilon

_LINES = {"fp32": ("o", "-"), "fp16": ("s", "--"), "mixed": ("^", ":")}


def draw_batches(plan: Plan, results: Sequence[Result], path: Path) -> None:
    """Accuracy against the batch size, one panel for each optimizer and epsilon; runs that broke are crosses at the bottom."""
    from matplotlib.figure import Figure

    groups = by_optimizer(results, PRECISIONS)
    columns = 3
    rows = -(-len(groups) // columns)
    figure = Figure(figsize=(9, 2.5 * rows), layout="constrained")
    sizes = sorted({one.settings.batch for one in results})
    for place, (name, same) in enumerate(groups.items()):
        axes = figure.add_subplot(rows, columns, place + 1)
        for precision in PRECISIONS:
            means = [Mean.of(chosen(same, precision=precision, batch=size)) for size in sizes]
            _line(axes, sizes, means, precision)
        axes.set(title=name, xscale="log", xticks=sizes, xticklabels=map(str, sizes), xlabel="batch", ylabel="accuracy (%)")
        axes.minorticks_off()
        axes.tick_params(labelsize="small")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(PRECISIONS))
    figure.suptitle(f"{plan.what}; crosses: every run broke", fontsize="medium")
    figure.savefig(path, dpi=110)


def _line(axes: Any, sizes: list[int], means: list[Mean], precision: str) -> None:
    marker, style = _LINES[precision]
    there = [(size, mean.mean, mean.deviation or 0.0) for size, mean in zip(sizes, means, strict=True) if mean.mean is not None]
    if there:
        x, y, error = zip(*there, strict=True)
        axes.errorbar(x, y, error, marker=marker, linestyle=style, label=precision, capsize=2, markersize=4)
    else:
        axes.errorbar([], [], marker=marker, linestyle=style, label=precision)
    gone = [size for size, mean in zip(sizes, means, strict=True) if mean.runs and mean.mean is None]
    axes.plot(gone, [0.03] * len(gone), "kx", transform=axes.get_xaxis_transform())


def draw_epsilon(plan: Plan, results: Sequence[Result], path: Path) -> None:
    """The largest update of gradients that vanish, by epsilon, with the share of runs in fp16 that broke."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.4), layout="constrained")
    axes = figure.add_subplot()
    grid = np.geomspace(3e-8, 1e-1, 200)
    for optimizer, marker, style in (("adam", "o", "-"), ("rmsprop", "s", "--")):
        theory = [analyse_epsilon(optimizer, float(epsilon), BINARY16).amplification for epsilon in grid]
        (line,) = axes.plot(grid, theory, linestyle=style, label=f"{NAMES[optimizer]}, theorem 27")
        for epsilon in sorted({one.settings.epsilon for one in chosen(results, optimizer=optimizer)}):
            runs = chosen(results, optimizer=optimizer, epsilon=epsilon, precision="fp16")
            broke = sum(bool(one.broke) for one in runs)
            value = analyse_epsilon(optimizer, epsilon, BINARY16).amplification
            y = value if np.isfinite(value) else 1e6
            axes.plot(epsilon, y, marker, color=line.get_color(), fillstyle="none" if broke else "full", markersize=8)
            axes.annotate(f"{broke}/{len(runs)}", (epsilon, y), textcoords="offset points", xytext=(6, 4), fontsize="small")
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set(xscale="log", yscale="log", xlabel="epsilon", ylabel="largest update / learning rate")
    axes.set_title(f"{plan.what}\nopen markers: runs in fp16 broke (how many of how many); at the top: infinite", fontsize="medium")
    axes.legend()
    figure.savefig(path, dpi=110)


def draw_networks(plan: Plan, results: Sequence[Result], path: Path) -> None:
    """Differences to binary32 by network, with confidence intervals."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(one.settings.arch for one in results))
    figure = Figure(figsize=(7, 1.2 + 0.4 * len(names)), layout="constrained")
    axes = figure.add_subplot()
    for shift, precision in ((-0.12, "fp16"), (0.12, "mixed")):
        made = [difference(chosen(results, arch=name), precision, "fp32") for name in names]
        there = [
            (place + shift, one.mean, one.half_width) for place, one in enumerate(made) if one is not None and np.isfinite(one.half_width)
        ]
        if there:
            y, x, error = zip(*there, strict=True)
            axes.errorbar(x, y, xerr=error, fmt=_LINES[precision][0], capsize=3, label=f"{precision} - fp32")
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set(yticks=range(len(names)), yticklabels=names, xlabel="difference of accuracy (percentage points), 95 % confidence")
    axes.set_title(plan.what, fontsize="medium")
    axes.legend()
    figure.savefig(path, dpi=110)
