"""A classifier's run as a folder: what it answers, how it decides, and on which records."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from runs import SmokeRun

import retina_jax
from data_pipelines.errors import InputError
from data_pipelines.images import single
from data_pipelines.records import sources
from retina_jax import classifier, experiment, exporting, report
from retina_jax.convert import checklist, describe, hashes, model_folder
from retina_jax.train import restore, run_directory

SICK = "refer=sensitivity>=.9:glaucoma,cataract"


def exported(run: Path, dst: Path, *points: str):
    """The folder of a run, as the command writes it, loaded again."""
    checkpoints = run / "checkpoints"
    step = restore.step_of_run(checkpoints, describe.run_record(run).settings["keep"])
    made = exporting.classifier(
        run, describe.run(run, step), restore.read_variables(checkpoints, step),
        [exporting.PointRule.parse(text) for text in points],
    )  # fmt: skip
    model_folder.write_folder(dst, *made)
    return retina_jax.load(dst)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Where the folder of the smoke run lies."""
    return tmp_path_factory.mktemp("exported") / "model"


@pytest.fixture(scope="module")
def folder(smoke_run, place):
    """That model."""
    return exported(smoke_run("classifier").workdir, place, SICK)


def test_a_loaded_classifier_answers_as_its_run_did(folder, smoke_run):
    run: SmokeRun = smoke_run("classifier")
    results = json.loads((run.workdir / "results.json").read_text())
    about = folder.description
    assert about.source["step"] == results["step"] and len(folder.classes) == 6
    assert about.decision.rule == "balanced" and sum(about.decision.prior) == pytest.approx(1)
    test = sources.load("synthetic_retina/smoke", "test")
    row = test[3]
    answer = folder.classify(row["image"], force=True)
    assert tuple(answer) == folder.classes and sum(answer.values()) == pytest.approx(1)
    # The figures of the run, computed again from what the folder says of each record.
    scores = np.array(
        [[*folder.classify(test[i]["image"], force=True).values()] for i in range(len(test))]
    )
    called = about.decision.decide(scores).argmax(axis=1)
    truth = [folder.classes.index(name) for name in test.column("diagnosis")]
    shares = [np.mean(called[np.equal(truth, k)] == k) for k in sorted(set(truth))]
    (told,) = [row["value"] for row in results["scores"]
               if (row["evaluator"], row["metric"]) == ("test", "balanced_accuracy")]  # fmt: skip
    assert np.mean(shares) == pytest.approx(told)
    assert about.quality and about.familiar.threshold > 0 and about.tokenizer is None


def test_what_is_chosen_does_not_know_the_test_labels(folder, smoke_run, tmp_path, monkeypatch):
    """Labels of test records in another order change nothing (specification, appendix A 7)."""
    column = sources.Source.column

    def permuted(self, field):
        found = column(self, field)
        return found[::-1] if (self.split, field) == ("test", "diagnosis") else found

    monkeypatch.setattr(sources.Source, "column", permuted)
    again = exported(smoke_run("classifier").workdir, tmp_path / "again", SICK)
    assert again.description.decision == folder.description.decision
    point = folder.description.decision.operating_points["refer"]
    assert point.labels == ("glaucoma", "cataract") and point.n_pos + point.n_neg == 16
    assert point.chosen_on == folder.description.source["split_hash"]


def test_the_card_says_what_is_known_and_not_more(folder, place):
    text = (place / "README.md").read_text("utf-8")
    header = yaml.safe_load(text.split("---")[1])
    (index,) = header["model-index"]
    rows = {(entry["task"]["name"], metric["type"]): metric
            for entry in index["results"] for metric in entry["metrics"]}  # fmt: skip
    assert rows["test", "auc"]["args"]["count"] == 48
    assert header["pipeline_tag"] == "image-classification"
    for title in ("Intended use and users", "Evaluation", "Known failures", "How it was made"):
        assert f"## {title}" in text
    assert "Devices: not stated" in text and "refer: glaucoma + cataract at" in text
    point = folder.description.decision.operating_points["refer"]
    assert f"its sensitivity is {point.sensitivity:.3f} and its specificity" in text
    assert point.sensitivity >= 0.9 and "; few events)" in text
    assert f'retina_jax.load("{place.name}")' in text and place.name != folder.description.title
    hashed = hashes.model_hash(folder.description, folder.variables)
    assert hashed == folder.description.source["model_hash"] and hashed in text


def test_results_name_the_model_the_data_and_how_long_it_took(smoke_run):
    run = smoke_run("classifier").workdir
    found = json.loads((run / "results.json").read_text())
    told, step = found["provenance"], found["step"]
    variables = restore.read_variables(run / "checkpoints", step)
    # The hash that its export has, before thresholds and calibration are fitted.
    assert told["model"]["model_hash"] == hashes.model_hash(describe.run(run, step), variables)
    assert told["model"]["pretraining_sets"] == ["synthetic_retina/smoke"]
    seen = told["model"]["seen_test_set"]
    assert seen and set(seen) == set(found["evaluations"]) and set(seen.values()) <= {
        "no", "unknown"}  # fmt: skip
    assert told["precision"] == "float32/float32" and told["device"]["count"] >= 1
    assert told["seconds"] >= found["evaluations"]["test"]["seconds"] > 0
    assert "preparation" in found["evaluations"]["test"]["data"]
    stored = pq.read_schema(run / found["evaluations"]["test"]["records_file"]).metadata
    assert stored[b"model_hash"].decode() == told["model"]["model_hash"]


