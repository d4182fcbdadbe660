"""Build a module from ``--arch``: a zoo name, or ``package.module:factory`` in the user's own code."""

from __future__ import annotations

from torch import nn

from precisionkit.errors import UsageError, shown
from precisionkit.models.zoo import ZOO
from precisionkit.user_code import call_named, is_named


def is_architecture(name: str) -> bool:
    """Whether a name is one of the zoo, or has the form ``package.module:factory``."""
    return name in ZOO or is_named(name)


def build(arch: str) -> nn.Module:
    """Return a fresh module of the named architecture.

    Naming a factory runs the user's own code: its module is imported with the current directory on the path.
    """
    if arch in ZOO:
        return ZOO[arch].build()
    if not is_named(arch):
        raise UsageError(
            f"Unknown architecture {shown(arch)!r}: give one of {', '.join(ZOO)}, or package.module:factory for a function "
            "without arguments that returns your network."
        )
    module = call_named(arch, "factory", "the network")
    if not isinstance(module, nn.Module):
        raise UsageError(f"The factory {arch} returned {type(module).__name__}, but it must return a torch.nn.Module.")
    return module
