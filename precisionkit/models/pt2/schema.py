"""What is read of the JSON in an exported program (torch's schema, version 8); what is not named here is ignored."""

from __future__ import annotations

import re
from typing import Literal, TypeVar

import msgspec
import torch

from precisionkit.errors import UnusableModelError
from precisionkit.models.files import shown

MAJOR = 8
"""The version of the schema that is read; torch raises it when old readers would go wrong."""

T = TypeVar("T")

Float = float | Literal["Infinity", "-Infinity", "NaN"]
Union = dict[str, msgspec.Raw]
"""One of torch's unions: a single key tells the type of the value."""

DTYPES = {
    1: torch.uint8,
    2: torch.int8,
    3: torch.int16,
    4: torch.int32,
    5: torch.int64,
    6: torch.float16,
    7: torch.float32,
    8: torch.float64,
    12: torch.bool,
    13: torch.bfloat16,
}
MEMORY_FORMATS = {1: torch.contiguous_format, 2: torch.channels_last, 3: torch.channels_last_3d, 4: torch.preserve_format}
STRIDED = 7

_SYMBOL = re.compile(r"[A-Za-z_]\w{0,40}|Symbol\('[A-Za-z_]\w{0,40}'(, [a-z]{1,20}=True)*\)", re.ASCII)

_SYMBOL_NAME = re.compile(r"Symbol\('(\w{1,40})'[^()]*\)", re.ASCII)


class Named(msgspec.Struct):
    """A tensor by its name."""

    name: str


class Expression(msgspec.Struct):
    """A size as text that torch would evaluate."""

    expr_str: str

    @property
    def is_symbol(self) -> bool:
        """Whether it is one symbol and nothing else."""
        return _SYMBOL.fullmatch(self.expr_str) is not None


class Size(msgspec.Struct):
    """A size: a number, or an expression."""

    as_int: int | None = None
    as_expr: Expression | None = None

    def __str__(self) -> str:
        text = str(self.as_int) if self.as_expr is None else self.as_expr.expr_str
        return shown(_SYMBOL_NAME.sub(r"\1", text), 40)


class SymbolicArgument(msgspec.Struct):
    """A number, or the name of one that the graph computes."""

    as_name: str | None = None
    as_int: int | None = None
    as_float: Float | None = None
    as_bool: bool | None = None


class OptionalTensor(msgspec.Struct):
    """A tensor by its name, or none."""

    as_tensor: Named | None = None


class TensorMeta(msgspec.Struct):
    """Type and place of a tensor in its bytes."""

    dtype: int
    sizes: list[Size]
    strides: list[Size]
    storage_offset: Size
    layout: int


class Payload(msgspec.Struct):
    """Where a tensor is stored."""

    path_name: str
    is_param: bool
    use_pickle: bool
    tensor_meta: TensorMeta | None = None


class Payloads(msgspec.Struct):
    """The tensors of a folder, by their names in the module."""

    config: dict[str, Payload]


class NamedArgument(msgspec.Struct):
    """An argument of an operator under the name in its signature."""

    name: str
    arg: Union


class Call(msgspec.Struct):
    """One node: an operator, its arguments and its results."""

    target: str
    inputs: list[NamedArgument]
    outputs: list[Union]


class Nodes(msgspec.Struct):
    """The graph."""

    nodes: list[Call]
    tensor_values: dict[str, msgspec.Raw]


class UserSpec(msgspec.Struct):
    """An argument or a result of the exported module; one that is no tensor has no name."""

    arg: OptionalTensor


class ParameterSpec(msgspec.Struct, rename={"target": "parameter_name"}):
    """A parameter: its names in the graph and in the module."""

    arg: Named
    target: str


class BufferSpec(msgspec.Struct, rename={"target": "buffer_name"}):
    """A buffer: its names in the graph and in the module."""

    arg: Named
    target: str


class ConstantSpec(msgspec.Struct, rename={"target": "tensor_constant_name"}):
    """Another constant tensor: its names in the graph and in the module."""

    arg: Named
    target: str


class Other(msgspec.Struct):
    """Something whose presence alone matters."""


class InputSpec(msgspec.Struct):
    """What an input of the graph is; none of these where it is an object."""

    user_input: UserSpec | None = None
    parameter: ParameterSpec | None = None
    buffer: BufferSpec | None = None
    tensor_constant: ConstantSpec | None = None
    constant_input: Other | None = None


class OutputSpec(msgspec.Struct):
    """What an output of the graph is."""

    user_output: UserSpec | None = None
    buffer_mutation: Other | None = None
    parameter_mutation: Other | None = None
    user_input_mutation: Other | None = None


class Signature(msgspec.Struct):
    """What the inputs and outputs of the graph mean."""

    input_specs: list[InputSpec]
    output_specs: list[OutputSpec]


class GraphModule(msgspec.Struct):
    """Graph and signature."""

    graph: Nodes
    signature: Signature


class SchemaVersion(msgspec.Struct):
    """Version of the schema."""

    major: int
    minor: int


class Header(msgspec.Struct):
    """The version alone, which is looked at before anything else."""

    schema_version: SchemaVersion


class Program(msgspec.Struct):
    """A whole program."""

    graph_module: GraphModule


def decode(data: bytes | msgspec.Raw, kind: type[T], what: str, where: str) -> T:
    """Parse JSON as a type; UnusableModelError with the place in it where it does not fit."""
    try:
        return msgspec.json.decode(data, type=kind)
    except RecursionError:
        reason = "it is nested too deeply"
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        reason = ascii(str(error))[1:-1]
    raise damaged(where, f"{what} cannot be read ({reason})")


def damaged(where: str, what: str) -> UnusableModelError:
    """Return the error for a program that contradicts itself or the format."""
    return UnusableModelError(f"{where} is a damaged exported program: {what}; export it again.")
