"""Ground truth: a network without rounding, from the same graph, by mpmath (the judge) and by Arb (fast, with enclosures).

Weights and inputs are taken as they are, so the exact network of a program has that program's rounded weights.  mpmath computes
with a fixed number of digits, Arb with balls that contain the exact value, whose radius tells how much is known.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import mpmath
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from precisionkit.errors import RefutedError, UsageError
from precisionkit.evaluate import Program
from precisionkit.graph import Node, interpret

SAMPLED = ("conv2d", "linear", "addmm", "mm")
"""Operators of which single neurons can be computed."""
Objects = NDArray[np.object_]
Observe = Callable[[Node, tuple[Any, ...], Objects], None]


def _objects(values: Sequence[Any], shape: tuple[int, ...]) -> Objects:
    result = np.empty(len(values), dtype=object)
    result[:] = values
    return result.reshape(shape)


class Engine(ABC):
    """Exact numbers, and what the records of operators ask of them."""

    @abstractmethod
    def number(self, value: float | int) -> Any:
        """Take a Python number as it is."""

    @abstractmethod
    def sqrt(self, value: Any) -> Any:
        """Take the square root."""

    @abstractmethod
    def exp(self, value: Any) -> Any:
        """Take the exponential."""

    @abstractmethod
    def log(self, value: Any) -> Any:
        """Take the natural logarithm."""

    @abstractmethod
    def erf(self, value: Any) -> Any:
        """Take the error function."""

    @abstractmethod
    def sin(self, value: Any) -> Any:
        """Take the sine."""

    @abstractmethod
    def cos(self, value: Any) -> Any:
        """Take the cosine."""

    @abstractmethod
    def pi(self) -> Any:
        """Half the circumference of the unit circle."""

    @abstractmethod
    def dot(self, a: Objects, b: Objects) -> Objects:
        """Multiply two matrices."""

    @abstractmethod
    def maximum(self, a: Any, b: Any) -> Any:
        """Of two numbers."""

    @abstractmethod
    def upper(self, value: Any) -> Any:
        """Something to order numbers by, so that the last one in order is an enclosure of their maximum."""

    def working(self) -> AbstractContextManager[Any]:
        """Within it, operations have the engine's precision."""
        return nullcontext()

    def array(self, values: Tensor) -> Objects:
        """Take floating-point numbers as they are."""
        return _objects([self.number(v) for v in values.detach().cpu().double().flatten().tolist()], tuple(values.shape))


class Mpmath(Engine):
    """mpmath with a fixed number of decimal digits."""

    def __init__(self, digits: int = 50) -> None:
        self.context = mpmath.mp.clone()
        self.context.dps = digits

    def number(self, value: float | int) -> Any:
        """Take a Python number as it is."""
        return self.context.mpf(value)

    def sqrt(self, value: Any) -> Any:
        """Take the square root."""
        return self.context.sqrt(value)

    def exp(self, value: Any) -> Any:
        """Take the exponential."""
        return self.context.exp(value)

    def log(self, value: Any) -> Any:
        """Take the natural logarithm."""
        return self.context.log(value)

    def erf(self, value: Any) -> Any:
        """Take the error function."""
        return self.context.erf(value)

    def sin(self, value: Any) -> Any:
        """Take the sine."""
        return self.context.sin(value)

    def cos(self, value: Any) -> Any:
        """Take the cosine."""
        return self.context.cos(value)

    def pi(self) -> Any:
        """Half the circumference of the unit circle."""
        return self.context.pi + 0

    def dot(self, a: Objects, b: Objects) -> Objects:
        """Multiply two matrices."""
        fdot, products = self.context.fdot, []
        for row in a.tolist():
            places = [k for k, value in enumerate(row) if value]  # zeros are common behind a ReLU
            factors, kept = [row[k] for k in places], b[places].T.tolist()
            products += [fdot(factors, column) for column in kept]
        return _objects(products, (a.shape[0], b.shape[1]))

    def maximum(self, a: Any, b: Any) -> Any:
        """Of two numbers."""
        return max(a, b)

    def upper(self, value: Any) -> Any:
        """The number itself."""
        return value


class Arb(Engine):
    """Balls of Arb, by python-flint; the midpoints have the given number of bits.

    Raises
    ------
    UsageError
        python-flint is not installed.
    """

    def __init__(self, bits: int = 128) -> None:
        try:
            import flint
        except ImportError as error:
            raise UsageError("Arb comes with python-flint, which is not installed; run pip install 'precisionkit[truth]'.") from error
        self._flint, self._bits = flint, bits

    def number(self, value: float | int) -> Any:
        """Take a Python number as it is."""
        return self._flint.arb(value)

    def sqrt(self, value: Any) -> Any:
        """Take the square root."""
        return value.sqrt()

    def exp(self, value: Any) -> Any:
        """Take the exponential."""
        return value.exp()

    def log(self, value: Any) -> Any:
        """Take the natural logarithm."""
        return value.log()

    def erf(self, value: Any) -> Any:
        """Take the error function."""
        return value.erf()

    def sin(self, value: Any) -> Any:
        """Take the sine."""
        return value.sin()

    def cos(self, value: Any) -> Any:
        """Take the cosine."""
        return value.cos()

    def pi(self) -> Any:
        """Half the circumference of the unit circle."""
        return self._flint.arb.pi()

    def dot(self, a: Objects, b: Objects) -> Objects:
        """Multiply two matrices."""
        return _objects((self._matrix(a) * self._matrix(b)).entries(), (a.shape[0], b.shape[1]))

    def maximum(self, a: Any, b: Any) -> Any:
        """Of two numbers."""
        return a.max(b)

    def upper(self, value: Any) -> Any:
        """The upper end: a ball that reaches furthest contains the maximum, being at least its own number and at most its end."""
        with self._flint.ctx.workprec(8 * self._bits):  # so that different ends stay different
            return value.upper()

    def contains(self, ball: Any, value: Any) -> bool:
        """Whether a number of mpmath lies in a ball."""
        with self._flint.ctx.workprec(4096):
            return bool(ball.contains(self._flint.arb(value)))

    def working(self) -> AbstractContextManager[Any]:
        """Within it, operations have the engine's precision."""
        manager: AbstractContextManager[Any] = self._flint.ctx.workprec(self._bits)
        return manager

    def _matrix(self, a: Objects) -> Any:
        return self._flint.arb_mat(a.shape[0], a.shape[1], a.ravel().tolist())


