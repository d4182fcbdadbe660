"""Batch normalisation in which every step is an operator of its own, stored in the format of its input: that of ``strict-fp16``."""

from __future__ import annotations

import torch
from torch import Tensor, nn

Norm = nn.modules.batchnorm._BatchNorm


class SteppedBatchNorm(nn.Module):
    """Normalise by the batch's mean and variance, step by step; parameters and running statistics are those of a torch module.

    The squares of deviations are stored: above 255.9 they overflow in binary16, below 2**-12.5 they become zero.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, norm: Norm) -> None:
        super().__init__()
        self.weight, self.bias = norm.weight, norm.bias
        self.eps, self.momentum = norm.eps, 0.1 if norm.momentum is None else norm.momentum
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            self.register_buffer(name, getattr(norm, name))

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised batch, (n, C, ...)."""
        dims = [0, *range(2, x.ndim)]
        shape = [1, -1, *[1] * (x.ndim - 2)]
        mean, variance = self._statistics(x, dims) if self.training else (self.running_mean.view(shape), self.running_var.view(shape))
        deviation = x - mean
        normalised = deviation * torch.rsqrt(variance + self.eps)
        return normalised * self.weight.view(shape) + self.bias.view(shape)

    def _statistics(self, x: Tensor, dims: list[int]) -> tuple[Tensor, Tensor]:
        mean = x.mean(dims, keepdim=True)
        deviation = x - mean
        variance = (deviation * deviation).mean(dims, keepdim=True)
        count = x.numel() // x.shape[1]
        with torch.no_grad():
            self._update(self.running_mean, mean)
            self._update(self.running_var, variance * (count / max(count - 1, 1)))
            self.num_batches_tracked += 1
        return mean, variance

    def _update(self, running: Tensor, now: Tensor) -> None:
        running.mul_(1 - self.momentum).add_(self.momentum * now.flatten())


def stepped(module: nn.Module) -> nn.Module:
    """Replace every batch normalisation below a module; names of parameters and buffers stay."""
    for name, child in module.named_children():
        setattr(module, name, SteppedBatchNorm(child) if isinstance(child, Norm) else stepped(child))
    return module
