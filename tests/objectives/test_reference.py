"""KeepFIT's reference term: what it compares, how, and where its gradient goes."""

import jax
import numpy as np
import pytest

from data_pipelines.errors import InputError
from retina_jax.build import build
from retina_jax.losses import reference
from retina_jax.objectives import OBJECTIVES

rng = np.random.default_rng(0)


def rows():
    return rng.normal(size=(5, 8)).astype(np.float32)


OUT = {"z": {name: rows() for name in ("public/text", "public/image", "ffa_public/text")},
       "reference": {"public": rows(), "ffa_public": rows()}}  # fmt: skip


def terms(out=OUT, **options):
    return build(OBJECTIVES, {"name": "reference", **options})(out, {})


def test_the_public_text_is_compared_with_its_reference():
    (value,) = (found := terms()).values()
    expected = np.mean((OUT["z"]["public/text"] - OUT["reference"]["public"]) ** 2)
    assert set(found) == {"reference"} and float(value) == pytest.approx(float(expected), rel=1e-5)
    image = terms(texts=("public/image",))["reference"]
    expected = reference.text_revision(OUT["z"]["public/image"], OUT["reference"]["public"])
    assert float(image) == pytest.approx(float(expected), rel=1e-6)


def test_several_streams_are_terms_with_their_names():
    found = terms(texts=("public/text", "ffa_public/text"))
    assert set(found) == {"reference/public", "reference/ffa_public"}
    for stream in ("public", "ffa_public"):
        pair = OUT["z"][f"{stream}/text"], OUT["reference"][stream]
        expected = reference.text_revision(*pair)
        assert float(found[f"reference/{stream}"]) == pytest.approx(float(expected), rel=1e-6)


def test_the_direction_alone_can_count():
    text, target = OUT["z"]["public/text"], OUT["reference"]["public"]
    lengths = np.linalg.norm(text, axis=1) * np.linalg.norm(target, axis=1)
    expected = np.mean(1 - (text * target).sum(axis=1) / lengths)
    assert float(terms(kind="cosine")["reference"]) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize(
    ("stop", "moved"), [(None, (True, True)), ("text", (False, True)), ("reference", (True, False))]
)
@pytest.mark.parametrize("kind", ["squared", "cosine"])
def test_gradient_reaches_both_sides_unless_one_is_stopped(kind, stop, moved):
    def value(text, target):
        out = {"z": {"public/text": text}, "reference": {"public": target}}
        return terms(out, kind=kind, stop_gradient=stop)["reference"]

    pair = OUT["z"]["public/text"], OUT["reference"]["public"]
    gradients = jax.grad(value, argnums=(0, 1))(*pair)
    assert tuple(bool(np.abs(g).max() > 1e-4) for g in gradients) == moved


@pytest.mark.parametrize(("options", "message"),
                         [({"kind": "l1"}, r"kind \['squared', 'cosine'\], not 'l1'"),
                          ({"stop_gradient": "image"},
                           "'text', 'reference'.*, not of 'image'")])  # fmt: skip
def test_other_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        terms(**options)
