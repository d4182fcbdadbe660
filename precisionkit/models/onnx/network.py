"""An imported graph as a torch module: steps that are run one after the other."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from precisionkit.models.files import refuse_other_shapes
from precisionkit.models.onnx.graph import Node
from precisionkit.models.onnx.sizes import Dims, at_batch


@dataclass(frozen=True)
class Step:
    """One call of a torch function.

    Attributes
    ----------
    node : Node
        Where it comes from.
    function : callable
        Takes the operands and the options.
    operands : tuple of (str, float, int or None)
        Names of values, Python numbers, or None where one is left out.
    outputs : tuple of str
        Names of the results.
    options : mapping
        Keyword arguments; every `Size` in them is replaced by its number for the batch at hand.
    merged : tuple of Node
        Others whose work it does.
    """

    node: Node
    function: Callable[..., Any]
    operands: tuple[str | float | int | None, ...]
    outputs: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    merged: tuple[Node, ...] = ()

    @property
    def nodes(self) -> tuple[Node, ...]:
        """All nodes whose work it does, each once."""
        return tuple({node.outputs: node for node in (*self.merged, self.node)}.values())

    @property
    def names(self) -> tuple[str, ...]:
        """The operands that are values."""
        return tuple(operand for operand in self.operands if isinstance(operand, str))

    def run(self, values: MutableMapping[str, Tensor], batch: Any) -> None:
        """Compute the results from the values, and put them there."""
        operands = [values[operand] if isinstance(operand, str) else operand for operand in self.operands]
        options = {name: at_batch(option, batch) for name, option in self.options.items()}
        result = self.function(*operands, **options)
        for name, value in zip(self.outputs, (result,) if isinstance(result, Tensor) else result, strict=True):
            values[name] = value


@dataclass(frozen=True)
class Program:
    """Steps with everything that they need.

    Attributes
    ----------
    steps : tuple of Step
        In order.
    input, output : str
        Names of values.
    input_shape : tuple of int
        Without the batch.
    classes : int
        Length of the output.
    constants : mapping
        Tensors by name.
    statistics : frozenset of str
        Those of them that are the means and variances of a batch normalisation.
    shapes : mapping
        Of every value.
    no_steps : mapping of str to Node
        Nodes that make constants of constants, or pass on what they read, by the names of what they make.
    end : str
        Name of the logits in the file, which such a node may pass on.
    """

    steps: tuple[Step, ...]
    input: str
    output: str
    input_shape: tuple[int, ...]
    classes: int
    constants: Mapping[str, Tensor]
    statistics: frozenset[str]
    shapes: Mapping[str, Dims]
    no_steps: Mapping[str, Node] = field(default_factory=dict)
    end: str = ""


class _Call(nn.Module):
    """A step as a module of its own, so that what is captured of it can be told from the rest."""

    def __init__(self, step: Step) -> None:
        super().__init__()
        self.step = step

    def forward(self, values: dict[str, Tensor], batch: Any) -> dict[str, Tensor]:
        """Compute the step's results."""
        made: dict[str, Tensor] = dict(values)
        self.step.run(made, batch)
        return {name: made[name] for name in self.step.outputs}


