"""``make bench``: what every method certifies, how sharply, and what it costs as a multiple of a binary32 forward pass; one thread.

Trained networks are read from ``../shared/models`` and data from ``../shared/data``, or ``$PRECISIONKIT_MODELS`` and
``$PRECISIONKIT_DATA``; what is missing is left out, and said; `mnist_9_200` is trained, once (minutes).  ``python -m tests.bench
NAME ...`` takes some networks only.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np
import torch

from precisionkit.arithmetic import REFERENCE, parse_arithmetic
from precisionkit.bound import Method
from precisionkit.capture import capture
from precisionkit.certify import Settings, certify
from precisionkit.data import Dataset, load_dataset
from precisionkit.decide import Side, decide
from precisionkit.evaluate import Program, execute
from precisionkit.models import LoadedModel, bundled_model, load_model
from precisionkit.models.load import save_model
from precisionkit.models.train import RECIPES, train
from precisionkit.models.zoo import ZOO

from . import emulation, guarding
from .baselines import gamma_n, lirpa, normwise

SHARED = Path(__file__).resolve().parents[2] / "shared"
MODELS = Path(os.environ.get("PRECISIONKIT_MODELS", SHARED / "models"))
DATA = Path(os.environ.get("PRECISIONKIT_DATA", SHARED / "data"))
HALF = (("fp16",), ("bf16",))
SUMS = (("fp16", "fp16", "pairwise"), ("fp16", "fp16", "blocked:16"), ("fp16", "fp16", "sequential"))
TRAINED = Path(__file__).resolve().parents[1] / "reports"
"""Where networks of our own training are kept between runs."""
LIRPA_SECONDS = 30.0
"""Time for each of its methods; CROWN on a residual network takes minutes and gigabytes, and is left out."""


@dataclass(frozen=True)
class Network:
    """A trained network, how many images of its test set are taken, and for which arithmetics."""

    file: str | None
    data: str
    images: int
    arithmetics: tuple[tuple[str, ...], ...] = (("fp16",),)
    methods: tuple[str, ...] = ("interval", "zonotope", "adjoint", "auto")
    crown: bool = True


NETWORKS = {
    "digits_cnn": Network(None, "digits", 100, HALF),
    "mnist_fc_3layer": Network("mnist_fc_3layer.pth", "mnist", 100, (*HALF, *SUMS)),
    "mnist_6_100": Network("mnist_6_100_nat.pth", "mnist", 100, (*HALF, *SUMS)),
    "mnist_9_200": Network("mnist_9_200.pt", "mnist", 40, HALF),
    "mnist_cnn_small": Network("mnist_cnn_small.pth", "mnist", 50),
    "lenet5": Network("lenet_mnist.pt", "mnist", 20),
    "cifar_conv_small_sigmoid": Network("cifar_conv_small_sigmoid.pth", "cifar10", 20, crown=False),
    "cifar_resnet20": Network("resnet20-12fca82f.th", "cifar10", 2, (("fp16",), ("fp32",)), ("interval", "auto"), crown=False),
}


@dataclass(frozen=True)
class Row:
    """Share of certified images, median of bound over measured error, seconds an image."""

    certified: float | None
    ratio: float | None
    seconds: float


def file_of(name: str, network: Network) -> Path:
    """The file of a network."""
    if network.file is None:
        return bundled_model(name)
    given = MODELS / network.file
    return given if given.exists() or name not in RECIPES else TRAINED / network.file


def trained(name: str, network: Network) -> None:
    """Train a network of our own that is missing, once."""
    path = file_of(name, network)
    if name in RECIPES and not path.exists():
        os.environ.setdefault("PRECISIONKIT_DATA", str(DATA))
        path.parent.mkdir(exist_ok=True)
        save_model(path, train(name), arch=name, preprocess=ZOO[name].preprocess)


def loaded(name: str, network: Network) -> tuple[LoadedModel, Dataset]:
    """The network and its images."""
    path = file_of(name, network)
    data = load_dataset(network.data, root=None if network.file is None else DATA, limit=network.images, download=False)
    return load_model(path, arch=None if network.file is None else name), data


def guarded_networks() -> dict[str, tuple[LoadedModel, Dataset]]:
    """Those whose guard is timed, as far as they are there."""
    wanted = {name: replace(NETWORKS[name], images=guarding.IMAGES) for name in ("digits_cnn", "mnist_cnn_small", "cifar_resnet20")}
    return {name: loaded(name, network) for name, network in wanted.items() if file_of(name, network).exists()}


def forward_seconds(model: LoadedModel, data: Dataset) -> float:
    """Of one image, in a batch: the least of three."""
    images = model.preprocess(data.images)
    program = Program.of(capture(model.module, tuple(images.shape[1:])), REFERENCE)
    times = []
    for _ in range(4):
        start = time.perf_counter()
        execute(program, images)
        times.append(time.perf_counter() - start)
    return min(times[1:]) / len(images)


def by_certify(model: LoadedModel, data: Dataset, arithmetic: tuple[str, ...], method: str) -> Row:
    """One of the toolkit's methods."""
    report = certify(model, data, parse_arithmetic(*arithmetic), Settings(method=method))
    known = [i.bound / i.measured_error for i in report.inputs if i.bound is not None and i.measured_error]
    return Row(report.certified_percent / 100, median(known) if known else None, report.timing.bound_s / len(report.inputs))


