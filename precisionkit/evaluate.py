"""Runs of a program: the same graph in binary32, in emulated or native half precision, or bit-exact by definition."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from precisionkit.arithmetic import ANY, REFERENCE, Arithmetic, Order
from precisionkit.errors import UnusableDataError, UnusableModelError, UsageError
from precisionkit.formats import BINARY16, BINARY32, Format
from precisionkit.graph import Graph, Node, interpret
from precisionkit.mixed import CAST, NOTHING, Keep, mixed
from precisionkit.ops import run_rounded
from precisionkit.ops._store import DTYPES, store

_SWITCHES = threading.RLock()
"""Held by the thread that has set torch's switches; of the module, since a lock cannot be copied or pickled."""
P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Program:
    """A network together with an arithmetic: the constants are rounded to the storage format.

    Attributes
    ----------
    graph : Graph
    arithmetic : Arithmetic
    constants : mapping of str to tensor
        Numbers of the storage format, or of binary32 where kept nodes read them, carried in binary32.
    wide : frozenset of str
        Nodes, constants, and perhaps the input, that are kept in binary32.
    wide_sums : frozenset of str
        Nodes of which the sums alone are.
    """

    graph: Graph
    arithmetic: Arithmetic
    constants: Mapping[str, Tensor]
    wide: frozenset[str] = frozenset()
    wide_sums: frozenset[str] = frozenset()

    @cached_property
    def unstored(self) -> frozenset[str]:
        """Nodes whose results stay in the format that they were computed in."""
        return self._chains | self.graph.hidden

    @cached_property
    def _chains(self) -> frozenset[str]:
        """Nodes inside of fused chains, whose links are all of one format."""
        if not self.arithmetic.fused:
            return frozenset()
        links = ((name, node.name) for node in self.graph.nodes for name in node.operands if name is not None)
        apart = {name for name, reader in links if (name in self.wide) != (reader in self.wide)}
        return self.graph.inside_chains - apart

    def arithmetic_of(self, node: Node) -> Arithmetic:
        """Return the arithmetic that a node computes in."""
        if node.name in self.wide:
            return REFERENCE
        if node.name in self.wide_sums:
            return replace(self.arithmetic, accumulate=BINARY32)
        return self.arithmetic

    def format_of(self, name: str) -> Format:
        """Return the format of a value or of a constant."""
        return BINARY32 if name in self.wide else self.arithmetic.storage

    def stores(self, node: Node) -> bool:
        """Whether a node's result is rounded to the storage format."""
        return node.record.stores and node.name not in self.unstored

    @classmethod
    def of(cls, graph: Graph, arithmetic: Arithmetic, device: torch.device | str = "cpu", keep: Keep = NOTHING) -> Program:
        """Round the network's constants.

        Raises
        ------
        UnusableModelError
            A constant lies beyond the range of the storage format.
        UsageError
            Something is to be kept that the network does not have.
        """
        graph, wide = (made := mixed(graph, keep)).graph, made.wide
        constants = {
            name: store(value.to(device), BINARY32 if name in wide else arithmetic.storage) for name, value in graph.constants.items()
        }
        for name, value in constants.items():
            check_stored(name, graph.constants[name].to(value.device), value, arithmetic.storage)
        return cls(graph, arithmetic, constants, wide, keep.sums - wide)

    def inputs(self, images: Tensor, first_index: int = 0) -> Tensor:
        """Round a batch of binary32 inputs to the storage format, carried in binary32.

        Raises
        ------
        UnusableDataError
            An input lies beyond the range of the format.
        """
        if not images.is_floating_point():  # tokens are no numbers to round
            return images
        stored = store(images, self.format_of(self.graph.input))
        outside = ~stored.isfinite().flatten(1).all(1)
        if outside.any():
            row = int(outside.nonzero()[0])
            fmt = self.format_of(self.graph.input)
            raise UnusableDataError(
                f"Input {first_index + row} holds the value {float(images[row].abs().max()):g}, beyond {fmt.max:g}, the largest number of "
                f"{fmt.name}; rescale the data (--normalize) or choose --storage bf16."
            )
        return stored


