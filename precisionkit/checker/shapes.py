"""Shapes of results, from those of operands; nothing is computed with tensors before they fit.

Shapes are those of one input, without the batch.  What does not fit, broadcasts, or would be larger than the checker takes is a ValueError.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

Shape = tuple[int, ...]

MOST_ENTRIES = 2**26
"""Of one array, for one input."""
MOST_TAPS = 2**16
"""Of one window."""


def require(fits: bool, what: str) -> None:
    """Raise a ValueError with a sentence unless something fits."""
    if not fits:
        raise ValueError(what)


def require_small(shape: Shape) -> None:
    """Raise a ValueError if an array of this shape would be too large."""
    require(math.prod(shape) <= MOST_ENTRIES, f"an array of the shape {shape} is larger than the checker takes ({MOST_ENTRIES} entries)")


def linear(attributes: Mapping[str, Any], x: Shape, weight: Shape, bias: Shape | None) -> Shape:
    """``(..., K)`` by ``(O, K)``."""
    require(len(weight) == 2 and len(x) >= 1 and x[-1] == weight[1], f"weights of the shape {weight} do not fit {x}")
    require(bias in (None, (weight[0],)), f"a bias of the shape {bias} does not fit weights of {weight}")
    return (*x[:-1], weight[0])


def conv2d(attributes: Mapping[str, Any], x: Shape, weight: Shape, bias: Shape | None) -> Shape:
    """``(C, H, W)`` by ``(O, C / groups, h, w)``."""
    groups = attributes["groups"]
    require(len(x) == 3 and len(weight) == 4 and min(weight) > 0, f"weights of the shape {weight} are none of a convolution of {x}")
    require(x[0] == groups * weight[1] and weight[0] % groups == 0, f"{groups} groups and weights of the shape {weight} do not fit {x}")
    require(bias in (None, (weight[0],)), f"a bias of the shape {bias} does not fit weights of {weight}")
    return (weight[0], *positions(x, weight[2:], attributes))


def max_pool2d(attributes: Mapping[str, Any], x: Shape) -> Shape:
    """``(C, H, W)``; no window lies in the padding alone."""
    kernel, padding = attributes["kernel_size"], attributes["padding"]
    require(len(x) == 3, f"a tensor of the shape {x} is no image")
    require(all(2 * p <= k for p, k in zip(padding, kernel, strict=True)), f"a padding of {padding} is more than half of {kernel}")
    return (x[0], *positions(x, kernel, attributes))


def positions(x: Shape, kernel: Any, attributes: Mapping[str, Any]) -> Shape:
    """Height and width of what a window slides over."""
    pieces = zip(x[1:], kernel, attributes["stride"], attributes["padding"], attributes["dilation"], strict=True)
    found = tuple((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in pieces)
    require(math.prod(kernel) <= MOST_TAPS, f"windows of {tuple(kernel)} have more entries than the checker takes ({MOST_TAPS})")
    require(min(found) >= 1, f"windows of {tuple(kernel)} do not fit an image of {x}")
    require_small((x[0], *(n + 2 * p for n, p in zip(x[1:], attributes["padding"], strict=True))))
    require_small((x[0], *kernel, *found))
    return found


def batch_norm(attributes: Mapping[str, Any], x: Shape, *parameters: Shape) -> Shape:
    """One number a channel."""
    require(len(x) >= 1 and all(shape == (x[0],) for shape in parameters), f"statistics of the shapes {parameters} do not fit {x}")
    return x


def add(attributes: Mapping[str, Any], a: Shape, b: Shape) -> Shape:
    """Equal shapes."""
    require(a == b, f"tensors of the shapes {a} and {b} are added")
    return a


def relu(attributes: Mapping[str, Any], x: Shape) -> Shape:
    """The same."""
    return x


def view(attributes: Mapping[str, Any], x: Shape) -> Shape:
    """As many entries."""
    shape = tuple(attributes["shape"])
    require(math.prod(shape) == math.prod(x), f"a tensor of the shape {x} is seen as one of {shape}")
    return shape
