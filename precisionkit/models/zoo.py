"""The built-in networks: one record per architecture, with what is needed to read published weights and to feed images.

A new architecture is one builder in `architectures` and one record here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType

from torch import nn

from precisionkit.errors import UsageError
from precisionkit.models import architectures as nets
from precisionkit.models import paper
from precisionkit.models.preprocess import Preprocess


@dataclass(frozen=True)
class ZooEntry:
    """One built-in architecture.

    Attributes
    ----------
    name : str
        Name on the command line.
    build : callable
        Returns the untrained module.
    input_shape : tuple of int
        (C, H, W) of one preprocessed image.
    classes : int
        Number of outputs.
    preprocess : Preprocess
        What the published weights were trained with.
    about : str
        One line for listings.
    renames : tuple of (str, str)
        Regular expressions and replacements, applied in order to the tensor names of foreign files.
    """

    name: str
    build: Callable[[], nn.Module]
    input_shape: tuple[int, int, int]
    classes: int
    preprocess: Preprocess
    about: str
    renames: tuple[tuple[str, str], ...] = ()

    def rename(self, key: str) -> str:
        """Return this architecture's name of a foreign file's tensor."""
        for pattern, replacement in self.renames:
            key = re.sub(pattern, replacement, key)
        return key


_PLAIN = Preprocess(mean=None, std=None)
_MNIST = Preprocess(mean=(0.1307,), std=(0.3081,), resize=32, antialias=False)
_IMAGENET = Preprocess(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
_CIFAR = Preprocess(mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010))
_DIGITS = Preprocess(mean=None, std=None, scale=16.0)

_LENET_RENAMES = (
    (r"^convnet\.c1\.", "conv1."),
    (r"^convnet\.c3\.", "conv2."),
    (r"^convnet\.c5\.", "conv3."),
    (r"^fc\.f6\.", "fc1."),
    (r"^fc\.f7\.", "fc2."),
)


def _resnet(depth: int) -> ZooEntry:
    return ZooEntry(
        name=f"cifar_resnet{depth}",
        build=partial(nets.CifarResNet, (depth - 2) // 6),
        input_shape=(3, 32, 32),
        classes=10,
        preprocess=_IMAGENET,
        about=f"CIFAR-10 ResNet-{depth} with option A shortcuts",
    )


def _published(name: str, build: Callable[[], nn.Module], about: str) -> ZooEntry:
    return ZooEntry(f"paper_{name}", build, (3, 32, 32), 10, _CIFAR, f"CIFAR-10, {about}, as in arXiv 2301.12809")


_PAPER = (
    ZooEntry("mnist_dnn", paper.mnist_dnn, (1, 28, 28), 10, _PLAIN, "MNIST, fully connected 784-512-512-10, ReLU"),
    _published("alexnet", paper.alexnet, "AlexNet"),
    *(_published(f"vgg{depth}", partial(paper.vgg, depth), f"VGG-{depth} with batch norm") for depth in (16, 19)),
    *(_published(f"resnet{depth}", partial(paper.resnet, depth), f"ResNet-{depth}") for depth in (20, 32, 56, 110)),
    *(_published(f"densenet{depth}", partial(paper.densenet, depth), f"DenseNet-{depth}") for depth in (121, 169)),
    _published("xception", paper.xception, "Xception"),
    _published("mobilenet_v2", paper.mobilenet_v2, "MobileNetV2"),
    *(_published(f"vit{layers}", partial(paper.vision_transformer, layers), f"Vision Transformer, {layers} layers") for layers in (8, 12)),
)

_ENTRIES = (
    ZooEntry("mnist_fc_3layer", nets.mnist_fc_3layer, (1, 28, 28), 10, _PLAIN, "MNIST, fully connected 784-128-64-10, ReLU"),
    ZooEntry("mnist_cnn_small", nets.mnist_cnn_small, (1, 28, 28), 10, _PLAIN, "MNIST, two convolutions and two linear layers, ReLU"),
    ZooEntry("mnist_6_100", nets.mnist_6_100, (1, 28, 28), 10, _PLAIN, "MNIST, fully connected with 5 hidden layers of 100, ReLU"),
    ZooEntry("mnist_9_200", nets.mnist_9_200, (1, 28, 28), 10, _PLAIN, "MNIST, fully connected with 9 hidden layers of 200, ReLU"),
    ZooEntry("lenet5", nets.lenet5, (1, 32, 32), 10, _MNIST, "MNIST, LeNet-5 on images resized to 32x32", _LENET_RENAMES),
    *(_resnet(depth) for depth in (20, 32, 44, 56, 110)),
    ZooEntry(
        "cifar_conv_small_sigmoid", nets.cifar_conv_small_sigmoid, (3, 32, 32), 10, _CIFAR, "CIFAR-10, two convolutions with sigmoids"
    ),
    ZooEntry("digits_cnn", nets.digits_cnn, (1, 8, 8), 10, _DIGITS, "scikit-learn digits, two convolutions and batch norm (bundled)"),
    *_PAPER,
)

ZOO: Mapping[str, ZooEntry] = MappingProxyType({entry.name: entry for entry in _ENTRIES})


_WEIGHTS = Path(__file__).parent / "weights"


def bundled_names() -> tuple[str, ...]:
    """Names of the networks whose trained weights come with the package."""
    return tuple(sorted(file.stem for file in _WEIGHTS.glob("*.pt")))


def bundled_model(name: str) -> Path:
    """Return the path of the trained weights that come with the package."""
    known = bundled_names()
    if name not in known:
        raise UsageError(f"No trained network {name!r} comes with precisionkit: there is {', '.join(known) or 'none'}.")
    return _WEIGHTS / f"{name}.pt"
