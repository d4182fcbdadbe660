"""Devices, by the names that torch gives them."""

from __future__ import annotations

import re

import torch

from precisionkit.arithmetic import ANY, Order, parse_order
from precisionkit.errors import UnsupportedArithmeticError, UsageError
from precisionkit.formats import BFLOAT16, BINARY32, Format

_UNITS = {(7, 0): "volta", (7, 2): "volta", (8, 0): "ampere", (8, 6): "ampere", (8, 7): "ampere", (8, 9): "ada", (9, 0): "hopper"}
"""Tensor cores by compute capability; 10 and 12 are Blackwell's."""


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


def order_of(device: torch.device, storage: Format, accumulate: Format) -> Order:
    """Return the order of sums that a device is taken to keep: ``gpu:UNIT`` for half formats on NVIDIA's units that are known, else any.

    Parameters
    ----------
    storage, accumulate : Format
        Of the program.

    Raises
    ------
    UnsupportedArithmeticError
        A GPU has, or may have, tensor cores of which nothing is known: they may truncate, which no order of rounded sums covers.
    """
    if device.type != "cuda" or torch.version.hip is not None or storage == BINARY32 or accumulate != BINARY32:
        return ANY
    major, minor = torch.cuda.get_device_capability(device)
    if (major, minor) < ((8, 0) if storage == BFLOAT16 else (7, 0)):
        return ANY  # no tensor cores for the format
    unit = "blackwell" if major in (10, 12) else _UNITS.get((major, minor))
    if unit is None:
        name = f"{torch.cuda.get_device_name(device)} (compute capability {major}.{minor})"
        raise UnsupportedArithmeticError(
            f"How the tensor cores of {name} sum is not known, and tensor cores that are known truncate: name an --order that covers them "
            "(tensorcore:volta cuts most) and probe it with 'precisionkit probe', or leave out --device cuda to say what holds for kernels "
            "that round every sum."
        )
    return parse_order(f"gpu:{unit}")
