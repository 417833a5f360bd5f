"""Pictures alone. tests/convert/test_retfound.py has MAE's values."""

import jax
import numpy as np
import pytest

from data_pipelines.errors import InputError
from retina_jax.build import build
from retina_jax.models import MODELS
from retina_jax.models.coca_mim import CocaMim
from retina_jax.objectives.masked_image import MaskedImage

VIT = {"name": "vit", "width": 12, "depth": 1, "heads": 3, "mlp_dim": 16, "patch_size": 8}
DECODER = {"width": 8, "depth": 1, "heads": 2, "mlp_dim": 8}
SPEC = {"name": "masked_autoencoder", "towers": {"image": VIT}, "image_decoder": DECODER}
IMAGES = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)


def test_it_is_the_half_of_coca_mim_that_reads_pictures(random_variables, run):
    text = {"name": "bert", "vocab_size": 9, "width": 8, "depth": 1, "heads": 2, "mlp_dim": 8}
    both = CocaMim(towers={"image": VIT, "text": text}, image_decoder=DECODER)
    words = np.ones((2, 3), np.int32)
    batch = {"image": IMAGES, "text": words, "text_mask": words > 0}
    model = build(MODELS, SPEC)
    variables = random_variables(both, batch)
    names = {"image", "image_adaptor", "image_reconstruction"}
    shapes = jax.eval_shape(model.init, jax.random.key(0), {"image": IMAGES})
    assert set(shapes["params"]) == names
    own = {"params": {name: variables["params"][name] for name in names}}

    def outputs(variables, own):
        pictures = {"image": IMAGES}
        made = model.apply(own, pictures, method="reconstruct")
        return both.apply(variables, batch), model.apply(own, pictures), made

    expected, out, made = run(outputs, variables, own)
    assert set(out) == {"patches", "predicted_patches", "hidden_patches"}
    for name, value in out.items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=1e-5)
    assert made["reconstructed"].shape == IMAGES.shape
    assert float(MaskedImage(hidden_only=True)(out, {})["masked_image"]) > 0


def test_embeddings_are_unit_rows_of_whole_pictures(random_variables, run):
    model = build(MODELS, SPEC)
    variables = random_variables(model, {"image": IMAGES})

    def both(variables):
        return [model.apply(variables, {"image": IMAGES}, method=m) for m in ("embed", "features")]

    embedded, features = run(both, variables)
    lengths = np.linalg.norm(features["image"], axis=1, keepdims=True)
    np.testing.assert_allclose(embedded["image"], features["image"] / lengths, rtol=1e-5)


def test_an_option_of_texts_is_none_of_its_own():
    with pytest.raises(InputError, match="no option 'text_decoder'"):
        build(MODELS, {**SPEC, "text_decoder": {}})


def test_convolutions_keep_the_statistics_they_began_with(random_variables, run):
    """They learn from what a colour hides, and are used with the same statistics."""
    image = {"name": "resnet", "depth": 18, "width": 2}
    model = build(MODELS, {**SPEC, "towers": {"image": image}, "masked_patches": "mask_token"})
    batch = {"image": np.resize(IMAGES, (2, 64, 64, 3))}
    variables = random_variables(model, batch)

    def loss(params):
        given = {**variables, "params": params}
        rngs = {"dropout": jax.random.key(0)}
        out, after = model.apply(given, batch, train=True, mutable=["batch_stats"], rngs=rngs)
        return MaskedImage(hidden_only=True)(out, {})["masked_image"], after

    gradient, after = run(jax.grad(loss, has_aux=True), variables["params"])
    jax.tree.map(np.testing.assert_array_equal, after["batch_stats"], variables["batch_stats"])
    for part in (gradient["image"], gradient["mask_token"]):
        assert any(np.abs(leaf).sum() > 0 for leaf in jax.tree.leaves(part))


@pytest.mark.parametrize(("change", "sentence"),
                         [({"towers": {"image": VIT, "text": VIT}}, "has one tower, 'image'"),
                          ({"image_decoder": None}, "needs image_decoder"),
                          ({"learn_scale": True}, "leave out learn_scale"),
                          ({"bias_init": -10.0}, "leave out bias_init"),
                          ({"towers": {"image": {"name": "resnet"}}}, "leave no patches out"),
                          ({"mask_ratio": 1.0}, "between 0 and 1"),
                          ({"masked_patches": "blurred"}, "not 'blurred'")])  # fmt: skip
def test_options_that_mean_nothing_here_are_refused(change, sentence):
    model = build(MODELS, {**SPEC, **change})
    with pytest.raises(InputError, match=sentence):
        jax.eval_shape(model.init, jax.random.key(0), {"image": IMAGES})
