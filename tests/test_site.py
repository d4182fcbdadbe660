"""The site of the documentation builds with warnings as errors, and asks nothing of a network."""

import os
import re
import subprocess
import sys

import pytest

pytest.importorskip("mkdocs")
pytest.importorskip("mkdocstrings")
pytest.importorskip("latex2mathml")

from tests.documented import ROOT

LOADED = re.compile(r"<(?:script|img|iframe|source)[^>]*\ssrc=[\"']?(?:https?:)?//[^>]*>|<link[^>]*\shref=[\"']?(?:https?:)?//[^>]*>")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_no_page_loads_anything_from_elsewhere(site):
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 30
    assert {page.name: found for page in pages if (found := LOADED.findall(page.read_text()))} == {}
    assert not [sheet for sheet in site.rglob("*.css") if re.search(r"url\([\"']?(?:https?:)?//|@import", sheet.read_text())]


@pytest.mark.parametrize(
    "tag", ['<script src="https://unpkg.com/x">', '<link rel="stylesheet" href="//fonts.example/css">', "<img alt='' src='http://x/y.png'>"]
)
def test_what_is_loaded_from_elsewhere_is_found(tag):
    assert LOADED.search(tag)


def test_formulas_are_drawn(site):
    page = (site / "concepts" / "margins.html").read_text()
    assert page.count("<math") >= 20
    assert "arithmatex" not in page
    assert not re.search(r"\$[^<$\n]+\$", re.sub(r"<(pre|code|script).*?</\1>", "", page, flags=re.DOTALL))


@pytest.mark.parametrize(
    ("page", "what"),
    [
        ("api/certify.html", 'id="precisionkit.certify.certify"'),
        ("api/models.html", 'id="precisionkit.models.load_model"'),
        ("proofs/bounds.html", "13-the-margin-lemma-repaired"),
        ("commands.html", "--fail-under PERCENT"),
        ("certificates.html", 'href="proofs/bounds.html"'),
        ("search/search_index.js", "Jeannerod"),
    ],
)
def test_a_page_has_what_it_should(site, page, what):
    assert what in (site / page).read_text()
