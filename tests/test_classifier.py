"""A classifier from a data set and a start: what the recipe makes of them, and what a run leaves."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from runs import config, whole_config

import retina_jax
from data_pipelines import build as builds
from data_pipelines.errors import InputError
from retina_jax import classifier, experiment
from retina_jax.settings import Keep
from retina_jax.train import early_stopping, loop
from retina_jax.types import Results, Score

SMOKE = retina_jax.get_config("classifier:smoke")


@pytest.fixture(scope="module")
def made():
    """The smoke run of the recipe, built and not trained."""
    (stage,) = experiment.build_all(SMOKE, Path("unused"))
    return stage


def test_step_0_is_the_probe(made):
    """LP-FT: before any step the head's scores are those of the probe that was folded into it."""
    state = loop.fresh_state(made, loop.abstract_state(made))
    probed = made.warm_start.probes["head"]
    encoder, data = probed.encoder, probed.data
    features = encoder.encode_dataset(state, data, "features", ["image"], ["label"])
    scores = encoder.encode_dataset(state, data, "classify", ["image"])["logits"]
    probe = probed.fit(features["image"], features["label"], data.source.column("patient"))
    expected = probe.predict_proba(features["image"])
    np.testing.assert_allclose(jax.nn.softmax(scores), expected, atol=1e-5)
    assert (scores.argmax(axis=1) == features["label"]).mean() > 0.5
