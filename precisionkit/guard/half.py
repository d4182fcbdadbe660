"""The half run of a module, and what is read from its logits."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from precisionkit.arithmetic import parse_arithmetic
from precisionkit.capture import capture
from precisionkit.errors import UnusableModelError, UsageError
from precisionkit.evaluate import Program, check_stored, execute, untraced
from precisionkit.graph import Graph
from precisionkit.ops._store import DTYPES, store
from precisionkit.report.guard import Kernels, Storage


class NativeHalf(nn.Module):
    """A copy of a module with half weights, run by the device's half kernels."""

    def __init__(self, model: nn.Module, storage: Storage) -> None:
        super().__init__()
        held = parse_arithmetic(storage).storage
        self._dtype = DTYPES[held]
        self.model = copy.deepcopy(model).to(self._dtype).eval().requires_grad_(False)
        stored = dict(_tensors(self.model))
        for name, given in _tensors(model):
            check_stored(name, given, stored[name], held)

    def forward(self, x: Tensor) -> Tensor:
        """Half logits of a batch of binary32 inputs, or of tokens."""
        logits: Tensor = self.model(x.to(self._dtype) if x.is_floating_point() else x)
        return logits


class CompiledHalf(NativeHalf):
    """Native kernels in one graph of torch.compile, by inductor; a copy is compiled as well."""

    def __init__(self, model: nn.Module, storage: Storage) -> None:
        super().__init__(model, storage)
        self.compile()  # in place, so that the names of its tensors stay

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]  # torch's own has no types
        self.compile()  # torch leaves it out of copies, which would run other kernels than those that were calibrated


class RoundedHalf(nn.Module):
    """The captured network, run by binary32 kernels with one rounding an operator; numbers of the format carried in binary32."""

    def __init__(self, graph: Graph, storage: Storage) -> None:
        super().__init__()
        nodes = tuple(replace(node, attributes=dict(node.attributes)) for node in graph.nodes)  # that can be pickled
        self._graph = replace(graph, nodes=nodes, constants=dict(graph.constants))
        self._arithmetic = parse_arithmetic(storage)
        self._programs: dict[torch.device, Program] = {}
        self._on(torch.device("cpu"))

    def _on(self, device: torch.device) -> Program:
        if device not in self._programs:
            self._programs[device] = Program.of(self._graph, self._arithmetic, device)
        return self._programs[device]

    @untraced
    def forward(self, x: Tensor) -> Tensor:
        """Half logits of a batch of binary32 inputs, or of tokens."""
        storage = self._arithmetic.storage
        logits = execute(self._on(x.device), store(x, storage) if x.is_floating_point() else x).logits.to(x.device, torch.float32)
        for target in reversed(self._graph.removed):
            logits = store(torch.log_softmax(logits, 1) if "log_softmax" in target else torch.softmax(logits, 1), storage)
        return logits


def half_of(
    model: nn.Module, storage: Storage, kernels: Kernels, input_shape: tuple[int, ...], *, tokens: bool, graph: Graph | None = None
) -> nn.Module:
    """Build the half run of a module.

    Parameters
    ----------
    model : nn.Module
        Binary32, in evaluation mode; it is left as it is.
    storage : str
        ``fp16`` or ``bf16``.
    kernels : str
        ``native``, ``rounded`` or ``compiled``.
    input_shape : tuple of int
        Without the batch.
    tokens : bool
        Whether inputs are integer tokens.
    graph : Graph or None
        The captured network, where it is there already.

    Raises
    ------
    PrecisionKitError
        A weight lies beyond the format's range, or the network cannot be captured, which ``rounded`` needs.
    """
    check_reference(model)
    if kernels == "rounded":
        return RoundedHalf(graph or capture(model, input_shape, torch.int64 if tokens else torch.float32), storage)
    return CompiledHalf(model, storage) if kernels == "compiled" else NativeHalf(model, storage)


def check_reference(model: nn.Module) -> None:
    """Refuse a module that is not a binary32 module in evaluation mode."""
    if any(part.training for part in model.modules()):
        raise UsageError("The model is in training mode, in which dropout and batch normalisation act otherwise: call model.eval() first.")
    for name, tensor in _tensors(model):
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            raise UsageError(f"The tensor '{name}' is {tensor.dtype}, but a guard compares with a float32 model: give model.float().")


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def margins(logits: Tensor) -> Tensor:
    """Gap between the largest and the second-largest logit of each row; 0 where a logit, or the gap, is not finite."""
    numbers = logits.float()
    top = numbers.topk(2, dim=1).values
    gaps = top[:, 0] - top[:, 1]
    return torch.where(numbers.isfinite().all(1) & gaps.isfinite(), gaps, torch.zeros_like(gaps))


def check_logits(logits: Tensor) -> None:
    """Refuse what are no logits of at least two classes."""
    if logits.dim() != 2 or logits.shape[1] < 2:
        raise UnusableModelError(
            f"The model returned a tensor of shape {tuple(logits.shape)}, but a guard compares logits: it must return "
            "(batch, classes) with at least two classes."
        )
