"""The linear probe as an evaluator: which records teach it, and which score it."""

import numpy as np
import pytest
from sklearn.metrics import r2_score, roc_auc_score

from data_pipelines.errors import InputError
from retina_jax.adapters import linear_probe as adapter
from retina_jax.adapters import plane
from retina_jax.build import build
from retina_jax.evals import EVALUATORS

pytestmark = pytest.mark.fast

CLASSES = ("a", "b", "c")


def separable(pictures, number, seed, classes=3):
    """Pictures whose brightest channel is their class."""
    rows = pictures(number, classes=classes, seed=seed)
    for row in rows:
        row["image"] = row["image"] * 0.1 + np.eye(3, dtype=np.float32)[row["label"]] * 3
    return rows


def make(encoder, **options):
    spec = {"name": "linear_probe", "classes": CLASSES, **options}
    return build(EVALUATORS, spec, encoder=encoder)


def test_separable_classes_are_told_apart(encoder, tools, pictures):
    train, test = (tools.data(separable(pictures, n, seed)) for n, seed in ((31, 1), (17, 2)))
    scores = make(encoder, train=train, test=test).run(tools.state()).scores
    assert scores["balanced_accuracy"].value == scores["auc"].value == 1.0
    assert scores["balanced_accuracy"].count == 17
    assert scores["balanced_accuracy"].chance == pytest.approx(1 / 3)


