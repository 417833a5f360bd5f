"""What each objective reads, and the names of the terms it gives."""

import jax
import numpy as np
import pytest

from data_pipelines.errors import InputError
from retina_jax.build import build
from retina_jax.losses import cloob, contrastive, generative
from retina_jax.objectives import OBJECTIVES

pytestmark = pytest.mark.fast

rng = np.random.default_rng(0)


def unit(rows=5, dim=8):
    x = rng.normal(size=(rows, dim))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


FLAT = {"z": {"image": unit(), "text": unit(), "oct": unit()}, "scale": np.float32(12.0)}
KEYS = ("image", "text")
NESTED = {
    "z": {f"{s}/{k}": unit(n) for s, n in {"public": 5, "expert": 4}.items() for k in KEYS},
    "scale": np.float32(12.0),
}
GROUPS = np.array([0, 1, 0, 2, 1], np.int32)
BATCH = {"public": {"group": GROUPS}, "expert": {"group": np.array([7, 7, 7, 3], np.int32)}}


def test_contrastive_names_a_term_for_each_pair_of_a_flat_batch():
    pairs = (("image", "text"), ("oct", "image"))
    made = build(OBJECTIVES, {"name": "contrastive", "pairs": pairs})
    terms = made(FLAT, {})
    assert set(terms) == {"contrastive/image-text", "contrastive/oct-image"}
    z = FLAT["z"]
    for name, pair in (("image-text", ("image", "text")), ("oct-image", ("oct", "image"))):
        expected = contrastive.softmax(z[pair[0]], z[pair[1]], 12.0)
        assert float(terms[f"contrastive/{name}"]) == pytest.approx(float(expected), rel=1e-6)
    assert len({float(term) for term in terms.values()}) == 2


def test_contrastive_names_the_stream_of_a_nested_batch_and_uses_its_groups():
    pairs = tuple((f"{s}/image", f"{s}/text") for s in ("public", "expert"))
    grouped = build(OBJECTIVES, {"name": "contrastive", "pairs": pairs, "groups": True})
    terms = grouped(NESTED, BATCH)
    assert set(terms) == {"contrastive/public/image-text", "contrastive/expert/image-text"}
    plain = build(OBJECTIVES, {"name": "contrastive", "pairs": pairs})(NESTED, BATCH)
    for stream in BATCH:
        z = [NESTED["z"][f"{stream}/{key}"] for key in KEYS]
        group = BATCH[stream]["group"]
        same = group[:, None] == group[None, :]
        expected = contrastive.softmax(*z, 12.0, same / same.sum(axis=1, keepdims=True))
        name = f"contrastive/{stream}/image-text"
        assert float(terms[name]) == pytest.approx(float(expected), rel=1e-6)
        assert float(plain[name]) == pytest.approx(float(contrastive.softmax(*z, 12.0)), rel=1e-6)
        assert float(plain[name]) != pytest.approx(float(terms[name]), rel=1e-3)


def test_contrastive_uses_the_groups_of_a_flat_batch():
    made = build(OBJECTIVES, {"name": "contrastive", "pairs": (("image", "text"),), "groups": True})
    value = made(FLAT, {"group": GROUPS})["contrastive/image-text"]
    targets = contrastive.group_targets(GROUPS)
    expected = contrastive.softmax(FLAT["z"]["image"], FLAT["z"]["text"], 12.0, targets)
    assert float(value) == pytest.approx(float(expected), rel=1e-6)


def test_contrastive_refuses_pairs_that_are_none():
    across = build(OBJECTIVES, {"name": "contrastive", "pairs": (("public/image", "expert/text"),)})
    with pytest.raises(InputError, match="'public/image' and 'expert/text' are rows of different"):
        across(NESTED, BATCH)
    mixed = build(OBJECTIVES, {"name": "contrastive", "pairs": (("image", "expert/text"),)})
    with pytest.raises(InputError, match="different streams"):
        mixed(NESTED, BATCH)
    twice = build(OBJECTIVES, {"name": "contrastive", "pairs": (("image", "text"),) * 2})
    with pytest.raises(InputError, match="Two pairs .* 'contrastive/image-text'"):
        twice(FLAT, {})


PAIR = (("image", "text"),)
MODEL = {"softmax": ("scale",), "sigmoid": ("scale", "bias"), "infoloob": (), "cloob": ()}


def only(term, out=None, batch=None, **options):
    made = build(OBJECTIVES, {"name": "contrastive", "pairs": PAIR, **options})
    terms = made({**FLAT, "bias": np.float32(-4.0)} if out is None else out, batch or {})
    assert set(terms) == {term}
    return float(terms[term])


