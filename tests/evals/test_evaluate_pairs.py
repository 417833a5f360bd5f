"""Retrieval between fundus and OCT: right answers, random pools, and the gallery of volumes."""

import numpy as np
import pytest
from picture_files import encode

from data_pipelines.errors import InputError
from retina_jax.build import build
from retina_jax.evals import EVALUATORS
from retina_jax.metrics import retrieval

FORTH, BACK = "image_to_oct", "oct_to_image"


def pairs(fundus, volumes, patients=None, eyes=None):
    """Records whose embeddings are the given rows of three, the volumes' as three B-scans."""
    count = len(fundus)
    return [
        {
            "id": str(i),
            "image": np.asarray(fundus[i], np.float32).reshape(1, 1, 3),
            "oct": np.asarray(volumes[i], np.float32).reshape(3, 1, 1, 1),
            "caption": f"caption {i}",
            "patient": patients[i] if patients else f"p{i}",
            "eye": eyes[i] if eyes else "OD",
        }
        for i in range(count)
    ]


@pytest.fixture
def plain(tools):
    """A model whose embedding is the direction of the three values."""
    kernel = np.eye(3, 6, dtype=np.float32)
    return tools.state(offset=np.zeros(6, np.float32), kernel=kernel)


def make(encoder, data, **options):
    spec = {"name": "retrieval", "other": "oct", "right": "scan", "examples": 0, **options}
    return build(EVALUATORS, spec, encoder=encoder, data=data)


def unit_rows(count, seed):
    x = np.random.default_rng(seed).normal(size=(count, 3))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def test_each_finds_the_other_and_no_text_is_needed(encoder, tools, plain):
    rows = unit_rows(9, 0)
    scores = make(encoder, tools.data(pairs(rows, 2 * rows))).run(plain).scores
    for direction in (FORTH, BACK):
        assert scores[f"{direction}_recall_at_1"].value == 1.0
        assert scores[f"{direction}_median_rank"].value == 1.0
        assert scores[f"{direction}_recall_at_5"].chance == pytest.approx(5 / 9)
        assert scores[f"{direction}_mean_rank"].chance == pytest.approx(5.0)


def test_median_rank_is_no_mean(encoder, tools, plain):
    """Ranks 1, 1 and 3 of the fundus pictures."""
    volumes = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1.0]])
    fundus = np.array([[1, 0, 0], [0, 1, 0], [0.8, 0.6, 0.1]])
    score = make(encoder, tools.data(pairs(fundus, volumes))).run(plain).scores
    assert score[f"{FORTH}_median_rank"].value == 1.0
    assert score[f"{FORTH}_mean_rank"].value == pytest.approx(5 / 3)


def test_another_visit_of_the_eye_is_right_by_eye_and_wrong_by_scan(encoder, tools, plain):
    """Each picture is like the volume of the other visit; the fellow eye is a third direction."""
    first, second, third = np.eye(3)
    fundus, volumes = [first, second, third], [second, first, third]
    both = {"patients": ["p", "p", "p"], "eyes": ["OD", "OD", "OS"]}

    def recall(right, **known):
        data = tools.data(pairs(fundus, volumes, **{**both, **known}))
        scores = make(encoder, data, ks=(1,), right=right).run(plain).scores
        return [scores[f"{direction}_recall_at_1"] for direction in (FORTH, BACK)]

    assert [s.value for s in recall("eye")] == [1.0, 1.0]
    assert [s.chance for s in recall("eye")] == pytest.approx([5 / 9, 5 / 9])
    assert [s.value for s in recall("scan")] == pytest.approx([1 / 3, 1 / 3])
    assert [s.chance for s in recall("scan")] == pytest.approx([1 / 3, 1 / 3])
    # The same person's other eye, or an unknown one, is not the same eye.
    for known in ({"eyes": ["OD", "OS", "OS"]}, {"patients": [""] * 3}, {"eyes": [""] * 3}):
        assert [s.value for s in recall("eye", **known)] == pytest.approx([1 / 3, 1 / 3])


def test_pools_are_what_a_count_by_hand_gives(encoder, tools, plain):
    fundus = unit_rows(30, 1)
    volumes = fundus + 0.6 * unit_rows(30, 2)
    volumes /= np.linalg.norm(volumes, axis=1, keepdims=True)
    data = tools.data(pairs(fundus, volumes))
    scores = make(encoder, data, ks=(1, 5), pools=(12, 30), draws=4).run(plain).scores
    for direction, similarity in ((FORTH, fundus @ volumes.T), (BACK, volumes @ fundus.T)):
        ranks = []
        for rows in retrieval.pools(30, 12, 4):
            own = similarity[rows, rows]
            ranks.append(1 + (similarity[np.ix_(rows, rows)] > own[:, None]).sum(axis=1))
        ranks = np.array(ranks)
        expected = {"recall_at_1": (ranks <= 1).mean(axis=1),
                    "recall_at_5": (ranks <= 5).mean(axis=1), "mean_rank": ranks.mean(axis=1),
                    "median_rank": np.median(ranks, axis=1)}  # fmt: skip
        assert expected["recall_at_1"].std() > 0
        for figure, values in expected.items():
            score = scores[f"{direction}_pool_12_{figure}"]
            assert score.value == pytest.approx(values.mean())
            assert score.deviation == pytest.approx(values.std(ddof=1))
            assert (score.low, score.high, score.count) == (None, None, 12)
            # A pool of everything is the whole set, which has the interval over patients.
            whole = scores[f"{direction}_pool_30_{figure}"]
            complete = scores[f"{direction}_{figure}"]
            assert whole.value == pytest.approx(complete.value) and whole.deviation < 1e-12
            assert complete.low <= complete.value <= complete.high
        assert scores[f"{direction}_pool_12_recall_at_5"].chance == pytest.approx(5 / 12)
        assert scores[f"{direction}_pool_12_mean_rank"].chance == pytest.approx(6.5)


