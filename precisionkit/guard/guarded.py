"""A classifier that runs in half precision and reruns in binary32 the rows that its half run leaves open."""

from __future__ import annotations

from torch import Tensor, nn

from precisionkit.errors import UnusableDataError, UsageError
from precisionkit.evaluate import untraced
from precisionkit.formats import BFLOAT16, BINARY16
from precisionkit.guard.half import check_logits, half_of, margins
from precisionkit.guard.identity import as_written, check_same, check_switches
from precisionkit.guard.monitor import Monitor, Statistics
from precisionkit.report.guard import GuardPlan

STORAGE = {"fp16": BINARY16, "bf16": BFLOAT16}


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
        self.half_run = half or half_of(model, STORAGE[plan.storage], plan.kernels, plan.input_shape, tokens=plan.tokens)
        self.reference = model
        self._monitor = Monitor(plan)
        self._device = plan.device.split(" ")[0]
        super().train(False)

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
            One of torch's switches is not as it was.
        """
        if tuple(x.shape[1:]) != self.plan.input_shape or x.device.type != self._device:
            raise UnusableDataError(
                f"The inputs have the shape {tuple(x.shape[1:])} on {x.device.type}, but the plan is for {self.plan.input_shape} on "
                f"{self._device}: give such inputs, or calibrate for these."
            )
        check_switches(self.plan.flags, x.device)
        with as_written():
            return self._settled(x, *self._judged(x))

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
