"""One training step under observation: where numbers overflow, become NaN or are lost, by operator and tensor."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map

from precisionkit.training.events import FATAL, LOST, Event
from precisionkit.training.kernels import HALF, Dispatch

_POLES = {"div": 1, "addcdiv": 2, "reciprocal": 0, "rsqrt": 0, "log": 0, "log2": 0, "log10": 0, "pow": 0}
"""Operators with a pole at zero, and which argument has it."""
_UNSET = ("empty", "new_empty", "empty_like", "empty_strided")


class Watch(Dispatch):
    """Look at every operator of a step.

    Parameters
    ----------
    module : nn.Module
    state : mapping
        The optimizer's state, parameter by parameter, which may be filled later.
    """

    def __init__(self, module: nn.Module, state: Mapping[Tensor, Mapping[str, Any]]) -> None:
        super().__init__()
        self.events: list[Event] = []
        self._module, self._state = module, state
        self._phase = ""
        self._names: dict[int, tuple[str, str]] = {}  # of storages: what a tensor is, and its module
        self._scopes: list[str] = []
        self._ranges: list[tuple[int, int, str]] = []  # sequence numbers of autograd's nodes, by module
        self._current = ("", "")

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Observe one phase of a step: ``forward``, ``backward`` or ``update``."""
        self._phase, self._current = name, ("", "")
        self._names = self._named()
        with self._hooks(), self:
            yield

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run one operator, and look at what it gives."""
        options = dict(kwargs or {})
        inputs = _floats((args, options))
        unset = str(func).split(".")[1] in _UNSET
        finite = bool(inputs) and not unset and _finite((args, options))
        exact = _exact(func, args, options) if finite else ()
        before = args[0].float() if finite and self._updates(func, args) else None
        zero = _zero_denominators(func, args)
        out = func(*args, **options)
        if finite:
            self._current = next((known for t in inputs if (known := self._known(t))), self._current)
            for one, wide in zip(_floats(out), exact, strict=False):
                self._look(str(func), one, wide, zero, before)
        return out

    def _look(self, operator: str, out: Tensor, exact: Tensor, zero: bool, before: Tensor | None) -> None:
        bad = ~torch.isfinite(out)
        kind = ""
        lost, entries = 0.0, int(bad.sum())
        if entries:
            kind = "invalid" if not zero and bool(torch.isnan(out).any()) else "division by zero" if zero else "overflow"
        elif out.dtype in HALF and before is not None:
            kind, lost, entries = "lost update", *_lost(exact - before, out.float() == before)
        elif out.dtype in HALF and self._phase != "forward":
            kind, lost, entries = "underflow", *_lost(exact, out == 0)
        if kind in FATAL or lost >= LOST:
            name, module = self._name(out)
            finite = exact[torch.isfinite(exact)].abs()
            self.events.append(
                Event(
                    kind=kind,
                    phase=self._phase,
                    operator=operator.removeprefix("aten.").rpartition(".")[0],
                    tensor=name,
                    module=module,
                    entries=entries,
                    of=out.numel(),
                    largest=float(finite.max()) if finite.numel() else 0.0,
                    lost=lost,
                )
            )

    def _name(self, out: Tensor) -> tuple[str, str]:
        if (known := self._known(out)) is not None:
            return known
        if self._phase == "forward":
            scope = self._scopes[-1] if self._scopes else ""
            return (f"the output of {scope}" if scope else "the loss or a step between modules"), scope
        if self._phase == "backward":
            scope = self._scope_of(torch._C._current_autograd_node())
            return (f"a gradient in {scope}" if scope else "a gradient of the loss or between modules"), scope
        name, module = self._current
        return f"a step of the update of {name.rpartition(' of ')[2]}", module

    def _known(self, t: Tensor) -> tuple[str, str] | None:
        """What a tensor is, where it is a parameter, its gradient or its state, which an optimizer makes in its first step."""
        place = _place(t)
        if place not in self._names and self._phase == "update" and len(self._names) < self._count():
            self._names = self._named()
        return self._names.get(place)

    def _count(self) -> int:
        parameters = list(self._module.parameters())
        kept = sum(isinstance(v, Tensor) and v.ndim > 0 for p in parameters for v in self._state.get(p, {}).values())
        return len(parameters) + sum(p.grad is not None for p in parameters) + kept

    def _scope_of(self, node: Any) -> str:
        """The innermost module in whose forward pass autograd made a node."""
        if node is None:
            return ""
        number = node._sequence_nr()
        within = [(end - start, name) for start, end, name in self._ranges if start <= number < end]
        return min(within)[1] if within else ""

    def _named(self) -> dict[int, tuple[str, str]]:
        names: dict[int, tuple[str, str]] = {}
        for name, parameter in self._module.named_parameters():
            module = name.rpartition(".")[0]
            names[_place(parameter)] = name, module
            if parameter.grad is not None:
                names[_place(parameter.grad)] = f"the gradient of {name}", module
            for kind, value in self._state.get(parameter, {}).items():
                if isinstance(value, Tensor) and value.ndim:
                    names[_place(value)] = f"{kind} of {name}", module
        return names

    def _updates(self, func: Any, args: tuple[Any, ...]) -> bool:
        """Whether an operator changes a weight in place."""
        if self._phase != "update" or not func._schema.is_mutable or not args or not isinstance(args[0], Tensor):
            return False
        name, module = self._names.get(_place(args[0]), ("", ""))
        return bool(name) and name.rpartition(".")[0] == module and " of " not in name

    @contextmanager
    def _hooks(self) -> Iterator[None]:
        """Follow which module computes, in the forward phase."""
        if self._phase != "forward":
            yield
            return
        self._ranges = []
        starts: list[int] = []

        def enter(name: str) -> Any:
            def hook(module: nn.Module, inputs: Any) -> None:
                self._scopes.append(name)
                starts.append(torch._C._autograd._get_sequence_nr())

            return hook

        def leave(module: nn.Module, inputs: Any, output: Any) -> None:
            self._ranges.append((starts.pop(), torch._C._autograd._get_sequence_nr(), self._scopes.pop()))

        handles = [m.register_forward_pre_hook(enter(name)) for name, m in self._module.named_modules() if name]
        handles += [m.register_forward_hook(leave) for name, m in self._module.named_modules() if name]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            self._scopes.clear()


def _floats(values: Any) -> list[Tensor]:
    return [t for t in tree_flatten(values)[0] if isinstance(t, Tensor) and t.is_floating_point() and t.numel()]


def _place(t: Tensor) -> int:
    return t.untyped_storage().data_ptr()


def _exact(func: Any, args: tuple[Any, ...], options: dict[str, Any]) -> list[Tensor]:
    """Run an operator on binary32 copies; what it gives, as binary32."""

    def widened(value: Any) -> Any:
        if isinstance(value, torch.dtype):
            return torch.float32 if value in HALF else value
        if not isinstance(value, Tensor):
            return value
        return value.float() if value.dtype in HALF else value.clone()  # operators change arguments that their schemas do not name

    wide = tree_map(widened, (args, options))
    devices = {t.device for t in _floats((args, options)) if t.is_cuda}
    with torch.random.fork_rng(devices=devices):  # the operator itself draws the same numbers again
        return [t.float() for t in _floats(func(*wide[0], **wide[1]))]


def _finite(values: Any) -> bool:
    """Whether all numbers are, constants (such as those of masks) included."""
    leaves = tree_flatten(values)[0]
    numbers = all(math.isfinite(one) for one in leaves if isinstance(one, float))
    return numbers and all(bool(torch.isfinite(t).all()) for t in _floats(leaves))


def _zero_denominators(func: Any, args: tuple[Any, ...]) -> bool:
    """Whether an operator has a pole at zero, and zeros there."""
    place = _POLES.get(func._schema.name.removeprefix("aten::").rstrip("_"))
    divisor = args[place] if place is not None and len(args) > place else None
    return bool((divisor == 0).any()) if isinstance(divisor, Tensor) else divisor == 0


def _lost(exact: Tensor, gone: Tensor) -> tuple[float, int]:
    """Share of an absolute sum, and number of entries, that are gone."""
    size = exact.abs().double()
    total = float(size.sum())
    here = gone & (exact != 0)
    return (float(size[here].sum()) / total if total else 0.0), int(here.sum())
