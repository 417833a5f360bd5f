"""FLAIR and KeepFIT: embeddings, losses, gradients and statistics of their PyTorch originals.

The stored original, a KeepFIT, is made anew by `python tests/convert/test_flair.py`, with PyTorch,
torchvision and transformers installed.
"""

import dataclasses
import os
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from convert import contrast, flairs, networks, parity

import retina_jax
from data_pipelines.errors import InputError
from retina_jax.build import build
from retina_jax.convert import describe, files, formats, model_folder, rules
from retina_jax.convert.flair import FLAIR, KEEPFIT
from retina_jax.losses import contrastive
from retina_jax.models import MODELS
from retina_jax.types import Batch

SIZE, ROWS = 64, 4
WEIGHT = 100.0  # of the term of KeepFIT's reference
EXACT = jax.lax.Precision.HIGHEST


def batches() -> dict[str, Batch]:
    """The two streams of KeepFIT."""
    return {
        stream: {"image": contrast.photographs(SIZE, ROWS, seed), **flairs.texts(ROWS, seed)}
        for seed, stream in enumerate(("public", "expert"))
    }


def as_torch(rows: Batch) -> tuple[Any, Any, Any]:
    """The arguments of the original."""
    torch = parity.torch_or_skip()
    images = contrast.normalized(rows["image"], (0, 0, 0), (1, 1, 1))
    return images, torch.tensor(rows["text"]).long(), torch.tensor(rows["text_mask"]).long()


def original(reference: bool) -> Any:
    """Random, with statistics of BatchNorm near those of the pictures."""
    parity.torch_or_skip()
    pytest.importorskip("torchvision")
    pytest.importorskip("transformers")
    return networks.lively(flairs.flair(reference), *as_torch(batches()["public"]))


def convert(state, **options):
    """The file as its own source converts it, without dropout."""
    (name,) = formats.looks_like(rules.shapes_of(state))
    found = rules.convert(formats.SOURCES[name], state, **options)
    parity.same_tree(found)
    return still(found)


def still(found: rules.Converted) -> rules.Converted:
    """The same model without dropout, and with the heads of the original, which no shape tells."""
    towers = {**found.spec["towers"]}
    towers["text"] = {**towers["text"], "dropout": 0.0, "heads": flairs.HEADS}
    spec = {**found.spec, "towers": towers}
    if "reference" in spec:
        spec["reference"] = {**spec["reference"], "dropout": 0.0}
    # An array of a projection to heads is cut otherwise; the numbers are in the same order.
    shapes = rules.abstract(spec)
    flat = rules.flatten(found.variables)
    flat = {name: value.reshape(shapes[name]) for name, value in flat.items()}
    return dataclasses.replace(
        found, spec=spec, variables=rules.traverse_util.unflatten_dict(flat, sep="/")
    )


def logits(z, scale):
    """exp(s) T I^T, as FLAIR has them."""
    return scale * jnp.matmul(z["text"], z["image"].T, precision=EXACT)


@pytest.fixture(scope="module")
def stored():
    """(state dict, arrays, KeepFIT as ours) of the stored original."""
    state, kept = parity.stored("keepfit")
    return state, kept, convert(state)


def without(state):
    """FLAIR of a KeepFIT."""
    return {name: value for name, value in state.items() if not name.startswith("attention.")}


def test_stored_original(stored):
    _, kept, found = stored
    assert found.spec["name"] == "keepfit" and found.spec["reference"]["softmax_axis"] == "heads"
    out = parity.apply(found, batches())
    for stream in ("public", "expert"):
        z = {key: out["z"][f"{stream}/{key}"] for key in ("image", "text")}
        for key, value in z.items():
            parity.close(value, kept[f"{stream}/{key}"])
            parity.differ(value)
        expected = np.exp(kept["scale"]) * kept[f"{stream}/text"] @ kept[f"{stream}/image"].T
        parity.close(logits(z, out["scale"]), expected)
    parity.close(out["reference"]["public"], kept["reference"])
    parity.differ(out["reference"]["public"])


