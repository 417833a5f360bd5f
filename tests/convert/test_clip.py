"""OpenAI's CLIP and open_clip against open_clip itself.

The stored fixture is made anew by `python tests/convert/test_clip.py`, with PyTorch installed.
"""

from functools import partial

import numpy as np
import pytest
from convert import contrast, parity

from data_pipelines.errors import InputError
from retina_jax.convert import files, formats, rules
from retina_jax.convert.clip import CLIP, OPEN_CLIP

SIZE, LENGTH, VOCABULARY = 32, 9, 60
HEADS = {"heads": 4, "text_heads": 3}
BATCH = {"image": contrast.photographs(SIZE),
         **contrast.texts(LENGTH, VOCABULARY, end=VOCABULARY - 1)}  # fmt: skip


def original(quick_gelu: bool, custom: bool = False, bias: float | None = None, **vision):
    """A tiny model of open_clip, every parameter random."""
    parity.torch_or_skip()
    open_clip = pytest.importorskip("open_clip")

    vision = {"image_size": SIZE, "layers": 2, "width": 32, "head_width": 8, "patch_size": 8,
              "mlp_ratio": 2.0} | vision  # fmt: skip
    text = {"context_length": LENGTH, "vocab_size": VOCABULARY, "width": 24, "heads": 3,
            "layers": 3}  # fmt: skip
    kind = open_clip.model.CustomTextCLIP if custom else open_clip.model.CLIP
    model = kind(12, vision, text, quick_gelu=quick_gelu, init_logit_bias=bias)
    return parity.randomize(model).eval()


def embeddings(model):
    """Unit rows of both modalities and the scale, by the original."""
    torch = parity.torch_or_skip()
    images = contrast.normalized(BATCH["image"], *CLIP_STATISTICS)
    ids = torch.tensor(BATCH["text"].astype(np.int64))
    return (model.encode_image(images, normalize=True), model.encode_text(ids, normalize=True),
            model.logit_scale.exp())  # fmt: skip


CLIP_STATISTICS = (CLIP.preprocessing["mean"], CLIP.preprocessing["std"])
CASES = {"clip": (CLIP, True, False, {}), "open_clip": (OPEN_CLIP, False, False, {}),
         "open_clip with the names of its other class": (OPEN_CLIP, False, True, {}),
         "quick_gelu by option": (OPEN_CLIP, True, True,
                                  {"activation": "quick_gelu"})}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_embeddings_logits_and_gradients_are_the_originals(name):
    source, quick_gelu, custom, options = CASES[name]
    model = original(quick_gelu, custom)
    image, text, scale = embeddings(model)
    contrast.torch_loss(image, text, scale).backward()
    state = parity.tensors(model)
    assert formats.find(source.name, rules.shapes_of(state)) is source
    converted = rules.convert(source, state, **HEADS, **options)
    parity.same_tree(converted, SIZE)
    out = parity.apply(converted, BATCH)
    for key, theirs in (("image", image), ("text", text)):
        parity.close(out["z"][key], theirs.detach())
        parity.differ(out["z"][key])
    logits = out["scale"] * out["z"]["image"] @ out["z"]["text"].T
    parity.close(logits, (scale * image @ text.T).detach())
    parity.same_gradients(source, converted, partial(contrast.loss, batch=BATCH), model)
    parity.round_trip(source, state, **HEADS, **options)


def test_exported_weights_load_into_the_original():
    torch = parity.torch_or_skip()
    model = original(True)
    converted = rules.convert(CLIP, parity.tensors(model), **HEADS)
    back = rules.export(CLIP, converted.spec, converted.variables)
    fresh = parity.randomize(original(True), seed=1)
    fresh.load_state_dict({name: torch.tensor(value) for name, value in back.items()})
    for ours, theirs in zip(embeddings(fresh), embeddings(model), strict=True):
        assert torch.equal(ours, theirs)


