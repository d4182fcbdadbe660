"""Plugin for pytest: assertions whose tolerances are proved, with the arithmetic of a test run or of a single test.

    >>> from precisionkit.pytest_plugin import assert_certified, assert_close_proved

The options ``--precisionkit-storage``, ``--precisionkit-accumulate``, ``--precisionkit-order`` and ``--precisionkit-fuse`` set the
arithmetic of a test run, the marker ``precisionkit(storage=..., ...)`` that of a test, and arguments of the assertions that of one
call; the closest one counts, option by option.  torch is not imported before the first assertion.  See docs/pytest.md.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import pytest

from precisionkit.arithmetic import Arithmetic, parse_arithmetic
from precisionkit.errors import PrecisionKitError, UnsupportedArithmeticError, UsageError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from precisionkit.assertions import Batch, Closeness, Model
    from precisionkit.certify import Settings
    from precisionkit.report import Report

_MARKER = "precisionkit"


@dataclass(frozen=True)
class Options:
    """The arithmetic of a half program in the words of the command line."""

    storage: str = "fp16"
    accumulate: str = "fp32"
    order: str = "any"
    fuse: str = "none"

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Of the options."""
        return tuple(field.name for field in fields(cls))

    def with_some(self, given: Mapping[str, str | None]) -> Options:
        """Replace those that are given."""
        return replace(self, **{name: value for name, value in given.items() if value is not None})

    def arithmetic(self) -> Arithmetic:
        """Parse them."""
        return parse_arithmetic(self.storage, self.accumulate, self.order, self.fuse)


_HELP = {
    "storage": "format of weights, inputs and results in precisionkit's assertions: fp16 (default), bf16, fp32",
    "accumulate": "format of sums: fp32 (default), fp16, bf16, fp64",
    "order": "order of sums: any (default), sequential, pairwise, blocked:K, splitk:S, exact, tensorcore:UNIT, gpu:UNIT",
    "fuse": "stores that kernels leave out: none (default), epilogue",
}
_BUILT_IN = Options()
_current: ContextVar[Options] = ContextVar("precisionkit_options", default=_BUILT_IN)
"""Of the test that runs."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of a test run."""
    group = parser.getgroup("precisionkit", "precisionkit: arithmetic of assertions")
    for name, text in _HELP.items():
        group.addoption(f"--precisionkit-{name}", metavar=name.upper(), default=None, help=text)


