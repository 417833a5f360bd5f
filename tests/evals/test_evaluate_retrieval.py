"""Retrieval: perfect and blind models, shared captions, and the gallery."""

import numpy as np
import pytest
import simplejpeg

from data_pipelines.errors import InputError
from retina_jax.build import build
from retina_jax.evals import EVALUATORS
from retina_jax.metrics.bootstrap import clopper_pearson

DIRECTIONS = ("image_to_text", "text_to_image")


@pytest.fixture
def pairs(words):
    """(captions) -> records whose picture has the grey level of the record's number."""

    def make(captions):
        names = list(dict.fromkeys(captions))
        rows = []
        for i, caption in enumerate(captions):
            text, mask = words.encode(caption, 4)
            grey = np.full((8, 8, 3), 10 * i, np.uint8)
            rows.append({"id": str(i), "image": np.zeros((1, 1, 3), np.float32),
                         "picture": simplejpeg.encode_jpeg(grey, 95), "caption": caption,
                         "text": text, "text_mask": mask, "group": np.int32(names.index(caption)),
                         "patient": ""})  # fmt: skip
        return rows

    return make


def make(encoder, data, **options):
    spec = {"name": "retrieval", "picture": "picture", **options}
    return build(EVALUATORS, spec, encoder=encoder, data=data)


def blind(tools):
    """All embeddings are equal."""
    return tools.state(offset=np.ones(6, np.float32), table=np.ones((64, 6), np.float32))


def test_a_model_that_knows_nothing_scores_chance(encoder, tools, pairs):
    rows = pairs([f"caption{i}" for i in range(20)])
    scores = make(encoder, tools.data(rows, 8)).run(blind(tools)).scores
    assert set(scores) == {
        f"{d}_{m}"
        for d in DIRECTIONS
        for m in ("recall_at_1", "recall_at_5", "recall_at_10", "mean_rank", "median_rank")
    }
    for direction in DIRECTIONS:
        for k in (1, 5, 10):
            score = scores[f"{direction}_recall_at_{k}"]
            assert score.value == pytest.approx(k / 20) and score.chance == pytest.approx(k / 20)
        for average in ("mean", "median"):
            rank = scores[f"{direction}_{average}_rank"]
            assert rank.value == rank.chance == pytest.approx(21 / 2)
            assert rank.count == 20 and rank.deviation is None


def test_a_shared_caption_is_one_text_with_several_images(encoder, tools, pairs):
    """Five records with three texts: an image has one right text, a text 2, 2 or 1 images."""
    rows = pairs(["a", "b", "a", "b", "c"])
    scores = make(encoder, tools.data(rows), ks=(1,)).run(blind(tools)).scores
    forth, back = (scores[f"{direction}_recall_at_1"] for direction in DIRECTIONS)
    assert (forth.chance, forth.count) == (pytest.approx(1 / 3), 5)
    assert (back.chance, back.count) == (pytest.approx(np.mean([2 / 5, 2 / 5, 1 / 5])), 3)


def test_figures_of_queries_are_those_that_the_scores_are_means_of(encoder, tools, pairs):
    """With the patients who ask: each text once, by the first record that has it."""
    rows = pairs(["a", "b", "a", "b", "c"])
    for i, row in enumerate(rows):
        row["patient"] = f"p{i}"
    evaluator = make(encoder, tools.data(rows), ks=(1, 2))
    state = tools.state(table=np.random.default_rng(0).normal(size=(64, 6)).astype(np.float32))
    scores, each = evaluator.run(state).scores, evaluator.per_query(state)
    assert set(each) == set(DIRECTIONS)
    for direction, (figures, *_) in each.items():
        found = {f"{direction}_{name}": values.mean() for name, values in figures.items()}
        rank = found.pop(f"{direction}_rank")
        assert rank == pytest.approx(scores[f"{direction}_mean_rank"].value)
        assert found == {name: pytest.approx(scores[name].value) for name in found} and found
    (_, *images), (_, *texts) = (each[direction] for direction in DIRECTIONS)
    assert [x.tolist() for x in images] == [list("01234"), ["p0", "p1", "p2", "p3", "p4"]]
    assert [x.tolist() for x in texts] == [list("014"), ["p0", "p1", "p4"]]


