"""Published tables are read, counted and compared; many models stand on one set."""

import collections
import dataclasses
import hashlib
import json

import corpora
import evaluated_runs
import folders
import numpy as np
import pytest
from picture_files import encode
from runs import program

from data_pipelines.errors import InputError
from data_pipelines.records import sources
from data_pipelines.text import knowledge
from retina_jax.convert import registry
from retina_jax.reproduction import running, sets, tables
from retina_jax.scoring import predictions
from retina_jax.types import Results, Score

pytestmark = pytest.mark.fast
COLUMNS = ("", "image", "atributes", "categories")


@pytest.mark.parametrize("name", tables.names())
def test_a_table_is_whole(name):
    table = tables.load(name)
    assert table.task in tables.TASKS and table.defects and "repository" in table.source
    for cell in table.cells:
        if cell.of:
            about = table.sets[cell.experiment]
            assert sum(about.counts["test"]) == 103 and cell.of in about.classes
        elif cell.experiment in table.sets:
            about, known = table.sets[cell.experiment], knowledge.experiment(cell.experiment)
            ((counts,), labels) = about.counts.values(), [one for (one,) in about.classes.values()]
            assert dict(zip(labels, counts, strict=True)) == dict(
                zip(known.classes, known.counts, strict=True)
            )
        else:
            for one in filter(None, (cell.experiment, cell.train)):
                known = knowledge.experiment(one)
                assert known.counts and sum(known.counts) == known.n
        assert all(0 < value < 1 for value in cell.published.values())
        assert all(any(seen in model for model in cell.published) for seen in cell.seen)


def test_an_unknown_table_or_set_is_refused():
    with pytest.raises(InputError, match="no table 'x'; there are idrid_probe_2025, .*bench"):
        tables.load("x")
    table = tables.load("keepfit_v1_probe")
    assert {cell.experiment for cell in tables.of_sets(table, ["AMD"]).cells} == {"AMD"}
    with pytest.raises(InputError, match="keepfit_v1_probe has no set 'OCTID': .* TAOP_test, AMD"):
        tables.of_sets(table, ["AMD", "OCTID"])


def test_a_row_says_whether_the_published_figure_is_in_our_interval():
    table = tables.load("keepfit_v1_zero_shot")
    score = Score(0.9, low=0.8, high=0.935, count=400)
    results = {cell.experiment: Results({cell.metric: score}) for cell in table.cells}
    found = {(row["set"], row["model"]): row for row in running.rows(table, results, clean=False)}
    assert found["25_REFUGE", "FLAIR"]["within"] is True
    assert found["25_REFUGE", "KeepFIT+MM"]["within"] is False
    assert found["25_REFUGE", "FLAIR"]["difference"] == pytest.approx(0.9 - 0.926)
    assert found["08_ODIR200x3", "KeepFIT+MM"]["seen_test_set"] == "yes"
    assert found["08_ODIR200x3", "FLAIR"]["seen_test_set"] == "unknown"
    told = running.lines(list(found.values())).splitlines()
    (line,) = (line for line in told if "25_REFUGE" in line and " FLAIR 0.926" in line)
    assert line.split()[-6:] == ["0.900", "-0.026", "0.800", "..", "0.935", "yes"]
    assert sum("theirs saw test pictures" in line for line in told) > 0


def test_what_a_notebook_took_for_an_area_is_the_median_of_draws():
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(0)
    labels, p = rng.integers(0, 3, 60), rng.dirichlet(np.ones(3), 60).astype(np.float32)
    rows = evaluated_runs.Rows({"id": f"{i:03d}", "patient": ""} for i in range(60))
    about = {"classes": ["a", "b", "c"], "metrics": ["auc"], "task": "multi-class"}
    found = predictions.of_records(rows, labels, p, about, probabilities=p)
    draws, areas = np.random.RandomState(42), []
    for _ in range(100):
        drawn = draws.choice(list(range(60)), size=60, replace=True)
        areas.append(roc_auc_score(labels[drawn] == 1, p[drawn, 1]))
    median = running.one_against_rest(found, "b", 100)
    assert median.value == pytest.approx(np.median(areas), abs=1e-12)
    area = running.one_against_rest(found, "b", 0)
    assert area.value == pytest.approx(roc_auc_score(labels == 1, p[:, 1]), abs=1e-12)
    assert area.value != median.value and area.low == median.low < area.value < area.high


def picture(seed: int) -> bytes:
    return encode(np.random.default_rng(seed).integers(0, 255, (16, 16, 3), np.uint8))


