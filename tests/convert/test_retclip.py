"""RET-CLIP and Chinese-CLIP against small PyTorch modules in their layouts.

The stored fixtures are made anew by `python tests/convert/test_retclip.py`, with PyTorch installed.
"""

from functools import partial

import numpy as np
import pytest
from convert import contrast, originals, parity

from data_pipelines.errors import InputError
from retina_jax.convert import files, formats, rules
from retina_jax.convert.retclip import CHINESE_CLIP, RETCLIP
from retina_jax.losses import contrastive

SIZE, LENGTH, VOCABULARY = 32, 7, 40
HEADS = {"heads": 4, "text_heads": 3}
LEVELS = ("left", "right", "patient")
TEXTS = contrast.texts(LENGTH, VOCABULARY, end=VOCABULARY - 1)
PAIRS = {"image": contrast.photographs(SIZE), **TEXTS}
EYES = contrast.photographs(SIZE, count=8, seed=1).reshape(4, 2, SIZE, SIZE, 3)
PATIENTS = {"eyes": EYES, "eye_mask": np.ones((4, 2), bool), **TEXTS}
STATISTICS = (RETCLIP.preprocessing["mean"], RETCLIP.preprocessing["std"])


def words():
    """Token ids and mask as the originals take them."""
    torch = parity.torch_or_skip()
    return torch.tensor(TEXTS["text"].astype(np.int64)), torch.tensor(TEXTS["text_mask"])


def patients(model):
    """{level: (images, texts, scale)} by the original."""
    left, right = (contrast.normalized(EYES[:, i], *STATISTICS) for i in range(2))
    return model(left, right, *words())


def patients_loss(model, variables):
    """The sum over the levels, by ours."""
    out = model.apply(variables, PATIENTS)
    z, scale = out["z"], out["scale"]
    return sum(contrastive.softmax(z[v], z[f"text_{v}"], scale[v]) for v in LEVELS)


def test_retclip_at_its_three_levels():
    model = originals.retclip(SIZE, VOCABULARY)
    theirs = patients(model)
    sum(contrast.torch_loss(*theirs[level]) for level in LEVELS).backward()
    state = parity.tensors(model)
    assert formats.find("retclip", rules.shapes_of(state)) is RETCLIP
    assert formats.looks_like(rules.shapes_of(state)) == ["retclip"]
    converted = rules.convert(RETCLIP, state, **HEADS)
    parity.same_tree(converted, SIZE)
    out = parity.apply(converted, PATIENTS)
    for level in LEVELS:
        image, text, scale = (value.detach().numpy() for value in theirs[level])
        parity.close(out["z"][level], image)
        parity.close(out["z"][f"text_{level}"], text)
        parity.differ(out["z"][f"text_{level}"])
        logits = out["scale"][level] * out["z"][level] @ out["z"][f"text_{level}"].T
        parity.close(logits, scale * image @ text.T)
    parity.same_gradients(RETCLIP, converted, patients_loss, model)
    parity.round_trip(RETCLIP, state, **HEADS)


def test_chinese_clip_whose_pooler_is_left_behind():
    model = originals.chinese_clip(SIZE, VOCABULARY, pooler=True)
    image, text, scale = model(contrast.normalized(PAIRS["image"], *STATISTICS), *words())
    contrast.torch_loss(image, text, scale).backward()
    state = parity.tensors(model)
    assert formats.looks_like(rules.shapes_of(state)) == ["chinese_clip"]
    converted = rules.convert(CHINESE_CLIP, state, **HEADS)
    assert set(converted.ignored) == {"bert.pooler.dense.weight", "bert.pooler.dense.bias"}
    parity.same_tree(converted, SIZE)
    out = parity.apply(converted, PAIRS)
    parity.close(out["z"]["image"], image.detach())
    parity.close(out["z"]["text"], text.detach())
    parity.differ(out["z"]["text"])
    parity.close(out["scale"], scale.detach())
    parity.same_gradients(CHINESE_CLIP, converted, partial(contrast.loss, batch=PAIRS), model)
    parity.round_trip(CHINESE_CLIP, state, **HEADS)


def test_files_as_released_are_read(tmp_path):
    torch = parity.torch_or_skip()
    state, _ = parity.stored("retclip")
    tensors = {f"module.{name}": torch.tensor(value) for name, value in state.items()}
    torch.save(tensors, tmp_path / "ret-clip.pt")  # flat, as released
    torch.save(
        {"epoch": 3, "step": 9, "name": "run", "state_dict": tensors, "optimizer": {"state": {}}},
        tmp_path / "epoch.pt",  # as its code and that of Chinese-CLIP save
    )
    for name in ("ret-clip.pt", "epoch.pt"):
        found = files.read_tensors(tmp_path / name)
        assert set(found) == set(state)
        for key, value in state.items():
            np.testing.assert_array_equal(found[key], value)


@pytest.mark.parametrize("name", ("retclip", "chinese_clip"))
def test_stored_embeddings_are_given_again(name):
    state, arrays = parity.stored(name)
    source = formats.SOURCES[name]
    converted = rules.convert(source, state, **HEADS)
    batch = PATIENTS if name == "retclip" else PAIRS
    z = parity.apply(converted, batch)["z"]
    assert set(arrays) == set(z)
    for key, value in arrays.items():
        parity.close(z[key], value)
    parity.round_trip(source, state, **HEADS)


