"""proofs/README.md, the Coq files and the code say the same: names, constants, inequalities and formulas."""

import functools
import importlib
import re
from fractions import Fraction
from math import floor, log2
from pathlib import Path

import numpy as np
import pytest
import torch

from precisionkit import formats
from precisionkit import theorems as worths
from precisionkit.arithmetic import TENSOR_CORES, Arithmetic, parse_order
from precisionkit.catalogue import catalogue
from precisionkit.formats import BFLOAT16, BINARY16, BINARY32
from precisionkit.lemma import keeps_argmax, published_lemma, repaired_lemma
from precisionkit.ops import BY_NAME, OPERATORS
from precisionkit.ops._dot import Dots, Sums, any_order, dot_errors, named_tree, tensor_core
from precisionkit.ops._store import store_error
from proofs.check import FOLDER, definitions, main, no_open_ends, sources, text_of, theorems
from proofs.mutants import MUTANTS, UNCHANGED, mutated

README = (FOLDER.parent / "README.md").read_text()
ROWS = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in README.splitlines() if re.match(r"\| [\d, ]+ \|", line)]
BOUNDS = (FOLDER.parent / "bounds.md").read_text()
ARITHMETICS = [Arithmetic(*pair) for pair in ((BINARY16, BINARY32), (BFLOAT16, BINARY32), (BINARY16, BINARY16), (BINARY32, BINARY32))]
STATEMENTS = " ".join(text_of("Statements").split())


def by_name(arithmetic):
    return f"{arithmetic.storage.name}-{arithmetic.accumulate.name}"


def test_every_statement_is_in_the_table_and_nothing_else_is():
    assert len(ROWS) > 60
    assert sorted(row[2].strip("`") for row in ROWS) == sorted(theorems())


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[2].strip("`"))
def test_the_theorem_the_proof_and_the_function_exist(row):
    numbers, _, statement, proof, code = (cell.strip("`") for cell in row)
    for number in numbers.split(", "):
        assert f"\n## {number}. " in BOUNDS
    module, name = proof.split(".")
    assert name in theorems(module)
    assert re.search(rf"Theorem {statement} (?:(?!Theorem).)*Proof\. .*?\b{name}\b.*?Qed\.", STATEMENTS)
    parts = code.split(".")
    found = next(i for i in range(len(parts), 0, -1) if is_module(".".join(["precisionkit", *parts[:i]])))
    functools.reduce(getattr, parts[found:], importlib.import_module(".".join(["precisionkit", *parts[:found]])))


def test_what_theorems_are_worth_is_what_the_table_says():
    """Every theorem of bounds.md is in one class; those on paper alone have no row, and README names them."""
    numbers = {int(n) for n in re.findall(r"^## (\d+)\. ", BOUNDS, re.MULTILINE)}
    classes = (worths.IN_COQ, worths.IN_PART, worths.ON_PAPER)
    assert sorted(n for group in classes for n in group) == sorted(numbers)
    in_table = {int(n) for row in ROWS for n in row[0].split(", ")}
    assert numbers - in_table <= worths.ON_PAPER
    said = README.partition("## Not machine-checked")[2]
    for number in worths.ON_PAPER | worths.IN_PART:
        assert re.search(rf"\b{number}\b", said), number
    for number in worths.IN_COQ - {5}:
        assert not re.search(
            rf"[Tt]heorems? {number}\b",
            said.replace("theorem 15 and the rounded functionals of theorem 16", "").replace("the proof of theorem 3", ""),
        ), number


@pytest.mark.parametrize(
    "record", [*OPERATORS, *(BY_NAME[s.operator] for o in OPERATORS for s in o.statistics)], ids=lambda record: record.name
)
def test_every_bound_names_its_theorem_and_reports_say_what_it_is_worth(record):
    numbers = worths.numbers_in(record.source)
    assert numbers
    assert all(f"\n## {number}. " in BOUNDS for number in numbers)
    entry = next(e for e in catalogue().operators if record.name in (e.name, *(part.name for part in e.parts)))
    assert " in Coq" in entry.worth or "on paper alone" in entry.worth
    assert record.hidden or record.source in entry.proof


def test_worth_in_words():
    assert worths.numbers_in("proofs/bounds.md, theorems 2 to 5, 21 and 23") == {2, 3, 4, 5, 21, 23}
    assert worths.worth({2, 3, 4, 5, 6, 21, 1, 13}) == "1 to 5 and 13 in Coq, 21 in Coq in part, 6 on paper alone"
    assert worths.worth({13, 14}) == "13 and 14 in Coq"
    assert worths.numbers_in("one sum and theorem 5 of my thesis") == frozenset()
    assert worths.worth([]) == "unproved"