def write_idrid(root, risks, grades=None):
    """IDRiD's tables with a row for each risk, and a picture for each row, some of them twice."""
    for part, word in (("train", "a. {}Training"), ("test", "b. {}Testing")):
        both = zip((grades or risks)[part], risks[part], strict=True)
        rows = [(f"IDRiD_{number:03d}", *told) for number, told in enumerate(both)]
        head = ("Image name", "Retinopathy grade", "Risk of macular edema ")
        table = root / f"{word.format('IDRiD_Disease Grading_')} Labels.csv"
        corpora.write_csv(table, [head, *rows])
        (root / f"{word.format('')} Set").mkdir()
        for number, (name, *_) in enumerate(rows):
            # The first of each part are one picture, and so are two of the training part.
            seed = 0 if number == 0 else 7 if (part, number) == ("train", 8) else (
                number if part == "train" else 1000 + number)  # fmt: skip
            (root / f"{word.format('')} Set" / f"{name}.png").write_bytes(picture(seed))


def test_a_whole_table_runs_on_a_copy_with_the_published_counts(tmp_path):
    folders.write(tmp_path)
    table, model = tables.load("idrid_probe_2025"), str(tmp_path / "model")
    published = table.sets["IDRiD grades"].counts
    grades = {part: np.repeat(range(5), counts) for part, counts in published.items()}
    edema = {
        "train": np.repeat(range(3), (177, 41, 195)),
        "test": np.repeat(range(3), (45, 10, 48)),
    }
    write_idrid(tmp_path / "idrid", edema, grades)
    asked = (table, model, tmp_path / "idrid", str(tmp_path / "data"))
    results = running.run(running.specs(*asked, clean=False), str(tmp_path / "data"))
    found = running.rows(table, results, clean=False)
    known = [row for row in found if row["low"] is not None]
    assert all(0 < row["low"] < row["high"] < 1 for row in known)
    # Five pictures of a grade are too few for an interval.
    assert {row["of"] for row in found if row not in known} == {"mild diabetic retinopathy"}
    assert len(found) == 32 and len(known) == 28
    assert all(abs(row["ours"] - row["published"]) == abs(row["difference"]) for row in found)
    assert results["IDRiD any DME"].predictions.about["protocol"]["name"] == "retfound_green"
    assert {len(one.predictions.record) for one in results.values()} == {103}

    clean = running.specs(*asked, clean=True)
    parts = [sources.load(data["dataset"], data["split"], asked[-1], where=data["where"])
             for data in (clean["IDRiD grades"][part] for part in ("train", "test"))]  # fmt: skip
    digests = [{name for one in part.column("digests") for name in one} for part in parts]
    # Of 413, one is a test picture and one another training picture.
    assert [len(part) for part in parts] == [len(one) for one in digests] == [411, 103]
    assert not digests[0] & digests[1]
    assert clean["IDRiD grades"]["protocol"] == "grouped"


def test_a_missing_picture_or_table_of_a_split_is_named(tmp_path):
    about = tables.PublishedSplit("idrid", "dme_grade", {"none": ["0"], "any": ["1", "2"]},
                                  {"train": (2, 1), "test": (1, 2)})  # fmt: skip
    root = tmp_path / "idrid"
    write_idrid(root, {"train": (0, 0, 1), "test": (0, 2, 1)})
    (root / "b. Testing Set" / "IDRiD_001.png").unlink()
    with pytest.raises(InputError, match=r"2 test pictures \[1, 1\].*3 test pictures \[1, 2\].*"
                                         r"1 pictures are left out, first IDRiD_001"):  # fmt: skip
        sets.divided("any DME", about, root, str(tmp_path / "one"))
    (root / "b. IDRiD_Disease Grading_Testing Labels.csv").unlink()
    with pytest.raises(InputError, match="there is no 'b. IDRiD_Disease Grading_Testing"):
        sets.divided("any DME", about, root, str(tmp_path / "two"))


@pytest.fixture
def small(monkeypatch, tmp_path):
    """A published set of 24 pictures of 12 patients, as its table and its pictures lie."""
    about = knowledge.experiment("08_ODIR200x3")
    about = dataclasses.replace(about, classes=about.classes[:2], n=24, counts=(12, 12), tables={})
    monkeypatch.setattr(knowledge, "experiment", lambda name: about)
    root, rows = tmp_path / "corpus", []
    for number in range(24):
        name = f"08_ODIR-5K/{number // 2}_{('left', 'right')[number % 2]}.png"
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(picture(0 if number == 23 else number))  # the first one again
        rows.append((number, name, "[]", f"['{about.classes[number // 2 % 2]}']"))
    corpora.write_csv(root / "08_ODIR200x3.csv", [COLUMNS, *rows], "\r\n")
    return root, tmp_path / "data"


