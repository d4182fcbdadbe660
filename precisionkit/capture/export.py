"""From a module to an exported program with a free batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from precisionkit.capture.calm import silent_failure
from precisionkit.errors import UnusableModelError, first_line

_BATCH = 2
"""Batch of the sample: `torch.export` specialises a batch of one."""


def batch_of(count: int, input_shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Random inputs, the same at every call: between 0 and 1, -1 and 1, -4 and 4; tokens are zeros and ones, which every vocabulary has."""
    generator = torch.Generator().manual_seed(count)
    if dtype.is_floating_point:
        inputs = torch.rand(count, *input_shape, generator=generator, dtype=dtype)
        inputs[1::3] = 2 * inputs[1::3] - 1
        inputs[2::3] = 8 * inputs[2::3] - 4
        return inputs
    return torch.randint(0, 2, (count, *input_shape), generator=generator, dtype=dtype)


def export(module: nn.Module, input_shape: tuple[int, ...], dtype: torch.dtype) -> ExportedProgram:
    """Export a module in evaluation mode.

    Raises
    ------
    UnusableModelError
        It does not run on such an input, or cannot be exported.
    """
    try:
        with torch.no_grad():
            found = module(batch_of(1, input_shape, dtype))
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        reason = first_line(error)
        raise UnusableModelError(f"The model does not run on an input of shape {shown(input_shape)}: {reason}") from error
    if not isinstance(found, torch.Tensor):
        raise UnusableModelError(
            f"The model returns a {type(found).__name__}, and logits are needed, one tensor of the shape (batch, classes): wrap it in a "
            "module that returns them alone."
        )
    steps = decompositions()
    try:
        with silent_failure():
            program: ExportedProgram = _with_free_batch(module, input_shape, dtype).run_decompositions(steps)
    except Exception as error:  # torch.export raises errors of many private types; every one means the same to the user
        reason = first_line(error)
        raise UnusableModelError(
            f"torch.export could not capture the model: {reason} A model with data-dependent control flow has to be rewritten without it."
        ) from error
    return program


def _with_free_batch(module: nn.Module, input_shape: tuple[int, ...], dtype: torch.dtype) -> ExportedProgram:
    """For a batch of any size; of one alone where the model's code fixes the size, as ``len(x)`` does."""
    sample = batch_of(_BATCH, input_shape, dtype)
    try:
        return torch.export.export(module, (sample,), dynamic_shapes=({0: Dim("batch", min=1, max=2**20)},))
    except Exception:  # of many private types
        return torch.export.export(module, (sample[:1],))


def has_free_batch(program: ExportedProgram) -> bool:
    """Whether a program takes batches of any size, not of one alone."""
    start = str(program.graph_signature.user_inputs[0])
    node = next(node for node in program.graph.nodes if node.name == start)
    return not isinstance(node.meta["val"].shape[0], int)


def decompositions() -> dict[torch._ops.OpOverload, object]:
    """Operators that are analysed as the steps that they are made of: recurrent layers, and what no kernel of its own computes."""
    from torch._decomp import decomposition_table

    aten, whole = torch.ops.aten, torch.export.default_decompositions()
    steps = (
        *(aten.lstm.input, aten.gru.input, aten.rnn_tanh.input, aten.rnn_relu.input),
        *(aten.celu.default, aten.addcmul.default, aten.addcdiv.default, aten.baddbmm.default, aten.linalg_vector_norm.default),
    )
    composite = (aten.einsum.default, aten.outer.default, aten.inner.default, aten.tensordot.default)
    table = {target: decomposition_table[target] for target in steps if target in decomposition_table}
    return table | {target: whole[target] for target in composite if target in whole}


def shown(shape: tuple[int, ...]) -> str:
    """Write a shape."""
    return "x".join(map(str, shape))