def test_a_keepfit_without_its_attention_embeds_like_flair(stored):
    state, kept, _ = stored
    asked = convert(state, reference=False)
    assert asked.spec["name"] == "dual" and asked.source == "keepfit"
    assert "attention.W_o.weight" in asked.ignored
    plain = convert(without(state))
    assert plain.spec == asked.spec and plain.source == "flair"
    jax.tree.map(np.testing.assert_array_equal, plain.variables, asked.variables)
    z = parity.apply(plain, batches()["public"])["z"]
    parity.close(z["image"], kept["public/image"])
    parity.close(z["text"], kept["public/text"])


def test_texts_depend_on_their_padding_as_in_the_original_and_need_not(stored):
    """The mean of FLAIR is over padding too; `pool` chooses another for new training."""
    state, _, _ = stored
    rows = batches()["public"]
    padded = {key: rows[key][3:] for key in ("text", "text_mask")}
    shorter = {key: value[:, :5] for key, value in padded.items()}
    assert not padded["text_mask"][:, 5:].any()
    for pool, alike in (("flair", False), ("masked_mean", True)):
        found = convert(without(state), pool=pool)
        one, two = (parity.apply(found, x, "embed")["text"] for x in (shorter, padded))
        assert np.allclose(one, two, atol=1e-5) == alike


def test_the_same_bits_come_back(stored):
    state, _, _ = stored
    parity.round_trip(KEEPFIT, state)
    parity.round_trip(FLAIR, without(state))
    parity.round_trip(FLAIR, {name: value.astype(np.float16).astype(np.float32)
                              for name, value in without(state).items()})  # fmt: skip


def full_size() -> dict[str, tuple[int, ...]]:
    """Names and shapes of FLAIR's released file (specifications of the published code)."""
    vision, text = "vision_model.model.", "text_model.model."
    shapes = {"logit_scale": (), f"{vision}conv1.weight": (64, 3, 7, 7),
              "vision_model.projection_head_vision.projection.weight": (512, 2048),
              "text_model.projection_head_text.projection.weight": (512, 768),
              f"{text}embeddings.word_embeddings.weight": (28_996, 768),
              f"{text}embeddings.position_embeddings.weight": (512, 768),
              f"{text}embeddings.token_type_embeddings.weight": (2, 768),
              f"{text}embeddings.position_ids": (1, 512)}  # fmt: skip
    norms = {f"{vision}bn1": 64}
    inputs = 64
    for stage, blocks in enumerate((3, 4, 6, 3), start=1):
        width = 32 * 2**stage
        for i in range(blocks):
            block = f"{vision}layer{stage}.{i}."
            kernels = {"conv1": (width, inputs, 1, 1), "conv2": (width, width, 3, 3),
                       "conv3": (4 * width, width, 1, 1)}  # fmt: skip
            if i == 0:
                kernels["downsample.0"] = (4 * width, inputs, 1, 1)
                norms[f"{block}downsample.1"] = 4 * width
            shapes |= {f"{block}{name}.weight": shape for name, shape in kernels.items()}
            norms |= {f"{block}bn{n}": kernels[f"conv{n}"][0] for n in (1, 2, 3)}
            inputs = 4 * width
    for name, width in norms.items():
        parts = ("weight", "bias", "running_mean", "running_var")
        shapes |= {f"{name}.{part}": (width,) for part in parts}
        shapes[f"{name}.num_batches_tracked"] = ()
    dense = {f"{text}pooler.dense": (768, 768)}
    layer_norms = [f"{text}embeddings.LayerNorm"]
    for i in range(12):
        layer = f"{text}encoder.layer.{i}."
        dense |= {f"{layer}attention.self.{n}": (768, 768) for n in ("query", "key", "value")}
        dense |= {f"{layer}attention.output.dense": (768, 768),
                  f"{layer}intermediate.dense": (3072, 768),
                  f"{layer}output.dense": (768, 3072)}  # fmt: skip
        layer_norms += [f"{layer}attention.output.LayerNorm", f"{layer}output.LayerNorm"]
    shapes |= {f"{n}.bias": (768,) for n in layer_norms}
    shapes |= {f"{n}.weight": (768,) for n in layer_norms}
    shapes |= {f"{n}.bias": shape[:1] for n, shape in dense.items()}
    return shapes | {f"{n}.weight": shape for n, shape in dense.items()}


