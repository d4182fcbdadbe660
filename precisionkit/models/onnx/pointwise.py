"""Elementwise operators of ONNX as torch functions."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from functools import partial, reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from precisionkit.models.onnx.graph import Refused
from precisionkit.models.onnx.lowering import Call, Lower, Lowered, Operand, Use, Value

_BEYOND = 3.4028234e38  # what old exporters write for no bound

TYPES = {1: torch.float32, 2: torch.uint8, 3: torch.int8, 5: torch.int16, 6: torch.int32, 7: torch.int64, 9: torch.bool, 11: torch.float64}
"""Types of torch by the numbers of TensorProto.DataType."""


def _unary(function: Callable[[Tensor], Tensor]) -> Lower:
    return lambda use: Call(function, (use.operand(0),))


def _number_or_value(use: Use, index: int) -> Operand:
    """A constant of one element that broadcasts to nothing larger is a Python number, as in the torch program it comes from."""
    other, value = use.operand(1 - index), use.operand(index)
    number = use.number(index)
    if number is None or other.tensor is not None or len(value.shape) > len(other.shape):
        return value
    return number


def _binary(function: Callable[..., Tensor], *, commutes: bool = False, neutral: float | None = None) -> Lower:
    """An operator of two operands; with its neutral number on the right, or on either side if it commutes, it does nothing."""

    def lower(use: Use) -> Lowered:
        left, right = _number_or_value(use, 0), _number_or_value(use, 1)
        for one, other in ((left, right), (right, left))[: 1 + commutes]:
            if neutral is not None and isinstance(one, Value) and isinstance(other, float) and other == neutral:
                return one
        return Call(function, (right, left) if commutes and not isinstance(left, Value) else (left, right))

    return lower


def _div(use: Use) -> Lowered:
    left, right = use.operand(0), _number_or_value(use, 1)
    if isinstance(right, float) and right == 1.0:
        return left
    if left.dtype.is_floating_point:
        return Call(operator.truediv, (left, right))
    return Call(torch.div, (left, use.operand(1)), {"rounding_mode": "trunc"})


def _power(use: Use) -> Lowered:
    exponent = _number_or_value(use, 1)
    if isinstance(exponent, float) and exponent.is_integer():
        exponent = int(exponent)
    return Call(torch.pow, (use.operand(0), exponent))


def _modulo(use: Use) -> Lowered:
    function = torch.fmod if use.attribute("fmod", 0) else torch.remainder
    return Call(function, (use.operand(0), use.operand(1)))


def _variadic(function: Callable[[Tensor, Tensor], Tensor], bound: str | None = None) -> Lower:
    def lower(use: Use) -> Lowered:
        values = [use.operand(i) for i in range(len(use.operands))]
        if len(values) == 1:
            return values[0]
        if bound and len(values) == 2:
            for index in (0, 1):
                number = _number_or_value(use, index)
                if isinstance(number, float | int):
                    return Call(torch.clamp, (values[1 - index],), {bound: number})
        return Call(partial(_reduced, function), tuple(values))

    return lower


def _reduced(function: Callable[[Tensor, Tensor], Tensor], *values: Tensor) -> Tensor:
    return reduce(function, values)


def _clip(use: Use) -> Lowered:
    if use.opset >= 11:
        bounds = [use.number(i) for i in (1, 2)]
        if any(use.optional(i) is not None and bounds[i - 1] is None for i in (1, 2)):
            raise Refused("takes its bounds from the input, but constants are needed there")
    else:
        bounds = [use.attribute("min"), use.attribute("max")]
    low, high = (None if bound is None or abs(bound) >= _BEYOND else bound for bound in bounds)
    value = use.operand(0)
    if low is None and high is None:
        return value
    if low is not None and high is not None and low <= high and value.dtype.is_floating_point:
        return Call(F.hardtanh, (value,), {"min_val": low, "max_val": high})
    return Call(torch.clamp, (value,), {"min": low, "max": high})


def _with(function: Callable[..., Tensor], **names: tuple[str, float]) -> Lower:
    """A function whose options are attributes: torch's name, then the one of ONNX and its default."""
    return lambda use: Call(function, (use.operand(0),), {name: use.attribute(*source) for name, source in names.items()})


def _hard_sigmoid(use: Use) -> Lowered:
    slope, middle = use.attribute("alpha", 0.2), use.attribute("beta", 0.5)
    if abs(slope - 1 / 6) < 1e-7 and middle == 0.5:
        return Call(F.hardsigmoid, (use.operand(0),))
    return Call(_scaled_clamp, (use.operand(0),), {"slope": slope, "middle": middle})


def _scaled_clamp(x: Tensor, *, slope: float, middle: float) -> Tensor:
    return F.hardtanh(x * slope + middle, 0.0, 1.0)


def _selu(use: Use) -> Lowered:
    constants = (use.attribute("alpha", 1.6732632), use.attribute("gamma", 1.0507010))
    if any(abs(given - own) > 1e-6 for given, own in zip(constants, (1.6732632, 1.0507010), strict=True)):
        raise Refused(f"has the constants {constants}, which are not those of SELU")
    return Call(F.selu, (use.operand(0),))