def is_module(name):
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def test_every_file_is_built_and_nothing_is_left_open():
    assert set(sources()) == {path.stem for path in FOLDER.glob("*.v")} - {"Vectors", "Pins"}
    assert no_open_ends()


def test_the_pinned_statements_are_all_there():
    pinned = (FOLDER / "statements.txt").read_text()
    for name in theorems():
        assert f"Statements.{name}\n     : " in pinned
    for module in sources():
        if module != "Execute":
            for name in definitions(module):
                assert re.search(rf"\b{name}\b", pinned), name
    assert set(re.findall(r"^  (\w+\.[\w.]+)$", pinned, re.MULTILINE)) == {
        name.removeprefix("Coq.").removeprefix("Reals.").removeprefix("Logic.") for name in (FOLDER / "axioms.txt").read_text().split()
    }


def test_formats_have_the_constants_of_the_model():
    written = re.findall(r"Definition (\w+) := Format (\d+) \((-\d+)\) (\d+)\.", text_of("Model"))
    assert len(written) == 6
    for name, bits, least, top in written:
        fmt = next(fmt for fmt in formats.FORMATS if fmt.name == name)
        assert (fmt.precision, fmt.emin - fmt.precision + 1, fmt.emax + 1) == (int(bits), int(least), int(top))
        assert fmt.unit_roundoff == 2.0 ** -int(bits)
        assert fmt.smallest_normal == 2.0 ** (int(least) + int(bits) - 1)
        assert Fraction(fmt.max) == (1 - Fraction(fmt.unit_roundoff)) * 2 ** int(top)
        if name != "binary64":  # these two are no numbers of binary64 itself
            assert Fraction(fmt.overflow_threshold) == (1 - Fraction(fmt.unit_roundoff) / 2) * 2 ** int(top)
            assert Fraction(fmt.eta) == Fraction(2) ** (int(least) - 1)
    model = text_of("Model")
    assert "unit_roundoff (f : format) : R := bpow radix2 (- bits f)" in model
    assert "eta (f : format) : R := bpow radix2 (least f - 1)" in model
    assert BINARY32.eps == 2.0**-23
    assert BINARY32.smallest_subnormal == 2.0**-149
    assert "let t := bpow radix2 (-23) in let s := bpow radix2 (-149) in" in STATEMENTS


def test_inequalities_are_as_strict_as_in_the_statements():
    assert re.search(r"gaps_decide.*?\(j < c\)%nat -> 0 < z c - z j\).*?\(c < j < n\)%nat -> 0 <= z c - z j\)", STATEMENTS)
    of_second_class = np.array([1, 1, 1, 1])
    least = np.array([[0.5, 0, 0], [0, 0, 0.5], [np.nextafter(0, 1), 0, 0.5], [0.5, 0, -np.nextafter(0, 1)]])
    assert keeps_argmax(least, of_second_class).tolist() == [True, False, True, False]
    assert re.search(r"margin_lemma_sup_norm.*?z c - z j > 2 \* d", STATEMENTS)
    assert not repaired_lemma(0.5, 0.25)
    assert repaired_lemma(np.nextafter(0.5, 1), 0.25)
    assert re.search(r"published_lemma_is_false.*?>= 2 \* d", STATEMENTS)
    assert published_lemma(0.5, 0.25)
    assert "Rabs t < overflow_threshold f" in STATEMENTS


def test_products_err_by_the_rule_of_their_formats():
    rules = {"binary16-binary32": (0, 0), "bfloat16-binary32": (0, BINARY32.eta)}
    for arithmetic in ARITHMETICS:
        accumulate = arithmetic.accumulate
        expected = rules.get(by_name(arithmetic), (accumulate.unit_roundoff, accumulate.eta))
        assert (arithmetic.product_roundoff, arithmetic.product_underflow) == expected
    kept = Arithmetic(BINARY16, formats.TF32)  # the fourth rule: the last bit fits, the others do not
    assert (kept.product_roundoff, kept.product_underflow) == (formats.TF32.unit_roundoff, 0)


def ufp(x):
    """``Model.ufp``, of rationals."""
    if x == 0:
        return Fraction(0)
    guess = floor(log2(abs(x.numerator)) - log2(x.denominator))
    exponent = next(e for e in (guess - 1, guess, guess + 1) if Fraction(2) ** e <= abs(x) < Fraction(2) ** (e + 1))
    return Fraction(2) ** exponent


