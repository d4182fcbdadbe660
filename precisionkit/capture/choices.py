"""Masks and other tensors that the tokens alone choose: ``tokens != 0`` and what is computed of it entry by entry.

Tokens are whole numbers that every run has.  So an entry that is a function of one token, computed without rounding, is a row of a
table with an entry for every token of the vocabulary, and as exact as an embedding.  The tables are filled by torch's own operators.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx

from precisionkit.capture.layout import Layout, Value
from precisionkit.errors import UnsupportedOperatorError
from precisionkit.formats import BFLOAT16, BINARY16, round_to_nearest

if TYPE_CHECKING:
    from precisionkit.capture.reader import Reader

_COMPARISONS = frozenset({"eq", "ne", "lt", "le", "gt", "ge"})
_LOGIC = frozenset(
    {*(f"{kind}_{name}" for kind in ("logical", "bitwise") for name in ("not", "and", "or", "xor")), "__and__", "__or__", "__xor__"}
)
_SMALL = frozenset({"add", "sub", "rsub", "mul", "neg", "masked_fill", "where", "_to_copy", "to", "clone", "alias", "detach"})
_ENTRY_BY_ENTRY = _COMPARISONS | _LOGIC | _SMALL
_MOVES = frozenset(
    {
        *("view", "reshape", "_unsafe_view", "flatten", "unflatten", "view_as", "squeeze", "unsqueeze", "expand", "expand_as"),
        *("permute", "transpose", "t", "movedim", "swapaxes", "flip", "roll", "repeat", "repeat_interleave", "tile"),
        *("slice", "select", "narrow", "split", "split_with_sizes", "chunk", "unbind", "clone", "alias", "detach", "contiguous"),
    }
)
"""Moves of which every entry of the result is one of the tensor, and none is filled in."""
_COUNTED = frozenset({"mul.Tensor", "sum.default", "sum.dim_IntList"})
"""Operators for which true is 1."""


ONLY = "tokens can only choose embeddings and be compared with a number"
"""What is said of any other use."""


@dataclass(frozen=True)
class Choice:
    """A tensor whose entries are those of a table at tokens of the same place.

    Attributes
    ----------
    tokens : Value
        Whole numbers, in the shape of the tensor.
    table : (vocabulary,) tensor
        Of the tensor's own dtype.
    """

    tokens: Value
    table: Tensor

    @property
    def layout(self) -> Layout:
        """Of the tensor."""
        return self.tokens.layout


def vocabulary(start: str, nodes: Iterable[fx.Node], tensors: Mapping[str, Tensor]) -> int:
    """Rows of the smallest table that the tokens choose from: tokens beyond it are no input of the network; 0 without any."""
    of_tokens, sizes = {start}, []
    for node in nodes:
        if of_tokens.isdisjoint(a.name for a in node.all_input_nodes) or not isinstance(node.meta.get("val"), Tensor):
            continue
        if str(node.target) == "aten.embedding.default" and (table := str(node.args[0])) in tensors:
            sizes.append(len(tensors[table]))
        elif str(node.target).removeprefix("aten.").split(".")[0] in _MOVES:
            of_tokens.add(node.name)
    return min(sizes, default=0)


def has_choice(given: Mapping[str, Any]) -> bool:
    """Whether an argument is a choice."""
    return any(isinstance(item, Choice) for item in _items(given))


def compares_tokens(reader: Reader, node: fx.Node, target: str) -> bool:
    """Whether tokens of the input are compared."""
    return target.split(".")[1] in _COMPARISONS and any(map(reader.is_token, node.all_input_nodes))


def choose(reader: Reader, node: fx.Node, target: str, given: Mapping[str, Any]) -> Any:
    """Read an operator that has a choice or a comparison of tokens among its arguments."""
    base = target.split(".")[1]
    sources = _sources(given)
    if base in _ENTRY_BY_ENTRY and sources is not None and (found := _tabled(reader, node, sources, given)) is not None:
        return found
    if base in _MOVES and sum(isinstance(item, Choice) for item in _items(given)) == 1 and isinstance(given.get("self"), Choice):
        return _moved(reader, node, target, given)
    if base in ("masked_fill", "where") and (found := _masked(reader, node, given)) is not None:
        return found
    if base in _COMPARISONS:
        raise UnsupportedOperatorError(
            f"{reader.describe(node)} compares what the tokens choose with other tokens, or with numbers that differ from place to place; "
            "it can be compared with one number."
        )
    if target == "aten.add.Tensor" and any(_hides(item) for item in _items(given)):
        return _added(reader, node, given)
    if base == "scaled_dot_product_attention" and isinstance(given.get("attn_mask"), Choice):
        return _attention(reader, node, given)
    return None


def as_activations(reader: Reader, node: fx.Node, target: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Replace choices by tensors of numbers, for an operator that computes with them."""

    def numbers(item: Any) -> Any:
        if isinstance(item, list):
            return [numbers(part) for part in item]
        if not isinstance(item, Choice):
            return item
        if not item.table.is_floating_point() and target.removeprefix("aten.") not in _COUNTED:
            raise UnsupportedOperatorError(
                f"{reader.describe(node)} computes with a mask of the tokens; masks can be combined with each other and with numbers, "
                "fill in numbers (masked_fill, where), multiply, be summed up, be cast to float32, or be the mask of attention."
            )
        return materialised(reader, node, item)

    return {name: numbers(item) for name, item in given.items()}