def test_a_set_is_built_and_counted(small):
    root, data_dir = small
    assert sets.of_rows("08_ODIR200x3", root, str(data_dir)) == "flair/08_odir200x3"
    assert sets.of_rows("08_ODIR200x3", root, str(data_dir)) == "flair/08_odir200x3"


def test_another_version_of_a_table_is_named_even_where_its_set_is_built(small, monkeypatch):
    root, data_dir = small
    table = root / "08_ODIR200x3.csv"
    text = table.read_bytes()
    assert b"\r\n" in text  # how its lines end does not count
    digest = hashlib.sha256(text.replace(b"\r\n", b"\n")).hexdigest()
    about = knowledge.experiment("08_ODIR200x3")
    known = dataclasses.replace(about, tables={"some/where": "00", "some/other": digest[:14]})
    monkeypatch.setattr(knowledge, "experiment", lambda name: known)
    (root / "a").mkdir()
    (root / "a" / table.name).write_text("another", "utf-8")  # of two the published one is taken
    assert sets.of_rows("08_ODIR200x3", root, str(data_dir)) == "flair/08_odir200x3"
    table.write_bytes(text.replace(b"_left", b"_right", 1))
    told = r"/08_ODIR200x3.csv is no published version .*its SHA-256 .* 00 \(some/where\) or"
    with pytest.raises(InputError, match=told):
        sets.of_rows("08_ODIR200x3", root, str(data_dir))


def test_weights_that_claim_to_be_released_have_the_hash_of_a_release(tmp_path):
    folders.write(tmp_path)
    about = json.loads((tmp_path / "model" / "config.json").read_text("utf-8"))
    known = registry.released()["keepfit_cfp"].sha256
    for source, name in (({"run": "own"}, ""), ({"converted": "keepfit", "sha256": known},
                         "keepfit_cfp"), ({"converted": "clip", "sha256": "0"}, None)):  # fmt: skip
        text = json.dumps({**about, "source": source})
        (tmp_path / "model" / "config.json").write_text(text, "utf-8")
        if name is None:
            with pytest.raises(InputError, match="instead of 5806e77cd80f .*'bench'"):
                running.release(str(tmp_path / "model"))
            # Of MedKCO's weights no hash is known.
            assert running.release(str(tmp_path / "model"), hashed=False) == ""
        else:
            assert running.release(str(tmp_path / "model")) == name
    table = tables.load("keepfit_v1_zero_shot")
    results = {cell.experiment: Results({}) for cell in table.cells}
    for own, seen in (("keepfit_cfp", {"08_ODIR200x3"}), ("flair", set()), ("", set())):
        rows = running.rows(table, results, False, own)
        assert {row["set"] for row in rows if row["own_seen_test_set"] == "yes"} == seen


