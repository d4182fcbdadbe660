"""Small wrong changes to the package, and the tests that must notice each: ``python -m tests.mutants``."""

from .acting import ACTING
from .arithmetic import ARITHMETIC
from .checker import CHECKER
from .operators import OPERATORS
from .propagation import PROPAGATION
from .record import Mutant
from .sums import SUMS

MUTANTS: tuple[Mutant, ...] = (*ARITHMETIC, *SUMS, *OPERATORS, *PROPAGATION, *CHECKER, *ACTING)

__all__ = ["MUTANTS", "Mutant"]
