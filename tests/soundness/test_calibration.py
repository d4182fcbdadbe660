"""The model of random rounding against real runs: standardised errors leave the predicted tail no more often than it allows."""

import math

import pytest
import torch
from scipy.stats import binom

from precisionkit.arithmetic import parse_arithmetic
from precisionkit.bound.linearised import linearised
from precisionkit.capture import capture
from precisionkit.evaluate import Program, execute
from precisionkit.graph import interpret
from precisionkit.lemma import gaps

from .test_real_networks import NETWORKS, loaded

SIGNIFICANCE = 1e-6
IMAGES, OF_DEEP_NETWORKS = 100, 24
TESTED = [("digits_cnn", "fp16"), ("digits_cnn", "bf16"), ("digits_cnn", "fp32"), ("mnist_6_100", "fp16"), ("mnist_6_100", "bf16")]
TESTED += [("mnist_fc_3layer", "fp16"), ("mnist_cnn_small", "fp16"), ("cifar_conv_small_sigmoid", "fp16"), ("cifar_resnet20", "fp16")]


@pytest.fixture
def folder(request):
    return request.config.rootpath.parent / "shared"


def standardised(name, storage, folder, native=False):
    """Error of one gap of each image, from the exact network's, in units of the predicted standard deviation."""
    model, data = loaded(name, folder, OF_DEEP_NETWORKS if name == "cifar_resnet20" else IMAGES)
    images = model.preprocess(data.images)
    program = Program.of(capture(model.module, tuple(images.shape[1:])), parse_arithmetic(storage))
    inputs = program.inputs(images)
    logits = execute(program, inputs, native=native).logits
    classes = logits.argmax(1)
    order = linearised(program, inputs, classes)
    exact = gaps(exact_logits(program, inputs).numpy(), classes.numpy())
    errors = torch.from_numpy(gaps(logits.numpy(), classes.numpy()) - exact)
    rival = logits.scatter(1, classes[:, None], -math.inf).argmax(1)
    row = torch.arange(len(rival))
    return errors[row, rival] / (order.deviation + order.bias)[row, rival]


def exact_logits(program, inputs):
    """In binary64, whose own errors are 2**-29 of those of binary32."""
    constants = {name: value.double() for name, value in program.constants.items()}
    with torch.no_grad():
        return interpret(program.graph, inputs.double(), constants, lambda node, operands: node.record.apply(node.attributes, *operands))


def exceedances(errors):
    """Thresholds, how many errors lie beyond each, and how many may at the significance."""
    for threshold in (1.5, 2.0, 3.0, 4.0):
        tail = min(1.0, 2 * math.exp(-(threshold**2) / 2))
        yield threshold, int((errors.abs() > threshold).sum()), int(binom.isf(SIGNIFICANCE, len(errors), tail))


@pytest.mark.parametrize("native", [False, True], ids=["emulated", "native"])
@pytest.mark.parametrize(("name", "storage"), TESTED)
def test_errors_of_real_runs_obey_the_predicted_tail(name, storage, native, folder):
    if native and storage == "fp32":
        pytest.skip("binary32 has one kind of kernels here")
    errors = standardised(name, storage, folder, native)
    for threshold, seen, allowed in exceedances(errors):
        assert seen <= allowed, f"{seen} of {len(errors)} errors exceed {threshold} predicted standard deviations; {allowed} may"
    # and the prediction is not so wide that nothing could exceed it: a few times the errors would.  Sums in binary32 rarely meet
    # the worst order that their bound allows for.
    scale = 1000 if storage == "fp32" else 10
    assert any(seen > allowed for _, seen, allowed in exceedances(scale * errors))


def test_the_table_names_real_networks():
    assert {name for name, _ in TESTED} <= set(NETWORKS)
