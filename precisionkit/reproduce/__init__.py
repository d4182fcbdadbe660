"""The published experiments, repeated: training in three precisions, its failures, and what becomes of the trained networks.

Imports `precisionkit.training`, and `precisionkit.certify` and `precisionkit.experiment` for the trained networks.
"""

from precisionkit.reproduce.document import Findings, write_document
from precisionkit.reproduce.plan import Plan, make_plan
from precisionkit.reproduce.runs import Where, results
from precisionkit.reproduce.study import studies

__all__ = ["Findings", "Plan", "Where", "make_plan", "results", "studies", "write_document"]
