"""Building blocks of random networks: each takes a tensor of some rank, and together they use every supported operator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Shape = tuple[int, ...]
Build = Callable[[Shape], nn.Module]


class Applied(nn.Module):
    """A function of one tensor, with a name for failing examples."""

    def __init__(self, name: str, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.name, self.function = name, function

    def forward(self, x: Tensor) -> Tensor:
        """Apply it."""
        return self.function(x)

    def extra_repr(self) -> str:
        """Its name."""
        return self.name


class WithParameter(nn.Module):
    """A function of one tensor and of trained numbers."""

    def __init__(self, name: str, shape: Shape, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.name, self.function = name, function
        self.weight = nn.Parameter(torch.randn(shape) / max(shape[0], 1) ** 0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Apply it."""
        return self.function(x, self.weight)

    def extra_repr(self) -> str:
        """Its name."""
        return self.name


class Shortcut(nn.Module):
    """A block with a way around it, combined by one of the operators of two activations."""

    def __init__(self, inner: nn.Module, name: str, combine: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.inner, self.name, self.combine = inner, name, combine

    def forward(self, x: Tensor) -> Tensor:
        """Combine both ways."""
        return self.combine(self.inner(x), x)

    def extra_repr(self) -> str:
        """How."""
        return self.name


class Attention(nn.Module):
    """One head of fused attention over rows."""

    def __init__(self, width: int, *, causal: bool) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.causal = causal

    def forward(self, x: Tensor) -> Tensor:
        """Attend."""
        return F.scaled_dot_product_attention(self.q(x), self.k(x), self.v(x), is_causal=self.causal)


class Pooled(nn.Module):
    """Rows weighted by a softmax over them: products of activations."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.score = nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Pool."""
        return torch.softmax(self.score(x), 1).transpose(1, 2) @ x


class Embedded(nn.Module):
    """An embedding of tokens, with a number in place of padding."""

    def __init__(self, words: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Embed, and fill in where the token is 0."""
        rows: Tensor = self.embedding(tokens)
        return rows.masked_fill((tokens == 0).unsqueeze(-1), 0.3)


@dataclass(frozen=True)
class Block:
    """A layer of a random network.

    Attributes
    ----------
    name : str
    ranks : tuple of int
        Ranks of the inputs that it takes, without the batch.
    build : callable
        Makes the module for the shape of one input.  Its weights are torch's initial ones, by torch's random numbers.
    least : int
        Least length of every dimension but the first.
    grows : bool
        The result may have more entries.
    """

    name: str
    ranks: tuple[int, ...]
    build: Build
    least: int = 1
    grows: bool = False


def _plain(
    name: str, function: Callable[[Tensor], Tensor], ranks: tuple[int, ...] = (1, 2, 3), least: int = 1, *, grows: bool = False
) -> Block:
    return Block(name, ranks, lambda shape: Applied(name, function), least, grows)


def _layer(name: str, ranks: tuple[int, ...], build: Build, least: int = 1, *, grows: bool = False) -> Block:
    return Block(name, ranks, build, least, grows)


def _with_statistics(norm: nn.Module) -> nn.Module:
    """Batch normalisation as if it were trained."""
    for name, buffer in norm.named_buffers():
        if name == "running_mean":
            buffer.normal_(0, 0.3)
        elif name == "running_var":
            buffer.uniform_(0.5, 2)
    return norm


def _numbers(x: Tensor) -> Tensor:
    """Python numbers that no format holds."""
    return (1 / 3 - x / 7.7) * 0.1 - 0.7


def _moves(x: Tensor) -> Tensor:
    """Everything that only moves numbers, on a vector."""
    rows = x.unsqueeze(1).view(x.shape[0], 1, -1).transpose(1, 2).squeeze(2)
    return torch.cat([rows[:, ::2], F.pad(rows, (1, 1), value=0.3), rows.flip(1)], 1).contiguous().clone()


def _with_token(x: Tensor, token: Tensor) -> Tensor:
    return torch.cat([token.expand(x.shape[0], -1, -1), x], 1)


_NORMED = (
    _layer("layer_norm", (1, 2), lambda shape: nn.LayerNorm(shape[-1])),
    _layer("rms_norm", (1, 2), lambda shape: nn.RMSNorm(shape[-1], eps=1e-5)),
    _layer("batch_norm1d", (1,), lambda shape: _with_statistics(nn.BatchNorm1d(shape[0]))),
    _layer("batch_norm2d", (3,), lambda shape: _with_statistics(nn.BatchNorm2d(shape[0]))),
    _layer("group_norm", (2, 3), lambda shape: nn.GroupNorm(1, shape[0])),
    _layer("instance_norm", (2,), lambda shape: nn.InstanceNorm1d(shape[0], affine=True), 2),
)
_DOTS = (
    _layer("linear", (1, 2), lambda shape: nn.Linear(shape[-1], 5)),
    _layer("linear_without_bias", (1, 2), lambda shape: nn.Linear(shape[-1], 4, bias=False)),
    _layer("addmm", (1,), lambda shape: WithParameter("addmm", (shape[0], 4), lambda x, w: torch.addmm(w[0], x, w))),
    _layer("mm", (1,), lambda shape: WithParameter("mm", (shape[0], 5), torch.mm)),
    _layer("matmul", (2,), lambda shape: WithParameter("matmul", (shape[1], 3), torch.matmul)),
    _layer("conv1d", (2,), lambda shape: nn.Conv1d(shape[0], 3, 2, padding=1), grows=True),
    _layer("conv2d", (3,), lambda shape: nn.Conv2d(shape[0], 3, 3, padding=1), grows=True),
    _layer("conv2d_grouped", (3,), lambda shape: nn.Conv2d(shape[0], 2 * shape[0], 2, groups=shape[0], bias=False), 2, grows=True),
    _layer("conv3d", (4,), lambda shape: nn.Conv3d(shape[0], 2, 2, padding=1), grows=True),
    _layer("conv_transpose1d", (2,), lambda shape: nn.ConvTranspose1d(shape[0], 2, 2, stride=2), grows=True),
    _layer("conv_transpose2d", (3,), lambda shape: nn.ConvTranspose2d(shape[0], 2, 2), grows=True),
    _layer("conv_transpose3d", (4,), lambda shape: nn.ConvTranspose3d(shape[0], 2, 2), grows=True),
    _layer("attention", (2,), lambda shape: Attention(shape[1], causal=False)),
    _layer("causal_attention", (2,), lambda shape: Attention(shape[1], causal=True)),
    _layer("pooled_by_attention", (2,), lambda shape: Pooled(shape[1])),
)
_FUNCTIONS = (
    *(_plain(f.__name__, f) for f in (torch.relu, torch.sigmoid, torch.tanh, torch.erf, torch.sin, torch.cos, torch.abs, torch.neg)),
    *(_plain(f.__name__, f) for f in (F.softplus, F.silu, F.mish, F.gelu, F.hardsigmoid, F.hardswish, F.relu6, F.elu, F.selu)),
    _plain("log_sigmoid", F.logsigmoid),
    _plain("gelu_tanh", lambda x: F.gelu(x, approximate="tanh")),
    _plain("leaky_relu", lambda x: F.leaky_relu(x, 0.1)),
    _plain("hardtanh", lambda x: F.hardtanh(x, -0.5, 1.5)),
    _plain("clamp", lambda x: x.clamp(-0.3, 0.7)),
    _plain("exp", lambda x: torch.exp(x.clamp(max=2.0))),
    _plain("log", lambda x: torch.log(torch.abs(x) + 0.5)),
    _plain("sqrt", lambda x: torch.sqrt(torch.relu(x) + 0.25)),
    _plain("rsqrt", lambda x: torch.rsqrt(torch.sigmoid(x) + 0.1)),
    _plain("reciprocal", lambda x: torch.reciprocal(torch.sigmoid(x) + 0.5)),
    _plain("pow", lambda x: torch.tanh(x) ** 2),
    _plain("numbers", _numbers),
    _plain("softmax", lambda x: torch.softmax(x, -1)),
    _plain("log_softmax", lambda x: F.log_softmax(x, -1)),
)
_COMBINED = (
    _layer("residual", (1, 2), lambda shape: Shortcut(nn.Linear(shape[-1], shape[-1]), "add", torch.add)),
    _layer("gated", (1, 2), lambda shape: Shortcut(nn.Sequential(nn.Linear(shape[-1], shape[-1]), nn.Sigmoid()), "mul", torch.mul)),
    _layer("difference", (1, 2), lambda shape: Shortcut(nn.Linear(shape[-1], shape[-1]), "sub", torch.sub)),
    _layer("quotient", (1,), lambda shape: Shortcut(nn.Linear(shape[0], shape[0]), "div", lambda a, b: a / (torch.sigmoid(b) + 0.5))),
    _layer("largest", (1,), lambda shape: Shortcut(nn.Linear(shape[0], shape[0]), "maximum", torch.maximum)),
    _layer("smallest", (1,), lambda shape: WithParameter("minimum", shape, torch.minimum)),
    _layer("scaled", (1, 2), lambda shape: WithParameter("mul", shape[-1:], lambda x, w: x * w + w)),
    _layer("soft_scale", (1, 2), lambda shape: WithParameter("mul", shape[-1:], lambda x, w: x * torch.sigmoid(w))),
    _layer(
        "token",
        (2,),
        lambda shape: WithParameter("cat", (1, 1, shape[1]), lambda x, w: torch.cat([w.expand(x.shape[0], -1, -1), x], 1)),
        grows=True,
    ),
)
_MOVES = (
    _plain("moves", _moves, (1,), grows=True),
    _plain("first_row", lambda x: x[:, 0], (2, 3)),
    _plain("flatten", lambda x: x.flatten(1), (2, 3, 4)),
    _plain("permute", lambda x: x.permute(0, 2, 1), (2,)),
    _plain("rolled", lambda x: x.roll(1, 1), (1, 2, 3)),
    _plain("reflected", lambda x: F.pad(x, (1, 1), mode="reflect"), (2,), 2, grows=True),
)
_REDUCED = (
    _plain("mean", lambda x: x.mean(-1), (2, 3, 4)),
    _plain("sum", lambda x: x.sum(1), (2, 3, 4)),
    _plain("amax", lambda x: x.amax(-1), (2, 3, 4)),
    _plain("amin", lambda x: x.amin(1), (2, 3, 4)),
    _plain("max_pool2d", lambda x: F.max_pool2d(x, 2, 1), (3,), 2),
    _plain("padded_max_pool2d", lambda x: F.max_pool2d(x, 3, 2, 1), (3,), 2),
    _plain("avg_pool2d", lambda x: F.avg_pool2d(x, 2, 1), (3,), 2),
    _plain("adaptive_avg_pool2d", lambda x: F.adaptive_avg_pool2d(x, (2, 1)), (3,), 2),
    _plain("upsample", lambda x: F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False), (3,), grows=True),
)
BLOCKS: tuple[Block, ...] = (*_DOTS, *_NORMED, *_FUNCTIONS, *_COMBINED, *_MOVES, *_REDUCED)
"""All blocks; embeddings begin the networks that take tokens."""
