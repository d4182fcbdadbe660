"""The interval method node by node, with all that it knows of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from precisionkit.bound.interval import Stored, stored
from precisionkit.bound.pulling import direct_sums
from precisionkit.enclosure import Bounded, Enclosure
from precisionkit.evaluate import Program
from precisionkit.formats import Format
from precisionkit.graph import Node, interpret
from precisionkit.outward import add_up


@dataclass(frozen=True)
class Enclosed:
    """One node over a batch.

    Attributes
    ----------
    operands : tuple
        Enclosures of activations, constants in binary64, None.
    result : Bounded
    store : Stored
    form : Format
        The format whose numbers the result consists of.
    before, known : (batch,) bool tensors
        Overflow is excluded of every node before this one; of this one as well, so that its enclosure holds.
    """

    node: Node
    operands: tuple[Any, ...]
    result: Bounded
    store: Stored
    form: Format
    before: Tensor
    known: Tensor

    @cached_property
    def masked(self) -> Tensor:
        """Where every run has minus infinity, on purpose."""
        return (self.result.centre == -torch.inf) & (self.store.radius == 0)

    def largest(self) -> Tensor:
        """Of each input, what no run's result exceeds in magnitude; what is stored is of the format, so not beyond its largest number."""
        reach = add_up(self.result.centre.abs(), self.store.radius).masked_fill(self.masked, 0.0).flatten(1).amax(1)
        return reach.clamp_max(self.form.max) if self.node.record.stores else reach  # NaN stays

    def headroom(self) -> Tensor:
        """Of each input, how many times larger everything that is rounded here could be; overflow is excluded above 1."""
        result, form = self.result, self.form
        if result.fresh is None:  # numbers that were stored before
            return form.overflow_threshold / self.largest()
        sizes = [(add_up(result.centre.abs(), result.carried, result.fresh).masked_fill(self.masked, 0.0), form.overflow_threshold)]
        if result.stored_before is not None:
            sizes.append((result.stored_before, form.overflow_threshold))
        if result.peak is not None and result.peak_format is not None:
            sizes.append((result.peak, result.peak_format.max))
        batch = len(result.centre)
        ratios = [limit / size.expand(batch, *size.shape[1:]).flatten(1).amax(1) for size, limit in sizes]
        least = torch.stack(ratios).amin(0)
        least = torch.nextafter(least, torch.zeros_like(least))
        return torch.where(self.store.excluded, least, least.clamp_max(1.0))


def enclose(program: Program, inputs: Tensor, visit: Callable[[Enclosed], None]) -> None:
    """Show every node of a program on a batch of stored inputs; theorem 14, as for `bound.interval`."""
    constants = {name: value.double() for name, value in program.constants.items()}
    known = torch.ones(len(inputs), dtype=torch.bool, device=inputs.device)

    def run_node(node: Node, operands: tuple[Any, ...]) -> Enclosure:
        nonlocal known
        result = node.record.error_rule(program.arithmetic_of(node), node.attributes, *operands)
        unstored = node.name in program.unstored
        store = stored(program.arithmetic_of(node), result, unstored=unstored)
        form = result.form if unstored and result.form is not None else program.format_of(node.name)
        before, known = known, known & store.excluded
        visit(Enclosed(node, operands, result, store, form, before, known))
        return Enclosure(result.centre, store.radius)

    with direct_sums():
        interpret(program.graph, Enclosure.exact(inputs.double()), constants, run_node)
