"""``python -m precisionkit.docs``: the table of operators, written from their records."""

from __future__ import annotations

from precisionkit.ops import OPERATORS, SOFTMAX_TARGETS


def operator_table() -> str:
    """Table of the operators in Markdown."""
    rows = [
        f"| {o.name} | {', '.join(f'`{t}`' for t in o.targets)} | {o.bound.replace('|', chr(92) + '|')} | {o.source} |" for o in OPERATORS
    ]
    last = ", ".join(f"`{target}`" for target in SOFTMAX_TARGETS)
    head = [
        "# Operators",
        "",
        "Written by `make docs` from the records in `precisionkit/ops`. The bound is what an operator makes of the radius e of its inputs,",
        "before the store in the storage format; v is the unit roundoff of the format that it computes in.",
        "Symbols as in `proofs/bounds.md`.",
        "",
        "| operator | of torch's operator library | radius before the store | proof |",
        "|---|---|---|---|",
    ]
    tail = ["", f"As the last layer these are left out, and the logits before them decide: {last}."]
    return "\n".join([*head, *rows, *tail])


if __name__ == "__main__":
    print(operator_table())
