"""From predictions to results.json and back: files, hashes, thresholds, and what is not shown."""

import dataclasses
import hashlib
import json
from types import SimpleNamespace

import numpy as np
import pytest
from evaluated_runs import Rows, picture
from scored_records import Source, said, source, written
from sklearn.metrics import roc_auc_score

from data_pipelines.errors import InputError
from retina_jax import evaluation_presets
from retina_jax.evals.classified import classified
from retina_jax.evals.linear_probe import LinearProbe
from retina_jax.metrics import comparison, decisions
from retina_jax.report import __main__ as command
from retina_jax.scoring import figures, hashes, operating_points, predictions, records, summary
from retina_jax.train.writer import write_results

pytestmark = pytest.mark.fast


def test_records_that_a_condition_dropped_are_in_the_flow():
    part = said()
    part.source[0].left_out = 3
    found = predictions.of_records(part.source[0], part.labels, part.scores, part.about)
    flow = summary.evaluation(predictions.joined([found, said(split="validation")]).hashed())[
        "flow"
    ]
    assert flow == {"found": 123, "not_selected": 3, "missing_scores": 0, "scored": 120}


@pytest.mark.parametrize("task", ["binary", "multi-label", "ordinal"])
def test_all_figures_follow_from_the_records(task, tmp_path, capsys):
    parts = [said(task), said(task, seed=1, split="validation")]
    found = written(tmp_path, *parts)
    assert command.main([str(tmp_path), "--recompute"]) == 0
    assert "bit by bit" in capsys.readouterr().out
    entry = found["evaluations"]["probe"]
    assert found["schema"] == "retina_jax.results/2" and entry["data"]["groups"] == 60
    assert entry["flow"] == {"found": 120, "missing_scores": 0, "scored": 120}
    assert {row["method"] for row in found["scores"]} == {"bca-patient"}
    assert "name" not in json.dumps(entry).replace('"name": "memory/records"', "")
    data = (tmp_path / "records" / "probe.parquet").read_bytes()
    assert b"t name" not in data  # patients are numbered
    found["scores"][0]["value"] += 1e-12
    (tmp_path / "results.json").write_text(json.dumps(found))
    assert command.main([str(tmp_path), "--recompute"]) == 1
    assert f"probe/{found['scores'][0]['metric']}" in capsys.readouterr().out


def test_places_are_kept_and_older_files_have_none(tmp_path):
    places = np.random.default_rng(3).normal(size=(120, 2))
    found = said()
    placed = dataclasses.replace(found, places=places.astype(np.float32))
    joined = predictions.joined([placed, said(seed=1, split="validation")])
    written(tmp_path / "new", joined)
    read = records.read(tmp_path / "new" / "records" / "probe.parquet")
    of = dict(zip(found.record, placed.places, strict=True))
    test = read.of("")
    assert test.places.dtype == np.float32
    np.testing.assert_array_equal(test.places, [of[name] for name in test.record])
    assert np.isnan(read.of("", "validation").places).all()
    assert records.differences(tmp_path / "new") == []
    written(tmp_path / "old", found)
    assert records.read(tmp_path / "old" / "records" / "probe.parquet").places is None


def test_the_order_of_records_changes_nothing(tmp_path):
    first = said(fold=np.arange(120) % 3)
    mixed = first.where(np.random.default_rng(5).permutation(120))
    one, other = (written(tmp_path / name, part) for name, part in (("a", first), ("b", mixed)))
    assert one == other


