"""The networks of the published experiments at the size of CIFAR-10's images, and the dense one for MNIST.

Source: Yun, Kang, Fu, arXiv 2301.12809.  Where torchvision's definition takes images of 32 x 32 it is used as it is (DenseNet, MobileNetV2,
Vision Transformer, the layers of VGG).  Batch normalisation has the published epsilon 1e-3.
"""

from __future__ import annotations

import itertools
from typing import Any, cast

import torch
from torch import nn

from precisionkit.errors import UsageError
from precisionkit.models.architectures import CifarResNet

EPSILON = 1e-3
CLASSES = 10


def mnist_dnn() -> nn.Sequential:
    """Build 784-512-512-10 with ReLU."""
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))


def alexnet() -> nn.Module:
    """Build AlexNet's five convolutions and three linear layers (Krizhevsky 2014), with kernels of 3 and pools of 2."""
    layers: list[nn.Module] = []
    before = 3
    for channels, pooled in ((64, True), (192, True), (384, False), (256, False), (256, True)):
        layers += [nn.Conv2d(before, channels, 3, padding=1), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if pooled else []
        before = channels
    dense: list[nn.Module] = [nn.Dropout(), nn.Linear(256 * 4 * 4, 4096), nn.ReLU(), nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), *dense, nn.Linear(4096, CLASSES))


def vgg(depth: int) -> nn.Module:
    """Build the convolutions of VGG-16 or VGG-19 with batch normalisation, as torchvision has them, and one linear layer."""
    models = _torchvision(f"VGG-{depth}")
    full = models.vgg16_bn if depth == 16 else models.vgg19_bn
    return _published(nn.Sequential(full(num_classes=CLASSES).features, nn.Flatten(), nn.Linear(512, CLASSES)))


def resnet(depth: int) -> nn.Module:
    """Build the CIFAR-10 ResNet of He et al. 2016 with option A shortcuts."""
    return _published(CifarResNet((depth - 2) // 6))


def densenet(depth: int) -> nn.Module:
    """Build torchvision's DenseNet-121 or DenseNet-169."""
    models = _torchvision(f"DenseNet-{depth}")
    return _published((models.densenet121 if depth == 121 else models.densenet169)(num_classes=CLASSES))


def mobilenet_v2() -> nn.Module:
    """Build torchvision's MobileNetV2."""
    return _published(_torchvision("MobileNetV2").mobilenet_v2(num_classes=CLASSES))


def vision_transformer(layers: int) -> nn.Module:
    """Build torchvision's Vision Transformer with patches of 4 x 4, 128 channels and 4 heads."""
    models = _torchvision(f"ViT-{layers}")
    made = models.VisionTransformer(
        image_size=32, patch_size=4, num_layers=layers, num_heads=4, hidden_dim=128, mlp_dim=256, num_classes=CLASSES
    )
    nn.init.xavier_uniform_(made.heads.head.weight)  # torchvision starts it at zero, so that nothing before it learns at first
    return cast(nn.Module, made)


def xception() -> nn.Module:
    """Build Xception (Chollet 2017)."""
    return _published(Xception())


def _published(module: nn.Module) -> nn.Module:
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.eps = EPSILON
    return module


def _torchvision(name: str) -> Any:
    try:
        from torchvision import models
    except ImportError:
        raise UsageError(f"The network {name} is torchvision's: pip install 'precisionkit[vision]'.") from None
    return models


class Separable(nn.Sequential):
    """A depthwise 3 x 3 convolution, a pointwise one, batch normalisation."""

    def __init__(self, before: int, channels: int) -> None:
        super().__init__(
            nn.Conv2d(before, before, 3, padding=1, groups=before, bias=False),
            nn.Conv2d(before, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )


class XceptionBlock(nn.Module):
    """Separable convolutions with ReLU before each, beside a shortcut; where it has a stride, both ends are halved in size."""

    def __init__(self, widths: tuple[int, ...], stride: int, *, starts_with_relu: bool = True) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, channels in itertools.pairwise(widths):
            layers += [nn.ReLU(), Separable(before, channels)]
        layers = layers if starts_with_relu else layers[1:]
        self.layers = nn.Sequential(*layers, *([nn.MaxPool2d(3, stride, padding=1)] if stride > 1 else []))
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1:
            self.shortcut = nn.Sequential(nn.Conv2d(widths[0], widths[-1], 1, stride=stride, bias=False), nn.BatchNorm2d(widths[-1]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the sum of both ways."""
        out: torch.Tensor = self.layers(x) + self.shortcut(x)
        return out


class Xception(nn.Sequential):
    """Entry flow, eight blocks of the middle flow, exit flow, mean over pixels, linear layer."""

    def __init__(self) -> None:
        super().__init__(
            *(nn.Conv2d(3, 32, 3, stride=2, bias=False), nn.BatchNorm2d(32), nn.ReLU()),
            *(nn.Conv2d(32, 64, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU()),
            XceptionBlock((64, 128, 128), 2, starts_with_relu=False),
            XceptionBlock((128, 256, 256), 2),
            XceptionBlock((256, 728, 728), 2),
            *(XceptionBlock((728, 728, 728, 728), 1) for _ in range(8)),
            XceptionBlock((728, 728, 1024), 2),
            *(Separable(1024, 1536), nn.ReLU(), Separable(1536, 2048), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2048, CLASSES)),
        )
