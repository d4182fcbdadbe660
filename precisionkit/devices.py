"""Devices, by the names that torch gives them."""

from __future__ import annotations

import re

import torch

from precisionkit.errors import UsageError


def find_device(name: str) -> torch.device:
    """Find a device that is there.

    Raises
    ------
    UsageError
        The name is not one of cpu, cuda, cuda:N and mps, or torch cannot use the device here.
    """
    if re.fullmatch(r"cpu|cuda(:\d+)?|mps", name) is None:
        raise UsageError(f"The device '{name}' is not supported; choose cpu, cuda, cuda:N or mps.")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch raises each of them, by device and build
        why = str(error).splitlines()[0].split(". ")[0][:120].rstrip(".")
        raise UsageError(f"The device '{name}' cannot be used here ({why}); choose --device cpu.") from error
    return device