def materialised(reader: Reader, node: fx.Node, choice: Choice) -> Value:
    """The tensor itself, as an embedding of tokens in rows of one number."""
    table = choice.table.to(torch.float32)
    rows = reader.hold(f"{node.name}_choices{reader.next_number()}", table[:, None])
    shape = (*choice.layout.shape, 1)
    regular = Layout((1, *shape), True, (False,) + (True,) * len(shape))
    chosen = reader.add(node, f"_{rows.name.removeprefix(node.name).strip('_')}_chosen", "embedding", [rows, choice.tokens], {}, regular)
    return Value(reader.viewed(node, chosen, choice.layout.shape).name, choice.layout)


# ------------------------------------------------------------------------------------------------------ entry by entry
def _items(given: Mapping[str, Any]) -> Iterator[Any]:
    for value in given.values():
        yield from value if isinstance(value, list) else [value]


def _same_everywhere(value: Value) -> bool:
    """Whether it is a token, or a constant of one number."""
    return value.constant is None or (value.constant.numel() > 0 and bool((value.constant == value.constant.flatten()[0]).all()))


def _sources(given: Mapping[str, Any]) -> list[Value] | None:
    """The tokens that the tensors among the arguments depend on; None where others are among them."""
    found: dict[str, Value] = {}
    for item in _items(given):
        if isinstance(item, Choice):
            found[item.tokens.name] = item.tokens
        elif isinstance(item, Value) and not _same_everywhere(item):
            return None
        elif isinstance(item, Value) and item.constant is None:
            found[item.name] = item
    return list(found.values())


def _tabled(reader: Reader, node: fx.Node, sources: list[Value], given: Mapping[str, Any]) -> Choice | None:
    """Let the operator itself fill the table; None where it would round, or where entries meet those of other places."""
    size = reader.vocabulary
    if len(sources) != 1 or sources[0].layout.single != reader.layout_of(node.meta["val"].shape).single:
        return None
    whole = any(isinstance(item, Value) and item.constant is None for item in _items(given))
    if whole and not compares_tokens(reader, node, str(node.target)):
        return None
    if size == 0:
        raise UnsupportedOperatorError(f"{reader.describe(node)} compares tokens that choose no embedding, so that their range is unknown.")

    def column(item: Any) -> Any:
        if isinstance(item, Choice):
            return item.table
        if not isinstance(item, Value):
            return item
        return torch.arange(size) if item.constant is None else item.constant.flatten()[:1].expand(size)

    arguments = {name: column(item) for name, item in given.items() if name not in ("device", "pin_memory", "layout", "memory_format")}
    schema = node.target._schema.arguments  # type: ignore[union-attr]
    positional = [arguments.pop(a.name) for a in schema if a.name in arguments and not a.kwarg_only]
    table = node.target(*positional, **arguments).expand(size)  # type: ignore[operator]
    numbers = [table, *(item for item in (*positional, *arguments.values()) if isinstance(item, Tensor))]
    return Choice(sources[0], table) if all(_is_in_every_format(t) for t in numbers if t.is_floating_point()) else None


def _is_in_every_format(table: Tensor) -> bool:
    wide = table.double()
    return all(bool((torch.as_tensor(round_to_nearest(wide, fmt)) == wide).all()) for fmt in (BINARY16, BFLOAT16))


