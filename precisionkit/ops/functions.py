"""The elementwise functions that networks use, each with its derivative, bounds of slope and curvature, and contract."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from precisionkit import contracts
from precisionkit.contracts import Contract
from precisionkit.ops._function import Function, Range, function_operator
from precisionkit.ops.record import Attributes, Operator

_PI = math.pi
_WIDE = 1 + 2.0**-30
"""Covers the rounding of a bound that is computed in a few operations."""
_ROOM = 1 + 2.0**-7
"""On maxima that no formula gives: with it, balls of Arb prove them everywhere, not on a grid (tests/soundness/test_slopes.py)."""


# ------------------------------------------------------------------------------------------------- logistic and its kin
def _sigmoid_curvature(_: Attributes, where: Range) -> Tensor:
    """``|s''| = s' |1 - 2 s| <= min(s'(nearest), 1 / (6 sqrt 3))``."""
    return _sigmoid_slope(where.nearest).clamp_max(0.09623) * _WIDE


def _sigmoid_slope(x: Tensor) -> Tensor:
    s = torch.sigmoid(-x.abs())
    return s * (1 - s)


def _logistic(engine: Any, x: Any) -> Any:
    """Of a non-positive exponent, so that nothing overflows."""
    if engine.upper(x) > 0:
        return 1 / (1 + engine.exp(-x))
    power = engine.exp(x)
    return power / (1 + power)


SIGMOID = function_operator(
    "sigmoid",
    ("aten.sigmoid.default",),
    Function(
        value=lambda _, x: torch.sigmoid(x),
        slope=lambda _, x: _sigmoid_slope(x),
        steepest=lambda _, where: _sigmoid_slope(where.nearest),
        curvature=_sigmoid_curvature,
        exact=lambda engine, _, x: _logistic(engine, x),
        contract=contracts.SIGMOID,
    ),
    bound="|s'| e + |s''| e^2 / 2, at most e / 4, and 9 v |s|",
    assumption=contracts.SIGMOID.sentence("Sigmoids"),
)
LOG_SIGMOID = function_operator(
    "log_sigmoid",
    ("aten.log_sigmoid.default",),
    Function(
        value=lambda _, x: F.logsigmoid(x),
        slope=lambda _, x: torch.sigmoid(-x),
        steepest=lambda _, where: torch.sigmoid(-where.low),
        curvature=lambda _, where: _sigmoid_slope(where.nearest),
        exact=lambda engine, _, x: -_log_of_one_plus_exp(engine, -x),
        contract=contracts.SOFTPLUS,
    ),
    bound="|f'| e + |f''| e^2 / 2 and 9 v |f| + 2.1e-9",
    assumption=contracts.SOFTPLUS.sentence("Softplus and log-sigmoid"),
)


def _log_of_one_plus_exp(engine: Any, x: Any) -> Any:
    return engine.log(1 + engine.exp(x)) if engine.upper(x) <= 0 else x + engine.log(1 + engine.exp(-x))


def _beta(attributes: Attributes) -> float:
    return float(attributes.get("beta", 1))


SOFTPLUS = function_operator(
    "softplus",
    ("aten.softplus.default",),
    Function(
        value=lambda attributes, x: F.softplus(x, _beta(attributes), attributes.get("threshold", 20)),
        slope=lambda attributes, x: torch.sigmoid(_beta(attributes) * x),
        steepest=lambda attributes, where: torch.sigmoid(_beta(attributes) * where.high),
        curvature=lambda attributes, where: _beta(attributes) * _sigmoid_slope(_beta(attributes) * where.nearest * (1 - 2.0**-50)),
        exact=lambda engine, attributes, x: (
            _log_of_one_plus_exp(engine, x * engine.number(_beta(attributes))) / engine.number(_beta(attributes))
        ),
        contract=contracts.SOFTPLUS,
    ),
    bound="|f'| e + |f''| e^2 / 2 and 9 v |f| + 2.1e-9",
    check=lambda attributes, _: _softplus_objection(attributes),
    assumption=contracts.SOFTPLUS.sentence("Softplus and log-sigmoid"),
)


def _softplus_objection(attributes: Attributes) -> str | None:
    beta, threshold = _beta(attributes), float(attributes.get("threshold", 20))
    if beta < 1 or math.frexp(beta)[0] != 0.5 or threshold < 20:
        return f"softplus needs beta to be 1, 2, 4, ... and a threshold of at least 20, not {beta:g} and {threshold:g}"
    return None


def _silu_slope(x: Tensor) -> Tensor:
    s = torch.sigmoid(x)
    return s * (1 + x * torch.sigmoid(-x))


SILU = function_operator(
    "silu",
    ("aten.silu.default",),
    Function(
        value=lambda _, x: F.silu(x),
        slope=lambda _, x: _silu_slope(x),
        steepest=lambda _, where: 1.0999 * _ROOM,
        # |f''| = s' |2 - x tanh(x / 2)|, below an envelope that falls with |x|
        curvature=lambda _, where: _sigmoid_slope(where.nearest) * (2 + (where.nearest - 4).clamp_min(0)) * _ROOM,
        exact=lambda engine, _, x: x * _logistic(engine, x),
        contract=contracts.SILU,
    ),
    bound="|f'| e + |f''| e^2 / 2, at most 1.11 e, and 9 v |f|",
    assumption=contracts.SILU.sentence("SiLU"),
)


def _mish_slope(x: Tensor) -> Tensor:
    t = torch.tanh(F.softplus(x))
    return t + x * torch.sigmoid(x) * (1 - t * t)


def _exact_mish(engine: Any, _: Attributes, x: Any) -> Any:
    """``tanh(log(1 + e^x)) = (q^2 + 2 q) / (q^2 + 2 q + 2)`` with ``q = e^x``."""
    if engine.upper(x) > 0:
        p = engine.exp(-x)
        return x * (1 + 2 * p) / (1 + 2 * p + 2 * p * p)
    q = engine.exp(x)
    return x * (q * q + 2 * q) / (q * q + 2 * q + 2)


MISH = function_operator(
    "mish",
    ("aten.mish.default",),
    Function(
        value=lambda _, x: F.mish(x),
        slope=lambda _, x: _mish_slope(x),
        steepest=lambda _, where: 1.0885 * _ROOM,
        curvature=lambda _, where: 0.6401 * _ROOM,
        exact=_exact_mish,
        contract=contracts.MISH,
    ),
    bound="|f'| e + .65 e^2 / 2, at most 1.1 e, and 13 v |f|",
    assumption=contracts.MISH.sentence("Mish"),
)


# ------------------------------------------------------------------------------------------------------ tanh, erf, gelu
def _tanh_slope(x: Tensor) -> Tensor:
    """``1 - tanh(x)^2`` without cancellation."""
    return 4 * _sigmoid_slope(2 * x)


TANH = function_operator(
    "tanh",
    ("aten.tanh.default",),
    Function(
        value=lambda _, x: torch.tanh(x),
        slope=lambda _, x: _tanh_slope(x),
        steepest=lambda _, where: _tanh_slope(where.nearest),
        curvature=lambda _, where: (2 * _tanh_slope(where.nearest)).clamp_max(0.76981) * _WIDE,
        exact=lambda engine, _, x: _exact_tanh(engine, x),
        contract=contracts.TANH,
    ),
    bound="|f'| e + |f''| e^2 / 2, at most e, and 9 v |f|",
    assumption=contracts.TANH.sentence("Hyperbolic tangents"),
)


def _exact_tanh(engine: Any, x: Any) -> Any:
    if engine.upper(x) > 0:
        power = engine.exp(-2 * x)
        return (1 - power) / (1 + power)
    power = engine.exp(2 * x)
    return (power - 1) / (power + 1)


def _bell(x: Tensor) -> Tensor:
    """The density of the normal distribution."""
    return torch.exp(-x * x / 2) / math.sqrt(2 * _PI)


ERF = function_operator(
    "erf",
    ("aten.erf.default",),
    Function(
        value=lambda _, x: torch.erf(x),
        slope=lambda _, x: torch.exp(-x * x) * (2 / math.sqrt(_PI)),
        steepest=lambda _, where: torch.exp(-where.nearest.square()) * (2 / math.sqrt(_PI)) * _WIDE,
        # |f''| = 4 / sqrt(pi) |x| exp(-x^2), largest at 1 / sqrt 2 and falling behind it
        curvature=lambda _, where: _erf_curvature(where.nearest),
        exact=lambda engine, _, x: engine.erf(x),
        contract=contracts.ERF,
    ),
    bound="|f'| e + |f''| e^2 / 2, at most 1.13 e, and 9 v |f| + 16 v",
    assumption=contracts.ERF.sentence("Error functions"),
)


def _erf_curvature(nearest: Tensor) -> Tensor:
    far = nearest.clamp_min(0.70711)
    return 4 / math.sqrt(_PI) * far * torch.exp(-far * far) * (1 + 2.0**-10)


def _gelu_tanh(attributes: Attributes) -> bool:
    return bool(attributes.get("approximate", "none") == "tanh")


_GELU_A, _GELU_B = math.sqrt(2 / _PI), 0.044715
"""``x (1 + tanh(a (x + b x^3))) / 2``."""


def _gelu_slope(attributes: Attributes, x: Tensor) -> Tensor:
    if not _gelu_tanh(attributes):
        return 0.5 * torch.erfc(-x / math.sqrt(2)) + x * _bell(x)
    inner = _GELU_A * (x + _GELU_B * x**3)
    return torch.sigmoid(2 * inner) + 0.5 * x * _tanh_slope(inner) * (_GELU_A * (1 + 3 * _GELU_B * x * x))


def _gelu_curvature(attributes: Attributes, where: Range) -> Tensor:
    """``|f''| = bell(x) |2 - x^2| <= bell(x) (2 + x^2)``, which falls with ``|x|``, and at most .798."""
    if _gelu_tanh(attributes):
        return _gelu_tanh_curvature(where.nearest)
    return (_bell(where.nearest) * (2 + where.nearest.square())).clamp_max(0.79789) * _WIDE


def _gelu_tanh_curvature(t: Tensor) -> Tensor:
    """``f'' = u' T + x (u'' - 2 u'^2 tanh u) T / 2`` with ``T = 1 - tanh(u)^2 <= 4 exp(-2 |u|)``, ``|u| >= a |x|``.

    Each factor's magnitude is a polynomial in |x| with positive coefficients, so the bound is an envelope behind x = 3, where
    the exponential falls faster than the polynomial grows; before, .8 bounds it.
    """
    slope, bend = _GELU_A * (1 + 3 * _GELU_B * t * t), 6 * _GELU_A * _GELU_B * t
    rest = 4 * torch.exp(-2 * _GELU_A * (t + _GELU_B * t**3)) * (slope + t * (bend / 2 + slope * slope))
    return torch.where(t >= 3, rest, torch.full_like(t, 0.8)).clamp_max(0.8) * _ROOM


def _exact_gelu(engine: Any, attributes: Attributes, x: Any) -> Any:
    half = engine.number(1) / 2
    if not _gelu_tanh(attributes):
        return x * (1 + engine.erf(x * engine.sqrt(half))) * half
    inner = engine.sqrt(2 / engine.pi()) * (x + engine.number(447150000) / 10000000000 * x * x * x)
    return x * (1 + _exact_tanh(engine, inner)) * half


GELU = function_operator(
    "gelu",
    ("aten.gelu.default",),
    Function(
        value=lambda attributes, x: F.gelu(x, approximate=attributes.get("approximate", "none")),
        slope=_gelu_slope,
        steepest=lambda _, where: 1.1291 * _ROOM,
        curvature=_gelu_curvature,
        exact=_exact_gelu,
        contract=contracts.GELU,
        largest=2.0,  # x (1 + erf) before it is halved
    ),
    bound="|f'| e + |f''| e^2 / 2, at most 1.14 e, and 17 v |x| + v |f|",
    assumption=contracts.GELU.sentence("GELU, with erf or tanh,"),
)

# ------------------------------------------------------------------------------------------- powers, roots, exponentials
EXP = function_operator(
    "exp",
    ("aten.exp.default",),
    Function(
        value=lambda _, x: torch.exp(x),
        slope=lambda _, x: torch.exp(x),
        steepest=lambda _, where: torch.exp(where.high) * _WIDE,
        curvature=lambda _, where: torch.exp(where.high) * _WIDE,
        exact=lambda engine, _, x: engine.exp(x),
        contract=contracts.EXP,
    ),
    bound="f e + exp(c + e) e^2 / 2 and 9 v f",
    assumption=contracts.EXP.sentence("Exponentials"),
)


def _where_positive(where: Range, bound: Tensor) -> Tensor:
    return torch.where(where.low > 0, bound * _WIDE, torch.full_like(bound, torch.inf))


LOG = function_operator(
    "log",
    ("aten.log.default",),
    Function(
        value=lambda _, x: torch.log(x),
        slope=lambda _, x: 1 / x,
        steepest=lambda _, where: _where_positive(where, 1 / where.low),
        curvature=lambda _, where: _where_positive(where, 1 / where.low.square()),
        exact=lambda engine, _, x: engine.log(x),
        contract=contracts.LOG,
    ),
    bound="e / c + e^2 / (2 (c - e)^2) and 9 v |f|; none where c - e <= 0",
    assumption=contracts.LOG.sentence("Logarithms"),
)
SQRT = function_operator(
    "sqrt",
    ("aten.sqrt.default",),
    Function(
        value=lambda _, x: torch.sqrt(x),
        slope=lambda _, x: 0.5 / torch.sqrt(x),
        steepest=lambda _, where: _where_positive(where, 0.5 / where.low.sqrt()),
        curvature=lambda _, where: _where_positive(where, 0.25 * where.low**-1.5),
        exact=lambda engine, _, x: engine.sqrt(x),
        contract=contracts.SQRT,
    ),
    bound="e / (2 sqrt c) + e^2 (c - e)^(-3/2) / 8 and 5 v f; none where c - e <= 0",
    assumption=contracts.SQRT.sentence("Square roots and their reciprocals"),
)
RSQRT = function_operator(
    "rsqrt",
    ("aten.rsqrt.default",),
    Function(
        value=lambda _, x: torch.rsqrt(x),
        slope=lambda _, x: -0.5 * x**-1.5,
        steepest=lambda _, where: _where_positive(where, 0.5 * where.low**-1.5),
        curvature=lambda _, where: _where_positive(where, 0.75 * where.low**-2.5),
        exact=lambda engine, _, x: 1 / engine.sqrt(x),
        contract=contracts.SQRT,
        stores_on_the_way=True,  # torch's scalar half kernels round the root first
    ),
    bound="c^(-3/2) e / 2 + 3/8 (c - e)^(-5/2) e^2 and 5 v f; none where c - e <= 0",
    assumption=contracts.SQRT.sentence("Square roots and their reciprocals"),
)
_CORRECT = Contract(result=1)
"""Correctly rounded, by IEEE 754."""


def _off_zero(where: Range, bound: Tensor) -> Tensor:
    return torch.where(where.nearest > 0, bound * _WIDE, torch.full_like(bound, torch.inf))


RECIPROCAL = function_operator(
    "reciprocal",
    ("aten.reciprocal.default",),
    Function(
        value=lambda _, x: torch.reciprocal(x),
        slope=lambda _, x: -1 / (x * x),
        steepest=lambda _, where: _off_zero(where, 1 / where.nearest.square()),
        curvature=lambda _, where: _off_zero(where, 2 * where.nearest**-3),
        exact=lambda engine, _, x: 1 / x,
        contract=Contract(result=3),
    ),
    bound="e / c^2 + (|c| - e)^(-3) e^2 and 4 v |f|; none where |c| - e <= 0",
)
SQUARE = function_operator(
    "pow",
    ("aten.pow.Tensor_Scalar", "aten.square.default"),
    Function(
        value=lambda _, x: x * x,
        slope=lambda _, x: 2 * x,
        steepest=lambda _, where: 2 * torch.maximum(where.low.abs(), where.high.abs()) * _WIDE,
        curvature=lambda _, where: 2.0,
        exact=lambda engine, _, x: x * x,
        contract=_CORRECT,
    ),
    bound="2 |c| e + e^2 and 2 v c^2",
    check=lambda attributes, _: None if attributes.get("exponent", 2) == 2 else f"the exponent {attributes['exponent']:g} is not 2",
)
SIN = function_operator(
    "sin",
    ("aten.sin.default",),
    Function(
        value=lambda _, x: torch.sin(x),
        slope=lambda _, x: torch.cos(x),
        steepest=lambda _, where: 1.0,
        curvature=lambda _, where: 1.0,
        exact=lambda engine, _, x: engine.sin(x),
        contract=contracts.SIN,
    ),
    bound="|f'| e + e^2 / 2, at most e, and 9 v |f| + 4 v",
    assumption=contracts.SIN.sentence("Sines and cosines"),
)
COS = function_operator(
    "cos",
    ("aten.cos.default",),
    Function(
        value=lambda _, x: torch.cos(x),
        slope=lambda _, x: -torch.sin(x),
        steepest=lambda _, where: 1.0,
        curvature=lambda _, where: 1.0,
        exact=lambda engine, _, x: engine.cos(x),
        contract=contracts.SIN,
    ),
    bound="|f'| e + e^2 / 2, at most e, and 9 v |f| + 4 v",
    assumption=contracts.SIN.sentence("Sines and cosines"),
)


# --------------------------------------------------------------------------------------------------- piecewise functions
def _limits(attributes: Attributes) -> tuple[float | None, float | None]:
    low = attributes.get("min", attributes.get("min_val"))
    high = attributes.get("max", attributes.get("max_val"))
    return low, high


def _hardtanh_limits(attributes: Attributes) -> Attributes:
    """The defaults of hardtanh are -1 and 1; of clamp, none."""
    return {"min": attributes.get("min_val", -1.0), "max": attributes.get("max_val", 1.0)}


def _clamp_slope(attributes: Attributes, x: Tensor) -> Tensor:
    low, high = _limits(attributes)
    inside = torch.ones_like(x)
    if low is not None:
        inside = inside * (x >= low)
    return inside if high is None else inside * (x <= high)


def _exact_clamp(engine: Any, attributes: Attributes, x: Any) -> Any:
    low, high = _limits(attributes)
    if low is not None:
        x = engine.maximum(x, engine.number(low))
    return x if high is None else -engine.maximum(-x, -engine.number(high))


_CLAMP = Function(
    value=lambda attributes, x: torch.clamp(x, *_limits(attributes)),
    slope=_clamp_slope,
    steepest=lambda _, where: 1.0,
    curvature=lambda _, where: 0.0,
    exact=_exact_clamp,
    contract=None,
    kinks=lambda attributes: tuple((float(limit), 1.0) for limit in _limits(attributes) if limit is not None),
    ends=("min", "max", "min_val", "max_val"),
)
_HARDTANH = Function(
    value=lambda attributes, x: _CLAMP.value(_hardtanh_limits(attributes), x),
    slope=lambda attributes, x: _clamp_slope(_hardtanh_limits(attributes), x),
    steepest=_CLAMP.steepest,
    curvature=_CLAMP.curvature,
    exact=lambda engine, attributes, x: _exact_clamp(engine, _hardtanh_limits(attributes), x),
    contract=None,
    kinks=lambda attributes: _CLAMP.kinks(_hardtanh_limits(attributes)),
    ends=("min_val", "max_val"),
)
_PIECES = "e, or e / 2 around a kink; no rounding but that of the limits"


def _clamp_objection(attributes: Attributes, _: Any) -> str | None:
    low, high = _limits(attributes)
    return "its limits are in the wrong order" if low is not None and high is not None and low > high else None


CLAMP = function_operator(
    "clamp", ("aten.clamp.default", "aten.clamp_min.default", "aten.clamp_max.default"), _CLAMP, bound=_PIECES, check=_clamp_objection
)
HARDTANH = function_operator("hardtanh", ("aten.hardtanh.default",), _HARDTANH, bound=_PIECES)
_SIX = {"min": 0.0, "max": 6.0}
RELU6 = function_operator(
    "relu6",
    ("aten.relu6.default",),
    Function(
        value=lambda _, x: torch.clamp(x, 0.0, 6.0),
        slope=lambda _, x: _clamp_slope(_SIX, x),
        steepest=_CLAMP.steepest,
        curvature=_CLAMP.curvature,
        exact=lambda engine, _, x: _exact_clamp(engine, _SIX, x),
        contract=None,
        kinks=lambda _: _CLAMP.kinks(_SIX),
    ),
    bound=_PIECES,
)


def _exact_ramp(engine: Any, x: Any) -> Any:
    """``min(max(x + 3, 0), 6) / 6``."""
    six = engine.number(6)
    return -engine.maximum(-engine.maximum(x + 3, engine.number(0)), -six) / 6


HARDSIGMOID = function_operator(
    "hardsigmoid",
    ("aten.hardsigmoid.default",),
    Function(
        value=lambda _, x: F.hardsigmoid(x),
        slope=lambda _, x: ((x > -3) & (x < 3)).to(x.dtype) / 6,
        steepest=lambda _, where: 0.1667,
        curvature=lambda _, where: 0.0,
        exact=lambda engine, _, x: _exact_ramp(engine, x),
        contract=Contract(result=4),  # the sum, a rounded sixth or a quotient, a product
        kinks=lambda _: ((-3.0, 0.1667), (3.0, 0.1667)),
        largest=8.0,
    ),
    bound="e / 6 and 5 v |f|",
)
HARDSWISH = function_operator(
    "hardswish",
    ("aten.hardswish.default",),
    Function(
        value=lambda _, x: F.hardswish(x),
        slope=lambda _, x: torch.where(x <= -3, 0.0, torch.where(x >= 3, 1.0, (2 * x + 3) / 6)),
        steepest=lambda _, where: 1.5,
        curvature=lambda _, where: torch.where((where.high <= -3) | (where.low >= 3), 0.0, 0.33334),
        exact=lambda engine, _, x: x * _exact_ramp(engine, x),
        contract=Contract(result=5),  # one product more
        kinks=lambda _: ((-3.0, 0.5), (3.0, 0.5)),
        largest=8.0,
    ),
    bound="|f'| e + e^2 / 6 + e / 2 around a kink, at most 1.5 e, and 6 v |f|",
)


def _slope(attributes: Attributes) -> float:
    return float(attributes.get("negative_slope", 0.01))


LEAKY_RELU = function_operator(
    "leaky_relu",
    ("aten.leaky_relu.default",),
    Function(
        value=lambda attributes, x: F.leaky_relu(x, _slope(attributes)),
        slope=lambda attributes, x: torch.where(x > 0, torch.ones_like(x), _slope(attributes)),
        steepest=lambda attributes, where: max(1.0, abs(_slope(attributes))),
        curvature=lambda _, where: 0.0,
        exact=lambda engine, attributes, x: x if engine.upper(x) > 0 else x * engine.number(_slope(attributes)),
        contract=_CORRECT,
        kinks=lambda attributes: ((0.0, abs(1 - _slope(attributes))),),
        parameters=("negative_slope",),
    ),
    bound="|f'| e, |1 - slope| e more around zero, and 2 v |f|",
)


def _elu_parameters(attributes: Attributes) -> tuple[float, float, float]:
    return tuple(float(attributes.get(name, 1.0)) for name in ("alpha", "scale", "input_scale"))  # type: ignore[return-value]


def _elu_slope(attributes: Attributes, x: Tensor) -> Tensor:
    alpha, scale, within = _elu_parameters(attributes)
    return torch.where(x > 0, scale, alpha * scale * within * torch.exp((within * x).clamp_max(0)))


def _elu_steepest(attributes: Attributes, where: Range) -> float:
    alpha, scale, within = _elu_parameters(attributes)
    return scale * max(1.0, alpha * within)


def _elu_curvature(attributes: Attributes, where: Range) -> Tensor:
    alpha, scale, within = _elu_parameters(attributes)
    return torch.where(where.low > 0, 0.0, alpha * scale * within**2 * torch.exp((within * where.high).clamp_max(0))) * _WIDE


def _exact_elu(engine: Any, attributes: Attributes, x: Any) -> Any:
    alpha, scale, within = map(engine.number, _elu_parameters(attributes))
    return x * scale if engine.upper(x) > 0 else alpha * scale * (engine.exp(within * x) - 1)


def _elu_objection(attributes: Attributes, _: Any) -> str | None:
    if min(_elu_parameters(attributes)) <= 0:
        return "its parameters must be positive"
    return None if _elu_parameters(attributes)[2] == 1 else "only an input scale of 1 is supported"


def _elu_function(value: Any, fixed: dict[str, float]) -> Function:
    return Function(
        value=value,
        slope=lambda attributes, x: _elu_slope({**attributes, **fixed}, x),
        steepest=lambda attributes, where: _elu_steepest({**attributes, **fixed}, where),
        curvature=lambda attributes, where: _elu_curvature({**attributes, **fixed}, where),
        exact=lambda engine, attributes, x: _exact_elu(engine, {**attributes, **fixed}, x),
        contract=contracts.ELU,
        kinks=lambda attributes: (
            (0.0, abs(_elu_parameters({**attributes, **fixed})[0] - 1) * _elu_parameters({**attributes, **fixed})[1]),
        ),
        parameters=("alpha", "scale"),
    )


ELU = function_operator(
    "elu",
    ("aten.elu.default",),
    _elu_function(
        lambda attributes, x: torch.ops.aten.elu(x, *_elu_parameters(attributes)),
        {},
    ),
    bound="|f'| e + |f''| e^2 / 2, |1 - alpha| e more around zero, and 13 v |f|",
    check=_elu_objection,
    assumption=contracts.ELU.sentence("ELU and SELU"),
)
SELU = function_operator(
    "selu",
    ("aten.selu.default",),
    _elu_function(lambda _, x: F.selu(x), {"alpha": 1.6732632423543772848170429916717, "scale": 1.0507009873554804934193349852946}),
    bound="as elu",
    assumption=contracts.ELU.sentence("ELU and SELU"),
)


# ------------------------------------------------------------------------------------------------------- signs alone
_EXACTLY_ONE: Any = lambda *_: 1.0  # noqa: E731
ABS = function_operator(
    "abs",
    ("aten.abs.default",),
    Function(
        value=lambda _, x: x.abs(),
        slope=lambda _, x: torch.where(x < 0, -torch.ones_like(x), 1.0),
        steepest=_EXACTLY_ONE,
        curvature=lambda _, where: 0.0,
        exact=lambda engine, _, x: engine.maximum(x, -x),
        contract=None,
        kinks=lambda _: ((0.0, 2.0),),
    ),
    bound="e; no rounding",
)
NEG = function_operator(
    "neg",
    ("aten.neg.default",),
    Function(
        value=lambda _, x: -x,
        slope=lambda _, x: torch.full_like(x, -1.0),
        steepest=_EXACTLY_ONE,
        curvature=lambda _, where: 0.0,
        exact=lambda engine, _, x: -x,
        contract=None,
    ),
    bound="e; no rounding",
)

FUNCTIONS: tuple[Operator, ...] = (
    SIGMOID,
    LOG_SIGMOID,
    SOFTPLUS,
    SILU,
    MISH,
    TANH,
    ERF,
    GELU,
    EXP,
    LOG,
    SQRT,
    RSQRT,
    RECIPROCAL,
    SQUARE,
    SIN,
    COS,
    CLAMP,
    HARDTANH,
    RELU6,
    HARDSIGMOID,
    HARDSWISH,
    LEAKY_RELU,
    ELU,
    SELU,
    ABS,
    NEG,
)
"""Every elementwise function of one operand, save ReLU."""
