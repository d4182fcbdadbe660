"""What an exported program would do, found out without computing: sizes of results, and what it writes into.

The program is run on torch's fake tensors, which have sizes, strides and a device, but no numbers.  So a small file that asks for
huge tensors is refused before anything is allocated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from precisionkit.errors import UnusableModelError, first_line
from precisionkit.models.files import shown
from precisionkit.models.pt2.module import take
from precisionkit.models.pt2.schema import damaged
from precisionkit.models.pt2.steps import Step, last_uses
from precisionkit.models.quiet import quiet

LARGEST = 2**28
"""Numbers in one tensor for one image: 1 GiB in binary32, ten times the largest feature map of usual networks."""

LARGEST_SUM = 2**33
"""Numbers in all results together for one image: several times those of the largest vision transformers."""

_PIECES: dict[Any, Callable[..., int]] = {
    torch.ops.aten.unbind.int: lambda x, dim=0: x.shape[dim],
    torch.ops.aten.split.Tensor: lambda x, size, dim=0: -(-x.shape[dim] // max(size, 1)),
    torch.ops.aten.chunk.default: lambda x, chunks, dim=0: min(x.shape[dim], chunks),
}
_MOST_PIECES = 10_000


@dataclass(frozen=True)
class Effects:
    """What a dry run tells.

    Attributes
    ----------
    shape : tuple of int
        Of the output, with the batch.
    writes_input : bool
        Whether the program writes into its input.
    """

    shape: tuple[int, ...]
    writes_input: bool


class _RefusedError(Exception):
    """A reason to refuse, told as the end of a sentence."""


class _Watching(TorchDispatchMode):
    """Looks at every operator, those inside composite ones included: adds up the sizes of results, and sees what is written into."""

    def __init__(self, batch: int, weights: Iterable[Tensor], x: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.writes_input = False
        self._batch = batch
        self._sum = 0
        self._kept = {_storage(tensor) for tensor in weights}
        self._input = _storage(x)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _PIECES and (count := _PIECES[func](*args, **kwargs)) > _MOST_PIECES:
            raise _RefusedError(f"cuts a tensor into {count} pieces, and at most {_MOST_PIECES} are allowed")
        if func._schema.is_mutable:
            self._look_at_written(func, args, kwargs)
        result = func(*args, **kwargs)
        for item in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(item, Tensor):
                self._add(item.numel() // self._batch)
        return result

    def _look_at_written(self, func: Any, args: Any, kwargs: Any) -> None:
        for place, parameter in enumerate(func._schema.arguments):
            if parameter.alias_info is not None and parameter.alias_info.is_write:
                written = args[place] if place < len(args) else kwargs.get(parameter.name)
                if isinstance(written, Tensor):
                    if _storage(written) in self._kept:
                        raise _RefusedError("changes a weight; call model.eval() before torch.export.export")
                    self.writes_input |= _storage(written) == self._input

    def _add(self, numbers: int) -> None:
        self._sum += numbers
        if numbers > LARGEST:
            raise _RefusedError(f"needs a tensor of {numbers} numbers for one image, and at most {LARGEST} are allowed")
        if self._sum > LARGEST_SUM:
            raise _RefusedError(f"brings the numbers to compute for one image to {self._sum}, and at most {LARGEST_SUM} are allowed")


def dry_run(
    steps: Sequence[Step], start: str, output: str, sample: tuple[tuple[int, ...], torch.dtype], weights: Mapping[str, Tensor], where: str
) -> Effects:
    """Run the steps without numbers; UnusableModelError where a step cannot run, is too large, or writes into a weight.

    Parameters
    ----------
    steps, start, output
        The program, and the names of its input and output.
    sample : tuple
        Shape, with the batch, and type of the input.
    weights : mapping of str to tensor
        By their names in the graph; only their shapes, strides and types matter.
    """
    shape, dtype = sample
    with quiet("torch._subclasses.fake_tensor"), FakeTensorMode(allow_fallback_kernels=False), torch.no_grad():
        held = {name: torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype) for name, tensor in weights.items()}
        x = torch.empty(shape, dtype=dtype)
        values: dict[str, Any] = {**held, start: x}
        with _Watching(len(x), held.values(), x) as watching:
            for step, dropped in zip(steps, last_uses(steps, output), strict=True):
                _try(step, values, x, where)
                for name in dropped:
                    values.pop(name, None)
    result = values[output]
    if not isinstance(result, Tensor):
        raise damaged(where, "its result is no tensor")
    return Effects(tuple(result.shape), watching.writes_input)


def _try(step: Step, values: dict[str, Any], x: Tensor, where: str) -> None:
    try:
        take(step, values, x.device)
    except _RefusedError as reason:
        raise UnusableModelError(f"{where} is not opened, because its {step} {reason}.") from None
    except Exception as error:  # torch's own checks raise many types
        text = shown(first_line(error).removesuffix("."), 200)
        raise damaged(where, f"its {step} cannot run on a batch of {len(x)} ({text})") from error


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
