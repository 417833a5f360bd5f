"""The captioner of KeepFIT-FFA: its scores, gradients and statistics, and what it writes.

The stored original is made anew by `python tests/convert/test_captioner.py`, with PyTorch and
torchvision installed.
"""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from convert import contrast, flairs, networks, parity

from retina_jax.build import build
from retina_jax.convert import formats, rules
from retina_jax.convert.captioner import CAPTIONER
from retina_jax.models import MODELS
from retina_jax.models.captioner import IMAGENET_MEAN, IMAGENET_STD

WORDS, WIDTH, DEPTH, HEADS = 24, 16, 2, 4
SIZE, ROWS, LENGTH = 64, 3, 6
QUIET = {"dropout": 0.0, "mlp_dropout": 0.0, "patch_dropout": 0.0, "max_length": LENGTH}


def batch() -> dict[str, Any]:
    """Pictures, and reports that 0 begins, ends and pads."""
    rng = np.random.default_rng(0)
    ids = rng.integers(1, WORDS, (ROWS, LENGTH)).astype(np.int32)
    words = LENGTH - np.arange(ROWS) % 3  # with both ends
    ids = np.where(np.arange(LENGTH) < words[:, None] - 1, ids, 0)
    ids[:, 0] = 0
    mask = np.arange(LENGTH) < words[:, None]
    return {"image": contrast.photographs(SIZE, ROWS), "text": ids, "text_mask": mask}


def as_torch(rows: dict[str, Any]) -> tuple[Any, Any]:
    """Pictures, and the words that the original is given: all but the last."""
    torch = parity.torch_or_skip()
    images = contrast.normalized(rows["image"], IMAGENET_MEAN, IMAGENET_STD)
    return images, torch.tensor(rows["text"][:, :-1]).long()


def original() -> Any:
    """Random, with statistics of BatchNorm near those of the pictures."""
    parity.torch_or_skip()
    pytest.importorskip("torchvision")
    return networks.lively(flairs.captioner(WORDS, WIDTH, DEPTH, HEADS), *as_torch(batch()))


def convert(state: Any) -> rules.Converted:
    """The file as ours, without dropout."""
    source = formats.find("captioner", rules.shapes_of(state))
    found = rules.convert(source, state, heads=HEADS)
    parity.same_tree(found)
    return dataclasses.replace(found, spec={**found.spec, **QUIET})


def asked(mask: Any) -> Any:
    """Where a word follows that is scored: [B L-1]."""
    return mask[:, 1:]


@pytest.fixture(scope="module")
def stored():
    """(state dict, arrays, model) of the stored original."""
    state, kept = parity.stored("captioner")
    return state, kept, convert(state)


def test_stored_original(stored):
    _, kept, found = stored
    assert found.spec["bos_id"] == found.spec["eos_id"] == 0
    rows = batch()
    written = parity.apply(found, rows)["caption_logits"]
    there = asked(rows["text_mask"])[..., None]
    parity.close(jax.nn.log_softmax(written) * there, kept["scores"] * there)
    parity.differ(written[:, 0])


def test_the_usual_layer_norm_would_be_noticed(stored):
    """With 16 columns the biased deviation is 3 % smaller."""
    _, kept, found = stored
    usual = dataclasses.replace(found, spec={**found.spec, "deviation": "biased"})
    written = jax.nn.log_softmax(parity.apply(usual, batch())["caption_logits"])
    assert np.abs(written - kept["scores"]).max() > 1e-3 * np.abs(kept["scores"]).max()


def test_the_same_bits_come_back(stored):
    state, _, found = stored
    parity.round_trip(CAPTIONER, state, heads=HEADS)
    assert list(found.ignored) == sorted(n for n in state if n.endswith(("_tracked", ".pe")))


def test_it_writes_the_words_that_the_original_scores_highest(stored):
    """Word by word with a cache, greedily, against whole texts of the stored original's twin."""
    _, _, found = stored
    greedy = dataclasses.replace(found, spec={**found.spec, "decoding": {"name": "greedy"}})
    images = {"image": batch()["image"]}
    text = np.asarray(parity.apply(greedy, images, "generate")["generated"])
    ids = np.zeros((ROWS, LENGTH + 1), np.int32)
    for place in range(LENGTH):
        rows = {**images, "text": ids, "text_mask": np.arange(LENGTH + 1) <= place}
        rows["text_mask"] = np.broadcast_to(rows["text_mask"], ids.shape)
        scores = np.array(parity.apply(found, rows)["caption_logits"][:, place])
        ids[:, place + 1] = scores.argmax(-1)
    for row, expected in zip(text, ids[:, 1:], strict=True):
        end = list(expected).index(0) if 0 in expected else LENGTH
        np.testing.assert_array_equal(row[:end], expected[:end])


