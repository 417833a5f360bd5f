"""The neighbour and the attentive probe as evaluators."""

import numpy as np
import pytest

from data_pipelines.errors import InputError
from retina_jax import evaluation_presets
from retina_jax.build import build
from retina_jax.evals import EVALUATORS

pytestmark = pytest.mark.fast

CLASSES = ("a", "b", "c")


def separable(pictures, number, seed, several=False):
    """Pictures whose brightest channel is their class, or one of their labels."""
    rows = pictures(number, classes=3, seed=seed)
    for row in rows:
        row["image"] = row["image"] * 0.1 + np.eye(3, dtype=np.float32)[row["label"]] * 3
        if several:
            row["labels"] = np.eye(3, dtype=np.float32)[row["label"]]
            row["labels"][(row["label"] + 1) % 3] = np.nan
    return rows


def made(encoder, name, **options):
    return build(EVALUATORS, {"name": name, "classes": CLASSES, **options}, encoder=encoder)


@pytest.mark.parametrize(("name", "options"), [("knn", {}), ("attentive", {"queries": 2})])
@pytest.mark.parametrize("several", [False, True])
def test_separable_classes_are_told_apart(name, options, several, encoder, tools, pictures):
    parts = {part: tools.data(separable(pictures, count, seed, several))
             for part, count, seed in (("train", 60, 1), ("test", 21, 2))}  # fmt: skip
    labels = {"labels": "labels"} if several else {}
    evaluator = made(encoder, name, **parts, **options, **labels)
    assert evaluator.needs()[0].methods == [evaluator.method]
    found = evaluator.run(tools.state())
    assert found.scores["auc"].value > 0.95
    assert found.predictions.about["protocol"]["name"] == name
    if not several:
        assert found.scores["balanced_accuracy"].value > 0.9
        sums = found.predictions.probabilities.sum(axis=1)
        np.testing.assert_allclose(sums, 1, rtol=1e-5)


def test_without_a_test_split_a_patients_own_records_do_not_count(encoder, tools, pictures):
    """Twins of a patient that nobody else resembles: by each other they would always be right."""
    rows, drawn = separable(pictures, 40, 1), np.random.default_rng(0).integers(0, 3, 20)
    for place, row in enumerate(rows):
        row["patient"], row["image"] = f"p{place // 2}", rows[place // 2 * 2]["image"]
        row["label"] = np.int32(drawn[place // 2])
    found = made(encoder, "knn", train=tools.data(rows), metrics=("accuracy",), neighbours=1)
    said = found.run(tools.state())
    assert len(said.predictions.record) == 40 and set(said.predictions.fold) == {-1}
    assert said.scores["accuracy"].value < 0.8
    fitted = made(encoder, "attentive", train=tools.data(separable(pictures, 60, 1)), queries=2)
    said = fitted.run(tools.state()).predictions
    assert set(said.fold) == set(range(5))
    for group in set(said.group):
        assert len(set(said.fold[said.group == group])) == 1


def test_probes_of_the_same_data_encode_it_once(encoder, tools, pictures, monkeypatch):
    """As long as the state lives: another one is encoded anew."""
    train, test = (tools.data(separable(pictures, n, seed)) for n, seed in ((60, 1), (21, 2)))
    batches, read = type(train).batches, []
    monkeypatch.setattr(
        type(train), "batches", lambda data: read.append(data is test) or batches(data)
    )
    probes = [made(encoder, name, train=train, test=test) for name in ("knn", "linear_probe")]
    state = tools.state()
    said = [probe.run(state).predictions for probe in probes]
    assert read == [False, True]
    assert said[0].labels.tolist() == said[1].labels.tolist()
    other = tools.state(offset=np.full(6, 100, np.float32))
    moved = encoder.encode_dataset(other, test, "features", ["image"], ["label"])
    assert read == [False, True, True] and moved["image"].min() > 80


def test_options_that_are_none_are_refused(encoder, tools, pictures):
    train = tools.data(separable(pictures, 12, 1))
    with pytest.raises(InputError, match="'decision' one of"):
        made(encoder, "knn", train=train, decision="loud")
    with pytest.raises(InputError, match="has no tokens"):
        made(encoder, "attentive", train=train, image="eyes")


def test_three_probes_of_ones_own_split_are_one_line():
    specs = evaluation_presets.frozen_probes("manifest/mine", ("a", "b"), validation="validation")
    assert [spec["name"] for spec in specs.values()] == ["linear_probe", "knn", "attentive"]
    assert all(spec["validation"]["split"] == "validation" for spec in specs.values())