def test_positions_for_another_size_keep_their_corners():
    torch = parity.torch_or_skip()
    model = originals.chinese_clip(SIZE, VOCABULARY)
    state = parity.tensors(model)
    converted = rules.convert(CHINESE_CLIP, state, image_size=56, **HEADS)
    larger = originals.chinese_clip(56, VOCABULARY)
    grid = torch.tensor(state["visual.positional_embedding"][1:]).T.reshape(1, 16, 4, 4)
    grid = torch.nn.functional.interpolate(grid, (7, 7), mode="bicubic", align_corners=True)
    first = torch.tensor(state["visual.positional_embedding"][:1])
    resized = torch.cat([first, grid.reshape(16, 49).T])
    tensors = {name: torch.tensor(value) for name, value in state.items()}
    larger.load_state_dict({**tensors, "visual.positional_embedding": resized})
    images = contrast.photographs(56)
    image, *_ = larger(contrast.normalized(images, *STATISTICS), *words())
    ours = parity.apply(converted, {"image": images}, "embed")["image"]
    parity.close(ours, image.detach())
    assert converted.preprocessing["size"] == 56


def full_size() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the released file, without the prefix of all."""
    shapes = {
        "visual.class_embedding": (768,), "visual.positional_embedding": (197, 768),
        "visual.proj": (768, 512), "visual.conv1.weight": (768, 3, 16, 16),
        "global_feature_mapping.weight": (512, 1024), "left_feature_mapping.weight": (512, 512),
        "right_feature_mapping.weight": (512, 512),
        "bert.embeddings.word_embeddings.weight": (21128, 768),
        "bert.embeddings.position_embeddings.weight": (512, 768),
        "bert.embeddings.token_type_embeddings.weight": (2, 768),
    }  # fmt: skip
    dense, norms = {}, ["visual.ln_pre", "visual.ln_post", "bert.embeddings.LayerNorm"]
    for suffix in ("", "_left", "_right"):
        shapes[f"logit_scale{suffix}"] = ()
        dense |= {f"text_projection{suffix}.0.": (768, 768)}
        dense |= {f"text_projection{suffix}.2.": (512, 768)}
    for i in range(12):
        block, layer = f"visual.transformer.resblocks.{i}.", f"bert.encoder.layer.{i}."
        norms += [f"{block}ln_1", f"{block}ln_2"]
        norms += [f"{layer}attention.output.LayerNorm", f"{layer}output.LayerNorm"]
        dense |= {
            f"{block}attn.in_proj_": (2304, 768), f"{block}attn.out_proj.": (768, 768),
            f"{block}mlp.c_fc.": (3072, 768), f"{block}mlp.c_proj.": (768, 3072),
            f"{layer}attention.output.dense.": (768, 768),
            f"{layer}intermediate.dense.": (3072, 768), f"{layer}output.dense.": (768, 3072),
            **{f"{layer}attention.self.{n}.": (768, 768) for n in ("query", "key", "value")},
        }  # fmt: skip
    for name, shape in dense.items():
        shapes |= {f"{name}weight": shape, f"{name}bias": shape[:1]}
    for name in norms:
        shapes |= {f"{name}.weight": (768,), f"{name}.bias": (768,)}
    return shapes


def test_the_released_file():
    shapes = full_size()
    assert len(shapes) == 367
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == 191_871_235
    assert formats.looks_like(shapes) == ["retclip"]
    spec = RETCLIP.model(shapes)
    heads = [tower["heads"] for tower in spec["towers"].values()]
    assert heads == [12, 12] and RETCLIP.image_size(shapes) == 224
    ours = rules.abstract(spec, 224)
    assert sum(int(np.prod(shape)) for shape in ours.values()) == 191_871_235


def test_what_is_missing_too_many_or_of_another_shape_is_named():
    state, _ = parity.stored("retclip")
    for change, sentence in (
        ({"left_feature_mapping.weight": np.zeros((12, 11), np.float32)}, r"\(12, 11\) where \(12"),
        ({"logit_scale_right": None}, "lacks 1 that are needed .logit_scale_right"),
        ({"visual.extra": np.zeros(3, np.float32)}, "no use for 1 of its tensors .visual.extra"),
    ):
        changed = {k: v for k, v in {**state, **change}.items() if v is not None}
        with pytest.raises(InputError, match=sentence):
            rules.convert(RETCLIP, changed, **HEADS)
    with pytest.raises(InputError, match="does not look like 'chinese_clip'; it looks like 'retc"):
        formats.find("chinese_clip", rules.shapes_of(state))


def make_fixtures() -> None:
    """Stores both models tiny, with their embeddings of the pictures and texts above."""
    model = originals.retclip(SIZE, VOCABULARY)
    z = {}
    for level, (image, text, _) in patients(model).items():
        z |= {level: image.detach().numpy(), f"text_{level}": text.detach().numpy()}
    print(parity.store("retclip", parity.tensors(model), **z))
    model = originals.chinese_clip(SIZE, VOCABULARY)
    image, text, _ = model(contrast.normalized(PAIRS["image"], *STATISTICS), *words())
    z = {"image": image.detach().numpy(), "text": text.detach().numpy()}
    print(parity.store("chinese_clip", parity.tensors(model), **z))


if __name__ == "__main__":
    make_fixtures()
