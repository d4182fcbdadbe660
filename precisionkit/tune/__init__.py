"""The smallest set of nodes to keep in binary32 so that enough of a data set is certified."""

from precisionkit.tune.make import Wanted, make_plan
from precisionkit.tune.trials import Trials
from precisionkit.tune.values import Value, family, values_of

__all__ = ["Trials", "Value", "Wanted", "family", "make_plan", "values_of"]
