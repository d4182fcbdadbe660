"""The smallest set of nodes to keep in binary32 so that enough of a data set is certified."""

from precisionkit.tune.make import Wanted, make_plan

__all__ = ["Wanted", "make_plan"]