def test_the_checklist_says_what_the_folder_knows(folder, smoke_run, place, tmp_path):
    run = smoke_run("classifier").workdir
    results = describe.results(run, folder.description.source["step"])
    text = checklist.text(dataclasses.asdict(folder.description), results)
    rows = {row.split("|")[1].strip(): row for row in text.splitlines() if row.startswith("|")}
    assert "split_hash" in rows["12a"] and "refer: glaucoma + cataract >=" in rows["15"]
    assert "48 records" in rows["21"] and "author" in rows["1-11"]
    assert "| author |" in checklist.text(dataclasses.asdict(folder.description), {}).split("21")[1]
    page = report.write([run], tmp_path / "page.html", model=place).read_text("utf-8")
    assert "refer: glaucoma + cataract &gt;=" in page and "<h3>Known failures</h3>" in page


def test_tasks_side_by_side_are_decided_each_by_itself(tmp_path, monkeypatch, caplog):
    """Diagnoses and grades of one run, drawn equally often, and nothing to choose on."""
    config = classifier.settings(retina_jax.get_config("classifier:smoke"))
    diagnoses = config["evaluators"]["test"]["classes"]
    classes = tuple(f"synthetic_retina/{name}" for name in (*diagnoses, 0, 1, 2, 3, 4))
    label = {"name": "multi_label", "classes": classes, "source": ("diagnosis", "dr_grade"),
             "within": "dataset"}  # fmt: skip
    stream = config["streams"]["records"]
    transforms = (stream["transforms"][0], label)
    config = {
        **config,
        "model": {**config["model"], "classes": len(classes)},
        "streams": {"records": {**stream, "transforms": transforms, "balance": "diagnosis"}},
        "objectives": {"c": {"name": "classification", "target": "labels", "parts": (6, 5)}},
        "evaluators": {}, "at_end": (), "keep": {}, "restore_from": {},
    }  # fmt: skip
    (stage,) = experiment.build_all(config, tmp_path)
    run_directory.check_run_directory(tmp_path, stage, 0)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(x.dtype), stage.shapes.params)
    before = {"params": params}
    # As the evaluator of another task has described it.
    told = dataclasses.replace(describe.run(tmp_path, 0), classes=("a", "b"), template="{}")
    described, after = exporting.classifier(tmp_path, told, before)
    assert described.decision.parts == (6, 5) and described.classes == classes
    prior = np.array(described.decision.prior)
    assert prior[:6].sum() == pytest.approx(1) and prior[6:].sum() == pytest.approx(1)
    # Drawn equally often, the scores follow other shares than the records have.
    moved = after["params"]["head"]["bias"] - params["head"]["bias"]
    np.testing.assert_allclose(moved[:6], np.log(6 * prior[:6]), atol=1e-5)
    # So do scores whose loss corrected for the shares.
    settings = describe.run_record(tmp_path).settings
    trained = exporting._read(settings, *exporting._labelled(settings))
    adjusted = dataclasses.replace(
        trained, stream=dataclasses.replace(trained.stream, balance=None),
        objective={**trained.objective, "shares": tuple(prior)},
    )  # fmt: skip
    found = exporting._with_prior(adjusted, before)[1]["params"]["head"]["bias"]
    np.testing.assert_array_equal(found, after["params"]["head"]["bias"])
    # Without its data the folder still has the names of the head's scores.

    def away(*_):
        raise InputError("manifest/away is not in DIR.")

    monkeypatch.setattr(exporting.inputs, "streams", away)
    blind, unmoved = exporting.classifier(tmp_path, told, before)
    assert blind.classes == classes and blind.template is None and unmoved is before
    assert "says nothing of how the classifier decides: manifest/away is not" in caplog.text
    model_folder.write_folder(tmp_path / "model", described, after)
    answer = retina_jax.load(tmp_path / "model").classify(
        stage.data._dataset[0]["image"][0], force=True
    )
    shares = np.array([*answer.values()])
    assert shares[:6].sum() == pytest.approx(1) and shares[6:].sum() == pytest.approx(1)


@pytest.mark.fast
@pytest.mark.parametrize("text", ["refer", "refer=severe", "refer=often:severe"])
def test_a_rule_that_is_none_is_refused(text):
    with pytest.raises(InputError, match=r"NAME=RULE:CLASS,CLASS|A threshold is chosen by"):
        exporting.PointRule.parse(text)


@pytest.mark.fast
def test_the_usual_quality_is_that_of_the_field_that_the_model_reads():
    """Of volumes that of their middle B-scans."""
    rng = np.random.default_rng(0)
    scans = [[single.encoded(rng.integers(0, 60 + 60 * (i == 1), (64, 96), np.uint8))
              for i in range(3)] for _ in range(4)]  # fmt: skip
    rows = [{"oct": volume, "infrared": volume[1], "image": b"no picture"} for volume in scans]
    found = exporting._limits(rows, ["oct"], "oct")
    assert found and found == exporting._limits(rows, ["none", "infrared"], "oct")
    assert found != exporting._limits([{"oct": row["oct"][:1]} for row in rows], ["oct"], "oct")