def full_size() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the released file with 4,000 words and the pe of 5,000 positions."""
    words, width = 4000, 512
    stack = "encoder_decoder.model."
    dense = {"encoder_decoder.att_embed.0": (width, 2048), "encoder_decoder.logit": (words, width)}
    norms = [f"{stack}encoder.norm", f"{stack}decoder.norm"]
    for kind, attentions in (("encoder", ["self_attn"]), ("decoder", ["self_attn", "src_attn"])):
        for i in range(3):
            layer = f"{stack}{kind}.layers.{i}."
            dense |= {f"{layer}{a}.linears.{n}": (width, width) for a in attentions
                      for n in range(4)}  # fmt: skip
            dense |= {f"{layer}feed_forward.w_{n}": (width, width) for n in (1, 2)}
            norms += [f"{layer}sublayer.{n}.norm" for n in range(len(attentions) + 1)]
    shapes = {f"{stack}tgt_embed.0.lut.weight": (words, width),
              f"{stack}tgt_embed.1.pe": (1, 5000, width)}  # fmt: skip
    shapes |= {f"{name}.weight": shape for name, shape in dense.items()}
    shapes |= {f"{name}.bias": shape[:1] for name, shape in dense.items()}
    return shapes | {f"{n}.{part}": (width,) for n in norms for part in ("gamma", "beta")}


@pytest.mark.parametrize("depth", [50, 101])
def test_published_names_and_sizes(depth):
    """Every name has its place, with the trunk of the CLIP stage or torchvision's ResNet-101."""
    torch = parity.torch_or_skip()
    torchvision = pytest.importorskip("torchvision")
    with torch.device("meta"):
        trunk = list(getattr(torchvision.models, f"resnet{depth}")().children())[:-2]
        trunk = rules.shapes_of(torch.nn.Sequential(*trunk).state_dict())
    shapes = full_size() | {f"visual_extractor.model.{n}": s for n, s in trunk.items()}
    assert formats.looks_like(shapes) == ["captioner"]
    found = rules.fit(CAPTIONER, shapes)
    assert found.spec["tower"] == {"name": "resnet", "depth": depth, "width": 64}
    assert {"width": 512, "depth": 3, "heads": 8, "mlp_dim": 512}.items() <= found.spec.items()
    assert not found.filled


def test_a_step_is_the_originals():
    """Loss over the words, gradients of every parameter, and the trunk's statistics."""
    torch = parity.torch_or_skip()
    model, rows = original(), batch()
    found = convert(networks.state_of(model))
    scores = model.train()(*as_torch(rows))
    mask = torch.tensor(asked(rows["text_mask"])).float()
    targets = torch.tensor(rows["text"][:, 1:]).long()[..., None]
    (-(scores.gather(-1, targets)[..., 0] * mask).sum() / mask.sum()).backward()

    def our_loss(out):
        chosen = jnp.take_along_axis(
            jax.nn.log_softmax(out["caption_logits"]), rows["text"][:, 1:, None], axis=-1
        )[..., 0]
        weights = asked(rows["text_mask"])
        return -(chosen * weights).sum() / weights.sum()

    ours = build(MODELS, found.spec)

    def statistics(variables):
        return ours.apply(variables, rows, train=True, mutable=["batch_stats"])[1]

    updated = jax.jit(statistics)(found.variables)
    networks.same_statistics(CAPTIONER, found, updated, model)
    loss = partial(networks.in_training, our_loss, batch=rows)
    parity.same_gradients(CAPTIONER, found, loss, model)


def make() -> None:
    """Stores a captioner and its scores."""
    torch = parity.torch_or_skip()
    model = original().eval()
    with torch.no_grad():
        scores = model(*as_torch(batch())).numpy()
    print(parity.store("captioner", networks.state_of(model), scores=scores))


def test_exports_have_the_fixed_positions_that_the_original_stores():
    """By the formula of Vaswani et al., in double precision; a strict load asks for them."""
    state, _ = parity.stored("captioner")
    converted = rules.convert(CAPTIONER, state, heads=HEADS)
    found = rules.export(CAPTIONER, converted.spec, converted.variables)
    stored = found["encoder_decoder.model.tgt_embed.1.pe"]
    angles = np.arange(5000)[:, None] / 10_000 ** (np.arange(0, WIDTH, 2) / WIDTH)
    assert stored.shape == (1, 5000, WIDTH) and stored.dtype == np.float32
    np.testing.assert_allclose(stored[0, :, 0::2], np.sin(angles), atol=5e-4)
    np.testing.assert_allclose(stored[0, :, 1::2], np.cos(angles), atol=5e-4)
    assert set(state) <= set(found)


if __name__ == "__main__":
    make()
