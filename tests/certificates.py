"""Certificates of the MNIST networks, written and checked on all 10,000 test images: ``python -m tests.certificates [NAME ...]``.

Networks and images are those of `tests.bench`; `mnist_9_200` is trained, once.  Every row is two commands, ``precisionkit certify
--certificate`` and ``precisionkit check``, in processes of their own, and their seconds.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from precisionkit.checker import read

from .bench import DATA, NETWORKS, file_of, trained

HEAD = """\
| network | inputs | proved | in the certificate | checked | MB | certify s | check s |
|---|---|---|---|---|---|---|---|"""
_NAMES = [name for name, network in NETWORKS.items() if network.data == "mnist"]


def command(*arguments: object) -> tuple[float, str]:
    """Run precisionkit; its seconds and its output.  A flipped prediction makes certify end with 1."""
    start = time.perf_counter()
    made = subprocess.run([sys.executable, "-m", "precisionkit", *map(str, arguments)], check=False, stdout=subprocess.PIPE, text=True)
    assert made.returncode == 0 or (arguments[0], made.returncode) == ("certify", 1), made.returncode
    return time.perf_counter() - start, made.stdout


def row(name: str, folder: Path, limit: int | None, storage: str) -> str:
    """Write and check the certificate of one network."""
    trained(name, NETWORKS[name])
    path, report = folder / f"{name}-{storage}.cert", folder / f"{name}-{storage}.json"
    limited = [] if limit is None else ["--limit", limit]
    source = [file_of(name, NETWORKS[name]), "--arch", name, "--data", "mnist", "--data-root", DATA, "--storage", storage, *limited]
    wrote, _ = command("certify", *source, "--certificate", path, "--json", report)
    checked, said = command("check", path, "-q")
    assert "Accepted: for every input" in said, said
    held = f"{len(read(path).index):,}"
    assert f"{held} of them were checked" in " ".join(said.split()), said
    summary = json.loads(report.read_text())["summary"]
    counts = [f"{summary['inputs']:,}", f"{summary['proved']:,}", held, held]
    return f"| {name}, {storage} | {' | '.join(counts)} | {path.stat().st_size / 1e6:.1f} | {wrote:.0f} | {checked:.0f} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=_NAMES, metavar="NAME")
    parser.add_argument("--limit", type=int, metavar="N", help="the first N images")
    parser.add_argument("--storage", default="fp16")
    parser.add_argument("--folder", type=Path, default=Path("reports"), help="where the certificates are left")
    given = parser.parse_args()
    given.folder.mkdir(exist_ok=True)
    print(HEAD, flush=True)
    for name in given.names:
        print(row(name, given.folder, given.limit, given.storage), flush=True)


if __name__ == "__main__":
    main()
