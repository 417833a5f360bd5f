"""The notebooks run from top to bottom, without a notebook server."""

import json

import pytest
from runs import ROOT, program, python

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
# What each has printed when it is over.
SHOWN = {
    "first_steps": ("zeroshot",),
    "classifier": ("rows read", "validation", "0.png"),
    "zero_shot": ("glaucoma", "Drawn with:"),
    "fundus_oct": ("scans its own comes at place", "image_to_oct"),
}


def code_of(path):
    """The code cells in order; a cell of installation commands is left out."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    return [source for source in sources if not source.startswith("%")]


def test_there_are_notebooks():
    assert NOTEBOOKS


@pytest.mark.parametrize("path", [path if path.stem == "first_steps" else
                                  pytest.param(path, marks=pytest.mark.slow)
                                  for path in NOTEBOOKS], ids=lambda path: path.stem)  # fmt: skip
def test_runs_from_top_to_bottom(path, tmp_path, installed):
    """In an empty folder; the first one with the library as a wheel installs it."""
    body = "\n".join(code_of(path)).replace("\n", "\n    ")
    if path.stem == "first_steps":
        # A file with the usual guard, as worker processes import it again.
        script = tmp_path / "notebook.py"
        script.write_text(f"if __name__ == '__main__':\n    {body}\n", encoding="utf-8")
        done = python(str(script), cwd=tmp_path, env={"PYTHONPATH": str(installed)})
    else:
        code = f"import os\nos.chdir({str(tmp_path)!r})\nif True:\n    {body}\n"
        done = program("-c", code, env={"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Open " in done.stdout
    for words in SHOWN[path.stem]:
        assert words in done.stdout


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_is_stored_without_outputs(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    assert all(not cell.get("outputs") for cell in cells)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_says_what_a_gpu_and_a_tpu_need(path):
    """Without it JAX finds neither, and a notebook on an accelerator trains on the processor."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    install = next("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    assert install.startswith("%pip") and ".[cuda13" in install and ".[tpu" in install
