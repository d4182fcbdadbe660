"""What a plan is tied to: the hash of the network, the device, and the switches that its kernels depend on."""

from __future__ import annotations

import hashlib
import platform

import torch
from torch import nn

from precisionkit.errors import UsageError
from precisionkit.report.guard import GuardPlan

_SWITCHES = (
    ("cuda.matmul", "allow_tf32"),
    ("cudnn", "allow_tf32"),
    ("cuda.matmul", "allow_fp16_reduced_precision_reduction"),
    ("cuda.matmul", "allow_bf16_reduced_precision_reduction"),
    ("cuda.matmul", "allow_fp16_accumulation"),
)


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


def switches(device: torch.device) -> dict[str, bool]:
    """Torch's switches that the kernels of a GPU depend on; none of other devices."""
    if device.type != "cuda":
        return {}
    owners = {"cuda.matmul": torch.backends.cuda.matmul, "cudnn": torch.backends.cudnn}
    return {f"{owner}.{name}": bool(getattr(owners[owner], name)) for owner, name in _SWITCHES if hasattr(owners[owner], name)}


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
    for name, value in switches(device).items():
        if plan.flags.get(name, value) != value:
            raise UsageError(
                f"The plan was made with torch.backends.{name} = {plan.flags[name]}, but here it is {value}: set it as it was, or "
                "calibrate again."
            )
