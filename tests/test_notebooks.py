"""The notebooks run from a fresh kernel, speak no warnings, and agree with their text form."""

import nbformat
import pytest

pytest.importorskip("jupytext")

from tests.notebooks import SOURCES, execute, read, spoken


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_the_stored_notebook_is_that_of_its_text_form(source):
    written = nbformat.read(source.with_suffix(".ipynb"), as_version=4)
    assert [(cell.cell_type, cell.source) for cell in written.cells] == [(cell.cell_type, cell.source) for cell in read(source).cells], (
        "run 'make notebooks'"
    )
    assert source.with_suffix(".ipynb").stat().st_size < 400_000
    assert any(cell.get("outputs") for cell in written.cells)


@pytest.mark.real
@pytest.mark.timeout(900)
@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_it_runs(source, shared, monkeypatch):
    monkeypatch.setenv("PRECISIONKIT_DATA", str(shared / "data"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = execute(read(source))
    assert spoken(notebook) == []
    pictures = [output for cell in notebook.cells for output in cell.get("outputs", ()) if "image/png" in output.get("data", {})]
    assert len(pictures) >= 1
