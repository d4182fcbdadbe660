"""The tests of the example project: they pass."""

import pytest
import torch
from hypothesis import given, settings
from shop.classifier import classifier, deployed, measurements

from precisionkit.pytest_plugin import assert_certified, assert_close_proved
from precisionkit.testing import arithmetics, numbers


def test_half_precision_changes_no_prediction():
    report = assert_certified(classifier(), measurements(), at_least="probable", fail_under=90)
    assert report.summary.flipped == 0


def test_what_runs_in_the_shop_is_close():
    model, x = classifier(), measurements()
    assert assert_close_proved(deployed(model, x), model, x).largest_share <= 1


@pytest.mark.precisionkit(storage="bf16", order="pairwise")
def test_in_bfloat16(precisionkit_arithmetic):
    assert precisionkit_arithmetic.name == "bf16/fp32-pairwise"
    model, x = classifier(), measurements()
    assert_certified(model, x, at_least="observed", fail_under=50)


@settings(max_examples=5, deadline=None, derandomize=True)
@given(arithmetics(storage="fp16"))
def test_strategies_come_with_the_package(arithmetic):
    assert arithmetic.storage.max == 65504
    assert numbers(arithmetic.storage) is not None
    assert torch.finfo(torch.float16).max == arithmetic.storage.max
