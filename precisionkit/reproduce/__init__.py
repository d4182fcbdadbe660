"""The published experiments, repeated: training in three precisions, its failures, and what becomes of the trained networks.

Imports `precisionkit.training`, and `precisionkit.certify` and `precisionkit.experiment` for the trained networks.
"""

from precisionkit.reproduce.document import write_document
from precisionkit.reproduce.plan import PUBLISHED, Plan, make_plan
from precisionkit.reproduce.runs import Result, Workshop, results
from precisionkit.reproduce.study import Pair, Study, studies

__all__ = ["PUBLISHED", "Pair", "Plan", "Result", "Study", "Workshop", "make_plan", "results", "studies", "write_document"]