def test_it_fits_the_features_of_train_and_scores_those_of_test(
    encoder, tools, pictures, monkeypatch
):
    """Features are neither projected nor normalised; the options reach the fit."""
    train, test = separable(pictures, 12, 1), separable(pictures, 9, 2)
    seen = {}

    def fit(features, labels, **options):
        seen.update(features=features, labels=labels, options=options)
        return fitted(features, labels, **options)

    fitted = adapter.fit
    monkeypatch.setattr(adapter, "fit", fit)
    evaluator = make(
        encoder,
        train=tools.data(train),
        test=tools.data(test),
        C=0.5,
        standardize=True,
        protocol="flair",
    )
    evaluator.run(tools.state())
    np.testing.assert_allclose(seen["features"], tools.features(train), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(seen["labels"], [row["label"] for row in train])
    assert seen["options"] == {"C": 0.5, "standardize": True, "classes": 3}


def test_a_class_that_train_lacks_is_never_right(encoder, tools, pictures):
    train = tools.data(separable(pictures, 20, 1, classes=2))
    test = tools.data(separable(pictures, 18, 2))
    scores = make(encoder, train=train, test=test).run(tools.state()).scores
    assert scores["balanced_accuracy"].value == pytest.approx(2 / 3)
    assert scores["auc"].value < 1.0


def test_a_class_that_test_lacks_leaves_the_auc_undefined(encoder, tools, pictures):
    train = tools.data(separable(pictures, 21, 1))
    test = tools.data(separable(pictures, 10, 2, classes=2))
    scores = make(encoder, train=train, test=test).run(tools.state()).scores
    assert scores["balanced_accuracy"].value == 1.0 and np.isnan(scores["auc"].value)


def test_patients_in_train_and_test_are_refused(encoder, tools, pictures):
    train, test = separable(pictures, 12, 1), separable(pictures, 9, 2)
    make(encoder, train=tools.data(train), test=tools.data(test)).run(tools.state())  # all unknown
    for i, row in enumerate(train):
        row["patient"] = f"p{i}"
    test[4]["patient"], test[5]["patient"] = "p3", "p11"
    with pytest.raises(InputError, match="share 2 patients of in_memory/records"):
        make(encoder, train=tools.data(train), test=tools.data(test)).run(tools.state())


def several(rows):
    """Labels that follow from the pictures, one of them had by none."""
    for row in rows:
        bright = row["image"].reshape(3) > 1
        row["labels"] = np.array([bright[0], bright[1] or bright[2], 0], np.float32)
    return rows


@pytest.mark.parametrize("cross_validated", [False, True])
def test_several_labels_a_record(encoder, tools, pictures, cross_validated):
    train, test = (several(separable(pictures, n, seed)) for n, seed in ((31, 1), (17, 2)))
    for i, row in enumerate(train):
        row["patient"] = f"p{i // 2}"
    data = {"protocol": "flair"} if cross_validated else {"test": tools.data(test)}
    probe = make(encoder, train=tools.data(train), labels="labels", **data)
    scores = probe.run(tools.state()).scores
    for name in "ab":
        assert scores[f"auc_{name}"].value == scores[f"average_precision_{name}"].value == 1.0
    assert np.isnan(scores["auc_c"].value) and np.isnan(scores["auc"].value)
    rows = train if cross_validated else test
    assert scores["auc"].count == len(rows)
    share = np.mean([row["labels"][1] for row in rows])
    assert scores["average_precision_b"].chance == pytest.approx(share)


def test_test_records_have_a_place_in_the_plane_of_their_features(encoder, tools, pictures):
    train, test = (separable(pictures, n, seed) for n, seed in ((31, 1), (17, 2)))
    probe = make(encoder, train=tools.data(train), test=tools.data(test),
                 validation=tools.data(separable(pictures, 8, 3)))  # fmt: skip
    found = probe.run(tools.state()).predictions
    scored = found.of("")
    expected, shares = plane.placed(np.asarray(tools.features(test)))
    order = [int(name) for name in scored.record]
    np.testing.assert_allclose(scored.places, expected[order], rtol=1e-3, atol=1e-3)
    assert found.about["place_variance"] == pytest.approx(shares, rel=1e-4)
    assert np.isnan(found.of("", "validation").places).all()


def test_parts_of_records_have_no_place(encoder, tools, pictures):
    folds = make(encoder, train=tools.data(separable(pictures, 30, 1)), folds=2)
    assert folds.run(tools.state()).predictions.places is None


def by_patient(pictures, patients=12, eyes=3):
    """Several eyes of each patient, of one class, with features that are the patient's own."""
    looks = np.random.default_rng(5).normal(size=(patients, 3)).astype(np.float32)
    rows = pictures(patients * eyes)
    for i, row in enumerate(rows):
        patient = i % patients
        row["patient"], row["label"] = f"p{patient}", np.int32(patient % 3)
        row["image"] = row["image"] * 0.01 + looks[patient]
    return rows


def test_cross_validation_keeps_each_patient_on_one_side(encoder, tools, pictures, monkeypatch):
    rows = by_patient(pictures)
    patient_of = {tuple(row["image"].reshape(3)): row["patient"] for row in rows}
    folds, fitted = [], adapter.fit

    class Recorder:
        def __init__(self, rows, probe):
            self.rows, self.probe = rows, probe
            self.converged, self.skipped_folds = True, 0

        def scores(self, features):
            folds.append((self.rows, features))
            return self.probe.predict_proba(features)

        def predict_proba(self, features):
            return self.probe.predict_proba(features)

    def fit(features, labels, **options):
        return Recorder(features, fitted(features, labels, **options))

    monkeypatch.setattr(adapter, "fit", fit)
    # Features that are the picture itself, so that a row of them names its record.
    state = tools.state(offset=np.zeros(6, np.float32), kernel=np.eye(3, 6, dtype=np.float32))
    scores = make(encoder, train=tools.data(rows), folds=4, protocol="flair").run(state).scores
    assert len(folds) == 4 and scores["auc"].count == 36

    def patients(features):
        return [patient_of[tuple(row[:3])] for row in np.asarray(features)]

    for train, held_out in folds:
        assert not set(patients(train)) & set(patients(held_out))
        assert len(train) + len(held_out) == 36
        assert len(set(patients(train))) == 9 and len(set(patients(held_out))) == 3
    everyone = sorted(p for _, held_out in folds for p in patients(held_out))
    assert everyone == sorted(row["patient"] for row in rows)  # every record is scored once


def test_cross_validation_of_separable_classes(encoder, tools, pictures):
    train = tools.data(separable(pictures, 30, 1))
    scores = make(encoder, train=train, folds=2).run(tools.state()).scores
    assert scores["balanced_accuracy"].value == 1.0 and scores["balanced_accuracy"].count == 30


@pytest.mark.parametrize(
    ("patients", "folds"), [(4, 5), (40, 1), (0, 40)], ids=["patients", "one fold", "records"]
)
def test_folds_that_cannot_be_are_refused(encoder, tools, pictures, patients, folds):
    rows = separable(pictures, 30, 1)
    for i, row in enumerate(rows):
        row["patient"] = f"p{i % patients}" if patients else ""
    with pytest.raises(InputError, match=f"cannot cross-validate 30 records .* in {folds} folds"):
        make(encoder, train=tools.data(rows), folds=folds).run(tools.state())


def thick(pictures):
    """Both eyes of 30 patients, whose thickness in micrometres is a map of their pictures."""
    rows = pictures(60, seed=3)
    for i, row in enumerate(rows):
        row["patient"] = f"p{i % 30}"
        row["target"] = np.float32(300 + row["image"].reshape(3) @ [80, -40, 10])
    return rows


def test_a_quantity_is_regressed_by_folds(encoder, tools, pictures):
    """R2 of each fold, and their mean."""
    rows = thick(pictures)
    options = {"labels": "target", "classes": ("thickness",), "metrics": ("r2",)}
    data = tools.data(rows)
    found = make(encoder, train=data, **options).run(tools.state())
    score, said = found.scores["r2"], found.predictions
    assert score.value > 0.999 and score.chance == 0 and score.count == 60
    each = [r2_score(said.labels[rows], said.scores[rows, 0])
            for rows in (said.fold == fold for fold in range(5))]  # fmt: skip
    assert score.value == pytest.approx(np.mean(each)) and said.about["found"] == 60
    noise = np.random.default_rng(0).permutation([row["target"] for row in rows])
    blind = tools.data([{**row, "target": value} for row, value in zip(rows, noise, strict=True)])
    assert make(encoder, train=blind, **options).run(tools.state()).scores["r2"].value < 0.3
    rows[7]["target"] = np.float32("nan")
    with pytest.raises(InputError, match="1 of 60 records have no number"):
        make(encoder, train=tools.data(rows), **options).run(tools.state())


def test_means_over_folds_are_those_of_each_fold(encoder, tools, pictures):
    """Not the figure of all records together, whose scores are of different regressions."""
    rows = by_patient(pictures, patients=15)
    for i, row in enumerate(rows):
        row["label"] = np.int32(i % 3 == 0)
    options = {"classes": ("no", "yes"), "metrics": ("auc",)}
    found = make(encoder, train=tools.data(rows), **options).run(tools.state())
    score, said = found.scores["auc"], found.predictions
    each = [roc_auc_score(said.labels[rows], said.scores[rows, 1])
            for rows in (said.fold == fold for fold in range(5))]  # fmt: skip
    assert score.value == pytest.approx(np.mean(each)) and score.count == 45
    together = roc_auc_score(said.labels, said.scores[:, 1])
    assert abs(together - score.value) > 1e-6


@pytest.mark.parametrize(("options", "sentence"),
                         [({"labels": "target", "metrics": ("auc",)}, "'auc' is of classes"),
                          ({"metrics": ("r2",)}, "'r2' is of a quantity"),
                          ({"labels": "target", "classes": CLASSES}, "one name")],
                         ids=str)  # fmt: skip
def test_targets_and_figures_that_do_not_fit_are_refused(encoder, options, sentence):
    quantity = options.get("labels") == "target"
    defaults = {"classes": ("x",), "metrics": ("r2",)} if quantity else {}
    with pytest.raises(InputError, match=sentence):
        make(encoder, train=None, **{**defaults, **options})
