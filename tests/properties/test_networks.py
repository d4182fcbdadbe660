"""Random networks in random arithmetics: every run inside every method's bounds, methods that agree, batches that do not matter."""

import itertools
from dataclasses import replace

import numpy as np
import torch
from hypothesis import assume, event, given
from hypothesis import strategies as st

from precisionkit.arithmetic import ANY, parse_arithmetic, parse_order, parse_run, permitted
from precisionkit.bound import EFFORT, adjoint
from precisionkit.bound.interval import interval
from precisionkit.bound.outputs import enclose_outputs
from precisionkit.bound.substitution import substitution
from precisionkit.evaluate import Program, execute, has_fast_run
from precisionkit.formats import BINARY32
from precisionkit.lemma import gaps
from precisionkit.testing import arithmetics, covering
from tests.soundness.harness import TREES, emulates

from .drawn import METHODS, captured, examples, programs, runnable

ROUNDING = 1 + 2.0**-40
BATCHED = 2.0**-10
"""Share by which the bounds of a batch may differ from those one by one: functionals are pulled back in binary32, in other orders."""


def executions(drawn):
    """Runs that the arithmetic permits: torch's kernels, native ones, one input at a time, emulated orders."""
    program, inputs = drawn.program, drawn.stored
    arithmetic = program.arithmetic
    yield execute(program, inputs).logits
    if has_fast_run(arithmetic):
        yield torch.cat([execute(program, row[None]).logits for row in inputs])
        if arithmetic.storage != BINARY32 and not arithmetic.fused:
            yield execute(program, inputs, native=True).logits
    names = ((f"{arithmetic.order.name}:fma",) if arithmetic.order.is_tree else TREES) if emulates(arithmetic) else ()
    for name in names:
        yield execute(program, inputs, emulate=permitted(parse_run(name), arithmetic)).logits


def outside(bounds, logits):
    """Inputs of which a run leaves the bounds; the rounding of the subtractions here is taken off."""
    classes, claimed = bounds.classes.numpy(), (bounds.overflow < 0).numpy()
    with np.errstate(invalid="ignore"):
        of_run = gaps(logits.numpy(), classes)
        deviation = np.abs(of_run - gaps(bounds.centre.numpy(), classes)) * (1 - 2.0**-51) - np.abs(of_run) * 2.0**-51
        wrong = (deviation > bounds.gap_error.numpy()).any(1) | ((logits - bounds.centre).abs() > bounds.radius).numpy().any(1)
    return claimed & (wrong | ~logits.isfinite().all(1).numpy())


@examples(20)
@given(programs(runnable(), families=("normal", "scales", "cancelling", "ties", "subnormal", "large")))
def test_every_run_stays_inside_the_bounds_of_every_method(drawn):
    found = {name: method(drawn.program, drawn.stored, None) for name, method in METHODS.items()}
    event(f"overflow excluded: {bool((found['zonotope'].overflow < 0).all())}")
    for logits in executions(drawn):
        for name, bounds in found.items():
            assert not outside(bounds, logits).any(), name


@examples(6)
@given(programs(runnable(), families=("normal",)))
def test_runs_stay_inside_the_bounds_of_random_rounding(drawn):
    assume(drawn.program.arithmetic.random_stores)
    bounds = adjoint(drawn.program, drawn.stored)
    for logits in executions(drawn):
        assert not outside(bounds, logits).any()


@examples(12)
@given(programs(runnable(), families=("normal", "scales", "cancelling", "ties", "subnormal", "large")))
def test_every_run_stays_inside_the_bounds_of_single_logits(drawn):
    outputs, coarse = (enclose_outputs(drawn.program, drawn.stored, effort) for effort in (EFFORT, 0))
    assert torch.equal(outputs.centre, coarse.centre)
    assert (outputs.radius <= coarse.radius).all()
    for logits in executions(drawn):
        assert not ((logits - outputs.centre).abs() > outputs.radius).any()
        assert logits[outputs.radius.isfinite()].isfinite().all()


