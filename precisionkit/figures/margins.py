"""Margins beside discrepancies."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np

from precisionkit.report.lemma import LemmaReport


def margins_figure(report: LemmaReport, path: Path) -> None:
    """Draw histograms of Gamma and of 2 delta, on a logarithmic scale, one panel for each kind of output."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 2.6 * len(report.outputs)), layout="constrained")
    for place, output in enumerate(report.outputs):
        axes = figure.add_subplot(len(report.outputs), 1, place + 1)
        rows = [row for row in report.rows if row.kind == output.kind]
        series = {"Gamma": [Fraction(r.gamma) for r in rows], "2 delta": [2 * Fraction(r.delta) for r in rows]}
        positive = {name: np.array([float(v) for v in values if v > 0]) for name, values in series.items()}
        ends = [v for values in positive.values() if len(values) for v in (values.min(), values.max())]
        edges = np.geomspace(min(ends), max(ends) * 1.01, 60).tolist() if ends else [0.5, 1.0]
        for name, values in positive.items():
            zeros = len(series[name]) - len(values)
            label = f"{name} ({zeros:,} zeros left out)" if zeros else name
            axes.hist(values, edges, histtype="stepfilled" if name == "Gamma" else "step", alpha=0.8, linewidth=1.5, label=label)
        below = sum(g < d for g, d in zip(series["Gamma"], series["2 delta"], strict=True))
        title = f"{report.model.arch} on {report.data.name}: {output.kind}; Gamma < 2 delta for {below:,} of {len(rows):,} inputs"
        axes.set(xscale="log", yscale="log", ylim=(0.7, None), xlabel=output.kind, ylabel="inputs", title=title)
        axes.legend()
    figure.suptitle(report.arithmetic.words, fontsize="medium")
    figure.savefig(path)
