"""The notebooks run from top to bottom, without a notebook server."""

import json

import pytest
from runs import ROOT, python

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def code_of(path):
    """The code cells in order; a cell of installation commands is left out."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    return [source for source in sources if not source.startswith("%")]


def test_there_are_notebooks():
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs_from_top_to_bottom(path, tmp_path, installed):
    """In an empty folder, with the library as a wheel installs it."""
    # A file with the usual guard, as worker processes import it again.
    body = "\n".join(code_of(path)).replace("\n", "\n    ")
    script = tmp_path / "notebook.py"
    script.write_text(f"if __name__ == '__main__':\n    {body}\n", encoding="utf-8")
    done = python(str(script), cwd=tmp_path, env={"PYTHONPATH": str(installed)})
    assert done.returncode == 0, done.stderr[-3000:]
    assert "zeroshot" in done.stdout and "Open " in done.stdout


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_is_stored_without_outputs(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    assert all(not cell.get("outputs") for cell in cells)
