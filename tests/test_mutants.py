"""Planted mistakes: every one still applies, and some are caught; ``make mutants`` runs them all."""

import re
from collections import Counter

import pytest

from tests.mutants import MUTANTS, Mutant
from tests.mutants.runner import copies, stale, tried

FEW = ("the repaired lemma is the published one", "ties go up", "rounded products are exact")
MARGIN = "return margin > 2 * delta"
LEMMA = "unit/test_lemma.py::test_the_published_lemma_fails_at_a_tie"


def test_every_mutant_applies_and_its_tests_exist():
    assert not stale(MUTANTS)
    assert not [name for name, count in Counter((m.file, m.name) for m in MUTANTS).items() if count > 1]
    assert not [change for change, count in Counter((m.file, m.old, m.new) for m in MUTANTS).items() if count > 1]


@pytest.mark.parametrize(
    ("mutant", "message"),
    [
        (Mutant("gone", "lemma.py", "margin > 3 * delta", "True", (LEMMA,)), r"its text is found 0 times in lemma\.py, not once\.$"),
        (Mutant("often", "lemma.py", "delta", "gamma", (LEMMA,)), r"its text is found \d+ times in lemma\.py, not once\.$"),
        (Mutant("same", "lemma.py", MARGIN, f"{MARGIN}  # as before", (LEMMA,)), r"'same' changes nothing in lemma\.py\.$"),
        (Mutant("typo", "lemma.py", MARGIN, "return margin >", (LEMMA,)), r"'typo' makes lemma\.py no Python: "),
        (
            Mutant("untested", "lemma.py", MARGIN, "return True", ("unit/test_lemma.py::test_none",)),
            r"^The test .*test_none .* not exist\.$",
        ),
    ],
    ids=lambda value: value.name if isinstance(value, Mutant) else "",
)
def test_a_stale_mutant_is_found(mutant, message):
    (sentence,) = stale([mutant])
    assert re.search(message, sentence)


def test_mutants_are_caught_and_what_changes_little_survives():
    harmless = Mutant("a larger constant", "lemma.py", MARGIN, "return margin > 2.0000001 * delta", (LEMMA,))
    broken = Mutant("no import", "lemma.py", MARGIN, f"{MARGIN}\n\n\nimport nothing_of_that_name", (LEMMA,))
    with copies(1) as (copy,):
        for mutant in MUTANTS:
            if mutant.name in FEW:
                assert not tried(copy, mutant).complaint
        assert tried(copy, harmless).complaint.startswith("passed: ")
        assert tried(copy, broken).complaint.startswith("broken: ")
        assert copy.run((LEMMA,)).word == "passed"