def test_the_other_visit_of_a_pool_is_right_only_where_it_is_drawn(encoder, tools, plain):
    """Two visits of one eye, two other eyes: a blind model has right answers of what is drawn."""
    rows = pairs(np.ones((4, 3)), np.ones((4, 3)), patients=["p", "p", "q", "r"])
    score = make(encoder, tools.data(rows), ks=(1,), right="eye", pools=(2,), draws=20).run(plain)
    pool = score.scores[f"{FORTH}_pool_2_recall_at_1"]
    together = [set(drawn) == {0, 1} for drawn in map(tuple, retrieval.pools(4, 2, 20))]
    assert 0 < sum(together) < 20
    assert pool.value == pool.chance == pytest.approx(np.mean(np.where(together, 1.0, 0.5)))


def test_one_draw_has_no_deviation(encoder, tools, plain):
    rows = unit_rows(5, 0)
    evaluator = make(encoder, tools.data(pairs(rows, rows)), pools=(3,), draws=1)
    assert evaluator.run(plain).scores[f"{FORTH}_pool_3_recall_at_1"].deviation is None


def test_what_cannot_be_is_refused_before_training(encoder, tools):
    data = tools.data(pairs(np.ones((5, 3)), np.ones((5, 3))))
    with pytest.raises(InputError, match="in_memory/records: 10 pools of 6 cannot .* 5 records"):
        make(encoder, data, pools=(5, 6))
    with pytest.raises(InputError, match="'right' is one of .*, not 'patient'"):
        make(encoder, data, right="patient")
    with pytest.raises(InputError, match="'oct' cannot be retrieved by itself"):
        make(encoder, data, image="oct")


def scans(rows):
    """Three B-scans below each other; the bright band of number i is in its i-th third."""
    stack = np.zeros((3, 30, 30), np.uint8)
    for i in range(3):
        stack[i, 10 * i : 10 * i + 10] = 200
    return stack[list(rows)]


@pytest.mark.parametrize("stored", ["stacked", "listed"])
def test_the_gallery_shows_fundus_and_central_b_scan(encoder, plain, tools, stored):
    rows = pairs(np.eye(3), np.eye(3))
    data = tools.data(rows)
    shown = []
    for i, row in enumerate(rows):
        volume = scans((0, 1, 2) if i < 2 else (0, 2, 1))
        kept = {**row, "image": encode(np.full((20, 20, 3), 40 * (i + 1), np.uint8))}
        kept["oct"] = (
            encode(volume.reshape(90, 30)) if stored == "stacked" else list(map(encode, volume))
        )
        shown.append({**kept, "oct_slices": 3})
    for row, kept in zip(data.source, shown, strict=True):
        row.update({"photo": kept["image"]})

    class Shown(type(data.source)):
        """Records as they are stored, beside the decoded ones that the model sees."""

        def __getitem__(self, i):
            return {**shown[i], "photo": shown[i]["image"]}

    object.__setattr__(data, "source", Shown(data.source))
    evaluator = make(encoder, data, examples=3, picture="photo")
    gallery = evaluator.run(plain).gallery
    assert len(gallery) == 6
    for i, (query, answers) in enumerate(gallery[:3]):
        assert query.text == f"caption {i}" and query.image.shape == (128, 128, 3)
        assert abs(int(query.image.mean()) - 40 * (i + 1)) < 3
        best = answers[0]
        assert (best.text, bool(best.correct)) == (f"caption {i}", True)
        assert best.image.shape == (128, 128, 3) and best.image.dtype == np.uint8
        thirds = [part.mean() for part in np.array_split(best.image[..., 0], 3)]
        assert np.argmax(thirds) == (1 if i < 2 else 2)  # the band of the middle B-scan
    for i, (query, answers) in enumerate(gallery[3:]):
        thirds = [part.mean() for part in np.array_split(query.image[..., 0], 3)]
        assert np.argmax(thirds) == (1 if i < 2 else 2)
        assert abs(int(answers[0].image.mean()) - 40 * (i + 1)) < 3
