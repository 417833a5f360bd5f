"""SKKU's config: what its parts leave out, its sizes, and what it is not trained on."""

from __future__ import annotations

import csv
import importlib

import jax
import numpy as np
import pytest

from data_pipelines import knowledge
from data_pipelines.tokenizers import SentencePiece
from data_pipelines.transforms import Prompt
from retina_jax.build import build
from retina_jax.models import MODELS
from retina_jax.objectives import OBJECTIVES

pytestmark = pytest.mark.fast

PARTS = {
    "contrastive": {"contrastive/image-text"},
    "image": {"contrastive/image-text", "masked_image"},
    "caption": {"contrastive/image-text", "masked_image", "masked_language"},
    "demo": {"contrastive/image-text", "masked_image", "masked_language"},
}
BATCH = {
    "image": np.zeros((2, 96, 96, 3), np.uint8),
    **{key: np.ones((2, 8), np.int32) for key in ("text", "masked_text")},
    **{key: np.ones((2, 8), bool) for key in ("text_mask", "masked")},
    "group": np.zeros(2, np.int32),
}


def settings(variant):
    module = importlib.import_module("configs.contrastive_generative")
    return module.get_config(variant).to_dict()


def shapes(spec):
    """Output and parameter shapes of a model of 2,000 words."""
    spec["towers"]["text"]["vocab_size"] = 2000
    model = build(MODELS, spec)
    out, variables = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), BATCH))
    return out, variables["params"]


@pytest.mark.parametrize("variant", PARTS)
def test_each_part_has_its_terms_and_one_more_than_the_part_before(variant):
    chosen = settings(variant)
    out, parameters = shapes(chosen["model"])
    terms = [build(OBJECTIVES, spec) for spec in chosen["objectives"].values()]
    found = jax.eval_shape(lambda out: [term(out, BATCH) for term in terms], out)
    assert {name for term in found for name in term} == PARTS[variant]
    crossed = {"image_from_text", "text_from_image"} & set(parameters)
    assert len(crossed) == (2 if variant == "demo" else 0)
    assert ("reconstruction" in chosen["evaluators"]) == ("masked_image" in PARTS[variant])


def test_parts_differ_in_nothing_else():
    whole = settings("demo")
    for variant in PARTS:
        part = settings(variant)
        for key in set(whole) - {"model", "objectives", "evaluators"}:
            assert part[key] == whole[key]
        for name, spec in part["objectives"].items():
            assert spec == whole["objectives"][name]
        given = {k: v for k, v in part["model"].items() if v is not None}
        assert {k: whole["model"][k] for k in given} == given


def test_the_published_sizes():
    """ViT-B/16 and its 49 of 196 patches, MAE's decoder, a text tower of 6 x 512."""
    chosen = settings("full")
    spec = chosen["model"]
    spec["towers"]["text"]["vocab_size"] = 8000
    model = build(MODELS, spec)
    batch = {**BATCH, "image": np.zeros((2, 224, 224, 3), np.uint8)}
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), batch))
    size = {k: sum(x.size for x in jax.tree.leaves(v)) for k, v in variables["params"].items()}
    block = 4 * (512 * 512 + 512) + 2 * 512 * 2048 + 2048 + 512 + 4 * 512
    assert size["image"] == 85_798_656 and size["image_adaptor"] == 768 * 512 + 512
    assert size["image_reconstruction"] == 512 + 8 * block + 2 * 512 + 512 * 768 + 768
    assert size["text_reconstruction"] == 4 * block + 2 * 512 + 8000
    assert size["text"] == (8000 + 128 + 2) * 512 + 2 * 512 + 6 * block
    # Two blocks: a third norm for the context, of the other modality's width as are keys, values.
    assert size["image_from_text"] == 2 * (block + 2 * 512)
    wider = 2 * (768 - 512) * 512
    assert size["text_from_image"] == 2 * (block + wider + 2 * 768)
    assert model.mask_ratio == 0.75 and round(0.25 * 196) == 49


def test_what_the_paper_evaluates_on_is_not_trained_on():
    (stream,) = settings("full")["streams"].values()
    names = {name.split("_")[0] for name in stream["where"]["dataset"]}
    assert not names & {"08", "13", "15"} and len(names) > 25


def longest(prompt, labels, tokenizer):
    """Tokens, two special ones included, of the longest text that one of the labels can become."""
    draws = {
        prompt.random_map({"label": label}, np.random.default_rng(seed))["prompt"]
        for label in labels
        for seed in range(30)
    }
    return max(tokenizer.encode(text, 200)[1].sum() for text in draws)


def test_definitions_of_real_labels_are_not_cut(retina_data):
    """An annotator's keyword is one label, and so is a class of the zero-shot evaluation."""
    chosen = settings("real")
    transforms = {t["name"]: t for t in chosen["streams"]["public"]["transforms"]}
    zeroshot = chosen["evaluators"]["odir_zeroshot"]
    with open(retina_data / "odir" / "manifest.csv", encoding="utf-8") as file:
        captions = {row["caption"] for row in csv.DictReader(file)}
    assert transforms["prompt"]["source"] == "caption" and len(captions) > 100
    for spec, labels in (
        (transforms["prompt"], captions),
        (zeroshot, zeroshot["classes"]),
    ):
        prompt = Prompt(
            template=spec["template"],
            source="label",
            knowledge=knowledge.load(spec["knowledge"]),
            mode=spec["mode"],
        )
        length = transforms["tokenize"]["length"] if spec is not zeroshot else zeroshot["length"]
        assert longest(prompt, labels, SentencePiece()) <= length
