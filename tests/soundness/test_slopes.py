"""Slopes and curvatures of the elementary functions: the bounds hold at every point, over enclosures, and where their constants are largest.

Judged by torch's derivatives in binary64 on dense grids, by Taylor series of Arb at fewer points but without doubt, and, for bounds that
leave some room, by balls that cover everything.
"""

import inspect

import numpy as np
import pytest
import torch

from precisionkit.enclosure import Enclosure
from precisionkit.ops import BY_NAME
from precisionkit.ops._function import Range
from precisionkit.ops.functions import FUNCTIONS
from precisionkit.truth import Arb

flint = pytest.importorskip("flint")

USES = [
    *((record.name, {}) for record in FUNCTIONS if record.name != "clamp"),
    ("clamp", {"min": -0.5, "max": 2.0}),
    ("hardtanh", {"min_val": 0.0, "max_val": 6.0}),
    ("gelu", {"approximate": "tanh"}),
    ("softplus", {"beta": 4, "threshold": 32}),
    ("leaky_relu", {"negative_slope": 0.25}),
    ("leaky_relu", {"negative_slope": -2.0}),
    ("elu", {"alpha": 0.7}),
    ("elu", {"alpha": 2.5, "scale": 3.0}),
]
POSITIVE = ("log", "sqrt", "rsqrt")
FAR = 40.0


def function_of(name):
    """What the error rule of a record knows of its function."""
    return inspect.getclosurevars(BY_NAME[name].error_rule).nonlocals["function"]


def identity(use):
    return "-".join((use[0], *map(str, use[1].values())))


each_use = pytest.mark.parametrize("use", USES, ids=identity)


def defined(name, x):
    """Points at which the function and its derivatives are defined."""
    return x.abs().clamp_min(2.0**-20) if name in POSITIVE else torch.where(x.abs() < 2.0**-20, 1.0, x) if name == "reciprocal" else x


def grid(name, attributes, count=2**17):
    """Evenly spaced points, and points close to kinks and to zero on both sides."""
    near = 2.0 ** -torch.arange(0.0, 48.0, dtype=torch.float64)
    places = [0.0, *(place for place, _ in function_of(name).kinks(attributes))]
    close = [torch.cat([place - near, place + near]) for place in places]
    return defined(name, torch.cat([torch.linspace(-FAR, FAR, count, dtype=torch.float64), *close]))


def smooth_value(name, attributes, x):
    """Torch's function where its derivative is that of the mathematical one."""
    if name == "softplus":  # behind a threshold torch takes it for straight
        attributes = attributes | {"threshold": 700}
    if name == "hardsigmoid":  # whose gradient has a sixth in binary32
        return (x + 3).clamp(0, 6) / 6
    return BY_NAME[name].apply(attributes, x)


def derivatives(name, attributes, x):
    """Torch's own first and second derivatives."""
    x = x.clone().requires_grad_()
    (first,) = torch.autograd.grad(smooth_value(name, attributes, x).sum(), x, create_graph=True)
    if not first.requires_grad:
        return first.detach(), torch.zeros_like(x)
    (second,) = torch.autograd.grad(first.sum(), x, allow_unused=True)
    return first.detach(), torch.zeros_like(x) if second is None else second.detach()


def rounding(x, bound):
    """Of torch's derivatives, which cancel far from zero; Arb's series do not."""
    return 2.0**-44 * bound + 2.0**-46 * (1 + x * x)


def bounds(name, attributes, centre, radius=None, scale=1.0):
    """Steepest slope and curvature over ranges, with the slack that the rule adds to them; scaled down, they are wrong."""
    function, where = function_of(name), Range.of(Enclosure(centre, torch.zeros_like(centre) if radius is None else radius))
    found = function.steepest(attributes, where), function.curvature(attributes, where)
    return tuple(torch.as_tensor(bound, dtype=torch.float64).expand_as(centre) * (1 + 2.0**-40) * scale for bound in found)


def off_kinks(name, attributes, x):
    """Where there is one slope."""
    on = torch.zeros_like(x, dtype=torch.bool)
    for place, _ in function_of(name).kinks(attributes):
        on |= x == place
    return ~on


@each_use
def test_slopes_are_derivatives_and_bounds_hold_at_every_point(use):
    name, attributes = use
    x = grid(*use)
    first, second = derivatives(name, attributes, x)
    steepest, curvature = bounds(name, attributes, x)
    slope = torch.as_tensor(function_of(name).slope(attributes, x), dtype=torch.float64)
    smooth = off_kinks(name, attributes, x)
    assert ((slope - first).abs() <= rounding(x, steepest))[smooth].all()
    assert (slope.abs() <= steepest).all()
    assert (second.abs() <= curvature + rounding(x, curvature))[smooth].all()


