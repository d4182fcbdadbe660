"""Capture: what is kept, what is removed, and every refusal."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from precisionkit.arithmetic import REFERENCE, parse_arithmetic
from precisionkit.bound.interval import interval
from precisionkit.capture import capture
from precisionkit.capture.calm import as_written
from precisionkit.enclosure import Enclosure
from precisionkit.errors import UnsupportedOperatorError, UnusableModelError
from precisionkit.evaluate import Program, execute
from precisionkit.ops import BY_NAME
from precisionkit.task import arithmetic_info


class Of(nn.Module):
    """A module of one function, with a linear layer to call."""

    def __init__(self, function, size=6, classes=3):
        super().__init__()
        self.function, self.linear = function, nn.Linear(size, classes)

    def forward(self, x):
        return self.function(self, x)


def everything(self, x):
    x = F.pad(x, (1, 2, 0, 1))
    a = self.first(x)
    b = self.grouped(F.max_pool2d(F.relu(self.norm(a)), 3, 2, 1))
    b = b + self.dilated(b) * 0.5 - 0.25
    c = torch.cat([b, b[:, ::2]], dim=1).permute(0, 2, 3, 1).transpose(1, 3).contiguous()
    c = F.avg_pool2d(F.interpolate(c, scale_factor=2.0, mode="bilinear"), 2)
    pooled = torch.cat([F.adaptive_avg_pool2d(c, 1).flatten(1), c.mean((2, 3)), c.mean((2, 3), keepdim=True).squeeze((2, 3))], 1)
    return self.linear(torch.sigmoid(pooled))


def big():
    module = Of(everything, 18)
    module.first = nn.Conv2d(2, 4, 3, stride=(1, 2), padding=(1, 0))
    module.norm = nn.BatchNorm2d(4)
    module.grouped = nn.Conv2d(4, 4, 3, padding="same", groups=2)
    module.dilated = nn.Conv2d(4, 4, (3, 2), padding="same", dilation=(1, 2), bias=False)
    return module.eval()


def test_a_captured_network_computes_what_the_module_does_for_any_batch():
    torch.manual_seed(0)
    module = big()
    graph = capture(module, (2, 9, 8))
    for batch in (1, 2, 5):
        x = torch.randn(batch, 2, 9, 8)
        with torch.no_grad():
            expected = module(x).double()
        assert torch.equal(execute(Program.of(graph, REFERENCE), x).logits, expected)
    assert graph.classes == 3
    assert {node.operator for node in graph.nodes} >= {
        "conv2d",
        "batch_norm",
        "max_pool2d",
        "cat",
        "upsample_bilinear2d",
        "mean",
        "mul",
        "sub",
    }


def test_the_module_is_left_as_it_was():
    module = big().train().half()
    capture(module, (2, 9, 8))
    assert module.training
    assert module.first.weight.dtype == torch.float16


@pytest.mark.parametrize(
    "last", [lambda t: F.softmax(t, 1), lambda t: F.log_softmax(t, dim=-1), lambda t: F.log_softmax(F.softmax(t, 1), 1)]
)
def test_a_softmax_at_the_end_decides_nothing(last):
    graph = capture(Of(lambda self, x: last(self.linear(x))), (6,))
    assert graph.output == "linear"
    assert graph.removed


def test_a_constant_of_another_type_and_dropout_are_understood():
    module = Of(lambda self, x: self.linear(F.dropout(x, 0.5, self.training) + self.shift))
    module.register_buffer("shift", torch.arange(6))
    graph = capture(module, (6,))
    assert all(value.dtype == torch.float32 for value in graph.constants.values())


def branches(self, x):
    return self.linear(x) if x.sum() > 0 else self.linear(-x)


REFUSED = {
    "unknown": (lambda self, x: self.linear(torch.lgamma(x)), r"No error rule is known for operator 'aten.lgamma.default' at node 'lgamma' \(test_capture.py:\d+: .*\. 'precisionkit ops' lists what is supported"),
    "batch": (lambda self, x: self.linear(x - x.mean(0, keepdim=True)), r"node 'mean' .* mixes the images of a batch"),
    "joined": (lambda self, x: self.linear(F.softmax(x.t(), -1).t()), r"node 'softmax' .* mixes the images of a batch"),
    "softmax over the batch": (lambda self, x: F.softmax(self.linear(x), 0), r"it acts on the batch dimension"),
    "constants": (lambda self, x: self.linear(x) + torch.lgamma(self.linear.bias), r"computes with constants alone; compute it when the model is built, as a buffer"),
    "pooled without channels": (lambda self, x: self.linear(F.max_pool2d(x.reshape(-1, 2, 3), 1).reshape(-1, 6)), r"only batches of images, four dimensions, are supported"),
    "wide dilation": (lambda self, x: self.linear(F.pad(F.max_pool2d(x.reshape(-1, 1, 2, 3), 2, 1, 1, 3).flatten(1), (0, 4))), r"the dilation exceeds the image, so that windows may be empty"),
    "alpha": (lambda self, x: self.linear(torch.add(x, x, alpha=2)), r"only alpha = 1 is supported"),
    "power": (lambda self, x: self.linear(x**3), r"the exponent 3 is not 2"),
    "comparison": (lambda self, x: self.linear(x * (x > 0)), r"No error rule is known for operator 'aten.gt.Scalar'"),
    "cast to integers": (lambda self, x: self.linear((x * 2**15).long() * 2.0**-15), r"casts what depends on the input from torch.float32 to torch.int64"),
    "size as a number": (lambda self, x: self.linear(x * x.shape[0]), r"computes with the size of a tensor"),
    "double": (lambda self, x: self.linear(x.double().float()), r"casts to torch.float64; only programs in float32"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_unsupported_is_refused_with_its_place(name):
    function, message = REFUSED[name]
    with pytest.raises(UnsupportedOperatorError, match=message):
        capture(Of(function), (6,))


@pytest.mark.parametrize(
    ("layer", "shape", "dims"),
    [
        (nn.ConvTranspose1d(1, 1, 3), (8,), 3),
        (nn.AdaptiveAvgPool1d(5), (8,), 3),
        (nn.MaxPool1d(2), (8,), 3),
        (nn.AdaptiveMaxPool2d(2), (4, 4), 4),
    ],
    ids=lambda v: type(v).__name__,
)
def test_a_batch_without_channels_is_refused(layer, shape, dims):
    """torch takes the batch for channels there."""
    with pytest.raises(UnsupportedOperatorError, match=rf"only batches of {dims} dimensions are supported"):
        capture(nn.Sequential(layer, nn.Flatten()), shape)


def test_an_epsilon_below_the_normal_range_is_refused():
    with pytest.raises(UnsupportedOperatorError, match=r"eps = 1e-40 is below 1.17549e-38, the normal range of binary32; choose a larger"):
        capture(nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3, eps=1e-40)), (6,))


class Gamma(nn.Module):
    def forward(self, x):
        return torch.lgamma(x)


def test_a_refusal_shows_the_users_line():
    with pytest.raises(UnsupportedOperatorError, match=r"at node 'lgamma' \(test_capture.py:\d+: return torch.lgamma\(x\)\)"):
        capture(nn.Sequential(nn.Linear(6, 3), Gamma()), (6,))


UNUSABLE = {
    "shape": (lambda self, x: self.linear(x[:, :5]), r"^The model does not run on an input of shape 6: "),
    "two results": (lambda self, x: (self.linear(x), x), r"^The model returns a tuple, and logits are needed, one tensor"),
    "control flow": (branches, r"^torch.export could not capture the model: .*data-dependent control flow"),
    "no classes": (lambda self, x: self.linear(x)[:, :1], r"^The model returns \(batch, 1\); logits of the shape \(batch, classes\), two classes or more"),
    "images": (lambda self, x: self.linear(x)[:, :, None], r"^The model returns \(batch, 3x1\)"),
    "mixed": (lambda self, x: self.linear(x + x.flip(0)), r"^The captured graph computes other logits than the model on a batch of three random inputs"),
    "input": (lambda self, x: x, r"^The model returns nothing that depends on the input"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNUSABLE)
def test_what_is_no_classifier_is_refused(name):
    function, message = UNUSABLE[name]
    with pytest.raises(UnusableModelError, match=message):
        capture(Of(function), (6,))


LAYOUTS = {
    "joined and split": lambda self, x: self.linear(x.reshape(-1, 3).reshape(-1, 6)),
    "batch behind": lambda self, x: self.linear(torch.tanh(x.t()).t()),
    "windows": lambda self, x: self.linear(torch.relu(x.reshape(-1, 3, 2).transpose(1, 2).reshape(-1, 3) * 2).reshape(-1, 6)),
    "length first": lambda self, x: self.linear(
        F.linear(x.reshape(-1, 3, 2).transpose(0, 1), self.linear.weight[:, :2]).transpose(0, 1).reshape(-1, 9)[:, :6]
    ),
    "split": lambda self, x: self.linear(torch.cat([p * i for i, p in enumerate(x.split(2, 1))], 1)),
    "rolled": lambda self, x: self.linear(torch.roll(x, 2, 1) + x.flip(1)),
    "masked": lambda self, x: self.linear(x.masked_fill(torch.tensor([True, False] * 3), 0.25)),
    "indexed": lambda self, x: self.linear(x[:, [5, 0, 0, 1, 2, 3]]),
    "class token": lambda self, x: self.linear(torch.cat([self.linear.bias[:2].expand(x.shape[0], -1), x[:, :4]], 1)),
    "constant arithmetic": lambda self, x: self.linear(x + torch.exp(self.linear.weight[0])),
    "one number an image": lambda self, x: self.linear(x * x.mean(1).unsqueeze(1) + x.sum(1)[:, None]),
    "einsum": lambda self, x: self.linear(torch.einsum("bij,bkj->bik", x.reshape(-1, 3, 2), x.reshape(-1, 3, 2)).reshape(-1, 9)[:, :6]),
    "zeros": lambda self, x: self.linear(x + x.new_zeros(x.shape[0], 6) + torch.ones(6)),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_batches_are_followed_wherever_they_go(name):
    torch.manual_seed(0)
    module = Of(LAYOUTS[name]).eval()
    graph = capture(module, (6,))
    for batch in (1, 4):
        x = torch.randn(batch, 6)
        with torch.no_grad():
            assert torch.allclose(execute(Program.of(graph, REFERENCE), x).logits.float(), module(x), atol=1e-5)


def test_a_mask_of_true_is_filled_in():
    class Padded(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(6, 3)

        def forward(self, x):
            filled = x.masked_fill(torch.tensor([True, False] * 3), True)
            return F.pad(self.linear(filled), (0, 1), value=-1e6)

    torch.manual_seed(0)
    module = Padded().eval()
    graph, x = capture(module, (6,)), torch.randn(2, 6)
    with torch.no_grad():
        assert torch.allclose(execute(Program.of(graph, REFERENCE), x).logits.float(), module(x), atol=1e-5)


def test_constants_whose_sum_cancels_are_not_computed_beforehand():
    """2^15 + 2^-14 - 2^15 is 0 in binary32, in this order."""

    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(6, 3)
            self.register_buffer("numbers", torch.tensor([2.0**15, 2.0**-14, -(2.0**15)]))

        def forward(self, x):
            return self.linear(x) * self.numbers.sum(-1)

    assert "sum" in {node.operator for node in capture(Sum(), (6,)).nodes}


class Tokens(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.table, self.linear, self.function = nn.Embedding(70000, 4), nn.Linear(8, 3), function

    def forward(self, x):
        return self.linear(self.function(self, x).flatten(1))


def test_tokens_choose_embeddings_and_are_no_numbers():
    module = Tokens(lambda self, x: torch.tanh(self.table(x[:, :2]))).eval()
    graph = capture(module, (3,), torch.int64)
    x = torch.tensor([[1, 60001, 5], [0, 30001, 2]])
    program = Program.of(graph, REFERENCE)
    with torch.no_grad():
        assert torch.equal(execute(program, program.inputs(x)).logits.float(), module(x))
    for function in (lambda self, x: self.table(x[:, :2] + 2), lambda self, x: self.table(x[:, :2]) * x[:, :2, None]):
        with pytest.raises(UnsupportedOperatorError, match="tokens can only choose embeddings"):
            capture(Tokens(function), (3,), torch.int64)


@pytest.mark.parametrize("recurrent", [nn.LSTM, nn.GRU])
def test_recurrent_layers_are_read_step_by_step(recurrent):
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.recurrent, self.linear = recurrent(3, 4, batch_first=True), nn.Linear(4, 3)

        def forward(self, x):
            return self.linear(self.recurrent(x)[0][:, -1])

    torch.manual_seed(0)
    module = Last().eval()
    graph, x = capture(module, (2, 3)), torch.randn(3, 2, 3)
    with torch.no_grad():
        assert torch.allclose(execute(Program.of(graph, REFERENCE), x).logits.float(), module(x), atol=1e-6)
    assert {"linear", "sigmoid", "tanh"} <= {node.operator for node in graph.nodes}


MASKS = {
    "causal": lambda self, q: F.scaled_dot_product_attention(q, q, q, is_causal=True),
    "boolean": lambda self, q: F.scaled_dot_product_attention(q, q, q, attn_mask=torch.ones(3, 3, dtype=torch.bool).tril()),
    "added": lambda self, q: (
        torch.softmax(q @ q.transpose(1, 2) + torch.zeros(3, 3).masked_fill(torch.ones(3, 3).triu(1) > 0, -torch.inf), -1) @ q
    ),
    "filled": lambda self, q: torch.softmax((q @ q.transpose(1, 2)).masked_fill(torch.ones(3, 3).triu(1) > 0, -torch.inf), -1) @ q,
}


@pytest.mark.parametrize("name", MASKS)
def test_masks_take_scores_out_and_overflow_nothing(name):
    torch.manual_seed(0)
    module = Of(lambda self, x: self.linear(MASKS[name](self, x.reshape(-1, 3, 2)).reshape(-1, 6))).eval()
    graph, x = capture(module, (6,)), torch.randn(2, 6)
    for storage in ("fp32", "fp16"):
        program = Program.of(graph, parse_arithmetic(storage))
        bounds, run = interval(program, program.inputs(x)), execute(program, program.inputs(x))
        assert (bounds.overflow < 0).all()
        assert run.finite.all()
        assert ((run.logits - bounds.centre).abs() <= bounds.radius).all()
        assert (bounds.radius < 1).all()


def test_a_model_that_fixes_its_batch_is_captured_alone_and_says_so():
    module = Of(lambda self, x: self.linear(torch.tanh(x)).reshape(len(x), 3)).eval()
    graph = capture(module, (6,))
    assert graph.alone
    assert "one by one" in " ".join(arithmetic_info(parse_arithmetic("fp16"), graph, probable=False).assumptions)
    free = capture(Of(lambda self, x: self.linear(x)), (6,))
    assert not free.alone
    assert "one by one" not in " ".join(arithmetic_info(parse_arithmetic("fp16"), free, probable=False).assumptions)
    x = torch.randn(3, 6)
    with torch.no_grad():
        assert torch.allclose(execute(Program.of(graph, REFERENCE), x).logits.float(), module(x), atol=1e-6)


class Padded(nn.Module):
    """Tokens of which 0 is padding."""

    def __init__(self, function):
        super().__init__()
        self.table, self.query, self.last, self.function = nn.Embedding(20, 8), nn.Linear(8, 1), nn.Linear(8, 3), function
        self.places = nn.Embedding(5, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.attend = nn.MultiheadAttention(8, 2)

    def forward(self, t):
        return self.last(self.function(self, t, self.table(t) + self.places(torch.arange(5))))


PADDED = {
    "a layer of a transformer": lambda self, t, x: self.layer(x, src_key_padding_mask=t == 0).mean(1),
    "attention with its weights, batch second": lambda self, t, x: self.attend(*[x.transpose(0, 1)] * 3, key_padding_mask=t.eq(0))[0].mean(
        0
    ),
    "mean of what is no padding": lambda self, t, x: (x * (t != 0)[:, :, None].float()).sum(1) / (t > 0).sum(1, keepdim=True).clamp(min=1),
    "weights by softmax": lambda self, t, x: (
        x * self.query(x).squeeze(-1).masked_fill(~((t >= 1) & (t < 50)), -torch.inf).softmax(-1)[..., None]
    ).sum(1),
    "maximum": lambda self, t, x: x.masked_fill((t == 0)[:, :, None], -1e4).amax(1),
    "choice of two": lambda self, t, x: torch.where((t == 1).unsqueeze(-1), x, self.query(x)).sum(1),
    "an added mask": lambda self, t, x: (torch.softmax(x @ x.transpose(1, 2) + torch.where(t[:, None] == 0, -torch.inf, 0.0), -1) @ x).mean(
        1
    ),
    "a mask of the end, moved": lambda self, t, x: x[:, 1:].masked_fill((t != 2).flip(1)[:, 1:, None], 0.1).sum(1),
}


@pytest.mark.parametrize("name", PADDED)
def test_masks_of_tokens_are_the_same_in_every_run(name):
    torch.manual_seed(0)
    module = Padded(PADDED[name]).eval()
    graph = capture(module, (5,), torch.int64)
    tokens = torch.tensor([[1, 2, 0, 0, 3], [4, 5, 6, 7, 8], [9, 1, 0, 0, 0]])
    with torch.no_grad():
        assert torch.allclose(execute(Program.of(graph, REFERENCE), tokens).logits.float(), module(tokens), atol=1e-6)
    for storage in ("fp32", "fp16"):
        program = Program.of(graph, parse_arithmetic(storage))
        bounds = interval(program, tokens)
        assert (bounds.overflow < 0).all()
        for run in (execute(program, tokens), execute(program, tokens, native=storage == "fp16")):
            assert run.finite.all()
            assert ((run.logits - bounds.centre).abs() <= bounds.radius).all()


def test_an_input_that_is_all_padding_has_no_bound():
    module = Padded(PADDED["a layer of a transformer"]).eval()
    program = Program.of(capture(module, (5,), torch.int64), parse_arithmetic("fp16"))
    bounds = interval(program, torch.tensor([[0, 0, 0, 0, 0], [1, 0, 0, 0, 0]]))
    assert (bounds.overflow >= 0).tolist() == [True, False]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda self, t, x: x[torch.arange(len(x)), (t != 0).sum(1) - 1], "is not supported"),
        (lambda self, t, x: torch.tanh((t == 0).float() * 0.1).sum(1, keepdim=True) * x[:, 0], None),
        (lambda self, t, x: x[:, 0] * (t == torch.arange(5)).float()[:, :1], "compares what the tokens choose"),
        (lambda self, t, x: x[:, 0] * (t[:, 1:] == t[:, :-1]).float()[:, :1], "compares what the tokens choose"),
        (lambda self, t, x: x[:, 0] * ((t != 0).sum(1, keepdim=True) == 3).float(), "No error rule"),
        (lambda self, t, x: torch.where(t == 0, x[..., 0], t).sum(1, keepdim=True) * x[:, 0], "tokens can only choose embeddings"),
        (lambda self, t, x: self.table(t.masked_fill(t == 0, 1)).sum(1) + x[:, 0], "tokens can only choose embeddings"),
        (lambda self, t, x: x[:, 0] + self.query.weight * t.clamp(max=3).sum(1, keepdim=True), "tokens can only choose embeddings"),
        (
            lambda self, t, x: x[:, 0] + (t + torch.where(t == 0, -torch.inf, 0.0)).amax(1, keepdim=True),
            "tokens can only choose embeddings",
        ),
        (lambda self, t, x: torch.cumsum(t != 0, 1)[:, -1:] * x[:, 0], "computes with a mask of the tokens"),
        (lambda self, t, x: x[:, 0] + self.table((t != 0).sum(1)), "computes with the integers"),
        (lambda self, t, x: x[:, 0] + self.table(t**1 + 0 * t), "computes with the integers"),
        (lambda self, t, x: x[:, 0] * (t**0.5).sum(1, keepdim=True), "computes with the integers"),
        (lambda self, t, x: x[:, 0] * (t**-1.0).sum(1, keepdim=True), "computes with the integers"),
        (lambda self, t, x: (torch.zeros(5, 5) + (t == 0)[:, None]).sum(1, keepdim=True).sum(2) * x[:, 0], "computes with a mask"),
    ],
)
def test_masks_choose_and_are_counted_and_no_more(function, message):
    module = Padded(function).eval()
    if message is None:
        capture(module, (5,), torch.int64)
    else:
        with pytest.raises(UnsupportedOperatorError, match=message):
            capture(module, (5,), torch.int64)


def test_the_fast_path_of_transformers_is_not_taken():
    layers = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2)
    module = Padded(lambda self, t, x: layers(x, src_key_padding_mask=t == 0).sum(1) + layers(torch.relu(x)).sum(1)).eval()
    layers.eval()
    before = torch.backends.mha.get_fastpath_enabled()
    graph = capture(module, (5,), torch.int64)
    assert torch.backends.mha.get_fastpath_enabled() is before
    tokens = torch.tensor([[1, 2, 0, 0, 3], [4, 5, 6, 7, 8]])
    with torch.no_grad():
        assert torch.allclose(execute(Program.of(graph, REFERENCE), tokens).logits.float(), module(tokens), atol=1e-5)


def test_warnings_of_torch_itself_are_not_shown():
    with as_written():
        warnings.warn_explicit("old", FutureWarning, "pytree.py", 1, module="torch.utils._pytree")
        warnings.warn_explicit("`isinstance(treespec, LeafSpec)` is deprecated", FutureWarning, "copyreg.py", 1, module="copyreg")
        with pytest.raises(FutureWarning, match="mine"):
            warnings.warn_explicit("mine", FutureWarning, "net.py", 1, module="net")
        with pytest.raises(FutureWarning, match="other"):
            warnings.warn_explicit("other", FutureWarning, "copyreg.py", 1, module="copyreg")


def test_torch_says_nothing_of_a_model_that_cannot_be_exported(capfd):
    class Branches(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(UnusableModelError, match="could not capture the model"):
        capture(Branches(), (3,))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda self, x: F.dropout(self.linear(x), 0.5, training=True), "draws random numbers, even in evaluation mode"),
        (lambda self, x: self.linear(x).argmax(1), "gives the place of an entry, not a number: return the logits themselves"),
    ],
)
def test_what_no_record_will_be_for_is_told_with_the_way_out(function, message):
    with pytest.raises(UnsupportedOperatorError, match=message):
        capture(Of(function).eval(), (6,))


COMPOSED = {
    "amax": lambda x: x.reshape(-1, 3, 2, 2).amax((1, 3)),
    "amin, kept": lambda x: x.reshape(-1, 3, 2, 2).amin((-1, -2), keepdim=True).reshape(-1, 3),
    "clamp": lambda x: torch.clamp(x, torch.tensor(-0.5), torch.arange(-6, 6) / 8),
    "whole numbers": lambda x: x * (torch.arange(-6, 6) / 8) + torch.arange(12),
    "clamp_min": lambda x: torch.clamp_min(x, torch.arange(-6, 6) / 8),
    "lerp": lambda x: torch.lerp(x, x.flip(1), 0.3),
    "lerp, near the end": lambda x: torch.lerp(x, x.flip(1), 0.75),
    "normalize": lambda x: F.normalize(x, dim=1),
    "normalize, sum": lambda x: F.normalize(x.abs(), p=1, dim=1),
    "powers": lambda x: (x * x + 1) ** -0.5 + (x * x + 0.5) ** 0.5 + (x * x + 2) ** -1,
    "max_pool1d": lambda x: F.max_pool1d(x[:, None], 3, 2, 1, return_indices=True)[0][:, 0],
    "adaptive_max_pool1d": lambda x: F.adaptive_max_pool1d(x.reshape(-1, 2, 6), 3).flatten(1),
}


@pytest.mark.parametrize("name", COMPOSED)
def test_operators_that_are_read_as_several(name):
    class Composed(nn.Module):
        def forward(self, x):
            return COMPOSED[name](x)

    module = Composed()
    graph, x = capture(module, (12,)), torch.randn(5, 12, generator=torch.Generator().manual_seed(3))
    assert torch.allclose(execute(Program.of(graph, REFERENCE), x).logits.float(), module(x), atol=1e-6)
    for storage, dtype in (("fp32", torch.float32), ("fp16", torch.float16), ("bf16", torch.bfloat16)):
        program = Program.of(graph, parse_arithmetic(storage))
        inputs = program.inputs(x)
        bounds = interval(program, inputs)
        assert (bounds.overflow < 0).all()
        for run in (execute(program, inputs).logits, module(inputs.to(dtype)).double()):  # torch's own kernels as well
            assert ((run - bounds.centre).abs() <= bounds.radius).all()


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda self, x: torch.lerp(x, x.flip(1), 0.9), r"its weight 0\.9 is 1/2 or more, and kernels round"),
        (lambda self, x: torch.lerp(x, x.flip(1), -1.0), "its weight -1 is not between 0 and 1"),
        (lambda self, x: x * x.amax(), "No error rule|batch dimension|one dimension"),
        (lambda self, x: x[:, F.max_pool1d(x[:, None], 2, 1, return_indices=True)[1][0, 0]], "only the first result"),
    ],
)
def test_uses_that_no_composition_covers(function, message):
    with pytest.raises(UnsupportedOperatorError, match=message):
        capture(Of(function).eval(), (6,))


@pytest.mark.parametrize(("wrap", "kind"), [(lambda y: {"logits": y}, "dict"), (lambda y: (y,), "tuple"), (lambda y: None, "NoneType")])
def test_models_that_return_no_tensor_are_refused_in_a_sentence(wrap, kind):
    class Wrapped(nn.Module):
        def forward(self, x):
            return wrap(x @ torch.ones(3, 2))

    with pytest.raises(UnusableModelError, match=rf"^The model returns a {kind}, and logits are needed, one tensor"):
        capture(Wrapped(), (3,))


def test_rows_chosen_by_what_may_deviate_have_no_bound():
    table, places = torch.randn(5, 3), torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    rule = BY_NAME["embedding"].error_rule
    exact = rule(parse_arithmetic("fp16"), {}, table.double(), Enclosure.exact(places))
    moved = rule(parse_arithmetic("fp16"), {}, table.double(), Enclosure(places, torch.tensor([[0.0, 1.0]], dtype=torch.float64)))
    assert (exact.carried == 0).all()
    assert moved.carried.isinf().all(-1).tolist() == [[False, True]]
    assert moved.carried.dtype == torch.float64
