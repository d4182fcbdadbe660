"""Planted mistakes: a statement made too strong by one character or so, with which its file must no longer compile."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).resolve().parent / "coq"
LIMIT = 300
"""Seconds for one file."""


class Mutant(NamedTuple):
    """A text of a file and what takes its place, where it occurs first after `after`."""

    module: str
    after: str
    old: str
    new: str


MUTANTS = (
    Mutant("Rounding", "Lemma normal_error", "<= u * ufp t", "<= u / 2 * ufp t"),
    Mutant("Rounding", "Lemma subnormal_error", "<= eta f", "<= eta f / 2"),
    Mutant("Rounding", "Lemma no_overflow", "Rabs t < overflow_threshold f", "Rabs t <= overflow_threshold f"),
    Mutant("Dot", "Lemma classical", "INR (weight t - 1) * u * S t", "INR (weight t - 2) * u * S t"),
    Mutant("Dot", "Lemma subsets", "INR (weight t - 1) * (u * ufp bound)", "INR (weight t - 2) * (u * ufp bound)"),
    Mutant("Dot", "Definition lost", "INR (products p t) * h", "INR (products p t - 1) * h"),
    Mutant("Dot", "Hypothesis s_bound", "/ 2 + carried <= s", "/ 2 <= s"),
    Mutant("Jeannerod", "Lemma sharp_perturbed", "INR (leaves t) * u", "INR (leaves t - 1) * u"),
    Mutant("Jeannerod", "Lemma perturbed_near", "INR (leaves t) * eta f", "INR (leaves t - 1) * eta f"),
    Mutant("Named", "Definition leaf_error", "+ q k) + h", "+ q k)"),
    Mutant("Named", "Fixpoint running", "+ (carried q s + carried q t) + before) before", "+ before) before"),
    Mutant("TensorCore", "Lemma aligned_error", "(INR (nonzeros p ks) + 1)", "INR (nonzeros p ks)"),
    Mutant("TensorCore", "Theorem tensor_core", "+ 2 * INR most * t in", "+ INR most * t in"),
    Mutant("TensorCore", "Theorem tensor_core", "(INR count + INR most)", "INR count"),
    Mutant("TensorCore", "Theorem tensor_core", "(INR count + INR most)", "INR most"),
    Mutant("TensorCore", "Theorem short_steps", "steps c * length_", "joins c * length_"),
    Mutant("TensorCore", "Lemma truncation_error", "2 * unit_roundoff f", "unit_roundoff f"),
    Mutant("Corollaries", "Theorem either_kernel", "<= Rmax on_cores elsewhere /", "<= Rmin on_cores elsewhere /"),
    Mutant("Corollaries", "Theorem either_kernel", "/ 2 + carried in", "/ 2 in"),
    Mutant("Corollaries", "Theorem either_kernel", "length bias - 1", "length bias - 2"),
    Mutant("Products", "Theorem product_rule_exact", "(least wide <= 2 * least narrow)%Z -> ", ""),
    Mutant("Relax", "Theorem relu_zonotope", "<= - (s * l) / 2", "<= - (s * l) / 3"),
    Mutant("Relax", "Theorem relu_upper_line", "0 <= s <= 1", "0 <= s"),
    Mutant("Relax", "Theorem relu_under", "else - s * c", "else 0"),
    Mutant("Relax", "Theorem product_enclosure", "+ ea * eb /\\", "/\\"),
    Mutant("Softmax", "Theorem softmax_sup_norm", "tanh (d / 2) <= d / 2", "tanh (d / 2) <= d / 3"),
    Mutant("Azuma", "Theorem azuma", "<= exp (- (t * t) / 2)", "<= exp (- (t * t))"),
    Mutant("Functions", "Theorem softmax_statistic", "e * e / 2", "e * e / 4"),
    Mutant("Functions", "Theorem chain_of_roundings", "(INR k + 1) * u.", "INR k * u."),
    Mutant("Margin", "Theorem gaps_keep_argmax", "0 < z c - z j", "0 <= z c - z j"),
    Mutant("Margin", "Theorem sup_norm :", "z c - z j > 2 * d", "z c - z j >= 2 * d"),
    Mutant("Margin", "Theorem pairwise", "z c - z j > e j", "z c - z j >= e j"),
    Mutant("Margin", "Theorem strict_test_sound", "rnd (a - b) > t", "rnd (a - b) >= t"),
    Mutant("Network", "Definition cost", "Rmax 0 (- g) * below i", "0"),
    Mutant("Network", "Definition through", "- Rmax 0 (- g i) * lower i j", "- Rmax 0 (- g i) * upper i j"),
    Mutant("Zonotope", "Definition admits", "/\\ z q <= z p", ""),
    Mutant("Zonotope", "Definition admits", "t = 1 /\\ 0 < z k", "t = 1"),
    Mutant("Zonotope", "Definition settled", "+ local_error a net z e i", ""),
    Mutant("Probable", "Theorem pull_signed", "+ pull lower upper below above n g", ""),
    Mutant("Probable", "Theorem spread_of_sums", "(d * d) + v * v", "(d * d)"),
    Mutant("Probable", "Theorem probable_functional", "<= radius i * radius i", "<= 2 * radius i * radius i"),
    Mutant("Network", "Definition dot_fresh", "length bias - 1", "length bias - 2"),
)


UNCHANGED = Mutant("Rounding", "Lemma normal_error", "u * ufp t", "u * ufp t")
"""A file that has to compile, or else the others may fail for any reason."""


def mutated(mutant: Mutant) -> str:
    """The file with the mistake in it."""
    text = (FOLDER / f"{mutant.module}.v").read_text()
    head, found, rest = text.partition(mutant.after)
    assert found, mutant
    assert mutant.old in rest, mutant
    return head + found + rest.replace(mutant.old, mutant.new, 1)


def survives(mutant: Mutant) -> bool:
    """Whether the file compiles all the same; those that it needs are compiled."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{mutant.module}.v"
        file.write_text(mutated(mutant))
        command = ["coqc", "-q", "-Q", str(FOLDER), "PrecisionKit", str(file)]
        return subprocess.run(command, cwd=folder, capture_output=True, timeout=LIMIT, check=False).returncode == 0