@dataclass(frozen=True)
class Run:
    """What one execution gave.

    Attributes
    ----------
    logits : (batch, classes) binary64 tensor on the CPU
    finite : (batch,) bool tensor
        False where any stored value was infinite or NaN.
    """

    logits: Tensor
    finite: Tensor


def check_stored(name: str, given: Tensor, stored: Tensor, storage: Format) -> None:
    """Refuse a tensor of a network that a storage format cannot hold.

    Raises
    ------
    UnusableModelError
        A number lies beyond the range of the format.
    """
    if not (stored.isfinite() | (given == -torch.inf)).all():  # masks hold minus infinity on purpose
        worst = float(given[given != -torch.inf].abs().max())
        raise UnusableModelError(
            f"The tensor '{name}' holds the value {worst:g}, beyond {storage.max:g}, the largest number of {storage.name}; "
            "the half program cannot be built: choose --storage bf16 or rescale the layer."
        )


def untraced(function: Callable[P, T]) -> Callable[P, T]:
    """Have torch.compile call a function as it is: one that sets switches or depends on numbers cannot be traced."""
    called: Callable[P, T] = torch.compiler.disable(function)
    return called


RunNode = Callable[[Node, tuple[Any, ...]], Tensor]


def _fast(program: Program) -> RunNode:
    """Every operator by torch's binary32 kernels, then one store: a run of ``storage/fp32-any``."""

    def run_node(node: Node, operands: tuple[Any, ...]) -> Tensor:
        result = node.record.apply(node.attributes, *operands)
        return store(result, program.arithmetic_of(node).storage) if program.stores(node) else result

    return run_node


def _reference(program: Program, order: Order) -> RunNode:
    """Bit-exact by definition: dot products in the order given, everything else rounded once to the internal format."""
    kept = order if order.is_tree else Order("sequential")

    def run_node(node: Node, operands: tuple[Any, ...]) -> Tensor:
        arithmetic = replace(program.arithmetic_of(node), order=kept if node.name in program.wide else order)
        result = run_rounded(node.record, arithmetic, node.attributes, *operands)
        return store(result, arithmetic.storage) if program.stores(node) else result

    return run_node


def native_node(program: Program) -> RunNode:
    """The device's own kernels, in the dtype of each node's format."""

    def run_node(node: Node, operands: tuple[Any, ...]) -> Tensor:
        dtype = DTYPES[program.format_of(node.name)]
        given = [x.to(dtype) if isinstance(x, Tensor) and x.is_floating_point() else x for x in operands]
        with _long_sums() if node.name in program.wide_sums else nullcontext():
            return node.record.apply(node.attributes, *given)

    return run_node


@contextmanager
def _long_sums() -> Iterator[None]:
    """Have CUDA's matrix products accumulate in binary32 even where binary16 is allowed."""
    products = torch.backends.cuda.matmul
    allowed = getattr(products, "allow_fp16_accumulation", False)
    if allowed:
        products.allow_fp16_accumulation = False
    try:
        yield
    finally:
        if allowed:
            products.allow_fp16_accumulation = True


def has_fast_run(arithmetic: Arithmetic) -> bool:
    """Whether torch's kernels are runs of the arithmetic: they sum in binary32 in an order of their own."""
    return arithmetic.accumulate == BINARY32 and (arithmetic.order == ANY or arithmetic.order.other_cores)


