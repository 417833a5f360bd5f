"""What figures are of: patients of a rate, folds and repeats of a record, and no threshold."""

import dataclasses

import numpy as np
import pytest
from scored_records import said, source
from sklearn.metrics import recall_score, roc_auc_score

from retina_jax.metrics import bootstrap
from retina_jax.scoring import examples, figures, predictions, summary

pytestmark = pytest.mark.fast


def of_patients(labels, scores, **about):
    """Records of a patient each, of two classes unless there are more columns of labels."""
    labels, scores = np.asarray(labels), np.asarray(scores, float)
    scores = scores if scores.ndim == 2 else np.stack([-scores, scores], axis=1)
    rows = source(len(labels))
    for i, row in enumerate(rows):
        row["patient"] = f"p{i:04d}"
    given = {"classes": ["healthy", "ill"], "task": "binary", "metrics": ["auc"], "primary": "auc"}
    return predictions.of_records(rows, labels, scores, {**given, **about})


def test_a_rate_of_one_has_the_interval_of_the_patients_that_it_is_of():
    labels = np.arange(412) < 12
    part = of_patients(labels.astype(int), labels - 0.5, metrics=[
        "sensitivity", "specificity", "balanced_accuracy", "accuracy"
    ])  # fmt: skip
    found = figures.scores(part)
    low = {count: bootstrap.clopper_pearson(count, count)[0] for count in (12, 400, 412)}
    assert found["sensitivity"].low == pytest.approx(low[12]) and low[12] == pytest.approx(
        0.7354, abs=1e-4
    )
    assert found["specificity"].low == pytest.approx(low[400])
    assert found["accuracy"].low == pytest.approx(low[412])
    assert (low[12] + 1) / 2 == pytest.approx(found["balanced_accuracy"].low, abs=1e-3)
    assert {score.method for score in found.values()} == {"exact-patient"}


def test_subgroups_without_errors_have_intervals_of_those_that_are_ill():
    ill = np.arange(400) % 40 == 0
    part = of_patients(ill.astype(int), ill - 0.5)
    group = np.where(np.arange(400) < 200, "a", "b")
    part = dataclasses.replace(
        part, attributes={"site": group}, probabilities=np.stack([~ill, ill], 1).astype(np.float32)
    )
    made = summary.evaluation(part.hashed())["subgroups"]["site"]["groups"]["a"]
    assert made == {"suppressed": True}  # five are ill, of ten that areas need
    ill = np.arange(400) % 20 == 0
    part = of_patients(ill.astype(int), ill - 0.5)
    part = dataclasses.replace(
        part, attributes={"site": group}, probabilities=np.stack([~ill, ill], 1).astype(np.float32)
    )
    made = summary.evaluation(part.hashed())["subgroups"]["site"]["groups"]["a"]
    assert made["sensitivity"]["low"] == pytest.approx(bootstrap.clopper_pearson(10, 10)[0])
    assert made["specificity"]["low"] == pytest.approx(bootstrap.clopper_pearson(190, 190)[0])
    assert (made["primary"]["low"], made["primary"]["high"]) == (pytest.approx(1 - 3 / 10), 1)


def test_a_subgroup_without_the_figure_leaves_the_gap_of_the_others():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (300, 2))
    group = np.repeat(["a", "b", "c"], 100)
    labels[group == "c", 1] = 0  # nobody there has the second label
    part = of_patients(labels, labels + rng.normal(size=labels.shape), task="multi-label",
                       metrics=["average_precision"], primary="average_precision")  # fmt: skip
    part = dataclasses.replace(part, attributes={"site": group})
    made = summary.evaluation(part.hashed())["subgroups"]["site"]
    assert made["groups"]["c"]["primary"]["value"] is None
    assert made["gap_interval"][0] < made["gap"] < made["gap_interval"][1] + 0.1
    assert made["gap_expected_by_chance"] > 0


def test_without_a_threshold_classes_are_as_the_largest_score_says_and_labels_are_not_called():
    part = dataclasses.replace(said(), probabilities=None)
    made = summary.evaluation(part.hashed())
    calls = part.scores.argmax(axis=1)
    healthy, ill = made["per_class"]
    assert made["operating_points"][0]["value"] is None
    assert ".5" not in made["operating_points"][0]["reason"]
    assert ill["sensitivity"] == healthy["specificity"] == recall_score(part.labels, calls)
    assert ill["predicted"] == calls.sum() and healthy["predicted"] == (1 - calls).sum()
    several = dataclasses.replace(said("multi-label"), probabilities=None)
    for row in summary.evaluation(several.hashed())["per_class"]:
        assert row["auroc"]["value"] > 0.5
        assert {row[name] for name in ("sensitivity", "specificity", "f1", "predicted")} == {None}


