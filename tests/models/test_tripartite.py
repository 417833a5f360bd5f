"""RET-CLIP: sizes, first values, the three levels, missing eyes, single photographs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines.errors import InputError
from retina_jax.models import MODELS
from retina_jax.models.tripartite import LEVELS, Tripartite

VIT = {"name": "vit", "width": 8, "depth": 1, "heads": 2, "mlp_dim": 8, "patch_size": 8}
BERT = dict(name="bert", vocab_size=20, width=12, depth=1, heads=2, mlp_dim=8, max_length=6)
TOWERS = {"image": VIT, "text": {**BERT, "pool": "cls"}}
RET_CLIP = {"image": {"name": "vit", "activation": "quick_gelu", "pre_norm": True,
                      "patch_bias": False, "initialization": "torch"},
            "text": {"name": "bert", "vocab_size": 21_128, "pool": "cls"}}  # fmt: skip

rng = np.random.default_rng(0)
TEXT = np.array([[2, 4, 3, 0], [2, 5, 9, 3], [2, 3, 0, 0]], np.int32)
BATCH = {"eyes": rng.integers(0, 256, (3, 2, 16, 16, 3), np.uint8),
         "eye_mask": np.ones((3, 2), bool), "text": TEXT, "text_mask": TEXT > 0}  # fmt: skip


def size(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def test_parameters_are_the_published_ones():
    batch = {"eyes": jnp.zeros((1, 2, 224, 224, 3), jnp.uint8), "eye_mask": jnp.ones((1, 2), bool),
             "text": jnp.zeros((1, 100), jnp.int32),
             "text_mask": jnp.ones((1, 100), bool)}  # fmt: skip
    model = MODELS["tripartite"](towers=RET_CLIP)
    params = jax.eval_shape(model.init, jax.random.key(0), batch)["params"]
    image = {key: params.pop(key) for key in ("image", "image_projection")}
    text = params.pop("text")
    assert size(image) == 86_192_640 and size(text) == 101_677_056 and size(params) == 4_001_539
    shapes = jax.tree.map(lambda leaf: leaf.shape, params)
    assert shapes["patient"] == {"kernel": (1024, 512)}
    assert shapes["left"] == shapes["right"] == {"kernel": (512, 512)}
    for level in LEVELS:
        assert shapes[f"logit_scale_{level}"] == ()
        assert shapes[f"text_{level}"] == {
            "in": {"kernel": (768, 768), "bias": (768,)},
            "out": {"kernel": (768, 512), "bias": (512,)},
        }
    assert jax.tree.map(lambda leaf: leaf.shape, image["image_projection"]) == {
        "kernel": (768, 512)
    }
    assert {leaf.dtype for leaf in jax.tree.leaves((image, text, params))} == {jnp.dtype("float32")}


def test_first_values_are_the_published_ones(run):
    towers = {"image": {**VIT, "width": 64}, "text": {**TOWERS["text"], "width": 64}}
    params = run(Tripartite(towers=towers, dim=64).init, jax.random.key(0), BATCH)["params"]
    for level in LEVELS:
        assert float(params[f"logit_scale_{level}"]) == 4.5  # exactly
        head = params[f"text_{level}"]
        for layer in head.values():
            assert np.std(layer["kernel"]) == pytest.approx(64**-0.5, rel=0.05)
            assert abs(layer["kernel"]).max() > 3 * 64**-0.5  # normal, not cut off
            assert 0.8 / 8 < abs(layer["bias"]).max() <= 1 / 8
    for name, fan_in in (("left", 64), ("right", 64), ("patient", 128)):
        assert 0.95 < abs(params[name]["kernel"]).max() * fan_in**0.5 <= 1
    projection = params["image_projection"]["kernel"]
    assert np.std(projection) == pytest.approx(64**-0.5, rel=0.05)
    assert abs(projection).max() > 3 * 64**-0.5
    left, right = (params[f"text_{level}"]["in"]["kernel"] for level in ("left", "right"))
    assert not np.array_equal(left, right)


def outputs(model, variables, run):
    """Of the model, and the features of single photographs and texts."""
    left, right = ({"image": BATCH["eyes"][:, i]} for i in range(2))
    texts = {key: BATCH[key] for key in ("text", "text_mask")}

    def several(variables):
        def of(batch, method):
            return model.apply(variables, batch, method=method)

        features = [of(one, "features") for one in (left, right, texts)]
        return model.apply(variables, BATCH), *(next(iter(f.values())) for f in features)

    return run(several, variables)


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def test_outputs_are_the_published_formula(random_variables, run):
    model = Tripartite(towers=TOWERS, dim=5)
    variables = random_variables(model, BATCH)
    params = variables["params"]
    out, left, right, report = outputs(model, variables, run)
    both = np.concatenate([left, right], axis=1)
    expected = {"left": left @ params["left"]["kernel"], "right": right @ params["right"]["kernel"],
                "patient": both @ params["patient"]["kernel"]}  # fmt: skip
    for level in LEVELS:
        first, last = params[f"text_{level}"]["in"], params[f"text_{level}"]["out"]
        hidden = np.maximum(report @ first["kernel"] + first["bias"], 0)
        expected[f"text_{level}"] = hidden @ last["kernel"] + last["bias"]
    assert set(out["z"]) == set(expected)
    for name, value in expected.items():
        assert out["z"][name].dtype == jnp.float32
        np.testing.assert_allclose(out["z"][name], unit(value), rtol=1e-3, atol=1e-4)
    assert set(out["scale"]) == set(out["row_mask"]) == set(LEVELS) and "bias" not in out
    assert all(mask.all() for mask in out["row_mask"].values())


def test_both_eyes_pass_the_tower_in_one_call():
    class Spy(Tripartite):
        def _photographs(self, batch, key, train):
            calls.append(batch[key].shape)
            return super()._photographs(batch, key, train)

    calls = []
    jax.eval_shape(Spy(towers=TOWERS, dim=5).init, jax.random.key(0), BATCH)
    assert calls == [(6, 16, 16, 3)]


def test_the_other_eye_stands_in_for_a_missing_one(random_variables, run):
    model = Tripartite(towers=TOWERS, dim=5)
    variables = random_variables(model, BATCH)
    eye_mask = np.array([[True, True], [False, True], [True, False]])
    holes = np.where(eye_mask[..., None, None, None], BATCH["eyes"], 0)
    twice = holes.copy()
    twice[1, 0], twice[2, 1] = holes[1, 1], holes[2, 0]

    def three(variables):
        def z(eyes, mask):
            return model.apply(variables, {**BATCH, "eyes": eyes, "eye_mask": mask})

        return z(holes, eye_mask), z(twice, BATCH["eye_mask"]), z(255 - holes, eye_mask)

    missing, copied, noise = run(three, variables)
    for name in LEVELS:
        np.testing.assert_allclose(missing["z"][name], copied["z"][name], atol=1e-5)
    assert missing["row_mask"]["left"].tolist() == [True, False, True]
    assert missing["row_mask"]["right"].tolist() == [True, True, False]
    assert missing["row_mask"]["patient"].all()
    assert not np.allclose(missing["z"]["patient"], noise["z"]["patient"], atol=1e-3)


def test_what_stands_in_place_of_a_missing_eye_has_no_influence(random_variables, run):
    model = Tripartite(towers=TOWERS, dim=5)
    variables = random_variables(model, BATCH)
    mask = np.array([[False, True], [False, False], [True, True]])
    other = BATCH["eyes"].copy()
    other[0, 0] = 255 - other[0, 0]

    def both(variables):
        batches = [{**BATCH, "eyes": eyes, "eye_mask": mask} for eyes in (BATCH["eyes"], other)]
        return [model.apply(variables, batch) for batch in batches]

    first, second = run(both, variables)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), first, second)
    assert first["row_mask"]["patient"].tolist() == [True, False, True]


def test_what_fills_a_gap_is_not_in_the_statistics_of_batchnorm(random_variables, run):
    towers = {**TOWERS, "image": {"name": "resnet", "depth": 18, "width": 1}}
    model = Tripartite(towers=towers, dim=5)
    eyes = rng.integers(0, 256, (3, 2, 32, 32, 3), np.uint8)
    mask = np.array([[False, True], [True, True], [True, False]])
    batch = {**BATCH, "eyes": eyes, "eye_mask": mask}
    variables = random_variables(model, batch)
    filled = np.where(mask[..., None, None, None], eyes, 255 - eyes)

    def both(variables):
        def train(eyes):
            rngs = {"dropout": jax.random.key(0)}
            part = {**batch, "eyes": eyes}
            return model.apply(variables, part, train=True, rngs=rngs, mutable=["batch_stats"])

        return train(eyes), train(filled)

    first, second = run(both, variables)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), first, second)


def test_one_photograph_takes_both_places(random_variables, run):
    model = Tripartite(towers=TOWERS, dim=5)
    variables = random_variables(model, BATCH)
    image = BATCH["eyes"][:, 1]
    twice = {"eyes": np.stack([image, image], axis=1), "eye_mask": BATCH["eye_mask"]}
    texts = {key: BATCH[key] for key in ("text", "text_mask")}

    def several(variables):
        def of(batch, method):
            return model.apply(variables, batch, method=method)

        batches = ({"image": image}, twice, texts, BATCH)
        return ([of(batch, "embed") for batch in batches],
                [of(batch, "features") for batch in batches],
                model.apply(variables, BATCH)["z"])  # fmt: skip

    (single, doubled, text, _), features, z = run(several, variables)
    assert set(single) == {"image"} and set(doubled) == {"eyes"} and set(text) == {"text"}
    np.testing.assert_allclose(single["image"], doubled["eyes"], atol=1e-5)
    np.testing.assert_allclose(text["text"], z["text_patient"], atol=1e-5)
    raw, pair, report, whole = features
    assert raw["image"].shape == (3, 5) and report["text"].shape == (3, 12)
    assert not np.allclose(np.linalg.norm(raw["image"], axis=1), 1, atol=0.01)
    np.testing.assert_allclose(pair["eyes"], np.tile(raw["image"], 2), rtol=1e-3, atol=1e-4)
    # The left eye comes first; the second eye of the batch is the photograph above.
    np.testing.assert_allclose(whole["eyes"][:, 5:], raw["image"], rtol=1e-3, atol=1e-4)
    assert set(whole) == {"eyes", "text"}


def test_a_bias_of_the_logits_where_asked_for(random_variables, run):
    model = Tripartite(towers=TOWERS, dim=5, bias_init=-10.0)
    variables = random_variables(model, BATCH)
    out = run(model.apply, variables, BATCH)
    for level in LEVELS:
        assert float(out["bias"][level]) == float(variables["params"][f"logit_bias_{level}"])
    params = run(model.init, jax.random.key(0), BATCH)["params"]
    assert {float(params[f"logit_bias_{level}"]) for level in LEVELS} == {-10.0}


def published(start, gradients, rate):
    """The scale in use at each step where the parameter itself is clamped after each step."""
    parameter, used = start, []
    for gradient in gradients:
        used.append(parameter)
        parameter = np.clip(parameter - rate * gradient, 0.0, 4.6052)
    return np.array(used)


def test_scales_at_their_bounds_follow_the_published_ones(random_variables):
    model = Tripartite(towers=TOWERS, dim=5)
    variables = random_variables(model, BATCH)

    def used(parameter):
        params = {**variables["params"], "logit_scale_left": parameter}
        return model.apply({"params": params}, method=lambda m: jnp.log(m._scale("left")))

    for parameter in (-2.0, 0.0, 4.5, 4.7, 9.0):
        expected = np.clip(parameter, 0.0, 4.6052)
        assert float(used(jnp.float32(parameter))) == pytest.approx(expected, abs=1e-4)
    rate, gradients = 0.02, np.array([-1.0] * 20 + [1.0] * 20)
    parameter, ours = jnp.float32(4.5), []
    for gradient in gradients:
        value, backward = jax.vjp(used, parameter)
        ours.append(float(value))
        parameter = parameter - rate * backward(jnp.float32(gradient))[0]
    theirs = published(4.5, gradients, rate)
    # On the way back ours is late by less than the one step by which it went over the bound.
    assert abs(np.array(ours) - theirs).max() <= rate and max(ours) < 4.6052 + 1e-5
    np.testing.assert_allclose(ours[:21], theirs[:21], atol=1e-5)
    assert float(parameter) < 4.3


def test_statistics_and_dropout_pass_through(random_variables, run):
    towers = {**TOWERS, "image": {"name": "resnet", "depth": 18, "width": 1}}
    model = Tripartite(towers=towers, dim=5)
    batch = {**BATCH, "eyes": rng.integers(0, 256, (3, 2, 32, 32, 3), np.uint8)}
    variables = random_variables(model, batch)

    def train(variables):
        rngs = {"dropout": jax.random.key(0)}
        return model.apply(variables, batch, train=True, rngs=rngs, mutable=["batch_stats"])

    _, updated = run(train, variables)
    before, after = (v["batch_stats"]["image"]["bn1"]["mean"] for v in (variables, updated))
    assert not np.allclose(before, after)


def test_errors_name_the_remedy():
    def init(batch=BATCH, **options):
        model = Tripartite(**{"towers": TOWERS, **options})
        jax.eval_shape(model.init, jax.random.key(0), batch)

    for key in ("eyes", "eye_mask", "text", "text_mask"):
        with pytest.raises(InputError, match=f"needs '{key}'"):
            init(batch={name: value for name, value in BATCH.items() if name != key})
    with pytest.raises(InputError, match=r"towers \['image', 'text'\], not \['image'\]"):
        init(towers={"image": VIT})
    with pytest.raises(InputError, match="'image' tower of tripartite reads pixels.*'bert'"):
        init(towers={"image": BERT, "text": BERT})