@pytest.mark.parametrize("reference", [False, True])
def test_published_names_and_sizes(reference):
    """All names of a release are used or left behind by a reason; 132.7 million parameters."""
    shapes = full_size()
    if reference:
        shapes |= {f"attention.W_{name}.weight": (512, 512) for name in "qkvo"}
    (name,) = formats.looks_like(shapes)
    found = rules.fit(formats.SOURCES[name], shapes)
    assert name == ("keepfit" if reference else "flair")
    assert found.spec["towers"]["image"] == {"name": "resnet", "depth": 50, "width": 64}
    assert not found.filled
    left = {n.rpartition(".")[2] for n in found.ignored}
    assert left == {"num_batches_tracked", "position_ids", "weight", "bias"}  # of the pooler
    count = sum(np.prod(s) for n, s in found.ours.items() if n.startswith("params/"))
    assert count == 107_719_680 + 23_508_032 + 512 * (2048 + 768) + 1 + reference * 4 * 512**2


def test_a_file_that_does_not_fit_says_what_is_missing_unused_and_of_another_shape(stored):
    state, _, _ = stored
    lost = "text_model.model.encoder.layer.1.output.dense.bias"
    bad = {name: value for name, value in state.items() if name != lost}
    bad["vision_model.model.layer5.0.conv1.weight"] = np.zeros((4, 4, 3, 3), np.float32)
    key = "text_model.model.encoder.layer.2.intermediate.dense.weight"
    bad[key] = bad[key][:, :-1]
    with pytest.raises(InputError) as refusal:
        rules.convert(KEEPFIT, bad)
    sentence = str(refusal.value)
    assert "no use for 1 of its tensors (vision_model.model.layer5.0.conv1.weight)" in sentence
    assert (
        "lacks 1 that are needed (text_model.model.encoder.layer.1.output.dense.bias)" in sentence
    )
    assert f"has '{key}' of shape (20, 23) where (20, 24) is needed" in sentence
    assert "\n" not in sentence


def test_the_wrong_source_is_told_what_the_file_looks_like(stored):
    state, _, _ = stored
    with pytest.raises(InputError, match="does not look like 'flair'; it looks like 'keepfit'"):
        formats.find("flair", rules.shapes_of(state))
    with pytest.raises(InputError, match="does not look like 'keepfit'; it looks like 'flair'"):
        formats.find("keepfit", rules.shapes_of(without(state)))
    with pytest.raises(InputError, match="nor like any other known source; its tensors begin with"):
        formats.find("flair", {"something": (2,)})
    with pytest.raises(InputError, match="no source 'flare'; choose from .*flair"):
        formats.find("flare", rules.shapes_of(state))


def published_loss(model, rows):
    """KeepFIT's loss of both streams, and its gradients; returns the expert's outputs."""
    torch = parity.torch_or_skip()
    image, text, scale = model(*as_torch(rows["public"]))
    expert_image, expert_text, _ = model(*as_torch(rows["expert"]))
    total = contrast.torch_loss(image, text, scale)
    total = total + contrast.torch_loss(expert_image, expert_text, scale)
    if hasattr(model, "attention"):
        reference = model.attention(image, expert_image, expert_text)
        total = total + WEIGHT * torch.nn.functional.mse_loss(reference, text)
    total.backward()
    return total.detach()


def our_loss(out):
    """The same of our outputs."""
    z, scale = out["z"], out["scale"]
    total = sum(
        contrastive.softmax(z[f"{stream}/image"], z[f"{stream}/text"], scale)
        for stream in ("public", "expert")
    )
    reference = out["reference"]["public"]
    return total + WEIGHT * jnp.square(z["public/text"] - reference).mean()


