"""What is trained to repeat the published experiments: one run for each network, precision, batch size, optimizer, epsilon and seed.

Source: Yun, Kang, Fu, arXiv 2301.12809 (networks, SGD settings); arXiv 2307.16189 (the epsilon of Adam and RMSProp).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from types import MappingProxyType

from msgspec.structs import replace

from precisionkit.errors import UsageError, shown
from precisionkit.training import Settings

PRECISIONS = ("fp32", "fp16", "mixed")
"""Those of the published tables."""
EXTRA = ("bf16", "strict-fp16")
"""Trained beside them, with one batch size."""
USUAL = (1e-8, 1e-7)
"""Epsilons that are usual in binary32."""
WORKING = 1e-3
"""The one of `EPSILONS` that is next to what theorem 27 asks for."""
EPSILONS = (*USUAL, 1e-4, WORKING)
CIFAR_NETWORKS = (
    *("paper_alexnet", "paper_vgg16", "paper_vgg19", "paper_resnet32", "paper_resnet56", "paper_resnet110"),
    *("paper_densenet121", "paper_densenet169", "paper_xception", "paper_mobilenet_v2", "paper_vit8", "paper_vit12"),
)


@dataclass(frozen=True)
class Published:
    """Published figures of one network on CIFAR-10, by precision.

    Attributes
    ----------
    accuracy : mapping of str to float
        Mean, in percent.
    seconds : mapping of str to float
        Of training, on the authors' GPU.
    """

    accuracy: Mapping[str, float]
    seconds: Mapping[str, float]


def _published(fp16: float, fp32: float, mixed: float, *seconds: float) -> Published:
    return Published({"fp16": fp16, "fp32": fp32, "mixed": mixed}, dict(zip(("fp16", "fp32", "mixed"), seconds, strict=True)))


PUBLISHED: Mapping[str, Published] = MappingProxyType(
    {
        "paper_alexnet": _published(76.0, 75.8, 75.9, 96, 174, 150),
        "paper_vgg16": _published(83.7, 83.9, 83.8, 377, 857, 455),
        "paper_vgg19": _published(83.8, 83.9, 83.9, 416, 937, 492),
        "paper_resnet32": _published(80.9, 80.9, 80.9, 413, 551, 483),
        "paper_resnet56": _published(81.6, 81.4, 81.5, 677, 905, 795),
        "paper_resnet110": _published(81.8, 81.4, 81.8, 1256, 1712, 1486),
        "paper_densenet121": _published(72.1, 72.6, 73.0, 539, 720, 641),
        "paper_densenet169": _published(71.7, 72.3, 72.1, 724, 966, 812),
        "paper_xception": _published(75.9, 76.3, 76.3, 324, 611, 412),
        "paper_mobilenet_v2": _published(69.4, 70.0, 70.0, 353, 588, 411),
        "paper_vit8": _published(71.0, 71.3, 71.2, 316, 423, 410),
        "paper_vit12": _published(71.1, 71.4, 71.5, 425, 663, 629),
    }
)


@dataclass(frozen=True)
class Plan:
    """The runs of one experiment.

    Attributes
    ----------
    name : str
        ``mnist`` or ``cifar10``.
    full : bool
        Whether networks, data and epochs have their full size.
    what : str
        Said under every table: network, data, epochs, seeds.
    settings : tuple of Settings
        One for each run.
    studied : tuple of Settings
        Those whose networks are kept, for margins, discrepancies and certificates.
    images : int
        Test images that are certified.
    """

    name: str
    full: bool
    what: str
    settings: tuple[Settings, ...]
    studied: tuple[Settings, ...]
    images: int


def make_plan(name: str, *, full: bool) -> Plan:
    """Return the runs of an experiment.

    Raises
    ------
    UsageError
        There is none of this name.
    """
    plans = {"mnist": _mnist, "cifar10": _cifar10}
    if name not in plans:
        raise UsageError(f"Unknown experiment {shown(name)!r}: give one of {', '.join(plans)}.")
    return plans[name](full)


def _mnist(full: bool) -> Plan:
    arch, limit, epochs, seeds = ("mnist_dnn", None, 2, 5) if full else ("mnist_fc_3layer", 10_000, 2, 2)
    sizes = (64, 128, 256, 512, 1024) if full else (64, 256)
    common = Settings(arch=arch, data="mnist", limit=limit, epochs=epochs, kernels="rounded")
    one = 256
    chosen = tuple(
        replace(common, precision=precision, optimizer=optimizer, epsilon=epsilon, batch=batch, seed=seed)
        for (optimizer, epsilon), batch, precision, seed in product(_optimizers(), sizes, PRECISIONS, range(seeds))
    )
    extra = tuple(
        replace(common, precision=precision, optimizer=optimizer, epsilon=epsilon, batch=one, seed=seed)
        for (optimizer, epsilon), precision, seed in product((("sgd", 0.0), ("adam", WORKING)), EXTRA, range(seeds))
    )
    studied = tuple(one_run for one_run in (*chosen, *extra) if _is_studied(one_run, one))
    network = "784-512-512-10, all 60,000 images" if full else "reduced: 784-128-64-10, the first 10,000 images"
    what = f"MNIST, {network}, {epochs} epochs, {seeds} seeds"
    return Plan("mnist", full, what, (*chosen, *extra), studied, 10_000 if full else 1_000)


def _cifar10(full: bool) -> Plan:
    networks = CIFAR_NETWORKS if full else ("cifar_conv_small_sigmoid", "paper_resnet20")
    limit, epochs, seeds = (None, 100, 5) if full else (5_000, 3, 2)
    common = Settings(arch=networks[0], data="cifar10", limit=limit, epochs=epochs, kernels="rounded")
    if not full:  # too few steps for running statistics of the published length
        common = replace(common, batch_norm_momentum=0.9)
    chosen = tuple(
        replace(common, arch=arch, precision=precision, seed=seed, weight_decay=1e-4 if "resnet" in arch else 0.0)
        for arch, precision, seed in product(networks, PRECISIONS, range(seeds))
    )
    studied = tuple(run for run in chosen if run.seed == 0 and run.precision != "mixed")
    size = f"{len(networks)} networks, all 50,000 images" if full else "reduced: 2 small networks, the first 5,000 images"
    return Plan("cifar10", full, f"CIFAR-10, {size}, {epochs} epochs, {seeds} seeds", chosen, studied, 1_000 if full else 100)


def _optimizers() -> tuple[tuple[str, float], ...]:
    return (("sgd", 0.0), *product(("adam", "rmsprop"), EPSILONS))


def _is_studied(settings: Settings, batch: int) -> bool:
    return settings.optimizer == "sgd" and settings.batch == batch and settings.seed == 0


def slug(settings: Settings) -> str:
    """Return a short file name for a run within a plan."""
    epsilon = "" if settings.optimizer == "sgd" else f"-eps{settings.epsilon:g}"
    return f"{settings.arch}-{settings.precision}-{settings.optimizer}{epsilon}-batch{settings.batch}-seed{settings.seed}"
