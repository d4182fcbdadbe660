"""The network of a run, in the formats of its precision."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

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
    return keep(in_precision(module, settings.formats), settings.keep_fp32, settings.formats)


def in_precision(module: nn.Module, precision: Precision) -> nn.Module:
    """Store a network's parameters and buffers in the formats of a precision."""
    if not precision.pure_half:
        return module
    module = module.to(DTYPES[precision.storage])
    for norm in module.modules():
        if isinstance(norm, Norm):
            norm.to(DTYPES[precision.statistics])
    return stepped(module) if precision.strict else module


def keep(module: nn.Module, names: tuple[str, ...], precision: Precision) -> nn.Module:
    """Have some modules computed in binary32: their inputs are widened, their outputs stored in the format of the others."""
    known = dict(module.named_modules())
    for name in names:
        if name not in known or not name:
            raise UsageError(f"The network has no module {shown(name)!r} to keep in fp32: it has {', '.join(filter(None, known))}.")
        kept = known[name].float()
        if precision.pure_half:
            kept.register_forward_pre_hook(_widen)
            kept.register_forward_hook(_narrow(DTYPES[precision.storage]))
        elif precision.autocast:
            kept.forward = torch.autocast("cuda" if next(kept.parameters()).is_cuda else "cpu", enabled=False)(kept.forward)
            kept.register_forward_pre_hook(_widen)
    return module


def _widen(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(one.float() if isinstance(one, Tensor) and one.is_floating_point() else one for one in inputs)


def _narrow(dtype: torch.dtype) -> Any:
    def hook(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        return output.to(dtype)

    return hook
