"""The last section: the arithmetic, what is assumed, what the verdicts mean, where it ran, and how to repeat it."""

from __future__ import annotations

from precisionkit.html.tags import Html, facts, join, tag
from precisionkit.html.words import number
from precisionkit.report import MEANINGS, VERDICTS, Report


def background_section(report: Report) -> Html:
    """All that the verdicts rest on."""
    return join(
        [
            tag("h3", "Arithmetic"),
            _arithmetic(report),
            tag("h3", "Assumptions"),
            tag("p", "Every verdict holds under these assumptions alone:"),
            tag("ol", [tag("li", sentence) for sentence in report.arithmetic.assumptions]),
            tag("h3", "What the verdicts mean"),
            facts("Meaning of the verdicts", [(verdict, MEANINGS[verdict]) for verdict in VERDICTS]),
            _confidence(report),
            tag("h3", "Environment"),
            _environment(report),
            tag("h3", "How to repeat it"),
            _repeat(report),
        ]
    )


def _arithmetic(report: Report) -> Html:
    arithmetic = report.arithmetic
    stored = {"none": "after every operator", "epilogue": "once for a layer with its batch normalisation, addition and ReLU"}
    rows = [
        ("storage", f"{arithmetic.storage}, {stored[arithmetic.fuse]}"),
        ("sums", f"in {arithmetic.accumulate}"),
        ("order of sums", arithmetic.order),
        ("reference program", arithmetic.reference),
    ]
    return facts("Arithmetic of the half program, and the reference", rows)


def _confidence(report: Report) -> Html:
    return tag(
        "p",
        f"A 'probable' verdict is wrong with a probability of at most {number(report.confidence)}, under the model of random rounding. "
        "The column 'Failure' of the table has the probability for each input; it is 0 where nothing random was used.",
    )


def _environment(report: Report) -> Html:
    environment = report.environment
    rows = [("device", environment.device)]
    rows += [(f"version of {name}", version) for name, version in sorted(environment.versions.items())]
    rows += [(name, _flag(value)) for name, value in environment.flags.items() if name != "command"]
    return facts("Device, versions and switches", rows)


def _flag(value: bool | float | str) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _repeat(report: Report) -> Html:
    command = report.environment.flags.get("command")
    hashes = [("model file", tag("code", report.model.sha256)), ("images and labels", tag("code", report.data.sha256))]
    return join(
        [
            tag("p", "The command was not recorded; the options can be told from the tables above.")
            if command is None
            else tag("pre", tag("code", str(command)), tabindex=0),
            tag("p", "The results are those of this report if the hashes, the versions and the device are the same."),
            facts("SHA-256 of what was read", hashes),
        ]
    )
