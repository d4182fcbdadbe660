"""Train a network of the zoo: ``python -m precisionkit.models.train digits_cnn|mnist_9_200 [--out FILE]``.

Deterministic: one seed, one thread.  ``digits_cnn`` is the bundled network: the first 1437 images of scikit-learn's digits train it,
the last 360 test it.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from precisionkit.data import load_dataset
from precisionkit.models.load import save_model
from precisionkit.models.zoo import ZOO

SEED = 20


@dataclass(frozen=True)
class Recipe:
    """How a network is trained: AdamW, one cycle of the learning rate, images moved by at most one pixel."""

    data: str
    epochs: int
    batch: int
    max_lr: float
    smoothing: float


RECIPES = {
    "digits_cnn": Recipe("digits", epochs=40, batch=64, max_lr=1e-2, smoothing=0.05),
    "mnist_9_200": Recipe("mnist", epochs=8, batch=128, max_lr=2e-3, smoothing=0.0),
}


def train(name: str) -> nn.Module:
    """Return the trained network in evaluation mode."""
    recipe = RECIPES[name]
    inputs, labels = _split(name, "train")
    generator = torch.Generator().manual_seed(SEED)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        module = ZOO[name].build()
    optimizer = torch.optim.AdamW(module.parameters(), lr=3e-3, weight_decay=1e-2)
    steps = recipe.epochs * -(-len(inputs) // recipe.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=recipe.max_lr, total_steps=steps)
    for _ in range(recipe.epochs):
        for picked in torch.split(torch.randperm(len(inputs), generator=generator), recipe.batch):
            logits = module(_shifted(inputs[picked], generator))
            loss = functional.cross_entropy(logits, labels[picked], label_smoothing=recipe.smoothing)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return module.eval()


def correct(name: str, module: nn.Module) -> tuple[int, int]:
    """Return the number of right predictions on the test images, and the number of images."""
    inputs, labels = _split(name, "test")
    with torch.no_grad():
        return int((module(inputs).argmax(1) == labels).sum()), len(labels)


def main() -> None:
    """Train, print the test accuracy, write the file."""
    parser = argparse.ArgumentParser(description="Train a network of the zoo.")
    parser.add_argument("name", choices=tuple(RECIPES))
    parser.add_argument("--out", type=Path, help="default: among the package's weights")
    arguments = parser.parse_args()
    name: str = arguments.name
    out: Path = arguments.out or Path(__file__).parent / "weights" / f"{name}.pt"
    torch.set_num_threads(1)
    module = train(name)
    right, total = correct(name, module)
    print(f"{name}: {right} of {total} test images right ({right / total:.2%})")
    save_model(out, module, arch=name, preprocess=ZOO[name].preprocess)


def _split(name: str, split: str) -> tuple[torch.Tensor, torch.Tensor]:
    data = load_dataset(RECIPES[name].data, split=split)
    assert data.labels is not None  # both sets are labelled
    return ZOO[name].preprocess(data.images[:]), torch.from_numpy(data.labels)


def _shifted(batch: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Move a batch by at most one pixel each way, filling with zeros."""
    height, width = batch.shape[2:]
    down, right = (int(value) for value in torch.randint(0, 3, (2,), generator=generator))
    return functional.pad(batch, (1, 1, 1, 1))[:, :, down : down + height, right : right + width]


if __name__ == "__main__":
    main()
