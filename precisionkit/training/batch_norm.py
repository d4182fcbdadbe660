"""Batch normalisation in which every step is an operator of its own, stored in the format of its input: that of ``strict-fp16``."""

from __future__ import annotations

import torch
from torch import Tensor, nn

Norm = nn.modules.batchnorm._BatchNorm


class SteppedBatchNorm(nn.Module):
    """Normalise by the batch's mean and variance, step by step; parameters and running statistics are those of a torch module.

    The squares of deviations are stored: from 256 on they overflow in binary16, up to 2**-12.5 they become zero.
    """

    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None

    def __init__(self, norm: Norm) -> None:
        super().__init__()
        self.weight, self.bias = norm.weight, norm.bias
        self.eps, self.momentum = norm.eps, 0.1 if norm.momentum is None else norm.momentum
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            self.register_buffer(name, getattr(norm, name))

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised batch, (n, C, ...)."""
        shape = [1, -1, *[1] * (x.ndim - 2)]
        if self.training or self.running_mean is None or self.running_var is None:
            mean, variance = statistics(x)
        else:
            mean, variance = self.running_mean.view(shape), self.running_var.view(shape)
        if self.training:
            self._follow(mean, variance, x.numel() // x.shape[1])
        normalised = (x - mean) * torch.rsqrt(variance + self.eps)
        return normalised if self.weight is None else normalised * self.weight.view(shape) + self.bias.view(shape)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Move the running statistics, where there are some, towards those of a batch with `count` numbers in a channel."""
        if self.running_mean is not None and self.running_var is not None:
            self._update(self.running_mean, mean)
            self._update(self.running_var, variance * (count / max(count - 1, 1)))
        if self.num_batches_tracked is not None:
            self.num_batches_tracked += 1

    def _update(self, running: Tensor, now: Tensor) -> None:
        running.mul_(1 - self.momentum).add_(self.momentum * now.flatten())


def statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of a batch, (1, C, 1, ...), each step stored in its format."""
    dims = [0, *range(2, x.ndim)]
    mean = x.mean(dims, keepdim=True)
    deviation = x - mean
    return mean, (deviation * deviation).mean(dims, keepdim=True)


def stepped(module: nn.Module) -> nn.Module:
    """Replace every batch normalisation below a module; names of parameters and buffers stay."""
    for name, child in module.named_children():
        setattr(module, name, SteppedBatchNorm(child) if isinstance(child, Norm) else stepped(child))
    return module
