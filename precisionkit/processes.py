"""Several processes that share one piece of work, started by ``torchrun``."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Processes:
    """The processes as one of them sees them.

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

    def wait(self) -> None:
        """Wait for the others."""
        if self.world > 1:
            dist.barrier()

    def total(self, value: Tensor) -> Tensor:
        """Sum a tensor on the CPU over the processes."""
        if self.world > 1:
            dist.all_reduce(value)
        return value

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Average tensors over the processes in place, each divided before the sum, those of one format in one piece and in their order."""
        if self.world == 1:
            return
        groups: dict[torch.dtype, list[Tensor]] = {}
        for tensor in tensors:
            groups.setdefault(tensor.dtype, []).append(tensor)
        for group in groups.values():
            flat = torch.cat([tensor.flatten() for tensor in group]).div_(self.world)
            dist.all_reduce(flat)
            for tensor, part in zip(group, flat.split([tensor.numel() for tensor in group]), strict=True):
                tensor.copy_(part.view_as(tensor))

    def follow(self, tensors: Iterable[Tensor]) -> None:
        """Take the first process's tensors, in place."""
        if self.world > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)


ALONE = Processes(0, 1, torch.device("cpu"))


@contextmanager
def join_processes(device: str) -> Iterator[Processes]:
    """Join the processes that torchrun started, by gloo on CPUs, and by NCCL between GPUs; alone without torchrun.

    Parameters
    ----------
    device : str
        ``cpu`` or ``cuda``; each process gets a GPU of its own.
    """
    world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    if world == 1:
        yield Processes(0, 1, torch.device(device))
        return
    own = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if device == "cuda" else torch.device(device)
    if own.type == "cuda":
        torch.cuda.set_device(own)
    dist.init_process_group("cpu:gloo,cuda:nccl" if own.type == "cuda" else "gloo")
    try:
        yield Processes(rank, world, own)
        dist.barrier()  # one that leaves while another still works can be aborted in its exit
    finally:
        dist.destroy_process_group()


def leave(code: int) -> NoReturn:
    """End this process; one of several without finalising its interpreter.

    A thread of gloo that lets go of its last tensor needs the interpreter's lock; where the interpreter is ending, asking for it aborts
    the process (``terminate called without an active exception``), and torchrun calls a run failed that has done all its work.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        sys.exit(code)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
