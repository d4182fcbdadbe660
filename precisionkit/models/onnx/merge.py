"""Put operators together again that exporters take apart.

Exporters write some operators of PyTorch as several of ONNX, where the version of ONNX has no such operator: the torch program
rounds once where these nodes, taken literally, would round after each.  Merged are, with the results of the inner nodes unused
elsewhere:

- a product with a constant matrix and the addition of a constant vector: a linear layer;
- mean, difference, square, mean, square root, quotient, and the scale and shift after them: layer normalisation;
- reshaping into groups, instance normalisation without effect of its own, reshaping back, scale and shift: group normalisation;
- elementwise nodes of one tensor that compute GELU (either form), SiLU, Mish or hard-swish, whatever their order;
- products of scaled queries and scaled keys, softmax, product with the values: scaled dot product attention.

A verdict is then one of the torch program, which runs the merged operators.  Who wrote ``x * sigmoid(x)`` as two operators gets
the verdict of ``silu(x)``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from precisionkit.models.onnx.layers import normalised_groups, normalised_instances, normalised_layer
from precisionkit.models.onnx.network import Program, Step
from precisionkit.models.onnx.sizes import Size

_SMOOTH = frozenset({"Erf", "Tanh", "Sigmoid", "HardSigmoid", "Clip", "Softplus"})
_ELEMENTWISE = frozenset({"Add", "Sub", "Mul", "Div", "Pow", *_SMOOTH})
_MOST_STEPS = 12  # that one activation is taken apart into
_ACTIVATIONS: Mapping[str, tuple[Callable[..., Tensor], Mapping[str, Any]]] = {
    "Gelu": (F.gelu, {"approximate": "none"}),
    "GeluTanh": (F.gelu, {"approximate": "tanh"}),
    "Silu": (F.silu, {}),
    "HardSwish": (F.hardswish, {}),
    "Mish": (F.mish, {}),
}


@dataclasses.dataclass(frozen=True)
class _Merged:
    """What takes the place of the last of some steps."""

    inner: tuple[Step, ...]
    last: Step
    step: Step
    constants: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)


def merge(program: Program) -> Program:
    """Return the program with merged operators."""
    for find in (_linears, _layer_norms, _group_norms, _activations, _attentions):
        program = _applied(program, find)
    used = {name for step in program.steps for name in step.names}
    return dataclasses.replace(program, constants={name: tensor for name, tensor in program.constants.items() if name in used})


def _applied(program: Program, find: Callable[[_View], Iterator[_Merged]]) -> Program:
    dropped: set[int] = set()
    replaced: dict[int, Step] = {}
    constants = dict(program.constants)
    for found in find(_View(program)):
        steps = {id(step) for step in (*found.inner, found.last)}
        if steps & (dropped | replaced.keys()):
            continue
        dropped |= {id(step) for step in found.inner}
        merged = tuple(node for step in (*found.inner, found.last) for node in step.nodes if node.outputs != found.step.node.outputs)
        replaced[id(found.last)] = dataclasses.replace(found.step, merged=merged)
        constants |= found.constants
    kept = tuple(replaced.get(id(step), step) for step in program.steps if id(step) not in dropped)
    return dataclasses.replace(program, steps=kept, constants=constants)


class _View:
    """A program with its edges in both directions."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.made = {name: step for step in program.steps for name in step.outputs}
        self.users: dict[str, list[Step]] = {}
        for step in program.steps:
            for name in dict.fromkeys(step.names):
                self.users.setdefault(name, []).append(step)

    def maker(self, name: object, *kinds: str) -> Step | None:
        """The step that makes a value, if it is of one of these kinds."""
        step = self.made.get(name) if isinstance(name, str) else None
        return step if step is not None and step.node.kind in kinds else None

    def user(self, step: Step, *kinds: str) -> Step | None:
        """The only user of a step's result, if it is of one of these kinds."""
        users = self.users.get(step.outputs[0], [])
        alone = len(users) == 1 and step.outputs[0] != self.program.output
        return users[0] if alone and users[0].node.kind in kinds else None

    def constant(self, step: Step, beside: str) -> str | None:
        """The constant that a step combines the named value with."""
        others = [name for name in step.names if name != beside]
        return others[0] if len(others) == 1 and len(step.operands) == 2 and others[0] in self.program.constants else None

    def inner(self, steps: set[int], last: Step) -> bool:
        """Whether the results of steps, beside the last one's, are used by these steps alone."""
        return all(
            name != self.program.output and all(id(user) in steps for user in self.users.get(name, ()))
            for step in self.program.steps
            if id(step) in steps and step is not last
            for name in step.outputs
        )

    def shape(self, name: str) -> tuple[int | Size, ...]:
        return self.program.shapes[name]


def _new(last: Step, kind: str, function: Callable[..., Any], operands: tuple[Any, ...], **options: Any) -> Step:
    return Step(dataclasses.replace(last.node, kind=kind, attributes={}), function, operands, last.outputs, options)