def barely_above(computed, formula):
    """An upper bound: never below the formula.  Whether it is close; if not, its own rounding carries an ufp to the next power of two."""
    computed = Fraction(float(computed))
    assert formula <= computed <= 2 * formula * (1 + Fraction(2) ** -20)
    return computed <= formula * (1 + Fraction(2) ** -20)


def test_storing_errs_by_the_formula():
    for fmt in (BINARY16, BFLOAT16, BINARY32):
        for x in (0.0, fmt.smallest_subnormal, fmt.smallest_normal, 1.0, 1.75, fmt.max):
            formula = max(Fraction(fmt.unit_roundoff) * ufp(Fraction(x)), Fraction(fmt.eta))
            assert Fraction(float(store_error(fmt, torch.tensor(x, dtype=torch.float64)))) == formula


def random_dots(generator, terms, bias):
    weight = torch.tensor(generator.normal(size=(1, 3, terms))).float().double()
    columns = torch.tensor(generator.normal(size=(1, 1, terms, 2))).float().double()
    columns[0, 0, 1] = 0
    deviations = torch.tensor(generator.uniform(0, 2.0**-9, size=columns.shape))
    deviations[0, 0, 1] = 0
    return Dots(weight, columns, deviations, torch.tensor(generator.normal(size=(1, 3))).float().double() if bias else None)


def exact_sums(dots, o, place):
    w = [Fraction(float(v)) for v in dots.weight[0, o]]
    c = [Fraction(float(v)) for v in dots.columns[0, 0, :, place]]
    e = [Fraction(float(v)) for v in dots.deviations[0, 0, :, place]]
    b = [] if dots.bias is None else [Fraction(float(dots.bias[0, o]))]
    return w, c, e, b


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("arithmetic", ARITHMETICS, ids=by_name)
def test_any_order_computes_the_formula(arithmetic, bias):
    """``any_order_over_an_enclosure``, in rational arithmetic."""
    dots = random_dots(np.random.default_rng(1), 9, bias)
    close = 0
    for o in range(3):
        for place in range(2):
            w, c, e, b = exact_sums(dots, o, place)
            products = [x * y for x, y in zip(w, c, strict=True)]
            centre, magnitude = sum(products) + sum(b), sum(map(abs, products)) + sum(map(abs, b))
            carried = sum(abs(x) * y for x, y in zip(w, e, strict=True))
            count = sum(x != 0 and (y != 0 or z != 0) for x, y, z in zip(w, c, e, strict=True))
            u, r, h = map(Fraction, (arithmetic.accumulate.unit_roundoff, arithmetic.product_roundoff, arithmetic.product_underflow))
            m = magnitude + carried
            v = r * m + count * h
            s = (magnitude + abs(centre)) / 2 + carried
            n = count + len(b) - 1
            classical = n * u * (m + v)
            formula = v + min(classical, n * (u * ufp(s + v + classical)))
            given = [torch.tensor([float(t)], dtype=torch.float64) for t in (centre, magnitude, carried)]
            counted = torch.tensor([float(count)], dtype=torch.float64)
            error, peak, spread, lost = any_order(arithmetic, Sums.of(*given, len(w), counted, bias=bias))
            close += barely_above(error, formula) and barely_above(peak, s + formula)
            barely_above(spread, formula - count * h)  # more than ``spread_of_a_dot_product`` asks for
            assert Fraction(float(lost)) >= count * h
    assert close >= 4


def running(arithmetic, dots, o, place):
    """``Named.running`` along the tree of the order."""
    w, c, e, b = exact_sums(dots, o, place)
    u, r, h = map(Fraction, (arithmetic.accumulate.unit_roundoff, arithmetic.product_roundoff, arithmetic.product_underflow))

    def leaf(k):
        occupied = c[k] != 0 or e[k] != 0
        centre, carried = w[k] * c[k], abs(w[k]) * e[k]
        return centre, carried, (r * (abs(centre) + carried) + h if occupied else Fraction(0)), occupied

    def add(s, t):
        centre, carried, before = s[0] + t[0], s[1] + t[1], s[2] + t[2]
        rounding = u * ufp(abs(centre) + carried + before) if s[3] and t[3] else 0
        return centre, carried, before + rounding, s[3] or t[3]

    total = arithmetic.order.fold(map(leaf, range(len(w))), add)
    return (add(total, (b[0], Fraction(0), Fraction(0), True)) if b else total)[2]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("order", ["sequential", "pairwise", "blocked:4"])
