"""RETFound against a small PyTorch module in MAE's layout.

The stored fixtures are made anew by `python tests/convert/test_retfound.py`, with PyTorch
installed.
"""

import numpy as np
import optax
import pytest
from convert import contrast, originals, parity

from data_pipelines.errors import InputError
from retina_jax.convert import describe, formats, rules
from retina_jax.convert.retfound import RETFOUND
from retina_jax.losses import reconstruction

SIZE = 32
HEADS = {"heads": 3, "decoder_heads": 4}
IMAGES = contrast.photographs(SIZE)
LABELS = np.array([0, 2, 1, 2])
# Twelve of the sixteen patches of each picture are hidden.
HIDDEN = np.random.default_rng(0).permuted(np.tile(np.arange(16) < 12, (4, 1)), axis=1)
BATCH = {"image": IMAGES, "patch_mask": HIDDEN}
STATISTICS = (RETFOUND.preprocessing["mean"], RETFOUND.preprocessing["std"])


def reconstruction_of(model):
    """The predicted patches f32[B P N], and MAE's loss, by the original."""
    torch = parity.torch_or_skip()
    images = contrast.normalized(IMAGES, *STATISTICS)
    visible = torch.tensor(np.argsort(HIDDEN, axis=1, kind="stable")[:, :4])
    predicted = model.reconstruct(images, visible)
    return predicted, originals.mae_loss(images, predicted, torch.tensor(HIDDEN))


def masked_loss(model, variables):
    """MAE's loss by ours."""
    out = model.apply(variables, BATCH)
    return reconstruction.squared_error(
        out["predicted_patches"], out["patches"], out["hidden_patches"]
    )


def test_encoder_and_decoder_reconstruct_as_the_original():
    model = originals.mae(SIZE)
    predicted, loss = reconstruction_of(model)
    loss.value.backward()
    state = parity.tensors(model)
    assert "retfound" in formats.looks_like(rules.shapes_of(state))
    converted = rules.convert(RETFOUND, state, **HEADS)
    assert converted.spec["name"] == "masked_autoencoder"
    assert set(converted.ignored) == {"decoder_pos_embed"}
    parity.same_tree(converted, SIZE)
    out = parity.apply(converted, BATCH)
    parity.close(out["predicted_patches"], predicted.detach())
    parity.close(out["patches"], loss.target)
    np.testing.assert_array_equal(out["hidden_patches"], HIDDEN)
    parity.differ(out["predicted_patches"])
    features = parity.apply(converted, {"image": IMAGES}, "features")["image"]
    parity.close(features, model.encode(contrast.normalized(IMAGES, *STATISTICS)).detach())
    # The fixed positions have no gradient, which `prepare` would take for other positions.
    parity.same_gradients(RETFOUND, converted, masked_loss, model, prepared=dict)
    parity.round_trip(RETFOUND, state, **HEADS)


def test_exported_weights_with_the_fixed_positions_load_into_the_original():
    torch = parity.torch_or_skip()
    model = originals.mae(SIZE)
    converted = rules.convert(RETFOUND, parity.tensors(model), **HEADS)
    back = rules.export(RETFOUND, converted.spec, converted.variables)
    fresh = parity.randomize(originals.mae(SIZE), seed=1)
    fresh.load_state_dict({name: torch.tensor(value) for name, value in back.items()})
    parity.close(reconstruction_of(fresh)[0].detach(), reconstruction_of(model)[0].detach())


@pytest.mark.parametrize("head", ("cls", "mean"))
def test_classifiers_and_their_number_of_classes(head):
    torch = parity.torch_or_skip()
    model = originals.mae(SIZE, decoder=False, head=head, classes=5)
    scores = model.classify(contrast.normalized(IMAGES, *STATISTICS))
    torch.nn.functional.cross_entropy(scores, torch.tensor(LABELS)).backward()
    state = parity.tensors(model)
    converted = rules.convert(RETFOUND, state, heads=3)
    assert converted.spec["classes"] == 5
    parity.same_tree(converted, SIZE)
    out = parity.apply(converted, {"image": IMAGES})
    parity.close(out["logits"], scores.detach())
    parity.differ(out["logits"])

    def loss(model, variables):
        logits = model.apply(variables, {"image": IMAGES})["logits"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, LABELS).mean()

    parity.same_gradients(RETFOUND, converted, loss, model)
    parity.round_trip(RETFOUND, state, heads=3)


