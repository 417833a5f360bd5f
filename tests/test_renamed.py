"""Runs and model folders of before options were renamed say the same as those of today."""

import pytest

from retina_jax import renamed

pytestmark = pytest.mark.fast


def test_old_options_have_todays_names_and_the_same_values():
    old = {"model": {"towers": {"image": {"name": "vit", "first_values": "torch"}}, "name": "dual"},
           "transforms": [{"name": "mask_tokens", "fates": [1.0, 0.0]}, {"name": "random_flip"}],
           "oct": {"name": "slices", "encoder": {"name": "resnet"}},
           "volume": {"name": "slices", "slices": 4},
           "begun": {"name": "masked_autoencoder", "towers": {}, "mask_ratio": 0.5, "bos_id": None,
                     "context": "clean"},
           "evaluators": {"probe": {"figures": ["auc"]}}}  # fmt: skip
    assert renamed.todays(old) == {
        "model": {"towers": {"image": {"name": "vit", "initialization": "torch"}}, "name": "dual"},
        "transforms": [
            {"name": "mask_tokens", "mask_token_share": 1.0, "random_token_share": 0.0},
            {"name": "random_flip"},
        ],
        "oct": {"name": "attention_mil", "encoder": {"name": "resnet"}},
        "volume": {"name": "slices", "slices": 4},
        "begun": {"name": "masked_autoencoder", "towers": {}, "mask_ratio": 0.5},
        "evaluators": {"probe": {"metrics": ["auc"]}},
    }
    assert renamed.todays(renamed.todays(old)) == renamed.todays(old)
