"""Towers that meet in one space: names, projections, the scale, and partial batches."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines.errors import InputError
from retina_jax.losses import contrastive
from retina_jax.models.dual import Dual

pytestmark = pytest.mark.fast

VIT = {"name": "vit", "width": 8, "depth": 1, "heads": 2, "mlp_dim": 8, "patch_size": 8}
BERT = dict(name="bert", vocab_size=20, width=12, depth=1, heads=2, mlp_dim=8, max_length=6)
TOWERS = {"image": VIT, "text": BERT}

rng = np.random.default_rng(0)
BATCH = {"image": rng.integers(0, 256, size=(3, 16, 16, 3), dtype=np.uint8),
         "text": np.array([[2, 4, 3, 0], [2, 5, 9, 3], [2, 3, 0, 0]], np.int32)}  # fmt: skip
BATCH["text_mask"] = BATCH["text"] > 0


def test_outputs_and_the_names_of_parameters(random_variables, run):
    model = Dual(towers=TOWERS, dim=5)
    variables = random_variables(model, BATCH)
    expected = {"image", "image_projection", "text", "text_projection", "logit_scale"}
    assert set(variables["params"]) == expected
    assert variables["params"]["image_projection"]["kernel"].shape == (8, 5)
    assert set(variables["params"]["text_projection"]) == {"kernel"}
    out = run(model.apply, variables, BATCH)
    assert set(out["z"]) == {"image", "text"}
    for z in out["z"].values():
        assert z.shape == (3, 5) and z.dtype == jnp.float32
        np.testing.assert_allclose(np.linalg.norm(z, axis=1), 1, rtol=1e-5)


def features_and_embeddings(model, variables):
    return [model.apply(variables, BATCH, method=name) for name in ("features", "embed")]


def test_embeddings_are_flairs_with_its_two_normalisations(random_variables, run):
    model = Dual(towers=TOWERS, dim=5)
    variables = random_variables(model, BATCH)
    features, z = run(partial(features_and_embeddings, model), variables)
    for key in TOWERS:
        x = np.asarray(features[key], np.float64)
        lengths = np.linalg.norm(x, axis=1, keepdims=True)
        assert not np.allclose(lengths, 1)  # features are not normalised
        y = x / lengths @ variables["params"][f"{key}_projection"]["kernel"]
        expected = y / np.linalg.norm(y, axis=1, keepdims=True)
        np.testing.assert_allclose(z[key], expected, rtol=1e-4, atol=1e-5)


def test_a_projection_with_a_bias(random_variables, run):
    model = Dual(towers=TOWERS, dim=5, projection_bias=("image",))
    variables = random_variables(model, BATCH)
    names = {key: set(variables["params"][f"{key}_projection"]) for key in TOWERS}
    assert names == {"image": {"kernel", "bias"}, "text": {"kernel"}}
    features, z = run(partial(features_and_embeddings, model), variables)
    projection = variables["params"]["image_projection"]
    y = np.asarray(features["image"]) @ projection["kernel"] + projection["bias"]
    expected = y / np.linalg.norm(y, axis=1, keepdims=True)
    np.testing.assert_allclose(z["image"], expected, rtol=1e-4, atol=1e-5)


def test_a_bias_for_a_tower_that_is_not_there():
    model = Dual(towers=TOWERS, projection_bias=("oct",))
    with pytest.raises(InputError, match=r"projection_bias names \['oct'\]"):
        jax.eval_shape(model.init, jax.random.key(0), BATCH)


def scale_of(model, variables, value=None):
    if value is not None:
        variables = {**variables, "params": {**variables["params"], "logit_scale": value}}
    return float(model.apply(variables, method=lambda m: m._scale()))


def test_scale_starts_at_its_first_value_and_keeps_its_bounds(random_variables):
    model = Dual(towers=TOWERS)
    assert scale_of(model, {"params": {}}, np.float32(np.log(1 / 0.07))) == pytest.approx(1 / 0.07)
    variables = random_variables(model, BATCH)
    assert scale_of(model, variables, np.float32(9.0)) == pytest.approx(math.exp(4.6052), rel=1e-6)
    assert scale_of(model, variables, np.float32(-2.0)) == pytest.approx(1)
    cooler = Dual(towers=TOWERS, scale_max=20.0)
    assert scale_of(cooler, variables, np.float32(9.0)) == pytest.approx(20, rel=1e-5)


def test_initial_value_of_the_scale():
    params = Dual(towers={}).init(jax.random.key(0), {})["params"]
    assert float(params["logit_scale"]) == pytest.approx(2.6593, abs=1e-4)


def test_a_fixed_scale_is_no_parameter(random_variables):
    model = Dual(towers=TOWERS, learn_scale=False, scale_init=30.0)
    variables = random_variables(model, BATCH)
    assert "logit_scale" not in variables["params"]
    assert scale_of(model, variables) == 30.0


def test_a_bias_of_the_logits_where_asked_for(random_variables, run):
    model = Dual(towers={"image": VIT}, dim=5, bias_init=-10.0)
    variables = random_variables(model, BATCH)
    assert float(run(model.apply, variables, BATCH)["bias"]) == variables["params"]["logit_bias"]
    first, _ = Dual(towers={}, bias_init=-10.0).init_with_output(jax.random.key(0), {})
    assert float(first["bias"]) == -10 and first["bias"].dtype == jnp.float32
    without, _ = Dual(towers={}).init_with_output(jax.random.key(0), {})
    assert "bias" not in without


def test_towers_of_the_keys_in_the_batch_only(random_variables, run):
    model = Dual(towers=TOWERS, dim=5)
    variables = random_variables(model, BATCH)
    texts = {key: BATCH[key] for key in ("text", "text_mask")}

    def methods(variables, batch):
        return [model.apply(variables, batch, method=name) for name in ("embed", "features")]

    z, features = run(methods, variables, texts)
    assert set(z) == set(features) == {"text"}
    assert features["text"].shape == (3, 12)
    whole = run(model.apply, variables, BATCH)
    np.testing.assert_allclose(z["text"], whole["z"]["text"], atol=1e-5)


def test_any_keys_can_be_paired(random_variables, run):
    towers = {"image": VIT, "oct": {**VIT, "width": 4}, "text": BERT}
    model = Dual(towers=towers, dim=5)
    batch = {**BATCH, "oct": BATCH["image"][:, ::2, ::2]}
    variables = random_variables(model, batch)
    assert set(run(model.apply, variables, batch)["z"]) == {"image", "oct", "text"}


def test_bytes_equal_fractions_and_mean_and_std_are_applied(random_variables, run):
    images = {"image": BATCH["image"]}
    fractions = {"image": BATCH["image"].astype(np.float32) / 255}
    model = Dual(towers={"image": VIT}, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    variables = random_variables(model, images)
    shifted = {"image": (fractions["image"] - [0.1, 0.2, 0.3]) / [0.5, 0.6, 0.7]}
    plain = Dual(towers={"image": VIT})

    def embeddings(variables):
        return [
            m.apply(variables, b, method="embed")["image"]
            for m, b in ((model, images), (model, fractions), (plain, shifted), (plain, images))
        ]

    bytes_, floats, by_hand, without = run(embeddings, variables)
    np.testing.assert_allclose(bytes_, floats, atol=1e-5)
    np.testing.assert_allclose(bytes_, by_hand, atol=1e-5)
    assert not np.allclose(bytes_, without, atol=1e-2)


def test_black_images_and_empty_texts_have_finite_gradients(random_variables, run):
    batch = {key: np.zeros_like(value) for key, value in BATCH.items()}
    model = Dual(towers=TOWERS, dim=5)
    variables = random_variables(model, batch)

    def loss(params):
        out = model.apply({"params": params}, batch)
        return contrastive.softmax(out["z"]["image"], out["z"]["text"], out["scale"])

    value, gradient = run(jax.value_and_grad(loss), variables["params"])
    assert np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_bfloat16_computes_in_the_towers_only(random_variables, run):
    towers = {"image": VIT}
    exact, coarse = (Dual(towers=towers, dim=5, dtype=d) for d in ("float32", "bfloat16"))
    variables = random_variables(coarse, BATCH)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype("float32")}
    out = run(coarse.apply, variables, BATCH)
    assert out["z"]["image"].dtype == out["scale"].dtype == jnp.float32
    expected = run(exact.apply, variables, BATCH)["z"]["image"]
    difference = np.abs(out["z"]["image"] - expected).max()
    assert 0 < difference < 0.1  # the option reaches the towers, and they stay close


def test_errors_name_the_remedy():
    def init(batch=BATCH, **options):
        model = Dual(**{"towers": TOWERS, **options})
        jax.eval_shape(model.init, jax.random.key(0), batch)

    with pytest.raises(InputError, match="'text' tower needs 'text_mask'"):
        init(batch={key: BATCH[key] for key in ("image", "text")})
    with pytest.raises(InputError, match="no 'vitt' here.*'vit'"):
        init(towers={"image": {"name": "vitt"}})
    with pytest.raises(InputError, match="no option 'widht'.*'width'"):
        init(towers={"image": {"name": "vit", "widht": 3}})