def _of_run(config: pytest.Config) -> Options:
    return Options().with_some({name: config.getoption(f"precisionkit_{name}") for name in Options.names()})


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker, and check the options."""
    config.addinivalue_line(
        "markers", f"{_MARKER}(storage, accumulate, order, fuse): arithmetic of the assertions of precisionkit in this test; docs/pytest.md"
    )
    try:
        _of_run(config).arithmetic()
    except UnsupportedArithmeticError as error:
        raise pytest.UsageError(f"The options --precisionkit-... name no arithmetic. {error}") from None


def pytest_report_header(config: pytest.Config) -> str | None:
    """Name the arithmetic where an option was given."""
    given = _of_run(config)
    return f"precisionkit: {given.arithmetic().name}" if given != _BUILT_IN else None


def _of_test(item: pytest.Item) -> Options:
    """Options of the run, then of the markers, of which the closest to the test counts last.

    Raises
    ------
    UsageError
        A marker has something else than options.
    UnsupportedArithmeticError
        The options together name no arithmetic.
    """
    options = _of_run(item.config)
    for marker in reversed(list(item.iter_markers(_MARKER))):
        unknown = [*map(repr, marker.args), *(name for name in marker.kwargs if name not in Options.names())]
        if unknown:
            raise UsageError(f"The marker {_MARKER} of {item.nodeid} has {unknown[0]}; it takes {', '.join(Options.names())} by name.")
        options = options.with_some(marker.kwargs)
    options.arithmetic()
    return options


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Check every marker before a test runs."""
    for item in items:
        try:
            _of_test(item)
        except UsageError as error:
            raise pytest.UsageError(str(error)) from None
        except UnsupportedArithmeticError as error:
            raise pytest.UsageError(f"The marker {_MARKER} of {item.nodeid} names no arithmetic. {error}") from None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Give the assertions of a test, and of its fixtures, its options."""
    token = _current.set(_of_test(item))
    try:
        return (yield)
    finally:
        _current.reset(token)


def _arithmetic(**given: str | None) -> Arithmetic:
    return _current.get().with_some(given).arithmetic()


@pytest.fixture
def precisionkit_arithmetic() -> Arithmetic:
    """The arithmetic that the options and the markers of a test name."""
    return _arithmetic()


def assert_certified(
    model: Model,
    batch: Batch,
    storage: str | None = None,
    at_least: str = "probable",
    *,
    accumulate: str | None = None,
    order: str | None = None,
    fuse: str | None = None,
    fail_under: float = 100.0,
    arch: str | None = None,
    settings: Settings | None = None,
) -> Report:
    """Assert that running a classifier in half precision does not change its predictions.

    Parameters
    ----------
    model : nn.Module or LoadedModel or str or Path
        In evaluation mode with binary32 weights; or a file or a name, as on the command line.
    batch : tensor, array or Dataset
        Inputs, one a row.
    storage, accumulate, order, fuse : str or None
        The arithmetic of the half program; None takes that of the test's marker, of the test run, or ``fp16`` with sums in ``fp32`` in
        any order.
    at_least : str
        The weakest verdict that passes: ``proved``, ``probable`` or ``observed``.
    fail_under, arch, settings
        As for `precisionkit.assertions.assert_certified`.

    Returns
    -------
    Report
        With the verdict, the margin and the bound of every input.

    Raises
    ------
    AssertionError
        Too many predictions are weaker; the message says which, by how much, and what their bounds are made of.
    """
    __tracebackhide__ = True
    from precisionkit import assertions

    arithmetic = _arithmetic(storage=storage, accumulate=accumulate, order=order, fuse=fuse)
    try:
        return assertions.assert_certified(model, batch, arithmetic, at_least=at_least, fail_under=fail_under, arch=arch, settings=settings)
    except (AssertionError, PrecisionKitError) as error:  # its text says it all
        raise error.with_traceback(None) from None


def assert_close_proved(
    actual: Tensor,
    model: nn.Module,
    x: Tensor,
    storage: str | None = None,
    *,
    accumulate: str | None = None,
    order: str | None = None,
    fuse: str | None = None,
    effort: float | None = None,
) -> Closeness:
    """Assert that a result lies within the proved bounds of an arithmetic around the exact network, element by element.

    Parameters
    ----------
    actual : (batch, classes) tensor
        What some machine, library or compiler made of the model and x, in any dtype, on any device.
    model : nn.Module
        In evaluation mode, with weights in binary32 or in the storage format.
    x : (batch, ...) tensor
        Numbers of binary32, or integer tokens.
    storage, accumulate, order, fuse : str or None
        The arithmetic that the result is said to come from; None as for `assert_certified`.
    effort : float or None
        Limit of the work for one input, in forward passes; 0 leaves it with the interval method, None takes the default.

    Returns
    -------
    Closeness
        The largest error as a share of its bound, the exact results and the bounds.

    Raises
    ------
    AssertionError
        An element is further from the exact network than any run of the arithmetic can be, or there is no bound for it.
    """
    __tracebackhide__ = True
    from precisionkit import assertions

    arithmetic = _arithmetic(storage=storage, accumulate=accumulate, order=order, fuse=fuse)
    limit = {} if effort is None else {"effort": effort}
    try:
        return assertions.assert_close_proved(actual, model, x, arithmetic, **limit)
    except (AssertionError, PrecisionKitError) as error:
        raise error.with_traceback(None) from None
