"""Optimizers in the network's own format: torch's, with a fixed loss scale carried through them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from precisionkit.errors import UsageError
from precisionkit.formats import BINARY32
from precisionkit.training.settings import Settings

BETAS = (0.9, 0.999)
"""Of Adam."""
ALPHA = 0.9
"""Of RMSProp: Keras's, which the published experiments used."""


def build_optimizer(settings: Settings, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Return the optimizer of a run.

    A loss that is scaled by S gives gradients scaled by S, and they are not scaled back, which would round them to zero again: in exact
    arithmetic SGD does with S g, the rate divided by S and the L2 factor multiplied by S what it does with g; Adam and RMSProp do with
    S g, S epsilon and S times the L2 factor.

    Raises
    ------
    UsageError
        Epsilon or the L2 factor, times the loss scale, is beyond the range of the format.
    """
    scale, rate, decay = settings.loss_scale, settings.learning_rate, settings.weight_decay * settings.loss_scale
    if rate / scale > BINARY32.max:
        raise UsageError(f"The learning rate {rate:g}, divided by the loss scale {scale:g}, is beyond binary32: choose a smaller one.")
    _check_range("weight_decay", decay, settings)
    if settings.optimizer == "sgd":
        kind = WideSGD if settings.formats.pure_half else torch.optim.SGD
        return kind(parameters, lr=rate / scale, momentum=settings.momentum, weight_decay=decay)
    epsilon = settings.epsilon * scale
    _check_range("epsilon", epsilon, settings)
    if settings.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=rate, betas=BETAS, eps=epsilon, weight_decay=decay)
    return torch.optim.RMSprop(parameters, lr=rate, alpha=ALPHA, eps=epsilon, weight_decay=decay)


def _check_range(name: str, value: float, settings: Settings) -> None:
    storage = settings.formats.storage
    if value > storage.max:
        raise UsageError(
            f"The setting {name}, times the loss scale {settings.loss_scale:g}, is {value:g}, more than the largest number of "
            f"{storage.name}, {storage.max:g}: choose a smaller --loss-scale."
        )


class WideSGD(torch.optim.SGD):
    """SGD whose rate and L2 factor are not rounded to the format of the weights.

    torch's rounds them, so that a small rate, or one that is divided by a loss scale, can become zero.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Take one step; each operator is stored once, as in torch's."""
        with torch.enable_grad():
            loss = None if closure is None else closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._step(weight, weight.grad, group["lr"], group["momentum"], group["weight_decay"])
        return loss

    def _step(self, weight: Tensor, change: Tensor, rate: float, momentum: float, decay: float) -> None:
        one = torch.ones((), dtype=weight.dtype, device=weight.device)
        if decay:
            change = change.addcmul(weight, one, value=decay)
        if momentum:
            buffer = self.state[weight].get("momentum_buffer")
            change = change.clone() if buffer is None else buffer.mul_(momentum).add_(change)
            self.state[weight]["momentum_buffer"] = change
        weight.addcmul_(change, one, value=-rate)
