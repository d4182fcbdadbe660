"""Batches: which method is asked what."""

import pytest
import torch

from precisionkit.arithmetic import REFERENCE, parse_arithmetic
from precisionkit.batch import Worker
from precisionkit.bound import Ladder
from precisionkit.bound.interval import interval
from precisionkit.capture import capture
from precisionkit.evaluate import device_flags
from precisionkit.models import bundled_model, load_model


@pytest.mark.parametrize(("share", "asked"), [(1.0, ["half"]), (0.9, ["half", "reference"])])
def test_the_reference_is_bounded_again_where_the_half_program_was_sharpened(share, asked):
    """Also where that is not enough: the figures of an undecided input are those of both."""
    seen = []

    def sharper(program, inputs, classes):
        seen.append("reference" if program.arithmetic == REFERENCE else "half")
        found = interval(program, inputs, classes)
        return type(found).joined([found]).sharpened(torch.tensor([0]), scaled(found))

    def scaled(found):
        return type(found)(*(value * share if name == "gap_error" else value for name, value in vars(found).items()))

    model, cpu = load_model(bundled_model("digits_cnn")), torch.device("cpu")
    arithmetic = parse_arithmetic("bf16", "bf16")  # nothing is decided
    worker = Worker(
        capture(model.module, (1, 8, 8)), arithmetic, Ladder((("interval", interval), ("own", sharper)), None), cpu, cpu, False, None, None
    )
    with device_flags(arithmetic):
        (found,) = worker.batch(torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)), 0, None)
    assert found.verdict == "observed"
    assert seen == asked
