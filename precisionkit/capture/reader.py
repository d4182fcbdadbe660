"""Read the nodes of an exported program, one after the other, into a graph."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram

from precisionkit.capture.choices import ONLY, Choice, as_activations, choose, compares_tokens, has_choice, vocabulary
from precisionkit.capture.expansions import EXPANSIONS, added_mask, masks_out
from precisionkit.capture.export import has_free_batch, shown
from precisionkit.capture.layout import Layout, Value, for_one
from precisionkit.capture.moves import MADE, MOVES, Index, find_move
from precisionkit.errors import UnsupportedOperatorError, UnusableModelError, first_line
from precisionkit.formats import BFLOAT16, BINARY16, round_to_nearest
from precisionkit.graph import Graph, Node, multiplications
from precisionkit.ops import BY_NAME, BY_TARGET, SOFTMAX_TARGETS, Operator

_CASTS = ("aten._to_copy.default", "aten.to.dtype")
_SKIPPED = ("_assert", "sym_constrain")
_SYMBOL = re.compile(r"\bs\d+\b")
"""The size of the batch, as torch writes it."""


@dataclass(frozen=True)
class Seen:
    """One operator of the exported program.

    Attributes
    ----------
    name, target : str
    shape : tuple of str
        With the batch, ``n``.
    dtype : str
    operator : str or None
        Its record, ``identity`` or ``constant``; None where it is not supported.
    parameters : int
        Numbers in the constants that it reads.
    entries : int
        Of its result, for one input.
    multiplications : int
        For one input.
    inputs : tuple of str
        The operators that it reads; of the program's input, its name.
    reason : str
        Why it is not supported.
    source : str
        The user's source line.
    """

    name: str
    target: str
    shape: tuple[str, ...]
    dtype: str
    operator: str | None
    parameters: int
    entries: int
    multiplications: int
    inputs: tuple[str, ...]
    reason: str
    source: str


def read(program: ExportedProgram, input_shape: tuple[int, ...]) -> Graph:
    """Read a whole program.

    Raises
    ------
    UnusableModelError, UnsupportedOperatorError
        As `precisionkit.capture.capture` says.
    """
    reader = Reader(program)
    for node in program.graph_module.graph.nodes:
        reader.read(node)
    return reader.graph(input_shape)


class Reader:
    """Reads the nodes of one exported program, in order.

    Parameters
    ----------
    lenient : bool
        Go on behind an operator that is not supported; no graph can be built then.
    """

    def __init__(self, program: ExportedProgram, *, lenient: bool = False) -> None:
        signature = program.graph_signature
        self._free = has_free_batch(program)
        if len(signature.user_inputs) != 1 or len(signature.user_outputs) != 1:
            raise UnusableModelError(
                f"The model takes {len(signature.user_inputs)} inputs and returns {len(signature.user_outputs)} results; "
                "a classifier of one tensor that returns one tensor of logits is needed."
            )
        self.start, self._output = str(signature.user_inputs[0]), str(signature.user_outputs[0])
        self._constants = _constants(program)
        self._nodes: list[Node] = []
        self._values: dict[str, Any] = {}
        self._lenient = lenient
        self._counts: set[str] = set()
        self.vocabulary = vocabulary(self.start, program.graph_module.graph.nodes, self._constants)
        self.seen: list[Seen] = []
        for node in program.graph_module.graph.nodes:
            if node.op == "placeholder":
                layout = self.layout_of(node.meta["val"].shape)
                self._values[node.name] = Value(node.name, layout, self._constants.get(node.name))

    def layout_of(self, shape: Any) -> Layout:
        """Layout of a tensor of the program."""
        return Layout.of(shape, free=self._free)

    def read(self, node: fx.Node) -> None:
        """Take in the next node."""
        if node.op != "call_function" or any(word in str(node.target) for word in _SKIPPED):
            return
        before = len(self._nodes)
        try:
            self._values[node.name] = self._value(node)
            self._note_count(node)
        except UnsupportedOperatorError as error:
            if not self._lenient:
                raise
            self._values[node.name] = self._opaque(node)
            self._note(node, None, str(error), [])
            return
        self._note(node, *self._read_as(node, before))

    # ------------------------------------------------------------------------------------------------------------- values
    def _value(self, node: fx.Node) -> Any:
        found = node.meta.get("val")
        if node.target is operator.getitem:
            return self._result_of(node)
        if not isinstance(found, (Tensor, tuple, list)):
            return None if found is None else for_one(found)
        target = str(node.target)
        given = {name: self._argument(value) for name, value in bound(node).items()}
        tensors = [v for v in _flat(given) if isinstance(v, Value)]
        if has_choice(given) or compares_tokens(self, node, target):
            if target in MADE:
                given = {
                    name: value.table.new_zeros(value.layout.single) if isinstance(value, Choice) else value
                    for name, value in given.items()
                }
            elif (read := choose(self, node, target, given)) is not None:
                return read
            else:
                given = as_activations(self, node, target, given)
        self._refuse_casts(node, target, given)
        if target in MADE or (tensors and all(v.constant is not None for v in tensors)):
            return self._constant(node, target, given)
        if target in EXPANSIONS:
            return EXPANSIONS[target](self, node, given)
        if target == "aten.add.Tensor" and masks_out(given):
            return added_mask(self, node, given)
        if target in _ADVICE and target not in BY_TARGET:
            raise UnsupportedOperatorError(f"{describe(node)} {_ADVICE[target]}.")
        if target not in MOVES and target not in BY_TARGET:
            raise UnsupportedOperatorError(
                f"No error rule is known for {describe(node)}. 'precisionkit ops' lists what is supported; build the layer from that, "
                "register a record for it (docs/custom-operators.md), or leave it out of what is certified."
            )
        if target in MOVES:
            return self.move(node, target, given)
        return self.operation(node, _record_of(target, given), given)

    def _argument(self, value: Any) -> Any:
        """Nodes become values or, for sizes, numbers for a batch of one."""
        if isinstance(value, fx.Node):
            if value.name not in self._values:
                raise UnsupportedOperatorError(f"'{value.name}' is needed, which is not a tensor of the network.")
            return self._values[value.name]
        if isinstance(value, (list, tuple)):
            return [self._argument(item) for item in value]
        return value

    def _result_of(self, node: fx.Node) -> Any:
        origin, index = node.args
        results = self._values[str(origin)]
        if isinstance(results, (list, tuple)) and int(index) < len(results):  # type: ignore[arg-type]
            return results[int(index)]  # type: ignore[arg-type]
        if isinstance(results, (list, tuple)) or index != 0:
            raise UnsupportedOperatorError(
                f"Result {index} of {describe(node)} is used; only the first result of an operator is supported."
            )
        return results

    def _opaque(self, node: fx.Node) -> Any:
        """Something for the nodes behind an unsupported one to read."""
        found = node.meta.get("val")
        if isinstance(found, (tuple, list)):
            return [Value(node.name, self.layout_of(part.shape)) for part in found if isinstance(part, Tensor)]
        return Value(node.name, self.layout_of(found.shape)) if isinstance(found, Tensor) else None

    def _refuse_casts(self, node: fx.Node, target: str, given: Mapping[str, Any]) -> None:
        found = node.meta["val"]
        dtype = found.dtype if isinstance(found, Tensor) else None
        if target not in _CASTS:
            return
        if dtype not in (torch.float32, torch.int64, torch.int32, torch.bool):
            raise UnsupportedOperatorError(f"{describe(node)} casts to {dtype}; only programs in float32 can be analysed.")
        before = node.all_input_nodes[0].meta["val"].dtype
        if node.all_input_nodes[0].name in self._counts and dtype == torch.float32:
            return
        if any(isinstance(v, Value) and v.constant is None for v in given.values()) and before != dtype:
            raise UnsupportedOperatorError(f"{describe(node)} casts what depends on the input from {before} to {dtype}.")

    def _refuse_numbers(self, node: fx.Node, record: str) -> None:
        """Tokens choose rows of tables, and nothing else; sizes shape views, and nothing else."""
        for item in node.all_input_nodes:
            if not isinstance(item.meta.get("val"), Tensor) and record != "view":
                raise UnsupportedOperatorError(f"{describe(node)} computes with the size of a tensor, '{item.name}'.")
            counted = item.name in self._counts and record not in _OF_COUNTS  # sums of masks may be rounded: they choose no rows
            if counted or (self.is_token(item) and record != "embedding"):
                raise UnsupportedOperatorError(f"{describe(node)} computes with the integers of '{item.name}'; {ONLY}.")

    def is_token(self, node: fx.Node) -> bool:
        """Whether a node is whole numbers of the input, moved perhaps."""
        found, value = node.meta.get("val"), self._values.get(node.name)
        whole = isinstance(found, Tensor) and not found.is_floating_point()
        return whole and isinstance(value, Value) and value.constant is None and node.name not in self._counts

    def _note_count(self, node: fx.Node) -> None:
        """Sums of masks, and what is computed of them, are whole numbers that the records treat as any other."""
        found = node.meta.get("val")
        inputs = [item for item in node.all_input_nodes if isinstance(item.meta.get("val"), Tensor)]
        active = [item for item in inputs if item.name not in self._constants]
        counted = active and all(item.name in self._counts or isinstance(self._values.get(item.name), Choice) for item in active)
        if counted and isinstance(found, Tensor) and found.dtype == torch.int64 and isinstance(self._values[node.name], Value):
            self._counts.add(node.name)

    # ---------------------------------------------------------------------------------------------------------- constants
    def _constant(self, node: fx.Node, target: str, given: dict[str, Any]) -> Any:
        """Compute with constants alone: what only moves, or is exact in every format, is computed here and now."""
        exact = target in MADE or target in MOVES or target == "aten.embedding.default"
        arguments = {name: _held(value) for name, value in given.items() if name not in ("device", "pin_memory", "layout")}
        found = node.meta["val"]
        if not exact and isinstance(found, Tensor) and found.is_floating_point():
            arguments = {name: v.double() if isinstance(v, Tensor) and v.is_floating_point() else v for name, v in arguments.items()}
        schema = node.target._schema.arguments  # type: ignore[union-attr]
        positional = [arguments.pop(a.name) for a in schema if a.name in arguments and not a.kwarg_only]
        try:
            result = node.target(*positional, **arguments)  # type: ignore[operator]
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            reason = first_line(error)
            raise UnsupportedOperatorError(f"{describe(node)} cannot be computed from constants: {reason}") from error
        if not exact and not (target.split(".")[1] in ONE_OPERATION and _exact_everywhere(result, given)):
            return self._promoted(node, target, given)
        if isinstance(result, (tuple, list)):
            return [self.hold(f"{node.name}_{i}", part) for i, part in enumerate(result)]
        return self.hold(node.name, result)

    def next_number(self) -> int:
        """A number for a name that is not taken yet."""
        return len(self._constants)

    def hold(self, name: str, value: Tensor) -> Value:
        """Keep a constant that the program does not have."""
        self._constants[name] = value.float() if value.is_floating_point() else value
        return Value(name, Layout(tuple(value.shape), False, (True,) * value.dim()), self._constants[name])

    def _promoted(self, node: fx.Node, target: str, given: dict[str, Any]) -> Any:
        """Arithmetic on constants that rounds: the constants become tensors of every image, and the operator is analysed like any other."""
        if target not in BY_TARGET:
            raise UnsupportedOperatorError(
                f"{describe(node)} computes with constants alone; compute it when the model is built, as a buffer."
            )

        def promoted(value: Any) -> Any:
            if isinstance(value, Value) and value.constant is not None and value.constant.is_floating_point():
                return self.as_activation(value)
            return value

        names = BY_TARGET[target].operands
        data = next((name for name in ("input", "mat1") if name in names), None)  # the others are weights, which stay constants
        raised = {name: promoted(value) if data in (None, name) else value for name, value in given.items()}
        if all(v.constant is not None for v in _flat(raised) if isinstance(v, Value)):  # whole numbers alone
            first = next(name for name, value in given.items() if isinstance(value, Value))
            raised[first] = self.as_activation(self.hold(f"{raised[first].name}_float", raised[first].constant.float()))
        if target in EXPANSIONS:
            return EXPANSIONS[target](self, node, raised)
        return self.operation(node, _record_of(target, raised), raised)

    def as_activation(self, value: Value) -> Value:
        """A constant as a tensor of every image."""
        name = f"{value.name}_repeated"
        if all(n.name != name for n in self._nodes):
            self._nodes.append(Node(name, "constant", (self.start, value.name), MappingProxyType({}), value.layout.single, ""))
        return Value(name, Layout(value.layout.single, False, (True,) * len(value.layout.single)))

    # -------------------------------------------------------------------------------------------------------------- moves
    def move(self, node: fx.Node, target: str, given: dict[str, Any]) -> Any:
        """By a record of its own where there is one that fits; else as the index says that is found for a batch of one."""
        if target in BY_TARGET and self._fits(target, node, [v for v in _flat(given) if isinstance(v, Value)]):
            return self.operation(node, _record_of(target, given), given)
        where: list[tuple[str, int | None]] = []
        operands: list[Value] = []
        plain: dict[str, Any] = {}
        for name, value in given.items():
            for position, item in enumerate(value) if isinstance(value, list) else [(None, value)]:
                if isinstance(item, Value) and (item.constant is None or item.constant.is_floating_point()):
                    where.append((name, position))
                    operands.append(item)
            plain[name] = _held(value)
        try:
            moved = find_move(node.target, target, plain, where, [o.layout.single for o in operands])  # type: ignore[arg-type]
        except (RuntimeError, TypeError, ValueError, IndexError) as error:  # such as places that depend on the input
            raise UnsupportedOperatorError(f"This use of {describe(node)} is not supported: {first_line(error).rstrip('.')}.") from error
        found = node.meta["val"]
        if isinstance(moved.indices, Index):
            return self._moved(node, node.name, self.layout_of(found.shape), moved.fills, moved.indices, operands)
        return [
            self._moved(node, f"{node.name}_{i}", self.layout_of(part.shape), moved.fills, index, operands)
            for i, (part, index) in enumerate(zip(found, moved.indices, strict=True))
        ]

    def _moved(self, node: fx.Node, name: str, layout: Layout, fills: tuple[float, ...], index: Index, operands: list[Value]) -> Value:
        flat = index.places.flatten()
        first = operands[0]
        alone = len(operands) == 1
        if (
            alone
            and flat.numel() == math.prod(first.layout.single)
            and torch.equal(flat, torch.arange(len(fills), len(fills) + flat.numel()))
        ):
            if first.layout.shape == layout.shape:
                return Value(first.name, layout)  # nothing moves
            attributes: dict[str, Any] = {"size": (-1, *layout.shape)}
            self._nodes.append(Node(name, "view", (first.name,), MappingProxyType(attributes), layout.shape, *where_of(node)))
            return Value(name, layout)
        used = [k for k in range(len(fills)) if bool((flat == k).any())]
        shifted = index.places - len(fills) + len(used)
        for new, old in enumerate(used):
            shifted[index.places == old] = new
        attributes = {
            "index": shifted.reshape(layout.shape),
            "fills": tuple(fills[k] for k in used),
            "batched": tuple(o.constant is None for o in operands),
        }
        names = tuple(o.name for o in operands)
        self._nodes.append(Node(name, "rearrange", names, MappingProxyType(attributes), layout.shape, *where_of(node)))
        return Value(name, layout)

    # --------------------------------------------------------------------------------------------------------- operations
    def _fits(self, target: str, node: fx.Node, tensors: list[Value]) -> bool:
        """Whether a move is one of the plain ones, that keep the batch in front, for which there is a record."""
        if target not in MOVES:
            return True
        found = node.meta["val"]
        if not isinstance(found, Tensor) or not self.layout_of(found.shape).regular:
            return False
        if any(v.constant is not None or not v.layout.regular for v in tensors):
            return False
        record = BY_TARGET[target]
        attributes = self._attributes(record.name, node, {})
        shapes = [v.layout.single for v in tensors]
        return record.check(attributes, shapes) is None

    def _attributes(self, record: str, node: fx.Node, operands: Mapping[str, Any]) -> dict[str, Any]:
        given = bound(node)
        names = {name.lstrip("*") for name in BY_NAME[record].operands}

        def attribute(value: Any) -> Any:
            if isinstance(value, fx.Node):
                return -1
            if isinstance(value, (list, tuple)):
                return tuple(attribute(item) for item in value)
            return value

        kept = {k: v for k, v in given.items() if k not in names or not _holds_node(v)}
        return {k: attribute(v) for k, v in kept.items() if k not in operands}

    def operation(self, node: fx.Node, name: str, given: dict[str, Any]) -> Any:
        """Add the node of one record."""
        record = BY_NAME[name]
        given = {ALIASES.get(k, k) if name in ("mm", "matmul") else k: v for k, v in given.items()}
        values: list[Value | None] = []
        for name in record.operands:
            value = given.get(name.lstrip("*"))
            for item in value if name.startswith("*") and isinstance(value, list) else [value]:
                if (
                    isinstance(item, Value)
                    and item.constant is not None
                    and not item.constant.is_floating_point()
                    and record.name != "embedding"
                ):
                    item = self.hold(f"{item.name}_float", item.constant.float())
                values.append(item if isinstance(item, Value) else None)
        taken = {name for name in (n.lstrip("*") for n in record.operands) if isinstance(given.get(name), (Value, list))}
        attributes = self._attributes(record.name, node, dict.fromkeys(taken))
        attributes = {k: v for k, v in attributes.items() if ALIASES.get(k, k) not in taken}
        return self.place(node, record.name, values, attributes)

    def place(self, node: fx.Node, name: str, values: list[Value | None], attributes: dict[str, Any], suffix: str = "") -> Value:
        """Add a record's node in the layout of the program's, once the record accepts this use."""
        if str(node.target) not in MOVES:
            self._refuse_numbers(node, name)
        record = BY_NAME[name]
        found = node.meta["val"]
        first = found[0] if isinstance(found, (tuple, list)) else found
        layout = self.layout_of(first.shape)
        if not layout.regular or any(v is not None and v.constant is None and not v.layout.regular for v in values):
            wanted = layout
            values, attributes, layout = self._irregular(node, record.name, values, attributes, layout)
            self._refuse_use(node, record, attributes, values)
            if wanted.regular:
                inner = self.add(node, f"{suffix}_irregular", record.name, values, attributes, layout)
                return self.viewed(node, inner, wanted.shape, name=f"{node.name}{suffix}")
        else:
            self._refuse_use(node, record, attributes, values)
        return self.add(node, suffix, record.name, values, attributes, layout)

    def _refuse_use(self, node: fx.Node, record: Operator, attributes: Mapping[str, Any], values: list[Value | None]) -> None:
        """Ask the record, with the batch in front of every shape but those of constants."""

        def seen(value: Value | None) -> tuple[int, ...] | None:
            if value is None:
                return None
            layout = value.layout
            return layout.single if value.constant is not None or layout.regular else (1, *layout.single)

        if objection := record.check(attributes, list(map(seen, values))):
            raise UnsupportedOperatorError(f"This use of {describe(node)} is not supported: {objection}.")

    def add(self, node: fx.Node, suffix: str, record: str, values: list[Value | None], attributes: dict[str, Any], layout: Layout) -> Value:
        """Add a node to the graph, and before it what its kernels compute on the way."""
        own = f"{node.name}{suffix}"
        names = tuple(None if v is None else v.name for v in values)
        held = MappingProxyType(attributes)
        where = where_of(node)
        taken = dict(zip((n.lstrip("*") for n in BY_NAME[record].operands), values, strict=False))
        for statistic in BY_NAME[record].statistics:
            operands = [taken.get(name) for name in statistic.operands]
            shape = self._hidden_shape(statistic.operator, held, operands)
            name = f"{own}_{statistic.operator}"
            hidden = tuple(None if v is None else v.name for v in operands)
            self._nodes.append(Node(name, statistic.operator, hidden, held, shape, *where))
            taken[statistic.operator] = Value(name, Layout((1, *shape), True, (False,) + (True,) * len(shape)))
            names += (name,) if statistic.given else ()
        self._nodes.append(Node(own, record, names, held, layout.shape, *where))
        return Value(own, layout)

    def _hidden_shape(self, statistic: str, attributes: Mapping[str, Any], values: list[Value | None]) -> tuple[int, ...]:
        def empty(value: Value | None) -> Tensor | None:
            if value is None:
                return None
            shape = tuple(value.constant.shape) if value.constant is not None else (1, *value.layout.shape)
            return torch.empty(shape, device="meta")

        return tuple(BY_NAME[statistic].apply(attributes, *map(empty, values)).shape[1:])

    def _irregular(
        self, node: fx.Node, record: str, values: list[Value | None], attributes: dict[str, Any], layout: Layout
    ) -> tuple[list[Value | None], dict[str, Any], Layout]:
        """Bring the operands into the layout of an image in front of everything, and count dimensions from the end."""
        rank = len(layout.single)
        pointwise = BY_NAME[record].pointwise
        if not (pointwise or record in TRAILING):
            raise UnsupportedOperatorError(
                f"{describe(node)} reads a tensor whose batch is not its first dimension alone; reshape it so that it is."
            )
        brought: list[Value | None] = []
        for value in values:
            if value is None or value.constant is not None:
                brought.append(value)
                continue
            self._require_fixed(node, record, attributes, value.layout)
            single = value.layout.single
            padded = (1,) * (rank - len(single)) + single if pointwise else single
            seen = self.viewed(node, value, padded)
            brought.append(Value(seen.name, Layout(padded, False, (True,) * len(padded))))
        if not pointwise or any(v is not None and v.constant is None for v in brought):
            attributes = {k: _from_the_end(k, v, len(values[0].layout.single) if values[0] else rank) for k, v in attributes.items()}
        return brought, attributes, Layout(layout.single, False, layout.fixed)

    def _require_fixed(self, node: fx.Node, record: str, attributes: Mapping[str, Any], layout: Layout) -> None:
        dims = TRAILING.get(record, lambda _: ())(attributes)
        if not all(layout.fixed[d] for d in dims):
            raise UnsupportedOperatorError(f"{describe(node)} mixes the images of a batch.")

    def viewed(self, node: fx.Node, value: Value, shape: tuple[int, ...], name: str | None = None) -> Value:
        """The same entries of each image in another shape, behind the batch."""
        layout = Layout((1, *shape), True, (False,) + (True,) * len(shape))
        if value.layout.shape == shape:
            return Value(value.name, layout)
        name = name or f"{value.name}_as_{shown(shape)}"
        if all(n.name != name for n in self._nodes):
            self._nodes.append(Node(name, "view", (value.name,), MappingProxyType({"size": (-1, *shape)}), shape, *where_of(node)))
        return Value(name, layout)

    # -------------------------------------------------------------------------------------------------------------- graph
    def _read_as(self, node: fx.Node, before: int) -> tuple[str, str, list[Node]]:
        """What a node that is supported was read as."""
        made = self._nodes[before:]
        named = [n.operator for n in made if not n.record.hidden]
        value = self._values[node.name]
        if isinstance(value, Choice):
            return named[-1] if named else "tokens", "", made
        moved = isinstance(value, Value) and value.constant is None
        return named[-1] if named else "identity" if moved else "constant", "", made

    def _note(self, node: fx.Node, record: str | None, reason: str, made: list[Node]) -> None:
        found = node.meta.get("val")
        first = found[0] if isinstance(found, (tuple, list)) and found else found
        if not isinstance(first, Tensor) or node.target is operator.getitem:
            return
        read = [self._constants[str(a)] for a in node.all_input_nodes if str(a) in self._constants]
        self.seen.append(
            Seen(
                name=node.name,
                target=str(node.target),
                shape=tuple(_SYMBOL.sub("n", str(size)) for size in first.shape),
                dtype=str(first.dtype).removeprefix("torch."),
                operator=record,
                parameters=sum(t.numel() for t in read if t.is_floating_point()),
                entries=math.prod(self.layout_of(first.shape).single),
                multiplications=self._multiplications(made),
                inputs=tuple(dict.fromkeys(origin for a in node.all_input_nodes if (origin := self._origin(a)) is not None)),
                reason=reason,
                source=source(node),
            )
        )

    def _origin(self, node: fx.Node) -> str | None:
        """The operator that a result is of, or the program's input; None for constants and sizes."""
        while node.target is operator.getitem:
            node = node.all_input_nodes[0]
        tensor = isinstance(node.meta.get("val"), (Tensor, tuple, list))
        return node.name if tensor and node.name not in self._constants else None

    def _multiplications(self, made: list[Node]) -> int:
        if all(n.record.products is None for n in made):
            return 0
        values = [v for v in _flat(self._values) if isinstance(v, Value)]
        shapes = {v.name: v.layout.shape for v in values} | {n.name: n.shape for n in self._nodes}
        shapes |= {name: tuple(value.shape) for name, value in self._constants.items()}
        return sum(multiplications(n, shapes) for n in made)

    @staticmethod
    def describe(node: fx.Node) -> str:
        """Name an operator for a message."""
        return describe(node)

    def graph(self, input_shape: tuple[int, ...]) -> Graph:
        """Put the graph together: what the logits depend on, without a softmax behind them."""
        removed: list[str] = []
        value = self._values[self._output]
        name = value.name if isinstance(value, Value) and value.constant is None else ""
        nodes = {n.name: n for n in self._nodes}
        while name in nodes and nodes[name].operator in SOFTMAX_TARGETS and len(nodes[name].shape) == 1:
            removed.append(SOFTMAX_TARGETS[nodes[name].operator])
            name = str(nodes[name].operands[0])
        node = nodes.get(name)
        if node is None or len(node.shape) != 1 or node.shape[0] < 2:
            shape = "nothing that depends on the input" if node is None else f"(batch, {shown(node.shape)})"
            raise UnusableModelError(f"The model returns {shape}; logits of the shape (batch, classes), two classes or more, are needed.")
        needed = _needed(self._nodes, name)
        kept = tuple(n for n in self._nodes if n.name in needed)
        constants = {k: _float(v) for k, v in self._constants.items() if k in needed}
        _refuse_infinities(kept, constants)
        return Graph(kept, MappingProxyType(constants), self.start, tuple(input_shape), name, tuple(removed), alone=not self._free)


