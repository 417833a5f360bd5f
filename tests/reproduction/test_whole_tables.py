"""The tables of KeepFIT and MedKCO run whole, on drawn copies of the sets that they are of."""

import dataclasses
import hashlib

import corpora
import folders
import numpy as np
import pytest

from data_pipelines.text import knowledge
from retina_jax.reproduction import running, tables

# MedKCO's is of the sets and the task of KeepFIT's.
NAMES = ("keepfit_v1_zero_shot", "keepfit_v1_probe", "keepfit_v1_few_shot",
         pytest.param("medkco_zero_shot", marks=pytest.mark.slow))  # fmt: skip
PUBLISHED = 0


@pytest.fixture(
    scope="module", params=[20, pytest.param(PUBLISHED, marks=pytest.mark.slow)],
    ids=["few", "published"],
)  # fmt: skip
def drawn(request, tmp_path_factory):
    """Tables and pictures of the sets, with their classes and counts, or so many of each class."""
    folder, known = tmp_path_factory.mktemp("drawn"), {}
    for name in ("25_REFUGE", "13_FIVES", "08_ODIR200x3"):
        about = knowledge.experiment(name)
        counts = tuple(request.param or count for count in about.counts)
        labels = np.repeat(about.classes, counts)
        rows = [[k, f"{name}/{k}.png", "[]", f"['{label}']"] for k, label in enumerate(labels)]
        table = folder / "corpus" / f"{name}.csv"
        corpora.write_csv(table, [["", "image", "atributes", "categories"], *rows])
        for _, file, *_ in rows:
            corpora.picture(folder / "corpus" / file)
        digest = hashlib.sha256(table.read_bytes()).hexdigest()
        known[name] = dataclasses.replace(
            about, counts=counts, n=len(rows), tables={"drawn": digest}
        )
    folders.write(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(knowledge, "experiment", known.__getitem__)
        yield folder


@pytest.mark.parametrize("name", NAMES)
def test_a_table_runs_whole(name, drawn):
    table, data_dir = tables.load(name), str(drawn / "data")
    made = running.specs(table, str(drawn / "model"), drawn / "corpus", data_dir, False)
    results = running.run(made, data_dir)
    found = running.rows(table, results, clean=False)
    assert len(found) == sum(len(cell.published) for cell in table.cells)
    for row in found:
        assert 0 <= row["ours"] <= 1 and row["difference"] == row["ours"] - row["published"]
        if row["low"] is not None:  # few records of a class have no interval
            assert row["low"] <= row["ours"] <= row["high"]
    for one, result in results.items():
        records, published = result.predictions.record, knowledge.experiment(one).n
        if table.task == "zero_shot":
            assert sorted(set(records)) == sorted(records) and len(records) == published
        else:  # a fifth of the rows of each class, in five repeats
            assert set(result.predictions.repeat) == set(range(5))
            assert len(set(records)) > published / 3
