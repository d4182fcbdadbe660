"""The data sets that are known by name: one record each, with every layout in which they are found on disk.

A new set is one record here and one reader per layout.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType

from precisionkit.data import cifar10, mnist
from precisionkit.data.dataset import Arrays
from precisionkit.data.digits import read_digits

SPLITS = ("test", "train")


@dataclass(frozen=True)
class Layout:
    """One place where a set may lie: what it is called in messages, and its reader (root, split), which returns None when absent."""

    text: str
    read: Callable[[Path, str], Arrays | None]


@dataclass(frozen=True)
class NamedSet:
    """One known data set.

    Attributes
    ----------
    name : str
        Name on the command line.
    about : str
        One line for listings.
    class_names : tuple of str
        In the order of the labels.
    layouts : tuple of Layout
        Tried in order.
    torchvision : str or None
        The class that downloads it.
    """

    name: str
    about: str
    class_names: tuple[str, ...]
    layouts: tuple[Layout, ...]
    torchvision: str | None


def _idx_layouts(folder: str, raw: str, first_labels: dict[str, tuple[int, ...]]) -> tuple[Layout, ...]:
    return (
        Layout(f"{raw}/*-ubyte[.gz]", lambda root, split: mnist.read_folder(root / raw, split)),
        Layout(f"{folder}/*-ubyte[.gz]", lambda root, split: mnist.read_folder(root / folder, split)),
        Layout("*-ubyte[.gz]", partial(mnist.read_unnamed_folder, first_labels=first_labels)),
    )


_SETS = (
    NamedSet("digits", "8x8 digits of scikit-learn, 360 test images", tuple("0123456789"), (Layout("scikit-learn", read_digits),), None),
    NamedSet(
        "mnist",
        "28x28 digits, 10000 test images",
        tuple("0123456789"),
        _idx_layouts("mnist", "MNIST/raw", {"test": (7, 2, 1, 0, 4, 1, 4, 9, 5, 9), "train": (5, 0, 4, 1, 9, 2, 1, 3, 1, 4)}),
        "MNIST",
    ),
    NamedSet(
        "fashion_mnist",
        "28x28 clothes, 10000 test images",
        ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
        _idx_layouts(
            "fashion_mnist", "FashionMNIST/raw", {"test": (9, 2, 1, 1, 6, 1, 4, 6, 5, 7), "train": (9, 0, 0, 3, 0, 2, 7, 2, 5, 5)}
        ),
        "FashionMNIST",
    ),
    NamedSet(
        "cifar10",
        "32x32 colour photographs, 10000 test images",
        cifar10.CLASSES,
        (
            Layout("cifar-10-batches-bin/*.bin", cifar10.read_binary),
            Layout("cifar10/cifar10_SPLIT.npz", cifar10.read_npz_file),
            Layout("cifar10/cifar10_data_batch_N.png with cifar10_train_labels.json (train)", cifar10.read_sheets),
            Layout("cifar-10-batches-py/", cifar10.read_pickles),
        ),
        "CIFAR10",
    ),
)

NAMED: Mapping[str, NamedSet] = MappingProxyType({entry.name: entry for entry in _SETS})