_ARITHMETIC = ("add", "sub", "rsub", "mul", "neg", "abs", "maximum", "minimum", "floor_divide", "remainder")
_LOGIC = ("eq", "ne", "lt", "le", "gt", "ge", *(f"{kind}_{name}" for kind in ("logical", "bitwise") for name in ("not", "and", "or")))
ONE_OPERATION = frozenset((*_ARITHMETIC, *_LOGIC, "embedding"))
"""Operators that round once, if at all: constants that the half formats hold, as they do the result, are computed without rounding."""
_RANDOM = "draws random numbers, even in evaluation mode: give dropout training=self.training, or leave it out"
_PLACE = "gives the place of an entry, not a number: return the logits themselves, of which the largest decides"
_ADVICE: Mapping[str, str] = {
    **dict.fromkeys(
        (f"aten.{name}.default" for name in ("native_dropout", "bernoulli", "rand", "randn", "rand_like", "randn_like")), _RANDOM
    ),
    "aten.bernoulli.p": _RANDOM,
    "aten.argmax.default": _PLACE,
    "aten.argmin.default": _PLACE,
}
"""What is said of operators that no record will ever be for."""
_MASKS = frozenset({("attention", "attn_mask"), ("attention_scores", "attn_mask"), ("embedding", "weight")})
_CARRY = frozenset({"rearrange", "masked", "constant"})
"""Where minus infinity may stand."""
_OF_COUNTS = frozenset({"add", "sub", "rsub", "mul", "div", "neg", "sum", "maximum", "minimum", "clamp"})
"""What can be done with sums of masks: the same for whole numbers as for others."""
ALIASES = {"mat2": "other"}
"""Argument names of torch's products of matrices, by those of the records."""


