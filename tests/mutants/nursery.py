"""A process that has imported what tests need, save the package, and forks for every run of tests: seconds less each.

It is run by its path, with the folder of a copy as working directory and in PYTHONPATH.  A request is a line of JSON on its standard
input, ``{"arguments": [...], "limit": seconds}``; the answer is a line on its standard output, ``{"code": ..., "text": ...}``, with the
exit code of pytest, or null when the limit was reached.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

HEAVY = (
    "torch",
    "torch.export",
    "torch._dynamo",
    "scipy.stats",
    "scipy.integrate",
    "mpmath",
    "flint",
    "ml_dtypes",
    "hypothesis.extra.numpy",
)


def warm() -> None:
    """Import what may be imported; what is absent is the tests' business."""
    for name in HEAVY:
        with suppress(ImportError):
            importlib.import_module(name)
    ours = [name for name in sys.modules if name.partition(".")[0] in ("precisionkit", "tests")]
    if ours:
        raise RuntimeError(f"{ours[0]} was imported before the fork, and would not be the copy's.")


def run(arguments: list[str], limit: float) -> tuple[int | None, str]:
    """Run pytest in a child of its own, and return its exit code and what it printed."""
    with tempfile.TemporaryFile("w+") as output:
        child = os.fork()
        if not child:
            _be_pytest(arguments, output)
        end, code = time.monotonic() + limit, None
        while code is None and time.monotonic() < end:
            found, status = os.waitpid(child, os.WNOHANG)
            code = os.waitstatus_to_exitcode(status) if found else None
            time.sleep(0.0 if found else 0.02)
        if code is None:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        output.seek(0)
        return code, output.read()


def _be_pytest(arguments: list[str], output: IO[str]) -> None:
    code = 70
    try:
        for stream in (1, 2):
            os.dup2(output.fileno(), stream)
        import pytest

        code = int(pytest.main(arguments))
        sys.stdout.flush()
    finally:
        os._exit(code)


def main() -> None:
    sys.path[0] = str(Path.cwd())
    warm()
    for line in sys.stdin:
        request = json.loads(line)
        code, text = run(request["arguments"], request["limit"])
        print(json.dumps({"code": code, "text": text}), flush=True)


if __name__ == "__main__":
    main()