@each_use
@pytest.mark.parametrize("radius", [2.0**-12, 2.0**-4, 0.5, 3.0])
def test_bounds_hold_over_enclosures(use, radius):
    name, attributes = use
    centre = grid(name, attributes, 2**12)
    radii = torch.full_like(centre, radius)
    if name in (*POSITIVE, "reciprocal"):
        radii = torch.minimum(radii, 0.9 * centre.abs())
    steepest, curvature = bounds(name, attributes, centre, radii)
    for share in torch.linspace(-1, 1, 17, dtype=torch.float64):
        x = centre + share * radii
        first, second = derivatives(name, attributes, x)
        assert (first.abs() <= steepest + rounding(x, steepest)).all()
        assert (second.abs() <= curvature + rounding(x, curvature))[off_kinks(name, attributes, x)].all()


class Series(Arb):
    """Taylor series over balls, for functions that choose their formula by the sign of a number."""

    def upper(self, value):
        return value[0].upper()

    def maximum(self, a, b):
        a, b = (v if isinstance(v, flint.arb_series) else flint.arb_series([v]) for v in (a, b))
        return a if a[0] >= b[0] else b


SERIES = Series(256)


@pytest.fixture
def taylor():
    """First and second derivative of a use over a ball, as balls, in a context of three terms and 256 bits."""

    def derive(name, attributes, ball):
        series = function_of(name).exact(SERIES, attributes, flint.arb_series([ball, 1]))
        series = series if isinstance(series, flint.arb_series) else flint.arb_series([series])
        return series[1], 2 * series[2]

    before, flint.ctx.cap = flint.ctx.cap, 3
    with flint.ctx.workprec(256):
        yield derive
    flint.ctx.cap = before


@each_use
def test_bounds_hold_for_taylor_series_without_slack(use, taylor):
    name, attributes = use
    x = grid(name, attributes, 2**10)
    x = x[off_kinks(name, attributes, x) & (x != 0)]
    for point, slope, bend in zip(x.tolist(), *(b.tolist() for b in bounds(name, attributes, x)), strict=True):
        first, second = taylor(name, attributes, flint.arb(point))
        assert abs(first) <= slope + 1e-300, point
        assert abs(second) <= bend + 1e-300, point


ROOMY = [("sigmoid", {}), ("silu", {}), ("mish", {}), ("tanh", {}), ("erf", {}), ("gelu", {}), ("gelu", {"approximate": "tanh"})]
"""Functions whose bounds have a largest value that is written down, with some room."""


def uncovered(use, taylor, scale=1.0, low=-12.0, high=12.0, least=2.0**-16):
    """A cell of [low, high] over which the bounds are not proved, if there is one; cells are halved until they are."""
    cells = [(a, a + 0.25) for a in np.arange(low, high, 0.25).tolist()]
    while cells:
        a, b = cells.pop()
        centre, radius = torch.tensor([(a + b) / 2], dtype=torch.float64), torch.tensor([(b - a) / 2], dtype=torch.float64)
        derived = taylor(*use, flint.arb(centre.item(), radius.item()))
        if all(abs(d) <= bound.item() for d, bound in zip(derived, bounds(*use, centre, radius, scale), strict=True)):
            continue
        if b - a <= least:
            return a, b
        cells += [(a, centre.item()), (centre.item(), b)]
    return None


@pytest.mark.parametrize("use", ROOMY, ids=identity)
def test_bounds_with_a_written_maximum_are_proved_by_balls(use, taylor):
    """Not at a single point but everywhere: where a formula gives the maximum, up to a factor of 1 + 2^-7, else without one."""
    by_formula = use[0] in ("sigmoid", "tanh", "erf") or use == ("gelu", {})
    assert uncovered(use, taylor, 1 + 2.0**-7 if by_formula else 1.0) is None
    assert uncovered(use, taylor, 0.98) is not None


@pytest.mark.parametrize("use", [use for use in USES if use[0] not in ("clamp", "hardtanh", "relu6", "abs", "neg")], ids=identity)
def test_a_constant_that_is_too_small_is_found(use):
    name, attributes = use
    x = grid(*use)
    first, second = derivatives(name, attributes, x)
    smooth = off_kinks(name, attributes, x)
    steepest, curvature = bounds(name, attributes, x, scale=0.98)
    assert (first.abs() > steepest + rounding(x, steepest))[smooth].any()
    assert (second.abs() > curvature + rounding(x, curvature))[smooth].any() or not second.any()