def test_the_encoder_alone_for_another_size():
    torch = parity.torch_or_skip()
    model = originals.mae(SIZE, decoder=False)
    state = parity.tensors(model)
    converted = rules.convert(RETFOUND, state, heads=3, image_size=48)
    assert converted.spec["classes"] is None and converted.preprocessing["size"] == 48
    larger = originals.mae(48, decoder=False)
    grid = torch.tensor(state["pos_embed"][:, 1:]).reshape(1, 4, 4, 24).permute(0, 3, 1, 2)
    grid = torch.nn.functional.interpolate(grid, (6, 6), mode="bicubic", align_corners=False)
    grid = grid.permute(0, 2, 3, 1).flatten(1, 2)
    resized = torch.cat([torch.tensor(state["pos_embed"][:, :1]), grid], dim=1)
    tensors = {name: torch.tensor(value) for name, value in state.items()}
    larger.load_state_dict({**tensors, "pos_embed": resized})
    images = contrast.photographs(48)
    theirs = larger.encode(contrast.normalized(images, *STATISTICS)).detach()
    parity.close(parity.apply(converted, {"image": images})["pooled"], theirs)


@pytest.mark.parametrize(
    ("size", "how"),
    [(None, {"size": 32, "short_side": 36}), (112, {"size": 112, "short_side": 128}),
     (224, {"size": 224, "short_side": 256}), (448, {"size": 448})],
)  # fmt: skip
def test_pictures_of_other_sizes_are_cut_as_by_its_code(tmp_path, size, how):
    state, _ = parity.stored("retfound_classifier")
    converted = rules.convert(RETFOUND, state, heads=3, image_size=size)
    (tmp_path / "weights.pth").write_bytes(b"")
    (reads,) = describe.released(converted, tmp_path / "weights.pth").transforms
    assert reads == {"name": "decode", "fit": "crop", **how}


@pytest.mark.parametrize("name", ("retfound", "retfound_classifier"))
def test_stored_outputs_are_given_again(name):
    state, arrays = parity.stored(name)
    converted = rules.convert(RETFOUND, state, **HEADS)
    out = parity.apply(converted, BATCH)
    for key, value in arrays.items():
        parity.close(out[key], value)
    parity.round_trip(RETFOUND, state, **HEADS)


def test_other_fixed_positions_are_refused():
    state, _ = parity.stored("retfound")
    swapped = state["decoder_pos_embed"].reshape(1, 17, 2, 8)[:, :, ::-1].reshape(1, 17, 16)
    with pytest.raises(InputError, match="not the sines and cosines of MAE"):
        rules.convert(RETFOUND, {**state, "decoder_pos_embed": swapped}, **HEADS)


def full_size(decoder: bool) -> dict[str, tuple[int, ...]]:
    """Names and shapes of MAE's ViT-L/16."""
    shapes = {
        "cls_token": (1, 1, 1024), "pos_embed": (1, 197, 1024),
        "patch_embed.proj.weight": (1024, 3, 16, 16), "patch_embed.proj.bias": (1024,),
    }  # fmt: skip
    dense, norms = {}, {"norm": 1024}
    parts = [("blocks", 24, 1024)]
    if decoder:
        parts.append(("decoder_blocks", 8, 512))
        norms["decoder_norm"] = 512
        dense |= {"decoder_embed": (512, 1024), "decoder_pred": (768, 512)}
        shapes |= {"mask_token": (1, 1, 512), "decoder_pos_embed": (1, 197, 512)}
    for name, depth, width in parts:
        for i in range(depth):
            block = f"{name}.{i}."
            norms |= {f"{block}norm1": width, f"{block}norm2": width}
            dense |= {
                f"{block}attn.qkv": (3 * width, width), f"{block}attn.proj": (width, width),
                f"{block}mlp.fc1": (4 * width, width), f"{block}mlp.fc2": (width, 4 * width),
            }  # fmt: skip
    for name, shape in dense.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    for name, width in norms.items():
        shapes |= {f"{name}.weight": (width,), f"{name}.bias": (width,)}
    return shapes


@pytest.mark.parametrize("decoder", (False, True))
def test_the_released_size(decoder):
    shapes = full_size(decoder)
    spec = RETFOUND.model(shapes)
    ours = rules.abstract(spec, RETFOUND.image_size(shapes))
    fixed = int(np.prod(shapes.get("decoder_pos_embed", 0)))
    count = sum(int(np.prod(shape)) for shape in ours.values())
    assert count == sum(int(np.prod(shape)) for shape in shapes.values()) - fixed
    assert count == (329_541_888 - fixed if decoder else 303_301_632)
    if decoder:
        assert (spec["towers"]["image"]["heads"], spec["image_decoder"]["heads"]) == (16, 16)


def make_fixtures() -> None:
    """Stores a tiny masked autoencoder and a tiny classifier, with what they make of IMAGES."""
    model = originals.mae(SIZE)
    predicted, loss = reconstruction_of(model)
    arrays = {"predicted_patches": predicted.detach().numpy(), "patches": loss.target.numpy()}
    print(parity.store("retfound", parity.tensors(model), **arrays))
    model = originals.mae(SIZE, decoder=False, head="mean")
    scores = model.classify(contrast.normalized(IMAGES, *STATISTICS)).detach().numpy()
    print(parity.store("retfound_classifier", parity.tensors(model), logits=scores))


if __name__ == "__main__":
    make_fixtures()
