"""``make bench``: time of the parts of a certification, as ratios to a binary32 forward pass in the same run, one thread."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from precisionkit.arithmetic import REFERENCE, parse_arithmetic
from precisionkit.bound import interval
from precisionkit.capture import capture
from precisionkit.evaluate import Program, execute
from precisionkit.models import ZOO

NETWORKS = {"digits_cnn": 128, "mnist_fc_3layer": 256, "mnist_cnn_small": 128, "lenet5": 64, "cifar_resnet20": 16}
"""Networks with untrained weights, and the size of their batch."""


def seconds(function: Callable[[], object], repeats: int = 5) -> float:
    """Least time of several calls, after one that does not count."""
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    """Print one row a network."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"{'network':<18}{'forward ms/image':>18}{'half run':>10}{'interval fp32':>15}{'interval fp16':>15}   (times a forward pass)")
    for name, batch in NETWORKS.items():
        entry = ZOO[name]
        graph = capture(entry.build(), entry.input_shape)
        reference, half = Program.of(graph, REFERENCE), Program.of(graph, parse_arithmetic())
        images = torch.rand(batch, *entry.input_shape)
        stored = half.inputs(images)
        forward = seconds(lambda: execute(reference, images))  # noqa: B023
        rows = [
            seconds(lambda: execute(half, stored)),  # noqa: B023
            seconds(lambda: interval(reference, images)),  # noqa: B023
            seconds(lambda: interval(half, stored)),  # noqa: B023
        ]
        ratios = "".join(f"{row / forward:>{width}.1f}" for row, width in zip(rows, (10, 15, 15), strict=True))
        print(f"{name:<18}{1000 * forward / batch:>18.4f}{ratios}")


if __name__ == "__main__":
    main()
