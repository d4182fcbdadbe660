"""Whole small networks: every run, and an adversary that chooses each rounding, stay inside the bounds of every method."""

import itertools
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from precisionkit.arithmetic import REFERENCE, parse_arithmetic
from precisionkit.bound import Ladder
from precisionkit.bound.interval import interval, stored
from precisionkit.bound.linearised import linearised
from precisionkit.bound.substitution import substitution
from precisionkit.bound.walk import doubtful, sharpened
from precisionkit.capture import capture
from precisionkit.enclosure import Bounded, Enclosure
from precisionkit.evaluate import Program, execute
from precisionkit.formats import BINARY32
from precisionkit.graph import interpret
from precisionkit.lemma import gaps
from precisionkit.ops import BY_NAME
from precisionkit.ops.record import straight
from precisionkit.truth import exact_logits

from .cases import CASES
from .harness import JUDGE, MP, POSITIVE, exact, is_fixed, operands, statistics, violations


class Residual(nn.Module):
    """Convolutions, batch normalisation, a shortcut, pooling of every kind, concatenation, a product of activations."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1, groups=2, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(4), nn.BatchNorm2d(4)])
        self.last = nn.Linear(20, 5)
        for norm in self.norms:
            norm.running_mean.normal_(0, 0.3)
            norm.running_var.uniform_(0.5, 2)

    def forward(self, x):
        a = F.relu(self.norms[0](self.first(x)))
        b = F.relu(self.norms[1](self.second(a)) + a)
        c = F.max_pool2d(F.pad(b, (1, 1)), 3, 2, 1)
        gate = torch.sigmoid(b.mean((2, 3)))
        features = [
            F.adaptive_avg_pool2d(c, (1, 2)).flatten(1),
            F.avg_pool2d(c, 2)[:, :, 0, 0],
            gate * c[:, :, 1, 1],
            c[:, :, 0, 2] - gate * 0.5,
        ]
        return self.last(torch.cat(features, 1))


class Numbers(nn.Module):
    """Python numbers that no format holds, in every place where one may stand."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(6, 7), nn.Linear(9, 3)

    def forward(self, x):
        a = F.pad(torch.relu(self.first(x) * 0.3 + 1000.1), (1, 1), value=900.3)
        b = (1 / 3 - a / 7.7) * 0.1 - 0.7 + 5.3 * a
        return self.last(b)


def mlp(activation, widths=(6, 12, 12, 12, 4)):
    layers = []
    for a, b in itertools.pairwise(widths):
        layers += [nn.Linear(a, b), activation()]
    return nn.Sequential(*layers[:-1])


class Transformer(nn.Module):
    """Patches, a class token, positions, an encoder layer with GELU, layer normalisation."""

    def __init__(self, width=8):
        super().__init__()
        self.patches = nn.Conv2d(1, width, 2, 2)
        self.token, self.places = nn.Parameter(torch.randn(1, 1, width) * 0.3), nn.Parameter(torch.randn(1, 5, width) * 0.3)
        layer = nn.TransformerEncoderLayer(width, 2, 12, batch_first=True, activation="gelu", norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 3)

    def forward(self, x):
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(x.shape[0], -1, -1), tokens], 1) + self.places
        return self.head(self.norm(self.encoder(tokens))[:, 0])


class Gates(nn.Module):
    """What mobile networks are made of: hard-swish, ReLU6, SiLU, squeeze and excitation, depthwise and transposed convolutions."""

    def __init__(self):
        super().__init__()
        self.first, self.depthwise = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, groups=4)
        self.squeeze, self.excite = nn.Conv2d(4, 2, 1), nn.Conv2d(2, 4, 1)
        self.wider, self.last = nn.ConvTranspose2d(4, 3, 2, stride=2), nn.Linear(3, 4)

    def forward(self, x):
        a = F.relu6(self.depthwise(F.hardswish(self.first(x))) * 2)
        scale = F.hardsigmoid(self.excite(F.silu(self.squeeze(F.adaptive_avg_pool2d(a, 1)))))
        b = F.leaky_relu(self.wider(a * scale), 0.1)
        return self.last(F.elu(b).mean((2, 3)))


