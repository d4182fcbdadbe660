"""``python -m tests.contracts``: how much of its contract each elementary function uses, on every number of the half formats.

torch's binary32 kernels, on some numbers of binary32 as well, and its kernels for halves on this CPU; on contiguous tensors and on
strided ones, which take other code paths; against Arb with 256 bits.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from precisionkit import contracts
from precisionkit.arithmetic import Arithmetic
from precisionkit.bound.interval import stored
from precisionkit.contracts import Contract
from precisionkit.enclosure import Enclosure
from precisionkit.formats import BFLOAT16, BINARY16, BINARY32, Format
from precisionkit.ops import BY_NAME
from precisionkit.ops._store import DTYPES, parameter_error, store_error
from precisionkit.truth import Arb

FORMATS = (BINARY16, BFLOAT16, BINARY32)
DRAWN = 2**15
"""Random encodings of binary32."""


@dataclass(frozen=True)
class Use:
    """A function under a contract, with its attributes."""

    function: str
    contract: Contract
    attributes: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return "-".join((self.function, *(f"{value}" for value in self.attributes.values())))


USES = (
    Use("sigmoid", contracts.SIGMOID),
    Use("log_sigmoid", contracts.SOFTPLUS),
    Use("softplus", contracts.SOFTPLUS),
    Use("softplus", contracts.SOFTPLUS, {"beta": 4, "threshold": 32}),
    Use("silu", contracts.SILU),
    Use("mish", contracts.MISH),
    Use("tanh", contracts.TANH),
    Use("erf", contracts.ERF),
    Use("gelu", contracts.GELU),
    Use("gelu", contracts.GELU_TANH, {"approximate": "tanh"}),
    Use("exp", contracts.EXP),
    Use("log", contracts.LOG),
    Use("sqrt", contracts.SQRT),
    Use("rsqrt", contracts.SQRT),
    Use("elu", contracts.ELU),
    Use("elu", contracts.ELU, {"alpha": 0.7}),
    Use("selu", contracts.ELU),
    Use("sin", contracts.SIN),
    Use("cos", contracts.SIN),
    Use("reciprocal", Contract(result=3)),
    Use("hardswish", Contract(result=5)),
    Use("hardsigmoid", Contract(result=4)),
    Use("leaky_relu", Contract(result=1), {"negative_slope": 0.01}),
    Use("pow", Contract(result=1), {"exponent": 2}),
)
"""The last contracts follow from IEEE 754, and stand in the records."""
POSITIVE, NOT_ZERO = ("log", "sqrt", "rsqrt"), ("reciprocal",)
PARAMETERS = ("alpha", "negative_slope")
"""Attributes that kernels round to their format."""
STORES_ON_THE_WAY = ("rsqrt",)
"""Functions whose half kernels may store an intermediate result of the same relative error."""


@dataclass(frozen=True)
class Finding:
    """What a kernel used of its contract at worst, where, and how many results were compared."""

    kernel: str
    share: float
    argument: float
    compared: int


def numbers(use: Use, fmt: Format) -> Tensor:
    """Every finite number of a half format, or some of binary32, at which the function is defined."""
    bits, whole = (32, torch.int32) if fmt == BINARY32 else (16, torch.int16)
    every = torch.arange(-(2 ** (bits - 1)), 2 ** (bits - 1), max(1, 2**bits // DRAWN) if bits == 32 else 1)
    if bits == 32:  # the significands at random
        every = every + torch.randint(2**bits // DRAWN, every.shape, generator=torch.Generator().manual_seed(0))
    x = every.to(whole).view(DTYPES[fmt])
    x = x[x.isfinite()]
    return x[x > 0] if use.function in POSITIVE else x[x != 0] if use.function in NOT_ZERO else x


def exact_values(use: Use, x: Tensor) -> Tensor:
    """Arb's values, rounded to binary64, which is 2**-29 of binary32's unit roundoff."""
    arb = Arb(256)
    with arb.working():
        balls = BY_NAME[use.function].exact(arb, use.attributes, arb.array(x))
        values = torch.tensor([float(ball.mid()) for ball in balls], dtype=torch.float64)
        radii = torch.tensor([float(ball.rad()) for ball in balls], dtype=torch.float64)
    # cancelled digits are lost to the argument or to a one that is added: less than any contract allows
    assert (radii <= 2.0**-100 * (values.abs() + x.double().abs()) + 2.0**-200)[values.isfinite()].all()
    return values


def allowance(use: Use, storage: Format, x: Tensor, exact: Tensor) -> Tensor:
    """The contract's bound in binary32, as its sentence says it, and what is said beside it."""
    v, contract = BINARY32.unit_roundoff, use.contract
    relative = contract.result * v + (1.01 * storage.unit_roundoff if use.function in STORES_ON_THE_WAY and storage != BINARY32 else 0.0)
    for value in (torch.tensor(float(use.attributes[name]), dtype=torch.float64) for name in PARAMETERS if name in use.attributes):
        relative += float(parameter_error(storage, BINARY32, value) / value)
    constant = contract.absolute * v + contract.offset + BINARY32.smallest_normal
    return relative * exact.abs() + contract.argument * v * x.abs() + constant


def runs(use: Use, x: Tensor) -> Iterator[tuple[str, Format, Tensor]]:
    """Results of kernels, with the format that they are stored in."""
    for fmt in dict.fromkeys((BINARY32, next(f for f in FORMATS if DTYPES[f] == x.dtype))):
        given = x.to(DTYPES[fmt])
        scattered = torch.stack([given, given], 1)[:, 0]
        for way, operand in (("", given), (", strided", scattered)):
            yield f"{fmt.name}{way}", fmt, BY_NAME[use.function].apply(use.attributes, operand).double()


def findings(use: Use, fmt: Format) -> Iterator[Finding]:
    """Compare all kernels on the numbers of a format; where overflow is not excluded, nothing is claimed."""
    held = numbers(use, fmt)
    x = held.double()
    exact = exact_values(use, x)
    for kernel, storage, result in runs(use, held):
        arithmetic = Arithmetic(storage, BINARY32)
        rule = BY_NAME[use.function].error_rule(arithmetic, use.attributes, Enclosure.exact(x[:, None]))
        claimed = stored(arithmetic, rule).excluded
        allowed = allowance(use, storage, x, exact)
        off = (result - exact).abs()
        if storage != BINARY32:
            off = (off - store_error(storage, exact.abs() + allowed)).clamp_min(0)
        share = torch.where(claimed, (off / allowed).nan_to_num(torch.inf, torch.inf), 0.0)
        worst = int(share.argmax())
        yield Finding(f"{kernel} on {fmt.name}" if storage != fmt else kernel, float(share[worst]), float(x[worst]), int(claimed.sum()))


def main(names: list[str]) -> None:
    """Print a table."""
    print(f"{'function':<18}{'kernel':<33}{'results':>9}{'share of the contract':>23}   at")
    for use in (u for u in USES if not names or u.function in names):
        for found in (f for fmt in FORMATS for f in findings(use, fmt)):
            print(f"{use!s:<18}{found.kernel:<33}{found.compared:>9,}{found.share:>23.3f}   {found.argument:.8g}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
