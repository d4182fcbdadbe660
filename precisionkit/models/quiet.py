"""Silence what torch says of its own affairs, which is of no use to the user of a model file."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet(logger: str) -> Iterator[None]:
    """Show no warnings, and nothing of one logger: failures become one sentence elsewhere."""
    talk = logging.getLogger(logger)
    level = talk.level
    talk.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        talk.setLevel(level)
