"""Small networks, and plans made by hand."""

import numpy as np
import torch
from torch import nn

from precisionkit.guard import GuardPlan
from precisionkit.guard.identity import built, device_text, network_hash, switches
from precisionkit.guard.rows import written
from precisionkit.report import DataInfo, ModelInfo


def net(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval().requires_grad_(False)


def inputs(rows=64, seed=1):
    return torch.randn(rows, 4, generator=torch.Generator().manual_seed(seed))


def plan_for(model, **changes):
    fields = {
        "version": "0",
        "storage": "fp16",
        "kernels": "native",
        "device": device_text(torch.device("cpu")),
        "flags": switches(torch.device("cpu")),
        "batch_size": 64,
        "built": built(torch.device("cpu")),
        "input_shape": (4,),
        "tokens": False,
        "weights": network_hash(model),
        "model": ModelInfo(path="m", sha256="a" * 64, arch="net", parameters=1),
        "data": DataInfo(name="d", split="all", inputs=5000, sha256="b" * 64),
        "preprocess": None,
        "rows": written(np.arange(5000, dtype=np.uint64)),
        "score": "error",
        "threshold": 0.1,
        "risk": 1e-3,
        "confidence": 0.99,
        "allowed": 0,
        "fallen_back": 50,
        "window": 1000,
        "expected": (0, 41),
        "false_alarm": 1e-6,
    }
    return GuardPlan(**fields | changes)