@examples(25)
@given(programs())
def test_methods_agree_and_the_sharper_one_is_never_worse(drawn):
    coarse, sharp = interval(drawn.program, drawn.stored), substitution(drawn.program, drawn.stored)
    assert torch.equal(coarse.classes, sharp.classes)
    assert torch.equal(coarse.centre, sharp.centre)
    assert (sharp.gap_error.nan_to_num(torch.inf) <= coarse.gap_error.nan_to_num(torch.inf)).all()
    assert (sharp.radius.nan_to_num(torch.inf) <= coarse.radius.nan_to_num(torch.inf)).all()
    assert not ((coarse.overflow < 0) & (sharp.overflow >= 0)).any()
    # a gap is the difference of two logits
    both = coarse.radius.gather(1, coarse.classes[:, None]) + coarse.radius
    rounding = (coarse.centre.gather(1, coarse.classes[:, None]) - coarse.centre).abs() * 2.0**-50
    assert (coarse.gap_error <= both * ROUNDING + rounding)[both.isfinite()].all()


@examples(20)
@given(programs(arithmetics(fuse="none", order="blocked:")), st.sampled_from(["sequential", "pairwise", None]))
def test_a_named_order_is_never_worse_than_any_in_a_network(drawn, order):
    named = drawn.program if order is None else drawn.with_order(parse_order(order))
    one, free = (interval(program, drawn.stored) for program in (named, drawn.with_order(ANY)))
    for a, b in ((one.gap_error, free.gap_error), (one.radius, free.radius)):
        assert (a.nan_to_num(torch.inf) <= b.nan_to_num(torch.inf) * ROUNDING).all()
    assert not ((free.overflow < 0) & (one.overflow >= 0)).any()


@examples(8)
@given(programs(runnable().filter(lambda arithmetic: arithmetic.storage != BINARY32 and not arithmetic.order.is_exact)))
def test_bounds_of_every_store_hold_for_fused_kernels(drawn):
    separate, fused = (drawn.with_arithmetic(replace(drawn.program.arithmetic, fused=fused)) for fused in (False, True))
    bounds = interval(separate, drawn.stored)
    assert not outside(bounds, execute(fused, drawn.stored).logits).any()


@examples(20)
@given(programs(arithmetics(fuse="epilogue")))
def test_fusion_is_never_worse_than_every_store(drawn):
    fused, stored = (
        interval(drawn.with_arithmetic(replace(drawn.program.arithmetic, fused=fused)), drawn.stored) for fused in (True, False)
    )
    assert (fused.gap_error.nan_to_num(torch.inf) <= stored.gap_error.nan_to_num(torch.inf) * ROUNDING).all()


def alike(some, other, rows, share):
    """Whether bounds of a batch are those of its rows."""
    for name in ("overflow", "certain_overflow", "classes"):
        assert torch.equal(getattr(some, name), getattr(other, name)[rows]), name
    for name in ("radius", "gap_error"):
        a, b = (torch.where(part.isfinite(), part, torch.inf) for part in (getattr(some, name), getattr(other, name)[rows]))
        same = (a == b) | ((a - b).abs() <= share * torch.minimum(a, b))
        assert same.all(), f"{name}: {a.tolist()} and {b.tolist()}"
    known = some.radius.isfinite() & (some.overflow < 0)[:, None]
    assert ((some.centre - other.centre[rows]).abs() <= some.radius)[known].all()


@examples(20)
@given(programs(batch=4), st.permutations(range(4)), st.sampled_from(sorted(METHODS)))
def test_bounds_do_not_depend_on_the_batch_or_its_order(drawn, order, name):
    method, share = METHODS[name], BATCHED if name == "zonotope" else 2.0**-30
    whole = method(drawn.program, drawn.stored, None)
    alike(method(drawn.program, drawn.stored[list(order)], None), whole, torch.tensor(order), share)
    for row in range(4):
        alike(method(drawn.program, drawn.stored[row : row + 1], None), whole, torch.tensor([row]), share)


def test_most_networks_have_bounds():
    """Else the properties above would say little."""
    generator = torch.Generator().manual_seed(0)
    bounded = []
    for network, storage in itertools.product(covering(), ("fp16", "bf16")):
        program = Program.of(captured(network), parse_arithmetic(storage))
        images = (
            torch.randint(0, 7, (2, 5), generator=generator)
            if network.tokens
            else torch.randn(2, *network.input_shape, generator=generator)
        )
        bounds = substitution(program, program.inputs(images))
        bounded.append(bool((bounds.overflow < 0).all() and bounds.gap_error.isfinite().all()))
    assert sum(bounded) > 0.8 * len(bounded)
