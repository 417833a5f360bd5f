"""Vision transformers of timm against timm itself.

The stored fixture is made anew by `python tests/convert/test_timm.py`, with PyTorch installed.
"""

from functools import partial

import numpy as np
import optax
import pytest
from convert import contrast, parity

from data_pipelines.errors import InputError
from retina_jax.convert import rules
from retina_jax.convert.timm import TIMM

SIZE = 32
IMAGES = contrast.photographs(SIZE)
LABELS = np.array([0, 2, 1, 2])
HALF = ((0.5,) * 3, (0.5,) * 3)
OPTIONS = {"statistics": "half", "heads": 3}


def original(size: int = SIZE, **keywords):
    """A tiny ViT of timm, every parameter random."""
    torch = parity.torch_or_skip()
    timm = pytest.importorskip("timm")

    sizes = dict(img_size=size, patch_size=8, embed_dim=24, depth=2, num_heads=3, mlp_ratio=2.0)
    model = timm.models.VisionTransformer(**{**sizes, "num_classes": 3, **keywords})
    parity.randomize(model)
    with torch.no_grad():
        for block in model.blocks:
            for scale in (block.ls1, block.ls2):
                if hasattr(scale, "gamma"):
                    scale.gamma.add_(1.0)
    return model.eval()


def loss(model, variables):
    logits = model.apply(variables, {"image": IMAGES})["logits"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, LABELS).mean()


CASES = {"class token": {}, "mean of patches beside a class token": {"global_pool": "avg"},
         "no class token": {"global_pool": "avg", "class_token": False, "fc_norm": False},
         "gains of branches": {"init_values": 1e-5},
         "norm before the blocks": {"pre_norm": True}}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_scores_and_gradients_are_timms(name):
    torch = parity.torch_or_skip()
    model = original(**CASES[name])
    scores = model(contrast.normalized(IMAGES, *HALF))
    torch.nn.functional.cross_entropy(scores, torch.tensor(LABELS)).backward()
    state = parity.tensors(model)
    options = {**OPTIONS, "eps": 1e-6}
    converted = rules.convert(TIMM, state, **options)
    parity.same_tree(converted, SIZE)
    out = parity.apply(converted, {"image": IMAGES})
    parity.close(out["logits"], scores.detach())
    parity.differ(out["logits"])
    parity.same_gradients(TIMM, converted, loss, model)
    parity.round_trip(TIMM, state, **options)


@pytest.mark.parametrize(("size", "class_token"), [(16, True), (56, False)])
def test_positions_for_another_size_are_timms(size, class_token):
    keywords = {"num_classes": 0, "class_token": class_token}
    if not class_token:
        keywords |= {"global_pool": "avg", "fc_norm": False}
    model = original(**keywords)
    converted = rules.convert(TIMM, parity.tensors(model), image_size=size, **OPTIONS)
    assert converted.spec["classes"] is None and converted.preprocessing["size"] == size
    model.set_input_size(img_size=(size, size))
    images = contrast.photographs(size)
    theirs = model(contrast.normalized(images, *HALF)).detach()
    parity.close(parity.apply(converted, {"image": images})["pooled"], theirs)


def test_stored_scores_are_given_again():
    state, arrays = parity.stored("timm")
    converted = rules.convert(TIMM, state, **OPTIONS)
    parity.close(parity.apply(converted, {"image": IMAGES})["logits"], arrays["logits"])
    parity.round_trip(TIMM, state, **OPTIONS)


@pytest.mark.parametrize(("change", "sentence"),
                         [({"reg_token": (1, 4, 24)}, "registers"),
                          ({"attn_pool.latent": (1, 1, 24)}, "attention instead of a class token"),
                          ({"blocks.0.mlp.fc2.weight": (24, 24)}, "gated MLPs"),
                          ({"cls_token": None, "fc_norm.weight": (24,)}, "no class token"),
                          ({"pos_embed": (1, 16, 24)},
                           "16 learned positions, 1 of them")])  # fmt: skip
def test_other_vits_are_refused(change, sentence):
    state, _ = parity.stored("timm")
    shapes = {k: v for k, v in {**rules.shapes_of(state), **change}.items() if v is not None}
    zeros = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    with pytest.raises(InputError, match=sentence):
        rules.convert(TIMM, zeros, **OPTIONS)


def test_mean_and_deviation_have_to_be_named():
    state, _ = parity.stored("timm")
    convert = partial(rules.convert, TIMM, state, heads=3)
    with pytest.raises(InputError, match="give the option statistics"):
        convert()
    with pytest.raises(InputError, match="one of .'clip', 'half', 'imagenet'., not 'own'"):
        convert(statistics="own")
    assert convert(statistics="imagenet").spec["mean"] == (0.485, 0.456, 0.406)


def make_fixture() -> None:
    """Stores a tiny ViT with gains of branches, and its scores of IMAGES."""
    model = original(init_values=1e-5)
    scores = model(contrast.normalized(IMAGES, *HALF)).detach().numpy()
    print(parity.store("timm", parity.tensors(model), logits=scores))


if __name__ == "__main__":
    make_fixture()
