"""The nodes of an exported program as calls of allowed operators, in order."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from precisionkit.errors import UnusableModelError
from precisionkit.models.files import shown
from precisionkit.models.pt2 import operators
from precisionkit.models.pt2.schema import (
    DTYPES,
    MEMORY_FORMATS,
    STRIDED,
    Call,
    Float,
    Named,
    NamedArgument,
    OptionalTensor,
    SymbolicArgument,
    Union,
    damaged,
    decode,
)


class Marker(enum.Enum):
    """Stands for what is known only when the program runs."""

    DEVICE = enum.auto()
    """The device of the input, whichever the program was exported on."""


@dataclass(frozen=True)
class Reference:
    """A value that the graph holds under a name."""

    name: str


Names = tuple[Any, ...]
"""Of results: a name, None for one without, or a tuple of these."""


@dataclass(frozen=True)
class Step:
    """One call.

    Attributes
    ----------
    name : str
        Of its first result, for messages.
    target : str
        Name of the operator.
    operator : callable
        The operator itself, or the steps of a recurrent layer.
    arguments, keywords
        May hold `Reference` and `Marker`, also in lists.
    results : tuple
        Names of the results; of the elements, where the only result is a list.
    is_tuple : bool
        Whether the operator returns several results, or a list.
    in_place : bool
        Whether it writes into its first argument.
    """

    name: str
    target: str
    operator: Callable[..., Any]
    arguments: tuple[Any, ...]
    keywords: tuple[tuple[str, Any], ...]
    results: Names
    is_tuple: bool
    in_place: bool

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all results."""
        return tuple(_flat(self.results))

    def __str__(self) -> str:
        return f"operator '{self.target}' at node '{shown(self.name)}'"


def read_steps(calls: Sequence[Call], known: Iterable[str], where: str) -> tuple[Step, ...]:
    """Read the nodes; every name must be defined once, and before it is used."""
    defined = set(known)
    steps = []
    for call in calls:
        if operators.base_name(call.target) in operators.SKIPPED:
            continue
        step = _read(call, where)
        for name in _references((step.arguments, step.keywords)):
            if name not in defined:
                raise damaged(where, f"its {step} uses {shown(name)!r}, which is not computed before")
        for name in step.names:
            if name in defined:
                raise damaged(where, f"the name {shown(name)!r} is defined twice")
            defined.add(name)
        steps.append(step)
    return tuple(steps)


def last_uses(steps: Sequence[Step], output: str) -> tuple[tuple[str, ...], ...]:
    """Return for each step the names that no later one needs."""
    needed = {output}
    dropped = []
    for step in reversed(steps):
        names = {*_references((step.arguments, step.keywords)), *step.names} - needed
        needed |= names
        dropped.append(tuple(names))
    return tuple(reversed(dropped))


def first_name(call: Call, where: str) -> str:
    """Name of a call's first result, or nothing."""
    return next(_flat(tuple(_names(output, call, where) for output in call.outputs)), "")


def objection(call: Call, where: str) -> str:
    """Why an operator cannot be called: nothing for those that are listed."""
    if operators.find(call.target) is not None:
        return ""
    return (
        f"{where} calls the operator {shown(call.target)!r} (node {shown(first_name(call, where))!r}), which is not one of those that are "
        "known to only compute: build the layer from PyTorch's plain operators, or load the weights with --arch package.module:factory."
    )


def _read(call: Call, where: str) -> Step:
    name = first_name(call, where)
    operator = operators.find(call.target)
    if operator is None:
        raise UnusableModelError(objection(call, where))
    given: dict[str, Any] = {}
    for item in call.inputs:
        if item.name in given:
            raise damaged(where, f"the operator {shown(call.target)!r} is given {shown(item.name)!r} twice")
        given[item.name] = _argument(item, call, where)
    _refuse_training(call, given, where)
    arguments, keywords = _bound(operator, given, call, where)
    results = tuple(_names(output, call, where) for output in call.outputs)
    is_list = len(results) == 1 and isinstance(results[0], tuple)
    return Step(
        name=name,
        target=call.target.removeprefix("torch.ops."),
        operator=operators.implementation(call.target, operator),
        arguments=arguments,
        keywords=keywords,
        results=results[0] if is_list else results,
        is_tuple=is_list or len(results) > 1,
        in_place=operators.base_name(call.target) in operators.IN_PLACE,
    )


def _refuse_training(call: Call, given: Mapping[str, Any], where: str) -> None:
    argument = operators.TRAINING.get(operators.base_name(call.target))
    if argument is not None and given.get(argument) not in (None, False, 0.0):
        raise UnusableModelError(
            f"{where} was exported in training mode (the operator {shown(call.target)!r} has {argument} = {shown(str(given[argument]))}): "
            "call model.eval() before torch.export.export."
        )


