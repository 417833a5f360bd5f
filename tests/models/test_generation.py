"""Every model that writes: its texts are those of decoding without what the cache keeps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines.errors import InputError
from retina_jax.models import decoding
from retina_jax.models.captioner import Captioner
from retina_jax.models.coca_mim import CocaMim
from retina_jax.models.keepfit import KeepFIT

rng = np.random.default_rng(0)
ROWS, WORDS, LENGTH = 6, 12, 5
ENDS = decoding.Ends(2, 3)
IDS = {"bos_id": ENDS.first, "eos_id": ENDS.last}
VIT = {"name": "vit", "width": 8, "depth": 1, "heads": 2, "mlp_dim": 8, "patch_size": 8}
BERT = {"name": "bert", "vocab_size": WORDS, "width": 8, "depth": 1, "heads": 2, "mlp_dim": 8,
        "max_length": LENGTH + 1, "dropout": 0.0}  # fmt: skip
TOWERS = {"towers": {"image": VIT, "text": {**BERT, "pool": "cls"}}, "dim": 4}
BLOCKS = {"depth": 2, "heads": 2, "mlp_dim": 8}
IMAGE = rng.integers(0, 256, (ROWS, 16, 16, 3), np.uint8)
BEAM = {"name": "beam", "beams": 3, "length_penalty": 0.6}
NUCLEUS = {"name": "nucleus", "share": 0.95, "seed": 1}


def captioner(**options):
    return Captioner(VIT, WORDS, width=8, **BLOCKS, **IDS, max_length=LENGTH, **options)


def causal(**options):
    decoder = {"vocab_size": WORDS, "width": 8, **BLOCKS}
    return CocaMim(
        **TOWERS, **IDS, caption_mode="causal", text_decoder=decoder, max_length=LENGTH, **options
    )


def injected(**options):
    decoder = {"vocab_size": WORDS, "depth": 2}
    local = {"queries": 3, "width": 8, "depth": 1, "heads": 2, "mlp_dim": 8, "nearest": 2}
    local |= {"length": LENGTH + 1, "decoder": decoder, **IDS, **options}
    return KeepFIT(**TOWERS, local=local)


def scores(model, variables, image, text):
    """f32[B L V], of what follows each token i32[B L], as in training."""
    text = jnp.pad(text, ((0, 0), (0, 1)))  # nobody asks what follows the last
    batch = {"image": image, "text": text, "text_mask": jnp.ones(text.shape, bool)}
    if not isinstance(model, KeepFIT):
        return model.apply(variables, batch)["caption_logits"]
    streams = {"public": batch, "expert": batch}
    return model.apply(variables, streams, method="encode")["caption_logits"]["expert"]


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(captioner, marks=pytest.mark.slow),
        causal,
        pytest.param(injected, marks=pytest.mark.slow),
    ],
)
def test_generation_is_decoding_of_whole_texts(make, random_variables, run):
    text = np.zeros((ROWS, LENGTH + 1), np.int32)
    batch = {"image": IMAGE, "text": text, "text_mask": text == 0}
    given = {"public": batch, "expert": batch} if make is injected else batch
    variables = random_variables(make(), given, seed=3)
    # For texts that differ, although the pictures are noise and the parameters random.
    table = next(
        leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(variables)
        if path[-1].key == "embedding" and ("writer" in str(path) or "_decoder" in str(path)
                                            or "text_reconstruction" in str(path))
    )  # fmt: skip
    table *= 2

    def found(variables, strategy):
        return make(decoding=strategy).apply(variables, {"image": IMAGE}, method="generate")

    def whole(variables, strategy):
        strategy = decoding.make_decoder(strategy)
        images = jnp.repeat(IMAGE, strategy.width, axis=0)

        def step(state, tokens, index):
            texts = state[0].at[:, index].set(tokens, mode="drop")
            out = scores(make(), variables, images, texts)
            return jax.lax.dynamic_index_in_dim(out, index, 1, keepdims=False), texts[None]

        texts = jnp.full((ROWS, LENGTH), ENDS.first, jnp.int32)
        first = scores(make(), variables, IMAGE, texts)[:, 0]
        return strategy(step, first, texts[None], ENDS, LENGTH)

    def both(variables):
        return [
            (found(variables, strategy), whole(variables, strategy)) for strategy in (BEAM, NUCLEUS)
        ]

    texts = []
    for made, expected in run(both, variables):
        assert made["generated"].shape == (ROWS, LENGTH)
        np.testing.assert_array_equal(made["generated"], expected)
        texts.append(np.asarray(expected))
    assert len(np.unique(np.concatenate(texts), axis=0)) > 3
    features = make().apply(variables, {"image": IMAGE}, method="features")["image"]
    np.testing.assert_allclose(made["image"], features, atol=1e-5)


@pytest.mark.parametrize(("model", "words"),
                         [(KeepFIT(**TOWERS), "KeepFIT writes with the option `local` only"),
                          (CocaMim(**TOWERS), "with a text_decoder and caption_mode='causal'"),
                          (CocaMim(**TOWERS, text_decoder=BLOCKS),
                           "with a text_decoder and caption_mode='causal'"),
                          (injected(bos_id=None), "set its bos_id and eos_id"),
                          (causal(decoding={"name": "beem"}), "no 'beem' here")])  # fmt: skip
def test_models_that_cannot_write_say_so(model, words):
    def write(key):
        return model.init(key, {"image": jnp.asarray(IMAGE)}, method="generate")

    with pytest.raises(InputError, match=words):
        jax.eval_shape(write, jax.random.key(0))
