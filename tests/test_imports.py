"""The import order that the package's docstring states, and what stays free of torch."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import precisionkit

PACKAGE = Path(precisionkit.__file__).parent
ORDER = [name for part in re.findall(r"^    (.*<.*)$", precisionkit.__doc__, re.MULTILINE) for name in re.findall(r"\w+", part)]
FREE_OF_TORCH = ORDER[: ORDER.index("decide") + 1]


def part_of(path):
    names = path.relative_to(PACKAGE).with_suffix("").parts
    return names[0]


def imported(source):
    """Parts of the package that a module imports, save for type checking alone."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("precisionkit"):
            rest = node.module.split(".")[1:]
            yield from [rest[0]] if rest else [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            yield from [alias.name.split(".")[1] for alias in node.names if alias.name.startswith("precisionkit.")]


def wrong_imports(part, source):
    rank = {name: place for place, name in enumerate(ORDER)}
    return [f"{part} imports {name}, which is not to its left" for name in imported(source) if name in rank and rank[name] > rank[part]]


MODULES = sorted(path for path in PACKAGE.rglob("*.py") if part_of(path) not in ("__init__", "__main__"))


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_module_imports_only_modules_to_its_left(path):
    assert part_of(path) in ORDER, "name the module in the import order of precisionkit/__init__.py"
    assert not wrong_imports(part_of(path), path.read_text())


def test_a_wrong_import_is_found():
    assert wrong_imports("formats", "from precisionkit.graph import Graph") == ["formats imports graph, which is not to its left"]
    assert wrong_imports("formats", "def f():\n    import precisionkit.cli")
    assert not wrong_imports("graph", "from precisionkit.formats import Format")


@pytest.mark.parametrize(
    "name", ["precisionkit", "precisionkit.cli", "precisionkit.pytest_plugin", *(f"precisionkit.{part}" for part in FREE_OF_TORCH)]
)
def test_the_light_parts_load_no_torch(name):
    code = f"import sys, {name}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
