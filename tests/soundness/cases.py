"""The table that drives the soundness tests: uses of every operator, families of inputs, arithmetics."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from zlib import crc32

import torch

from precisionkit.arithmetic import Arithmetic, parse_arithmetic
from precisionkit.ops import functions
from precisionkit.testing.families import FAMILIES as FAMILIES
from precisionkit.testing.families import draw as draw


@dataclass(frozen=True)
class Case:
    """One use of an operator.

    `activations` gives the shape of each operand that is an activation; `constants` that of each that is a weight, by position.
    """

    operator: str
    attributes: dict[str, Any] = field(default_factory=dict)
    activations: tuple[tuple[int, ...], ...] = ()
    constants: dict[int, tuple[int, ...] | None] = field(default_factory=dict)
    first: int = 0

    def __str__(self) -> str:
        return f"{self.operator}-{crc32(repr((str(self.attributes), self.activations, str(self.constants))).encode()) % 10_000}"


def _conv(x: tuple[int, ...], w: tuple[int, ...], b: tuple[int, ...] | None = None, **attributes: Any) -> Case:
    return Case("conv2d", attributes, (x,), {1: w, 2: b})


FUNCTIONS = tuple(record.name for record in functions.FUNCTIONS if record.name not in ("clamp", "hardtanh"))
CASES = (
    Case("linear", {}, ((2, 9),), {1: (3, 9), 2: None}),
    Case("linear", {}, ((2, 33),), {1: (2, 33), 2: (2,)}),
    Case("linear", {}, ((1, 2, 5),), {1: (3, 5), 2: (3,)}),
    Case("linear", {}, ((2, 1),), {1: (2, 1), 2: None}),
    Case("addmm", {}, ((2, 6),), {0: (3,), 2: (6, 3)}, first=1),
    Case("mm", {}, ((2, 6),), {1: (6, 3)}),
    _conv((1, 2, 5, 5), (3, 2, 3, 3)),
    _conv((1, 2, 5, 4), (2, 2, 3, 2), (2,), stride=(2, 1), padding=(1, 2)),
    _conv((1, 4, 4, 4), (4, 2, 2, 2), (4,), groups=2, dilation=(2, 1), padding=(1, 0)),
    _conv((1, 3, 4, 4), (3, 1, 3, 3), None, groups=3, padding="same"),
    _conv((1, 8, 3, 3), (1, 8, 2, 3), (1,), padding=(1, 0)),  # from eight channels on evaluated as a transpose
    Case("batch_norm", {"eps": 1e-5}, ((2, 3, 2, 2),), {1: (3,), 2: (3,), 3: (3,), 4: (3,)}),
    Case("batch_norm", {"eps": 1e-3}, ((2, 4),), {1: None, 2: None, 3: (4,), 4: (4,)}),
    Case("relu", {}, ((2, 12),)),
    Case("max_pool2d", {"kernel_size": (2, 2)}, ((1, 2, 4, 4),)),
    Case("max_pool2d", {"kernel_size": (3, 3), "stride": (2, 2), "padding": (1, 1)}, ((1, 2, 5, 5),)),
    Case("max_pool2d", {"kernel_size": (2, 2), "stride": (2, 1), "dilation": (1, 2), "ceil_mode": True}, ((1, 1, 5, 5),)),
    Case("avg_pool2d", {"kernel_size": (2, 2)}, ((1, 2, 4, 4),)),
    Case("avg_pool2d", {"kernel_size": (3, 3), "stride": (2, 2), "padding": (1, 1), "count_include_pad": False}, ((1, 2, 5, 5),)),
    Case("avg_pool2d", {"kernel_size": (3, 2), "stride": (2, 2), "ceil_mode": True}, ((1, 1, 6, 5),)),
    Case("adaptive_avg_pool2d", {"output_size": (1, 1)}, ((1, 2, 4, 3),)),
    Case("adaptive_avg_pool2d", {"output_size": (2, 3)}, ((1, 2, 5, 4),)),
    Case("mean", {"dim": (2, 3)}, ((2, 2, 3, 3),)),
    Case("mean", {"dim": (-1,), "keepdim": True}, ((2, 7),)),
    Case("add", {}, ((2, 6), (2, 6))),
    Case("add", {}, ((2, 6),), {1: (6,)}),
    Case("add", {"other": 0.1}, ((2, 6),), {1: None}),
    Case("sub", {}, ((2, 6), (2, 6))),
    Case("sub", {"other": 1 / 3}, ((2, 6),), {1: None}),
    Case("rsub", {"other": 1 / 3}, ((2, 6),), {1: None}),
    Case("rsub", {}, ((2, 6), (2, 6))),
    Case("mul", {}, ((2, 6), (2, 6))),
    Case("mul", {"other": 0.1}, ((2, 6),), {1: None}),
    Case("div", {"other": 3.0}, ((2, 6),), {1: None}),
    Case("div", {}, ((2, 6), (2, 6))),
    Case("conv1d", {"stride": (2,), "padding": (1,)}, ((1, 2, 7),), {1: (3, 2, 3), 2: (3,)}),
    *(Case(f"conv_transpose{d}d", {}, ((1, 2, *[3] * d),), {1: (2, 2, *[2] * d), 2: (2,)}) for d in (1, 2, 3)),
    Case("conv3d", {"padding": "same", "groups": 2}, ((1, 2, 3, 3, 2),), {1: (4, 1, 3, 3, 1), 2: None}),
    Case("matmul", {}, ((2, 3, 5), (2, 5, 4))),
    Case("matmul", {}, ((1, 2, 3, 4),), {1: (4, 2)}),
    Case("layer_norm", {"normalized_shape": (6,), "eps": 1e-5}, ((2, 2, 6),), {1: (6,), 2: (6,)}),
    Case("layer_norm", {"normalized_shape": (2, 5), "eps": 1e-3}, ((2, 3, 2, 5),), {1: None, 2: None}),
    Case("rms_norm", {"normalized_shape": (7,), "eps": 1e-5}, ((2, 7),), {1: (7,), 2: None}),
    Case("group_norm", {"num_groups": 2, "eps": 1e-5}, ((2, 4, 3),), {1: (4,), 2: (4,)}),
    Case("instance_norm", {"use_input_stats": True, "eps": 1e-5}, ((1, 2, 3, 3),), {1: (2,), 2: (2,)}),
    Case("softmax", {"dim": 1}, ((2, 7),)),
    Case("softmax", {"dim": -2}, ((1, 4, 3),)),
    Case("log_softmax", {"dim": -1}, ((2, 6),)),
    Case("attention", {}, ((1, 2, 3, 4), (1, 2, 5, 4), (1, 2, 5, 3)), {3: None}),
    Case("attention", {"scale": 0.5}, ((1, 3, 4), (1, 3, 4), (1, 3, 4)), {3: (3, 3)}),
    Case("sum", {"dim": (1,)}, ((2, 9, 2),)),
    Case("amax", {"dim": (1,)}, ((2, 5, 2),)),
    Case("amin", {"dim": -1, "keepdim": True}, ((2, 5),)),
    Case("maximum", {}, ((2, 6), (2, 6))),
    Case("minimum", {}, ((2, 6),), {1: (6,)}),
    Case("embedding", {}, ((2, 4),), {0: (5, 3)}, first=1),
    Case("constant", {}, ((2, 3),), {1: (2, 2)}),
    *(Case(name, {}, ((2, 12),)) for name in FUNCTIONS),
    Case("gelu", {"approximate": "tanh"}, ((2, 12),)),
    Case("softplus", {"beta": 2, "threshold": 40}, ((2, 12),)),
    Case("clamp", {"min": -0.3, "max": 0.7}, ((2, 12),)),
    Case("hardtanh", {"min_val": 0.0, "max_val": 6.0}, ((2, 12),)),
    Case("leaky_relu", {"negative_slope": 0.2}, ((2, 12),)),
    Case("elu", {"alpha": 0.7}, ((2, 12),)),
    Case("attention", {}, ((2, 2, 3, 4), (2, 2, 5, 4), (2, 2, 5, 3), (2, 1, 1, 5))),
    Case("masked", {}, ((2, 6), (2, 6), (2, 6))),
    Case("masked", {"fill": 0.1}, ((2, 3, 1), (2, 3, 2)), {2: None}),
    Case("masked", {}, ((2, 6), (2, 6)), {1: (6,)}),
    Case("rearrange", {"index": torch.tensor([[0, 3], [2, 5]]), "fills": (0.1, 7.0), "batched": (True,)}, ((2, 4),)),
    Case("rearrange", {"index": torch.tensor([1, 1, 4, 0]), "fills": (), "batched": (True, False)}, ((2, 3),), {1: (2,)}),
    Case("upsample_bilinear2d", {"output_size": (6, 5), "align_corners": False}, ((1, 2, 4, 4),)),
    Case("upsample_bilinear2d", {"output_size": (3, 7), "align_corners": True}, ((1, 1, 4, 4),)),
    Case("view", {"size": (-1, 8)}, ((2, 2, 4),)),
    Case("flatten", {"start_dim": 1}, ((2, 2, 4),)),
    Case("permute", {"dims": (0, 2, 1)}, ((2, 2, 4),)),
    Case("transpose", {"dim0": 1, "dim1": 2}, ((2, 2, 4),)),
    Case("unsqueeze", {"dim": 1}, ((2, 4),)),
    Case("squeeze", {"dim": 1}, ((2, 1, 4),)),
    Case("slice", {"dim": 1, "start": 0, "end": 4, "step": 2}, ((2, 5),)),
    Case("select", {"dim": 1, "index": 1}, ((2, 3, 2),)),
    Case("cat", {"dim": 1}, ((2, 3), (2, 2))),
    Case("clone", {}, ((2, 3),)),
    Case("cast", {}, ((2, 6),)),
    Case("pad", {"pad": (1, 2), "value": 0.1}, ((2, 3),)),
    Case("pad", {"pad": (1, 1), "mode": "reflect"}, ((2, 2, 3),)),
)

ARITHMETICS: tuple[Arithmetic, ...] = (
    *(parse_arithmetic(s, "fp32", "any") for s in ("fp16", "bf16", "fp32")),
    *(parse_arithmetic("fp16", "fp16", order) for order in ("any", "sequential", "pairwise", "blocked:4")),
    parse_arithmetic("bf16", "bf16", "any"),
    parse_arithmetic("bf16", "bf16", "pairwise"),
    *(parse_arithmetic("fp16", "fp32", order) for order in ("sequential", "pairwise", "blocked:8")),
    *(parse_arithmetic("fp16", "fp32", f"tensorcore:{unit}") for unit in ("volta", "ampere", "hopper")),
    parse_arithmetic("fp16", "fp32", "gpu:hopper"),
    parse_arithmetic("bf16", "fp32", "gpu:ampere"),
    *(parse_arithmetic("fp16", "fp16", f"tensorcore:{unit}") for unit in ("volta", "blackwell")),
    *(parse_arithmetic(s, "fp32", "splitk:3") for s in ("fp16", "bf16")),
    *(parse_arithmetic(s, "fp32", "exact") for s in ("fp16", "bf16")),
    parse_arithmetic("bf16", "fp32", "tensorcore:ampere"),
    parse_arithmetic("fp32", "fp32", "pairwise"),
)
