"""What the kernels of half training store: half tensors, each product rounded once."""

import pytest
import torch
from torch.nn import functional

from precisionkit.errors import UnsupportedOperatorError
from precisionkit.training.contraction import convolved_backward
from precisionkit.training.kernels import RoundedKernels, StrictKernels, kernels
from precisionkit.training.settings import Settings


def operands(dtype, shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in shapes]


CASES = {
    "linear": (functional.linear, [(5, 40), (7, 40), (7,)]),
    "linear without bias": (functional.linear, [(5, 40), (7, 40)]),
    "matrix product": (torch.matmul, [(5, 40), (40, 3)]),
    "batched product": (torch.matmul, [(2, 5, 40), (2, 40, 3)]),
    "convolution": (functional.conv2d, [(2, 3, 8, 8), (4, 3, 3, 3), (4,)]),
}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", CASES)
def test_products_are_binary32_results_stored_once(name, dtype):
    function, shapes = CASES[name]
    half = operands(dtype, shapes)
    wide = [t.detach().float().requires_grad_() for t in half]
    expected = function(*wide)
    with RoundedKernels():
        found = function(*half)
        grad = torch.ones_like(found)
        found.backward(grad)
    expected.backward(grad.float())
    assert found.dtype == dtype
    assert torch.equal(found, expected.to(dtype))
    for mine, other in zip(half, wide, strict=True):
        assert mine.grad.dtype == dtype
        assert torch.equal(mine.grad, other.grad.to(dtype))


def test_gradients_of_layer_norm_are_not_accumulated_in_half():
    x = torch.zeros(16384, 4, dtype=torch.float16, requires_grad=True)
    weight, bias = (torch.nn.Parameter(torch.ones(4, dtype=torch.float16)) for _ in range(2))
    with RoundedKernels():
        functional.layer_norm(x, (4,), weight, bias).backward(torch.full((16384, 4), 2.0**-8, dtype=torch.float16))
    assert bias.grad.tolist() == [64.0] * 4


def test_without_the_kernels_products_need_not_be_these():
    """The test above could fail: a half accumulator gives other numbers."""
    half = operands(torch.float16, [(5, 400), (400, 3)])
    with StrictKernels():
        strict = torch.matmul(*half)
    assert not torch.equal(strict, torch.matmul(*(t.float() for t in half)).half())


def test_strict_products_backward_stay_in_the_format():
    half = [t.detach().mul(8).round().requires_grad_() for t in operands(torch.float16, [(40, 3, 8, 8), (4, 3, 3, 3), (4,)])]
    with StrictKernels():
        out = functional.conv2d(*half)
        out.backward(torch.ones_like(out))
    x, weight, _ = (t.detach() for t in half)
    expected = convolved_backward(torch.ones_like(out), x, weight, [1, 1], [0, 0], [1, 1], 1)
    for one, found in zip(half, expected, strict=True):
        assert one.grad.dtype == torch.float16
        assert torch.equal(one.grad, found)
    wide = torch.ones(40 * 36).sum()
    assert half[2].grad[0] == wide  # of the bias: 1440 ones, a multiple of 16, are exact in binary16 too


@pytest.mark.parametrize(
    ("run", "what"),
    [
        (lambda x: functional.conv1d(x.reshape(1, 2, 8), x.reshape(2, 2, 4)), "other than two dimensions"),
        (lambda x: torch.sum(x, dtype=torch.float32), "result format torch.float32"),
        (lambda x: torch.dot(x, x), "operator dot with sums in a half format"),
        (lambda x: functional.avg_pool2d(x.reshape(1, 1, 4, 4), 2), "operator avg_pool2d with sums"),
        (lambda x: x.var(), "operator var with sums"),
    ],
)
def test_strict_refuses_what_it_has_no_arithmetic_for(run, what):
    with StrictKernels(), pytest.raises(UnsupportedOperatorError, match=what):
        run(torch.ones(16, dtype=torch.float16))


@pytest.mark.parametrize(
    ("name", "native", "kind"),
    [("fp32", False, "nullcontext"), ("fp16", False, "RoundedKernels"), ("fp16", True, "nullcontext"), ("mixed", False, "RoundedKernels")]
    + [("strict-fp16", native, "StrictKernels") for native in (True, False)],
)
def test_which_kernels_a_precision_runs_on(name, native, kind):
    assert type(kernels(Settings(arch="-", data="-", precision=name, kernels="native" if native else "rounded"))).__name__ == kind
