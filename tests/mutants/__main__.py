"""``python -m tests.mutants [--jobs N] [NAME ...]``: every wrong change, or those whose names or files hold a word, against its tests."""

from __future__ import annotations

import argparse
import sys
import time

from . import MUTANTS
from .runner import LIMIT, copies, failing_without, stale, tried_all


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("words", nargs="*", metavar="NAME", help="part of a mutant's name or file")
    parser.add_argument("--jobs", type=int, default=1, help="how many are tried at once (default: 1)")
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds for the tests of one mutant (default: %(default)g)")
    parser.add_argument("--clean", action=argparse.BooleanOptionalAction, default=True, help="first run the tests without mutants")
    options = parser.parse_args()
    chosen = [m for m in MUTANTS if not options.words or any(word in f"{m.file} {m.name}" for word in options.words)]
    begun = time.monotonic()
    if complaints := stale(chosen):
        print(*complaints, sep="\n")
        return 1
    with copies(max(1, options.jobs)) as made:
        if options.clean and (texts := failing_without(made[0], chosen, options.limit)):
            print("These tests fail without a mutant:", *texts, sep="\n")
            return 1
        survived = 0
        for found in tried_all(made, chosen, options.limit):
            survived += bool(found.complaint)
            print(
                f"{'SURVIVED' if found.complaint else 'caught':<9}{found.seconds:6.1f} s  {found.mutant.file}: {found.mutant.name}",
                flush=True,
            )
            if found.complaint:
                print(found.complaint, flush=True)
    print(f"{len(chosen) - survived} caught, {survived} survived, {time.monotonic() - begun:.0f} s")
    return int(bool(survived))


if __name__ == "__main__":
    sys.exit(main())
