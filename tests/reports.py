"""Reports for tests: small, and of round numbers."""

from precisionkit.report import ArithmeticInfo, DataInfo, Environment, Input, ModelInfo, Report, Timing, summarise

MODEL = ModelInfo(path="net.pt", sha256="a" * 64, arch="net", parameters=1234)
DATA = DataInfo(name="digits", split="test", inputs=5, sha256="b" * 64)
ARITHMETIC = ArithmeticInfo(
    storage="binary16", accumulate="binary32", order="any", fuse="none", reference="fp32/fp32-any", assumptions=("One.", "Two.")
)
ENVIRONMENT = Environment(versions={"precisionkit": "0.1.0", "torch": "2"}, device="cpu (x86_64)", flags={"native": False, "threads": 1})


def item(index=0, verdict="proved", **changes):
    """One input, whose fields may be others."""
    values = {
        "index": index,
        "label": 1,
        "prediction_reference": 1,
        "prediction_half": 0 if verdict == "flipped" else 1,
        "verdict": verdict,
        "margin": 2.0,
        "bound": 0.25,
        "measured_error": 0.125,
        "lower_margin": 1.5,
        "linearised_worst": None,
        "linearised_random": None,
        "method": "interval",
        "failure": 0.0,
        "reason": None,
    }
    return Input(**{**values, **changes})


def report(inputs=None, **changes):
    """A report of some inputs, or of three of five."""
    some = (item(), item(1, "observed", bound=None, reason="why"), item(2, "flipped", bound=0.5))
    inputs = some if inputs is None else tuple(inputs)
    values = {
        "complete": True,
        "model": MODEL,
        "data": DATA,
        "arithmetic": ARITHMETIC,
        "method": "interval",
        "confidence": 1e-6,
        "summary": summarise(inputs),
        "timing": Timing(total_s=2.0, reference_s=0.5, half_s=0.5, bound_s=1.0, inputs_per_s=1.5),
        "environment": ENVIRONMENT,
        "inputs": inputs,
    }
    return Report(**{**values, **changes})
