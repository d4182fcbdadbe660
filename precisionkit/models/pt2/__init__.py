"""Exported programs (.pt2, written by ``torch.export.save``), read without unpickling or evaluating anything in them.

``torch.export.load`` unpickles sample inputs and some weights, and evaluates expressions of sizes as Python.  Here the graph is JSON,
the weights are bytes, sample inputs are not opened, sizes are not expressions, and only listed operators are called.
"""

from precisionkit.models.pt2.listing import list_program
from precisionkit.models.pt2.module import ProgramModule
from precisionkit.models.pt2.read import read_program, read_weights

__all__ = ["ProgramModule", "list_program", "read_program", "read_weights"]
