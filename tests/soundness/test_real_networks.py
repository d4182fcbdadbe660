"""Trained networks: no proved prediction changes in any run tried, whatever the order, the batch, the threads and the kernels."""

from contextlib import contextmanager
from functools import cache

import numpy as np
import pytest
import torch

from precisionkit.arithmetic import REFERENCE, parse_arithmetic
from precisionkit.capture import capture
from precisionkit.certify import Settings, certify
from precisionkit.data import load_dataset
from precisionkit.evaluate import Program, execute
from precisionkit.formats import BINARY32
from precisionkit.graph import interpret
from precisionkit.lemma import predictions
from precisionkit.models import bundled_model, load_model
from precisionkit.ops import run_rounded
from precisionkit.ops._store import store
from precisionkit.ops.conv import _dots as conv_dots
from precisionkit.ops.linear import _dots as linear_dots
from precisionkit.truth import SAMPLED

from .test_networks import adversary, fused

ARRANGEMENTS = ("random", "reversed", "ascending", "descending", "positive first")
NETWORKS = {
    "digits_cnn": (None, "digits", 60),
    "mnist_fc_3layer": ("mnist_fc_3layer.pth", "mnist", 48),
    "mnist_6_100": ("mnist_6_100_nat.pth", "mnist", 48),
    "mnist_cnn_small": ("mnist_cnn_small.pth", "mnist", 24),
    "lenet5": ("lenet_mnist.pt", "mnist", 8),
    "cifar_conv_small_sigmoid": ("cifar_conv_small_sigmoid.pth", "cifar10", 8),
    "cifar_resnet20": ("resnet20-12fca82f.th", "cifar10", 2),
}
CASES = [
    *((name, ("fp16",)) for name in NETWORKS if name != "cifar_resnet20"),
    ("cifar_resnet20", ("fp32",)),
    *(("mnist_6_100", options) for options in (("bf16",), ("fp32",), ("fp16", "fp32", "any", "epilogue"))),
    ("digits_cnn", ("bf16",)),
]
NAMED = [("digits_cnn", 60), ("mnist_6_100", 48)]


@cache
def loaded(name, folder, images=None):
    file, data, count = NETWORKS[name]
    count = images or count
    if file is None:
        return load_model(bundled_model(name)), load_dataset(data, limit=count)
    if not folder.is_dir():
        pytest.skip("the folder with real data sets and networks is not beside the checkout")
    return load_model(folder / "models" / file, arch=name), load_dataset(data, root=folder / "data", limit=count, download=False)


@pytest.fixture
def folder(request):
    return request.config.rootpath.parent / "shared"


def proved(name, folder, arithmetic, method="auto"):
    """Both programs, the inputs that are proved, and their classes."""
    model, data = loaded(name, folder)
    report = certify(model, data, arithmetic, Settings(method=method))
    rows = [i.index for i in report.inputs if i.verdict == "proved"]
    assert len(rows) >= 0.8 * len(report.inputs)
    assert report.summary.invalid == 0
    images = model.preprocess(data.images)[rows]
    graph = capture(model.module, tuple(images.shape[1:]))
    return Program.of(graph, REFERENCE), Program.of(graph, arithmetic), images, np.asarray([report.inputs[i].prediction_half for i in rows])


def arranged(products, arrangement, generator):
    """Terms of dot products, along dimension 3, in another order; each product may have its own."""
    match arrangement:
        case "random":
            return products.index_select(3, torch.randperm(products.shape[3], generator=generator))
        case "reversed":
            return products.flip(3)
        case "ascending":
            return products.gather(3, products.abs().argsort(3))
        case "descending":
            return products.gather(3, products.abs().argsort(3, descending=True))
    return products.sort(3, descending=True).values