class Normed(nn.Module):
    """Normalisations over groups, pooling by attention, maxima, softmax within."""

    def __init__(self):
        super().__init__()
        self.first, self.group, self.instance = nn.Conv1d(2, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.InstanceNorm1d(4, affine=True)
        self.score, self.last = nn.Linear(4, 2), nn.Linear(12, 3)

    def forward(self, x):
        a = torch.tanh(self.group(self.first(x))).transpose(1, 2)
        weights = torch.softmax(self.score(a), 1)
        pooled = (weights.transpose(1, 2) @ a).flatten(1)
        largest = torch.maximum(F.softplus(self.instance(self.first(x))), x.mean((1, 2), keepdim=True)).amax(2)
        return self.last(torch.cat([pooled, largest], 1))


NETWORKS = {
    "transformer": (Transformer, (1, 4, 4)),
    "gates": (Gates, (2, 6, 6)),
    "normed": (Normed, (2, 5)),
    "relu": (lambda: mlp(nn.ReLU), (6,)),
    "sigmoid": (lambda: mlp(nn.Sigmoid), (6,)),
    "residual": (Residual, (2, 6, 6)),
    "numbers": (Numbers, (6,)),
    "pooled": (
        lambda: nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(24, 8), nn.ReLU(), nn.Linear(8, 3)),
        (2, 6, 6),
    ),
}
ARITHMETICS = [
    parse_arithmetic(*a)
    for a in (
        ("fp16",),
        ("bf16",),
        ("fp32",),
        ("fp16", "fp16", "pairwise"),
        ("bf16", "bf16", "any"),
        ("fp16", "fp32", "tensorcore:volta"),
        ("fp16", "fp32", "any", "epilogue"),
    )
]
METHODS = dict(Ladder.of("auto", REFERENCE).proofs)
EVERY = [pytest.param(n, a, id=f"{n}-{a.name}") for n in NETWORKS for a in ARITHMETICS]


@cache
def captured(name, seed):
    torch.manual_seed(seed)
    build, shape = NETWORKS[name]
    return capture(build().eval(), shape)


def program(name, arithmetic, batch=8, seed=0):
    made = Program.of(captured(name, seed), arithmetic)
    generator = torch.Generator().manual_seed(seed)
    return made, made.inputs(torch.randn(batch, *made.graph.input_shape, generator=generator))


def fused(made):
    return Program(made.graph, replace(made.arithmetic, fused=True), made.constants)


def deviation(bounds, logits):
    """Of the gaps of a run from those of the centre, with the rounding of this subtraction taken off."""
    classes = bounds.classes.numpy()
    of_run, of_centre = gaps(logits.numpy(), classes), gaps(bounds.centre.numpy(), classes)
    return torch.from_numpy(np.abs(of_run - of_centre) * (1 - 2.0**-51) - np.abs(of_run) * 2.0**-51)


def assert_inside(bounds, logits):
    assert (bounds.overflow < 0).all()
    assert ((logits - bounds.centre).abs() <= bounds.radius).all()
    assert (deviation(bounds, logits) <= bounds.gap_error).all()


@pytest.mark.parametrize(("name", "arithmetic"), EVERY)
@pytest.mark.parametrize("method", METHODS)
def test_runs_stay_inside(name, arithmetic, method):
    for seed in range(3):
        made, inputs = program(name, arithmetic, seed=seed)
        bounds = METHODS[method](made, inputs, None)
        assert_inside(bounds, execute(made, inputs).logits)
        if arithmetic.order.name == "any" and arithmetic.accumulate.option == "fp32":
            assert_inside(bounds, torch.cat([execute(made, row[None]).logits for row in inputs]))
            sequential = Program(
                made.graph, replace(arithmetic, order=parse_arithmetic("fp16", "fp32", "sequential").order), made.constants
            )
            assert_inside(bounds, execute(sequential, inputs).logits)
            if arithmetic.storage.option != "fp32" and not arithmetic.fused:
                assert_inside(bounds, execute(made, inputs, native=True).logits)
                assert_inside(bounds, execute(fused(made), inputs).logits)


