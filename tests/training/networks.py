"""Small networks for the tests, as a user's own: package.module:factory."""

from torch import nn


def dropped() -> nn.Module:
    """8x8 images, convolution, batch norm, dropout."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(128, 10),
    )