def test_hashes_are_those_of_the_lines_that_are_specified():
    sha = [hashlib.sha256(data).hexdigest() for data in (b"1", b"2")]
    found = hashes.test_hash(["r1", "r2"], sha, [0, 1], ["smith", "smith"])
    assert found == "8d35e3d2f1fed7bc1eaa7cc716c0323307b775764f800a0a5c30b9b06396f2c6"
    assert hashes.test_hash(["r2", "r1"], sha[::-1], [1, 0], ["p", "p"]) == found
    assert hashes.images_hash(["r1", "r2"], sha) == (
        "b0605474885f0c8b28c258262d165eeba69dcb009226f1df45945b82c73dc4a9"
    )
    assert hashes.split_hash(["r1", "r2"], ["test", "train"]) == (
        "1844f21e9c6702f201b7d47f29db4e30a499c68c435624c683cfa4886c644e93"
    )
    assert hashes.image_hashes([{"id": "r1", "image": b"1", "label": 0}]) == [sha[0]]
    assert hashes.label_text(np.array([1, 0, -1])) == "1,0," and hashes.label_text(-1) == ""


def test_pictures_of_a_data_set_are_read_once():
    class Counted(Source):
        fingerprint, reads = "built", 0

        def __iter__(self):
            Counted.reads += 1
            return super().__iter__()

        def column(self, field):
            return [self[place][field] for place in range(len(self))]

    first, same, part = (Counted(source(n)) for n in (8, 8, 5))
    for found in (first, same):
        assert hashes.image_hashes(found) == hashes.image_hashes(list(found))
    read = Counted.reads
    assert hashes.image_hashes(first) == hashes.image_hashes(same) and Counted.reads == read
    assert hashes.image_hashes(part) == hashes.image_hashes(first)[:5]
    same.fingerprint, same[0]["image"] = "built again", b"another"
    assert hashes.image_hashes(same)[0] != hashes.image_hashes(first)[0]


def test_a_changed_label_is_told_from_a_changed_picture():
    first = said().hashed()
    labels = first.labels.copy()
    labels[3] = 1 - labels[3]
    relabelled = dataclasses.replace(first, labels=labels)
    assert relabelled.images_hash == first.images_hash
    assert relabelled.test_hash != first.test_hash
    images = first.images.copy()
    images[3] = "another"
    repainted = dataclasses.replace(first, images=images)
    assert repainted.images_hash != first.images_hash


def test_a_threshold_is_chosen_on_validation_and_not_on_test():
    test, validation = said().hashed(), said(seed=1, split="validation").hashed()
    [point] = summary.evaluation(predictions.joined([test, validation]))["operating_points"]
    shuffled = np.random.default_rng(0).permutation(test.labels)
    other = predictions.joined([dataclasses.replace(test, labels=shuffled), validation])
    [again] = summary.evaluation(other)["operating_points"]
    assert again["value"] == point["value"] and point["rule"] == "youden" and point["chosen_on"]
    assert again["sensitivity"] != point["sensitivity"]
    assert 0 < point["sensitivity"]["low"] < point["sensitivity"]["value"] < 1
    [halfway] = summary.evaluation(test.sorted())["operating_points"]
    assert halfway["value"] == 0.5 and "not chosen for any purpose" in halfway["reason"]


def test_probabilities_are_calibrated_on_validation_where_there_is_enough(tmp_path):
    parts = [said(), said(seed=1, split="validation")]
    entry = written(tmp_path, *parts)["evaluations"]["probe"]["calibration"]
    assert entry["method"] == "temperature" and entry["nll_after"] <= entry["nll_before"]
    assert {"ece", "ece_null", "brier", "slope", "after"} <= set(entry)
    few = said(seed=1, count=40, split="validation")
    entry = summary.evaluation(predictions.joined([said(), few]).hashed())["calibration"]
    assert entry["method"] == "none" and "needs 50 validation patients" in entry["reason"]


def test_small_subgroups_are_not_shown():
    found = said().hashed()
    sex = np.array(["F"] * 38 + ["M"] * 42 + ["X"] * 40)  # of 19, 21 and 20 patients
    found = dataclasses.replace(found, attributes={"sex": sex}).sorted()
    made = summary.evaluation(found)["subgroups"]["sex"]["groups"]
    # The next smallest goes with it, or the total would give it away.
    assert made["F"] == made["X"] == {"suppressed": True}
    assert made["M"]["patients"] == 21 and "19" not in json.dumps(made["F"])