def _record_of(target: str, given: Mapping[str, Any]) -> str:
    """The record of an operator; a constant matrix as the second factor makes a product of matrices a linear layer."""
    record = BY_TARGET[target].name
    second = given.get("other", given.get("mat2"))
    if record == "matmul" and isinstance(second, Value) and second.constant is not None and second.constant.dim() == 2:
        return "mm"
    return record


def _last(count: int) -> Any:
    return lambda attributes: tuple(range(-count, 0))


def _dims(attributes: Mapping[str, Any]) -> tuple[int, ...]:
    dim = attributes.get("dim", ())
    return (dim,) if isinstance(dim, int) else tuple(dim or ())


TRAILING: Mapping[str, Any] = {
    "linear": _last(1),
    "matmul": _last(2),
    "mm": _last(2),
    "layer_norm": lambda attributes: tuple(range(-len(attributes["normalized_shape"]), 0)),
    "rms_norm": lambda attributes: tuple(range(-len(attributes["normalized_shape"]), 0)),
    "softmax": _dims,
    "log_softmax": _dims,
    "mean": _dims,
    "sum": _dims,
    "amax": _dims,
    "amin": _dims,
    "embedding": lambda attributes: (),
    "attention": _last(2),
}
"""Operators, beside the elementwise ones, that know only some dimensions, which must not depend on the batch."""


