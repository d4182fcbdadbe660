"""torch's own samples of its operators, captured as small networks, against exact results: its table knows uses that nobody here thought of."""

from collections import Counter
from dataclasses import dataclass
from itertools import islice

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from precisionkit.arithmetic import parse_arithmetic
from precisionkit.bound import interval
from precisionkit.capture import capture
from precisionkit.errors import UnsupportedOperatorError, UnusableModelError
from precisionkit.evaluate import Program, execute
from precisionkit.truth import exact_logits

from .harness import JUDGE, distance, violations

pytest.importorskip("expecttest", reason="torch's table of operators needs expecttest")
from torch.testing._internal.common_methods_invocations import op_db

# that import freezes torch's switches for the whole process
vars(getattr(torch.backends, "m", torch.backends))["__allow_nonbracketed_mutation_flag"] = True

ARITHMETIC = parse_arithmetic("fp16", "fp32")
ROWS, LARGEST = 2, 300
"""Images of a sample, and numbers in an image or its result."""
CAPTURED, ENOUGH = 5, 2
"""Samples of one operator that are captured, and that are tested, at most."""
REFUSED = ("return_indices", "dropout_p", "enable_gqa", "divisor_override", "training", "dtype")
"""Arguments that are refused wherever they are set; such samples are not worth a capture."""


@dataclass(frozen=True)
class Source:
    """An entry of torch's table, and how many of its samples must be tested.

    `active` are the positions of the tensors that depend on the input; None for all whose first dimension is that of the first.
    """

    name: str
    least: int = ENOUGH
    variant: str = ""
    active: tuple[int, ...] | None = (0,)

    def __str__(self) -> str:
        return f"{self.name}-{self.variant}" if self.variant else self.name

    @property
    def entry(self):
        return next(e for e in op_db if e.name == self.name and e.variant_test_name == self.variant)


NN = "nn.functional."
SOURCES = (
    Source("bmm", 1, active=(0, 1)),
    Source("matmul", active=None),
    Source(NN + "linear"),
    *(Source(f"{NN}conv{dims}d") for dims in (1, 2, 3)),
    *(Source(f"{NN}conv_transpose{dims}d") for dims in (1, 2)),
    Source(NN + "scaled_dot_product_attention", active=(0, 1, 2)),
    Source("softmax"),
    Source("log_softmax"),
    Source(NN + "layer_norm"),
    Source(NN + "group_norm"),
    Source(NN + "instance_norm"),
    Source(NN + "batch_norm", 1),
    Source(NN + "max_pool2d"),
    Source(NN + "max_pool1d"),
    Source(NN + "avg_pool2d", 1),
    Source(NN + "avg_pool1d"),
    Source(NN + "adaptive_avg_pool2d"),
    Source(NN + "adaptive_avg_pool1d", 1),
    Source(NN + "interpolate", variant="bilinear"),
    Source(NN + "interpolate", variant="nearest"),
    Source(NN + "pad", variant="constant"),
    Source(NN + "pad", variant="reflect"),
    Source(NN + "embedding", active=(1,)),
    Source(NN + "gelu"),
    Source(NN + "leaky_relu"),
    Source(NN + "hardtanh"),
    Source(NN + "hardswish"),
    Source(NN + "prelu"),
    Source(NN + "glu"),
    Source("tanh", 1),
    Source("maximum", active=None),
    Source("max", variant="binary", active=None),
    Source("max", 1, "reduction_with_dim"),
    Source("amax", 1),
    Source("sum", 1),
    Source("mean", 1),
    Source("mul", active=None),
    Source("div", variant="no_rounding_mode", active=None),
    Source("roll", 1),
    Source("tril", 1),
    Source(NN + "unfold", 1),
    Source(NN + "pixel_shuffle", 1),
)


class Sample(nn.Module):
    """One use of an operator: the operands that depend on the input are cut from one row for each image."""

    def __init__(self, op, sample, active):
        super().__init__()
        self.op, self.active, self.names = op, active, tuple(sample.kwargs)
        self.given = [sample.input, *sample.args, *sample.kwargs.values()]
        self.shapes = [self.given[i].shape[1:] for i in active]
        for i, value in enumerate(self.given):
            if isinstance(value, Tensor) and i not in active:
                self.register_buffer(f"held{i}", value.clone())

    def images(self):
        return torch.cat([self.given[i].flatten(1) for i in self.active], 1)[:ROWS]

    def forward(self, x):
        values = [getattr(self, f"held{i}", value) for i, value in enumerate(self.given)]
        for i, row, shape in zip(self.active, x.split([s.numel() for s in self.shapes], 1), self.shapes, strict=True):
            values[i] = row.reshape(-1, *shape)
        positional = len(values) - len(self.names)
        result = self.op(*values[:positional], **dict(zip(self.names, values[positional:], strict=True)))
        return (result[0] if isinstance(result, (tuple, list)) else result).flatten(1)


def fitting(source, sample):
    """The sample as a network of one row for each image, if it can be one."""
    if any(sample.kwargs.get(name) for name in REFUSED):
        return None
    values = [sample.input, *sample.args]
    batch = sample.input.shape[:1]
    active = source.active or tuple(i for i, v in enumerate(values) if isinstance(v, Tensor) and v.shape[:1] == batch)
    if any(i >= len(values) or values[i].dim() < 2 for i in active) or len({values[i].shape[0] for i in active}) != 1:
        return None
    module = Sample(source.entry.op, sample, active)
    if not 0 < module.images().numel() <= ROWS * LARGEST:
        return None
    try:
        result = module(module.images())
    except (RuntimeError, IndexError, ValueError):  # fewer images than the sample has: it mixes them
        return None
    return module if result.shape[0] == len(module.images()) and 2 <= result[0].numel() <= LARGEST else None


def outcome(module):
    """What became of a sample: tested, or why not."""
    images = module.images()
    try:
        program = Program.of(capture(module, tuple(images.shape[1:]), images.dtype), ARITHMETIC)
    except (UnsupportedOperatorError, UnusableModelError) as error:
        return f"refused: {error}"
    return judged(program, program.inputs(images))


def judged(program, inputs):
    """Exact results and runs lie within the bounds, without slack."""
    bounds = interval(program, inputs)
    claimed = bounds.overflow < 0
    assert not violations(distance(bounds.centre, exact_logits(JUDGE, program, inputs)), bounds.radius, claimed)
    for native in (False, True):
        run = execute(program, inputs, native=native)
        assert not violations(distance(run.logits, bounds.centre), bounds.radius, claimed)
    return "tested" if (claimed & bounds.radius.isfinite().all(1)).any() else "no bound"


@pytest.mark.parametrize("source", SOURCES, ids=str)
def test_bounds_hold_for_samples_of_torch(source):
    samples = list(source.entry.sample_inputs("cpu", torch.float32))
    order = np.random.default_rng(0).permutation(len(samples))
    modules = (module for k in order if (module := fitting(source, samples[k])) is not None)
    found = Counter()
    for module in islice(modules, CAPTURED):
        found[outcome(module)] += 1
        if found["tested"] >= ENOUGH:
            break
    assert found["tested"] >= source.least, found
    assert not found["no bound"], found
