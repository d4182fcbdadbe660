"""Optimizers in the network's own format: torch's, with a fixed loss scale carried through them."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from precisionkit.training.settings import Settings

BETAS = (0.9, 0.999)
"""Of Adam."""
ALPHA = 0.9
"""Of RMSProp: Keras's, which the published experiments used."""


def build_optimizer(settings: Settings, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Return the optimizer of a run.

    A loss that is scaled by S gives gradients scaled by S, and they are not scaled back, which would round them to zero again: in exact
    arithmetic SGD does with S g, the rate divided by S and the L2 factor multiplied by S what it does with g; Adam and RMSProp do with
    S g, S epsilon and S times the L2 factor.
    """
    scale, rate, decay = settings.loss_scale, settings.learning_rate, settings.weight_decay * settings.loss_scale
    if settings.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=rate / scale, momentum=settings.momentum, weight_decay=decay)
    epsilon = settings.epsilon * scale
    if settings.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=rate, betas=BETAS, eps=epsilon, weight_decay=decay)
    return torch.optim.RMSprop(parameters, lr=rate, alpha=ALPHA, eps=epsilon, weight_decay=decay)
