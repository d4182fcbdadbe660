"""What is written from the code is up to date; links of the documentation lead somewhere, and its pages are found."""

import importlib
import inspect
import re
import tomllib

import pytest

from precisionkit.docs import command_reference, operator_table
from tests.documented import PAGES, ROOT, page_name

LINK = re.compile(r"\[[^\]\n]*\]\(([^)\s]+)\)")
NAV = (ROOT / "mkdocs.yml").read_text().split("\nnav:\n")[1]
SECTION = re.compile(r"^ *(Parameters|Other Parameters)\n *-+\n(.*?)(?=^ *\w[\w ]*\n *-+\n|\Z)", re.DOTALL | re.MULTILINE)


def test_the_table_of_operators_is_the_one_of_the_records():
    written = (ROOT / "docs" / "operators.md").read_text()
    assert written == operator_table() + "\n", "run 'make docs' and commit docs/operators.md"


def test_the_reference_of_the_commands_is_that_of_the_commands():
    written = (ROOT / "docs" / "commands.md").read_text()
    assert written == command_reference() + "\n", "run 'make docs' and commit docs/commands.md"


def test_the_citation_is_of_this_version():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"version = {{{version}}}" in (ROOT / "docs" / "citing.md").read_text()


def without_blocks(text):
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(text):
    """What headings are called in links: by GitHub and on the site."""
    headings = re.findall(r"^#+ (.+)$", without_blocks(text), re.MULTILINE)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


def broken_links(path, text):
    for link in LINK.findall(re.sub(r"`[^`\n]*`", "", without_blocks(text))):
        if re.match(r"https?://", link):
            continue
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        if not target.exists():
            yield f"{link}: there is no {file}"
        elif anchor and anchor not in anchors(target.read_text()):
            yield f"{link}: {target.name} has no heading of that name"


@pytest.mark.parametrize("path", [*PAGES, ROOT / "CHANGELOG.md"], ids=page_name)
def test_links_lead_somewhere(path):
    assert list(broken_links(path, path.read_text())) == []


def test_a_broken_link_is_found():
    page = ROOT / "docs" / "index.md"
    text = "[a](nothing.md) [b](faq.md#no-such-question) [c](#install) [d](https://example.org) `[e](no)`"
    assert list(broken_links(page, text)) == [
        "nothing.md: there is no nothing.md",
        "faq.md#no-such-question: faq.md has no heading of that name",
    ]


def test_every_page_is_in_the_navigation():
    listed = re.findall(r"[\w/-]+\.md", NAV)
    pages = {page_name(path).removeprefix("docs/") for path in PAGES} - {"README.md"}
    assert sorted(listed) == sorted(pages), "name the page under 'nav' in mkdocs.yml"


def public_functions():
    """Functions and methods of the modules that docs/api shows."""
    for page in sorted((ROOT / "docs" / "api").glob("[!i]*.md")):
        module = importlib.import_module(re.search(r"^::: (.+)$", page.read_text(), re.MULTILINE)[1])
        names = getattr(module, "__all__", None) or [n for n, v in vars(module).items() if getattr(v, "__module__", "") == module.__name__]
        for name in names:
            value = getattr(module, name)
            if name.startswith("_") or not (inspect.isfunction(value) or inspect.isclass(value)):
                continue
            yield f"{module.__name__}.{name}", value
            if inspect.isclass(value) and value.__module__.startswith("precisionkit"):
                yield from (
                    (f"{module.__name__}.{name}.{method}", function)
                    for method, function in vars(value).items()
                    if not method.startswith("_")
                    and inspect.isfunction(function)
                    and method not in getattr(value, "__dataclass_fields__", ())
                )


def undocumented(function):
    """Parameters that a docstring with a section on them leaves out, or has and the function has not."""
    section = SECTION.search(inspect.cleandoc(function.__doc__) + "\n")
    if section is None:
        return set()
    named = {name.strip(" *") for line in re.findall(r"^(\S.*?) *(?::|$)", section[2], re.MULTILINE) for name in line.split(",")}
    return named ^ {name for name in inspect.signature(function).parameters if name not in ("self", "cls")}


def test_public_functions_are_documented_and_their_sections_on_parameters_complete():
    found = dict(public_functions())
    assert len(found) > 100
    assert [name for name, value in found.items() if not inspect.getdoc(value)] == []
    assert {name: wrong for name, value in found.items() if inspect.isfunction(value) and (wrong := undocumented(value))} == {}


def test_a_parameter_that_is_left_out_is_found():
    def function(first, second):
        """Do.

        Parameters
        ----------
        first : int
            One.
        third : int
            Is none.
        """

    assert undocumented(function) == {"second", "third"}