def expected_of(kind, a, b):
    """The loss of each kind with the options below, from `losses` alone."""
    return float(
        {
            "softmax": lambda: contrastive.softmax(a, b, 12.0),
            "sigmoid": lambda: contrastive.sigmoid(a, b, 12.0, -4.0),
            "infoloob": lambda: contrastive.infoloob(a, b, 20.0) + contrastive.infoloob(b, a, 20.0),
            "cloob": lambda: cloob.cloob(a, b, 20.0, 5.0),
        }[kind]()
    )


@pytest.mark.parametrize("blockwise", [None, 2])
@pytest.mark.parametrize("kind", MODEL)
def test_contrastive_has_kinds(kind, blockwise):
    options = {"kind": kind, "inv_tau": 20.0, "beta": 5.0, "blockwise": blockwise}
    value = only("contrastive/image-text", **options)
    expected = expected_of(kind, FLAT["z"]["image"], FLAT["z"]["text"])
    assert value == pytest.approx(expected, rel=1e-5)
    # It needs of the model what its documentation says, and nothing else.
    out = {name: {**FLAT, "bias": np.float32(-4.0)}[name] for name in ("z", *MODEL[kind])}
    assert only("contrastive/image-text", out, **options) == value
    for name in MODEL[kind]:
        with pytest.raises(InputError, match=f"needs the model's '{name}'"):
            only("contrastive/image-text", {k: v for k, v in out.items() if k != name}, **options)


def test_contrastive_with_the_published_temperatures_of_cloob_unless_told_otherwise():
    z = FLAT["z"]
    expected = cloob.cloob(z["image"], z["text"], 30.0, 8.0)
    assert only("contrastive/image-text", kind="cloob") == pytest.approx(float(expected), rel=1e-6)
    learned = cloob.cloob(z["image"], z["text"], 12.0, 8.0)  # the scale of the model
    value = only("contrastive/image-text", kind="cloob", inv_tau=None)
    assert value == pytest.approx(float(learned), rel=1e-6)


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_contrastive_takes_a_scale_and_a_bias_for_each_pair(kind):
    pairs = (("image", "text"), ("public/oct", "public/text"))
    z = {"image": unit(), "text": unit(), "public/oct": unit(), "public/text": unit()}
    scale, bias = {"image": 3.0, "public/oct": 50.0}, {"image": -1.0, "public/oct": -7.0}
    made = build(OBJECTIVES, {"name": "contrastive", "pairs": pairs, "kind": kind})
    terms = made({"z": z, "scale": scale, "bias": bias}, {"public": {}})
    for (first, second), name in zip(pairs, ("image-text", "public/oct-text"), strict=True):
        extra = (scale[first], bias[first]) if kind == "sigmoid" else (scale[first],)
        expected = getattr(contrastive, kind)(z[first], z[second], *extra)
        assert float(terms[f"contrastive/{name}"]) == pytest.approx(float(expected), rel=1e-6)
    with pytest.raises(InputError, match=r"a scale for pairs .* \['oct'\], but none for 'image'"):
        made({"z": z, "scale": {"oct": 1.0}, "bias": bias}, {"public": {}})


@pytest.mark.parametrize("blockwise", [None, 2])
def test_contrastive_groups_of_a_sigmoid(blockwise):
    value = only("contrastive/image-text", batch={"group": GROUPS}, kind="sigmoid", groups=True,
                 blockwise=blockwise)  # fmt: skip
    same = GROUPS[:, None] == GROUPS
    expected = contrastive.sigmoid(FLAT["z"]["image"], FLAT["z"]["text"], 12.0, -4.0, same)
    assert value == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("groups", [False, True])
@pytest.mark.parametrize("options", [{}, {"blockwise": 2}, {"local_negatives": 5}])
@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_contrastive_leaves_out_rows_that_the_model_marks(kind, options, groups):
    mask = np.array([True, True, False, True, False])  # it parts two groups
    out = {**FLAT, "bias": np.float32(-4.0), "row_mask": {"image": mask, "oct": ~mask}}
    batch, options = {"group": GROUPS}, {"kind": kind, "groups": groups, **options}
    rows = {**out, "z": {k: z[mask] for k, z in out["z"].items()}, "row_mask": {}}
    expected = only("contrastive/image-text", rows, {"group": GROUPS[mask]}, kind=kind,
                    groups=groups)  # fmt: skip
    assert only("contrastive/image-text", out, batch, **options) == pytest.approx(expected, 1e-5)


