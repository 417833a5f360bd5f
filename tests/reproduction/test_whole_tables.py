"""The tables of KeepFIT and MedKCO run whole, on drawn copies of the sets that they are of."""

import dataclasses
import hashlib

import corpora
import folders
import numpy as np
import pytest

from data_pipelines.text import knowledge
from retina_jax.reproduction import running, tables

NAMES = tables.names()
NAMES.remove("idrid_probe_2025")  # in test_reproduce
PUBLISHED = 0
_OCT = {"OCTID": ("CSR", "AMRD", "MH", "DR", "NORMAL"),
        "OCTDL": ("NO", "AMD", "DME", "RAO", "VID", "ERM", "RVO")}  # fmt: skip


@pytest.fixture(
    scope="module", params=[20, pytest.param(PUBLISHED, marks=pytest.mark.slow)],
    ids=["few", "published"],
)  # fmt: skip
def drawn(request, tmp_path_factory):
    """Tables and pictures of the sets, with their classes and counts, or so many of each class."""
    folder, known = tmp_path_factory.mktemp("drawn"), {}
    for name in ("25_REFUGE", "13_FIVES", "08_ODIR200x3", "AMD", "TAOP_train", "TAOP_test"):
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
    load = tables.load
    table = load("medkco_zero_shot")
    of_oct = {name: _of_oct(about, folder / "corpus" / name, request.param, name)
              for name, about in table.sets.items()}  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(knowledge, "experiment", known.__getitem__)
        patch.setattr(tables, "load", lambda name: dataclasses.replace(load(name), sets=of_oct))
        yield folder


def _of_oct(about, folder, number, name):
    """Writes a set of OCT, and returns what is published of it."""
    ((split, counts),) = about.counts.items()
    counts = tuple(number or count for count in counts)
    rows = [["file_name", "disease", "patient_id"]]
    for code, count in zip(_OCT[name], counts, strict=True):
        for k in range(count):
            file = f"{code}{k + 1}" if name == "OCTID" else f"{code.lower()}_{k // 2}_{k % 2}"
            rows.append([file, code, f"{code}{k // 2}"])
            corpora.picture(folder / code / f"{file}.jpg")
    if name == "OCTDL":
        corpora.write_csv(folder / "OCTDL_labels.csv", rows)
    return dataclasses.replace(about, counts={split: counts})


# A whole table of probes is in test_reproduce.
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * name.endswith("_probe")) for name in NAMES],
)
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
        records = result.predictions.record
        if one in table.sets:
            (counts,) = table.sets[one].counts.values()
            assert len(set(records)) == len(records) == sum(counts)
            assert result.predictions.about["classes"][0] in (
                "normal",
                "central serous retinopathy",
            )
            assert result.predictions.about["groups_known"] == (one == "OCTDL")
            continue
        published = knowledge.experiment(one).n
        if table.task == "zero_shot":
            assert sorted(set(records)) == sorted(records) and len(records) == published
        elif one == "TAOP_test":  # a part of its own
            assert len(set(records)) == len(records) == published
        else:  # a fifth of the rows of each class, in five repeats
            assert set(result.predictions.repeat) == set(range(5))
            assert len(set(records)) > published / 3