@pytest.mark.parametrize(("name", "arithmetic"), EVERY)
def test_the_sharper_method_is_never_worse(name, arithmetic):
    made, inputs = program(name, arithmetic)
    plain, sharp = interval(made, inputs), substitution(made, inputs)
    assert (sharp.gap_error <= plain.gap_error).all()
    assert (sharp.radius <= plain.radius).all()
    assert torch.equal(sharp.centre, plain.centre)


def adversary(made, inputs, classes, target, seed, likely=False):
    """Stored values that differ from what their operands give by the whole local error there, in the direction that moves a gap.

    The directions come from the gradient of ``z_c - z_target``, or from a random choice; theorems 14 and 16 allow every choice.
    With `likely`, as far as the model of random rounding goes: its spread in a random direction, the rest in the worst one.
    """
    constants = {name: value.double() for name, value in made.constants.items()}
    offsets, signs, directions = {}, {}, {}

    def traced(node, operands):
        if node.record.hidden:
            return None
        result = node.record.apply(node.attributes, *operands)
        offsets[node.name] = torch.zeros_like(result, requires_grad=True)
        return result + offsets[node.name]

    def shifted(node, operands):
        known = [Enclosure.exact(o) if name in names else o for name, o in zip(node.operands, operands, strict=True)]
        result = node.record.error_rule(made.arithmetic, node.attributes, *known)
        if node.record.hidden:
            return result.centre
        found = stored(made.arithmetic, result, unstored=node.name in made.unstored)
        moved = signs[node.name] * found.local if not likely else signs[node.name] * found.unbiased + directions[node.name] * found.bias
        return node.record.apply(node.attributes, *operands) + moved * (1 - 2.0**-30)

    names = set(made.graph.names)
    logits = interpret(made.graph, inputs.double(), constants, traced)
    gap = logits.gather(1, classes[:, None])[:, 0] - logits[:, target]
    gradients = torch.autograd.grad(gap.sum(), list(offsets.values()))
    generator = torch.Generator().manual_seed(seed)
    for name, gradient in zip(offsets, gradients, strict=True):
        random = torch.randint(0, 2, gradient.shape, generator=generator) * 2.0 - 1
        directions[name] = -gradient.sign()
        signs[name] = random if seed else directions[name]
    return interpret(made.graph, inputs.double(), constants, shifted)


@pytest.mark.parametrize(("name", "arithmetic"), EVERY)
def test_an_adversary_that_chooses_every_rounding_stays_inside(name, arithmetic):
    made, inputs = program(name, arithmetic)
    bounds = {method: run(made, inputs, None) for method, run in METHODS.items()}
    for target in range(2):
        for seed in range(3):
            logits = adversary(made, inputs, bounds["interval"].classes, target, seed)
            for found in bounds.values():
                assert_inside(found, logits)


@pytest.mark.parametrize("storage", ["fp16", "bf16"])
def test_unfused_bounds_cover_fused_kernels_and_fused_bounds_are_sharper(storage):
    made, inputs = program("residual", parse_arithmetic(storage))
    for method in METHODS.values():
        covering, sharper = method(made, inputs, None), method(fused(made), inputs, None)
        assert (sharper.gap_error <= covering.gap_error).all()
        assert (sharper.gap_error < 0.9 * covering.gap_error).any()
        for seed in range(3):
            logits = adversary(fused(made), inputs, covering.classes, 0, seed)
            assert_inside(covering, logits)
            assert_inside(sharper, logits)
        eager = adversary(made, inputs, covering.classes, 0, 0)
        assert (deviation(sharper, eager) > sharper.gap_error).any()  # so the fused bounds hold for fused kernels alone