def _from_the_end(name: str, value: Any, rank: int) -> Any:
    if name not in ("dim", "dims"):
        return value
    if isinstance(value, int):
        return value if value < 0 else value - rank
    return tuple(d if d < 0 else d - rank for d in value)


def _needed(nodes: list[Node], output: str) -> set[str]:
    needed = {output}
    for node in reversed(nodes):
        if node.name in needed:
            needed |= {name for name in node.operands if name is not None}
    return needed


def _refuse_infinities(nodes: Iterable[Node], constants: Mapping[str, Tensor]) -> None:
    """Minus infinity may mask, or be moved to where it does; nothing can be computed with it."""
    infinite = {name for name, value in constants.items() if bool(torch.isinf(value).any())}
    for node in nodes:
        for operand, name in zip(node.record.operands, node.operands, strict=False):
            if name in infinite and (node.operator, operand) not in _MASKS and node.operator not in _CARRY:
                raise UnusableModelError(
                    f"The tensor '{name}' holds infinity, and the {node} computes with it; minus infinity can be a mask that is added to "
                    "the scores of attention, and nothing else."
                )


def _flat(given: Mapping[str, Any]) -> list[Any]:
    return [item for value in given.values() for item in (value if isinstance(value, list) else [value])]


def _held(value: Any) -> Any:
    """The constants themselves; for other tensors zeros, where their shape alone matters."""
    if isinstance(value, list):
        return [_held(item) for item in value]
    if not isinstance(value, Value):
        return value
    return torch.zeros(value.layout.single) if value.constant is None else value.constant