@pytest.mark.parametrize("arithmetic", ARITHMETICS, ids=by_name)
def test_named_trees_compute_the_formula(arithmetic, order, bias):
    arithmetic = Arithmetic(arithmetic.storage, arithmetic.accumulate, parse_order(order))
    dots = random_dots(np.random.default_rng(2), 9, bias)
    error, _ = named_tree(arithmetic, dots)
    close = sum(barely_above(error[0, 0, o, place], running(arithmetic, dots, o, place)) for o in range(3) for place in range(2))
    assert close >= 4


def on_tensor_cores(unit, storage, fmt, count, steps, reach, largest):
    """``tensor_core_steps``, M = `reach`; no factor exceeds `largest`."""
    t = Fraction(2) ** -23 if fmt == BINARY32 else Fraction(fmt.unit_roundoff)
    emin = Fraction(storage.smallest_normal)
    floor_ = largest * emin + max(emin * emin, Fraction(fmt.smallest_normal))
    a = (count + steps) * Fraction(2) ** -unit.fraction_bits + 2 * steps * t
    return (a * (reach + floor_) + steps * 2 * Fraction(fmt.eta)) / (1 - a)


CENTRE, MAGNITUDE, CARRIED = -3.25, 37.5, 0.125
REACH = (Fraction(MAGNITUDE) + abs(Fraction(CENTRE))) / 2 + Fraction(CARRIED)


def given_sums(count):
    given = [torch.tensor([t], dtype=torch.float64) for t in (CENTRE, MAGNITUDE, CARRIED)]
    return Sums.of(*given, 60, torch.tensor([float(count)], dtype=torch.float64), bias=False)


@pytest.mark.parametrize("count", [1, 40, 60])
@pytest.mark.parametrize("unit", TENSOR_CORES, ids=lambda unit: unit.name)
def test_tensor_cores_compute_the_formula(unit, count):
    steps = 5
    for storage, fmt in unit.formats:
        error, peak = tensor_core(Arithmetic(storage, fmt), unit, given_sums(count), steps, torch.tensor([8.0], dtype=torch.float64))
        formula = on_tensor_cores(unit, storage, fmt, count, steps, REACH, 8)
        assert barely_above(error, formula)
        assert barely_above(peak, REACH + formula)


@pytest.mark.parametrize(("count", "steps", "cores_are_worse"), [(60, 1, False), (60, 8, True)])
def test_a_library_errs_by_the_larger_formula(count, steps, cores_are_worse):
    """``dot_product_of_a_library``: products of binary16 are exact."""
    arithmetic = Arithmetic(BINARY16, BINARY32, parse_order("gpu:hopper"))
    on_cores = on_tensor_cores(arithmetic.order.tensor_core, BINARY16, BINARY32, count, steps, REACH, 8)
    n, u = count - 1, Fraction(BINARY32.unit_roundoff)
    classical = n * u * (Fraction(MAGNITUDE) + Fraction(CARRIED))
    elsewhere = min(classical, n * (u * ufp(REACH + classical)))
    assert (on_cores > elsewhere) == cores_are_worse
    found = dot_errors(arithmetic, given_sums(count), None, steps, torch.tensor([8.0], dtype=torch.float64))
    assert barely_above(found.error, max(on_cores, elsewhere))
    assert barely_above(found.peak, REACH + max(on_cores, elsewhere))


def test_a_missing_coq_is_told_clearly(monkeypatch, capsys):
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert main([]) == 2
    assert "apt-get install" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("planted", "told"),
    [
        ("Lemma a : True. Admitted.", "'Admitted'"),
        ("Axiom a : False.", "'Axiom'"),
        ("Variable a : nat.", "outside a section"),
        ("Section S. Variable a : nat. End S.\nHypothesis b : False.", "outside a section"),
    ],
)
def test_what_is_left_open_is_found(planted, told, monkeypatch):
    from proofs import check

    monkeypatch.setattr(check, "text_of", lambda module: planted)
    with pytest.raises(check.CheckError, match=told):
        check.no_open_ends()


def test_the_files_are_where_the_readme_says():
    for name in re.findall(r"`((?:coq|tests)/[\w./]+)`", README):
        assert any((root / name).exists() for root in (FOLDER.parent, Path(__file__).resolve().parents[1])), name


@pytest.mark.parametrize("mutant", [*MUTANTS, UNCHANGED], ids=lambda mutant: f"{mutant.module}-{mutant.after.split()[1]}-{mutant.new}")
def test_planted_mistakes_are_still_mistakes(mutant):
    assert (mutated(mutant) == (FOLDER / f"{mutant.module}.v").read_text()) == (mutant is UNCHANGED)
