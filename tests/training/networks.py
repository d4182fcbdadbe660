"""Small networks for the tests, as a user's own: package.module:factory."""

from torch import Tensor, nn


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


class Encoder(nn.Module):
    """Rows of an image attend to each other."""

    def __init__(self) -> None:
        super().__init__()
        self.self_attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.mlp = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        """Return what they became, (n, 8, 8)."""
        attended, _ = self.self_attention(x, x, x, need_weights=False)
        out: Tensor = self.mlp(x + attended)
        return out


class Attending(nn.Module):
    """8x8 images, one layer of attention between rows."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.head = Encoder(), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        out: Tensor = self.head(self.encoder(x[:, 0]).flatten(1))
        return out


def attending() -> nn.Module:
    """8x8 images, one layer of attention between rows."""
    return Attending()
