"""Analyses and runs stay on the device of their inputs: seen on a CPU, where whatever is made elsewhere by default has no data."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch

from precisionkit.arithmetic import parse_arithmetic
from precisionkit.bound import adjoint, interval, substitution
from precisionkit.bound.linearised import linearised
from precisionkit.evaluate import execute

from .cases import CASES
from .harness import bounded, enclosed, native_runs, operands, runs
from .test_networks import NETWORKS, program

METHODS = {
    "interval": interval,
    "zonotope": substitution,
    "adjoint": adjoint,
    "first order": lambda made, inputs: linearised(made, inputs, inputs.new_zeros(2, dtype=torch.int64)),
    "run": execute,
    "half kernels": lambda made, inputs: execute(made, inputs, native=True),
}
ARITHMETICS = [
    parse_arithmetic(*a) for a in (("fp16",), ("bf16", "fp32", "gpu:hopper"), ("fp16", "fp16", "pairwise"), ("fp16", "fp32", "splitk:2"))
]


@contextmanager
def elsewhere():
    torch.set_default_device("meta")
    try:
        yield
    finally:
        torch.set_default_device(None)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("arithmetic", ARITHMETICS, ids=lambda a: a.name)
@pytest.mark.parametrize("name", NETWORKS)
def test_methods_and_runs_stay_on_their_device(name, arithmetic, method):
    made, inputs = program(name, arithmetic, batch=2)
    with elsewhere():
        METHODS[method](made, inputs)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_rules_and_runs_of_operators_stay_on_their_device(case):
    arithmetic, rng = ARITHMETICS[0], np.random.default_rng(0)
    values = operands(case, "normal", rng, arithmetic.storage)
    known = enclosed(case, values)
    with elsewhere():
        bounded(case, arithmetic, known)
        native_runs(case, arithmetic, values)
        runs(case, arithmetic, values, rng)


def test_that_would_show():
    with elsewhere(), pytest.raises(RuntimeError, match="device"):
        torch.ones(2) + torch.ones(2, device="cpu")
