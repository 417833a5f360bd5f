"""Published tables are read, counted and compared; many models stand on one set."""

import csv
import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

from data_pipelines.errors import InputError
from data_pipelines.text import knowledge
from retina_jax.reproduction import running, tables
from retina_jax.types import Results, Score

pytestmark = pytest.mark.fast


@pytest.mark.parametrize("name", tables.names())
def test_a_table_is_whole(name):
    table = tables.load(name)
    assert table.task in tables.TASKS and table.defects and "repository" in table.source
    for cell in table.cells:
        about = knowledge.experiment(cell.experiment)
        assert about.counts and sum(about.counts) == about.n
        assert all(0 < value < 1 for value in cell.published.values())
        assert all(any(seen in model for model in cell.published) for seen in cell.seen)


def test_an_unknown_table_is_refused():
    with pytest.raises(InputError, match="no table 'x'; there are keepfit_v1_few_shot.*bench"):
        tables.load("x")


def test_a_row_says_whether_the_published_figure_is_in_our_interval():
    table = tables.load("keepfit_v1_zero_shot")
    score = Score(0.9, low=0.8, high=0.935, count=400)
    results = {cell.experiment: Results({cell.metric: score}) for cell in table.cells}
    found = {(row["set"], row["model"]): row for row in running.rows(table, results, clean=False)}
    assert found["25_REFUGE", "FLAIR"]["within"] is True
    assert found["25_REFUGE", "KeepFIT+MM"]["within"] is False
    assert found["25_REFUGE", "FLAIR"]["difference"] == pytest.approx(0.9 - 0.926)
    assert found["08_ODIR200x3", "KeepFIT+MM"]["seen_test_set"] is True
    assert found["08_ODIR200x3", "FLAIR"]["seen_test_set"] is False


@pytest.fixture
def small(monkeypatch, tmp_path):
    """A published set of six pictures, as its table and its pictures lie on a disk."""
    about = knowledge.experiment("13_FIVES")
    about = dataclasses.replace(about, classes=about.classes[:2], n=6, counts=(4, 2))
    monkeypatch.setattr(knowledge, "experiment", lambda name: about)
    rng = np.random.default_rng(0)
    root = tmp_path / "corpus"
    (root / "13_FIVES").mkdir(parents=True)
    with open(root / "13_FIVES.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["", "image", "atributes", "categories"])
        for number in range(6):
            data = io.BytesIO()
            Image.fromarray(rng.integers(0, 255, (40, 40, 3), np.uint8)).save(data, "PNG")
            (root / "13_FIVES" / f"{number}.png").write_bytes(data.getvalue())
            name = about.classes[number >= 4]
            table.writerow([number, f"13_FIVES/{number}.png", "[]", f"['{name}']"])
    return root, tmp_path / "data"


def test_a_set_is_built_and_counted(small):
    root, data_dir = small
    assert running.dataset("13_FIVES", root, str(data_dir)) == "flair/13_fives"
    assert running.dataset("13_FIVES", root, str(data_dir)) == "flair/13_fives"


def test_what_is_missing_is_named(small):
    root, data_dir = small
    (root / "13_FIVES" / "5.png").unlink()
    with pytest.raises(InputError, match=r"5 pictures, \[4, 1\] .* 6, \[4, 2\].*skipped.csv"):
        running.dataset("13_FIVES", root, str(data_dir))
    with pytest.raises(InputError, match="no 13_FIVES.csv in"):
        running.dataset("13_FIVES", root / "13_FIVES", str(data_dir / "other"))
