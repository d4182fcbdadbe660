"""The network of a run, in the formats of its precision."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from precisionkit.errors import UsageError, shown
from precisionkit.models.factory import build
from precisionkit.ops._store import DTYPES
from precisionkit.training.batch_norm import Norm, stepped
from precisionkit.training.precision import Precision
from precisionkit.training.settings import Settings


def build_network(settings: Settings, device: torch.device) -> nn.Module:
    """Return the network with its random weights, which are drawn in binary32 and stored once.

    Parameters
    ----------
    settings : Settings
        The same seed gives the same weights in every precision, up to their storage.
    device : torch.device

    Raises
    ------
    UsageError
        The architecture is unknown, or `keep_fp32` names no module of it.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        module = build(settings.arch)
    for norm in module.modules():
        if isinstance(norm, Norm):
            norm.momentum = 1 - settings.batch_norm_momentum
    module = module.to(device).to(memory_format=torch.channels_last).train()
    return keep(in_precision(module, settings.formats), settings.keep_fp32, settings.formats, device)


def in_precision(module: nn.Module, precision: Precision) -> nn.Module:
    """Store a network's parameters and buffers in the formats of a precision."""
    if not precision.pure_half:
        return module
    module = module.to(DTYPES[precision.storage])
    for norm in module.modules():
        if isinstance(norm, Norm):
            norm.to(DTYPES[precision.statistics])
    return stepped(module) if precision.strict else module


def keep(module: nn.Module, names: tuple[str, ...], precision: Precision, device: torch.device) -> nn.Module:
    """Have some modules computed in binary32: their inputs are widened, their outputs stored in the format of the others.

    Raises
    ------
    UsageError
        There is no module of a name, or it is a part of one that computes without calling it.
    """
    known = dict(module.named_modules())
    for name in dict.fromkeys(names):
        if name not in known or not name:
            raise UsageError(f"The network has no module {shown(name)!r} to keep in fp32: it has {', '.join(filter(None, known))}.")
        parent = name.rpartition(".")[0]
        if isinstance(known[parent], nn.MultiheadAttention):
            raise UsageError(f"The module {name} is computed within {parent}: keep that in fp32.")
        if not any(name.startswith(f"{other}.") for other in names):  # else it is kept with what it is in
            _keep(known[name].float(), precision, device)
    return module


def _keep(kept: nn.Module, precision: Precision, device: torch.device) -> None:
    kept.register_forward_pre_hook(_widen, with_kwargs=True)
    if precision.pure_half:
        kept.register_forward_hook(_narrow(DTYPES[precision.storage]))
    elif precision.autocast:
        kept.forward = torch.autocast(device.type, enabled=False)(kept.forward)


def _widen(module: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any]) -> Any:
    return tree_map(lambda one: _cast(one, torch.float32), (inputs, options))


def _narrow(dtype: torch.dtype) -> Any:
    def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        return tree_map(lambda one: _cast(one, dtype), output)

    return hook


def _cast(value: Any, dtype: torch.dtype) -> Any:
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value
