"""SKKU with an image tower of convolutions: what it hides, and what its statistics are of."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines.errors import InputError
from retina_jax.build import build
from retina_jax.models.coca_mim import CocaMim, cross_blocks
from retina_jax.models.image_decoder import ImageDecoder
from retina_jax.models.layers import CLIP_MEAN, CLIP_STD
from retina_jax.models.towers import TOWERS

rng = np.random.default_rng(0)
IMAGE = {
    "efficientnet": {"name": "efficientnet", "width": 0.1, "depth": 0.1},
    "resnet": {"name": "resnet", "depth": 18, "width": 2},
    "clip_resnet": {"name": "clip_resnet", "depths": (1, 1, 1, 1), "width": 2, "heads": 1},
}
TEXT = {"name": "bert", "vocab_size": 20, "width": 12, "depth": 1, "heads": 2, "mlp_dim": 8,
        "max_length": 6, "dropout": 0.0, "pool": "cls"}  # fmt: skip
BLOCKS = {"depth": 1, "heads": 2, "mlp_dim": 8}
PARTS = {"image_decoder": {"width": 16, **BLOCKS}, "text_decoder": BLOCKS,
         "cross_attention": BLOCKS, "masked_patches": "mask_token", "mask_ratio": 0.5}  # fmt: skip
WORDS = np.array([[2, 5, 7, 3, 0, 0], [2, 8, 3, 0, 0, 0], [2, 9, 11, 12, 13, 3]], np.int32)
HIDDEN = np.array([[1, 0, 1, 0, 0, 1], [0, 0, 0, 1, 1, 1], [1, 1, 0, 0, 1, 0]], bool)
# Of the pixels of 2 x 3 patches.
COVERED = np.repeat(np.repeat(HIDDEN.reshape(3, 2, 3), 32, 1), 32, 2)[..., None]
BATCH = {"image": rng.integers(0, 256, (3, 64, 96, 3), np.uint8), "text": WORDS,
         "text_mask": WORDS > 0, "masked_text": np.where(WORDS == 3, 4, WORDS),
         "masked": WORDS == 3, "patch_mask": HIDDEN}  # fmt: skip


def model(name, **options):
    return CocaMim(towers={"image": IMAGE[name], "text": TEXT}, dim=5, **{**PARTS, **options})


def normalised(image):
    return (image / 255 - np.array(CLIP_MEAN)) / np.array(CLIP_STD)


@pytest.mark.parametrize("name", IMAGE)
def test_a_learned_colour_covers_what_is_hidden(name, random_variables, run):
    """Each place of the last map is a patch: equation 3 on the covered picture, by hand."""
    made = model(name)
    variables = random_variables(made, BATCH)

    def by_hand(variables):
        own = {kind: part["image"] for kind, part in variables.items() if "image" in part}
        params = variables["params"]
        image = jnp.where(COVERED, params["mask_token"], normalised(BATCH["image"]))
        map_ = build(TOWERS, IMAGE[name]).apply(own, image.astype(jnp.float32))["map"]
        tokens = map_.reshape(3, 6, -1) @ params["image_adaptor"]["kernel"]
        tokens += params["image_adaptor"]["bias"]
        text = build(TOWERS, TEXT).apply({"params": params["text"]}, WORDS, WORDS > 0)["tokens"]
        tokens = cross_blocks(**BLOCKS, dtype="float32").apply(
            {"params": params["image_from_text"]}, tokens, None, text, WORDS > 0
        )
        decoder = {"params": params["image_reconstruction"]}
        return ImageDecoder(width=16, **BLOCKS).apply(decoder, tokens, None, (2, 3), 32 * 32 * 3)

    def outputs(variables):
        shown = made.apply(variables, BATCH, method="reconstruct")
        return made.apply(variables, BATCH), by_hand(variables), shown

    out, expected, shown = run(outputs, variables)
    np.testing.assert_allclose(out["predicted_patches"], expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(out["hidden_patches"], HIDDEN)
    grey = np.where(COVERED, 128, BATCH["image"])
    np.testing.assert_array_equal(shown["visible"], grey)
    assert variables["params"]["mask_token"].shape == (3,)


def test_nothing_is_learned_through_statistics(random_variables, run):
    """The hidden pass normalises by what the clean one has just recorded, as by constants."""
    made = model("resnet", cross_attention=None)
    variables = random_variables(made, BATCH)

    def loss(params, recorded):
        given = {**variables, "params": params}
        if recorded is None:
            return made.apply(given, BATCH, train=True, mutable=["batch_stats"])[0][
                "predicted_patches"
            ].std()
        return made.apply({**given, **recorded}, BATCH)["predicted_patches"].std()

    def gradients(params):
        _, recorded = made.apply(variables, BATCH, train=True, mutable=["batch_stats"])
        return jax.grad(loss)(params, None), jax.grad(loss)(params, recorded)

    together, apart = run(gradients, variables["params"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), together,
                 apart)  # fmt: skip


def test_statistics_are_of_whole_pictures(random_variables, run):
    """With or without a pass of covered ones they come to the same."""
    alone = {"image_decoder": None, "text_decoder": None, "cross_attention": None}
    whole, contrast = model("resnet"), model("resnet", **alone)
    variables = random_variables(whole, BATCH)
    kept = ("image", "text", "image_projection", "text_projection")
    less = {**variables, "params": {name: variables["params"][name] for name in kept}}

    def statistics(*both):
        return [
            made.apply(given, BATCH, train=True, mutable=["batch_stats"])[1]["batch_stats"]
            for made, given in zip((whole, contrast), both, strict=True)
        ]

    (first, second) = run(statistics, variables, less)
    jax.tree.map(np.testing.assert_array_equal, first, second)
    before = jax.tree.leaves(variables["batch_stats"])
    assert all((a != b).any() for a, b in zip(jax.tree.leaves(first), before, strict=True))


@pytest.mark.parametrize("on", ["encoder", "updated"])
def test_places_of_the_map_learn_from_words(on, random_variables, run):
    made = model("efficientnet", contrastive_on=on)
    variables = random_variables(made, BATCH)

    def loss(params):
        out = made.apply({**variables, "params": params}, BATCH)
        return out["logits"].std() + out["z"]["image"].std()

    gradient = run(jax.grad(loss), variables["params"])
    assert np.abs(gradient["image"]["stem_conv"]["kernel"]).sum() > 0
    assert made.apply(variables, BATCH, method="embed")["image"].shape == (3, 5)


@pytest.mark.parametrize(
    ("options", "size", "message"),
    [
        ({"masked_patches": "left_out"}, (64, 96), "leave no patches out: .*mask_token"),
        (
            {"text_decoder": None, "cross_attention": None},
            (64, 80),
            "64 x 80 pixels cannot be cut into patches of 32",
        ),
    ],
)
def test_errors_name_the_remedy(options, size, message):
    batch = {**BATCH, "image": np.zeros((3, *size, 3), np.uint8)}
    with pytest.raises(InputError, match=message):
        jax.eval_shape(model("resnet", **options).init, jax.random.key(0), batch)


def test_where_nothing_is_hidden_nothing_is_asked_for():
    """CLIP's part of it, with the default of `masked_patches`."""
    made = CocaMim(towers={"image": IMAGE["resnet"], "text": TEXT}, dim=5)
    out = jax.eval_shape(lambda: made.init_with_output(jax.random.key(0), BATCH)[0])
    assert set(out) == {"z", "scale"}


def test_a_volume_has_no_patches():
    towers = {"image": {"name": "resnet3d"}, "text": TEXT}
    with pytest.raises(InputError, match="a 'resnet3d' tower has no patch_size"):
        jax.eval_shape(CocaMim(towers=towers, **PARTS).init, jax.random.key(0), BATCH)
