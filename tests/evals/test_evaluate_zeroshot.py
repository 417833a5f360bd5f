"""Zero-shot classification against a transcription of the published protocol."""

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics import average_precision_score, balanced_accuracy_score, roc_auc_score

from data_pipelines.errors import InputError
from retina_jax.build import build
from retina_jax.evals import EVALUATORS

CLASSES = ("normal", "glaucoma", "cataract")
KNOWLEDGE = {"glaucoma": ["large cup", "glaucoma", "pale optic disc with a notch"],
             "cataract": ["hazy view"], "drusen": ["yellow dots"]}  # fmt: skip
TEMPLATE, LENGTH = "A photograph of {}", 9


def make(encoder, words, data, **options):
    spec = {"name": "zeroshot", "classes": CLASSES, "template": TEMPLATE, "length": LENGTH}
    return build(EVALUATORS, {**spec, **options}, encoder=encoder, tokenizer=words, data=data)


def test_prompts_are_the_descriptions_and_the_name_once(encoder, words, caplog):
    evaluator = make(encoder, words, None, knowledge=KNOWLEDGE)
    assert "no description of ['normal']: its name alone" in caplog.text
    assert evaluator.prompts("normal") == ["A photograph of normal"]
    assert evaluator.prompts("glaucoma") == [
        "A photograph of large cup",
        "A photograph of glaucoma",
        "A photograph of pale optic disc with a notch",
    ]
    assert len(evaluator.prompts("cataract")) == 2
    assert make(encoder, words, None).prompts("glaucoma") == ["A photograph of glaucoma"]


@pytest.mark.parametrize("renormalize", [False, True])
@pytest.mark.parametrize("knowledge", [None, KNOWLEDGE])
def test_it_is_the_published_protocol(encoder, tools, words, pictures, knowledge, renormalize):
    """FLAIR, model.py:277-306: the mean of unit embeddings of the prompts, not scaled again."""
    rows = pictures(29)
    evaluator = make(encoder, words, tools.data(rows), knowledge=knowledge, renormalize=renormalize)
    prompts = {"normal": ["normal"],
               "glaucoma": KNOWLEDGE["glaucoma"] if knowledge else ["glaucoma"],
               "cataract": ["hazy view", "cataract"] if knowledge else ["cataract"]}  # fmt: skip
    means = np.stack([
        np.mean([tools.text(words, TEMPLATE.format(p), LENGTH) for p in prompts[name]], axis=0)
        for name in CLASSES
    ])  # fmt: skip
    lengths = np.linalg.norm(means, axis=1)
    assert (lengths.min() < 0.95) == bool(knowledge)  # several prompts do not have a unit mean
    if renormalize:
        means = tools.unit(means)
    np.testing.assert_allclose(evaluator.prototypes(tools.state()), means, rtol=1e-4, atol=1e-5)
    similarity = tools.unit(tools.features(rows)) @ means.T
    labels = np.array([row["label"] for row in rows])
    scores = evaluator.run(tools.state()).scores
    assert scores["balanced_accuracy"].value == pytest.approx(
        balanced_accuracy_score(labels, similarity.argmax(axis=1))
    )
    likely = softmax(9.0 * similarity, axis=1)  # FLAIR, adapters.py, with the temperature's 9
    areas = [roc_auc_score(labels == i, likely[:, i]) for i in range(3)]
    assert scores["auc"].value == pytest.approx(np.mean(areas))
    assert scores["balanced_accuracy"].chance == pytest.approx(1 / 3)
    assert scores["auc"].chance == 0.5 and scores["auc"].count == 29
    assert scores["auc"].low < scores["auc"].value < scores["auc"].high


def test_labels_beyond_the_classes_are_refused(encoder, tools, words, pictures):
    rows = pictures(8, classes=4)
    with pytest.raises(InputError, match="run from 0 to 3 for 3 classes"):
        make(encoder, words, tools.data(rows)).run(tools.state())
    rows = pictures(8)
    rows[0]["label"] = np.int32(-1)
    with pytest.raises(InputError, match="run from -1 to 2 for 3 classes"):
        make(encoder, words, tools.data(rows)).run(tools.state())


def test_a_class_without_records_leaves_the_auc_undefined(encoder, tools, words, pictures):
    scores = make(encoder, words, tools.data(pictures(8, classes=2))).run(tools.state()).scores
    assert np.isnan(scores["auc"].value) and np.isfinite(scores["balanced_accuracy"].value)


@pytest.mark.parametrize("template", ["A photograph", "A photograph of [CLS]"])
def test_a_template_without_a_place_for_the_class_is_refused(encoder, words, template):
    with pytest.raises(InputError, match="the template needs a {}"):
        make(encoder, words, None, template=template)


def test_a_template_may_name_the_class_for_each_eye(encoder, words):
    evaluator = make(encoder, words, None, template="left eye: {}; right eye: {}")
    assert "left eye: glaucoma; right eye: glaucoma" in evaluator.prompts("glaucoma")


def test_several_labels_each_rank_all_records(encoder, tools, words, pictures):
    rows = pictures(43)
    generator = np.random.default_rng(7)
    for row in rows:
        row["labels"] = (generator.random(3) < 0.4).astype(np.float32)
        row["label"] = np.int32(0)  # is not looked at
    evaluator = make(encoder, words, tools.data(rows), labels="labels")
    scores = evaluator.run(tools.state()).scores
    labels = np.stack([row["labels"] for row in rows])
    similarity = tools.unit(tools.features(rows)) @ evaluator.prototypes(tools.state()).T
    for figure, oracle in (("auc", roc_auc_score), ("average_precision", average_precision_score)):
        each = [oracle(labels[:, i], similarity[:, i]) for i in range(3)]
        found = [scores[f"{figure}_{name.replace(' ', '_')}"] for name in CLASSES]
        assert [score.value for score in found] == pytest.approx(each)
        assert scores[figure].value == pytest.approx(np.mean(each))
        assert scores[figure].low < scores[figure].value < scores[figure].high
    assert scores["auc"].chance == 0.5 and scores["auc"].count == 43
    shares = labels.mean(axis=0)
    assert scores["average_precision"].chance == pytest.approx(shares.mean())
    name = CLASSES[1].replace(" ", "_")
    assert scores[f"average_precision_{name}"].chance == pytest.approx(shares[1])


def test_as_many_names_as_labels(encoder, tools, words, pictures):
    rows = pictures(6)
    for row in rows:
        row["labels"] = np.zeros(4, np.float32)
    with pytest.raises(InputError, match="have 4 labels and 3 names"):
        make(encoder, words, tools.data(rows), labels="labels").run(tools.state())


def test_other_braces_are_text(encoder, words):
    evaluator = make(encoder, words, None, template="{a} {}", knowledge={"normal": ["{0}"]})
    assert evaluator.prompts("normal") == ["{a} {0}", "{a} normal"]


def test_a_definition_follows_the_name(encoder, words):
    evaluator = make(encoder, words, None, mode="define", template="{}", knowledge=KNOWLEDGE)
    expected = [f"glaucoma: {text}" for text in KNOWLEDGE["glaucoma"]]
    assert evaluator.prompts("glaucoma") == expected
    assert evaluator.prompts("normal") == ["normal"]  # nothing describes it
    with pytest.raises(InputError, match="'mode' is one of .*, got 'append'"):
        make(encoder, words, None, mode="append")
