"""Reference forward passes: a torch module in a named arithmetic, defined to the last bit, on any machine.

    >>> from precisionkit.reference import forward
    >>> logits = forward(module, images, storage="fp16", run="hopper")

Dot products follow the run that is named; everything else is rounded once to binary32 and once to the storage format.  The runs,
and what is known of the units, are told in docs/arithmetics.md.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from precisionkit.arithmetic import parse_arithmetic, parse_run
from precisionkit.capture import capture
from precisionkit.errors import UsageError
from precisionkit.evaluate import Program, device_flags, execute
from precisionkit.graph import Node


def forward(
    module: nn.Module,
    inputs: Tensor,
    *,
    storage: str = "fp16",
    accumulate: str = "fp32",
    run: str = "sequential",
    observe: Callable[[Node, Tensor], None] | None = None,
) -> Tensor:
    """Run a module in a named arithmetic.

    Parameters
    ----------
    module : nn.Module
        In evaluation mode, with binary32 weights, which are rounded to the storage format.
    inputs : (batch, ...) binary32 tensor
        Rounded to the storage format.
    storage, accumulate : str
        Formats, as `parse_arithmetic` reads them.
    run : str
        ``sequential``, ``pairwise`` or ``blocked:K``, each with ``:fma`` or without; ``splitk:S``; ``exact``; or a tensor core:
        ``volta``, ``ampere``, ``ada``, ``hopper``, ``blackwell``.
    observe : callable or None
        Called with every node and its stored result.

    Returns
    -------
    (batch, classes) binary64 tensor
        Logits; numbers of the storage format.

    Raises
    ------
    PrecisionKitError
        An operator, a format or a run is not supported, a number is beyond the range of the storage format, or the module is in
        training mode or has other weights than binary32.
    """
    if module.training:
        raise UsageError("The module is in training mode, where layers such as dropout act at random; call its eval() first.")
    if wrong := {str(p.dtype) for p in module.parameters() if p.is_floating_point()} - {"torch.float32"}:
        raise UsageError(f"The module has parameters in {', '.join(sorted(wrong))}; give binary32 ones, which are rounded here.")
    order = parse_run(run)
    arithmetic = parse_arithmetic(storage, accumulate, order.name)
    program = Program.of(capture(module, tuple(inputs.shape[1:])), arithmetic, inputs.device)
    with device_flags(arithmetic), torch.no_grad():
        return execute(program, program.inputs(inputs), emulate=order, observe=observe).logits
