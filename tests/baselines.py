"""Bounds that others compute, written anew for comparison: they are no part of the toolkit.

`normwise` follows Murray, Lipschitz-Based Robustness Certification Under Floating-Point Execution, arXiv 2603.13334 (2026): a recursion
for the 2-norm of the deviation of each layer.  `gamma_n` is the componentwise recursion with Higham's constant (Accuracy and
Stability, section 3.1).  `lirpa` times auto_LiRPA (Xu et al. 2020), where its source is on the path.
"""

from __future__ import annotations

import importlib.util
import math
import time
import warnings
from dataclasses import replace

import torch
from torch import Tensor, nn

from precisionkit.bound import LogitBounds, interval
from precisionkit.bound.interval import stored
from precisionkit.enclosure import Enclosure
from precisionkit.evaluate import Program
from precisionkit.graph import interpret
from precisionkit.ops._dot import Sums
from precisionkit.ops.conv import CONV2D
from precisionkit.ops.linear import LINEAR

DENSE = ("linear", "relu", "view", "flatten")
DOTS = {"linear": LINEAR, "conv2d": CONV2D}


def normwise(program: Program, inputs: Tensor, classes: Tensor | None = None) -> LogitBounds:
    """``D_l = (|W| + kappa ||W||) D_{l-1} + kappa ||W|| r_{l-1} + (1 + u) n eta sqrt(m)``, r the 2-norm of the exact activations.

    |W| is the spectral norm and ||W|| that of the absolute values; ``kappa = gamma_n + u (1 + gamma_n)``, gamma_n of the accumulator.
    Dense ReLU networks only.  A gap errs by at most ``sqrt(2) D``.
    """
    graph, arithmetic = program.graph, program.arithmetic
    if any(node.operator not in DENSE for node in graph.nodes):
        raise NotImplementedError
    u, v = arithmetic.storage.unit_roundoff, arithmetic.accumulate.unit_roundoff
    deviation = torch.zeros(len(inputs), dtype=torch.float64)
    radius = inputs.double().flatten(1).norm(dim=1)
    for node in (node for node in graph.nodes if node.operator == "linear"):
        weight = program.constants[node.operands[1]].double()
        bias = 0.0 if node.operands[2] is None else program.constants[node.operands[2]].double().norm().item()
        m, n = weight.shape
        gamma = (n + 1) * v / (1 - (n + 1) * v) if (n + 1) * v < 1 else math.inf
        kappa = gamma + u * (1 + gamma)
        norm, absolute = torch.linalg.matrix_norm(weight, 2).item(), torch.linalg.matrix_norm(weight.abs(), 2).item()
        noise = (1 + u) * (n * arithmetic.product_underflow + arithmetic.storage.eta) * math.sqrt(m) + kappa * bias
        deviation = (norm + kappa * absolute) * deviation + kappa * absolute * radius + noise
        radius = norm * radius + bias
    base = interval(program, inputs, classes)
    return replace(base, gap_error=(math.sqrt(2) * deviation)[:, None].expand_as(base.gap_error).clone())


def gamma_n(program: Program, inputs: Tensor, classes: Tensor | None = None) -> LogitBounds:
    """Componentwise: ``|W| e + gamma_{n+1} (|W| (|c| + e) + |b|)`` for every dot product, in place of the sharper local errors."""
    arithmetic, base = program.arithmetic, interval(program, inputs, classes)
    constants = {name: value.double() for name, value in program.constants.items()}

    def run_node(node, operands):
        result = node.record.error_rule(arithmetic, node.attributes, *operands)
        if node.operator in DOTS:
            x, weight, bias = operands
            terms = weight[0].numel() + 1
            v = arithmetic.accumulate.unit_roundoff
            gamma = terms * v / (1 - terms * v) if terms * v < 1 else math.inf
            size = DOTS[node.operator].apply(node.attributes, x.centre.abs() + x.radius, weight.abs(), None if bias is None else bias.abs())
            sums = Sums.of(result.centre, size, size, terms - 1, torch.ones_like(size), bias=bias is not None)
            fresh = gamma * sums.magnitude + sums.own + terms * arithmetic.product_underflow
            result = replace(result, fresh=fresh, peak=None, stored_before=None)
        return Enclosure(result.centre, stored(arithmetic, result).radius)

    with torch.no_grad():
        logits = interpret(program.graph, Enclosure.exact(inputs.double()), constants, run_node)
    error = logits.radius + logits.radius.gather(1, base.classes[:, None])
    return replace(base, gap_error=error)


def lirpa(module: nn.Module, images: Tensor, method: str, seconds: float) -> tuple[float, float] | None:
    """Seconds an image, and the share with certified margins, for a ball of radius 2**-11 in real arithmetic; None without auto_LiRPA.

    Stops after the given time.
    """
    if importlib.util.find_spec("auto_LiRPA") is None:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from auto_LiRPA import BoundedModule, BoundedTensor, PerturbationLpNorm

        bounded = BoundedModule(module, torch.zeros_like(images[:1]), device="cpu")
        certified, start, done = 0, time.perf_counter(), 0
        for image in images.split(1):
            prediction = module(image).argmax(1).item()
            others = [j for j in range(module(image).shape[1]) if j != prediction]
            rows = torch.eye(len(others) + 1)
            margins = (rows[prediction][None] - rows[others])[None]
            ball = BoundedTensor(image, PerturbationLpNorm(norm=math.inf, eps=2.0**-11))
            with torch.no_grad():
                lower, _ = bounded.compute_bounds(x=(ball,), method=method, C=margins, bound_upper=False)
            certified, done = certified + bool((lower > 0).all()), done + 1
            if time.perf_counter() - start > seconds:
                break
    return (time.perf_counter() - start) / done, certified / done