def execute(
    program: Program,
    inputs: Tensor,
    *,
    native: bool = False,
    emulate: Order | None = None,
    observe: Callable[[Node, Tensor], None] | None = None,
) -> Run:
    """Run a batch.

    Parameters
    ----------
    inputs : (batch, ...) binary32 tensor
        Numbers of the storage format, as `Program.inputs` gives them.
    native : bool
        Use the device's half kernels instead of binary32 kernels and one rounding.
    emulate : Order or None
        Sum dot products in this order, bit-exact by definition, as `permitted` says.  None takes torch's kernels where they are
        runs of the arithmetic, else its own order.
    observe : callable or None
        Called with every node and its stored result.
    """
    arithmetic = program.arithmetic
    fast = has_fast_run(arithmetic) and emulate is None
    run_node = native_node(program) if native else _fast(program) if fast else _reference(program, emulate or arithmetic.order)
    constants = {name: value.to(_dtype(program, name, native=native)) for name, value in program.constants.items()}
    finite = torch.ones(inputs.shape[0], dtype=torch.bool, device=inputs.device)

    def watched(node: Node, operands: tuple[Any, ...]) -> Tensor | None:
        nonlocal finite
        if node.record.hidden:
            return None
        result = run_node(node, operands)
        if node.record.stores:
            hidden = operands[0] == -torch.inf if node.operator == CAST else torch.zeros_like(result, dtype=torch.bool)
            finite = finite & (result.isfinite() | hidden).flatten(1).all(1)
        if observe is not None:
            observe(node, result)
        return result

    with torch.no_grad():
        start = inputs.to(_dtype(program, program.graph.input, native=native)) if inputs.is_floating_point() else inputs
        logits = interpret(program.graph, start, constants, watched)
    return Run(logits.cpu().double(), finite.cpu())


def _dtype(program: Program, name: str, *, native: bool) -> torch.dtype:
    """In which a value is carried."""
    return DTYPES[program.format_of(name)] if native else torch.float32


@contextmanager
def ieee_binary32() -> Iterator[None]:
    """Have torch multiply binary32 numbers in binary32, not in TF32 or bfloat16, whatever the user has allowed; restored behind.

    Raises
    ------
    UsageError
        Subnormal numbers are flushed, or a switch is set that cannot be put aside.
    """
    if torch.tensor(2.0**-149, dtype=torch.float32, device="cpu") * 1 == 0:
        raise UsageError("torch flushes subnormal numbers to zero, which no bound here covers; call torch.set_flush_denormal(False).")
    for name in ("ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE"):
        if (mode := os.environ.get(name, "STRICT")).upper() != "STRICT":
            raise UsageError(f"{name}={mode} lets binary32 products be computed in a shorter format; unset it.")
    convolutions = getattr(torch.backends.mkldnn, "conv", None)  # since torch 2.9
    allowed = getattr(convolutions, "fp32_precision", None)
    try:
        before = torch.get_float32_matmul_precision()
    except RuntimeError as error:
        raise UsageError(
            "torch's precision of binary32 products was set through its old and through its new interface, and cannot be restored; "
            "call torch.set_float32_matmul_precision('highest') first."
        ) from error
    torch.set_float32_matmul_precision("highest")
    try:
        if convolutions is not None and allowed is not None:
            convolutions.fp32_precision = "ieee"
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            yield
    finally:
        if convolutions is not None and allowed is not None:
            convolutions.fp32_precision = allowed
        torch.set_float32_matmul_precision(before)


@contextmanager
def device_flags(arithmetic: Arithmetic) -> Iterator[dict[str, bool]]:
    """Set torch's switches so that CUDA kernels obey the arithmetic, and restore them; yields what was set.

    No TF32 anywhere, no partial sums rounded to half, binary16 accumulation only where it is asked for.  The switches are the process's,
    so a thread waits until no other has set them.
    """
    half_sums = arithmetic.accumulate == BINARY16  # sums in binary64 or bfloat16 are no reason to allow them
    wanted = {
        ("cuda.matmul", "allow_tf32"): False,
        ("cudnn", "allow_tf32"): False,
        ("cuda.matmul", "allow_fp16_reduced_precision_reduction"): False,
        ("cuda.matmul", "allow_bf16_reduced_precision_reduction"): False,
        ("cuda.matmul", "allow_fp16_accumulation"): half_sums,
        ("cudnn", "benchmark"): False,
        ("cudnn", "deterministic"): True,
    }
    owners = {"cuda.matmul": torch.backends.cuda.matmul, "cudnn": torch.backends.cudnn}
    present = {key: value for key, value in wanted.items() if hasattr(owners[key[0]], key[1])}
    with _SWITCHES, ieee_binary32():
        before = {key: getattr(owners[key[0]], key[1]) for key in present}
        try:
            for (owner, name), value in present.items():
                setattr(owners[owner], name, value)
            yield {f"{owner}.{name}": value for (owner, name), value in present.items()}
        finally:
            for (owner, name), value in before.items():
                setattr(owners[owner], name, value)