def _bound(
    operator: Callable[..., Any], given: Mapping[str, Any], call: Call, where: str
) -> tuple[tuple[Any, ...], tuple[tuple[str, Any], ...]]:
    """Sort arguments into positional and named ones by the operator's signature."""
    if call.target in operators.ON_NUMBERS:
        if not all(isinstance(value, (Reference, int, float)) for value in given.values()):  # Python would repeat texts and lists
            raise damaged(where, f"the operator {shown(call.target)!r} is given something other than numbers")
        return tuple(given.values()), ()
    parameters = operator._schema.arguments  # type: ignore[attr-defined]
    if unknown := given.keys() - {parameter.name for parameter in parameters}:
        raise damaged(where, f"the operator {shown(call.target)!r} has no argument {shown(min(unknown))!r}")
    arguments: list[Any] = []
    keywords: list[tuple[str, Any]] = []
    positional = True
    for parameter in parameters:
        positional = positional and not parameter.kwarg_only and parameter.name in given  # the first left out ends them
        if positional:
            arguments.append(given[parameter.name])
        elif parameter.name in given:
            keywords.append((parameter.name, given[parameter.name]))
        elif not parameter.has_default_value():
            raise damaged(where, f"the operator {shown(call.target)!r} lacks its argument {parameter.name!r}")
    return tuple(arguments), tuple(keywords)


def _only(union: Union, what: str, where: str) -> tuple[str, Any]:
    if len(union) != 1:
        raise damaged(where, f"{what} has {len(union)} types instead of one")
    return next(iter(union.items()))


def _argument(item: NamedArgument, call: Call, where: str) -> Any:
    what = f"the argument {shown(item.name)!r} of the operator {shown(call.target)!r}"
    kind, raw = _only(item.arg, what, where)
    if kind not in _KINDS:
        raise UnusableModelError(
            f"{where} holds {what} as {shown(kind)!r}, which is not read: build the layer from PyTorch's plain operators, or load the "
            "weights with --arch package.module:factory."
        )
    form, convert = _KINDS[kind]
    try:
        return convert(decode(raw, form, what, where))
    except KeyError:
        raise damaged(where, f"{what} is {shown(bytes(raw).decode())}, which is no value of {kind}") from None


def _names(output: Union, call: Call, where: str) -> Any:
    """Names of one result."""
    what = f"a result of the operator {shown(call.target)!r}"
    kind, raw = _only(output, what, where)
    match kind:
        case "as_none":
            return None
        case "as_tensor":
            return decode(raw, Named, what, where).name
        case "as_tensors":
            return tuple(item.name for item in decode(raw, list[Named], what, where))
        case "as_sym_int" | "as_sym_float" | "as_sym_bool":
            return decode(raw, SymbolicArgument, what, where).as_name
        case _:
            raise damaged(where, f"{what} is of the type {shown(kind)!r}")


def _flat(names: Any) -> Iterator[str]:
    if isinstance(names, str):
        yield names
    elif isinstance(names, tuple):
        for item in names:
            yield from _flat(item)


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, Reference):
        yield value.name
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _references(item)


def _named(value: Named) -> Reference:
    return Reference(value.name)


def _float(value: Float) -> float:
    return float(value)


def _optional(value: OptionalTensor) -> Reference | None:
    return None if value.as_tensor is None else _named(value.as_tensor)


def _symbolic(value: SymbolicArgument) -> Any:
    if value.as_name is not None:
        return Reference(value.as_name)
    number = next((item for item in (value.as_bool, value.as_int, value.as_float) if item is not None), None)
    if number is None:
        raise KeyError
    return float(number) if isinstance(number, str) else number


def _each(convert: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda values: [convert(value) for value in values]


def _itself(value: Any) -> Any:
    return value


_KINDS: dict[str, tuple[Any, Callable[[Any], Any]]] = {
    "as_none": (bool, lambda _: None),
    "as_tensor": (Named, _named),
    "as_tensors": (list[Named], _each(_named)),
    "as_optional_tensor": (OptionalTensor, _optional),
    "as_optional_tensors": (list[OptionalTensor], _each(_optional)),
    "as_int": (int, _itself),
    "as_ints": (list[int], _itself),
    "as_float": (Float, _float),
    "as_floats": (list[Float], _each(_float)),
    "as_bool": (bool, _itself),
    "as_bools": (list[bool], _itself),
    "as_string": (str, _itself),
    "as_sym_int": (SymbolicArgument, _symbolic),
    "as_sym_ints": (list[SymbolicArgument], _each(_symbolic)),
    "as_sym_float": (SymbolicArgument, _symbolic),
    "as_sym_floats": (list[SymbolicArgument], _each(_symbolic)),
    "as_sym_bool": (SymbolicArgument, _symbolic),
    "as_scalar_type": (int, DTYPES.__getitem__),
    "as_memory_format": (int, MEMORY_FORMATS.__getitem__),
    "as_layout": (int, {STRIDED: torch.strided}.__getitem__),
    "as_device": (Any, lambda _: Marker.DEVICE),
}
"""The types of arguments: how each is written in JSON, and how it is given to an operator."""