@pytest.mark.parametrize("name", ["relu", "residual"])
def test_the_adversary_nearly_attains_backward_substitution(name):
    """Without a doubtful ReLU the bound is what the worst roundings reach, to second order and up to smaller local errors."""
    made, inputs = program(name, parse_arithmetic("fp16"), batch=16)
    bounds = substitution(made, inputs)
    shares = []
    for target in range(3):
        reached = deviation(bounds, adversary(made, inputs, bounds.classes, target, 0))
        shares.append((reached[:, target] / bounds.gap_error[:, target])[bounds.classes != target])
    assert torch.cat(shares).max() <= 1
    assert torch.cat(shares).median() >= 0.8


@pytest.mark.parametrize("arithmetic", [a for a in ARITHMETICS if a.unbiased_sums], ids=lambda a: a.name)
def test_the_linearised_worst_case_is_what_an_adversary_reaches(arithmetic):
    """To first order; a neuron that changes its piece may add to it or take from it."""
    made, inputs = program("residual", arithmetic, batch=16)
    classes = interval(made, inputs).classes
    worst = linearised(made, inputs, classes).worst
    bounds = substitution(made, inputs)
    reached = deviation(bounds, adversary(made, inputs, classes, 0, 0))[:, 0]
    shares = (reached / worst[:, 0])[classes != 0]
    assert 0.85 <= shares.median() <= 1.05
    assert (worst <= 1.02 * bounds.gap_error).all()


def test_the_exact_network_lies_inside():
    """Weights rounded to binary16, then no rounding at all, by mpmath at 50 digits."""
    made, inputs = program("sigmoid", parse_arithmetic("fp16"))
    exact = exact_logits(JUDGE, made, inputs)
    for method in METHODS.values():
        bounds = method(made, inputs, None)
        for index in np.ndindex(*exact.shape):
            assert abs(exact[index] - MP.mpf(bounds.centre[index].item())) <= MP.mpf(bounds.radius[index].item())
        # the binary64 centre is far closer than any bound of a half program
        assert max(abs(exact[i] - MP.mpf(bounds.centre[i].item())) for i in np.ndindex(*exact.shape)) < MP.mpf(2) ** -40


def test_too_little_effort_leaves_the_interval_bounds():
    made, inputs = program("relu", parse_arithmetic("bf16", "bf16", "any"))
    plain, sharp, some = interval(made, inputs), substitution(made, inputs), substitution(made, inputs, effort=1.0)
    assert (sharp.gap_error < plain.gap_error).any()
    left = (some.gap_error == plain.gap_error).all(1)
    assert left.any()
    assert torch.equal(some.gap_error[~left], sharp.gap_error[~left])


NUMBER = 1 + 0.99 * 2.0**-11
NUMBERS = {
    "add": (lambda x, n: x + n, 2.0**-12),
    "sub": (lambda x, n: x - n, -(2.0**-12)),
    "rsub": (lambda x, n: n - x, -(2.0**-12)),
    "mul": (lambda x, n: x * n, 1.5),
    "div": (lambda x, n: x / n, 1.5),
    "pad": (lambda x, n: F.pad(x, (0, 1), value=n)[:, 1:], 0.0),
}


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("method", METHODS)
def test_python_numbers_may_be_rounded(name, method):
    """Backends may round a Python number to the storage format; here that moves a result by more than its own store can."""
    function, value = NUMBERS[name]

    class Net(nn.Module):
        def __init__(self, number):
            super().__init__()
            self.number, self.last = number, nn.Linear(1, 2)
            middle = 1.5 if name in ("mul", "div") else -1.0 if name == "sub" else 1.0  # so that the last store hardly rounds
            self.last.weight.data, self.last.bias.data = torch.tensor([[1.0], [-1.0]]), torch.tensor([-middle, middle])

        def forward(self, x):
            return self.last(function(x, self.number))

    arithmetic = parse_arithmetic("fp16")
    exact, rounded = (Program.of(capture(Net(n), (1,)), arithmetic) for n in (NUMBER, 1.0))
    inputs = exact.inputs(torch.tensor([[value]]))
    bounds, run = METHODS[method](exact, inputs, None), execute(rounded, inputs).logits
    assert_inside(bounds, run)
    assert ((run - bounds.centre).abs() > 0.99 * 2.0**-11 * 0.99).all()


