"""precisionkit: whether running a trained classifier in half precision can change its predictions.

Data flows one way: capture -> graph -> evaluate -> bound -> decide -> report.  A module imports only modules to its left:

    checker < theorems < errors < user_code < formats < operations < arithmetic < lemma < report < html < decide < devices < outward <
    contracts < enclosure < ops < graph < capture < catalogue < evaluate < reference < truth < probe < bound < custom < batch < data <
    models < task < inspection < processes < pictures < certify < certificates < experiment < figures < training < reproduce < cli < docs <
    assertions < pytest_plugin < testing

Everything up to `decide` works without torch, and importing this package loads no torch.
"""

from precisionkit.arithmetic import Arithmetic, parse_arithmetic
from precisionkit.errors import PrecisionKitError
from precisionkit.formats import BFLOAT16, BINARY16, BINARY32, BINARY64, Format

__all__ = ["BFLOAT16", "BINARY16", "BINARY32", "BINARY64", "Arithmetic", "Format", "PrecisionKitError", "parse_arithmetic"]