def _linears(view: _View) -> Iterator[_Merged]:
    for step in view.program.steps:
        if step.function is not F.linear or step.operands[2] is not None:
            continue
        last = view.user(step, "Add")
        name = view.constant(last, step.outputs[0]) if last else None
        if last is None or name is None:
            continue
        bias = view.program.constants[name]
        width = view.program.constants[str(step.operands[1])].shape[0]
        if bias.numel() != width or bias.shape[-1:] != (width,) or bias.dim() > len(view.shape(step.outputs[0])):
            continue
        constants = {} if bias.dim() == 1 else {f"{name}, flat": bias.reshape(-1)}
        yield _Merged((step,), last, _new(last, "Gemm", F.linear, (*step.operands[:2], next(iter(constants), name))), constants)


def _scaled(view: _View, step: Step, shape: tuple[int, ...]) -> tuple[list[Step], list[str | None]]:
    """Follow a multiplication with, and an addition of, constants of one shape; return the steps and the constants."""
    steps: list[Step] = []
    found: list[str | None] = [None, None]
    for i, kind in enumerate(("Mul", "Add")):
        user = view.user(steps[-1] if steps else step, kind)
        name = view.constant(user, (steps[-1] if steps else step).outputs[0]) if user else None
        if user is None or name is None or tuple(view.program.constants[name].shape) != shape:
            break
        steps.append(user)
        found[i] = name
    return steps, found


def _layer_norms(view: _View) -> Iterator[_Merged]:
    for quotient in view.program.steps:
        if quotient.node.kind != "Div" or len(quotient.names) != 2:
            continue
        difference, root = view.maker(quotient.operands[0], "Sub"), view.maker(quotient.operands[1], "Sqrt")
        shifted = view.maker(root.operands[0], "Add") if root else None
        variance = view.maker(shifted.operands[0], "ReduceMean") if shifted else None
        square = view.maker(variance.operands[0], "Pow", "Mul") if variance else None
        if difference is None or root is None or shifted is None or variance is None or square is None:
            continue
        mean = view.maker(difference.operands[1], "ReduceMean")
        epsilon = shifted.operands[1]
        d = difference.outputs[0]
        if (
            mean is None
            or mean.operands[0] != difference.operands[0]
            or square.operands not in ((d, 2), (d, d))
            or not isinstance(epsilon, float)
        ):
            continue
        rank = len(view.shape(d))
        dims = mean.options["dim"]
        if mean.options != variance.options or not mean.options["keepdim"] or dims != tuple(range(rank - len(dims), rank)):
            continue
        steps = [mean, difference, square, variance, shifted, root, quotient]
        shape = tuple(size for size in view.shape(d)[rank - len(dims) :] if isinstance(size, int))
        more, (weight, bias) = _scaled(view, quotient, shape)
        steps += more
        if len(shape) == len(dims) and view.inner({id(s) for s in steps}, steps[-1]):
            step = _new(steps[-1], "LayerNormalization", normalised_layer, (mean.operands[0], weight, bias), shape=shape, eps=epsilon)
            yield _Merged(tuple(steps[:-1]), steps[-1], step)


def _group_norms(view: _View) -> Iterator[_Merged]:
    for normal in view.program.steps:
        if normal.function is not normalised_instances:
            continue
        before, after = view.maker(normal.operands[0], "Reshape"), view.user(normal, "Reshape")
        weight, bias = (view.program.constants.get(str(name)) for name in normal.operands[1:])
        if before is None or after is None or weight is None or bias is None or not bool((weight == 1).all() & (bias == 0).all()):
            continue
        x = str(before.operands[0])
        shape, groups = view.shape(x), weight.numel()
        if len(shape) < 3 or view.shape(after.outputs[0]) != shape or view.shape(before.outputs[0])[:2] != (Size(1), groups):
            continue
        channels = shape[1]
        if not isinstance(channels, int) or shape[0] != Size(1):
            continue
        more, names = _scaled(view, after, (channels, *(1,) * (len(shape) - 2)))
        steps = [before, normal, after, *more]
        flat = {f"{name}, flat": view.program.constants[name].reshape(-1) for name in names if name is not None}
        operands = (x, *(None if name is None else f"{name}, flat" for name in names))
        if view.inner({id(s) for s in steps}, steps[-1]):
            step = _new(steps[-1], "GroupNormalization", normalised_groups, operands, groups=groups, eps=normal.options["eps"])
            yield _Merged(tuple(steps[:-1]), steps[-1], step, flat)


def _activations(view: _View) -> Iterator[_Merged]:
    for last in reversed(view.program.steps):
        if last.node.kind not in ("Mul", "Div"):
            continue
        for source in _sources(view, last):
            steps = _cone(view, last, source)
            if steps is None or not any(step.node.kind in _SMOOTH for step in steps):
                continue
            found = _activation(steps, source)
            if found is not None:
                function, options = _ACTIVATIONS[found]
                yield _Merged(tuple(s for s in steps if s is not last), last, _new(last, found, function, (source,), **options))
                break