def _gelu(use: Use) -> Lowered:
    return Call(F.gelu, (use.operand(0),), {"approximate": use.attribute("approximate", "none")})


def _prelu(use: Use) -> Lowered:
    slope = use.constant(1)
    channels = use.static(1) if use.rank() > 1 else 1
    rest = list(slope.shape)
    places = [i for i, size in enumerate(rest) if size != 1]
    # ONNX aligns shapes at their ends; torch wants one slope, or one for each channel
    if places and (len(places) > 1 or len(rest) - places[0] != use.rank() - 1 or slope.numel() != channels):
        raise Refused(f"has slopes of the shape {tuple(rest)}, but one for each channel is needed")
    return Call(F.prelu, (use.operand(0), slope.reshape(-1)))


def _softmax(function: Callable[..., Tensor]) -> Lower:
    def lower(use: Use) -> Lowered:
        axis = use.axis(use.attribute("axis", -1 if use.opset >= 13 else 1))
        if use.opset >= 13 or axis == use.rank() - 1:
            return Call(function, (use.operand(0),), {"dim": axis})
        # before version 13, everything from the axis on is one row
        return Call(_over_rest, (use.operand(0),), {"function": function, "axis": axis})

    return lower


def _over_rest(x: Tensor, *, function: Callable[..., Tensor], axis: int) -> Tensor:
    return function(x.flatten(axis), dim=axis).reshape(x.shape)


def _cast(use: Use) -> Lowered:
    value, kind = use.operand(0), use.attribute("to")
    if kind not in TYPES:
        raise Refused(f"casts to the ONNX type {kind}, but only float32 numbers and integers are supported")
    return value if value.dtype == TYPES[kind] else Call(_converted, (value,), {"dtype": TYPES[kind]})


def _cast_like(use: Use) -> Lowered:
    value, dtype = use.operand(0), use.operand(1).dtype
    return value if value.dtype == dtype else Call(_converted, (value,), {"dtype": dtype})


def _converted(x: Tensor, *, dtype: torch.dtype) -> Tensor:
    return x.to(dtype)


def _same(use: Use) -> Lowered:
    return use.operand(0)


def _dropout(use: Use) -> Lowered:
    use.only_result()
    if use.opset >= 12 and use.optional(2) is not None and use.number(2):
        raise Refused("drops numbers at random: export the network in evaluation mode")
    return use.operand(0)


POINTWISE: Mapping[str, Lower] = {
    "Abs": _unary(torch.abs),
    "Add": _binary(operator.add, commutes=True, neutral=0.0),
    "And": _binary(torch.logical_and),
    "Cast": _cast,
    "CastLike": _cast_like,
    "Ceil": _unary(torch.ceil),
    "Celu": _with(F.celu, alpha=("alpha", 1.0)),
    "Clip": _clip,
    "Cos": _unary(torch.cos),
    "Div": _div,
    "Dropout": _dropout,
    "Elu": _with(F.elu, alpha=("alpha", 1.0)),
    "Equal": _binary(torch.eq, commutes=True),
    "Erf": _unary(torch.erf),
    "Exp": _unary(torch.exp),
    "Floor": _unary(torch.floor),
    "Gelu": _gelu,
    "Greater": _binary(operator.gt),
    "GreaterOrEqual": _binary(operator.ge),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _unary(F.hardswish),
    "Identity": _same,
    "LeakyRelu": _with(F.leaky_relu, negative_slope=("alpha", 0.01)),
    "Less": _binary(operator.lt),
    "LessOrEqual": _binary(operator.le),
    "Log": _unary(torch.log),
    "LogSoftmax": _softmax(F.log_softmax),
    "Max": _variadic(torch.maximum, "min"),
    "Min": _variadic(torch.minimum, "max"),
    "Mish": _unary(F.mish),
    "Mod": _modulo,
    "Mul": _binary(operator.mul, commutes=True, neutral=1.0),
    "Neg": _unary(torch.neg),
    "Not": _unary(torch.logical_not),
    "Or": _binary(torch.logical_or),
    "PRelu": _prelu,
    "Pow": _power,
    "Reciprocal": _unary(torch.reciprocal),
    "Relu": _unary(F.relu),
    "Selu": _selu,
    "Sigmoid": _unary(torch.sigmoid),
    "Sign": _unary(torch.sign),
    "Sin": _unary(torch.sin),
    "Softmax": _softmax(F.softmax),
    "Softplus": _unary(F.softplus),
    "Softsign": _unary(F.softsign),
    "Sqrt": _unary(torch.sqrt),
    "Sub": _binary(operator.sub, neutral=0.0),
    "Sum": _variadic(torch.add),
    "Tanh": _unary(torch.tanh),
    "Where": lambda use: Call(torch.where, (use.operand(0), use.operand(1), use.operand(2))),
}
"""Lowerings by ONNX name."""