def exact_logits(engine: Engine, program: Program, inputs: Tensor, observe: Observe | None = None) -> Objects:
    """Compute the exact network of a program on a batch.

    Parameters
    ----------
    inputs : (batch, ...) tensor
        Numbers of the storage format, as `Program.inputs` gives them.
    observe : callable or None
        Called with every node, its operands and its result.

    Returns
    -------
    (batch, classes) object array of the engine's numbers
    """
    constants: Mapping[str, Objects] = {name: engine.array(value) for name, value in program.constants.items()}
    start = engine.array(inputs)

    def run_node(node: Node, operands: tuple[Any, ...]) -> Objects | None:
        if node.record.hidden:
            return None
        result: Objects = node.record.exact(engine, node.attributes, *operands)
        if observe is not None:
            observe(node, operands, result)
        return result

    with engine.working():
        return interpret(program.graph, start, constants, run_node)


def agree_on(judge: Mpmath, arb: Arb, program: Program, inputs: Tensor, balls: Objects) -> None:
    """Check that mpmath computes the logits that Arb's balls contain.

    Raises
    ------
    RefutedError
        A number lies outside its ball: one of the two libraries, or the record of an operator, is wrong.
    """
    values = exact_logits(judge, program, inputs)
    _inside(arb, balls[: len(values)], values, "the logits")


def distances(arb: Arb, a: Objects, b: Objects) -> list[float]:
    """Largest difference of each row, as upper ends of Arb's balls, rounded to nearest."""
    with arb.working():
        return [max(float(abs(x - y).upper()) for x, y in zip(p, q, strict=True)) for p, q in zip(a, b, strict=True)]


def _inside(arb: Arb, balls: Objects, values: Objects, where: str) -> None:
    for ball, value in zip(balls.ravel(), values.ravel(), strict=True):
        if not arb.contains(ball, value):
            raise RefutedError(
                f"In {where}, mpmath gives {value}, which lies outside Arb's ball {ball}: one of the two, or the operator's record, is "
                "wrong. Please report it."
            )


class Samples:
    """Has mpmath compute some outputs of every dot product of the first image, from the midpoints of Arb's operands.

    One channel of a convolution, up to four outputs of a matrix product, drawn at random.  Call it with every node of an exact network.

    Attributes
    ----------
    compared : int
        Numbers that were compared.
    """

    def __init__(self, judge: Mpmath, arb: Arb, seed: int = 0) -> None:
        self._judge, self._arb, self._generator = judge, arb, np.random.default_rng(seed)
        self.compared = 0

    def __call__(self, node: Node, operands: tuple[Any, ...], result: Objects) -> None:
        """Compare.

        Raises
        ------
        RefutedError
            As for `agree_on`.
        """
        if node.operator not in SAMPLED:
            return
        some = self._of_convolution if node.operator == "conv2d" else self._of_matrix
        attributes, chosen, balls = some(node, operands, result[:1])
        numbers = [None if t is None else _midpoints(self._judge, t) for t in chosen]
        judged = node.record.exact(self._judge, attributes, *numbers)
        _inside(self._arb, balls, judged, str(node))
        self.compared += judged.size

    def _of_convolution(self, node: Node, operands: tuple[Any, ...], result: Objects) -> tuple[dict[str, Any], tuple[Any, ...], Objects]:
        """One channel, with its group of the input."""
        x, weight, bias = operands
        groups, channel = node.attributes.get("groups", 1), int(self._generator.integers(len(weight)))
        group = np.split(x[:1], groups, axis=1)[channel // (len(weight) // groups)]
        one = slice(channel, channel + 1)
        return {**node.attributes, "groups": 1}, (group, weight[one], None if bias is None else bias[one]), result[:, one]

    def _of_matrix(self, node: Node, operands: tuple[Any, ...], result: Objects) -> tuple[dict[str, Any], tuple[Any, ...], Objects]:
        """A few outputs: rows of a linear layer's weight, columns of the second factor of the others."""
        some = self._generator.choice(result.shape[-1], min(4, result.shape[-1]), replace=False)
        chosen: tuple[Any, ...]
        if node.operator == "linear":
            x, weight, bias = operands
            chosen = (x[:1], weight[some], None if bias is None else bias[some])
        elif node.operator == "addmm":
            bias, x, weight = operands
            chosen = (bias[some], x[:1], weight[:, some])
        else:
            x, weight = operands
            chosen = (x[:1], weight[:, some])
        return dict(node.attributes), chosen, result[..., some]


def _midpoints(judge: Mpmath, balls: Objects) -> Objects:
    return _objects([judge.context.ldexp(*map(int, ball.mid().man_exp())) for ball in balls.ravel()], balls.shape)