def _sources(view: _View, last: Step) -> list[str]:
    """Values that elementwise steps lead from to this one, the nearest first."""
    found: dict[str, None] = {}
    border, depth = [last], 0
    while border and depth < _MOST_STEPS:
        names = [name for step in border for name in step.names if name not in found and name not in view.program.constants]
        found |= dict.fromkeys(names)
        border = [step for name in dict.fromkeys(names) if (step := view.maker(name, *_ELEMENTWISE)) is not None]
        depth += 1
    return list(found)[: 2 * _MOST_STEPS]


def _cone(view: _View, last: Step, source: str) -> list[Step] | None:
    """All steps between a value and a step, if they are elementwise, two or more, and of that value alone."""
    found: dict[int, Step] = {}
    waiting = [last]
    while waiting:
        step = waiting.pop()
        if id(step) in found:
            continue
        found[id(step)] = step
        if len(found) > _MOST_STEPS:
            return None
        for name in step.names:
            if name != source:
                before = view.maker(name, *_ELEMENTWISE)
                if before is None:
                    return None
                waiting.append(before)
    if len(found) < 2 or not view.inner(set(found), last):
        return None
    return [step for step in view.program.steps if id(step) in found]


def _activation(steps: list[Step], source: str) -> str | None:
    """The activation that the steps compute, to the precision of their binary32 constants."""
    grid = torch.linspace(-12, 12, 481, dtype=torch.float64)
    values: dict[str, Tensor] = {source: grid}
    for step in steps:
        step.run(values, 1)
    result = values[steps[-1].outputs[0]]
    for name, (function, options) in _ACTIVATIONS.items():
        wanted = function(grid, **options)
        if bool(((result - wanted).abs() <= 1e-6 * (1 + wanted.abs())).all()):
            return name
    return None


def _attentions(view: _View) -> Iterator[_Merged]:
    for scores in view.program.steps:
        if scores.function is not torch.matmul:
            continue
        steps, mask = [scores], None
        user = view.user(scores, "Add", "Softmax")
        if user is not None and user.node.kind == "Add":
            mask = view.constant(user, scores.outputs[0])
            steps.append(user)
            user = view.user(user, "Softmax") if mask else None
        last = view.user(user, "MatMul") if user is not None else None
        if (
            user is None
            or last is None
            or last.operands[0] != user.outputs[0]
            or user.options.get("dim") != len(view.shape(user.outputs[0])) - 1
        ):
            continue
        steps.append(user)
        queries, keys = (view.maker(name, "Mul") for name in scores.operands)
        if queries is None or keys is None or not all(isinstance(s.operands[1], float) for s in (queries, keys)):
            continue
        query, value = queries.operands[0], last.operands[1]
        turned = _untransposed(view, keys.operands[0])
        if turned is None or not isinstance(query, str) or not isinstance(value, str):
            continue
        key, size, moves = turned
        scale = float(queries.operands[1] or 0) * float(keys.operands[1] or 0)
        width = view.shape(query)[-1]
        if not isinstance(width, int) or abs(scale * width**0.5 - 1) > 1e-5 or len(view.shape(query)) != 4:
            continue
        steps += [queries, keys, *moves]
        if view.inner({id(s) for s in (*steps, last)}, last):
            step = _new(last, "Attention", _attention, (query, key, value, mask), key_size=size)
            yield _Merged(tuple(steps), last, step)


def _untransposed(view: _View, name: object) -> tuple[str, tuple[int | Size, ...], list[Step]] | None:
    """The value of which a value is the transpose in its last two dimensions, its shape as such, and the steps between them.

    Exporters may merge the batch with the heads for this, and take them apart again.
    """
    step = view.maker(name, "Transpose", "Reshape")
    moves: list[Step] = []
    if step is not None and step.node.kind == "Reshape":
        moves.append(step)
        step = view.maker(step.operands[0], "Transpose")
    if step is None:
        return None
    moves.append(step)
    key, shape = str(step.operands[0]), view.shape(str(name))
    dims, size = step.options["dims"], (*shape[:-2], shape[-1], shape[-2])
    if dims != (*range(len(dims) - 2), len(dims) - 1, len(dims) - 2) or view.shape(key)[-2:] != size[-2:]:
        return None
    merged = view.maker(key, "Reshape") if len(moves) == 2 else None
    if merged is not None and view.shape(str(merged.operands[0])) == size and view.user(merged, "Transpose") is step:
        moves.append(merged)
        key = str(merged.operands[0])
    return key, size, moves


def _attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, *, key_size: tuple[int, ...]) -> Tensor:
    if key.dim() != len(key_size):
        key = key.reshape(key_size)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
