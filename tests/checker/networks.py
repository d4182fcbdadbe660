"""Small networks that together have everything the checker knows, captured and in its words."""

from functools import lru_cache
from itertools import pairwise

import numpy as np
import torch
from torch import nn

from precisionkit.capture import capture
from precisionkit.certificates import check_network


class Residual(nn.Module):
    """An image, added to its convolution; the sum feeds two layers."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.Conv2d(4, 4, 3, padding=1), nn.Linear(36, 4)
        self.norm, self.plain = nn.BatchNorm2d(4), nn.BatchNorm2d(4, affine=False)

    def forward(self, x):
        x = torch.relu(self.norm(self.first(x)))
        x = torch.relu(x + self.plain(self.second(x)))
        return self.last(torch.max_pool2d(x, 2, 2).flatten(1) + torch.max_pool2d(x, 2, 2).flatten(1))


class Transposed(nn.Module):
    """Matrices on the other side, as some exporters write linear layers."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.randn(8, 9)), nn.Parameter(torch.randn(9, 3))
        self.offset = nn.Parameter(torch.randn(9))

    def forward(self, x):
        return torch.relu(torch.addmm(self.offset, x, self.a)) @ self.b


def _dense(*sizes):
    layers = [part for a, b in pairwise(sizes) for part in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


NETWORKS = {
    "dense": (lambda: _dense(7, 9, 9, 9, 4), (7,)),
    "wide": (lambda: _dense(60, 5, 3), (60,)),
    "without bias": (lambda: nn.Sequential(nn.Linear(6, 8, bias=False), nn.ReLU(), nn.Linear(8, 3, bias=False)), (6,)),
    "relu first": (lambda: nn.Sequential(nn.ReLU(), nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 3)), (5,)),
    "one layer": (lambda: nn.Linear(12, 4), (12,)),
    "convolutions": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(4, 6, (2, 3), dilation=2, groups=2, padding=(1, 2)), nn.ReLU(),
            nn.Flatten(), nn.Linear(120, 4),
        ),
        (2, 8, 10),
    ),
    "overlapping maxima": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 3, 3), nn.MaxPool2d(3, stride=2, padding=1), nn.Conv2d(3, 3, 2), nn.ReLU(), nn.MaxPool2d(2, 1, dilation=2),
            nn.Flatten(), nn.Linear(3, 3),
        ),
        (1, 9, 9),
    ),
    "residual": (Residual, (3, 6, 6)),
    "transposed": (Transposed, (8,)),
}  # fmt: skip


@lru_cache(maxsize=64)
def built(name, seed, spread=0.0):
    """(graph, network of the checker): random weights, their rows scaled by up to ``2**spread`` up or down."""
    make, shape = NETWORKS[name]
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = make().eval()
    with torch.no_grad():
        for buffer in (b for n, b in module.named_buffers() if n.endswith("mean")):
            buffer.copy_(torch.from_numpy(rng.normal(size=buffer.shape)).float())
        for parameter in module.parameters():
            scale = 2.0 ** rng.uniform(-spread, spread, parameter.shape)
            parameter.mul_(torch.from_numpy(scale).float())
        for buffer in (b for n, b in module.named_buffers() if n.endswith("var")):
            buffer.copy_(torch.from_numpy(rng.uniform(0.3, 2, buffer.shape)).float())
    graph = capture(module, shape)
    return graph, check_network(graph)


def inputs_for(name, seed, batch, scale=1.0):
    """Random inputs with some zeros and repeated values."""
    rng = np.random.default_rng(seed)
    shape = (batch, *NETWORKS[name][1])
    values = rng.normal(size=shape) * scale
    values[rng.random(shape) < 0.2] = 0.0
    values[rng.random(shape) < 0.1] = scale
    return values.astype(np.float32)
