"""An exported program as a module that calls its operators one by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from precisionkit.errors import UnusableModelError
from precisionkit.models.files import refuse_other_shapes, shown
from precisionkit.models.pt2.schema import damaged
from precisionkit.models.pt2.steps import Marker, Names, Reference, Step, last_uses

_LARGEST_NUMBER = 2**63
_DEEPEST_NAME = 64
"""Modules in modules; torch walks them by recursion."""


class ProgramModule(nn.Module):
    """A program in evaluation form.

    Parameters
    ----------
    steps : sequence of Step
        Its calls, in order.
    start, output : str
        Names of the input and of the output in the graph.
    tensors : mapping of str to tensor
        Parameters and buffers under their names in the module that was exported.
    names : mapping of str to str
        Of the parameters and buffers in the graph, to those in the module.
    copies_input : bool
        Whether the program writes into its input, which the caller's tensor must not see.
    input_shape : tuple of int
        Of one input: the program may have its sizes as numbers.
    where : str
        Names the file in error messages.
    """

    def __init__(
        self,
        steps: Sequence[Step],
        start: str,
        output: str,
        tensors: Mapping[str, Tensor],
        names: Mapping[str, str],
        *,
        copies_input: bool,
        input_shape: tuple[int, ...],
        where: str,
    ) -> None:
        super().__init__()
        self._input_shape = input_shape
        self._program = _Program(steps, start, output, names, copies_input)
        self.training = False
        for name, tensor in tensors.items():
            _place(self, name, tensor, where)

    def forward(self, x: Tensor) -> Tensor:
        """Run the program; ValueError for inputs of another shape."""
        refuse_other_shapes(tuple(x.shape[1:]), self._input_shape)
        held = {**dict(self.named_buffers(remove_duplicate=False)), **dict(self.named_parameters(remove_duplicate=False))}
        return self._program.run(x, held)

    def train(self, mode: bool = True) -> ProgramModule:
        """Do nothing: the mode was fixed when the program was exported."""
        del mode
        return self


class _Program:
    """The immutable part of a module, which its copies share."""

    def __init__(self, steps: Sequence[Step], start: str, output: str, names: Mapping[str, str], copies_input: bool) -> None:
        self._steps = tuple(zip(steps, last_uses(steps, output), strict=True))
        self._start = start
        self._output = output
        self._names = names
        self._copies_input = copies_input

    def __deepcopy__(self, memo: object) -> _Program:
        return self

    def run(self, x: Tensor, held: Mapping[str, Tensor]) -> Tensor:
        values = {name: held[target] for name, target in self._names.items()}
        values[self._start] = x.clone() if self._copies_input else x
        for step, dropped in self._steps:
            take(step, values, x.device)
            for name in dropped:
                values.pop(name, None)
        result: Tensor = values[self._output]
        return result


def take(step: Step, values: dict[str, Any], device: torch.device) -> None:
    """Do one step: compute its results from the values, and add them under their names."""
    arguments = _filled(step.arguments, values, device)
    keywords = {name: _filled(value, values, device) for name, value in step.keywords}
    result = step.operator(*arguments, **keywords)
    if step.is_tuple:
        if not isinstance(result, (tuple, list)) or len(result) != len(step.results):
            raise TypeError(f"It does not give {len(step.results)} results.")
        for names, value in zip(step.results, result, strict=True):
            _bind(names, value, values)
    elif step.results:
        _bind(step.results[0], result, values)


def _bind(names: Names | str | None, value: Any, values: dict[str, Any]) -> None:
    if not isinstance(names, str):
        if names is not None:
            raise TypeError("It gives a list in a list.")
        return
    if isinstance(value, (tuple, list, str)):
        raise TypeError("It gives several results.")
    if type(value) is int and abs(value) >= _LARGEST_NUMBER:
        raise OverflowError("It gives a size beyond 63 bits.")
    values[names] = value


def _filled(value: Any, values: Mapping[str, Any], device: torch.device) -> Any:
    if isinstance(value, Reference):
        return values[value.name]
    if isinstance(value, list):
        return [_filled(item, values, device) for item in value]
    if isinstance(value, tuple):
        return tuple(_filled(item, values, device) for item in value)
    return device if value is Marker.DEVICE else value


def _place(root: nn.Module, name: str, tensor: Tensor, where: str) -> None:
    """Register a tensor under a name with dots, in nested modules."""
    *path, leaf = name.split(".")
    if len(path) > _DEEPEST_NAME:
        raise damaged(where, f"the tensor name {shown(name)!r} is nested {len(path)} times")
    try:
        for part in path:
            if part not in root._modules:
                root.add_module(part, nn.Module().eval())  # as the program itself, whose mode is fixed
            child = root._modules[part]
            assert child is not None
            root = child
        if isinstance(tensor, nn.Parameter):
            root.register_parameter(leaf, tensor)
        else:
            root.register_buffer(leaf, tensor)
    except KeyError:  # empty, or an attribute of every module
        raise UnusableModelError(f"{where} holds a tensor of the name {shown(name)!r}, which no module can have; rename it.") from None
