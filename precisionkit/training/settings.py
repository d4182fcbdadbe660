"""What one training run is asked for; everything that its bits depend on, apart from the machine."""

from __future__ import annotations

import math

import msgspec

from precisionkit.errors import UsageError, shown
from precisionkit.training.precision import Precision, find_precision

OPTIMIZERS = ("sgd", "adam", "rmsprop")
KERNELS = ("rounded", "native")
_RATES = {"sgd": 0.01, "adam": 0.001, "rmsprop": 0.001}


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """One run.  The defaults are those of the paper's experiments with CIFAR-10.

    Attributes
    ----------
    arch : str
        A name of the zoo, or ``package.module:factory``.
    data : str
        What `load_dataset` takes; its part ``train`` trains.
    test : str or None
        What tests; None takes the part ``test`` of `data`.
    limit : int or None
        Train with the first images alone.
    precision : str
        A name of `PRECISIONS`.
    optimizer : str
        ``sgd``, ``adam`` or ``rmsprop``.
    rate : float or None
        The learning rate; None stands for the optimizer's usual one: 0.01 for SGD, 0.001 for the others.
    momentum, epsilon, weight_decay : float
        Of SGD; of Adam and RMSProp; L2, of all of them.
    epochs, batch, seed : int
        The batch is that of all processes together.
    loss_scale : float
        A fixed factor of the loss, which the optimizer takes out again without rounding (`optimizers.build_optimizer`).
    keep_fp32 : tuple of str
        Names of modules that are computed, stored and updated in binary32.
    batch_norm_momentum : float
        Of the old running statistics, in Keras's sense.
    kernels : str
        ``rounded``: half products are computed from binary32 copies and stored once.  ``native``: by the device's half kernels.
    normalize : str or None
        MEANS/STDS; None computes them from the training images.
    """

    arch: str
    data: str
    test: str | None = None
    limit: int | None = None
    precision: str = "fp32"
    optimizer: str = "sgd"
    rate: float | None = None
    momentum: float = 0.9
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    epochs: int = 100
    batch: int = 256
    seed: int = 0
    loss_scale: float = 1.0
    keep_fp32: tuple[str, ...] = ()
    batch_norm_momentum: float = 0.99
    kernels: str = "rounded"
    normalize: str | None = None

    def __post_init__(self) -> None:
        find_precision(self.precision)
        _one_of("optimizer", self.optimizer, OPTIMIZERS)
        _one_of("kind of kernels", self.kernels, KERNELS)
        for name, least in (("epochs", 1), ("batch", 1), ("seed", 0)):
            if not least <= (value := getattr(self, name)) < 2**31:
                raise UsageError(f"The setting {name} is {value}, but must be at least {least} and less than 2^31.")
        for name in ("rate", "momentum", "epsilon", "weight_decay"):
            if (value := getattr(self, name)) is not None:
                _finite(name, value, positive=False)
        _finite("loss_scale", self.loss_scale, positive=True)
        for name in ("momentum", "batch_norm_momentum"):
            if not 0 <= (value := getattr(self, name)) < 1:
                raise UsageError(f"The setting {name} is {value}, but must be at least 0 and less than 1.")
        if self.loss_scale != 1 and self.precision == "mixed":
            raise UsageError("The precision mixed scales the loss by itself: leave out --loss-scale.")

    @property
    def formats(self) -> Precision:
        """What is stored in which format."""
        return find_precision(self.precision)

    @property
    def learning_rate(self) -> float:
        """The learning rate, the optimizer's usual one where none was asked for."""
        return _RATES[self.optimizer] if self.rate is None else self.rate


def _one_of(what: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UsageError(f"Unknown {what} {shown(value)!r}: give one of {', '.join(known)}.")


def _finite(name: str, value: float, *, positive: bool) -> None:
    if not math.isfinite(value) or value < 0 or (positive and value == 0):
        raise UsageError(f"The setting {name} is {value}, but must be a finite number {'above' if positive else 'of at least'} 0.")
