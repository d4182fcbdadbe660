"""``python -m tests.agreement``: where torch's kernels on this CPU agree with reference runs, bit for bit, and where they do not.

Sums of 32 random products are compared with the sum along the tree that the probe reveals, and with sequential and pairwise sums.
"""

from __future__ import annotations

import torch

from precisionkit import operations
from precisionkit.arithmetic import Order
from precisionkit.formats import BFLOAT16, BINARY16, BINARY32, Format
from precisionkit.ops._store import DTYPES
from precisionkit.probe import torch_kernels
from precisionkit.probe.tree import fold_along, meetings

TERMS, ROWS = 32, 496
"""As many rows as the probe sends, since kernels choose their tree by shape."""


def along(found, a, b, *, fused: bool) -> torch.Tensor:
    """The sum along a revealed tree in binary32; fused, a product is rounded together with the sum that it joins."""

    def value(x):
        return operations.multiply(*x, BINARY32) if isinstance(x, tuple) else x

    def add(x, y):
        if fused and isinstance(x, tuple) and not isinstance(y, tuple):
            x, y = y, x
        if fused and isinstance(y, tuple):
            return operations.fma(*y, value(x), BINARY32)
        return operations.add(value(x), value(y), BINARY32)

    leaves = [(a[:, k, None].double(), b[k].double().expand(len(a), 1)) for k in range(TERMS)]
    return value(fold_along(found, leaves, add))


def cancelling(storage: Format) -> tuple[torch.Tensor, torch.Tensor]:
    """Random terms, and a last one that takes the rounded sum of the others away: the last bits of the accumulator show."""
    dtype = DTYPES[storage]
    rng = torch.Generator().manual_seed(1)
    a, b = (torch.randn(shape, generator=rng).to(dtype).float() for shape in ((ROWS, TERMS), (TERMS, 1)))
    b[-1] = 1.0
    a[:, -1] = -(a[:, :-1].double() @ b[:-1].double())[:, 0].float().to(dtype).float()
    return a, b


def main() -> None:
    """Print shares of results that agree."""
    print(
        f"{'':<8}{'kernel':<14}{'tree':>10}{'with FMA':>10}{'sequential':>12}{'pairwise':>10}   share of {ROWS} sums of {TERMS} that agree, bit for bit"
    )
    for storage in (BINARY16, BFLOAT16, BINARY32):
        kernels = torch_kernels(torch.device("cpu"), storage)
        a, b = cancelling(storage)
        products = [a[:, k, None] * b[k] for k in range(TERMS)]
        for name, dot in kernels.dots.items():
            got, found = dot(a, b), meetings(dot, storage, TERMS)
            sums = [None if found is None else along(found, a, b, fused=fused).float() for fused in (False, True)]
            sums += [Order(order).fold(products, torch.add) for order in ("sequential", "pairwise")]
            shares = [None if s is None else (s.to(DTYPES[storage]).float() == got).float().mean().item() for s in sums]
            told = ["no tree" if share is None else f"{100 * share:.1f} %" for share in shares]
            print(f"{storage.option:<8}{name:<14}{told[0]:>10}{told[1]:>10}{told[2]:>12}{told[3]:>10}")


if __name__ == "__main__":
    main()