LINED = [
    ("relu", {}, (200, 7)),
    ("max_pool2d", {"kernel_size": (2, 2)}, (60, 2, 4, 4)),
    ("max_pool2d", {"kernel_size": (3, 2), "stride": (2, 1), "padding": (1, 1), "dilation": (1, 2), "ceil_mode": True}, (60, 2, 6, 6)),
]


@pytest.mark.parametrize(("operator", "attributes", "shape"), LINED)
def test_lines_enclose_the_operator(operator, attributes, shape):
    """Sampled deviations, ends included, with refined ends too; slopes of lines through exact points may touch."""
    record = BY_NAME[operator]
    rng = torch.Generator().manual_seed(1)
    centre = torch.randn(shape, generator=rng, dtype=torch.float64)
    radius = torch.rand(shape, generator=rng, dtype=torch.float64) * torch.randint(0, 3, shape, generator=rng)
    low, high = centre - radius * torch.rand(shape, generator=rng).double(), centre + radius * torch.rand(shape, generator=rng).double()
    for enclosure, ends in (
        (Enclosure(centre, radius), (centre - radius, centre + radius)),
        (Enclosure(centre, radius, low, high), (low, high)),
    ):
        lines = record.relax(attributes, enclosure)
        at_centre = record.apply(attributes, centre)
        for sample in range(40):
            share = torch.rand(shape, generator=rng, dtype=torch.float64)
            share = torch.where(torch.rand(shape, generator=rng) < 0.5, share.round(), share) if sample else torch.zeros_like(share)
            d = (ends[0] + share * (ends[1] - ends[0])).clamp(ends[0], ends[1]) - centre
            moved = record.apply(attributes, centre + d) - at_centre
            selected = d if lines.chosen is None else d.flatten(2).gather(2, lines.chosen.flatten(2)).reshape(at_centre.shape)
            rounding = 2.0**-50 * (1 + centre.abs().max() + radius.max())  # of this test's own evaluation
            assert (moved <= lines.upper * selected + lines.above + rounding).all()
            assert (moved >= lines.lower * selected - lines.below - rounding).all()
            assert ((lines.upper * selected).abs() <= lines.reach + rounding).all()
            assert (moved >= lines.upper * selected - lines.under - rounding).all()


def test_the_upper_line_of_relu_is_its_chord():
    """It meets ReLU at both ends of an enclosure around zero, and hardly lies above."""
    centre, radius = torch.linspace(-1, 1, 21).double()[None], torch.full((1, 21), 1.5).double()
    lines = BY_NAME["relu"].relax({}, Enclosure(centre, radius))
    for d in (-radius, radius):
        line = centre.clamp_min(0) + lines.upper * d + lines.above
        assert (line >= (centre + d).clamp_min(0)).all()
        assert (line <= (centre + d).clamp_min(0) + 2.0**-20).all()


def test_lines_that_are_too_narrow_are_found():
    centre, radius = torch.tensor([[0.1]]).double(), torch.tensor([[1.0]]).double()
    lines = BY_NAME["relu"].relax({}, Enclosure(centre, radius))
    at_end = torch.relu(centre - radius) - torch.relu(centre)
    assert (at_end <= lines.upper * -radius + lines.above).all()
    assert not (at_end <= lines.upper * -radius + 0.99 * lines.above).all()


AFFINE = [
    case
    for case in CASES
    if BY_NAME[case.operator].linear is not None
    and BY_NAME[case.operator].curved is straight
    and case.operator not in ("log_softmax", "embedding", "constant", "rearrange")
]


