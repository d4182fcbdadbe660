"""Train the bundled network: ``python -m precisionkit.models.train_digits [--out FILE]``.

Deterministic: one seed, one thread.  The first 1437 images of scikit-learn's digits train it, the last 360 test it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from precisionkit.data import load_dataset
from precisionkit.models.load import save_model
from precisionkit.models.zoo import ZOO

SEED = 20
EPOCHS = 40
BATCH = 64


def train() -> nn.Module:
    """Return the trained network in evaluation mode."""
    entry = ZOO["digits_cnn"]
    inputs, labels = _split("train")
    generator = torch.Generator().manual_seed(SEED)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        module = entry.build()
    optimizer = torch.optim.AdamW(module.parameters(), lr=3e-3, weight_decay=1e-2)
    steps = EPOCHS * -(-len(inputs) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=steps)
    for _ in range(EPOCHS):
        for picked in torch.split(torch.randperm(len(inputs), generator=generator), BATCH):
            loss = functional.cross_entropy(module(_shifted(inputs[picked], generator)), labels[picked], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return module.eval()


def correct(module: nn.Module) -> tuple[int, int]:
    """Return the number of right predictions on the test images, and the number of images."""
    inputs, labels = _split("test")
    with torch.no_grad():
        return int((module(inputs).argmax(1) == labels).sum()), len(labels)


def main() -> None:
    """Train, print the test accuracy, write the file."""
    parser = argparse.ArgumentParser(description="Train the bundled digits network.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "weights" / "digits_cnn.pt")
    out: Path = parser.parse_args().out
    torch.set_num_threads(1)
    module = train()
    right, total = correct(module)
    print(f"digits_cnn: {right} of {total} test images right ({right / total:.2%})")
    save_model(out, module, arch="digits_cnn", preprocess=ZOO["digits_cnn"].preprocess)


def _split(split: str) -> tuple[torch.Tensor, torch.Tensor]:
    data = load_dataset("digits", split=split)
    assert data.labels is not None  # the digits are labelled
    return ZOO["digits_cnn"].preprocess(data.images), torch.from_numpy(data.labels)


def _shifted(batch: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Move a batch by at most one pixel each way, filling with zeros."""
    down, right = (int(value) for value in torch.randint(0, 3, (2,), generator=generator))
    return functional.pad(batch, (1, 1, 1, 1))[:, :, down : down + 8, right : right + 8]


if __name__ == "__main__":
    main()
