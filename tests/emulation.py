"""``python -m tests.emulation``: speed of emulated matrix products, beside a rounded loop of pychop and one of numpy's float16.

Millions of multiplications with an addition a second, one thread, the same matrices in the same run; pychop only if it is installed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np
import torch

from precisionkit.arithmetic import TENSOR_CORES, parse_arithmetic
from precisionkit.ops._runs import run_dots

SIZE = (128, 512, 256)
"""Rows, terms, columns."""


def emulated(a, b, *arithmetic: str) -> torch.Tensor:
    """By the toolkit."""
    return run_dots(parse_arithmetic(*arithmetic), torch.from_numpy(a)[None], torch.from_numpy(b)[None, None], None)[0, 0]


def numpy_loop(a, b) -> np.ndarray:
    """All in numpy's float16, sequentially."""
    left, right = a.astype(np.float16), b.astype(np.float16)
    total = left[:, :1] * right[:1]
    for k in range(1, a.shape[1]):
        total = total + left[:, k : k + 1] * right[k : k + 1]
    return total.astype(np.float32)


def pychop_loop(a, b) -> np.ndarray:
    """The same in binary32, with pychop's rounding to half behind every product and sum."""
    from pychop import Chop

    half = Chop(exp_bits=5, sig_bits=10, rmode=1)
    total = half(a[:, :1] * b[:1])
    for k in range(1, a.shape[1]):
        total = half(total + half(a[:, k : k + 1] * b[k : k + 1]))
    return np.asarray(total, dtype=np.float32)


def contenders(a, b) -> Iterator[tuple[str, Callable[[], object]]]:
    """What is timed."""
    yield "all in binary16, sequential", lambda: emulated(a, b, "fp16", "fp16", "sequential")
    yield "all in binary16, sequential, FMA", lambda: emulated_with_fma(a, b)
    yield "sums in binary32, pairwise", lambda: emulated(a, b, "fp16", "fp32", "pairwise")
    for unit in TENSOR_CORES:
        yield f"{unit.name} tensor core", lambda unit=unit: emulated(a, b, "fp16", "fp32", f"tensorcore:{unit.name}")
    yield "numpy, loop in float16", lambda: numpy_loop(a, b)
    yield "pychop, loop with rounding", lambda: pychop_loop(a, b)


def emulated_with_fma(a, b) -> torch.Tensor:
    """With products that are fused into the sums."""
    from dataclasses import replace

    from precisionkit.arithmetic import parse_run

    arithmetic = parse_arithmetic("fp16", "fp16", "sequential")
    arithmetic = replace(arithmetic, order=parse_run("sequential:fma"))
    return run_dots(arithmetic, torch.from_numpy(a)[None], torch.from_numpy(b)[None, None], None)[0, 0]


def main(write: Callable[[str], object] = print) -> None:
    """Print the table; the sequential sums in half must agree."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(shape).astype(np.float16).astype(np.float32) for shape in (SIZE[:2], SIZE[1:]))
    write(f"\n{'matrix product of ' + ' x '.join(map(str, SIZE)):<40}{'MMAC/s':>10}")
    results = {}
    for name, run in contenders(a, b):
        try:
            run()
        except ImportError:
            write(f"{name:<40}{'-':>10}  pychop is not installed")
            continue
        times = []
        for _ in range(3):
            start = time.perf_counter()
            results[name] = np.asarray(run())
            times.append(time.perf_counter() - start)
        write(f"{name:<40}{np.prod(SIZE) / min(times) / 1e6:>10.1f}")
    ours = results["all in binary16, sequential"]
    for name in ("numpy, loop in float16", "pychop, loop with rounding"):
        if name in results:
            write(f"{name}: {int((results[name] != ours).sum())} of {ours.size} results differ from ours")


if __name__ == "__main__":
    main()