@pytest.mark.parametrize("kind", ["infoloob", "cloob"])
def test_contrastive_refuses_marked_rows_where_every_row_counts(kind):
    out = {**FLAT, "row_mask": {"image": np.ones(5, bool)}}
    with pytest.raises(InputError, match=f"'{kind}' needs every row of 'image' to be there"):
        only("contrastive/image-text", out, kind=kind)


def test_contrastive_blockwise_uses_the_groups():
    options = {"batch": {"group": GROUPS}, "groups": True}
    value = only("contrastive/image-text", blockwise=2, **options)
    assert value == pytest.approx(only("contrastive/image-text", **options), rel=1e-5)
    assert value != pytest.approx(only("contrastive/image-text", blockwise=2), rel=1e-3)


@pytest.mark.parametrize("blockwise", [None, 2])
@pytest.mark.parametrize("kind", MODEL)
def test_contrastive_makes_the_whole_matrix_unless_told_otherwise(kind, blockwise):
    made = build(OBJECTIVES, {"name": "contrastive", "pairs": PAIR, "kind": kind,
                              "blockwise": blockwise})  # fmt: skip
    out = {"z": {"image": unit(4), "text": unit(4)}, "scale": 12.0, "bias": -4.0}
    text = str(jax.make_jaxpr(lambda z: made({**out, "z": z}, {}))(out["z"]))
    assert ("4,4]" in text) == (blockwise is None)


@pytest.mark.parametrize("kind", MODEL)
def test_contrastive_local_negatives_are_those_of_a_device(kind):
    """Six rows on three devices of two rows, whose losses are averaged."""
    out = {"z": {"image": unit(6), "text": unit(6)}, "scale": 12.0, "bias": -4.0}
    options = {"kind": kind, "inv_tau": 20.0, "beta": 5.0}
    value = only("contrastive/image-text", out, local_negatives=2, **options)
    devices = [[z[i : i + 2] for z in out["z"].values()] for i in (0, 2, 4)]
    assert value == pytest.approx(np.mean([expected_of(kind, *z) for z in devices]), rel=1e-5)


def test_contrastive_local_negatives_keep_to_their_groups():
    options = {"batch": {"group": np.array([0, 0, 0, 0], np.int32)}, "groups": True}
    out = {"z": {"image": unit(4), "text": unit(4)}, "scale": 12.0}
    value = only("contrastive/image-text", out, local_negatives=2, **options)
    halves = [[z[i : i + 2] for z in out["z"].values()] for i in (0, 2)]
    expected = np.mean([float(contrastive.softmax(*z, 12.0, np.full((2, 2), 0.5))) for z in halves])
    assert value == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "clip"}, r"kind \['softmax', 'sigmoid', 'infoloob', 'cloob'\], not 'clip'"),
        ({"kind": "cloob", "groups": True}, "'cloob' has one positive a row; remove 'groups'"),
        ({"kind": "infoloob", "groups": True}, "'infoloob' has one positive a row"),
        ({"local_negatives": 2, "blockwise": 2}, "remove one of them"),
        ({"local_negatives": 3}, "local_negatives is 3, which does not divide the batch of 5"),
        ({"kind": "cloob", "local_negatives": 1}, "only one row; .* local_negatives to at least 2"),
        ({"blockwise": 0}, "tiles of at least one row, not 0"),
    ],
)
def test_contrastive_refuses_options_that_do_not_fit(options, message):
    with pytest.raises(InputError, match=message):
        only("contrastive/image-text", **options)


def test_masked_language_scores_the_original_tokens_at_the_masked_positions():
    logits = rng.normal(size=(3, 4, 11)).astype(np.float32)
    batch = {"text": rng.integers(11, size=(3, 4)).astype(np.int32),
             "masked_text": np.zeros((3, 4), np.int32),
             "masked": rng.random((3, 4)) < 0.5}  # fmt: skip
    terms = build(OBJECTIVES, {"name": "masked_language"})({"logits": logits}, batch)
    probability = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    likelihood = np.take_along_axis(probability, batch["text"][..., None], axis=-1)[..., 0]
    assert set(terms) == {"masked_language"}
    assert float(terms["masked_language"]) == pytest.approx(
        -np.log(likelihood[batch["masked"]]).mean(), rel=1e-5
    )
    other = generative.masked_token_cross_entropy(logits, batch["masked_text"], batch["masked"])
    assert float(other) != pytest.approx(float(terms["masked_language"]), rel=1e-3)
