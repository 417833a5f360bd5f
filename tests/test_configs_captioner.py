"""The captioner's config: both stages from one command, and what the published data become."""

from __future__ import annotations

import json
import math

import paired_samples
import pytest
from runs import assert_same_bits, bert_vocabulary, python, whole_config

from data_pipelines import build as builds
from data_pipelines import words
from retina_jax import experiment
from retina_jax.train import loop, restore


def test_smoke_runs_both_stages_to_captions_on_a_page(tmp_path):
    workdir = tmp_path / "run"
    arguments = ["--config=configs/ffa_captioner.py:smoke", f"--workdir={workdir}"]
    done = python("-m", "retina_jax.main", *arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    for stage in ("contrastive", "captioner"):
        lines = (workdir / stage / "metrics.jsonl").read_text().splitlines()
        losses = [row["train/loss"] for row in map(json.loads, lines) if "train/loss" in row]
        assert losses and all(map(math.isfinite, losses))
    for shown in ("captioning", "cider_d", "nearest_cider_d", "commonest_bleu_4", "Page: "):
        assert shown in done.stdout
    page = (workdir / "report.html").read_text()
    assert page.count("written, CIDEr-D") == page.count("nearest, CIDEr-D") == 8
    again = python(
        "-m", "retina_jax.evaluate", *arguments,
        "--config.stages.captioner.model.decoding.beams=1",
    )
    assert again.returncode == 0, again.stderr[-3000:]
    scores = json.loads((workdir / "evaluation" / "results.json").read_text())["scores"]
    assert {"cider_d", "cider_d_over_nearest"} <= {score["metric"] for score in scores}


def test_the_captioner_starts_from_the_trunk_of_the_first_stage(tmp_path):
    contrastive, captioner = experiment.build_all(whole_config("ffa_captioner", "smoke"), tmp_path)
    loop.train(contrastive, tmp_path / "contrastive")
    trained = restore.read_variables(tmp_path / "contrastive" / "checkpoints")
    state = loop.fresh_state(captioner, loop.abstract_state(captioner))
    taken = {"params": state.params, **state.model_state}
    for collection in ("params", "batch_stats"):
        assert_same_bits(taken[collection]["image"], trained[collection]["image"])
    assert set(state.params) == {"image", "patches", "encoder", "text_decoder"}


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    """FFA-IR by picture and by case, MM-Retinal, and both vocabularies."""
    folder = tmp_path_factory.mktemp("corpora")
    for corpus in ("ffa_ir", "mm_retinal"):
        (folder / corpus).mkdir()
        getattr(paired_samples, f"sample_{corpus}")(folder / corpus)
    # The sample's only case of the validation part lacks a picture, and would be left out.
    paired_samples.put(folder / "ffa_ir" / "FAIR/c2/5.jpg", paired_samples.jpeg(9))
    for corpus, own, options in (
        ("ffa_ir", "images", {}),
        ("ffa_ir", "cases", {"unit": "case", "max_images": 16}),
        ("mm_retinal", "default", {}),
    ):
        source = str(folder / corpus)
        builds.build(corpus, own, str(folder), source=source, processes=1, **options)
    bert_vocabulary(folder / "vocab.txt")
    known = words.vocabulary(["A leak, late."], 1)
    (folder / "words.txt").write_text("".join(f"{word}\n" for word in known))
    return folder


def published(corpora, variant, workdir):
    chosen = whole_config("ffa_captioner", variant)
    chosen.data_dir = str(corpora)
    chosen.stages.contrastive.tokenizer.vocab = str(corpora / "vocab.txt")
    chosen.stages.captioner.tokenizer.vocab = str(corpora / "words.txt")
    return experiment.build_all(chosen, workdir)


def test_full_reads_the_corpora_as_they_lie_on_a_disk(corpora, tmp_path):
    contrastive, captioner = published(corpora, "full", tmp_path)
    for rows in contrastive.data.example().values():
        assert rows["image"].shape == (24, 512, 512, 3) and rows["text"].shape == (24, 256)
    streams = captioner.data.example()
    assert set(streams) == {"reports", "expert"}
    for rows in streams.values():
        assert rows["image"].shape == (128, 224, 224, 3) and rows["text"].shape == (128, 90)
    case = captioner.evaluators["captioning"].test.example()
    assert case["images"].shape == (8, 16, 224, 224, 3) and "image" not in case
    assert case["images_mask"][0].tolist() == [True] + [False] * 15
    assert captioner.keep_best == "eval/validation/cider_d"


def test_what_the_released_captioner_does_otherwise(corpora, tmp_path):
    full, released = (
        published(corpora, variant, tmp_path)[1] for variant in ("full", "released")
    )
    evaluator = released.evaluators["captioning"]
    assert evaluator.length == 90 and evaluator.image == "image"
    assert evaluator.test.example()["image"].shape == (64, 224, 224, 3)
    text = released.data.example()["reports"]["text"]
    assert not text[:, 0].any() and full.data.example()["reports"]["text"][0, 0] == 2
    assert released.model.bos_id == released.model.eos_id == 0
    augmented = released.config["streams"]["reports"]["transforms"]
    flips = [spec for spec in augmented if spec["name"] == "random_flip"]
    assert flips == [{"name": "random_flip", "swap_sides": False}]
    names = [spec["name"] for spec in full.config["streams"]["reports"]["transforms"]]
    assert "random_flip" not in names