def test_a_directory_of_a_run_is_refused_before_anything_runs(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    folders.write(tmp_path)
    asked = {"bench": "--models=m", "medkco_zero_shot": f"--model={tmp_path / 'model'}"}
    for name, model in asked.items():
        done = program("retina_jax.reproduce", name, model, f"--data={tmp_path / 'none'}",
                       f"--out={tmp_path}")  # fmt: skip
        assert done.returncode and "directory of a run: choose another --out" in done.stderr


def test_the_data_of_a_bench_are_a_folder_or_a_built_data_set(tmp_path, monkeypatch):
    monkeypatch.setattr(running, "own", lambda root, data_dir: f"folder/{root.name}")
    assert running.address(str(tmp_path), None) == f"folder/{tmp_path.name}"
    for data in ("nowhere", "/no/where/at/all", "manifest/unbuilt"):
        with pytest.raises(InputError, match=f"--data is {data}, which is neither a folder nor"):
            running.address(data, str(tmp_path))


@pytest.fixture
def two_tables(monkeypatch, tmp_path):
    """A set of two tables: 30 pictures of 15 patients to train on, 10 of 10 to score.

    Five patients are in both, and one file is.
    """
    known, root = {}, tmp_path / "corpus"
    for part, size, first in (("train", 30, 0), ("test", 10, 10)):
        about = knowledge.experiment(f"TAOP_{part}")
        counts = (size // 2,) * 2
        about = dataclasses.replace(about, classes=about.classes[:2], n=size, counts=counts)
        known[f"TAOP_{part}"] = about
        rows = []
        for number in range(size):
            patient = first + (number // 2 if part == "train" else number)
            name = f"TAOP/png/{part}_{patient}-{number % 2}.png"
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            seed = 0 if (part, number) == ("test", 9) else number + 100 * first
            (root / name).write_bytes(picture(seed))
            rows.append((number, name, "[]", f"['{about.classes[number % 2]}']"))
        corpora.write_csv(root / f"TAOP_{part}.csv", [COLUMNS, *rows])
    monkeypatch.setattr(knowledge, "experiment", known.__getitem__)
    folders.write(tmp_path)
    return root, str(tmp_path / "data"), str(tmp_path / "model")


def test_a_set_of_two_tables_is_clean_without_patients_of_both(two_tables):
    root, data_dir, model = two_tables
    table = tables.of_sets(tables.load("keepfit_v1_probe"), ["TAOP_test"])
    asked = (table, model, root, data_dir)
    about = running.specs(*asked, clean=False)["TAOP_test"]
    assert about["protocol"] == "flair" and about["metrics"] == ("accuracy",)
    found = running.run({"TAOP_test": about}, data_dir)["TAOP_test"].predictions
    assert len(found.record) == 10 and not found.about["groups_known"]

    about = running.specs(*asked, clean=True)["TAOP_test"]
    assert about["protocol"] == "grouped" and about["decision"] == "plain"
    train, test = (sources.load(about[part]["dataset"], "train", data_dir, about[part]["where"])
                   for part in ("train", "test"))  # fmt: skip
    # Five patients are in both parts, and a picture of a sixth is a test picture; each has two.
    assert len(train) == 30 - 2 * 6 and len(test) == 10
    assert not set(train.column("patient")) & set(test.column("patient"))
    found = running.run({"TAOP_test": about}, data_dir)["TAOP_test"].predictions
    assert len(set(found.group)) == 10 and found.about["groups_known"]

    results, blocks = running.reproduced(*asked, clean=True)
    assert list(results) == ["TAOP_test", "TAOP_test, by patient"]
    for block, protocol in zip(blocks, ("as published", "by patient"), strict=True):
        assert {row["protocol"] for row in block} == {protocol} and len(block) == 3
    assert len(running.reproduced(*asked, clean=False)[1]) == 1

    (root / "TAOP" / "png" / "train_3-1.png").unlink()
    told = r"TAOP_train has 29 pictures .* 30 .*\(1c 14 instead of 15\): 1 pict.*train_3-1"
    with pytest.raises(InputError, match=told):
        sets.of_rows("TAOP_train", root, f"{data_dir}/other")


def test_many_models_are_compared_with_the_first_of_their_task(tmp_path):
    """On 220 pictures of two classes, by the program; what it finds stands in results.json."""
    for number in range(220):
        file = tmp_path / "photographs" / ("healthy", "refer")[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(picture(number))
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        folders.write(tmp_path / name)
        (tmp_path / name / "model").rename(tmp_path / f"model_{name}")
    models = ",".join(str(tmp_path / f"model_{name}") for name in ("one", "other"))
    done = program(
        "retina_jax.reproduce", "bench", f"--models={models}", f"--data={tmp_path / 'photographs'}",
        f"--data_dir={tmp_path / 'data'}", f"--out={tmp_path / 'out'}",
    )  # fmt: skip
    assert not done.returncode, done.stderr[-2000:]
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    rows = {row["evaluation"]: row for row in found["comparisons"]}
    assert set(rows) == {"model_other_probe", "model_other_zero_shot"}
    row = rows["model_other_probe"]
    assert row["reference"] == "model_one_probe" and row["p"] <= row["p_holm"] <= 1
    assert row["difference"] == 0 and "+0.000" in done.stdout  # as both are one model
    page = evaluated_runs.page_of(tmp_path / "out")
    beside = page[page.index("Beside the first model, on the same patients") :]
    assert "+0.000<small>(" in beside[: beside.index("</table>")]
    assert row["test_hash"] == found["evaluations"]["model_one_probe"]["data"]["test_hash"]


def test_models_are_not_tested_on_few_patients():
    """As a comparison of runs has it; what they reached is told all the same."""
    labels = np.arange(12) % 2
    rows = evaluated_runs.Rows({"id": f"{i:02d}", "patient": ""} for i in range(12))
    about = {"classes": ["a", "b"], "metrics": ["auc"], "task": "binary", "primary": "auc"}
    said = predictions.of_records(rows, labels, np.eye(2)[labels], about)
    found = Results({"auc": Score(1.0)}, predictions=said)
    first, second = running.compared({"one_probe": found, "other_probe": found})
    assert first["value"] == second["value"] == 1.0 and "p" not in second
    assert second["not_tested"] == "A comparison needs 30 patients, but there are 12."


def test_a_threshold_that_the_test_records_chose_is_not_clean():
    cell = tables.PublishedFigure("AMD", "f1_at_best_threshold", {"FLAIR": 0.9})
    table = tables.PublishedTable("table", "", "", "probe", 3, [], [cell])
    results = {"AMD": Results({"f1": Score(0.8), "f1_at_best_threshold_linear_probe": Score(0.9)})}
    for clean, metric, value in ((False, "f1_at_best_threshold", 0.9), (True, "f1", 0.8)):
        (row,) = running.rows(table, results, clean)
        assert (row["metric"], row["ours"]) == (metric, value)


def test_a_corpus_that_differs_names_the_class(tmp_path):
    about = tables.load("medkco_zero_shot").sets["OCTID"]
    about = dataclasses.replace(about, counts={"train+validation+test": (8, 8, 8, 8, 9)})
    for code in ("CSR", "AMRD", "MH", "DR", "NORMAL"):
        for number in range(8):
            corpora.picture(tmp_path / "corpus" / "OCTID" / code / f"{code}{number}.jpeg")
    corpora.picture(tmp_path / "corpus" / "another" / "DR77.jpeg")  # of another set beside it
    told = r"OCTID has 40 pictures .* 41 pictures .*\(normal 8 instead of 9\): its table, or what"
    with pytest.raises(InputError, match=told):
        sets.divided("OCTID", about, tmp_path / "corpus", str(tmp_path / "data"))


def test_what_is_missing_is_named(small):
    root, data_dir = small
    (root / "08_ODIR-5K" / "5_left.png").unlink()
    with pytest.raises(InputError, match=r"23 pictures \[12, 11\].* 24 pictures \[12, 12\] .*: 1 pi"
                                         r".*08_ODIR-5K/5_left.png.*Add what is"):  # fmt: skip
        sets.of_rows("08_ODIR200x3", root, str(data_dir))
    with pytest.raises(InputError, match="no 08_ODIR200x3.csv in"):
        sets.of_rows("08_ODIR200x3", root / "08_ODIR-5K", str(data_dir / "other"))


def test_a_clean_table_keeps_patients_apart_whose_names_the_files_tell(small, tmp_path):
    folders.write(tmp_path)
    cells = [tables.PublishedFigure("08_ODIR200x3", "balanced_accuracy", {"FLAIR": 0.8})]
    table = tables.PublishedTable("table", "", "", "probe", 3, [], cells)
    asked = (str(tmp_path / "model"), small[0], str(small[1]), True)
    found = running.run(running.specs(table, *asked), asked[2])["08_ODIR200x3"].predictions
    assert found.about["groups_known"] and len(set(found.record)) == 23
    patients = [name.rsplit("/", 1)[-1].split("_")[0] for name in found.record]
    assert len(set(patients)) == 12
    folds = collections.defaultdict(set)
    for patient, fold in zip(patients, found.fold, strict=True):
        folds[patient].add(fold)
    assert all(len(one) == 1 for one in folds.values())
    few = running.specs(dataclasses.replace(table, task="few_shot"), *asked)["08_ODIR200x3"]
    assert few["name"] == "fewshot" and not few["official"]
    assert few["train"]["dataset"] == "flair/08_odir200x3_by_patient"


def test_prompts_of_photographs_are_made_of_descriptions(small, tmp_path):
    """Those of a file that is named, else ours: the published ones are not of bare names."""
    folders.write(tmp_path)
    file = tmp_path / "dictionary.py"
    file.write_text("definitions = {'normal': ['no lesions']}\n")
    cells = [tables.PublishedFigure("08_ODIR200x3", "balanced_accuracy", {"FLAIR": 0.8})]
    table = tables.PublishedTable("table", "", "", "zero_shot", 3, [], cells)
    asked = (str(tmp_path / "model"), small[0], str(small[1]))
    for task in ("zero_shot", "few_shot"):
        of_task = dataclasses.replace(table, task=task)
        assert running.specs(of_task, *asked, False)["08_ODIR200x3"]["knowledge"] == "cfp"
        theirs = running.specs(of_task, *asked, False, str(file))
        assert dict(theirs["08_ODIR200x3"]["knowledge"]) == {"normal": ("no lesions",)}
    found = running.run(running.specs(table, *asked, False, str(file)), asked[2])["08_ODIR200x3"]
    assert found.scores["balanced_accuracy"].count == 24
