"""What is decided of scores, and what of pictures unlike those of training; in memory and on disk.

Numbers that were not drawn here were computed by hand or by SciPy for the definitions.
"""

import dataclasses
import json

import folders
import numpy as np
import pytest

from data_pipelines.errors import InputError
from retina_jax import out_of_distribution as ood
from retina_jax.convert import hashes, model_folder
from retina_jax.decision import Calibration, Decision, OperatingPoint, from_json

pytestmark = pytest.mark.fast
REFER = OperatingPoint(0.375, ("b", "c"), "sensitivity>=0.9", "5e7", 30, 70)


def test_the_most_likely_class_is_called_and_of_equal_ones_the_first():
    decision = Decision()
    found = decision.probabilities(np.array([[2.0, 1, 0], [1, 1, 0], [np.nan, 0, 0]]))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[0], [0.665241, 0.244728, 0.090031], atol=5e-7)
    called = decision.decide(found)
    assert called.tolist() == [[True, False, False], [True, False, False], [False] * 3]


def test_the_balanced_rule_divides_by_the_share_in_training():
    decision = Decision(rule="balanced", prior=(0.6, 0.3, 0.1))
    assert decision.decide(np.array([[0.5, 0.3, 0.2]])).tolist() == [[False, False, True]]
    with pytest.raises(InputError, match="above 0"):
        Decision(rule="balanced", prior=(0.6, 0.4, 0.0))


def test_each_part_has_its_own_softmax_and_its_own_call():
    decision = Decision(parts=(2, 3))
    found = decision.probabilities(np.array([[0.0, 0, 3, 1, 2]]))
    np.testing.assert_allclose(found.sum(axis=1), 2, atol=1e-6)
    np.testing.assert_allclose(found[0, :2], 0.5)
    assert decision.decide(found).tolist() == [[True, False, True, False, False]]


def test_labels_have_their_own_thresholds():
    scores = np.log(np.array([[0.3, 0.6], [0.2, 0.5]]) / (1 - np.array([[0.3, 0.6], [0.2, 0.5]])))
    decision = Decision(task="multi", thresholds=(0.3, 0.7))
    found = decision.probabilities(scores)
    # The stored float32 decides: 0.3 is stored as a little more than it is.
    assert decision.decide(found).tolist() == [[True, False], [False, False]]
    assert Decision(task="multi").decide(found).tolist() == [[False, True], [False, True]]
    balanced = Decision(task="multi", rule="balanced", prior=(0.25, 0.65))
    assert balanced.decide(found).tolist() == [[True, False], [False, False]]


def test_a_temperature_changes_no_call():
    fitted = Calibration("temperature", 3.640957, None, 4, 1.018150, 0.562335)
    scores = np.array([[4.0, 0.0]] * 4)
    found = Decision(calibration=fitted).probabilities(scores)
    np.testing.assert_allclose(found[:, 0], 0.75, atol=1e-6)
    likelihood = -np.log(found[np.arange(4), [0, 0, 0, 1]]).mean()
    assert likelihood == pytest.approx(0.562335, abs=1e-6)
    rows = np.random.default_rng(0).normal(size=(50, 5))
    calibrated, plain = Decision(calibration=fitted), Decision()
    np.testing.assert_array_equal(
        calibrated.decide(calibrated.probabilities(rows)), plain.decide(plain.probabilities(rows))
    )


def test_an_operating_point_of_several_classes():
    given = np.array([[0.25, 0.5, 0.25]], np.float32)
    assert Decision().score(given, "abc", REFER.labels).tolist() == [0.75]
    assert Decision(task="multi").score(given, "abc", REFER.labels).tolist() == [0.5]


def test_a_decision_is_plain_data():
    decision = Decision(
        "ordinal", "balanced", (0.5, 0.3, 0.2), (3,), (), {"refer": REFER},
        Calibration("temperature", (1.5, 2.0, 1.0)),
    )  # fmt: skip
    assert from_json(json.loads(json.dumps(dataclasses.asdict(decision)))) == decision
    assert from_json({}) == Decision() and from_json(None) is None
    with pytest.raises(InputError, match="later version"):
        from_json({"task": "single", "colour": 1})
    with pytest.raises(InputError, match="'prior' of the decision is of 3 classes"):
        decision.check(("a", "b"))
    with pytest.raises(InputError, match="'c', which is no class"):
        Decision(operating_points={"refer": REFER}).check(("a", "b"))