def test_a_perfect_model_finds_all_and_shared_captions_are_no_mistakes(encoder, tools, pairs):
    captions = ["a", "b", "a", "c", "b"]
    rows = pairs(captions)
    table = np.zeros((64, 6), np.float32)
    for i in range(3):
        table[i + 1, i] = 1  # the words a, b, c have ids 1, 2, 3
        for row, caption in zip(rows, captions, strict=True):
            row["image"][..., i] = float(caption == "abc"[i])
    kernel = np.eye(3, 6, dtype=np.float32)
    state = tools.state(offset=np.zeros(6, np.float32), table=table, kernel=kernel)
    scores = make(encoder, tools.data(rows, 2), ks=(1,)).run(state).scores
    for direction in DIRECTIONS:
        recall = scores[f"{direction}_recall_at_1"]
        count = recall.groups  # no resample differs: the exact interval
        assert (recall.value, recall.low) == (1.0, pytest.approx(clopper_pearson(count, count)[0]))
        assert scores[f"{direction}_mean_rank"].low == 1.0
        assert scores[f"{direction}_mean_rank"].value == 1.0


def test_texts_are_shown_by_a_field_that_records_have(encoder, tools, pairs):
    data = tools.data(pairs(["a", "b"]))
    with pytest.raises(InputError, match="by the field 'caption'.*'caption' one of group, report"):
        data.source.fields = ("report", "group")
        make(encoder, data)


def test_both_directions_are_told_apart(encoder, tools, pairs):
    """Every picture is most like caption a, but each caption is closest to its own picture."""
    rows = pairs(["a", "b", "c"])
    pictures = np.array([[3, 0, 0], [3, 1, 0], [3, 0, 1]], np.float32)
    for row, picture in zip(rows, pictures, strict=True):
        row["image"][...] = picture
    table = np.zeros((64, 6), np.float32)
    table[1:4, :3] = np.eye(3)
    state = tools.state(
        offset=np.zeros(6, np.float32), table=table, kernel=np.eye(3, 6, dtype=np.float32)
    )
    results = make(encoder, tools.data(rows), ks=(1,)).run(state)
    assert results.scores["image_to_text_recall_at_1"].value == pytest.approx(1 / 3)
    assert results.scores["text_to_image_recall_at_1"].value == 1.0
    best = [(query.text, answers[0].text) for query, answers in results.gallery]
    assert best[:3] == [("a", "a"), ("b", "a"), ("c", "a")]
    assert best[3:] == [("a", "a"), ("b", "b"), ("c", "c")]
    for _, answers in results.gallery:
        assert [answer.score for answer in answers] == sorted(
            (answer.score for answer in answers), reverse=True
        )


def test_the_gallery_shows_both_directions(encoder, tools, pairs):
    captions = ["a", "b", "a", "c", "b"]
    rows = pairs(captions)
    results = make(encoder, tools.data(rows), examples=2).run(blind(tools))
    assert len(results.gallery) == 4
    (query, answers), (last, _) = results.gallery[:2]
    assert (query.text, query.score, query.correct) == ("a", None, None)
    assert query.image.dtype == np.uint8 and query.image.ndim == 3
    assert abs(int(query.image.mean()) - 0) < 8 and abs(int(last.image.mean()) - 40) < 8
    assert [answer.text for answer in answers] == ["a", "b", "c"]  # each caption once
    assert [answer.correct for answer in answers] == [True, False, False]
    assert all(answer.image is None and answer.score is not None for answer in answers)
    query, answers = results.gallery[2]
    assert query.image is None and query.text == "a"
    assert [answer.text for answer in answers] == captions
    assert [bool(answer.correct) for answer in answers] == [True, False, True, False, False]
    means = [answer.image.mean() for answer in answers]
    np.testing.assert_allclose(means, [0, 10, 20, 30, 40], atol=4)


def test_a_pool_smaller_than_k_and_than_the_gallery(encoder, tools, pairs):
    results = make(encoder, tools.data(pairs(["a", "b"]))).run(blind(tools))
    assert results.scores["image_to_text_recall_at_10"].value == 1.0
    assert len(results.gallery) == 4