def active_operands(case, arithmetic=REFERENCE, radius=0.0):
    """Operands of a use of an operator, small integers, and the statistics behind them; and which are activations."""
    record = BY_NAME[case.operator]
    rng = np.random.default_rng(0)
    shapes, values = iter(case.activations), []
    for place in range(len(case.activations) + len(case.constants)):
        shape = case.constants[place] if place in case.constants else next(shapes)
        ends = (0, 2) if (case.operator, place) == ("masked", 0) else (1, 5)
        values.append(None if shape is None else torch.from_numpy(rng.integers(*ends, shape).astype(float)))
    active = [i for i in range(len(values)) if i not in case.constants]
    given = [Enclosure(v, torch.full_like(v, radius)) if i in active else v for i, v in enumerate(values)]
    hidden, _ = statistics(case, arithmetic, given)
    return record, [*given, *hidden], [*active, *range(len(given), len(given) + len(hidden))]


FIXED = ("embedding", "constant")
"""Nothing deviates there."""


@pytest.mark.parametrize("case", [c for c in CASES if BY_NAME[c.operator].linear is not None and c.operator not in FIXED], ids=str)
def test_transposes_are_transposes(case):
    """``<g, A d> = <A' g, d>`` to rounding, for the derivative A at the centre, statistics included."""
    record, operands, active = active_operands(case)
    rng = np.random.default_rng(1)
    deviations = [
        torch.from_numpy(rng.integers(1, 5, o.centre.shape).astype(float)) if i in active else None for i, o in enumerate(operands)
    ]
    batch = operands[active[0]].centre.shape[0]
    moved = record.linear(case.attributes, tuple(deviations), torch.arange(batch), *operands)
    g = torch.from_numpy(rng.integers(-4, 5, moved.shape).astype(float))
    pulled = record.transpose(case.attributes, g, torch.arange(batch), *operands)
    pairs = [(pulled[i], deviations[i]) for i in active if pulled[i] is not None]
    left, right = (g * moved).sum().item(), sum((p * d).sum().item() for p, d in pairs)
    size = (g * moved).abs().sum().item() + sum((p * d).abs().sum().item() for p, d in pairs)
    assert abs(left - right) <= 2.0**-40 * size


@pytest.mark.parametrize("case", AFFINE, ids=str)
def test_the_linear_part_is_the_operator_without_its_constant(case):
    record, operands, active = active_operands(case)
    values = [o.centre if i in active else o for i, o in enumerate(operands)]
    nothing = [torch.zeros_like(v) if i in active and not is_fixed(case, i) else v for i, v in enumerate(values)]
    image = record.apply(case.attributes, *values) - record.apply(case.attributes, *nothing)
    moved = record.linear(
        case.attributes, tuple(v if i in active else None for i, v in enumerate(values)), torch.arange(len(image)), *operands
    )
    assert ((moved - image).abs() <= 2.0**-40 * image.abs().max()).all()


CURVED = [
    case
    for case in CASES
    if BY_NAME[case.operator].linear is not None and BY_NAME[case.operator].curved is not straight and BY_NAME[case.operator].relax is None
]


def _images(record, attributes, operands, place, count):
    """The images of the unit deviations of one operand, (entries of the operand, ...)."""
    size = operands[place].centre[0].numel()
    units = torch.eye(size, dtype=torch.float64).reshape(size, *operands[place].centre.shape[1:])
    parts = tuple(units if i == place else None for i in range(count))
    return record.linear(attributes, parts, torch.zeros(size, dtype=torch.int64), *operands)


def first_order(record, attributes, known, deviations, beyond):
    """Image of the operands' deviations, and what the deviations themselves lack beyond first order, weighed with ``|J|``."""
    operands = list(known.values())
    moved = record.linear(attributes, tuple(deviations), torch.zeros(1, dtype=torch.int64), *operands)
    lacking = torch.zeros_like(moved)
    for place, rest in enumerate(beyond):
        if rest is not None:
            images = _images(record, attributes, operands, place, len(operands)).abs()
            lacking = lacking + (images * rest.reshape(-1, *[1] * (images.dim() - 1))).sum(0, keepdim=True)
    return moved, lacking


