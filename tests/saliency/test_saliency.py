"""Maps, what they are compared with, and when they are shown."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from data_pipelines.errors import InputError
from data_pipelines.images import preparation
from data_pipelines.images.single import Preprocessing
from data_pipelines.transforms.pictures import Decode
from retina_jax.models.single_tower import Tower
from retina_jax.saliency import __main__ as program
from retina_jax.saliency import drawing, maps, scores, study, verdict

pytestmark = pytest.mark.fast


def test_a_map_is_gradient_times_activation():
    cells = jnp.stack([jnp.array([[1.0, 2], [3, 4]]), jnp.array([[4.0, 0], [0, 0]])], axis=-1)[None]
    gradients = jnp.broadcast_to(jnp.array([0.1, -0.2]), cells.shape)
    found = maps.combine(cells, gradients)[0]
    np.testing.assert_allclose(found, [[0, 0.2], [0.3, 0.4]], atol=1e-7)
    np.testing.assert_allclose(scores.unit(found), [[0, 0.5], [0.75, 1]], atol=1e-6)


def test_figures_of_a_map():
    saliency = np.array([[0, 1, 2, 0], [0, 3, 4, 0], [0, 0, 0, 0], [1, 0, 0, 1]], float)
    mask = np.zeros((4, 4), bool)
    mask[:2, 1:3] = True
    found = scores.localisation(saliency, mask)
    expected = {"energy": 0.833333, "mask_share": 0.25, "lift": 3.333333, "pointing": 1.0,
                "auc": 0.979167, "average_precision": 0.916667}  # fmt: skip
    for name, value in expected.items():
        assert getattr(found, name) == pytest.approx(value, abs=5e-7), name
    twice = np.zeros((4, 4))
    twice[0, 1] = twice[3, 3] = 1
    assert scores.localisation(twice, mask).pointing == 0.5
    nothing = scores.localisation(np.zeros((4, 4)), mask)
    assert np.isnan(nothing.energy) and np.isnan(nothing.pointing)
    assert scores.area(np.array([0.9, 0.6, 0.3, 0.2, 0.1])) == pytest.approx(0.4)
    assert scores.area(np.array([0.1, 0.5, 0.8, 0.85, 0.9])) == pytest.approx(0.6625)


def test_similarity_is_one_of_itself_and_low_of_noise():
    rng = np.random.default_rng(0)
    one = maps.centre(48, 48)
    assert scores.similarity(one, 3 * one + 1) == pytest.approx(1)
    assert scores.similarity(one, rng.uniform(size=one.shape)) < 0.3


RESNET = {"name": "resnet", "depth": 18, "width": 4, "norm": "group"}


def test_gradients_are_those_of_what_is_pooled():
    """Against d logit / d cells written out: the head's weights over the number of cells."""
    model = Tower("image", RESNET, 3)
    batch = {"image": np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)}
    variables = jax.jit(model.init)(jax.random.key(0), batch)
    explain = maps.explainer(model, "image", maps.by_head)
    classes = np.array([2, 0], np.int32)
    found, logits = explain(variables, batch, classes)
    np.testing.assert_allclose(logits, model.apply(variables, batch)["logits"], rtol=1e-5)

    def cells(bound: nn.Module):
        return bound.image(jnp.asarray(batch["image"] / 255, jnp.float32))["map"]

    last = nn.apply(cells, model)(variables)
    weights = variables["params"]["head"]["kernel"][:, classes].T / (last.shape[1] * last.shape[2])
    expected = jax.nn.relu(jnp.einsum("bhwf,bf->bhw", last, weights))
    assert expected.max() > 0
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_what_pools_otherwise_is_refused():
    spec = {"name": "vit", "width": 8, "depth": 1, "heads": 2, "mlp_dim": 8, "patch_size": 8}
    model = Tower("image", {**spec, "pool": "cls"}, 2)
    batch = {"image": np.zeros((1, 32, 32, 3), np.uint8)}
    with pytest.raises(InputError, match="pools its cells by their mean"):
        explain = maps.explainer(model, "image", maps.by_head)
        explain(model.init(jax.random.key(0), batch), batch, np.zeros(1, np.int32))


def masks(count=40, side=32, seed=0):
    """A spot for each picture, anywhere."""
    rng = np.random.default_rng(seed)
    found = np.zeros((count, side, side), bool)
    for mask, (y, x) in zip(found, rng.integers(2, side - 6, (count, 2)), strict=True):
        mask[y : y + 4, x : x + 4] = True
    return found


