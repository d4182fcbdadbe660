"""What a plan is tied to: the hash of the network, the device, and the switches that its kernels depend on."""

from __future__ import annotations

import hashlib
import platform
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from functools import partial
from types import BuiltinFunctionType, FunctionType
from typing import Any, cast

import torch
from torch import Tensor, nn

from precisionkit.errors import UsageError
from precisionkit.graph import content_hash
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
    """SHA-256 of a network: its tensors, and the names, types and settings of its modules; of an imported file its steps.

    Settings are what a module shows of itself, and its public attributes that are tensors, numbers, names or functions.  What a ``forward``
    does beside them is code, which no hash of values tells.
    """
    digest = hashlib.sha256()
    for name, part in model.named_modules():
        code = part.code if isinstance(part, torch.fx.GraphModule) else ""
        digest.update(f"module {name} {_name(type(part))} {part.extra_repr()} {code}\n".encode())
        for key, value in _settings(part).items():
            digest.update(f"setting {key} {_described(value)}\n".encode())
    for name, tensor in (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)):
        digest.update(f"tensor {name} {_described(tensor)}\n".encode())
    return digest.hexdigest()


class Seal:
    """What a module consisted of, so that a later change is seen in passing: the same parts in evaluation mode, the same numbers unwritten.

    Torch counts what is written into a tensor, but not through its ``.data``, nor into one that was made in inference mode.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model, self._parts = model, tuple(model.modules())
        self._tensors = [(place, name, tensor, _state(tensor)) for part in self._parts for place, name, tensor in _held(part)]

    @property
    def whole(self) -> bool:
        """Whether nothing has changed."""
        parts = tuple(self._model.modules())
        if len(parts) != len(self._parts) or any(a is not b or a.training for a, b in zip(parts, self._parts, strict=True)):
            return False
        return all(_state(tensor) == state and _same(place.get(name), tensor) for place, name, tensor, state in self._tensors)


def _same(found: object, sealed: Tensor) -> bool:
    """Whether a tensor is the sealed one, or equal to it: some modules compute an attribute anew at every run, as of a weight norm."""
    if found is sealed:
        return True
    alike = isinstance(found, Tensor) and (found.dtype, found.device) == (sealed.dtype, sealed.device)
    return alike and torch.equal(cast(Tensor, found), sealed)


def _held(part: nn.Module) -> Iterator[tuple[Mapping[str, Any], str, Tensor]]:
    """Tensors of a module, by where they are kept; private attributes, which a run may change, are left out."""
    public = {name for name in vars(part) if not name.startswith("_")}
    for place, names in ((part._parameters, part._parameters), (part._buffers, part._buffers), (vars(part), public)):
        yield from ((place, name, value) for name in names if isinstance(value := place[name], Tensor))


def _state(tensor: Tensor) -> tuple[int, int]:
    """Where a tensor's numbers lie, and how often they were written."""
    return tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version


_OF_ALL = frozenset(vars(nn.Module()))
"""Attributes that every module has: its mode, hooks, and what holds its tensors and parts."""
_PLACES = frozenset({"name_or_path"})
"""Where transformers read a model from, which is no setting of it."""
_SETTINGS = (Tensor, bool, int, float, complex, str, tuple, list, torch.dtype, FunctionType, BuiltinFunctionType, partial)


def _settings(part: nn.Module) -> dict[str, Any]:
    """Attributes of a module that its results may depend on: all of one that was imported from a file, else public ones."""
    own = {name: value for name, value in sorted(vars(part).items()) if name not in _OF_ALL}
    if _is_ours(part):
        return own
    public = ((name, value) for name, value in own.items() if not name.startswith("_") and name not in _PLACES)
    return {name: value for name, value in public if isinstance(value, _SETTINGS)}


def _described(value: object) -> str:
    """A value as text that is the same for equal values and in every process."""
    if isinstance(value, Tensor):
        return content_hash(value)
    if isinstance(value, (bool, int, float, complex, str, bytes, torch.dtype, type(None))):
        return repr(value)
    if isinstance(value, (tuple, list)):
        return f"({', '.join(map(_described, value))})"
    if isinstance(value, (set, frozenset)):
        return f"{{{', '.join(sorted(map(_described, value)))}}}"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {_described(value[key])}' for key in sorted(value, key=str))}}}"
    if isinstance(value, partial):
        return f"partial{_described((value.func, value.args, value.keywords))}"
    if isinstance(value, Enum):
        return str(value)
    if _is_ours(value) and not isinstance(value, nn.Module) and hasattr(value, "__dict__"):
        return f"{_name(type(value))} {_described(vars(value))}"
    return _name(value if callable(value) else type(value))


def _is_ours(value: object) -> bool:
    """Whether it is a part of an imported file, or of a network of the zoo."""
    return type(value).__module__.startswith("precisionkit.models.")


def _name(value: object) -> str:
    """Qualified name of a class, function or operator."""
    if isinstance(value, torch._ops.OpOverload):
        return str(value)
    return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__qualname__)}"


def device_text(device: torch.device) -> str:
    """A device with the name of what computes there."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return f"{device.type} ({name})"


def built(device: torch.device) -> dict[str, str]:
    """What a device's kernels are chosen by, beside the device: the version of torch, and the CPU's instructions or the GPU's libraries."""
    made = {"torch": str(torch.__version__).split("+")[0]}
    if device.type == "cpu":
        return made | {"instructions": torch.backends.cpu.get_cpu_capability()}
    return made | {"cuda": str(torch.version.cuda), "cudnn": str(torch.backends.cudnn.version())}


def _warn_of_other_kernels(plan: GuardPlan, device: torch.device) -> None:
    found = built(device)
    others = [f"{name} {plan.built.get(name, 'unknown')}, not {value}" for name, value in found.items() if plan.built.get(name) != value]
    if others:
        warnings.warn(
            f"The plan was calibrated with {' and '.join(others)}, whose kernels may sum in another order: the risk of {plan.risk:g} is "
            "not known to hold here; try the plan on other inputs with --try, or calibrate again.",
            stacklevel=4,
        )


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
def in_own_formats() -> Iterator[None]:
    """Run a network in the formats that it has, without gradients and whatever ``torch.autocast`` stands around it."""
    with torch.no_grad(), torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
        yield


def device_of(model: nn.Module) -> torch.device:
    """Where a module's tensors lie; the CPU for one without."""
    tensors = (*model.parameters(), *model.buffers())
    return tensors[0].device if tensors else torch.device("cpu")


def check_same(plan: GuardPlan, model: nn.Module) -> None:
    """Refuse a network, a device or switches that a plan was not made for; warn of other kernels.

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
    _warn_of_other_kernels(plan, device)
