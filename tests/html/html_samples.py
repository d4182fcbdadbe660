"""Reports that show everything a page can show."""

import math
import random
from base64 import b64encode

import numpy as np
from msgspec.structs import replace

from precisionkit.pictures import png
from precisionkit.report import CERTIFIED, VERDICTS, Picture, Profile
from precisionkit.report.profile import Ladder, NodeProfile
from tests.reports import ARITHMETIC, DATA, ENVIRONMENT, MODEL, item, report

DOT = b64encode(png(np.arange(48, dtype=np.uint8).reshape(4, 4, 3) * 5)).decode()


FLAGS = {
    "cuda.matmul.allow_fp16_reduced_precision_reduction": False,
    "native": False,
    "threads": 1,
    "command": "precisionkit certify net.pt --data digits",
}


def drawn(index, verdict="proved", **changes):
    """One input whose margin and bound lie somewhere, as its verdict allows."""
    certified, numbers = verdict in CERTIFIED, random.Random(index)
    bound = 10 ** numbers.uniform(-1.5, -0.5)
    values = {
        "label": index % 10,
        "margin": bound * 10 ** (numbers.uniform(0.1, 2) if certified else numbers.uniform(-2, -0.1)),
        "bound": None if verdict == "invalid" else bound,
        "measured_error": bound * 10 ** numbers.uniform(-4, -1),
        "lower_margin": bound if certified else -bound,
        "method": "adjoint" if verdict == "probable" else "interval",
        "failure": 5e-7 if verdict == "probable" else 0.0,
        "reason": None if certified else "the bound does not stay below the margin",
    }
    return item(index, verdict, **{**values, **changes})


def some_inputs(counts):
    """So many inputs of each verdict."""
    verdicts = [verdict for verdict in VERDICTS for _ in range(counts.get(verdict, 0))]
    return tuple(drawn(index, verdict) for index, verdict in enumerate(verdicts))


def profile(count=12, name="conv", **changes):
    nodes = tuple(_node(i, count, name) for i in range(count))
    values = {"model": MODEL, "data": DATA, "arithmetic": ARITHMETIC, "inputs": 100, "ladder_inputs": 4, "tightest": 17, "confidence": 1e-6}
    return Profile(**{**values, "nodes": nodes, **changes})


def _node(i, count, name):
    size = math.exp(0.4 * i)
    ladder = Ladder(
        entries=100,
        a_priori=1e-2 * size**3 if i else None,
        running=1e-3 * size**2,
        zonotope=1e-3 * size,
        probable=2e-4 * size,
        measured=3e-5 * size if i != 4 else 0.0,
        truth=2.8e-5 * size if i in (0, 2, 7) else None,
    )
    return NodeProfile(
        name=f"{name}_{i}",
        operator="conv2d" if i % 2 else "relu",
        source="net.py:12",
        shape=(16, 8, 8),
        format="binary16" if i % 3 else "",
        parameters=100,
        multiplications=1000,
        least_seen=1e-4,
        largest_seen=10.0,
        largest_proved=11.0,
        overflow_distance=5000.0,
        subnormal_seen=0.0,
        normal_proved=1.0,
        fresh=1e-4,
        amplification=1.1,
        condition=2.0,
        worst_condition=20.0,
        share=2 * (i + 1) / (count * (count + 1)),
        ladder=ladder,
    )


def everything(certified=300):
    """All verdicts, a profile, linearised numbers and pictures."""
    inputs = some_inputs({"proved": certified, "probable": 40, "observed": 12, "flipped": 3, "undecided": 4, "invalid": 2})
    inputs = tuple(
        drawn(i.index, i.verdict, linearised_worst=i.bound and i.bound / 9, linearised_random=i.bound and i.bound / 90) for i in inputs
    )
    shown = [i.index for i in inputs if i.verdict not in CERTIFIED]
    pictures = tuple(Picture(index=index, png=DOT, made="bytes as they are") for index in shown)
    environment = replace(ENVIRONMENT, flags=FLAGS)
    return report(inputs, environment=environment, profile=profile(), pictures=pictures)
