"""KeepFIT's two streams and its reference attention, in both published and released form."""

from functools import partial
from typing import Any, ClassVar

import flax.linen as nn
import jax
import numpy as np
import pytest
from scipy.special import softmax

from data_pipelines.errors import InputError
from retina_jax.models import towers
from retina_jax.models.dual import Dual
from retina_jax.models.keepfit import KeepFIT, ReferenceAttention, reference_weights
from retina_jax.models.layers import BatchNorm
from retina_jax.models.text_mlm import TextMLM

VIT = {"name": "vit", "width": 8, "depth": 1, "heads": 2, "mlp_dim": 8, "patch_size": 8}
BERT = dict(name="bert", vocab_size=20, width=12, depth=2, heads=2, mlp_dim=8, max_length=6)
TOWERS = {"image": VIT, "text": BERT}

rng = np.random.default_rng(0)


def stream(rows: int, seed: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    text = generator.integers(1, 20, size=(rows, 4)).astype(np.int32)
    image = generator.integers(0, 256, size=(rows, 16, 16, 3), dtype=np.uint8)
    return {"image": image, "text": text, "text_mask": np.ones((rows, 4), bool)}


BATCH = {"public": stream(3, 1), "expert": stream(2, 2)}


def reference_in_numpy(params, public, expert_image, expert_text, heads, axis):
    dim = public.shape[1]

    def split(x):
        return x.reshape(len(x), heads, dim // heads).swapaxes(0, 1)

    query = split(public @ params["query"]["kernel"])
    key = split(expert_image @ params["key"]["kernel"])
    value = split(expert_text @ params["value"]["kernel"])
    weights = softmax(query @ key.swapaxes(1, 2) / np.sqrt(dim // heads), axis=axis)
    return (weights @ value).swapaxes(0, 1).reshape(len(public), dim) @ params["out"]["kernel"]


@pytest.mark.parametrize("softmax_axis,axis", [("keys", 2), ("heads", 0)])
def test_reference_attention_is_the_formula(random_variables, run, softmax_axis, axis):
    public, images, texts = (rng.normal(size=(n, 8)).astype(np.float32) for n in (5, 3, 3))
    model = ReferenceAttention(heads=2, softmax_axis=softmax_axis)
    variables = random_variables(model, public, images, texts)
    params = variables["params"]
    assert {k: v["kernel"].shape for k, v in params.items()} == dict.fromkeys(
        ("query", "key", "value", "out"), (8, 8)
    )
    expected = reference_in_numpy(params, public, images, texts, 2, axis)
    out = run(model.apply, variables, public, images, texts)
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)


def test_released_weights_of_the_two_heads_sum_to_one():
    query, key = (rng.normal(size=(2, n, 4)).astype(np.float32) for n in (5, 3))
    released = np.asarray(reference_weights(query, key, "heads"))
    np.testing.assert_allclose(released[0] + released[1], 1, rtol=1e-5)
    difference = np.einsum("bd,ed->be", query[0], key[0]) - np.einsum("bd,ed->be", query[1], key[1])
    np.testing.assert_allclose(released[0], 1 / (1 + np.exp(-difference / 2)), rtol=1e-4)
    assert not np.allclose(released.sum(axis=-1), 1)
    intended = np.asarray(reference_weights(query, key, "keys"))
    np.testing.assert_allclose(intended.sum(axis=-1), 1, rtol=1e-5)


def test_half_of_the_weights_are_dropped_in_training(run):
    kernel = {"kernel": np.eye(64, dtype=np.float32)}
    eye = dict.fromkeys(("query", "key", "value", "out"), kernel)
    values = np.eye(64, dtype=np.float32)  # one-hot values show the weights themselves
    call = partial(
        ReferenceAttention(heads=1).apply, {"params": eye}, 0 * values, 0 * values, values
    )
    rngs = {"dropout": jax.random.key(0)}
    evenly, dropped = run(lambda: (call(), call(train=True, rngs=rngs)))
    np.testing.assert_allclose(evenly, 1 / 64, rtol=1e-6)
    dropped = np.asarray(dropped)
    assert 0.45 < (dropped == 0).mean() < 0.55
    np.testing.assert_allclose(dropped[dropped > 0], 2 / 64, rtol=1e-6)


def test_outputs_of_streams_of_different_sizes(random_variables, run):
    model = KeepFIT(towers=TOWERS, dim=6, reference={"heads": 3})
    variables = random_variables(model, BATCH)
    dual = {"image", "image_projection", "text", "text_projection", "logit_scale"}
    assert set(variables["params"]) == dual | {"attention"}

    def both(variables):
        alone = Dual(towers=TOWERS, dim=6)
        params = {k: v for k, v in variables["params"].items() if k != "attention"}
        return model.apply(variables, BATCH), [
            alone.apply({"params": params}, BATCH[name])["z"] for name in ("public", "expert")
        ]

    out, (public, expert) = run(both, variables)
    expected = {f"public/{k}": v for k, v in public.items()}
    expected |= {f"expert/{k}": v for k, v in expert.items()}
    assert set(out["z"]) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(out["z"][name], value, atol=1e-5)
    reference = reference_in_numpy(
        variables["params"]["attention"], public["image"], expert["image"], expert["text"], 3, 2
    )
    assert set(out) == {"z", "scale", "reference"} and set(out["reference"]) == {"public"}
    np.testing.assert_allclose(out["reference"]["public"], reference, rtol=1e-3, atol=1e-5)


def test_embed_and_features_take_a_batch_without_streams(random_variables, run):
    model = KeepFIT(towers=TOWERS, dim=6)
    variables = random_variables(model, BATCH)

    def methods(variables):
        names = ("embed", "features")
        return [model.apply(variables, BATCH["public"], method=name) for name in names]

    z, features = run(methods, variables)
    assert {k: v.shape for k, v in z.items()} == {"image": (3, 6), "text": (3, 6)}
    assert {k: v.shape for k, v in features.items()} == {"image": (3, 8), "text": (3, 12)}


class _Normalised(nn.Module):
    """A tower that is nothing but BatchNorm over the image's channels."""

    reads: ClassVar[str] = "pixels"
    dtype: Any = "float32"

    @nn.compact
    def __call__(self, image, train=False):
        return {"pooled": BatchNorm(name="norm")(image, train).mean(axis=(1, 2))}


def test_statistics_are_updated_by_each_stream_in_order(monkeypatch, random_variables, run):
    monkeypatch.setitem(towers.TOWERS, "normalised", _Normalised)
    text = {**BERT, "dropout": 0.0}
    model = KeepFIT(towers={"image": {"name": "normalised"}, "text": text}, dim=4)
    variables = random_variables(model, BATCH)

    def train(variables):
        options = dict(train=True, mutable=["batch_stats"], rngs={"dropout": jax.random.key(0)})
        alone = Dual(towers=model.towers, dim=4)
        params = {k: v for k, v in variables["params"].items() if k != "attention"}
        expert, _ = alone.apply({**variables, "params": params}, BATCH["expert"], **options)
        return *model.apply(variables, BATCH, **options), expert

    out, updated, expert = run(train, variables)
    stats = variables["batch_stats"]["image"]["norm"]
    for name in ("public", "expert"):
        pixels = BATCH[name]["image"].astype(np.float32) / 255
        new = {"mean": pixels.mean((0, 1, 2)), "var": pixels.var((0, 1, 2), ddof=1)}
        stats = {key: 0.9 * stats[key] + 0.1 * new[key] for key in stats}
    for key, value in stats.items():
        np.testing.assert_allclose(updated["batch_stats"]["image"]["norm"][key], value, rtol=1e-5)
    # Each stream is normalised by its own statistics.
    np.testing.assert_allclose(out["z"]["expert/image"], expert["z"]["image"], atol=1e-5)


def test_group_norm_knows_neither_statistics_nor_other_rows(random_variables):
    """What `mmretinal_v2.py:joint` trains: a ResNet that passes streams of several modalities."""
    pairs = (("cfp_public", "cfp_expert"), ("oct_public", "oct_expert"))
    batch = {name: stream(2, seed) for seed, pair in enumerate(pairs) for name in pair}
    others = {
        name: {**rows, "image": np.concatenate([rows["image"][:1], 255 - rows["image"][1:]])}
        for name, rows in batch.items()
    }

    def model(norm):
        tower = {"name": "resnet", "depth": 18, "width": 4, "norm": norm}
        return KeepFIT(towers={**TOWERS, "image": tower}, dim=6, streams=pairs)

    variables = random_variables(model("group"), batch)
    assert set(variables) == {"params"}
    assert set(jax.eval_shape(model("batch").init, jax.random.key(0), batch)) > set(variables)

    @jax.jit
    def embedded(variables, batch):
        rngs = {"dropout": jax.random.key(0)}
        return model("group").apply(variables, batch, True, method="encode", rngs=rngs)["z"]

    first, second = (embedded(variables, rows) for rows in (batch, others))
    for name in batch:
        one, other = (z[f"{name}/image"] for z in (first, second))
        assert np.isfinite(one).all()
        np.testing.assert_allclose(one[0], other[0], atol=1e-5)
        assert abs(one[1] - other[1]).max() > 1e-3


def test_stage_one_and_two_share_the_text_subtree():
    def text_subtree(model, batch):
        shapes = jax.eval_shape(model.init, jax.random.key(0), batch)["params"]["text"]
        return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), shapes)

    masked = {"masked_text": BATCH["public"]["text"], "text_mask": BATCH["public"]["text_mask"]}
    stage_one = text_subtree(TextMLM(encoder=BERT), masked)
    assert stage_one == text_subtree(KeepFIT(towers=TOWERS), BATCH)
    assert stage_one == text_subtree(Dual(towers=TOWERS), BATCH["public"])


def test_errors_name_the_remedy():
    def init(**options):
        model = KeepFIT(**{"towers": TOWERS, "dim": 6, **options})
        jax.eval_shape(model.init, jax.random.key(0), BATCH)

    with pytest.raises(InputError, match="needs an 'image' and a 'text' tower"):
        init(towers={"image": VIT})
    for streams in ((), (("public", "public"),), (("public", "expert"), ("public", "other"))):
        with pytest.raises(InputError, match="pairs of two streams, each of which occurs once"):
            init(streams=streams)
    with pytest.raises(InputError, match="no option 'head'.*'heads'"):
        init(reference={"head": 2})
    with pytest.raises(InputError, match="not 'elite'"):
        init(reference={"softmax_axis": "elite"})
    with pytest.raises(InputError, match="cannot be split into 4 heads"):
        init(reference={"heads": 4})