def rearranged(program, inputs, arrangement):
    """A run whose dot products are summed in binary32 in the order of an arrangement, bias first or last."""
    generator = torch.Generator().manual_seed(7)

    def run_node(node, operands):
        if node.operator not in SAMPLED:
            result = run_rounded(node.record, program.arithmetic, node.attributes, *operands)
        else:
            x, weight, bias = (*operands, None)[:3]
            dots = linear_dots(x, None, weight, bias) if node.operator == "linear" else conv_dots(node.attributes, x, None, weight, bias)
            terms = arranged(dots.weight[None, ..., None] * dots.columns[:, :, None], arrangement, generator)
            start = None if dots.bias is None else dots.bias[None, :, :, None].expand(terms[:, :, :, 0].shape)
            total = start if arrangement == "positive first" and start is not None else torch.zeros_like(terms[:, :, :, 0])
            for term in terms.unbind(3):
                total = total + term
            if arrangement != "positive first" and start is not None:
                total = total + start
            result = total.reshape(x.shape[0], *node.shape)
        return store(result, program.arithmetic.storage) if program.stores(node) else result

    return torch.cat([interpret(program.graph, some, program.constants, run_node) for some in inputs.split(4)])


@contextmanager
def threads(count):
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def runs(program, inputs):
    """Logits of many executions that the arithmetic of one program permits."""
    for arrangement in ARRANGEMENTS:
        yield arrangement, rearranged(program, inputs, arrangement)
    for size in (1, 7):
        yield f"batches of {size}", torch.cat([execute(program, some).logits for some in inputs.split(size)])
    with threads(2):
        yield "two threads", execute(program, inputs).logits
    if program.arithmetic.storage != BINARY32 and not program.arithmetic.fused:
        yield "native", execute(program, inputs, native=True).logits
        yield "fused", execute(fused(program), inputs).logits


def assert_kept(logits, classes, what):
    changed = (predictions(logits.double().numpy()) != classes).nonzero()[0].tolist()
    assert not changed, f"{what} changes the proved predictions {changed}"


@pytest.mark.parametrize(("name", "options"), CASES, ids=lambda value: value if isinstance(value, str) else "-".join(value))
def test_no_proved_prediction_changes(name, options, folder):
    reference, half, images, classes = proved(name, folder, parse_arithmetic(*options))
    seen = []
    for program in (reference, half):
        inputs = program.inputs(images)
        for what, logits in runs(program, inputs):
            assert_kept(logits, classes, what)
            seen.append(logits.double())
        for seed, target in ((0, 0), (0, 1), (0, 2), (1, 0), (2, 0)):
            moved = adversary(program, inputs, torch.from_numpy(classes), target, seed)
            assert_kept(moved, classes, "an adversary" if seed == 0 else "random roundings")
    assert any(not torch.equal(seen[0], other) for other in seen[1:])  # these are different runs


@pytest.mark.parametrize(("name", "count"), NAMED)
@pytest.mark.parametrize(
    "options",
    [
        ("fp16", "fp16", "pairwise"),
        ("fp16", "fp16", "blocked:16"),
        ("fp16", "fp32", "tensorcore:volta"),
        ("fp16", "fp32", "tensorcore:hopper"),
    ],
    ids="-".join,
)
def test_named_orders_keep_what_is_proved_for_them(name, count, options, folder):
    _, half, images, classes = proved(name, folder, parse_arithmetic(*options))
    for size in (3, count):
        logits = torch.cat([execute(half, some).logits for some in half.inputs(images).split(size)])
        assert_kept(logits, classes, options[2])


def test_a_probable_prediction_is_kept_too(folder):
    model, data = loaded("digits_cnn", folder)
    report = certify(model, data, parse_arithmetic("bf16"), Settings(method="adjoint"))
    rows = [i.index for i in report.inputs if i.verdict in ("proved", "probable")]
    program = Program.of(capture(model.module, tuple(model.preprocess(data.images[:1]).shape[1:])), parse_arithmetic("bf16"))
    inputs = program.inputs(model.preprocess(data.images)[rows])
    classes = np.asarray([report.inputs[i].prediction_half for i in rows])
    for what, logits in runs(program, inputs):
        assert_kept(logits, classes, what)
    for seed in range(1, 9):
        assert_kept(adversary(program, inputs, torch.from_numpy(classes), 0, seed), classes, "random roundings")
