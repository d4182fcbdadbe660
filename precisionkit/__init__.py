"""precisionkit: whether running a trained classifier in half precision can change its predictions.

Data flows one way: capture -> graph -> evaluate -> bound -> decide -> report.  A module imports only modules to its left:

    checker < theorems < errors < user_code < formats < operations < arithmetic < lemma < report < html < decide < devices < outward <
    contracts < enclosure < ops < graph < mixed < capture < catalogue < evaluate < reference < truth < probe < bound < custom <
    batch < data < models < patched < task < inspection < processes < pictures < stream < certify < profile < tune < certificates < guard <
    experiment < figures < training < reproduce < cli < docs < assertions < pytest_plugin < testing

Everything up to `decide` works without torch, and importing this package loads no torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from precisionkit.arithmetic import Arithmetic, parse_arithmetic
from precisionkit.errors import PrecisionKitError
from precisionkit.formats import BFLOAT16, BINARY16, BINARY32, BINARY64, Format

if TYPE_CHECKING:
    from torch import nn

    from precisionkit.models import LoadedModel
    from precisionkit.patched import Patched
    from precisionkit.report.plan import Plan

__all__ = ["BFLOAT16", "BINARY16", "BINARY32", "BINARY64", "Arithmetic", "Format", "PrecisionKitError", "apply", "parse_arithmetic"]


def apply(model: nn.Module | LoadedModel, plan: Plan | str | Path, *, probe: bool = True) -> Patched:
    """Patch a model as `precisionkit.patched.apply` does: half precision but for what a plan keeps in binary32."""
    from precisionkit import patched

    return patched.apply(model, plan, probe=probe)
