"""Several processes that train one network, started by ``torchrun``: each takes its share of every batch; gradients are averaged."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class Team:
    """The processes of a run.

    Attributes
    ----------
    rank, world : int
        Number of this process; how many there are.
    device : torch.device
        This process's own.
    """

    rank: int
    world: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes files and talks."""
        return self.rank == 0

    def wrapped(self, module: nn.Module) -> nn.Module:
        """Return what is called in training: gradients are averaged over the processes in its backward pass."""
        return module if self.world == 1 else DistributedDataParallel(module)

    def total(self, value: Tensor) -> Tensor:
        """Sum a tensor over the processes."""
        if self.world > 1:
            dist.all_reduce(value)
        return value


@contextmanager
def team(device: str) -> Iterator[Team]:
    """Join the processes that torchrun started, by gloo on CPUs and NCCL on GPUs; alone without torchrun."""
    world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    if world == 1:
        yield Team(0, 1, torch.device(device))
        return
    local = int(os.environ.get("LOCAL_RANK", "0"))
    own = torch.device("cuda", local) if device.startswith("cuda") else torch.device(device)
    dist.init_process_group("nccl" if own.type == "cuda" else "gloo")
    try:
        yield Team(rank, world, own)
    finally:
        dist.destroy_process_group()