def _holds_node(value: Any) -> bool:
    return isinstance(value, fx.Node) or (isinstance(value, (list, tuple)) and any(isinstance(v, fx.Node) for v in value))


def _exact_everywhere(result: Any, given: Mapping[str, Any]) -> bool:
    """Whether the half formats hold the operands and the result, so that every run computes it without rounding."""
    parts = [result] if isinstance(result, Tensor) else list(result)
    parts += [v.constant for v in _flat(given) if isinstance(v, Value) and v.constant is not None]
    return all(_fits_halves(p) for p in parts if p.is_floating_point())


def _fits_halves(value: Tensor) -> bool:
    wide = value.double()
    return all(bool((torch.as_tensor(round_to_nearest(wide, fmt)) == wide).all()) for fmt in (BINARY16, BFLOAT16))


def _constants(program: ExportedProgram) -> dict[str, Tensor]:
    """Tensors of the program by the names of its placeholders."""
    signature = program.graph_signature
    held: Mapping[str, Any] = {**program.state_dict, **program.constants}
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers, **signature.inputs_to_lifted_tensor_constants}
    return {placeholder: held[target].detach() for placeholder, target in names.items() if isinstance(held.get(target), Tensor)}


def _float(value: Tensor) -> Tensor:
    return value.float() if not value.is_floating_point() or value.dtype != torch.float32 else value


