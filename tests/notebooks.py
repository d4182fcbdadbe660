"""Notebooks from their text form: ``python -m tests.notebooks`` executes ``notebooks/*.py`` and writes the ``.ipynb`` beside each."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
SOURCES = tuple(sorted(FOLDER.glob("[0-9][0-9]_*.py")))


def read(source: Path) -> nbformat.NotebookNode:
    """The notebook of a text form, without outputs; its cells are numbered."""
    notebook = jupytext.read(source)
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"
    return notebook


def execute(notebook: nbformat.NotebookNode, seconds: int = 600) -> nbformat.NotebookNode:
    """Run the cells in a kernel of this Python, and leave out what differs from run to run."""
    NotebookClient(notebook, timeout=seconds, kernel_name="python3", resources={"metadata": {"path": str(FOLDER)}}).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
    notebook.metadata.pop("language_info", None)
    return notebook


def spoken(notebook: nbformat.NotebookNode) -> list[str]:
    """What the cells wrote to the error stream."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return [output.text for output in outputs if output.output_type == "stream" and output.name == "stderr"]


def main() -> None:
    """Execute those that are named, or all."""
    for source in [FOLDER / name for name in sys.argv[1:]] or SOURCES:
        start = time.perf_counter()
        notebook = execute(read(source))
        nbformat.write(notebook, source.with_suffix(".ipynb"))
        size = source.with_suffix(".ipynb").stat().st_size
        print(f"{source.stem}: {time.perf_counter() - start:.0f} s, {size / 1e3:.0f} kB", *spoken(notebook))


if __name__ == "__main__":
    main()