def test_subgroups_have_their_figures_and_a_gap():
    made = summary.evaluation(said(count=200).hashed())["subgroups"]["sex"]
    cell = made["groups"]["F"]
    assert cell["patients"] == 50 and cell["primary"]["low"] < cell["primary"]["value"]
    assert {"sensitivity", "specificity", "in_the_large"} <= set(cell)
    assert made["gap"] >= 0 and made["worst_group"] in ("F", "M")
    assert 0 < made["gap_expected_by_chance"] < 0.3


def test_patients_are_grouped_by_any_field_of_few_values(tmp_path):
    part = said(count=200)
    for place, record in enumerate(part.source[0]):
        record |= {"camera": ["a", "b", None][place // 2 % 3], "serial": place, "split": "x"}
    part.source[0].fields = (*Source.fields, "camera", "serial", "split")
    grouped = part.grouped(["camera", "age"])
    made = summary.evaluation(grouped.hashed())["subgroups"]
    assert set(made["camera"]["groups"]) == {"a", "b", "unknown"} and "age_band" in made
    write_results(tmp_path, "run", 3, {"probe": classified([grouped])})
    kept = records.read(tmp_path / "records" / "probe.parquet")
    assert set(kept.attributes) == {"sex", "age_band", "camera"}
    for field, sentence in (("patient", "groups no patients"), ("split", "its fields are"),
                            ("serial", "has 200 values")):  # fmt: skip
        with pytest.raises(InputError, match=sentence):
            part.grouped([field])


def test_a_decision_curve_is_of_calibrated_probabilities():
    parts = [said(), said(seed=1, split="validation")]
    made = summary.evaluation(predictions.joined(parts).hashed())
    [curve] = made["decision_curve"]
    test = predictions.joined(parts).of("")
    tempered = operating_points.tempered(test.probabilities, made["calibration"]["T"])[:, 1]
    wanted = decisions.decision_curve(test.labels, tempered)
    assert curve["calibrated"] and curve["class"] == 'a,b "c"' and len(curve["threshold"]) == 50
    for key in ("threshold", "model", "all", "standardised"):
        assert curve[key] == pytest.approx([point[key] for point in wanted])
    low, high = np.array(curve["low"]), np.array(curve["high"])
    assert (low < high).all() and (low <= curve["model"]).all() and (curve["model"] <= high).all()
    [alone] = summary.evaluation(said().hashed())["decision_curve"]
    assert not alone["calibrated"]
    assert "decision_curve" not in summary.evaluation(said("ordinal").hashed())


def test_cuts_between_grades_have_thresholds_of_their_own():
    parts = [said("ordinal"), said("ordinal", seed=1, split="validation")]
    found = predictions.joined(parts).hashed()
    made = summary.evaluation(found)
    names, test = found.about["classes"], found.of("")
    cuts = {cut["class"]: cut for cut in made["grade_cuts"]}
    assert list(cuts) == [f"at least {name}" for name in names[1:]]
    cut, p = cuts[f"at least {names[2]}"], test.probabilities[:, 2:].astype(np.float64).sum(axis=1)
    truth = test.labels >= 2
    assert cut["auroc"]["value"] == pytest.approx(roc_auc_score(truth, p))
    called = p >= cut["value"]
    assert cut["confusion"] == [
        [int((~called & ~truth).sum()), int((called & ~truth).sum())],
        [int((~called & truth).sum()), int((called & truth).sum())],
    ]
    assert cut["sensitivity"]["value"] == pytest.approx(called[truth].mean())
    assert cut["chosen_on"] and made["operating_points"] == []
    shuffled = dataclasses.replace(
        parts[0], labels=np.random.default_rng(0).permutation(parts[0].labels)
    )
    again = summary.evaluation(predictions.joined([shuffled, parts[1]]).hashed())["grade_cuts"]
    assert [cut["value"] for cut in again] == [cut["value"] for cut in made["grade_cuts"]]
    assert "grade_cuts" not in summary.evaluation(said().hashed())


def test_a_threshold_that_is_chosen_anew_widens_the_intervals():
    parts = [said(threshold_uncertainty=True),
             said(seed=1, count=40, split="validation", threshold_uncertainty=True)]  # fmt: skip
    [point] = summary.evaluation(predictions.joined(parts).hashed())["operating_points"]
    wide = point["threshold_uncertainty"]
    assert wide["undefined_resamples"] < 50 and wide["value"]["low"] < wide["value"]["high"]
    for rate in ("sensitivity", "specificity"):
        given, drawn = (ends["high"] - ends["low"] for ends in (point[rate], wide[rate]))
        assert drawn > given + 0.03
    [usual] = summary.evaluation(predictions.joined([said(), parts[1]]).hashed())[
        "operating_points"
    ]
    assert "threshold_uncertainty" not in usual and usual["sensitivity"] == point["sensitivity"]


def test_numbers_are_compared_by_patients_alone():
    assert comparison.enough(np.linspace(0, 1, 40), np.arange(40)) is None
    assert "needs 30 patients" in comparison.enough(np.linspace(0, 1, 20), np.arange(20))


def test_rank_figures_are_means_over_folds():
    """Scores of two fits are not on one scale: here the second one's are all higher."""
    fold = np.arange(120) // 60
    found = said(fold=fold)
    shifted = found.scores.copy()
    shifted[fold == 1] += np.array([0, 50], np.float32)
    moved = dataclasses.replace(found, scores=shifted)
    value = figures.scores(found)["auc"].value
    assert figures.scores(moved)["auc"].value == pytest.approx(value, abs=1e-6)


def test_few_patients_leave_no_interval_and_very_few_no_value():
    alone = figures.scores(said(count=30))["auc"]
    assert alone.low is None and "too few" in alone.tags and alone.value > 0.5
    assert np.isnan(figures.scores(said(count=8))["auc"].value)
    every = figures.scores(said(count=200))["auc"]
    assert every.tags == ("few events",) and every.groups == 100 and every.low < every.value


def test_ten_validation_records_with_a_label_choose_its_threshold():
    test, validation = said("multi-label"), said("multi-label", split="validation", seed=1)
    for count, rule in ((9, "fixed:.5"), (10, "youden")):
        labels = validation.labels.copy()
        labels[:, 0] = np.arange(len(labels)) < count
        point = operating_points.points(test, dataclasses.replace(validation, labels=labels))[0]
        assert (point["rule"], point["positives"]) == (rule, count)
        assert (point["value"] == 0.5) == (count == 9) == (point["chosen_on"] is None)
        assert ("9 validation records have" in (point["reason"] or "")) == (count == 9)


def test_an_interval_that_many_draws_have_none_of_is_said_to_be_unstable():
    """Where a figure needs one of so many patients, who have two pictures each."""
    part = said(count=240)
    for needed, unstable in ((1, True), (4, False)):  # 37 % of the draws have none of it, and 2 %

        def of(weights, needed=needed):
            there = weights[:, : 2 * needed].sum(axis=1) > 0
            return np.where(there, weights[:, ::3].mean(axis=1), np.nan)[:, None]

        score = figures._score(part, of, {}, None, None)
        assert ("interval unstable" in score.tags) == unstable and score.low is not None


def test_bad_scores_and_empty_splits_are_told(caplog):
    rows = source(40)
    about = {"classes": ["a", "b"], "metrics": ["auc"]}
    broken = np.zeros((40, 2))
    broken[:5] = np.nan
    with pytest.raises(InputError, match="5 of 40 records have a score that is NaN"):
        predictions.of_records(rows, np.zeros(40), broken, about)
    broken[2:] = 0
    few = predictions.of_records(rows, np.zeros(40), broken, about)
    assert few.about["missing_scores"] == 2 and len(few.record) == 38
    score = figures.scores(few)["auc"]
    assert np.isnan(score.value) and score.reason == "No record has class b."
    with pytest.raises(InputError, match="Labels run from 0 to 2 for 2 classes"):
        figures.check_labels(np.arange(3), 2)
    with pytest.raises(InputError, match="the test split is empty"):
        predictions.of_records(Source(), np.zeros(0), np.zeros((0, 2)), about)
    labels = np.arange(40) % 2
    classified([predictions.of_records(rows, labels, np.ones((40, 2)), about)])
    assert "All 40 records are called 'a'" in caplog.text


def test_files_of_something_else_are_refused(tmp_path):
    with pytest.raises(InputError, match="holds no results.json"):
        records.differences(tmp_path)
    (tmp_path / "results.json").write_text('{"scores": []}')
    assert command.main([str(tmp_path), "--recompute"]) == 2
    (tmp_path / "x.parquet").write_bytes(b"no")
    with pytest.raises(InputError, match="cannot be read"):
        records.read(tmp_path / "x.parquet")


def test_patients_eyes_and_images_are_counted_where_they_are_known(tmp_path):
    sides, several = ("left", "right", "right"), [picture(str(k)) for k in range(2)]
    rows = [{"id": str(i), "patient": "ab"[i // 3], "eye": sides[i % 3],
             "image": several[: 1 + i % 2]} for i in range(6)]  # fmt: skip

    def sizes(level="image", **changed):
        found = Rows([{**row, **changed} for row in rows])
        labels, scores = np.array([0, 1] * 3), np.eye(2)[[0, 1] * 3]
        about = {"classes": ["a", "b"], "level": level}
        of_classifier = predictions.of_records(found, labels, scores, about).hashed().sizes()
        return tuple(of_classifier.values()), tuple(predictions.sizes_of(found).values())

    assert sizes() == ((2, 4, 9, 6),) * 2
    assert sizes(eye="unknown") == ((2, None, 9, 6),) * 2
    assert sizes(patient="") == ((None, None, 9, 6),) * 2
    assert sizes(image=None) == ((2, 4, None, 6),) * 2
    assert sizes("patient", eye="", image=[b"left", b"right"])[0] == (2, 12, 12, 6)
    both = Rows([{"id": "1", "patient": "a", "left_image": b"1", "right_image": b"2"}])
    assert predictions.sizes_of(both) == {"patients": 1, "eyes": 2, "images": 2, "records": 1}
    results = written(tmp_path, said())
    assert results["evaluations"]["probe"].pop("size")["records"] == 120
    (tmp_path / "results.json").write_text(json.dumps(results))  # as an older version left it
    assert records.differences(tmp_path) == []


@pytest.mark.parametrize(("kind", "key"), [("classes", "label"), ("grades", "label"),
                                           ("labels", "labels")])  # fmt: skip
def test_a_test_split_of_ones_own_is_one_line(kind, key):
    spec = evaluation_presets.own_split(
        "synthetic_retina/smoke", (("normal", "healthy"), "cataract"), size=32, kind=kind,
        validation="validation", folds=3,
    )  # fmt: skip
    built = LinearProbe(encoder=SimpleNamespace(), **{k: v for k, v in spec.items() if k != "name"})
    assert built.labels == key and tuple(built.classes) == ("normal", "cataract")
    assert [spec[part]["split"] for part in ("train", "test", "validation")] == [
        "train", "test", "validation"]  # fmt: skip
    assert ("quadratic_kappa" in built.metrics) is (kind == "grades")
    with pytest.raises(ValueError, match="kind"):
        evaluation_presets.own_split("a/b", ("x", "y"), kind="kind")


def test_a_label_that_nobody_looked_for_counts_for_nothing(tmp_path):
    found = said("multi-label")
    assert found.labels[0, 1] == -1
    other = dataclasses.replace(found, scores=found.scores.copy())
    other.scores[0, 1] = 99
    assert figures.scores(other)["auc_y"] == figures.scores(found)["auc_y"]
    assert figures.scores(found)["auc_y"].count == 119
    path = tmp_path / "x.parquet"
    records.write(path, found.hashed(), {})
    assert records.read(path).labels.min() == -1
