"""Tables of results, as Markdown and as CSV."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from precisionkit.formats import BINARY16
from precisionkit.report.write import csv_bytes
from precisionkit.reproduce.plan import EXTRA, PRECISIONS, PUBLISHED, Plan
from precisionkit.reproduce.runs import Result
from precisionkit.reproduce.statistics import NAMES, Mean, by_optimizer, chosen, difference, optimizer_name
from precisionkit.reproduce.study import Pair, Study
from precisionkit.training import analyse_epsilon


@dataclass(frozen=True)
class Table:
    """One table.

    Attributes
    ----------
    name : str
        Of its CSV file.
    title : str
    note : str
        What the numbers are.
    columns : tuple of str
    rows : tuple of tuple of str
    """

    name: str
    title: str
    note: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        """The table with its title and note."""
        lines = [self.columns, ("---",) * len(self.columns), *self.rows]
        body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        return f"### {self.title}\n\n{self.note}\n\n{body}\n"

    def csv(self) -> bytes:
        """The table alone."""
        return csv_bytes(self.columns, self.rows)


def batch_table(plan: Plan, results: Sequence[Result]) -> Table:
    """Accuracy by optimizer, precision and batch size."""
    sizes = sorted({one.settings.batch for one in results})
    rows = []
    for optimizer, found in by_optimizer(results, PRECISIONS).items():
        for precision in PRECISIONS:
            means = [str(Mean.of(chosen(found, precision=precision, batch=size))) for size in sizes]
            rows.append((optimizer, precision, *means))
    note = f"{plan.what}. Test accuracy in percent after the last epoch, mean ± standard deviation over seeds."
    return Table(
        "accuracy", "Accuracy by optimizer, precision and batch size", note, ("optimizer", "precision", *map(str, sizes)), tuple(rows)
    )


def difference_table(plan: Plan, results: Sequence[Result]) -> Table:
    """Differences to binary32, seed by seed, over all batch sizes."""
    rows = []
    for optimizer, found in by_optimizer(results, PRECISIONS).items():
        cells = []
        for precision in PRECISIONS[1:]:
            made = difference(found, precision, "fp32")
            broke = sum(one.accuracy is None for one in chosen(found, precision=precision))
            cells += ["-" if made is None else str(made), f"{broke} of {len(chosen(found, precision=precision))}"]
        rows.append((optimizer, *cells))
    note = (
        f"{plan.what}. Accuracy less that of the run in fp32 with the same seed and batch size, in percentage points: mean and half width "
        "of its 95 % confidence interval (Student), over the pairs of which both ended."
    )
    columns = ("optimizer", "fp16 - fp32", "fp16 broke", "mixed - fp32", "mixed broke")
    return Table("differences", "Differences to fp32", note, columns, tuple(rows))


def extra_table(plan: Plan, results: Sequence[Result]) -> Table:
    """The other precisions beside the published ones, with one batch size."""
    here = [one for one in results if one.settings.precision in EXTRA]
    keys = list(dict.fromkeys((one.settings.optimizer, one.settings.epsilon, one.settings.batch) for one in here))
    rows = []
    for optimizer, epsilon, batch in keys:
        same = chosen(results, optimizer=optimizer, epsilon=epsilon, batch=batch)
        means = [str(Mean.of(chosen(same, precision=precision))) for precision in ("fp32", "fp16", *EXTRA)]
        rows.append((optimizer_name(same[0].settings), str(batch), *means))
    note = (
        f"{plan.what}. Test accuracy in percent. fp16 and bf16 sum in binary32; strict-fp16 accumulates products in binary16, in blocks of "
        "16 as tensor cores with half accumulators do."
    )
    columns = ("optimizer", "batch", "fp32", "fp16", *EXTRA)
    return Table("strict", "Pure half, and strictly so", note, columns, tuple(rows))


def network_table(plan: Plan, results: Sequence[Result]) -> Table:
    """Accuracy of every network, beside the published one."""
    rows = []
    for arch in dict.fromkeys(one.settings.arch for one in results):
        found = chosen(results, arch=arch)
        published = PUBLISHED.get(arch)
        printed = [f"{published.accuracy[precision]:.1f}" if published else "-" for precision in PRECISIONS]
        means = [str(Mean.of(chosen(found, precision=precision))) for precision in PRECISIONS]
        made = difference(found, "fp16", "fp32")
        rows.append((arch, *means, "-" if made is None else str(made), *printed))
    note = (
        f"{plan.what}, SGD with rate 0.01 and momentum 0.9, batches of 256, no augmentation. Test accuracy in percent, mean ± deviation; "
        "fp16 - fp32 seed by seed with the half width of its 95 % confidence interval; published: means of arXiv 2301.12809."
    )
    columns = ("network", *PRECISIONS, "fp16 - fp32", *(f"published {precision}" for precision in PRECISIONS))
    return Table("accuracy", "Accuracy by network and precision", note, columns, tuple(rows))


def cost_table(plan: Plan, results: Sequence[Result], device: str) -> Table:
    """Time and size by network and precision."""
    rows = []
    for arch in dict.fromkeys(one.settings.arch for one in results):
        for precision in dict.fromkeys(one.settings.precision for one in results):
            found = [one for one in chosen(results, arch=arch, precision=precision, batch=256) if one.accuracy is not None]
            if not found:
                continue
            for optimizer in dict.fromkeys(one.settings.optimizer for one in found):
                same = chosen(found, optimizer=optimizer)
                seconds = fmean(one.seconds / one.settings.epochs for one in same)
                published = PUBLISHED.get(arch)
                printed = f"{published.seconds[precision]:g}" if published and precision in published.seconds else "-"
                sizes = [f"{value / 1e6:.2f}" for value in (same[0].memory, same[0].optimizer_memory, same[0].disk)]
                rows.append((arch, precision, optimizer, f"{seconds:.2f}", printed, *sizes))
    where = (
        "On a CPU half products are computed by fp32 kernels and rounded, so that time says nothing of hardware with half arithmetic."
        if device == "cpu"
        else "By the GPU's half kernels."
    )
    note = f"{plan.what}; batches of 256. Seconds of training for an epoch, one process ({device}). {where} Sizes in MB (10^6 bytes)."
    columns = ("network", "precision", "optimizer", "s / epoch", "published s, 100 epochs", "memory", "optimizer's state", "on disk")
    return Table("cost", "Time and size", note, columns, tuple(rows))


def epsilon_table(plan: Plan, results: Sequence[Result]) -> Table:
    """What epsilon does in binary16, in theory and in the runs."""
    rows = []
    for optimizer in ("adam", "rmsprop"):
        for epsilon in sorted({one.settings.epsilon for one in chosen(results, optimizer=optimizer)}):
            theory = analyse_epsilon(optimizer, epsilon, BINARY16)
            runs = chosen(results, optimizer=optimizer, epsilon=epsilon, precision="fp16")
            steps = [one.step for one in runs if one.broke]
            seen = f"{len(steps)} of {len(runs)} broke" + (f", after step {min(steps)} to {max(steps)}" if steps else "")
            rows.append(
                (
                    *(NAMES[optimizer], f"{epsilon:g}", f"{theory.stored:.3g}", f"{theory.vanishing:.3g}"),
                    *("infinite" if theory.stored == 0 else f"{theory.amplification:.3g}", f"{theory.sufficient:.3g}", seen),
                )
            )
    note = (
        f"{plan.what}. Theorem 27 of proofs/bounds.md, in exact arithmetic: epsilon as binary16 has it; the largest gradient whose second "
        "moment becomes zero; the largest update of such gradients in learning rates, at most 1 in exact arithmetic; the epsilon that "
        "keeps it at 1. Last column: the runs in fp16, all batch sizes and seeds."
    )
    columns = ("optimizer", "epsilon", "stored", "gradients that vanish", "update / rate", "sufficient epsilon", "runs in fp16")
    return Table("epsilon", "Why epsilon breaks binary16", note, columns, tuple(rows))


def study_table(plan: Plan, studies: Sequence[Study]) -> Table:
    """Margins, discrepancies, the lemma and certificates of trained networks."""
    rows = tuple(
        (
            *(one.arch, one.trained_in, one.run_in, str(one.images), f"{one.gamma:.3g}", f"{one.delta:.2g}"),
            *(_share(count, one.images) for count in (one.premise, one.kept)),
            str(one.violations),
            *(_share(count, one.images) for count in (one.proved, one.proved + one.probable)),
            "-" if one.bound is None else f"{one.bound:.2g}",
        )
        for one in studies
    )
    note = (
        f"{plan.what}; the network of seed 0. Margin Gamma of the binary32 run of its weights, discrepancy delta of the half run (means "
        "over images, logits), images with Gamma > 2 delta, with the same prediction, violations of the repaired lemma (theorem 13), and "
        "images whose prediction is proved, or at least probable (failure probability 1e-6), to be the same in every order of summation; "
        "median bound of the tightest gap."
    )
    columns = ("network", "trained in", "run in", "images", "Gamma", "delta", "Gamma > 2 delta", "kept", "violations")
    return Table("lemma", "Margins, discrepancies and certificates", note, (*columns, "proved", "at least probable", "bound"), rows)


def pair_table(plan: Plan, pairs: Sequence[Pair]) -> Table:
    """Networks trained in binary32 and in another precision."""
    rows = tuple(
        (one.arch, one.trained_in, str(one.images), f"{one.delta:.3g}", _share(one.premise, one.images), _share(one.agree, one.images))
        for one in pairs
    )
    note = (
        f"{plan.what}. Two networks of seed 0, trained in fp32 and in another precision, both run in binary32: mean largest difference of "
        "a logit, images whose margin exceeds twice that, images with the same prediction. Training in half gives another network; running "
        "one in half hardly does."
    )
    columns = ("network", "trained in", "images", "delta to fp32's", "Gamma > 2 delta", "same prediction")
    return Table("pairs", "Trained in fp32 against trained in half", note, columns, rows)


def _share(count: int, total: int) -> str:
    return f"{count / total:.2%}"
