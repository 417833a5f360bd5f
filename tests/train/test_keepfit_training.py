"""Where the gradients of KeepFIT's terms go, what it remembers, and its rows in microbatches."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from microbatches import LOCAL, PAIRS, RNG, assert_close, batch, check, cut, keepfit, variables
from runs import assert_same_bits

from data_pipelines.errors import InputError
from retina_jax.objectives.appearance import PatchCodeLoss
from retina_jax.objectives.caption import CaptionLoss
from retina_jax.objectives.contrastive import Contrastive
from retina_jax.objectives.reference import Reference
from retina_jax.train.step import compose, make_step
from retina_jax.types import TrainState

CONTRASTIVE = Contrastive(PAIRS, groups=True)
CAPTION, INJECTION = CaptionLoss("caption", ("expert",)), CaptionLoss("injection", ("public",))


def streams():
    return {"public": batch(12), "expert": batch(6, seed=1)}


@functools.cache
def gradients():
    """Those of each term by itself, from one program."""
    model, rows = keepfit(LOCAL), streams()
    params, _ = variables(model, rows)
    terms = (CONTRASTIVE, Reference(), CAPTION, INJECTION)

    def each(params):
        out = model.apply({"params": params}, rows, train=True, rngs={"dropout": RNG})
        return [sum(term(out, rows).values()) for term in terms]

    found = jax.jit(jax.jacrev(each))(params)
    return dict(zip(("contrastive", "reference", "caption", "injection"), found, strict=True))


def largest(gradient):
    """The largest entry by part: 'image', 'injection/writer', ..."""
    inside = {f"injection/{k}": v for k, v in gradient["injection"].items()}
    parts = {**{k: v for k, v in gradient.items() if k != "injection"}, **inside}
    return {k: max(float(jnp.abs(x).max()) for x in jax.tree.leaves(v)) for k, v in parts.items()}


# What each term teaches; everything else gets no gradient at all.
TOWER = {"image", "image_projection", "text", "text_projection"}
TAUGHT = {"contrastive": TOWER | {"logit_scale"}, "reference": TOWER | {"attention"},
          "caption": {"image", "injection/extractor", "injection/writer"},
          "injection": {"image", "injection/extractor", "injection/writer",
                        "injection/exchange"}}  # fmt: skip


@pytest.mark.parametrize("term", TAUGHT)
def test_a_term_teaches_these_parts_and_no_others(term):
    found = largest(gradients()[term])
    assert {name for name, value in found.items() if value > 0} == TAUGHT[term]
    assert min(found[name] for name in TAUGHT[term]) > 1e-6


def cross_attention(tree):
    found = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(p): x for p, x in found if "cross_attention" in str(p)}


def test_cross_attention_learns_through_the_decoder_only():
    found = {term: cross_attention(gradient) for term, gradient in gradients().items()}
    assert len(found["caption"]) > 20
    for name in found["caption"]:
        assert not found["contrastive"][name].any() and not found["reference"][name].any()
        # A softmax does not see what is added to all of its keys.
        written = max(np.abs(found[term][name]).max() for term in ("caption", "injection"))
        assert written > 1e-7 or "'key']['bias'" in name


def test_revision_moves_the_experts_too_unless_it_is_told_otherwise():
    """As published: the gradient of the reference loss reaches the towers by four ways."""
    model, rows = keepfit(), streams()
    params, _ = variables(model, rows)
    out = jax.jit(lambda p: model.apply({"params": p}, rows))(params)

    def value(z, **options):
        joined = {"params": params}
        made = model.apply(joined, {"z": z, "scale": out["scale"]}, method="combine")
        return Reference(**options)(made, rows)["reference"]

    names = {"public/image", "public/text", "expert/image", "expert/text"}
    for stop, moved in ((None, names), ("text", names - {"public/text"}),
                        ("reference", {"public/text"})):  # fmt: skip
        gradient = jax.jit(jax.grad(functools.partial(value, stop_gradient=stop)))(out["z"])
        assert {k for k, g in gradient.items() if np.abs(g).max() > 1e-7} == moved


def test_groups_that_all_differ_are_the_literal_pairs():
    """Soft targets of different captions are the identity, in value and in gradient."""
    random = np.random.default_rng(3)
    z = {f"{stream}/{side}": random.normal(size=(6, 8)).astype(np.float32)
         for stream in ("public", "expert") for side in ("image", "text")}  # fmt: skip

    def run(groups, group):
        rows = {stream: {"group": group} for stream in ("public", "expert")}

        def loss(z):
            terms = Contrastive(PAIRS, groups=groups)({"z": z, "scale": jnp.float32(2)}, rows)
            return sum(terms.values())

        return jax.value_and_grad(loss)(z)

    different = np.arange(6, dtype=np.int32)[::-1] * 7
    literal, soft = run(False, different), run(True, different)
    assert float(soft[0]) == pytest.approx(float(literal[0]), rel=1e-6)
    assert_close(soft[1], literal[1])
    equal = run(True, np.zeros(6, np.int32))
    assert abs(float(equal[0]) - float(literal[0])) > 1e-2


@pytest.fixture(scope="module")
def codebook(tmp_path_factory):
    path = tmp_path_factory.mktemp("codes") / "codebook.npy"
    np.save(path, np.random.default_rng(0).uniform(size=(5, 2, 2, 3)).astype(np.float32))
    return {"codebook": str(path), "share": 0.5, "dropout": 0.0}


@pytest.mark.slow
def test_microbatches_have_the_gradient_of_the_whole_batch_and_remember_it_once():
    """Only joining writes the memory, so cutting the batch changes nothing about it."""
    model, rows = keepfit(LOCAL, memory=9), streams()
    with pytest.raises(InputError, match="keeps memory"):
        check(model, rows, cut(3))
    params, state = variables(model, rows)
    state = jax.tree.map(np.zeros_like, state)
    found = []
    for cuts in (None, cut(3, own_statistics=True)):
        loss = compose(model, (CONTRASTIVE, Reference(), CAPTION, INJECTION), {}, cuts)
        (value, (_, after)), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(
            params, state, rows, RNG
        )
        found.append((float(value), gradient, after))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-5)
    assert_close(found[1][1], found[0][1])
    assert int(found[0][2]["memory"]["past_expert"]["count"]) == 6
    assert_close(found[1][2], found[0][2])


def test_codes_of_hidden_patches_are_made_row_by_row(codebook):
    model, rows = keepfit({**LOCAL, "appearance": codebook}), streams()
    check(model, rows, cut(3))
    params, _ = variables(model, rows)
    out = jax.jit(lambda p: model.apply({"params": p}, rows, True, rngs={"dropout": RNG}))(params)
    terms = PatchCodeLoss()(out, rows)
    assert set(terms) == {"appearance/public", "appearance/expert"}
    assert set(out["appearance"]["public"]) == {"logits", "codes", "hidden"}


def test_memory_is_state_that_steps_hand_on():
    """The experts of one step are looked at in the next, and an unused memory changes nothing."""
    rows, later = streams(), {"public": batch(12, seed=5), "expert": batch(6, seed=6)}
    optimizer = optax.sgd(0.0)  # nothing but the memory moves
    values = {}
    for size in (0, 9):
        model = keepfit(memory=size)
        params, empty = variables(model, rows)
        state = TrainState(step=np.int32(0), params=params,
                           model_state=jax.tree.map(np.zeros_like, empty),
                           opt_state=optimizer.init(params),
                           skipped=np.zeros(2, np.int32))  # fmt: skip
        step = jax.jit(make_step(compose(model, (CONTRASTIVE, Reference()), {}), optimizer))
        state, first = step(state, rows, RNG)
        z = jax.jit(lambda p, m=model: m.apply({"params": p}, rows["expert"], method="embed"))(
            params
        )
        state, second = step(state, later, RNG)
        values[size] = float(first["loss"]), float(second["loss"])
    assert values[0][0] == pytest.approx(values[9][0], rel=1e-5)
    assert abs(values[0][1] - values[9][1]) > 1e-5
    kept = state.model_state["memory"]["past_expert"]
    assert int(kept["count"]) == 9
    np.testing.assert_allclose(kept["image"][6:], z["image"][:3], atol=1e-5)
    np.testing.assert_allclose(kept["text"][6:], z["text"][:3], atol=1e-5)


def test_pairs_of_streams_do_not_see_each_other():
    """Jointly trained modalities share parameters; experts and negatives are of one modality."""
    pairs = (("cfp_public", "cfp_expert"), ("oct_public", "oct_expert"))
    model = keepfit(LOCAL, streams=pairs, memory=9)
    rows = {name: batch(6, seed=i) for i, pair in enumerate(pairs) for name in pair}
    params, state = variables(model, rows)
    other = {**rows, "oct_expert": batch(6, seed=9)}

    @jax.jit
    def run(rows):
        return model.apply({"params": params, **state}, rows, True, rngs={"dropout": RNG},
                           mutable=["memory"])  # fmt: skip

    (out, kept), (changed, kept_too) = run(rows), run(other)
    assert set(out["reference"]) == {"cfp_public", "oct_public"}
    assert set(out["caption_logits"]) == {name for pair in pairs for name in pair}
    for name in ("reference", "caption_logits"):
        assert_same_bits(out[name]["cfp_public"], changed[name]["cfp_public"])
        assert np.abs(out[name]["oct_public"] - changed[name]["oct_public"]).max() > 1e-5
    assert_same_bits(kept["memory"]["past_cfp_expert"], kept_too["memory"]["past_cfp_expert"])
    terms = Contrastive((("cfp_public/image", "cfp_public/text"),), groups=True)(out, rows)
    assert set(terms) == {"contrastive/cfp_public/image-text"}