# --------------------------------------------------------------------------------------------------------------- moves
def _moved(reader: Reader, node: fx.Node, target: str, given: Mapping[str, Any]) -> Any:
    """The tokens move, and the table stays."""
    choice = given["self"]
    moved = reader.move(node, target, {**given, "self": choice.tokens})
    return [Choice(part, choice.table) for part in moved] if isinstance(moved, list) else Choice(moved, choice.table)


# --------------------------------------------------------------------------------------------------------------- masks
def _hides(item: Any) -> bool:
    return isinstance(item, Choice) and item.table.is_floating_point() and bool((item.table == -math.inf).any())


def _masked(reader: Reader, node: fx.Node, given: Mapping[str, Any]) -> Any:
    """``masked_fill`` and ``where``: what the tokens do not choose stays, the rest is filled in."""
    mask = given.get("mask", given.get("condition"))
    if not isinstance(mask, Choice):
        return None
    kept, filled = (given["self"], given["value"]) if "mask" in given else (given["other"], given["self"])
    return _filled(reader, node, kept, mask, filled)


def _filled(reader: Reader, node: fx.Node, kept: Any, mask: Choice, filled: Any) -> Any:
    """Where the mask is true, what is filled in; else what is kept."""
    if mask.table.dtype != torch.bool:
        raise UnsupportedOperatorError(f"{reader.describe(node)} takes a mask of {mask.table.dtype}; make it a boolean one.")
    _refuse_tokens(reader, node)
    if not isinstance(kept, (Value, Choice)):
        mask, kept, filled = Choice(mask.tokens, ~mask.table), filled, kept
    if not isinstance(kept, (Value, Choice)):
        return None
    values = [materialised(reader, node, part) if isinstance(part, Choice) else part for part in (mask, kept, filled)]
    number = None if isinstance(values[2], Value) else float(values[2])
    if values[1].constant is not None and (number is not None or values[2].constant is not None):
        values[1] = reader.as_activation(values[1])
    return reader.place(node, "masked", [*values[:2], None if number is not None else values[2]], {"fill": number})


def _refuse_tokens(reader: Reader, node: fx.Node) -> None:
    """Tokens themselves are no numbers, wherever a mask chooses: torch's ``where`` counts as a move."""
    if any(map(reader.is_token, node.all_input_nodes)):
        raise UnsupportedOperatorError(f"{reader.describe(node)} computes with tokens; {ONLY}.")


def _added(reader: Reader, node: fx.Node, given: Mapping[str, Any]) -> Any:
    """Add what is finite, then fill in the minus infinities."""
    first, second = given["self"], given["other"]
    x, mask = (second, first) if _hides(first) else (first, second)
    _refuse_tokens(reader, node)
    if not isinstance(x, Value) or x.constant is not None or given.get("alpha", 1) != 1:
        raise UnsupportedOperatorError(
            f"{reader.describe(node)} adds a mask with infinities that tokens choose to another mask; combine them while they are boolean."
        )
    hidden = mask.table == -math.inf
    finite = Choice(mask.tokens, mask.table.masked_fill(hidden, 0.0))
    if bool(finite.table.any()):
        x = reader.place(node, "add", [x, materialised(reader, node, finite)], {}, suffix="_finite")
    return _filled(reader, node, x, Choice(mask.tokens, hidden), -math.inf)


def _attention(reader: Reader, node: fx.Node, given: Mapping[str, Any]) -> Any:
    """Attention whose mask is another one for each input; a boolean one becomes one of zeros and minus infinities."""
    mask = given["attn_mask"]
    if mask.table.dtype == torch.bool:
        mask = Choice(mask.tokens, torch.zeros(len(mask.table)).masked_fill(~mask.table, -math.inf))
    query = given["query"]
    if given.get("is_causal") or not mask.layout.regular or len(mask.layout.single) != len(query.layout.single):
        raise UnsupportedOperatorError(
            f"This use of {reader.describe(node)} is not supported: a mask that depends on the tokens must have the batch first and as "
            "many dimensions as the query, and no causal one beside it."
        )
    kept = {name: given[name] for name in ("query", "key", "value", "scale", "dropout_p", "enable_gqa") if name in given}
    return reader.operation(node, "attention", kept | {"attn_mask": materialised(reader, node, mask)})
