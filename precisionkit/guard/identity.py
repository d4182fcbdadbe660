"""What a plan is tied to: the hash of the network, the device, and the switches that its kernels depend on."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from precisionkit.errors import UsageError
from precisionkit.report.guard import GuardPlan

_SWITCHES = {
    "cuda": (
        ("cuda.matmul", "allow_tf32"),
        ("cudnn", "allow_tf32"),
        ("cuda.matmul", "fp32_precision"),
        ("cudnn.conv", "fp32_precision"),
        ("cuda.matmul", "allow_fp16_reduced_precision_reduction"),
        ("cuda.matmul", "allow_bf16_reduced_precision_reduction"),
        ("cuda.matmul", "allow_fp16_accumulation"),
    ),
    "cpu": (("mkldnn.matmul", "fp32_precision"), ("mkldnn.conv", "fp32_precision")),
}
"""By the kind of device; torch has some of them since version 2.9."""


def network_hash(model: nn.Module) -> str:
    """SHA-256 of a network's tensors, with their names, and of the names and types of its modules.

    What a ``forward`` does beside its modules is code, which no hash of numbers tells.
    """
    digest = hashlib.sha256()
    for name, part in model.named_modules():
        digest.update(f"module {name} {type(part).__name__}\n".encode())
    for name, tensor in (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)):
        digest.update(f"tensor {name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def device_text(device: torch.device) -> str:
    """A device with the name of what computes there."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return f"{device.type} ({name})"


def switches(device: torch.device) -> dict[str, bool | str]:
    """Torch's switches that a device's kernels depend on."""
    return {f"{owner}.{name}": value for owner, name in _SWITCHES[device.type] if (value := _switch(owner, name)) is not None}


def _switch(owner: str, name: str) -> bool | str | None:
    """A switch; None where this torch has none of the name."""
    held: Any = torch.backends
    try:
        for part in (*owner.split("."), name):
            held = getattr(held, part)
    except AttributeError:
        return None
    except RuntimeError:  # it was set by its old and by its new name, which torch does not bring together
        return "mixed"
    return "ieee" if held == "none" else held if isinstance(held, str) else bool(held)


def check_switches(flags: Mapping[str, bool | str], device: torch.device) -> None:
    """Refuse switches that are not those of a plan; read at every run, as they may be set at any time.

    Raises
    ------
    UsageError
        With the first that differs.
    """
    found = switches(device)
    for name in sorted({*flags, *found}):
        if flags.get(name) != found.get(name):
            raise UsageError(
                f"The plan was made with torch.backends.{name} = {flags.get(name, 'unset')}, but here it is {found.get(name, 'unset')}: "
                "set it as it was, or calibrate again."
            )


@contextmanager
def as_written() -> Iterator[None]:
    """Run a network in the formats that it has, without gradients and whatever ``torch.autocast`` stands around it."""
    with torch.no_grad(), torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
        yield


def device_of(model: nn.Module) -> torch.device:
    """Where a module's tensors lie; the CPU for one without."""
    tensors = (*model.parameters(), *model.buffers())
    return tensors[0].device if tensors else torch.device("cpu")


def check_same(plan: GuardPlan, model: nn.Module) -> None:
    """Refuse a network, a device or switches that a plan was not made for.

    Raises
    ------
    UsageError
        With what differs.
    """
    found, again = network_hash(model), "a threshold holds for what it was calibrated on, so calibrate again with 'precisionkit guard'"
    if found != plan.weights:
        raise UsageError(f"The plan belongs to a network with the hash {plan.weights[:12]}, but this one has {found[:12]}: {again}.")
    device = device_of(model)
    if device_text(device) != plan.device:
        raise UsageError(f"The plan was made on {plan.device}, but the model is on {device_text(device)}: {again} there.")
    check_switches(plan.flags, device)
