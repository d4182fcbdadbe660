"""Methods that bound what every run of a program can compute."""

from precisionkit.bound.interval import interval
from precisionkit.bound.result import LogitBounds

METHODS = {"interval": interval}
"""Each takes a program and a batch of stored inputs and returns `LogitBounds`."""

__all__ = ["METHODS", "LogitBounds", "interval"]