def test_scores_of_doubt():
    logits = np.array([[2.0, 1.0, 0.0]])
    found = [f(logits)[0] for f in (ood.max_softmax, ood.energy, ood.entropy)]
    np.testing.assert_allclose(found, [0.665241, -2.407606, 0.832396], atol=5e-7)


def test_mahalanobis():
    corners = np.array([[0.0, 0], [2, 0], [0, 2], [2, 2]])
    means, precision = ood.gaussian(corners, np.zeros(4), 1e-3)
    assert ood._squared(np.array([[3.0, 1.0]]), means, precision)[0, 0] == pytest.approx(4)


def test_what_lies_far_from_all_of_training_is_out_of_distribution(tmp_path):
    rng = np.random.default_rng(1)
    centre = np.eye(8)[0] * 5
    train, validation = (centre + rng.normal(size=(n, 8)) for n in (300, 200))
    for fitted in (
        ood.nearest(train, validation, most=200),
        ood.mahalanobis(train, validation, np.arange(300) % 2),
    ):
        # The scale of features does not count, and 1 in 100 of validation is over the threshold.
        inside = fitted.scores(3 * validation)
        assert (inside > fitted.threshold).sum() == 2
        assert (fitted.scores(-validation) > fitted.threshold).all()
        assert np.isnan(fitted.scores(np.full((1, 8), np.nan))).all()
        (tmp_path / "familiar.npz").write_bytes(ood.to_bytes(fitted))
        again = ood.read(tmp_path / "familiar.npz")
        np.testing.assert_array_equal(again.scores(validation), fitted.scores(validation))
    kept = ood.nearest(train, validation, most=200).vectors
    assert kept.shape == (200, 8) and kept.dtype == np.float16
    with pytest.raises(InputError, match="1 of them with NaN"):
        ood.nearest(np.array([[1.0, np.nan]]), validation)


def test_a_folder_keeps_them_and_its_hash_knows(tmp_path):
    described = folders.description(
        tmp_path,
        decision=Decision(operating_points={"refer": OperatingPoint(0.5, ("glaucoma",))}),
        quality={"contrast": (0.1, 0.6)},
        familiar=ood.nearest(np.eye(4), np.eye(4), k=2),
    )
    made = folders.variables(described)
    model_folder.write_folder(tmp_path / "model", described, made)
    found, variables = model_folder.read_folder(tmp_path / "model")
    assert found.decision == described.decision and found.quality == described.quality
    np.testing.assert_array_equal(found.familiar.vectors, described.familiar.vectors)
    first = hashes.model_hash(described, made)
    assert first == hashes.model_hash(found, variables)
    assert hashes.weights_hash(made) == hashes.weights_hash(variables)
    renamed = dataclasses.replace(described, title="other", licence=None)
    assert hashes.model_hash(renamed, made) == first
    others = (
        dataclasses.replace(described, decision=Decision()),
        dataclasses.replace(described, quality=None),
        dataclasses.replace(described, template="{}"),
    )
    changed = {hashes.model_hash(other, made) for other in others}
    changed.add(hashes.model_hash(described, folders.variables(described, seed=1)))
    assert len(changed) == 4 and first not in changed
    (tmp_path / "model" / "familiar.npz").write_bytes(b"PK")
    with pytest.raises(InputError, match="familiar.npz is damaged"):
        model_folder.read_folder(tmp_path / "model")


def test_a_folder_from_before_has_no_decision(tmp_path):
    folders.write(tmp_path)
    path = tmp_path / "model" / "config.json"
    about = json.loads(path.read_text())
    del about["decision"], about["modality"]
    path.write_text(json.dumps(about))
    found, _ = model_folder.read_folder(tmp_path / "model")
    assert (found.decision, found.quality, found.familiar) == (None, None, None)