def test_a_step_of_keepfit_is_the_originals():
    """Loss, gradients of every parameter, and BatchNorm's statistics after both streams."""
    model, rows = original(reference=True), batches()
    # PyTorch does not train the embedding of padding, which FLAIR's means read (docs/fidelity.md).
    model.text_model.model.embeddings.word_embeddings.padding_idx = None
    found = convert(networks.state_of(model))
    ours = build(MODELS, found.spec)

    def step(variables):
        out, updated = ours.apply(variables, rows, train=True, mutable=["batch_stats"])
        return our_loss(out), updated

    value, updated = jax.jit(step)(found.variables)
    parity.close(value, published_loss(model.train(), rows))
    networks.same_statistics(KEEPFIT, found, updated, model)
    loss = partial(networks.in_training, our_loss, batch=rows)
    parity.same_gradients(KEEPFIT, found, loss, model)


def test_exports_load_into_the_originals():
    """Strictly, but for the pooler that we dropped, and then give the same embeddings."""
    torch = parity.torch_or_skip()
    for reference in (False, True):
        model, rows = original(reference).eval(), as_torch(batches()["public"])
        found = convert(networks.state_of(model))
        source = formats.SOURCES[found.source]
        before = [x.detach() for x in model(*rows)]
        back = rules.export(source, found.spec, found.variables)
        networks.lively(model, *rows, seed=5).eval()
        assert not torch.allclose(model(*rows)[0], before[0])
        model.load_state_dict({name: torch.tensor(value) for name, value in back.items()})
        for old, new in zip(before, model(*rows), strict=True):
            assert torch.equal(old, new)


# What FLAIR's README prints for its sample, before and since its pictures are filtered.
TEXTS = ("normal", "healthy", "macular edema", "diabetic retinopathy", "glaucoma", "macular hole",
         "lesion", "lesion in the macula")  # fmt: skip
LOGITS = {False: (-0.320, -2.782, 3.164, 4.388, 5.919, 6.639, 6.579, 10.478),
          True: (-0.186, -3.092, 3.357, 4.444, 6.223, 7.493, 7.028, 11.395)}  # fmt: skip


@pytest.mark.parametrize("antialias", LOGITS)
def test_released_weights_give_the_logits_of_the_readme(antialias, tmp_path):
    """FLAIR_RELEASED: a folder with model.safetensors, vocab.txt and sample_macular_hole.png."""
    if not (folder := os.environ.get("FLAIR_RELEASED")):
        pytest.skip("FLAIR_RELEASED names no folder with the released weights.")
    file = Path(folder) / "model.safetensors"
    found = rules.convert(FLAIR, files.read_tensors(file), antialias=antialias)
    described = describe.released(found, file, tokenizer=str(Path(folder) / "vocab.txt"))
    model_folder.write_folder(tmp_path / "flair", described, found.variables)
    loaded = retina_jax.load(tmp_path / "flair")
    likely = loaded.zero_shot(str(Path(folder) / "sample_macular_hole.png"), TEXTS)
    logits = np.log([likely[text] for text in TEXTS])
    expected = np.array(LOGITS[antialias])  # up to a number that probabilities do not show
    np.testing.assert_allclose(logits - logits[0], expected - expected[0], atol=0.02)


def make() -> None:
    """Stores a KeepFIT, what it embeds, and what its attention makes of that."""
    torch = parity.torch_or_skip()
    model = original(reference=True).eval()
    arrays = {}
    with torch.no_grad():
        for stream, rows in batches().items():
            image, text, _ = model(*as_torch(rows))
            arrays |= {f"{stream}/image": image.numpy(), f"{stream}/text": text.numpy()}
        stored = [torch.tensor(arrays[n]) for n in ("public/image", "expert/image", "expert/text")]
        arrays["reference"] = model.attention(*stored).numpy()
    arrays["scale"] = model.logit_scale.detach().numpy()
    print(parity.store("keepfit", networks.state_of(model), **arrays))


if __name__ == "__main__":
    make()