@pytest.mark.parametrize("scale", [2.0**-20, 2.0**-6, 0.5])
@pytest.mark.parametrize("case", CURVED, ids=str)
def test_what_is_beyond_first_order_is_bounded(case, scale):
    """``|f(c + d) - f(c) - J d| <= second order``, statistics included, for deviations in and on the edge of the enclosure."""
    record = BY_NAME[case.operator]
    rng = np.random.default_rng(5)
    values = [None if v is None else v[:1] if i not in case.constants else v for i, v in enumerate(operands(case, "normal", rng, BINARY32))]
    radii = [None if v is None or i in case.constants else v.abs() * scale + scale * 2.0**-4 for i, v in enumerate(values)]
    radii = [torch.zeros_like(r) if r is not None and is_fixed(case, i) else r for i, r in enumerate(radii)]
    if case.operator in POSITIVE:
        radii = [r.minimum(v.abs() * 0.9) for r, v in zip(radii, values, strict=True)]
    given = [v if r is None else Enclosure(v, r) for v, r in zip(values, radii, strict=True)]
    for sample in range(8):
        share = [None if r is None else torch.from_numpy(rng.choice([-1.0, 1.0, 0.3, -0.7], r.shape)) for r in radii]
        d = [None if r is None else r * s for r, s in zip(radii, share, strict=True)]
        moved, beyond = _chain(case, given, d)
        there = [v if r is None else v + r for v, r in zip(values, d, strict=True)]
        if sample == 0:
            at_centre = exact(case, values)
        change = exact(case, there) - at_centre
        lacking = np.vectorize(lambda c, m: abs(c - MP.mpf(m)), otypes=[object])(change, moved.numpy())
        rounding = 2.0**-49 * (1 + moved.abs())  # of the image in binary64
        assert not violations(lacking, (beyond + rounding).expand(lacking.shape), torch.ones(len(lacking), dtype=torch.bool)), record.name


def _chain(case, given, d):
    """First order and what is beyond it, through the statistics one after the other."""
    record = BY_NAME[case.operator]
    known = dict(zip(record.operands, given, strict=False))
    deviation = dict(zip(record.operands, d, strict=False))
    rest = dict.fromkeys(record.operands)
    for statistic in record.statistics:
        hidden = BY_NAME[statistic.operator]
        taken = {name: known.get(name) for name in statistic.operands}
        result = hidden.error_rule(REFERENCE, case.attributes, *taken.values())
        moved, lacking = first_order(hidden, case.attributes, taken, [deviation[n] for n in taken], [rest[n] for n in taken])
        second = torch.zeros_like(result.centre) if result.second_order is None else result.second_order
        known[statistic.operator] = Enclosure(result.centre, stored(REFERENCE, result, unstored=True).radius)
        deviation[statistic.operator], rest[statistic.operator] = moved, lacking + second
    names = [*record.operands, *(s.operator for s in record.statistics if s.given)]
    taken = {name: known.get(name) for name in names}
    result = record.error_rule(REFERENCE, case.attributes, *taken.values())
    moved, lacking = first_order(record, case.attributes, taken, [deviation.get(n) for n in names], [rest.get(n) for n in names])
    second = torch.zeros_like(result.centre) if result.second_order is None else result.second_order
    return moved, lacking + second


# --------------------------------------------------------------------------------------------- the parts, one by one
def of_one(value, carried, fresh=0.0):
    """A result of one number before its store, in binary32."""
    return Bounded(*(torch.tensor([[v]], dtype=torch.float64) for v in (value, carried, fresh)), BINARY32)


def test_a_store_rounds_what_lies_at_the_end_of_an_enclosure():
    """0.75 +- 0.5 reaches the binade of 1."""
    found = stored(parse_arithmetic("fp16"), of_one(0.75, 0.5))
    assert 2.0**-11 <= found.local.item() <= 1.001 * 2.0**-11