def bound(node: fx.Node) -> dict[str, Any]:
    """Arguments of a node by their schema names, without those left at a default of None."""
    arguments = node.target._schema.arguments  # type: ignore[union-attr]
    given = {a.name: a.default_value for a in arguments if a.has_default_value() and a.default_value is not None}
    given |= dict(zip((a.name for a in arguments), node.args, strict=False))
    return given | dict(node.kwargs)


def source(node: fx.Node) -> str:
    """The innermost user line of the trace that torch.export keeps, as ``file.py:12 in forward: code``."""
    lines = [line.strip() for line in (node.meta.get("stack_trace") or "").splitlines()]
    for i in range(len(lines) - 1, -1, -1):
        if lines[i].startswith("File ") and "/torch/" not in lines[i] and "/precisionkit/models/" not in lines[i]:
            parts = lines[i].removeprefix("File ").split(", ")
            code = lines[i + 1] if i + 1 < len(lines) and not lines[i + 1].startswith("File ") else ""
            file = parts[0].strip('"').rsplit("/", 1)[-1]
            return f"{file}:{parts[1].removeprefix('line ')}" + (f": {code}" if code else "")
    return ""


def where_of(node: fx.Node) -> tuple[str, str]:
    """The user's source line of a node, and the path of the innermost module that it was traced in."""
    return source(node), _module(node)


def _module(node: fx.Node) -> str:
    paths = [path for path, _ in (node.meta.get("nn_module_stack") or {}).values()]
    return str(paths[-1]).removeprefix("L['self']").lstrip(".") if paths else ""


def describe(node: fx.Node) -> str:
    """Name an operator for a message."""
    where = source(node)
    return f"operator '{node.target}' at node '{node.name}'" + (f" ({where})" if where else "")
