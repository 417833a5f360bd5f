"""SKKU: two passes a tower, what reaches what, the options, pictures of reconstructions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines.errors import InputError
from retina_jax.models import MODELS
from retina_jax.models.bert import Bert
from retina_jax.models.coca_mim import CocaMim, cross_blocks
from retina_jax.models.decoder_blocks import Decoder
from retina_jax.models.image_decoder import ImageDecoder, patch_moments, patchify
from retina_jax.models.layers import CLIP_MEAN, CLIP_STD
from retina_jax.models.vit import ViT
from retina_jax.objectives.masked_image import MaskedImage
from retina_jax.objectives.masked_language import MaskedLanguage
from retina_jax.train import microbatch, sharding

rng = np.random.default_rng(0)
VIT = dict(width=8, depth=1, heads=2, mlp_dim=8, patch_size=4)
BERT = dict(vocab_size=20, width=12, depth=1, heads=2, mlp_dim=8, max_length=6, dropout=0.0,
            pool="cls")  # fmt: skip
TOWERS = {"image": {"name": "vit", **VIT}, "text": {"name": "bert", **BERT}}
BLOCKS = {"depth": 1, "heads": 2, "mlp_dim": 8}
WHOLE = {"towers": TOWERS, "dim": 5, "image_decoder": {"width": 16, **BLOCKS},
         "text_decoder": BLOCKS, "cross_attention": {**BLOCKS, "depth": 2},
         "mask_ratio": 0.5}  # fmt: skip
TEXT = np.array([[2, 5, 7, 3, 0, 0], [2, 8, 3, 0, 0, 0], [2, 9, 11, 12, 13, 3]], np.int32)
MASKED = np.zeros(TEXT.shape, bool)
MASKED[[0, 1, 2], [1, 1, 3]] = True
BATCH = {"image": rng.integers(0, 256, (3, 8, 12, 3), np.uint8), "text": TEXT,
         "text_mask": TEXT > 0, "masked_text": np.where(MASKED, 4, TEXT), "masked": MASKED,
         "patch_mask": np.array([[1, 0, 1, 0, 0, 1], [0, 0, 0, 1, 1, 1], [1, 1, 0, 0, 1, 0]],
                                bool)}  # fmt: skip
VISIBLE = np.array([[1, 3, 4], [0, 1, 2], [2, 3, 5]])
CROSSED = ("image_from_text", "text_from_image")


@pytest.fixture
def made(random_variables):
    """options -> (model, random variables)."""

    def make(**options):
        model = CocaMim(**{**WHOLE, **options})
        return model, random_variables(model, BATCH)

    return make


def test_outputs_are_the_parts_put_together(made, run):
    """Equations 1 to 7, the modules called one by one."""
    model, variables = made()
    params = variables["params"]

    def by_hand(params, batch):
        def apply(module, name, *args):
            return module.apply({"params": params[name]}, *args)

        pixels = (batch["image"] / 255 - np.array(CLIP_MEAN)) / np.array(CLIP_STD)
        image = apply(ViT(**VIT), "image", pixels)
        seen = apply(ViT(**VIT), "image", pixels, False, VISIBLE)["tokens"]
        mask = batch["text_mask"]
        text = apply(Bert(**BERT), "text", batch["text"], mask)
        words = apply(Bert(**BERT), "text", batch["masked_text"], mask)["tokens"]
        crossing = cross_blocks(**WHOLE["cross_attention"], dtype="float32")
        adaptor = params["image_adaptor"]
        seen = seen @ adaptor["kernel"] + adaptor["bias"]
        seen = apply(crossing, "image_from_text", seen, None, text["tokens"], mask)
        words = apply(crossing, "text_from_image", words, None, image["tokens"], None)
        predicted = ImageDecoder(width=16, **BLOCKS).apply(
            {"params": params["image_reconstruction"]}, seen, VISIBLE, (2, 3), 48
        )
        head = params["text_reconstruction"]
        blocks = Decoder(**BLOCKS, self_attention="full", cross_attention=False)
        words = blocks.apply({"params": head["blocks"]}, words, mask)
        logits = words @ params["text"]["word_embedding"]["embedding"].T + head["bias"]
        z = {
            key: pooled["pooled"] @ params[f"{key}_projection"]["kernel"]
            for key, pooled in (("image", image), ("text", text))
        }
        z = {k: v / jnp.linalg.norm(v, axis=1, keepdims=True) for k, v in z.items()}
        return {"z": z, "patches": patchify(pixels, 4), "predicted_patches": predicted,
                "logits": logits}  # fmt: skip

    out, expected = run(lambda p, b: (model.apply({"params": p}, b), by_hand(p, b)), params, BATCH)
    assert set(out) == {*expected, "scale", "hidden_patches"}
    np.testing.assert_array_equal(out["hidden_patches"], BATCH["patch_mask"])
    assert float(out["scale"]) == pytest.approx(1 / 0.07) and "logit_scale" not in params
    for name in expected:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), out[name],
                     expected[name])  # fmt: skip
    assert params["text_from_image"]["blocks"]["mlp"]["in"]["kernel"].shape == (2, 12, 8)


def gradients(model, variables):
    """Sums of the gradient sizes of each part, for the embeddings and for each term."""

    def sizes(params, weights):
        def loss(params):
            out = model.apply({"params": params}, BATCH)
            z = sum((z * jnp.arange(5)).sum() for z in out["z"].values())
            image = MaskedImage()(out, BATCH)["masked_image"]
            caption = MaskedLanguage("all")(out, BATCH)["masked_language"]
            return jnp.stack([z, image, caption]) @ weights

        gradient = jax.grad(loss)(params)
        return {k: sum(abs(x).sum() for x in jax.tree.leaves(v)) for k, v in gradient.items()}

    function = jax.jit(sizes)
    rows = np.eye(3, dtype=np.float32)
    made = [function(variables["params"], row) for row in rows]
    return dict(zip(("z", "image", "caption"), made, strict=True))


def test_the_attention_learns_through_the_decoders_only(made):
    size = gradients(*made())
    towers = {"image", "text"}
    reached = {name: {k for k, v in parts.items() if v > 0} for name, parts in size.items()}
    assert reached == {
        "z": towers | {"image_projection", "text_projection"},
        "image": towers | {"image_adaptor", "image_from_text", "image_reconstruction"},
        "caption": towers | {"text_from_image", "text_reconstruction"},
    }


@pytest.mark.slow
def test_contrasting_what_the_attention_made_reaches_it(made):
    size = gradients(*made(contrastive_on="updated"))
    assert all(size["z"][name] > 0 for name in (*CROSSED, "image_adaptor", "image", "text"))


def outputs_of(model, variables, *batches):
    function = jax.jit(model.apply)
    return [function(variables, batch) for batch in batches]


def test_embeddings_do_not_depend_on_the_attention(made, run):
    model, variables = made()
    params = variables["params"]
    other = {k: jax.tree.map(lambda x: x + 1, v) if k in CROSSED else v for k, v in params.items()}
    first, second = run(lambda *p: [model.apply({"params": q}, BATCH) for q in p], params, other)
    jax.tree.map(np.testing.assert_array_equal, first["z"], second["z"])
    for name in ("predicted_patches", "logits"):
        assert not np.allclose(first[name], second[name], atol=1e-3)


def repainted():
    """The batch with other pixels in the hidden patches."""
    hidden = np.repeat(np.repeat(BATCH["patch_mask"].reshape(3, 2, 3), 4, 1), 4, 2)
    return {**BATCH, "image": np.where(hidden[..., None], 255 - BATCH["image"], BATCH["image"])}


@pytest.mark.parametrize(
    ("context", "masked_patches"), [("clean", "left_out"), ("masked", "mask_token")]
)
def test_hidden_pixels_and_words_stay_hidden(made, context, masked_patches):
    model, variables = made(context=context, masked_patches=masked_patches)
    reworded = {**BATCH, "text": np.where(MASKED, 19, TEXT)}
    given, pixels, words = outputs_of(model, variables, BATCH, repainted(), reworded)
    np.testing.assert_allclose(pixels["predicted_patches"], given["predicted_patches"], atol=1e-5)
    np.testing.assert_allclose(words["logits"], given["logits"], atol=1e-5)
    # The clean pass of the other modality shows what the masked one hides; that is the default.
    for name, out in (("logits", pixels), ("predicted_patches", words)):
        assert np.allclose(out[name], given[name], atol=1e-4) == (context == "masked")
    for out in (pixels, words):
        assert not all(np.allclose(out["z"][k], given["z"][k], atol=1e-3) for k in out["z"])


def test_padding_has_no_influence(made):
    model, variables = made(contrastive_on="updated")
    padded = {**BATCH, **{k: np.where(TEXT > 0, BATCH[k], 17) for k in ("text", "masked_text")}}
    first, second = outputs_of(model, variables, BATCH, padded)
    real = TEXT > 0
    np.testing.assert_allclose(first["logits"][real], second["logits"][real], atol=1e-5)
    for name in ("z", "predicted_patches"):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
                     first[name], second[name])  # fmt: skip
    losses = [MaskedLanguage("all")(out, b) for out, b in ((first, BATCH), (second, padded))]
    values = [float(loss["masked_language"]) for loss in losses]
    assert values[0] == pytest.approx(values[1], rel=1e-5)


def test_parts_can_be_left_out():
    """The ablations: each has the parameters of what it uses, and the outputs of that."""
    towers = {"image", "image_projection", "text", "text_projection"}
    image = {"image_adaptor", "image_reconstruction"}
    cases = (
        (dict(image_decoder=None, text_decoder=None, cross_attention=None), towers, set()),
        (dict(text_decoder=None, cross_attention=None), towers | image, {"patches"}),
        (dict(cross_attention=None), towers | image | {"text_reconstruction"},
         {"patches", "logits"}),
        (dict(text_decoder=None), towers | image | {"image_from_text"}, {"patches"}),
        (dict(image_decoder=None), towers | {"text_reconstruction", "text_from_image"},
         {"logits"}),
        (dict(image_decoder=None, context="masked", masked_patches="mask_token"),
         towers | {"text_reconstruction", "text_from_image", "mask_token"}, {"logits"}),
    )  # fmt: skip
    for options, parts, outputs in cases:
        model = CocaMim(**{**WHOLE, **options})
        out, variables = jax.eval_shape(
            lambda model=model: model.init_with_output(jax.random.key(0), BATCH)
        )
        assert set(variables["params"]) == parts
        assert {name for name in ("patches", "logits") if name in out} == outputs


def test_random_patches_are_drawn_for_each_step_and_fixed_without_training(made, run):
    model, variables = made(mask_ratio=0.7)
    batch = {k: v for k, v in BATCH.items() if k != "patch_mask"}

    def hidden(variables):
        def train(seed):
            rngs = {"dropout": jax.random.key(seed)}
            return model.apply(variables, batch, train=True, rngs=rngs)["hidden_patches"]

        def fixed():
            return model.apply(variables, batch)["hidden_patches"]

        return train(0), train(0), train(1), fixed(), fixed()

    first, again, other, *fixed = run(hidden, variables)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(*fixed)
    assert (first != other).any() and (first[0] != first[1]).any() | (first[1] != first[2]).any()
    for mask in (first, other, *fixed):
        assert mask.sum(axis=1).tolist() == [4, 4, 4]  # 6 patches, round(0.3 * 6) stay


def test_a_mask_of_another_number_of_patches_hides_what_is_not_seen(made):
    model, variables = made()
    masks = np.zeros((3, 6), bool), np.array([[1, 1, 1, 1, 1, 0]] * 3, bool)
    none, most = outputs_of(model, variables, *({**BATCH, "patch_mask": mask} for mask in masks))
    assert none["hidden_patches"].tolist() == [[False] * 3 + [True] * 3] * 3
    assert most["hidden_patches"].tolist() == [[False] * 2 + [True] * 3 + [False]] * 3


@pytest.mark.parametrize("normalize", [False, True])
def test_reconstructions_are_the_predictions_as_colours(made, run, normalize):
    model, variables = made(normalize_patches=normalize)

    def both(variables):
        return model.apply(variables, BATCH), model.apply(variables, BATCH, method="reconstruct")

    out, shown = run(both, variables)
    predicted = np.asarray(out["predicted_patches"])
    raw = patchify((BATCH["image"] / 255 - np.array(CLIP_MEAN)) / np.array(CLIP_STD), 4)
    if normalize:
        mean, deviation = patch_moments(raw)
        np.testing.assert_allclose(out["patches"], (raw - mean) / deviation, rtol=1e-3, atol=1e-4)
        predicted = predicted * deviation + mean
    colours = np.clip(
        np.asarray(predicted).reshape(3, 6, 16, 3) * np.array(CLIP_STD) + np.array(CLIP_MEAN), 0, 1
    )
    given = patchify(BATCH["image"] / 255, 4).reshape(3, 6, 16, 3)
    hidden = BATCH["patch_mask"]
    error = [np.square(colours - given)[i][hidden[i]].mean() for i in range(3)]
    np.testing.assert_allclose(shown["error"], error, rtol=1e-3)
    colour = [given[i][~hidden[i]].mean(axis=(0, 1)) for i in range(3)]
    error = [np.square(colour[i] - given[i][hidden[i]]).mean() for i in range(3)]
    np.testing.assert_allclose(shown["error_of_mean"], error, rtol=1e-3)
    np.testing.assert_array_equal(shown["given"], BATCH["image"])
    patches = patchify(np.asarray(shown["reconstructed"]), 4).reshape(3, 6, 16, 3)
    np.testing.assert_allclose(patches, 255 * colours, atol=0.51)
    visible = patchify(np.asarray(shown["visible"]), 4)
    assert (visible[hidden] == 128).all()
    np.testing.assert_array_equal(visible[~hidden], patchify(BATCH["image"], 4)[~hidden])


def test_one_modality_is_embedded_as_it_is_trained_without_the_attention(made, run):
    """With contrastive_on='updated' too: what is projected is what the attention adds to."""
    for option in ("encoder", "updated"):
        model, variables = made(contrastive_on=option)
        silent = {
            name: jax.tree.map(jnp.zeros_like, part) if name in CROSSED else part
            for name, part in variables["params"].items()
        }

        def both(params, model=model):
            variables = {"params": params}
            photographs = {"image": BATCH["image"]}
            texts = {key: BATCH[key] for key in ("text", "text_mask")}
            alone = [model.apply(variables, b, method="embed") for b in (photographs, texts)]
            tokens = Bert(**BERT).apply({"params": params["text"]}, *texts.values())["tokens"]
            first = tokens[:, 0] @ params["text_projection"]["kernel"]
            return alone[0] | alone[1], model.apply(variables, BATCH)["z"], first

        alone, together, first = run(both, silent)
        first /= jnp.linalg.norm(first, axis=1, keepdims=True)
        np.testing.assert_allclose(alone["text"], first, rtol=1e-3, atol=1e-4)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), alone, together
        )


def test_a_causal_decoder_writes_from_the_picture(made):
    options = {"vocab_size": 20, "width": 8, **BLOCKS}
    model, variables = made(caption_mode="causal", text_decoder=options)
    later = TEXT.copy()
    later[2, 4] = 15
    batches = (BATCH, {**BATCH, "text": later}, repainted())
    given, *others = outputs_of(model, variables, *batches)
    logits, (text, image) = given["caption_logits"], (out["caption_logits"] for out in others)
    np.testing.assert_allclose(logits[2, :4], text[2, :4], atol=1e-5)
    assert not np.allclose(logits[2, 4], text[2, 4], atol=1e-3)
    assert not np.allclose(logits, image, atol=1e-3)
    assert logits.shape == (3, 5, 20) and "logits" not in given
    assert "text_from_image" not in variables["params"]


def test_half_precision_ends_in_floats(made, run):
    model, variables = made(dtype="bfloat16")
    full, _ = made()
    half, out = run(lambda v: (model.apply(v, BATCH), full.apply(v, BATCH)), variables)
    for name in ("predicted_patches", "logits", "patches"):
        assert half[name].dtype == jnp.float32
        np.testing.assert_allclose(half[name], out[name], atol=0.15)
    np.testing.assert_allclose(half["z"]["image"], out["z"]["image"], atol=0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"towers": {"image": TOWERS["image"]}}, r"has towers \['image', 'text'\]"),
        ({"towers": {**TOWERS, "image": {**TOWERS["image"], "token_drop": 0.5}}}, "token_drop"),
        ({"towers": {**TOWERS, "image": {**TOWERS["image"], "pool": "patch_mean"}}}, "patch_mean"),
        ({"masked_patches": "noise"}, r"masked_patches \['left_out', 'mask_token'\], not 'noise'"),
        ({"context": "both"}, "context"),
        ({"contrastive_on": "decoder"}, "contrastive_on"),
        ({"caption_mode": "prefix"}, "caption_mode"),
        ({"mask_ratio": 1.0}, "mask_ratio is a share between 0 and 1"),
        ({"mask_ratio": 0.01}, "leaves 6 of 6 patches visible"),
        ({"cross_attention": None, "context": "masked"}, "needs the option cross_attention"),
        ({"cross_attention": None, "contrastive_on": "updated"}, "needs the option cross_att"),
        ({"image_decoder": None, "contrastive_on": "updated"}, "needs both decoders"),
        ({"image_decoder": None, "text_decoder": None}, "learns through the decoders only"),
        ({"image_decoder": {"wide": 3}}, "image_decoder has no option 'wide'"),
        ({"cross_attention": {"self_attention": "full"}}, "cross_attention has no option"),
    ],
)  # fmt: skip
def test_errors_name_the_remedy(options, message):
    with pytest.raises(InputError, match=message):
        jax.eval_shape(MODELS["coca_mim"](**{**WHOLE, **options}).init, jax.random.key(0), BATCH)


@pytest.mark.parametrize(("batch", "message"),
                         [({"masked_text": None}, "coca_mim needs 'masked_text'"),
                          ({"patch_mask": np.zeros((3, 4), bool)},
                           "patch_mask has 4 patches, .* 6")])  # fmt: skip
def test_batches_that_do_not_fit(batch, message):
    batch = {k: v for k, v in {**BATCH, **batch}.items() if v is not None}
    with pytest.raises(InputError, match=message):
        jax.eval_shape(CocaMim(**WHOLE).init, jax.random.key(0), batch)


def test_microbatches_give_the_outputs_of_the_batch(made):
    """With masks of the pipeline: random ones are drawn for each microbatch, as dropout is."""
    model, variables = made()
    planned = microbatch.plan(1, {"": 3}, sharding.make_mesh(1, 1, jax.devices()[:1]))
    forward = microbatch.forward(model, planned)
    rng = jax.random.key(0)
    cut, _ = jax.jit(lambda p, b: forward(p, {}, b, rng))(variables["params"], BATCH)
    (whole,) = outputs_of(model, variables, BATCH)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), cut, whole)
