"""The half program of a plan as a torch module: what was certified, run by the device's own kernels."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Self

import msgspec
import torch
from torch import Tensor, nn

from precisionkit.arithmetic import REFERENCE, Arithmetic, parse_arithmetic
from precisionkit.capture import capture
from precisionkit.errors import ReportError, UnsupportedArithmeticError, UnusableDataError, UnusableModelError, UsageError, shown
from precisionkit.evaluate import Program, device_flags, has_fast_run, native_node, untraced
from precisionkit.formats import BINARY16, BINARY32
from precisionkit.graph import Graph, Node, fingerprint, interpret
from precisionkit.mixed import Keep
from precisionkit.models import LoadedModel
from precisionkit.ops._store import DTYPES
from precisionkit.probe import contradiction, torch_kernels
from precisionkit.report.plan import Plan
from precisionkit.report.read import UNREADABLE, another_kind


class Patched(nn.Module):
    """Half kernels, and binary32 ones for what a plan keeps; takes binary32 inputs and gives binary32 logits.

    Parameters
    ----------
    program : Program
        Its constants become buffers of their own formats.
    probe : bool
        Try before the first batch on a device whether its kernels obey the arithmetic, and refuse if they do not.
    """

    def __init__(self, program: Program, *, probe: bool = True) -> None:
        super().__init__()
        self._probe = probe
        nodes = tuple(replace(node, attributes=dict(node.attributes)) for node in program.graph.nodes)  # that can be pickled
        self._program = replace(program, graph=replace(program.graph, nodes=nodes, constants={}), constants={})
        self._places = {name: f"constant_{place}_{re.sub(r'[^0-9A-Za-z]', '_', name)}" for place, name in enumerate(program.constants)}
        for name, place in self._places.items():
            self.register_buffer(place, program.constants[name].to(DTYPES[program.format_of(name)]))
        self.eval()

    @untraced
    def forward(self, x: Tensor) -> Tensor:
        """Run a batch.

        Raises
        ------
        UnusableDataError
            The inputs have another shape than those that the plan was made for, or are no numbers where it takes such, or tokens.
        UnsupportedArithmeticError
            The device's kernels are seen to break the plan's arithmetic, or are those of a CPU, which sum in binary32 in an order of
            their own, where the arithmetic sums otherwise.
        """
        program, arithmetic = self._program, self._program.arithmetic
        self._check_inputs(x)
        if x.device.type == "cpu" and not has_fast_run(arithmetic):
            raise UnsupportedArithmeticError(
                f"The kernels of this CPU sum in binary32 in an order of their own, which is no run of {arithmetic.name}: move the model "
                "to a GPU that obeys it, or make a plan for --accumulate fp32 and --order any."
            )
        start = x if program.graph.tokens else x.to(DTYPES[program.format_of(program.graph.input)])
        constants = {name: getattr(self, place) for name, place in self._places.items()}
        with torch.no_grad(), device_flags(arithmetic):
            if self._probe:
                self._check_kernels(x.device)
            logits: Tensor = interpret(program.graph, start, constants, self._node)
        return logits.float()

    def _check_kernels(self, device: torch.device) -> None:
        """Refuse a device whose kernels are seen to break the arithmetic of the plan, or binary32 where some node is kept."""
        program = self._program
        for arithmetic in (program.arithmetic, *([REFERENCE] if program.wide else [])):
            why = _contradiction(str(device), arithmetic)
            if why is not None:
                raise UnsupportedArithmeticError(
                    f"The kernels of {device} do not obey {arithmetic.name}: {why.rstrip('.')}. So what was certified says nothing of "
                    "them; 'precisionkit probe' tells which arithmetics they do not contradict: make a plan for one of those, with --order "
                    "and --accumulate. apply(..., probe=False) runs the plan as it is."
                )

    def _check_inputs(self, x: Tensor) -> None:
        graph = self._program.graph
        if tuple(x.shape[1:]) != graph.input_shape or not x.dim():
            raise UnusableDataError(
                f"The batch has the shape {tuple(x.shape)}, but the plan was made for (batch, {', '.join(map(str, graph.input_shape))}): "
                "give inputs of that shape, or make a plan for these."
            )
        if x.is_floating_point() == graph.tokens:
            raise UnusableDataError(
                f"The batch is of {str(x.dtype).removeprefix('torch.')}, but the plan was made for "
                f"{'integer tokens' if graph.tokens else 'numbers in binary32'}: give it those."
            )

    def _node(self, node: Node, operands: tuple[Any, ...]) -> Tensor | None:
        return None if node.record.hidden else native_node(self._program)(node, operands)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        for buffer in self.buffers():
            if fn(buffer.new_zeros(1)).dtype != buffer.dtype:
                raise UsageError(
                    "The formats of a patched model are those that were certified, and are not changed; move it by .to(device) alone."
                )
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch's own has no types
        return self


@cache
def _contradiction(device: str, arithmetic: Arithmetic) -> str | None:
    """Why the kernels of a device are no run of an arithmetic; asked once, as `certify` asks."""
    return contradiction(torch_kernels(torch.device(device), arithmetic.storage), arithmetic)


def apply(model: nn.Module | LoadedModel, plan: Plan | str | Path, *, probe: bool = True) -> Patched:
    """Patch a model: half precision everywhere but where a plan keeps binary32.

    Parameters
    ----------
    model : nn.Module or LoadedModel
        With binary32 weights, those that the plan was made for.
    plan : Plan or path
        As ``precisionkit tune --json`` writes it.
    probe : bool
        Try before the first batch on a device whether its kernels obey the plan's arithmetic, and refuse if they do not, as `certify`
        does.

    Returns
    -------
    Patched
        A module with the weights as buffers; move it to a GPU, where half kernels are fast.

    Raises
    ------
    ReportError
        The file cannot be read, or is no plan.
    UnsupportedArithmeticError
        No kernel that torch calls is a run of the plan's arithmetic: fused, or with sums that are exact, in binary64 or in bfloat16.
    UnusableModelError
        It is another network than the plan was made for, or has other weights, or its weights are not of binary32.
    PrecisionKitError
        It cannot be captured.
    """
    plan = plan if isinstance(plan, Plan) else read_plan(plan)
    module = model.module if isinstance(model, LoadedModel) else model
    _refuse_halves(module)
    graph = capture(module, plan.input_shape, torch.int64 if plan.tokens else torch.float32)
    _check_network(graph, plan)
    said = plan.arithmetic
    arithmetic = parse_arithmetic(said.storage, said.accumulate, said.order, said.fuse)
    if arithmetic.fused or arithmetic.order.is_exact:
        raise UnsupportedArithmeticError(
            f"The plan is for {arithmetic.name}, of which torch's kernels, which store every operator's result, are no runs; make one "
            "with --fuse none and another --order."
        )
    if arithmetic.accumulate not in (BINARY16, BINARY32):
        raise UnsupportedArithmeticError(
            f"The plan is for {arithmetic.name}, but torch's kernels sum in binary32, or in binary16 where that is allowed, and never in "
            f"{arithmetic.accumulate.name}; make one with --accumulate fp32."
        )
    return Patched(Program.of(graph, arithmetic, keep=Keep.of(said.kept, said.kept_sums)), probe=probe)


def _refuse_halves(model: nn.Module) -> None:
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.dtype in (torch.float16, torch.bfloat16):
            raise UnusableModelError(
                f"The tensor '{name}' of the model is of {str(tensor.dtype).removeprefix('torch.')}, but a plan is for weights of "
                "binary32, which it rounds itself: give the model as it was before it was converted."
            )


def _check_network(graph: Graph, plan: Plan) -> None:
    """Refuse another network, as far as can be told with what differs."""
    said = plan.arithmetic
    missing = sorted({*said.kept, *said.kept_sums} - {node.name for node in graph.nodes})
    if missing:
        raise UnusableModelError(
            f"The plan was made for the model '{plan.model.arch}' and keeps the node '{missing[0]}', which this one has not; run tune on "
            "this one."
        )
    if fingerprint(graph) != plan.network:
        raise UnusableModelError(
            f"The plan was made for another network than this, or for other weights (it was '{plan.model.arch}' from "
            f"{plan.model.path}), or captured by another version of torch; run tune on this one."
        )


def read_plan(path: str | Path) -> Plan:
    """Read a plan.

    Raises
    ------
    ReportError
        The file cannot be read, or is no plan of this version.
    """
    try:
        return msgspec.json.decode(Path(path).read_bytes(), type=Plan)
    except OSError as error:
        raise ReportError(f"The plan '{path}' cannot be read: {error.strerror}.") from error
    except UNREADABLE as error:
        whose = another_kind(path, "plan")
        why = f"of this version: {shown(str(error), 200)}" if whose is None else f"but {whose}"
        raise ReportError(f"The file '{path}' is no plan {why}; write one with 'precisionkit tune --json'.") from error
