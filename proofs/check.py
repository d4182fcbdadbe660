"""``python -m proofs.check``: build the Coq proofs and check what they are worth.

In the order of trust: Coq's compiler, its independent checker coqchk with the axioms compared to `axioms.txt`, the statements as Coq prints
them compared to `statements.txt`, no theorem left open, the package's own arithmetic checked by Flocq's numbers (`proofs.vectors`), and
planted mistakes (`proofs.mutants`).
``--write`` renews `statements.txt`.  Needs Coq 8.16 and Flocq 4.1, which Debian 12 has; installs them where it may.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from proofs.mutants import MUTANTS, UNCHANGED, survives

FOLDER = Path(__file__).resolve().parent / "coq"
PREFIX = "PrecisionKit"
PACKAGES = ("coq", "libcoq-flocq", "make")
OPEN_ENDS = re.compile(r"\b(Admitted|admit|Axioms?|Parameters?|Conjectures?|give_up|bypass_check|Unset\s+\w+\s+Checking)\b")
LIMIT = 1800
"""Seconds that one step may take."""


class CheckError(Exception):
    """What is wrong, for the person who reads the log."""


def run(*command: str, errors: bool = False) -> str:
    """Run in the folder of the proofs and return the output, with `errors` that of both streams.

    Raises
    ------
    CheckError
        The command fails, or takes longer than `LIMIT`.
    """
    try:
        done = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, timeout=LIMIT, check=False)
    except subprocess.TimeoutExpired:
        raise CheckError(f"'{command[0]}' took longer than {LIMIT} s.") from None
    if done.returncode:
        raise CheckError(f"'{' '.join(command)[:200]}' failed:\n{(done.stdout + done.stderr)[-3000:]}")
    return done.stdout + done.stderr if errors else done.stdout


def has_coq() -> bool:
    """Whether Coq and Flocq are there."""
    if not (shutil.which("coqc") and shutil.which("coqchk") and shutil.which("coq_makefile") and shutil.which("make")):
        return False
    asked = "From Flocq Require Import Core.\n"
    return subprocess.run(["coqtop", "-quiet"], input=asked, capture_output=True, text=True, check=False).stderr.find("Error") < 0


def install() -> None:
    """Install what is missing by apt-get.

    Raises
    ------
    CheckError
        It is missing and cannot be installed.
    """
    if has_coq():
        return
    wanted = f"Coq 8.16 with Flocq 4.1 is needed; on Debian 12: apt-get install --no-install-recommends {' '.join(PACKAGES)}"
    if not shutil.which("apt-get") or os.geteuid() != 0:
        raise CheckError(f"{wanted} (not done here: that needs apt-get and root).")
    print(f"installing {', '.join(PACKAGES)}", flush=True)
    for command in (["apt-get", "update", "-qq"], ["apt-get", "install", "-qq", "--yes", "--no-install-recommends", *PACKAGES]):
        if subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode:
            raise CheckError(f"{wanted}. '{' '.join(command)}' failed.")
    if not has_coq():
        raise CheckError(f"{wanted}. The packages that apt-get installed do not serve.")


def sources() -> list[str]:
    """The names of the project's modules, in the order of `_CoqProject`."""
    return re.findall(r"^(\w+)\.v$", (FOLDER / "_CoqProject").read_text(), re.MULTILINE)


def text_of(module: str) -> str:
    """A module's source without comments."""
    text = (FOLDER / f"{module}.v").read_text()
    while (stripped := re.sub(r"\(\*(?:(?!\(\*|\*\)).)*?\*\)", " ", text, flags=re.DOTALL)) != text:
        text = stripped
    return text


def theorems(module: str = "Statements") -> list[str]:
    """Names of the theorems of a module."""
    return re.findall(r"^\s*(?:Theorem|Lemma|Corollary|Fact)\s+(\w+)", text_of(module), re.MULTILINE)


def definitions(module: str) -> list[str]:
    """Names of what a module defines."""
    return re.findall(r"^\s*(?:Definition|Fixpoint|Inductive|Record)\s+(\w+)", text_of(module), re.MULTILINE)


def no_open_ends() -> str:
    """No theorem is left open, and nothing is assumed outside a section."""
    listed = sources()
    strays = sorted({path.stem for path in FOLDER.glob("*.v")} - {*listed, "Vectors", "Pins"})
    if strays:
        raise CheckError(f"not in _CoqProject: {', '.join(strays)}")
    for module in listed:
        text = text_of(module)
        if found := OPEN_ENDS.search(text):
            raise CheckError(f"{module}.v says '{found[0]}'.")
        depth = 0
        for sentence in re.split(r"\.(?=\s)", text + "\n"):
            word = next(iter(sentence.split()), "")
            depth += (word == "Section") - (word == "End")
            if depth == 0 and word in ("Hypothesis", "Hypotheses", "Variable", "Variables", "Context"):
                raise CheckError(f"{module}.v has a '{word}' outside a section, which is an axiom: {sentence.strip()}")
    return f"{len(listed)} files, nothing left open"