def test_both_classes_of_two_are_called_by_the_one_threshold():
    made = summary.evaluation(
        predictions.joined([said(), said(seed=1, split="validation")]).hashed()
    )
    healthy, ill = made["per_class"]
    assert healthy["sensitivity"] == ill["specificity"]
    assert healthy["predicted"] + ill["predicted"] == healthy["known"]


def test_areas_of_a_class_are_means_over_folds_as_those_of_all():
    fold = np.arange(120) % 3
    part = said(fold=fold)
    part.scores[fold == 1, 1] += 50  # of another fit
    part = dataclasses.replace(part, probabilities=None)
    each = [roc_auc_score(part.labels[fold == k], part.scores[fold == k, 1]) for k in range(3)]
    found = summary.evaluation(part.hashed())["per_class"][1]["auroc"]
    assert found["value"] == pytest.approx(np.mean(each)) and found["low"] > 0.8
    grades = said("ordinal", fold=fold)
    whole = summary.evaluation(grades.hashed())["grade_cuts"]
    grades.probabilities[fold == 1] = grades.probabilities[fold == 1] ** 9 / (
        (grades.probabilities[fold == 1] ** 9).sum(axis=1, keepdims=True)
    )
    assert whole[0]["auroc"] != summary.evaluation(grades.hashed())["grade_cuts"][0]["auroc"]


def test_repeats_make_no_more_records():
    once = said(count=60)
    parts = [dataclasses.replace(once, repeat=np.full(60, i)) for i in range(5)]
    made, alone = (summary.evaluation(predictions.joined(given).hashed())
                   for given in (parts, [once]))  # fmt: skip
    assert made.pop("repeats") == 5 and "repeats" not in alone
    assert made["calibration"] == alone["calibration"]
    for row, other in zip(made["per_class"], alone["per_class"], strict=True):
        for name in ("auroc", "average_precision"):
            assert row.pop(name) == pytest.approx(other.pop(name))
        assert row == other and "few events" in row["tags"]
    assert figures.scores(predictions.joined(parts))["auc"].tags == figures.scores(once)["auc"].tags
    validation = [dataclasses.replace(said(count=10, seed=1, split="validation"),
                                      repeat=np.full(10, i)) for i in range(5)]  # fmt: skip
    [point] = summary.evaluation(predictions.joined([
        part.told(operating_point="specificity>=.95") for part in (*parts, *validation)
    ]).hashed())["operating_points"]  # fmt: skip
    assert "needs 20" in point["reason"] and point["positives"] + point["negatives"] == 10


def test_repeats_of_other_records_count_all_of_them():
    """Few-shot without a test split scores other patients each time, some of them again."""
    whole = said(count=60)
    rows = [np.arange(i * 10, i * 10 + 30) for i in range(3)]
    parts = [dataclasses.replace(whole.where(r), repeat=np.full(30, i)) for i, r in enumerate(rows)]
    made = summary.evaluation(predictions.joined(parts).hashed())["per_class"]
    seen = whole.where(np.arange(50))
    assert [row["known"] for row in made] == [50, 50]
    assert [row["n"] for row in made] == np.bincount(seen.labels).tolist()
    assert sum(row["predicted"] for row in made) == 50
    assert made[1]["prevalence"] == pytest.approx(seen.labels.mean())
    assert figures.scores(predictions.joined(parts))["auc"].count == 30  # of each fit


def test_a_threshold_that_calls_nothing_is_said_to():
    validation = said(count=40, seed=1, split="validation")
    validation.probabilities[:] = [0.3, 0.7]  # whatever it sees
    made = summary.evaluation(predictions.joined([said(), validation]).hashed())
    [point] = made["operating_points"]
    assert point["reason"] == "No threshold is better than to call nothing."
    assert point["called"]["value"] == 0 and made["per_class"][1]["predicted"] == 0
    part, stored = said(), summary.plain(point)
    shown = dict(examples.chosen(part, [stored]))
    assert stored["value"] is None and f"The surest of {(part.labels == 1).sum()} missed" in shown


def test_positives_are_those_that_have_the_label():
    part = said("multi-label")
    found = figures.scores(part)
    for k, name in enumerate(part.about["classes"]):
        assert found[f"auc_{name}"].positives == (part.labels[:, k] == 1).sum()
    two = of_patients(part.labels[:, :2], part.scores[:, :2], task="multi-label",
                      metrics=["auc"], primary="auc")  # fmt: skip
    two.labels[:, 1] = 0
    macro = figures.scores(two)["auc"]
    assert macro.positives is None and macro.reason == "No record has the label 'ill'."


def test_what_is_found_less_what_is_missing_is_what_is_scored():
    test, validation = said(), said(seed=1, split="validation")
    validation = validation.told(missing_scores=2)
    flow = summary.evaluation(predictions.joined([validation, test]).hashed())["flow"]
    assert flow["found"] - flow["missing_scores"] == flow["scored"] == 120