def test_overflow_that_is_possible_is_not_certain():
    possible, certain = (stored(parse_arithmetic("fp16"), of_one(value, 2.0)) for value in (65519.0, 65530.0))
    assert not possible.excluded.any()
    assert not possible.certain.any()
    assert certain.certain.all()
    assert stored(parse_arithmetic("fp16"), of_one(65510.0, 2.0)).excluded.all()


def test_the_gap_of_two_stored_logits_errs_by_both():
    """1 + u and -1 - u are ties, which lose u each."""
    net, u = nn.Linear(2, 2, bias=False), 2.0**-11
    net.weight.data = torch.tensor([[1.0, 1.0], [-1.0, -1.0]])
    made = Program.of(capture(net, (2,)), parse_arithmetic("fp16"))
    inputs = made.inputs(torch.tensor([[1.0, u]]))
    logits = execute(made, inputs).logits
    for method in METHODS.values():
        bounds = method(made, inputs, None)
        assert_inside(bounds, logits)
        assert deviation(bounds, logits)[0, 1] >= 0.999 * 2 * u
        assert bounds.gap_error[0, 1] <= 1.001 * 2 * u


def test_statistics_are_not_stored():
    made, _ = program("normed", parse_arithmetic("fp16"))
    hidden = {node.name for node in made.graph.nodes if node.record.hidden}
    assert hidden
    assert hidden <= made.unstored
    assert not any(made.stores(node) for node in made.graph.nodes if node.record.hidden)


class Bent(nn.Module):
    """An exponential of a rounded number."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(1, 1, bias=False), nn.Linear(1, 2, bias=False)
        self.first.weight.data, self.last.weight.data = torch.ones(1, 1), torch.tensor([[1.0], [-1.0]])

    def forward(self, x):
        return self.last(torch.exp(self.first(x)))


@pytest.mark.parametrize("x", [4.03125, 5.375, 7.96875])
def test_a_bent_function_is_bounded_beyond_first_order(x):
    """An adversary gains ``exp(c) e**2 / 2``, 2**-7 of what a tangent says."""
    made = Program.of(capture(Bent(), (1,)), parse_arithmetic("bf16"))
    inputs = made.inputs(torch.tensor([[x]]))
    for method in METHODS.values():
        bounds = method(made, inputs, None)
        moved = [adversary(made, inputs, classes, target, 0) for classes, target in ((torch.tensor([0]), 1), (torch.tensor([1]), 0))]
        for logits in moved:
            assert_inside(bounds, logits)
        assert max(deviation(bounds, logits)[0, 1] for logits in moved) >= 0.98 * bounds.gap_error[0, 1]


def test_settled_neurons_are_intersected_with_both_bounds():
    enclosure = Enclosure(torch.tensor([[1.0, 1.0]]).double(), torch.tensor([[4.0, 4.0]]).double())
    up, down = torch.tensor([1.0]).double(), torch.tensor([2.0]).double()
    low, high = sharpened(enclosure, torch.tensor([[0, 1]]), up, down).ends()
    assert (low[0, 0], high[0, 0]) == (-3, 5)
    assert -1 - 2.0**-40 <= low[0, 1] <= -1
    assert 2 <= high[0, 1] <= 2 + 2.0**-40


def test_neurons_on_both_sides_of_a_kink_are_doubtful():
    centre = torch.tensor([[-0.5, 0.5, -2.0, 2.0, 1.0, 0.0]]).double()
    radius = torch.tensor([[1.0, 1.0, 1.0, 1.0, torch.nan, 0.0]]).double()
    assert doubtful(Enclosure(centre, radius), (0.0,)).tolist() == [[True, True, False, False, True, False]]
    assert doubtful(Enclosure(centre, radius), (0.0, 2.5)).tolist() == [[True, True, False, True, True, False]]


def test_an_input_that_may_overflow_keeps_no_class():
    made, inputs = program("relu", parse_arithmetic("fp32"), batch=2)
    bounds = interval(made, inputs)
    assert bounds.keeps_class().all()
    assert replace(bounds, overflow=torch.tensor([-1, 0])).keeps_class().tolist() == [True, False]