def build() -> str:
    """Compile everything anew."""
    for pattern in ("*.vo", "*.vok", "*.vos", "*.glob", ".*.aux"):
        for path in FOLDER.glob(pattern):
            path.unlink()
    run("coq_makefile", "-f", "_CoqProject", "-o", "Makefile.coq")
    run("make", "-f", "Makefile.coq", f"-j{min(2, os.cpu_count() or 1)}")
    return run("coqc", "--version").splitlines()[0].removeprefix("The Coq Proof Assistant, ")


def checked() -> str:
    """Check the compiled files independently, and what they assume."""
    report = run("coqchk", "-silent", "-o", "-Q", ".", PREFIX, *(f"{PREFIX}.{module}" for module in sources()), errors=True)
    parts = dict(re.findall(r"^\* ([^:\n]+):\s*(.*?)(?=^\* |\Z)", report, re.MULTILINE | re.DOTALL))
    allowed = set((FOLDER / "axioms.txt").read_text().split())
    found = set(parts.get("Axioms", "").split())
    if not report.strip() or "Axioms" not in parts:
        raise CheckError(f"coqchk's report is not understood:\n{report}")
    if found - allowed:
        raise CheckError(f"axioms that axioms.txt does not list: {', '.join(sorted(found - allowed))}")
    for part in ("type-in-type", "unsafe (co)fixpoints", "positivity is assumed"):
        told = [text for title, text in parts.items() if part in title]
        if len(told) != 1 or told[0].strip() != "<none>":
            raise CheckError(f"coqchk on {part}: {told}")
    return f"{len(found)} axioms, all of them listed"


def printed() -> str:
    """The statements, the definitions they rest on and the axioms that they use, as Coq prints them."""
    imports = re.findall(r"^From .*?\.$", text_of("Statements"), re.MULTILINE | re.DOTALL)
    lines = [*imports, f"From {PREFIX} Require Statements.", "Open Scope R_scope.", "Set Printing Width 130."]
    lines += [f"Print {PREFIX}.{module}.{name}." for module in sources() if module != "Execute" for name in definitions(module)]
    stated = [f"{PREFIX}.Statements.{name}" for name in theorems()]
    lines += [f"Check {name}." for name in stated]
    lines += [f"Definition everything := ({', '.join(f'@{name}' for name in stated)}).", "Print Assumptions everything."]
    (FOLDER / "Pins.v").write_text("\n".join(lines) + "\n")
    text = re.sub(r"[ \t]+\n", "\n", run("coqc", "-q", "-Q", ".", PREFIX, "Pins.v"))
    axiom = rf"^((?:\w+\.)+(?:{'|'.join(name.split('.')[-1] for name in (FOLDER / 'axioms.txt').read_text().split())}))\b.*\n(?: .*\n)*"
    return re.sub(axiom, r"  \1\n", text, flags=re.MULTILINE)  # without their types


def pinned() -> str:
    """The statements are those that were pinned."""
    pinned_ = (FOLDER / "statements.txt").read_text()
    now = printed()
    if now.split() != pinned_.split():
        changed = next(a for a, b in zip([*now.splitlines(), ""], [*pinned_.splitlines(), "", ""], strict=False) if a.split() != b.split())
        raise CheckError(f"a statement, a definition or an axiom has changed, from this line on:\n{changed}\nIf that is meant: --write.")
    return f"{len(theorems())} statements"


def vectors() -> str:
    """Flocq's numbers give what the package computes."""
    from proofs.vectors import write

    examples, count = write(FOLDER / "Vectors.v")
    run("coqc", "-q", "-Q", ".", PREFIX, "Vectors.v")
    return f"{examples} examples of {count} vectors"


def planted() -> str:
    """Stronger statements do not compile."""
    with ThreadPoolExecutor(2) as pool:
        unchanged, *stronger = pool.map(survives, (UNCHANGED, *MUTANTS))
    if not unchanged:
        raise CheckError("a file fails to compile from where the mistakes are planted.")
    if any(stronger):
        raise CheckError(f"still compile: {[mutant for mutant, survivor in zip(MUTANTS, stronger, strict=True) if survivor]}")
    return f"{len(MUTANTS)} mistakes found"


CHECKS: tuple[tuple[str, Callable[[], str]], ...] = (
    ("open ends", no_open_ends),
    ("build", build),
    ("coqchk", checked),
    ("statements", pinned),
    ("vectors", vectors),
    ("planted mistakes", planted),
)


def main(arguments: Sequence[str]) -> int:
    """Run all checks and say how many theorems, examples and checks passed."""
    try:
        install()
        if "--write" in arguments:
            build()
            (FOLDER / "statements.txt").write_text(printed())
            return 0
    except CheckError as error:
        print(f"proofs: {error}", file=sys.stderr)
        return 2
    passed = failed = 0
    for name, check in CHECKS:
        try:
            told = check()
        except CheckError as error:
            failed += 1
            print(f"FAILED {name}: {error}", flush=True)
            if name == "build":
                break
        else:
            passed += 1
            print(f"passed {name}: {told}", flush=True)
            if name == "build":
                passed += sum(len(theorems(module)) for module in sources())
            if name in ("vectors", "planted mistakes"):
                passed += int(told.split()[0])
    print(f"{passed} passed, {failed} failed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
