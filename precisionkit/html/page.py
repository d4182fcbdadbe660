"""The whole page: one file that needs no other and loads nothing."""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256
from importlib.resources import files

from precisionkit.html.background import background_section
from precisionkit.html.calibration import calibration_section
from precisionkit.html.growth import growth_section
from precisionkit.html.inputs import inputs_section
from precisionkit.html.scatter import scatter_section
from precisionkit.html.summary import summary_section
from precisionkit.html.tags import Html, join, tag
from precisionkit.report import Report


def page(report: Report) -> str:
    """Lay a report out as one HTML file; the same report gives the same bytes.

    Parameters
    ----------
    report : Report

    Returns
    -------
    str
        A document without references to other files.  A content security policy allows its own style and script alone.
    """
    style, script = _own("page.css"), _own("page.js")
    title = f"{report.model.arch} on {report.data.name} in {report.arithmetic.storage}"
    parts = _parts(report)
    head = [
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_policy(style, script)),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", f"{title}: precisionkit report"),
        tag("style", Html(style)),
    ]
    links = tag("nav", tag("ul", [tag("li", tag("a", name, href=f"#{key}")) for key, name, _ in parts]), aria_label="Sections")
    sections = [
        tag("section", tag("h2", name, id=f"{key}-heading"), part, id=key, aria_labelledby=f"{key}-heading") for key, name, part in parts
    ]
    body = [tag("header", tag("h1", title), links), tag("main", sections), _footer(report), tag("script", Html(script))]
    return "<!DOCTYPE html>\n" + join([tag("html", tag("head", head), tag("body", join(body, "\n")), lang="en")]) + "\n"


def _parts(report: Report) -> list[tuple[str, str, Html]]:
    """Key, name and content of the sections, in their order."""
    return [
        ("summary", "Summary", summary_section(report)),
        ("margins", "Margin against bound", scatter_section(report)),
        ("layers", "Error growth by layer", growth_section(report.profile)),
        ("calibration", "Calibration of the bounds", calibration_section(report)),
        ("inputs", "Inputs", inputs_section(report)),
        ("background", "Arithmetic, assumptions, environment", background_section(report)),
    ]


def _footer(report: Report) -> Html:
    version = report.environment.versions.get("precisionkit", "of an unknown version")
    return tag("footer", tag("p", f"Certified by precisionkit {version}; format {report.schema}."))


def _own(name: str) -> str:
    return (files("precisionkit.html") / name).read_text(encoding="utf-8")


def _policy(style: str, script: str) -> str:
    def allowed(text: str) -> str:
        return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"

    return (
        f"default-src 'none'; img-src data:; style-src {allowed(style)}; script-src {allowed(script)}; base-uri 'none'; form-action 'none'"
    )