class Network(nn.Module):
    """A program as a module; its parameters have the names of the file as far as Python allows them."""

    def __init__(self, program: Program) -> None:
        super().__init__()
        self._places: dict[str, str] = {}
        for name, tensor in program.constants.items():
            if tensor.is_floating_point() and name not in program.statistics:
                self.register_parameter(self._place(name), nn.Parameter(tensor, requires_grad=False))
            else:
                self.register_buffer(self._place(name), tensor)
        self._program, self.steps = program.steps, nn.ModuleList(map(_Call, program.steps))
        self._unused = _last_uses(program.steps, program.output)
        self._no_steps, self._end = program.no_steps, program.end
        self._input, self._output, self._input_shape = program.input, program.output, program.input_shape

    def forward(self, x: Tensor) -> Tensor:
        """Run the steps; ValueError for inputs of another shape."""
        refuse_other_shapes(tuple(x.shape[1:]), self._input_shape)
        values = {name: getattr(self, place) for name, place in self._places.items()}
        values[self._input] = x
        batch = x.shape[0]
        for step, call, unused in zip(self._program, self.steps, self._unused, strict=True):
            values |= call({name: values[name] for name in step.names}, batch)
            for name in unused:
                del values[name]
        output: Tensor = values[self._output]
        return output

    def nodes_of(self, modules: Collection[str], others: Collection[str]) -> tuple[Node, ...]:
        """Return the file's nodes that do the work of some modules, each once, in the order of the steps.

        With them go nodes that make their constants, and nodes beside them that no module is left of, since they only pass numbers on.

        Parameters
        ----------
        modules, others : collection of str
            Paths of those that are asked for, and of the rest of those that are left.
        """
        paths = {id(step): f"steps.{place}" for place, step in enumerate(self._program)}
        wanted = [step for step in self._program if paths[id(step)] in modules]
        free = [step for step in self._program if paths[id(step)] not in {*modules, *others}]
        found = _with_neighbours(wanted, free)
        nodes = {node.outputs: node for step in self._program if id(step) in found for node in step.nodes}
        waiting = [name for node in nodes.values() for name in node.inputs]
        if any(id(step) in found and self._output in step.outputs for step in self._program):
            waiting.append(self._end)
        while waiting:
            node = self._no_steps.get(waiting.pop())
            if node is not None and node.outputs not in nodes:
                nodes[node.outputs] = node
                waiting += node.inputs
        return tuple(nodes.values())

    def _place(self, name: str) -> str:
        place = re.sub(r"\W", "_", name, flags=re.ASCII)[:80] or "constant"
        while hasattr(self, place):
            place = f"{place}_" if place.endswith("_") or not re.search("running_(mean|var)$", place) else f"other_{place}"
        self._places[name] = place
        return place


def _with_neighbours(wanted: Iterable[Step], free: Iterable[Step]) -> set[int]:
    """Identities of steps, and of those free ones that a way through free steps leads to."""
    readers: dict[str, list[Step]] = {}
    makers: dict[str, list[Step]] = {}
    for step in free:
        for name in step.names:
            readers.setdefault(name, []).append(step)
        for name in step.outputs:
            makers.setdefault(name, []).append(step)
    waiting, found = list(wanted), set[int]()
    while waiting:
        step = waiting.pop()
        if id(step) not in found:
            found.add(id(step))
            waiting += [other for name in step.names for other in makers.get(name, ())]
            waiting += [other for name in step.outputs for other in readers.get(name, ())]
    return found


def _last_uses(steps: Sequence[Step], output: str) -> tuple[tuple[str, ...], ...]:
    """Names of the values that no later step needs, for each step: memory is given back early."""
    seen = {output}
    unused: list[tuple[str, ...]] = []
    for step in reversed(steps):
        last = tuple(dict.fromkeys(name for name in (*step.names, *step.outputs) if name not in seen))
        seen.update(last)
        unused.append(last)
    return tuple(unused[::-1])


def used(steps: Iterable[Step], output: str) -> list[Step]:
    """Return the steps that the output needs."""
    wanted, kept = {output}, []
    for step in reversed(list(steps)):
        if wanted.intersection(step.outputs):
            wanted.update(step.names)
            kept.append(step)
    return kept[::-1]


def check_freedom(program: Program, batch: int, *, floating: bool) -> bool:
    """Whether a program of a file for one batch alone gives every image of another batch what the file gives it.

    The file's own program runs on its own batch; three images in a batch of the freed one must come out the same.
    """
    network = Network(program)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(3, *program.input_shape, generator=generator) if floating else torch.zeros(3, *program.input_shape).long()
    with torch.no_grad():
        together = network(images)
        alone = torch.cat([network(image.expand(batch, *program.input_shape))[:1] for image in images])
    scale = float(alone.nan_to_num(0, 0, 0).abs().max())  # weights that are not finite are refused elsewhere
    return together.shape == alone.shape and bool(torch.allclose(together, alone, rtol=1e-4, atol=1e-4 * scale, equal_nan=True))
