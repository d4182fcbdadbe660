"""What is written from the code is up to date."""

from pathlib import Path

from precisionkit.docs import operator_table

ROOT = Path(__file__).resolve().parents[1]


def test_the_table_of_operators_is_the_one_of_the_records():
    written = (ROOT / "docs" / "operators.md").read_text()
    assert written == operator_table() + "\n", "run 'make docs' and commit docs/operators.md"
