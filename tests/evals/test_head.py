"""The head of a classifier: all that it scores, or the part that a data set is of."""

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from data_pipelines.errors import InputError
from retina_jax.build import build
from retina_jax.evals import EVALUATORS

CLASSES = ("normal", "glaucoma", "cataract")


def said(encoder, tools, rows, **options):
    spec = {"name": "head", "classes": CLASSES, "data": tools.data(rows), **options}

    class Classifier(type(encoder.model)):
        """Its features are the scores of six classes."""

        def classify(self, batch):
            return {"logits": self.features(batch)["image"]}

    encoder = type(encoder)(Classifier(), encoder.mesh)
    return build(EVALUATORS, spec, encoder=encoder).run(tools.state())


@pytest.mark.parametrize("first", [0, 2, 3])
def test_a_part_is_scored_by_its_own_classes(encoder, tools, pictures, first):
    rows = pictures(29)
    found = said(encoder, tools, rows, first=first)
    own = tools.features(rows)[:, first : first + 3]
    chosen = balanced_accuracy_score([row["label"] for row in rows], own.argmax(axis=1))
    assert found.scores["balanced_accuracy"].value == pytest.approx(chosen)
    chance = np.exp(own) / np.exp(own).sum(axis=1, keepdims=True)
    order = found.predictions.record.astype(int)
    np.testing.assert_allclose(found.predictions.probabilities, chance[order], rtol=1e-4)


@pytest.mark.parametrize("prior", [None, (0.6, 0.3, 0.1)])
def test_records_are_ranked_by_probabilities_whatever_is_added_to_their_logits(
    encoder, tools, pictures, prior
):
    rows = pictures(29)
    found = said(encoder, tools, rows, first=0, prior=prior)
    likely = softmax(tools.features(rows)[:, :3], axis=1)
    labels = np.array([row["label"] for row in rows])
    areas = [roc_auc_score(labels == k, likely[:, k]) for k in range(3)]
    assert found.scores["auc"].value == pytest.approx(np.mean(areas))


@pytest.mark.parametrize("first", [None, 4])
def test_classes_that_the_head_has_not_are_refused(encoder, tools, pictures, first):
    with pytest.raises(InputError, match="scores 6 classes and 3 are named, from place"):
        said(encoder, tools, pictures(9), first=first)