def nested(tensors):
    """A module that has these parameters, named by its parts, as TorchScript can save it."""
    torch = parity.torch_or_skip()

    class Part(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    whole = Part()
    for name, value in tensors.items():
        *path, last = name.split(".")
        part = whole
        for step in path:
            if not hasattr(part, step):
                part.add_module(step, Part())
            part = getattr(part, step)
        part.register_parameter(last, torch.nn.Parameter(torch.tensor(value).half()))
    for name, value in (("input_resolution", SIZE), ("context_length", LENGTH)):
        whole.register_buffer(name, torch.tensor(value))
    return whole


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_an_archive_of_torchscript_in_half_precision(tmp_path):
    torch = parity.torch_or_skip()
    state, _ = parity.stored("clip")
    torch.jit.script(nested(state)).save(str(tmp_path / "ViT-B-16.pt"))
    found = files.read_tensors(tmp_path / "ViT-B-16.pt")
    converted = rules.convert(CLIP, found, **HEADS)
    assert set(converted.ignored) == {"input_resolution", "context_length"}
    halved = {name: value.astype(np.float16) for name, value in state.items()}
    expected = rules.flatten(rules.convert(CLIP, halved, **HEADS).variables)
    for path, value in rules.flatten(converted.variables).items():
        assert value.dtype == np.float32
        np.testing.assert_array_equal(value, expected[path])


def test_a_learned_bias_of_the_logits():
    model = original(False, bias=-7.0)
    parity.torch_or_skip().nn.init.constant_(model.logit_bias, -7.0)
    converted = rules.convert(OPEN_CLIP, parity.tensors(model), **HEADS)
    assert float(parity.apply(converted, BATCH)["bias"]) == -7.0


def test_what_follows_the_end_of_a_text_has_no_influence():
    state, arrays = parity.stored("clip")
    batch = {key: arrays[key] for key in ("image", "text", "text_mask")}
    converted = rules.convert(CLIP, state, **HEADS)
    filled = {**batch, "text": np.where(batch["text_mask"], batch["text"], 5)}
    assert not (filled["text"] == batch["text"]).all()
    one, other = (parity.apply(converted, b, "embed")["text"] for b in (batch, filled))
    np.testing.assert_array_equal(one, other)
    cut = {**batch, "text_mask": batch["text_mask"].copy()}
    cut["text_mask"][:, 3:] = False  # an earlier end is another text
    parity.differ([one, parity.apply(converted, cut, "embed")["text"]])


def test_stored_embeddings_are_given_again():
    state, arrays = parity.stored("clip")
    converted = rules.convert(CLIP, state, **HEADS)
    z = parity.apply(converted, arrays, "embed")
    for key in ("image", "text"):
        parity.close(z[key], arrays[f"z_{key}"])
    parity.round_trip(CLIP, state, **HEADS)


@pytest.mark.parametrize("size", (16, 48))
def test_positions_for_another_size_are_open_clips(size):
    model = original(True)
    state = parity.tensors(model)
    converted = rules.convert(CLIP, state, image_size=size, **HEADS)
    assert converted.preprocessing["size"] == size
    parity.same_tree(converted, size)
    torch = parity.torch_or_skip()
    open_clip = pytest.importorskip("open_clip")

    larger = original(True, image_size=size)
    resized = {name: torch.tensor(value) for name, value in state.items()}
    open_clip.model.resize_pos_embed(resized, larger)
    larger.load_state_dict(resized)
    images = contrast.photographs(size)
    theirs = larger.encode_image(contrast.normalized(images, *CLIP_STATISTICS), normalize=True)
    parity.close(parity.apply(converted, {"image": images}, "embed")["image"], theirs.detach())


def full_size() -> dict[str, tuple[int, ...]]:
    """Names and shapes of OpenAI's ViT-B/16, as its state dict has them."""
    shapes = {
        "visual.class_embedding": (768,), "visual.positional_embedding": (197, 768),
        "visual.proj": (768, 512), "visual.conv1.weight": (768, 3, 16, 16),
        "token_embedding.weight": (49408, 512), "positional_embedding": (77, 512),
        "text_projection": (512, 512), "logit_scale": (),
        "input_resolution": (), "context_length": (), "vocab_size": (),
    }  # fmt: skip
    norms = [("visual.ln_pre", 768), ("visual.ln_post", 768), ("ln_final", 512)]
    for prefix, width in (("visual.", 768), ("", 512)):
        for i in range(12):
            block = f"{prefix}transformer.resblocks.{i}."
            norms += [(f"{block}ln_1", width), (f"{block}ln_2", width)]
            linear = {"attn.in_proj_": (3 * width, width), "attn.out_proj.": (width, width),
                      "mlp.c_fc.": (4 * width, width),
                      "mlp.c_proj.": (width, 4 * width)}  # fmt: skip
            for name, shape in linear.items():
                shapes |= {f"{block}{name}weight": shape, f"{block}{name}bias": shape[:1]}
    for name, width in norms:
        shapes |= {f"{name}.weight": (width,), f"{name}.bias": (width,)}
    return shapes


def test_the_released_size():
    shapes = full_size()
    spec = CLIP.model(shapes)
    towers = spec["towers"]
    assert (towers["image"]["heads"], towers["text"]["heads"], CLIP.image_size(shapes)) == (
        12, 8, 224,
    )  # fmt: skip
    ours = rules.abstract(spec, 224)
    count = sum(int(np.prod(shape)) for shape in ours.values())
    assert count == 149_620_737  # of ViT-B/16, as published code counts them
    sizes = ("input_resolution", "context_length", "vocab_size")
    assert count == sum(int(np.prod(s)) for name, s in shapes.items() if name not in sizes)


@pytest.mark.parametrize(("change", "sentence"),
                         [({"visual.trunk.cls_token": (1, 1, 8)}, "image tower of timm"),
                          ({"visual.attn_pool.query": (8, 8)}, "as in CoCa"),
                          ({"visual.ln_pre.weight": None}, "as in CLIPA"),
                          ({"visual.positional_embedding": (9, 768)}, "no square grid"),
                          ({"visual.conv1.weight": (710, 3, 16, 16)},
                           "width 710 cannot have")])  # fmt: skip
def test_other_models_of_open_clip_are_refused(change, sentence):
    shapes = full_size() | change
    shapes = {name: shape for name, shape in shapes.items() if shape is not None}
    zeros = {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}
    with pytest.raises(InputError, match=sentence):
        rules.convert(OPEN_CLIP, zeros)


def make_fixture() -> None:
    """Stores a tiny CLIP with its embeddings."""
    model = original(True)
    image, text, _ = embeddings(model)
    z = {"z_image": image.detach().numpy(), "z_text": text.detach().numpy()}
    print(parity.store("clip", parity.tensors(model), **BATCH, **z))


if __name__ == "__main__":
    make_fixture()
