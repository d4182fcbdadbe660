"""The architectures of the built-in networks, as plain modules in evaluation-ready form.

Layer names are those of the published weight files where these are sensible; the zoo renames the others.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn
from torch.nn import functional


def _named(**layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(layers))


def mnist_fc_3layer() -> nn.Sequential:
    """Build 784-128-64-10 with ReLU."""
    return _named(
        flatten=nn.Flatten(),
        fc1=nn.Linear(784, 128),
        relu1=nn.ReLU(),
        fc2=nn.Linear(128, 64),
        relu2=nn.ReLU(),
        fc3=nn.Linear(64, 10),
    )


def mnist_cnn_small() -> nn.Sequential:
    """Build two 4x4 convolutions of stride 2 and two linear layers, with ReLU."""
    return _named(
        conv1=nn.Conv2d(1, 8, 4, stride=2, padding=1),
        relu1=nn.ReLU(),
        conv2=nn.Conv2d(8, 16, 4, stride=2, padding=1),
        relu2=nn.ReLU(),
        flatten=nn.Flatten(),
        fc1=nn.Linear(784, 256),
        relu3=nn.ReLU(),
        fc2=nn.Linear(256, 10),
    )


def mnist_6_100() -> nn.Sequential:
    """Build 784-100-100-100-100-100-10 with ReLU (the ERAN network mnist_relu_6_100); layers are numbered."""
    return _hidden(5, 100)


def mnist_9_200() -> nn.Sequential:
    """Build 784, nine layers of 200, 10, with ReLU; layers are numbered."""
    return _hidden(9, 200)


def _hidden(count: int, width: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Flatten()]
    for before in (784, *[width] * (count - 1)):
        layers += [nn.Linear(before, width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, 10))


def cifar_conv_small_sigmoid() -> nn.Sequential:
    """Build two 4x4 convolutions of stride 2 and two linear layers, with sigmoids; layers are numbered."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 4, stride=2),
        nn.Sigmoid(),
        nn.Conv2d(16, 32, 4, stride=2),
        nn.Sigmoid(),
        nn.Flatten(),
        nn.Linear(1152, 100),
        nn.Sigmoid(),
        nn.Linear(100, 10),
    )


def lenet5() -> nn.Sequential:
    """Build LeNet-5 for 32x32 images (LeCun et al. 1998) with ReLU and max pooling, ending in a log-softmax."""
    return _named(
        conv1=nn.Conv2d(1, 6, 5),
        relu1=nn.ReLU(),
        pool1=nn.MaxPool2d(2),
        conv2=nn.Conv2d(6, 16, 5),
        relu2=nn.ReLU(),
        pool2=nn.MaxPool2d(2),
        conv3=nn.Conv2d(16, 120, 5),
        relu3=nn.ReLU(),
        flatten=nn.Flatten(),
        fc1=nn.Linear(120, 84),
        relu4=nn.ReLU(),
        fc2=nn.Linear(84, 10),
        log_softmax=nn.LogSoftmax(dim=1),
    )


def digits_cnn() -> nn.Sequential:
    """Build the small network for the 8x8 digits: convolution, batch norm, max pooling, convolution, linear."""
    return _named(
        conv1=nn.Conv2d(1, 16, 3, padding=1),
        bn1=nn.BatchNorm2d(16),
        relu1=nn.ReLU(),
        pool=nn.MaxPool2d(2),
        conv2=nn.Conv2d(16, 32, 3, padding=1),
        relu2=nn.ReLU(),
        flatten=nn.Flatten(),
        fc=nn.Linear(512, 10),
    )


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut of option A: every second pixel, new channels filled with zeros (He et al. 2016)."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.new_channels = channels - channels_in

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return relu(residual + shortcut)."""
        residual = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        shortcut = x
        if self.new_channels:
            before = self.new_channels // 2
            shortcut = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, before, self.new_channels - before))
        return functional.relu(residual + shortcut)


class CifarResNet(nn.Module):
    """The CIFAR-10 ResNets of He et al. 2016: three stages of `blocks` basic blocks with 16, 32 and 64 channels."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, blocks, stride=1)
        self.layer2 = _stage(16, 32, blocks, stride=2)
        self.layer3 = _stage(32, 64, blocks, stride=2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the ten logits."""
        x = functional.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: torch.Tensor = self.linear(torch.flatten(self.pool(x), 1))
        return logits


def _stage(channels_in: int, channels: int, blocks: int, *, stride: int) -> nn.Sequential:
    first = BasicBlock(channels_in, channels, stride)
    return nn.Sequential(first, *(BasicBlock(channels, channels, 1) for _ in range(blocks - 1)))
