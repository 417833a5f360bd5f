"""The tower over B-scans, and pairs of photographs and volumes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax

from data_pipelines.errors import InputError
from retina_jax.models.dual import Dual
from retina_jax.models.towers import TOWERS, AttentionMIL

VIT = {"name": "vit", "width": 8, "depth": 1, "heads": 2, "mlp_dim": 8, "patch_size": 8}
RESNET = {"name": "resnet", "depth": 18, "width": 1}
rng = np.random.default_rng(0)
VOLUME = rng.integers(0, 255, (2, 3, 32, 32, 1), np.uint8)
IMAGE = rng.integers(0, 255, (2, 32, 32, 3), np.uint8)


def test_scans_are_averaged_by_attention(random_variables, run):
    model = AttentionMIL(encoder=VIT, hidden=5)
    variables = random_variables(model, VOLUME)
    params = variables["params"]
    assert set(params) == {"slice", "attention_hidden", "attention_score"}
    assert params["slice"]["patch_embedding"]["kernel"].shape[2] == 3
    out = run(model.apply, variables, VOLUME)
    x = VOLUME.astype(np.float64)
    x = (x - x.mean((1, 2, 3, 4), keepdims=True)) / x.std((1, 2, 3, 4), keepdims=True)
    encoder = TOWERS["vit"](**{k: v for k, v in VIT.items() if k != "name"})
    scans = np.repeat(x.astype(np.float32), 3, axis=-1)
    features = [
        run(encoder.apply, {"params": params["slice"]}, scans[:, t])["pooled"] for t in range(3)
    ]
    features = np.stack(features, axis=1)
    hidden = params["attention_hidden"]
    scores = np.tanh(features @ hidden["kernel"] + hidden["bias"])
    weights = softmax((scores @ params["attention_score"]["kernel"])[..., 0], axis=1)
    np.testing.assert_allclose(out["weights"], weights, atol=1e-4)
    expected = np.einsum("bt,btf->bf", weights, features)
    np.testing.assert_allclose(out["pooled"], expected, rtol=1e-3, atol=1e-4)


def test_the_order_of_scans_does_not_matter_but_their_contents_do(random_variables, run):
    model = AttentionMIL(encoder=VIT)
    variables = random_variables(model, VOLUME)
    other = VOLUME.copy()
    other[:, 1] = 255 - other[:, 1]

    def pooled(variables):
        volumes = (VOLUME, VOLUME[:, ::-1], other)
        return [model.apply(variables, volume)["pooled"] for volume in volumes]

    first, reversed_, changed = run(pooled, variables)
    np.testing.assert_allclose(first, reversed_, rtol=1e-4, atol=1e-5)
    assert not np.allclose(first, changed, atol=1e-3)


def test_an_encoder_of_texts_or_volumes_is_refused():
    for name in ("bert", "resnet3d"):
        with pytest.raises(InputError, match=f"encoder of pictures, not '{name}'"):
            jax.eval_shape(AttentionMIL(encoder={"name": name}).init, jax.random.key(0), VOLUME)


PAIRS = {"resnet and resnet3d": (RESNET, {"name": "resnet3d", "width": 1}),
         "resnet and resnet3d by groups": ({**RESNET, "width": 4, "norm": "group"},
                                           {"name": "resnet3d", "width": 4, "norm": "group"}),
         "vit and slices": (VIT, {"name": "attention_mil", "encoder": VIT})}  # fmt: skip


@pytest.mark.parametrize("name", PAIRS)
def test_photographs_and_volumes_are_paired(random_variables, run, name):
    image, volume = PAIRS[name]
    # Mean and deviation are those of photographs, three channels; volumes have their own.
    model = Dual(towers={"image": image, "oct": volume}, dim=5, mean=(0.1, 0.2, 0.3))
    batch = {"image": IMAGE, "oct": VOLUME}
    variables = random_variables(model, batch)
    assert set(variables["params"]["oct_projection"]) == {"kernel"}
    statistics = [key for key in variables if key != "params"]
    assert statistics == (["batch_stats"] if name == "resnet and resnet3d" else [])

    def outputs(variables):
        out, _ = model.apply(variables, batch, train=True, mutable=statistics)
        alone = model.apply(variables, {"oct": VOLUME}, method="embed")
        plain = Dual(towers=model.towers, dim=5).apply(variables, batch, method="embed")
        return out["z"], alone, model.apply(variables, batch, method="embed"), plain

    z, alone, both, plain = run(outputs, variables)
    for key in ("image", "oct"):
        assert z[key].shape == (2, 5) and z[key].dtype == jnp.float32
        np.testing.assert_allclose(np.linalg.norm(z[key], axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(alone["oct"], both["oct"], atol=1e-5)
    np.testing.assert_allclose(plain["oct"], both["oct"], atol=1e-5)
    assert not np.allclose(plain["image"], both["image"], atol=1e-4)


def test_published_sizes_of_the_pair(count_parameters):
    towers = {"image": {"name": "resnet", "depth": 18}, "oct": {"name": "resnet3d"}}
    batch = {"image": jnp.zeros((1, 64, 64, 3), jnp.uint8),
             "oct": jnp.zeros((1, 8, 32, 32, 1), jnp.uint8)}  # fmt: skip
    expected = 11_176_512 + 33_166_272 - 18_816 + 2 * 512 * 512 + 1
    assert count_parameters(Dual(towers=towers), batch) == expected
