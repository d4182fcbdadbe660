"""``make limits``: what a cheap proof of a probable verdict would have to know of a deep network, by experiment.

A method that settles no neuron relies on a radius for each: c standard deviations of its random part, and w times its worst-case
part.  Here both parts are estimated by 64 samples and *taken as exact*, which no method can do; what is left is how far the
factors c and w may be from the ideal ones.  c = w = 0 relies on every sign without a radius: first order.  K samples certify no
less than ``c = normal_factor(K)``, and every settled neuron costs a pass.  The network, cifar_resnet20, is found as by ``make bench``.
"""

from __future__ import annotations

import math
import sys

import torch

from precisionkit.arithmetic import parse_arithmetic
from precisionkit.bound.adjoint import CONFIDENCE
from precisionkit.bound.backward import gap_errors
from precisionkit.bound.pulling import direct_sums
from precisionkit.bound.sketch import CauchySketch, NormalSketch, normal_factor
from precisionkit.bound.walk import doubtful, walk
from precisionkit.capture import capture
from precisionkit.enclosure import Enclosure
from precisionkit.evaluate import Program

from .bench import NETWORKS, loaded

SAMPLES = 64
FACTORS = ((0.0, 0.0), (7.6, 1.0), (9.0, 1.0), (9.0, 2.0), (11.0, 1.0), (13.0, 1.0), (13.0, 2.0))
COUNTS = (8, 16, 32, 64, 128, 1024)
DEVIATE = 6.0
"""Standard deviations to allow a gap, about as many as the adjoint method does."""


class Believed:
    """Believes the samples: radii are c standard deviations and w row sums, without any proof."""

    def __init__(self, graph, c, w):
        self.c, self.w, self.doubts = c, w, 0
        self.random, self.worst = NormalSketch(graph, SAMPLES, 1, 0.1), CauchySketch(graph, SAMPLES, 0, 0.1)
        self.unit = self.random._factor

    def before(self, trace, name, enclosure, kinks):
        radius = self.c * self.random.estimate(name) / self.unit + self.w * self.worst.estimate(name)
        believed = Enclosure(enclosure.centre, torch.fmin(enclosure.radius, radius))
        self.doubts += int(doubtful(believed, kinks).sum())
        return believed

    def after(self, trace, step, result, radius):
        self.random.step(step.node, step.operands, radius, step.errors.unbiased, result.linear_reach, step.lines)
        self.worst.step(step.node, step.operands, radius, step.errors.bias, result.linear_reach, step.lines)


def main(images: int) -> None:
    """Print both tables."""
    torch.set_num_threads(1)
    name = "cifar_resnet20"
    model, data = loaded(name, NETWORKS[name])
    inputs = model.preprocess(data.images[:images])
    graph = capture(model.module, tuple(inputs.shape[1:]))
    program = Program.of(graph, parse_arithmetic("fp16"))
    rectified = {node.operands[0] for node in graph.nodes if node.operator == "relu"}
    neurons = sum(math.prod(node.shape) for node in graph.nodes if node.name in rectified)
    print(f"{'samples':>8}{'certified factor':>18}")
    for count in COUNTS:
        print(f"{count:>8}{normal_factor(count, CONFIDENCE / 32 / neurons):>18.1f}")
    print(f"\n{'c':>6}{'w':>6}{'image':>7}{'doubtful':>10}{'margin':>9}{'half bound':>12}")
    with direct_sums():
        for c, w in FACTORS:
            for image in range(images):
                strategy = Believed(graph, c, w)
                trace, logits, *_ = walk(program, program.inputs(inputs[image : image + 1]), strategy)
                best = logits.centre.topk(2).values[0]
                rival = int(logits.centre.topk(2).indices[0, 1])
                bound = gap_errors(trace, logits, logits.centre.argmax(1), DEVIATE)[0, rival]
                print(f"{c:>6}{w:>6}{image:>7}{strategy.doubts:>10}{float(best[0] - best[1]):>9.2f}{float(bound):>12.3g}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2)
