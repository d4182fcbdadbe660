"""The operators that an exported program may call: each computes its results from its arguments and does nothing else."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch._decomp import decomposition_table


def _listed(names: str) -> frozenset[str]:
    return frozenset(names.split())


FUNCTIONS = _listed(
    """
    __and__ __or__ __xor__
    _adaptive_avg_pool2d _convolution _log_softmax _native_batch_norm_legit _native_batch_norm_legit_no_training _prelu_kernel
    _scaled_dot_product_flash_attention_for_cpu _softmax _to_copy _unsafe_index _unsafe_view _upsample_bilinear2d_aa
    abs acos adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d add addbmm addcdiv
    addcmul addmm alias all alpha_dropout amax amin any arange argmax argmin as_strided asin atan atan2 avg_pool1d avg_pool2d avg_pool3d
    baddbmm batch_norm bitwise_and bitwise_not bitwise_or bitwise_xor bmm broadcast_tensors broadcast_to
    cat ceil celu channel_shuffle chunk clamp clamp_max clamp_min clone concat constant_pad_nd contiguous conv1d conv2d conv3d
    conv_transpose1d conv_transpose2d conv_transpose3d convolution copy cos cosh cumsum
    detach diagonal div divide dot dropout einsum elu embedding eq erf erfc exp exp2 expand expand_as expm1 eye
    feature_dropout fill flatten flip floor floor_divide fmod frac full full_like
    gather ge gelu glu greater group_norm gt hardshrink hardsigmoid hardswish hardtanh
    im2col index index_select instance_norm isfinite isinf isnan layer_norm le leaky_relu lerp less lift_fresh lift_fresh_copy
    linalg_norm linalg_vector_norm linear linspace log log10 log1p log2 log_sigmoid log_softmax logical_and logical_not logical_or
    logical_xor logsumexp lt
    masked_fill matmul max max_pool1d max_pool2d max_pool2d_with_indices max_pool3d max_pool3d_with_indices maximum mean meshgrid min
    minimum mish mm movedim mul multiply mv nan_to_num narrow native_batch_norm native_dropout native_group_norm native_layer_norm ne neg
    negative new_full new_ones new_zeros norm numel ones ones_like
    pad permute pixel_shuffle pixel_unshuffle pow prelu prod reciprocal reflection_pad1d reflection_pad2d relu relu6 remainder repeat
    repeat_interleave replication_pad1d replication_pad2d reshape reshape_as rms_norm roll rot90 round rsqrt rsub
    scalar_tensor scaled_dot_product_attention select select_scatter selu sigmoid sign silu sin sinh slice slice_scatter softmax softplus
    softshrink split split_with_sizes sqrt square squeeze stack std sub subtract sum swapaxes sym_numel sym_size sym_stride
    t tan tanh threshold tile to transpose tril triu true_divide trunc type_as unbind unflatten unfold unsqueeze
    upsample_bicubic2d upsample_bilinear2d upsample_linear1d upsample_nearest1d upsample_nearest2d
    var var_mean view view_as where zero zeros zeros_like
    """
)
"""Of the namespace aten; overloads that write into an argument are not meant."""

IN_PLACE = _listed(
    """
    add_ addcdiv_ addcmul_ alpha_dropout_ celu_ clamp_ clamp_max_ clamp_min_ copy_ detach_ div_ dropout_ elu_ exp_ feature_dropout_ fill_
    gelu_ hardsigmoid_ hardswish_ hardtanh_ leaky_relu_ log_ masked_fill_ mish_ mul_ neg_ pow_ reciprocal_ relu_ relu6_ rsqrt_ selu_
    sigmoid_ silu_ sqrt_ square_ sub_ tanh_ threshold_ zero_
    """
)
"""Of the namespace aten: these write their result into their first argument, which must be a result of the graph itself."""

SKIPPED = frozenset({"_assert_tensor_metadata", "_assert_scalar", "_assert_async", "sym_constrain_range", "sym_constrain_range_for_size"})
"""Of the namespace aten: checks without a result, which need not run."""

ON_NUMBERS: dict[str, Callable[..., Any]] = {
    **{
        f"_operator.{name}": getattr(operator, name)
        for name in ("add", "sub", "mul", "floordiv", "truediv", "mod", "neg", "pos", "eq", "ne", "lt", "le", "gt", "ge")
    },
    "math.ceil": math.ceil,
    "math.floor": math.floor,
    "math.trunc": math.trunc,
    "torch.sym_float": torch.sym_float,
    "torch.sym_int": torch.sym_int,
    "torch.sym_max": torch.sym_max,
    "torch.sym_min": torch.sym_min,
}
"""Arithmetic on sizes, by the names that torch writes."""

RECURRENT = frozenset({"gru", "lstm", "rnn_relu", "rnn_tanh"})
"""Of the namespace aten, as layers of padded batches (overload ``input``): they are run as the steps that torch decomposes them into."""

TRAINING = {
    "_native_batch_norm_legit": "training",
    "alpha_dropout": "train",
    "alpha_dropout_": "train",
    "batch_norm": "training",
    "dropout": "train",
    "dropout_": "train",
    "feature_dropout": "train",
    "feature_dropout_": "train",
    "gru": "train",
    "lstm": "train",
    "native_batch_norm": "training",
    "native_dropout": "train",
    "rnn_relu": "train",
    "rnn_tanh": "train",
    "_scaled_dot_product_flash_attention_for_cpu": "dropout_p",
    "scaled_dot_product_attention": "dropout_p",
}
"""The argument that makes an operator random, or mix the images of a batch."""

_GIVE_NUMBERS = frozenset({"numel", "sym_numel", "sym_size", "sym_stride"})
_TARGET = re.compile(r"torch\.ops\.aten\.(\w{1,80})\.(\w{1,80})", re.ASCII)


def base_name(target: str) -> str:
    """Return the name of an aten operator without its overload; empty for anything else."""
    match = _TARGET.fullmatch(target)
    return match[1] if match else ""


def find(target: str) -> Callable[..., Any] | None:
    """Return the operator of this name, or None where it is not allowed or not in this version of PyTorch."""
    if target in ON_NUMBERS:
        return ON_NUMBERS[target]
    match = _TARGET.fullmatch(target)
    if match is None or match[1] not in FUNCTIONS | IN_PLACE | RECURRENT or (match[1] in RECURRENT and match[2] != "input"):
        return None
    packet = getattr(torch.ops.aten, match[1], None)
    if packet is None or match[2] not in packet.overloads():
        return None
    overload = getattr(packet, match[2])
    allowed = match[1] in IN_PLACE or (not overload._schema.is_mutable and (match[1] in _GIVE_NUMBERS or _gives_tensors(overload)))
    return overload if allowed else None


def implementation(target: str, operator: Callable[..., Any]) -> Callable[..., Any]:
    """Return what computes an operator: itself, or the steps of a recurrent layer, each of which checks the sizes of its operands."""
    return partial(_by_steps, decomposition_table[operator]) if base_name(target) in RECURRENT else operator  # type: ignore[index]


def _by_steps(decomposition: Callable[..., Any], /, *arguments: Any, **keywords: Any) -> Any:
    """Run a decomposition; without oneDNN, for which it would take another operator than the plain ones."""
    before = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(False)
    try:
        return decomposition(*arguments, **keywords)
    finally:
        torch._C._set_mkldnn_enabled(before)


def _gives_tensors(overload: Any) -> bool:
    """Whether every result is a tensor or a list of tensors: TorchScript's overloads for strings and lists of any type are left out."""
    return all(str(result.type) in ("Tensor", "List[Tensor]") for result in overload._schema.returns)
