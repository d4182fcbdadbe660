"""What the columns of a table are: encoded images, rows of numbers or tokens, or one number each; and their labels."""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from precisionkit.errors import UnusableDataError, shown

LABELS = ("label", "labels", "target", "targets", "class", "y", "fine_label")
PICTURES = ("image", "img", "images", "picture")
ROWS = ("input_ids", "tokens", "features", "x", "inputs")
MASK = "attention_mask"

_BESIDE = (MASK, "token_type_ids", "special_tokens_mask")  # lists that come with tokens and are no inputs of their own
_INDEX = "__index_level_0__"  # the row numbers of pandas


class Form(enum.Enum):
    """How a table holds its inputs."""

    PICTURES = enum.auto()  # encoded images, as bytes or {bytes, path}
    ROWS = enum.auto()  # one column of lists of numbers
    TABLE = enum.auto()  # one column for each number


@dataclass(frozen=True)
class Roles:
    """Which columns are read, and as what.

    Attributes
    ----------
    form : Form
    inputs : tuple of str
        Columns of the inputs; one, unless each is a number.
    label : str or None
        Column of the labels.
    masked : bool
        Whether there is an attention mask beside tokens.
    class_names : tuple of str or None
        Names that Hugging Face keeps beside a table.
    """

    form: Form
    inputs: tuple[str, ...]
    label: str | None
    masked: bool
    class_names: tuple[str, ...] | None

    @property
    def read(self) -> list[str]:
        """Columns that are needed for inputs."""
        return [*self.inputs, *([MASK] if self.masked else [])]


def find_roles(schema: Any, where: str) -> Roles:
    """Tell from names and types of an Arrow schema what its columns are; UnusableDataError where that is not clear."""
    import pyarrow.types as types

    label = next((name for name in LABELS if name in schema.names), None)
    names = [name for name in schema.names if name not in (label, _INDEX)]
    kinds = {name: schema.field(name).type for name in names}
    pictures = [name for name in names if _is_picture(kinds[name])]
    rows = [name for name in names if _is_list(kinds[name]) and name not in _BESIDE]
    class_names = None if label is None else _class_names(schema, label)
    if pictures:
        return Roles(Form.PICTURES, (_one(pictures, PICTURES, "images", where),), label, False, class_names)
    if rows:
        return Roles(Form.ROWS, (_one(rows, ROWS, "rows of numbers", where),), label, MASK in names, class_names)
    numbers = [name for name in names if types.is_integer(kinds[name]) or types.is_floating(kinds[name]) or types.is_boolean(kinds[name])]
    if not numbers or len(numbers) < len(names):
        columns = ", ".join(f"{shown(name, 30)} ({shown(str(schema.field(name).type), 30)})" for name in schema.names[:8])
        raise UnusableDataError(
            f"{where} has the columns {columns or '(none)'}, which hold neither encoded images, nor lists of numbers, nor numbers alone: "
            f"call the images {PICTURES[0]}, or leave only numbers and a column {LABELS[0]}."
        )
    return Roles(Form.TABLE, tuple(numbers), label, False, class_names)


def _is_picture(kind: Any) -> bool:
    import pyarrow.types as types

    if types.is_struct(kind):
        return any(field.name == "bytes" and _is_picture(field.type) for field in kind)
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def _is_list(kind: Any) -> bool:
    import pyarrow.types as types

    listed = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    return listed and bool(types.is_integer(kind.value_type) or types.is_floating(kind.value_type))


def _one(found: list[str], preferred: tuple[str, ...], what: str, where: str) -> str:
    named = [name for name in preferred if name in found] or found
    if len(named) > 1 and named is found:
        listed = ", ".join(shown(name, 30) for name in found[:8])
        raise UnusableDataError(f"{where} has several columns of {what} ({listed}): call the one to use {preferred[0]}.")
    return named[0]


def _class_names(schema: Any, label: str) -> tuple[str, ...] | None:
    """Names of classes as Hugging Face keeps them; whatever else lies there says nothing."""
    try:
        names = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"][label]["names"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    return tuple(names) if isinstance(names, list) and all(isinstance(name, str) for name in names) else None


def encoded(table: Any, name: str, where: str) -> list[bytes]:
    """Encoded images of a column."""
    import pyarrow.compute as compute
    import pyarrow.types as types

    column = table.column(name)
    if types.is_struct(column.type):
        column = compute.struct_field(column, "bytes")
    if column.null_count:
        raise UnusableDataError(f"{where} has images without bytes in the column {shown(name)}: embed them, or remove the rows.")
    found: list[bytes] = column.to_pylist()
    return found


def numbers(table: Any, roles: Roles, where: str) -> np.ndarray:
    """Rows of numbers or tokens, (n, d)."""
    if roles.form is Form.TABLE:
        return np.column_stack([_plain(table.column(name), name, where) for name in roles.inputs]).astype(_floating(table.schema, roles))
    name = roles.inputs[0]
    if roles.masked and not (_rows(table.column(MASK), MASK, where) == 1).all():
        raise UnusableDataError(
            f"{where} has padded rows ({MASK} is 0 somewhere), but a classifier of one tensor attends to every token: "
            "give rows of one length without padding."
        )
    return _rows(table.column(name), name, where)


def labels_of(column: Any, name: str, where: str) -> np.ndarray | None:
    """Class numbers; None where every one is -1, which is how Hugging Face marks labels that are not given away."""
    import pyarrow.types as types

    if not types.is_integer(column.type):
        raise UnusableDataError(
            f"{where} has labels of type {shown(str(column.type), 40)} in the column {shown(name)}: give one class number per row, from 0."
        )
    found = _plain(column, name, where)
    return None if len(found) and (found == -1).all() else found


def _floating(schema: Any, roles: Roles) -> np.dtype[Any]:
    kinds = [np.dtype(schema.field(name).type.to_pandas_dtype()) for name in roles.inputs]
    together = np.result_type(*kinds, np.float16)
    return np.dtype(together)


def _rows(column: Any, name: str, where: str) -> np.ndarray:
    import pyarrow.compute as compute
    import pyarrow.types as types

    if column.null_count:
        raise UnusableDataError(f"{where} has empty rows in the column {shown(name)}: fill or remove them.")
    if types.is_fixed_size_list(column.type):
        lengths = np.array([column.type.list_size])
    else:
        lengths = np.unique(compute.list_value_length(column).to_numpy())
    if len(lengths) > 1:
        raise UnusableDataError(
            f"{where} has rows of several lengths in the column {shown(name)} ({lengths[0]} to {lengths[-1]}): cut them to one length."
        )
    if column.type.value_type.bit_width == 8:
        raise UnusableDataError(
            f"{where} has rows of bytes in the column {shown(name)}, whose meaning is not clear: give encoded images, floating numbers, "
            "or tokens as int64."
        )
    return _plain(compute.list_flatten(column), name, where).reshape(len(column), int(lengths[0]))


def _plain(column: Any, name: str, where: str) -> np.ndarray:
    if column.null_count:
        raise UnusableDataError(f"{where} has empty fields in the column {shown(name)}: fill them, or remove the rows.")
    found: np.ndarray = column.to_numpy()
    return found
