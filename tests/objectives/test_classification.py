"""The objective of classes: which key it reads, what mixing does, and what it refuses."""

import numpy as np
import pytest
from scipy.special import log_expit, log_softmax

from data_pipelines.errors import InputError
from retina_jax.build import build
from retina_jax.objectives import OBJECTIVES

pytestmark = pytest.mark.fast

rng = np.random.default_rng(0)
LOGITS = rng.normal(size=(4, 5)).astype(np.float32)
LABEL = np.array([1, 4, -1, 0], np.int32)


def loss(batch, **options):
    found = build(OBJECTIVES, {"name": "classification", **options})({"logits": LOGITS}, batch)
    assert set(found) == {"classification"}
    return float(found["classification"])


def likelihood(row, label):
    """Of a class within the parts (2, 3)."""
    part = slice(0, 2) if label < 2 else slice(2, 5)
    return log_softmax(LOGITS[row, part].astype(float))[label - part.start]


def test_rows_without_a_class_do_not_count():
    expected = -(likelihood(0, 1) + likelihood(1, 4) + likelihood(3, 0)) / 3
    assert loss({"label": LABEL}, parts=(2, 3)) == pytest.approx(expected, rel=1e-5)
    assert loss({"label": np.full(4, -1, np.int32)}, parts=(2, 3)) == 0


def test_labels_name_a_class_in_several_parts():
    nan = np.nan
    rows = [[0, 1, 0, 0, 1], [nan, nan, 0, 1, 0], [1, 0, nan, nan, nan], [0, 0, 0, 0, 0]]
    found = loss({"labels": np.array(rows, np.float32)}, parts=(2, 3), target="labels")
    places = [(0, 1), (0, 4), (1, 3), (2, 0)]
    assert found == pytest.approx(-np.mean([likelihood(*at) for at in places]), rel=1e-5)


def test_labels_are_told_one_by_one():
    labels = np.array([[1, 0, np.nan, 0, 1]] * 4, np.float32)
    found = loss({"labels": labels}, kind="sigmoid")
    signs = np.array([1, -1, 0, -1, 1])
    expected = -log_expit(LOGITS * signs)[:, signs != 0].mean()
    assert found == pytest.approx(expected, rel=1e-5)


def test_mixed_rows_count_for_both_records():
    """Zhang et al.: share * loss(own) + (1 - share) * loss(other), for those that have a class."""
    share = np.array([0.9, 0.3, 0.6, 1.0], np.float32)
    other = LABEL[[1, 0, 3, 2]]
    found = loss({"label": LABEL, "mixup_label": other, "mixup_share": share}, parts=(2, 3))
    total = count = 0.0
    for row in range(4):
        for label, weight in ((LABEL[row], share[row]), (other[row], 1 - share[row])):
            if label >= 0:
                total, count = total - weight * likelihood(row, label), count + weight
    assert found == pytest.approx(total / count, rel=1e-5)


@pytest.mark.parametrize(("options", "words"),
                         [({"kind": "softmax", "target": "group"}, "'label' or 'labels'"),
                          ({"kind": "sigmoid", "target": "label"}, "sigmoid, with 'labels'"),
                          ({"kind": "ordinal"}, "got 'ordinal'"),
                          ({"kind": "sigmoid", "parts": (5,)}, "no 'parts'"),
                          ({"kind": "sigmoid", "shares": (0.2,) * 5}, "and 'shares'"),
                          ({"focal": 0.5}, "'focal' is 0 or at least 1"),
                          ({"focal": 2.0, "ordered": (0,)}, "not for 'ordered'"),
                          ({"shares": (0.5, 0.5, 0, 0, 0)}, "above 0"),
                          ({"smoothing": 1.0}, "less than 1, not 1.0"),
                          ({"class_weights": (1, 0, 1, 1, 1)}, "above 0"),
                          ({"parts": (5, 0)}, "above 0"),
                          ({"parts": (2, 3), "ordered": (2,)}, "names part 2, but there are 2"),
                          ({"parts": (2, 2)},
                           "'parts' are of 4 classes, and the model's head has 5"),
                          ({"class_weights": (1, 1)},
                           "'class_weights' are of 2 classes")])  # fmt: skip
def test_what_does_not_fit_is_refused(options, words):
    with pytest.raises(InputError, match=words):
        loss({"label": LABEL}, **options)


def test_as_many_labels_as_classes():
    with pytest.raises(InputError, match="3 labels, and the model's head 5 classes"):
        loss({"labels": np.zeros((4, 3), np.float32)}, kind="sigmoid")