def by_baseline(model: LoadedModel, data: Dataset, arithmetic: tuple[str, ...], method: Method) -> Row:
    """A method of others, on both programs."""
    images = model.preprocess(data.images)
    graph = capture(model.module, tuple(images.shape[1:]))
    reference, half = Program.of(graph, REFERENCE), Program.of(graph, parse_arithmetic(*arithmetic))
    runs = [execute(p, p.inputs(images)) for p in (reference, half)]
    start = time.perf_counter()
    first = method(reference, reference.inputs(images))
    second = method(half, half.inputs(images), first.classes)
    seconds = (time.perf_counter() - start) / len(images)
    nothing = np.zeros(len(images), dtype=bool)
    sides = [
        Side(b.centre.numpy(), b.gap_error.numpy(), ~nothing, nothing, r.logits.numpy(), r.finite.numpy())
        for b, r in zip((first, second), runs, strict=True)
    ]
    decision = decide(*sides, first.classes.numpy())
    known = decision.bound[decision.measured_error > 0] / decision.measured_error[decision.measured_error > 0]
    return Row(decision.verdict.count("proved") / len(images), float(np.median(known)) if len(known) else None, seconds)


def rows(name: str, network: Network) -> Iterator[tuple[str, str, Row]]:
    """Every method in every arithmetic."""
    model, data = loaded(name, network)
    for arithmetic in network.arithmetics:
        for method in network.methods:
            if method == "adjoint" and not parse_arithmetic(*arithmetic).unbiased_sums:
                continue
            yield "/".join(arithmetic), method, by_certify(model, data, arithmetic, method)
        for label, baseline in (("norm-wise", normwise), ("gamma_n", gamma_n)):
            try:
                yield "/".join(arithmetic), label, by_baseline(model, data, arithmetic, baseline)
            except NotImplementedError:
                continue
    images = model.preprocess(data.images)
    for method in ("IBP", "CROWN-IBP", *(("CROWN",) if network.crown else ())):
        found = lirpa(model.module, images, method, LIRPA_SECONDS)
        if found is not None:
            yield "ball 2^-11, reals", f"auto_LiRPA {method}", Row(found[1], None, found[0])


def printed(row: Row, forward: float) -> str:
    """Columns of a row."""
    certified = "-" if row.certified is None else f"{100 * row.certified:.1f} %"
    ratio = "-" if row.ratio is None else f"{row.ratio:.3g}"
    return f"{certified:>10}{ratio:>10}{1000 * row.seconds:>12.3f}{row.seconds / forward:>10.1f}"


def main(names: list[str], write: Callable[[str], object] = print) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    write(f"{'network':<26}{'arithmetic':<22}{'method':<22}{'certified':>10}{'bound/err':>10}{'ms/image':>12}{'forwards':>10}")
    for name in names or NETWORKS:
        network = NETWORKS[name]
        trained(name, network)
        if not file_of(name, network).exists():
            write(f"{name:<26}left out: {network.file} is not in the folder of models (PRECISIONKIT_MODELS)")
            continue
        forward = forward_seconds(*loaded(name, network))
        for arithmetic, method, row in rows(name, network):
            write(f"{name:<26}{arithmetic:<22}{method:<22}{printed(row, forward)}")


if __name__ == "__main__":
    main(sys.argv[1:])
    if not sys.argv[1:]:
        emulation.main()
        guarding.main(guarded_networks())