def judged(saliency, drawn, others=None):
    lifts = np.array([study._lift(s, m) for s, m in zip(saliency, drawn, strict=True)])
    rng = np.random.default_rng(1)
    spot = maps.centre(*drawn[0].shape)
    mean = verdict.mean_of_others([scores.unit(s) for s in saliency])
    controls = {
        "random_weights": [study._lift(rng.uniform(size=m.shape), m) for m in drawn],
        "prior": [study._lift(spot, m) for m in drawn],
        "edges": [study._lift(rng.uniform(size=m.shape), m) for m in drawn],
        "mean_map": [study._lift(a, m) for a, m in zip(mean, drawn, strict=True)],
    }
    controls = {name: np.asarray(values) for name, values in controls.items()}
    return verdict.judge(lifts, controls, np.arange(len(drawn)), 0.1, 0.5)


def test_an_oracle_passes_and_neither_chance_nor_the_middle_does():
    drawn = masks()
    oracle = [mask + 0.01 for mask in drawn.astype(float)]
    passed = judged(oracle, drawn)
    assert passed.passes and not passed.sentence and passed.low > 30
    rng = np.random.default_rng(5)
    chance = judged([rng.uniform(size=m.shape) for m in drawn], drawn)
    assert not chance.passes and "random weights" in chance.sentence
    middle = judged([maps.centre(*m.shape) for m in drawn], drawn)
    assert not middle.passes and "not shown" in middle.sentence
    controls = {name: np.full(len(drawn), 1.0) + 0.01 * np.arange(len(drawn)) % 0.03
                for name in verdict.CONTROLS}  # fmt: skip
    alike = verdict.judge(np.full(len(drawn), 9.0), controls, np.arange(len(drawn)), 0.6, 0.5)
    assert not alike.passes and "as like those of random weights" in alike.sentence


def test_a_mask_ends_where_its_picture_does(tmp_path):
    picture = np.zeros((60, 100, 3), np.uint8)
    y, x = np.mgrid[:60, :100]
    field = (y - 30) ** 2 + (x - 50) ** 2 < 25**2
    picture[field] = (180, 90, 40)
    mask = np.zeros((60, 100), bool)
    mask[28:34, 60:66] = True
    picture[mask] = (20, 250, 250)
    Image.fromarray(picture).save(tmp_path / "eye.png")
    data = (tmp_path / "eye.png").read_bytes()
    prepared = preparation.Preparation(size=48, format="png")
    preprocessing = Preprocessing((Decode(64, source="image"),), prepared)
    placed = study.on_canvas(mask, data, preprocessing)
    seen = preprocessing(data)["image"][0]
    marked = seen[..., 1] > 170
    assert marked.any() and (placed & marked).sum() / marked.sum() > 0.95
    assert (placed & ~marked).sum() < 0.8 * placed.sum()
    with pytest.raises(InputError, match="mask has"):
        study.on_canvas(mask[:-1], data, preprocessing)


def test_masks_are_what_is_not_zero_or_has_a_bit(tmp_path):
    values = np.array([[0, 1, 16], [3, 8, 17]], np.uint8)
    Image.fromarray(values).save(tmp_path / "m.png")
    assert study.mask_of(tmp_path / "m.png", None).tolist() == [[False, True, True], [True] * 3]
    found = study.mask_of(tmp_path / "m.png", 15).tolist()
    assert found == [[False, True, False], [True, True, True]]
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match="broken.png cannot be read"):
        study.mask_of(tmp_path / "broken.png", None)
    (tmp_path / "pictures").mkdir()
    with pytest.raises(InputError, match="has a mask in"):
        program.cases(None, tmp_path / "pictures", tmp_path, None, 5)


def test_a_drawing_has_the_picture_and_its_map(tmp_path):
    mask = np.zeros((32, 32), bool)
    mask[4:12, 4:12] = True
    case = study.Case("a.png", "a", {}, np.full((32, 32, 3), 120, np.uint8), mask)
    saliency = maps.enlarged(np.eye(4), 32, 32)
    found = study.Finding(case, 1, saliency, (4, 4), scores.localisation(saliency, mask))
    drawing.draw(found, "glaucoma", tmp_path / "a.png")
    pixels = np.asarray(Image.open(tmp_path / "a.png"))
    left, right = pixels[28:428, :400], pixels[28:428, 412:812]
    assert (left == 255).all(-1).any() and not (right == 255).all(-1).any()
    bright = right.astype(int).sum(-1)
    assert bright[20, 20] > bright[20, 380] + 50  # a cell of the diagonal against one beside it
