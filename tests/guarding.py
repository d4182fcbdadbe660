"""``python -m tests.guarding``: time of guarded runs beside plain fp32 and plain half, one thread, the same rows in the same run.

On a CPU the fp16 half run is made of fp32 kernels with one rounding each, which cannot be faster than fp32; its bf16 kernels are.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from precisionkit.data import Dataset
from precisionkit.guard import Settings, calibrate
from precisionkit.models import LoadedModel

MADE = (("fp16", "rounded"), ("bf16", "rounded"), ("bf16", "native"))
RISK = 0.05
"""Of 128 images, which are enough for it; what is timed does not depend on it much."""
IMAGES = 128


def rows(model: LoadedModel, data: Dataset, write: Callable[[str], object], name: str) -> None:
    """Every way to make the half run."""
    for storage, kernels in MADE:
        _, report = calibrate(model, data, Settings(risk=RISK, storage=storage, kernels=kernels))
        timing, counts = report.timing, report.counts
        share = f"{100 * counts.fallen_back / counts.inputs:.2f} %"
        half = timing.half_s / timing.reference_s
        write(
            f"{name:<26}{storage + ', ' + kernels:<18}{share:>10}{1000 * timing.reference_s:>12.3f}{half:>12.2f}"
            f"{timing.guarded_to_reference:>14.2f}{timing.guarded_to_half:>14.2f}"
        )


def main(networks: dict[str, tuple[LoadedModel, Dataset]], write: Callable[[str], object] = print) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    write(
        f"\n{'guarded network':<26}{'half run':<18}{'fall back':>10}{'fp32 ms/row':>12}{'half/fp32':>12}{'guarded/fp32':>14}{'guarded/half':>14}"
    )
    for name, (model, data) in networks.items():
        rows(model, data, write, name)


if __name__ == "__main__":
    from .bench import guarded_networks

    main(guarded_networks())
