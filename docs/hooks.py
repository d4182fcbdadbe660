"""Hooks of the documentation site: pages from proofs/, and formulas as MathML, which browsers draw without scripts or fonts."""

from __future__ import annotations

import html
import posixpath
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert

ROOT = Path(__file__).resolve().parents[1]
PROOFS = ("proofs/bounds.md", "proofs/README.md")
_FORMULA = re.compile(r'<(span|div) class="arithmatex">(?:\\\((.*?)\\\)|\\\[(.*?)\\\])</\1>', re.DOTALL)
_BAR = re.compile(r"<mo[^>]*>&#x0007C;</mo>")
_TIGHT = '<mo stretchy="false" lspace="0" rspace="0">|</mo>'
_LINK = re.compile(r"(?<=\]\()(\.\./[^)#\s]+)")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that lie outside the folder of the documentation."""
    from mkdocs.structure.files import File

    for path in PROOFS:
        files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links to files of the repository lead to the page that shows them."""
    folder = posixpath.dirname(page.file.src_uri)
    outside = page.file.src_uri in PROOFS

    def moved(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder if outside else posixpath.join("docs", folder), link[1]))
        shown = target.removeprefix("docs/")
        return posixpath.relpath(shown, folder or ".") if target in PROOFS or target.startswith("docs/") else link[1]

    return _LINK.sub(moved, markdown)


def on_page_content(content: str, **_: Any) -> str:
    """Write every formula as MathML."""

    def as_mathml(formula: re.Match[str]) -> str:
        inline = formula[1] == "span"
        drawn = convert(html.unescape(formula[2] or formula[3]).strip(), display="inline" if inline else "block")
        return _BAR.sub(_TIGHT, drawn)

    return _FORMULA.sub(as_mathml, content)
