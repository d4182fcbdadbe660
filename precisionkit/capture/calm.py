"""What torch does and says on the way, put aside while a module is captured: another path through attention, warnings, logs."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_LOGGERS = ("torch.fx.experimental.symbolic_shapes", "torch.export", "torch._export", "torch._dynamo")


@contextmanager
def as_written() -> Iterator[None]:
    """Let transformers compute what they are written as, and keep torch's FutureWarnings of its own modules; restored behind.

    The fast path of `nn.TransformerEncoder` packs padded batches, and what it does hangs on the numbers of the sample.
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch(\.|$)")
            # of torch's own trees, where the copy module reads them
            warnings.filterwarnings("ignore", message=r".*LeafSpec.* is deprecated", category=FutureWarning, module=r"copy(reg)?$")
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


@contextmanager
def silent_failure() -> Iterator[None]:
    """Keep what torch logs and prints of an export that fails, which the error says in a sentence; pass on what else was printed."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    printed = io.StringIO()
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(printed):
            warnings.simplefilter("ignore")  # deprecations inside torch.export are not the user's
            yield
        sys.stderr.write(printed.getvalue())
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
