"""The records of a certification report: plain, frozen values, whose JSON is the format ``precisionkit.certify/1``."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from precisionkit.report.parts import ArithmeticInfo, Count, DataInfo, ModelInfo, Seconds, Size, _Record
from precisionkit.report.profile import Profile

SCHEMA: Literal["precisionkit.certify/1"] = "precisionkit.certify/1"

Verdict = Literal["proved", "probable", "observed", "flipped", "undecided", "invalid"]
VERDICTS: tuple[Verdict, ...] = ("proved", "probable", "observed", "flipped", "undecided", "invalid")
"""Strongest statement first."""
CERTIFIED: tuple[Verdict, ...] = ("proved", "probable")
WORST_FIRST: tuple[Verdict, ...] = ("flipped", "invalid", "undecided", "observed", "probable", "proved")
"""In the order in which a reader wants to see inputs."""


class Summary(_Record, frozen=True, kw_only=True):
    """Counts over all inputs; the verdicts are exclusive and add up to `inputs`.

    Without labels the numbers of correct predictions are null.  Medians are over the inputs that have the value.
    """

    inputs: Count
    correct_reference: Count | None
    correct_half: Count | None
    agree: Count
    proved: Count
    probable: Count
    observed: Count
    flipped: Count
    undecided: Count
    invalid: Count
    median_bound: Size | None
    worst_bound: Size | None
    median_measured_error: Size | None
    worst_measured_error: Size | None

    @property
    def certified(self) -> int:
        """How many inputs are proved or probable."""
        return self.proved + self.probable


class Timing(_Record, frozen=True, kw_only=True):
    """Wall-clock seconds: in all, in the runs of the two programs, in their bounds."""

    total_s: Seconds
    reference_s: Seconds
    half_s: Seconds
    bound_s: Seconds
    inputs_per_s: Size


class Environment(_Record, frozen=True, kw_only=True):
    """What it ran on: versions of the libraries, the device, and the switches that were set."""

    versions: dict[str, str]
    device: str
    flags: dict[str, bool | int | float | str]


class Input(_Record, frozen=True, kw_only=True):
    """One input.

    Attributes
    ----------
    index, label : int
        Place in the data set; its label, null when unknown.
    prediction_reference, prediction_half : int
        What the two runs made here predict.
    verdict : str
        The strongest statement that holds: proved, probable, observed, flipped, undecided, invalid.
    margin : float or None
        Gap between the predicted class and the class that comes closest to it, in the exact network with binary32 weights; of an input
        that is not certified, the class whose margin is the smallest share of its bound; of a flipped input, the other class predicted.
    bound : float or None
        Proved bound on how far that gap can differ between any run of the half program and any run of the reference; null where
        no bound holds.
    measured_error : float or None
        The same difference between the two runs made here.
    lower_margin : float or None
        The least that the gap to any class is proved to be, in every run of both programs; null where no bound holds.
    linearised_worst, linearised_random : float or None
        First-order counterparts of `bound`, of which nothing is proved: in the worst case, and under the model of random rounding.
        Null unless asked for.
    method : str
        The sharpest method that was applied to it.
    failure : float
        Probability that the bounds are wrong: over the method's own random numbers, and for a `probable` verdict over the model of
        random rounding; 0 for methods without either.
    reason : str or None
        Why it is not proved.
    """

    index: Count
    label: int | None
    prediction_reference: Count
    prediction_half: Count | None
    verdict: Verdict
    margin: float | None
    bound: Size | None
    measured_error: Size | None
    lower_margin: float | None
    linearised_worst: Size | None
    linearised_random: Size | None
    method: str
    failure: Annotated[float, msgspec.Meta(ge=0, le=1)]
    reason: str | None


class Picture(_Record, frozen=True, kw_only=True):
    """What one input looks like.

    Attributes
    ----------
    index : int
        Of the input.
    png : str
        A PNG file in base64.
    made : str
        What was done to the numbers so that they could be shown.
    """

    index: Count
    png: Annotated[str, msgspec.Meta(pattern="^iVBORw0KGgo[A-Za-z0-9+/]+={0,2}$")]
    made: str


class Report(_Record, frozen=True, kw_only=True):
    """A whole certification.

    Attributes
    ----------
    complete : bool
        False when it was interrupted, and then `inputs` holds those that were done.
    profile : Profile or None
        Errors and shares node by node; null unless asked for.
    pictures : tuple of Picture
        Of inputs that are not certified, where the data are images and pictures were asked for.
    """

    schema: Literal["precisionkit.certify/1"] = SCHEMA
    complete: bool
    model: ModelInfo
    data: DataInfo
    arithmetic: ArithmeticInfo
    method: str
    confidence: Annotated[float, msgspec.Meta(gt=0, lt=1)]
    summary: Summary
    timing: Timing
    environment: Environment
    inputs: tuple[Input, ...]
    profile: Profile | None = None
    pictures: tuple[Picture, ...] = ()

    @property
    def certified_percent(self) -> float:
        """Share of the inputs that are proved or probable; 0 for none."""
        return 100.0 * self.summary.certified / self.summary.inputs if self.summary.inputs else 0.0


def with_command(report: Report, command: str) -> Report:
    """Add the command line that repeats it."""
    environment = msgspec.structs.replace(report.environment, flags={**report.environment.flags, "command": command})
    return msgspec.structs.replace(report, environment=environment)
