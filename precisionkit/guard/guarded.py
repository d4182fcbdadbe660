"""A classifier that runs in half precision and reruns in binary32 the rows that its half run leaves open."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

from precisionkit.errors import UnusableDataError, UsageError
from precisionkit.evaluate import untraced
from precisionkit.guard.half import check_logits, half_of, margins
from precisionkit.guard.identity import Seal, check_same, check_switches, device_text, in_own_formats
from precisionkit.guard.monitor import Monitor, Statistics
from precisionkit.report.guard import GuardPlan


class GuardedHalf(nn.Module):
    """Half logits where the half margin is above a plan's threshold, binary32 logits of the other rows.

    The module is kept for the rows that fall back, beside a half copy of it, so its weights take one and a half times their memory.
    ``torch.compile`` leaves a guarded model as it is, because fused with what stands around it the half run would not be the one that was
    calibrated; a ``compiled`` one is a graph of its own, inside of a compiled model as well.

    Parameters
    ----------
    model : nn.Module
        The binary32 network of the plan, in evaluation mode, on the plan's device.
    plan : GuardPlan
    half : nn.Module or None
        The half run, where it is there already.

    Raises
    ------
    UsageError
        The plan belongs to another network, device or setting of torch's switches.
    """

    def __init__(self, model: nn.Module, plan: GuardPlan, *, half: nn.Module | None = None) -> None:
        super().__init__()
        check_same(plan, model)
        self.plan = plan
        self.half_run = half or half_of(model, plan.storage, plan.kernels, plan.input_shape, tokens=plan.tokens)
        self.reference = model
        self._monitor = Monitor(plan)
        super().train(False)
        self._seal = Seal(self)

    @property
    def statistics(self) -> Statistics:
        """What was counted since the last `reset`."""
        return self._monitor.statistics

    def reset(self) -> None:
        """Forget what was counted."""
        self._monitor.reset()

    def train(self, mode: bool = True) -> GuardedHalf:
        """Refuse training: the threshold holds for the weights as they are."""
        if mode:
            raise UsageError("A guarded model only predicts, as its threshold holds for its weights alone: train the model itself.")
        super().train(False)
        return self

    @untraced
    def forward(self, x: Tensor) -> Tensor:
        """Binary32 logits, (batch, classes); of an accepted row they are the half logits.

        Raises
        ------
        UnusableDataError
            The inputs are not of the plan's kind.
        UsageError
            One of torch's switches is not as it was, or the model itself is not.
        """
        self._check_inputs(x)
        self._check_whole()
        check_switches(self.plan.flags, x.device)
        with in_own_formats():
            return self._settled(x, *self._judged(x))

    def _check_inputs(self, x: Tensor) -> None:
        plan, wanted = self.plan, torch.int64 if self.plan.tokens else torch.float32
        if tuple(x.shape[1:]) != plan.input_shape or x.device.type != plan.device_type or x.dtype != wanted:
            raise UnusableDataError(
                f"The inputs have the shape {tuple(x.shape[1:])} and the type {x.dtype} on {x.device.type}, but the plan is for "
                f"{plan.input_shape} and {wanted} on {plan.device_type}: give such inputs, or calibrate for these."
            )

    def _check_whole(self) -> None:
        if not self._seal.whole:
            raise UsageError(
                "The guarded model was changed after it was made (weights, parts or mode), but its threshold holds for what was "
                "calibrated: load it anew with load_guarded, or calibrate again."
            )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Refuse other formats and devices before anything is changed; what was moved is the same network."""
        self._check_whole()
        for tensor in (*self.parameters(), *self.buffers()):
            made = fn(tensor.new_zeros(1))
            if made.dtype != tensor.dtype or device_text(made.device) != self.plan.device:
                raise UsageError(
                    f"A guarded model keeps its formats and stays on {self.plan.device}, but a tensor of {tensor.dtype} would become one "
                    f"of {made.dtype} on {device_text(made.device)}: calibrate for that instead."
                )
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch's own has no types
        check_same(self.plan, self.reference)
        self._seal = Seal(self)
        return self

    def __getstate__(self) -> dict[str, Any]:
        self._check_whole()  # a copy has a seal of its own, which would hide a change
        state: dict[str, Any] = super().__getstate__()  # type: ignore[no-untyped-call]  # torch's own has no types
        del state["_seal"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]  # as above
        check_same(self.plan, self.reference)  # a pickle may have come from another device
        self._seal = Seal(self)

    def _judged(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Half logits as binary32 numbers, and which rows fall back."""
        logits: Tensor = self.half_run(x)
        check_logits(logits)
        return logits.float(), ~(margins(logits) > self.plan.threshold)

    def _settled(self, x: Tensor, logits: Tensor, falls_back: Tensor) -> Tensor:
        """Rerun rows, as one batch."""
        fallen_back = falls_back.cpu()
        self._monitor.count(fallen_back.numpy())
        rows = fallen_back.nonzero().squeeze(1).to(x.device)
        if not len(rows):
            return logits
        return logits.index_copy(0, rows, self.reference(x[rows]).float())
