"""The captioner: cases and pictures, padding, streams, and what it writes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines.errors import InputError
from retina_jax.models.captioner import Captioner
from retina_jax.objectives.caption import CaptionLoss

rng = np.random.default_rng(0)
ROWS, LENGTH, WORDS, SIZE = 3, 6, 9, 32
VIT = {"name": "vit", "width": 8, "depth": 1, "heads": 2, "mlp_dim": 8, "patch_size": 16}
RESNET = {"name": "resnet", "depth": 18, "width": 4}
SMALL = {"width": 8, "depth": 1, "heads": 2, "mlp_dim": 8, "max_length": 5, "scan": False}


def captioner(tower=VIT, **options):
    given = {"vocab_size": WORDS, "bos_id": 2, "eos_id": 3, **SMALL, **options}
    return Captioner(tower=tower, **given)


def batch(rows=ROWS, length=LENGTH):
    mask = np.arange(length) < rng.integers(3, length + 1, rows)[:, None]
    mask[0] = np.arange(length) < 3
    text = np.where(mask, rng.integers(1, WORDS, (rows, length)), 0).astype(np.int32)
    image = rng.integers(0, 256, (rows, SIZE, SIZE, 3), np.uint8)
    return {"image": image, "text": text, "text_mask": mask}


def test_captions_ignore_padding(random_variables, run):
    model, given = captioner(), batch()
    variables = random_variables(model, given)
    noise = np.where(given["text_mask"], given["text"], rng.integers(1, WORDS, (ROWS, LENGTH)))
    longer = {"image": given["image"], "text": np.pad(given["text"], ((0, 0), (0, 4))),
              "text_mask": np.pad(given["text_mask"], ((0, 0), (0, 4)))}  # fmt: skip

    def loss(params, given):
        return CaptionLoss()(model.apply({"params": params}, given), given)["caption"]

    def all_three(params):
        return [
            jax.value_and_grad(loss)(params, rows)
            for rows in (given, {**given, "text": noise.astype(np.int32)}, longer)
        ]

    first, *others = run(all_three, variables["params"])
    for value, gradient in others:
        np.testing.assert_allclose(value, first[0], rtol=1e-5)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), gradient, first[1])
    # Words that only stand in the padding are not learned from as inputs.
    table = first[1]["text_decoder"]["embedding"]["embedding"]
    read = set(given["text"][:, :-1][given["text_mask"][:, 1:]])
    assert {i for i in range(WORDS) if abs(table[i]).max() > 0} == read


def test_the_loss_is_the_mean_over_words_of_all_streams(random_variables, run):
    model = captioner()
    streams = {"reports": batch(3), "expert": batch(2)}
    variables = random_variables(model, streams)
    out = run(lambda v: model.apply(v, streams), variables)
    assert {k: v.shape for k, v in out["caption_logits"].items()} == {
        "reports": (3, LENGTH - 1, WORDS),
        "expert": (2, LENGTH - 1, WORDS),
    }
    total, count = 0.0, 0
    for name, rows in streams.items():
        alone = run(lambda v, rows=rows: model.apply(v, rows), variables)["caption_logits"]
        np.testing.assert_allclose(alone, out["caption_logits"][name], atol=1e-5)
        scores = np.asarray(jax.nn.log_softmax(alone))
        for row in range(len(alone)):
            for place in range(1, int(rows["text_mask"][row].sum())):
                total -= scores[row, place - 1, rows["text"][row, place]]
                count += 1
    np.testing.assert_allclose(CaptionLoss()(out, streams)["caption"], total / count, rtol=1e-5)


@pytest.mark.parametrize("tower", [VIT, {**VIT, "pool": "mean"}, RESNET], ids=str)
def test_a_case_is_the_mean_of_its_patch_features(tower, random_variables, run):
    model, given = captioner(tower), batch(2)
    variables = random_variables(model, given)
    images = np.stack([given["image"], given["image"][::-1], given["image"]], axis=1)
    case = {"images": images, "images_mask": np.array([[1, 0, 0], [1, 1, 0]], bool),
            "text": given["text"], "text_mask": given["text_mask"]}  # fmt: skip

    def patches(module, rows):
        return module._trunk(rows, False)

    def both(variables):
        return [
            (
                model.apply(variables, rows),
                model.apply(variables, rows, method="features")["image"],
                model.apply(variables, rows, method=patches)["patches"],
            )
            for rows in (given, case)
        ]

    (alone, features, found), (of_case, features_of_case, found_of_case) = run(both, variables)
    np.testing.assert_allclose(of_case["caption_logits"][0], alone["caption_logits"][0], atol=1e-4)
    # Batches of other sizes are summed in another order: a few units of the largest one's rounding.
    for ours, mean in ((features_of_case[1], features.mean(0)), (found_of_case[1], found.mean(0))):
        np.testing.assert_allclose(ours, mean, rtol=1e-5, atol=4e-7 * np.abs(mean).max() + 1e-5)
    assert found.shape[1] == (1 if tower is RESNET else 4)


def test_generation_reads_pictures_only_and_follows_the_scores(random_variables, run):
    given = batch(8)
    model = captioner(decoding={"name": "greedy"})
    variables = random_variables(model, given, seed=2)
    variables["params"]["text_decoder"]["embedding"]["embedding"] *= 0.1

    def write(variables):
        return model.apply(variables, {"image": given["image"]}, method="generate")["generated"]

    found = np.asarray(run(write, variables))
    assert found.shape == (8, SMALL["max_length"])
    text = np.concatenate([np.full((8, 1), 2, np.int32), found], axis=1)
    whole = {"image": given["image"], "text": text, "text_mask": np.ones_like(text, bool)}
    scores = np.asarray(run(lambda v: model.apply(v, whole), variables)["caption_logits"])
    for row, best in zip(found, scores.argmax(-1), strict=True):
        ends = np.flatnonzero(best == 3)
        last = ends[0] + 1 if len(ends) else len(best)
        assert row[:last].tolist() == best[:last].tolist() and not row[last:].any()


def test_defaults_are_the_released_captioner(count_parameters):
    tower = {"name": "resnet", "depth": 50}
    model = Captioner(tower=tower, vocab_size=11, bos_id=0, eos_id=0)
    given = jax.tree.map(jnp.asarray, batch())
    width, attention, mlp, norm = 512, 4 * (512 * 512 + 512), 2 * (512 * 512 + 512), 2 * 512
    encoder = 3 * (attention + mlp + 2 * norm) + norm
    decoder = 3 * (2 * attention + mlp + 3 * norm) + norm
    words = 11 * width + width * 11 + 11
    expected = 23_508_032 + 2048 * width + width + encoder + decoder + words
    assert count_parameters(model, given) == expected


def test_first_values_are_the_released_ones():
    """Torch's linear maps: U(-b, b), b = 1/sqrt(inputs); matrices of the transformer: Xavier's."""
    given = jax.tree.map(jnp.asarray, batch())
    options = {"width": 64, "mlp_dim": 96, "depth": 2, "heads": 4, "vocab_size": 50}
    model = captioner({**VIT, "width": 128}, **options)
    params = jax.jit(model.init)(jax.random.key(0), given)["params"]

    def spread(values, bound):
        """Uniform up to the bound: so the largest value comes near it, and the mean is zero."""
        values = np.asarray(values)
        assert 0.8 * bound < abs(values).max() <= bound * (1 + 1e-6)
        assert abs(values.mean()) < 0.35 * bound

    spread(params["patches"]["linear"]["kernel"], 128**-0.5)
    spread(params["patches"]["linear"]["bias"], 128**-0.5)
    spread(params["text_decoder"]["logits"]["kernel"], 64**-0.5)
    spread(params["text_decoder"]["logits"]["bias"], 64**-0.5)
    spread(params["text_decoder"]["embedding"]["embedding"], (6 / (50 + 64)) ** 0.5)
    decoder = params["text_decoder"]["decoder"]["blocks"]
    encoder = params["encoder"]["blocks"]
    for block in (encoder["attention"], decoder["attention"], decoder["cross_attention"]):
        for name in ("query", "key", "value", "out"):
            spread(block[name]["kernel"], (6 / 128) ** 0.5)
            spread(block[name]["bias"], 64**-0.5)
    for blocks in (encoder, decoder):
        for name, inputs in (("in", 64), ("out", 96)):
            spread(blocks["mlp"][name]["kernel"], (6 / (64 + 96)) ** 0.5)
            spread(blocks["mlp"][name]["bias"], inputs**-0.5)


def test_dropout_within_the_mlps_is_an_option(random_variables, run):
    """The released captioner has 0.1 there; of the other rates none acts in this test."""
    assert Captioner(VIT, WORDS, 2, 3).mlp_dropout == 0.1
    none, some = ({"dropout": 0.0, "patch_dropout": 0.0, "mlp_dropout": r} for r in (0.0, 0.5))
    given = batch()
    variables = random_variables(captioner(**none), given)

    def outputs(variables):
        cases = [(none, True, 0), (some, True, 0), (some, True, 1), (some, False, 1)]
        return [
            captioner(**options).apply(
                variables, given, train=train, rngs={"dropout": jax.random.key(seed)}
            )["caption_logits"]
            for options, train, seed in cases
        ]

    without, one, other, tested = run(outputs, variables)
    np.testing.assert_allclose(tested, without, atol=1e-5)
    assert abs(one - without).max() > 0.01 and abs(one - other).max() > 0.01


def test_wrong_settings_are_refused():
    given = jax.tree.map(jnp.asarray, batch())
    with pytest.raises(InputError, match="no 'beem' here"):
        jax.eval_shape(captioner(decoding={"name": "beem"}).init, jax.random.key(0), given)
    tower = {"name": "resnet3d"}
    with pytest.raises(InputError, match="needs a trunk of pictures, not 'resnet3d'"):
        jax.eval_shape(captioner(tower).init, jax.random.key(0), given)
    given.pop("image")
    with pytest.raises(InputError, match="needs 'image', or 'images' and 'images_mask'"):
        jax.eval_shape(captioner().init, jax.random.key(0), given)
