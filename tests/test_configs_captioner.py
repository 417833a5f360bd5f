"""The captioner's config: both stages from one command, and what the published data become."""

import functools
import json
import logging
import math

import jax
import numpy as np
import paired_samples
import pytest
import simplejpeg
from corpora import build_beside
from runs import assert_same_bits, bert_vocabulary, logged, program, whole_config

from data_pipelines import transforms
from data_pipelines.text import words
from retina_jax import experiment
from retina_jax.build import build
from retina_jax.train import loop, restore


def test_smoke_runs_both_stages_to_captions_on_a_page(smoke_run, tmp_path):
    done = smoke_run("ffa_captioner")
    for stage in ("contrastive", "captioner"):
        losses = logged(done.workdir / stage).values()
        assert losses and all(map(math.isfinite, losses))
    for shown in ("captioning", "cider_d", "commonest_bleu_4", "Page: "):
        assert shown in done.stdout
    page = (done.workdir / "report.html").read_text()
    assert page.count("written, CIDEr-D") == page.count("nearest, CIDEr-D") == 8
    fewer = "--config.stages.captioner.model.decoding.beams=1"
    again = program("retina_jax.evaluate", *done.arguments, fewer, f"--output={tmp_path}")
    assert again.returncode == 0, again.stderr[-3000:]
    scores = json.loads((tmp_path / "results.json").read_text())["scores"]
    assert {"cider_d", "cider_d_over_nearest"} <= {score["metric"] for score in scores}


def test_the_captioner_starts_from_the_trunk_of_the_first_stage(smoke_run):
    workdir = smoke_run("ffa_captioner").workdir
    _, captioner = experiment.build_all(whole_config("ffa_captioner", "smoke"), workdir)
    trained = restore.read_variables(workdir / "contrastive" / "checkpoints")
    state = loop.fresh_state(captioner, loop.abstract_state(captioner))
    taken = {"params": state.params, **state.model_state}
    for collection in ("params", "batch_stats"):
        assert_same_bits(taken[collection]["image"], trained[collection]["image"])
    assert set(state.params) == {"image", "patches", "encoder", "text_decoder"}


def fill(path, leaf):
    """Random parameters."""
    rng = np.random.default_rng(leaf.size)
    near = 1.0 if path[-1].key in ("scale", "var") else 0.0
    return (near + 0.3 * rng.uniform(-1, 1, leaf.shape)).astype(leaf.dtype)


def written(stages, *several):
    """The smoke model, variables, pictures, and what it writes with each of several `decoding`s.

    The parameters are random, and ends likely, so that texts differ in length.
    """
    chosen = whole_config("ffa_captioner", "smoke")
    chosen.stages.captioner.model.decoding = several[0]
    chosen.stages.captioner.evaluators = {}
    model = experiment.build_all(chosen, stages)[1].model
    assert model.decoding == several[0]
    images = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), np.uint8)
    text = np.zeros((6, 24), np.int32)
    batch = {"image": images, "text": text, "text_mask": text == 0}
    shapes = jax.eval_shape(model.init, jax.random.key(0), batch)
    variables = jax.tree_util.tree_map_with_path(fill, shapes)
    logits = variables["params"]["text_decoder"]["logits"]
    logits["kernel"] *= 4
    logits["bias"][model.eos_id] = 4.0

    def texts(variables):
        models = [model.clone(decoding=decoding) for decoding in several]
        return [m.apply(variables, {"image": images}, method="generate")["generated"]
                for m in models]  # fmt: skip

    return model, variables, images, [np.asarray(text) for text in jax.jit(texts)(variables)]


def length(text):
    """Tokens of each text i32[B L], its end included; padding is 0."""
    return (text > 0).sum(1)


def repeats(text):
    """Trigrams of a text that it has already."""
    known = text[text > 0].tolist()
    found = [tuple(known[i : i + 3]) for i in range(len(known) - 2)]
    return len(found) - len(set(found))


@pytest.mark.slow
def test_the_decoding_option_of_a_config_is_how_captions_are_written(tmp_path):
    greedy = {"name": "greedy"}
    beam = {"name": "beam", "beams": 3}
    nucleus = {"name": "nucleus", "share": 0.9}
    model, variables, images, found = written(tmp_path, greedy, {**greedy, "block_trigrams": True},
                                              {"name": "nucleus", "share": 1e-6}, nucleus,
                                              {**nucleus, "seed": 1}, beam,
                                              {**beam, "length_penalty": 3.0},
                                              {**beam, "length_penalty": 3.0,
                                               "block_trigrams": True})  # fmt: skip
    plain, unrepeated, narrow, drawn, other, likely, long, long_unrepeated = found
    # Greedy: each token is the likeliest after those before it.
    text = np.concatenate([np.full((len(plain), 1), model.bos_id), plain], axis=1)
    batch = {"image": images, "text": text, "text_mask": np.ones(text.shape, bool)}
    best = np.asarray(jax.jit(model.apply)(variables, batch)["caption_logits"].argmax(-1))
    for row, expected, count in zip(plain, best, length(plain), strict=True):
        assert row[:count].tolist() == expected[:count].tolist() and not row[count:].any()
    assert max(map(repeats, plain)) > 0 and max(map(repeats, unrepeated)) == 0
    # A nucleus of one token is greedy; a wider one depends on the seed.
    np.testing.assert_array_equal(narrow, plain)
    assert (drawn != other).any() and (drawn != plain).any()
    assert (likely != plain).any()
    assert (length(long) >= length(likely)).all() and length(long).sum() > length(likely).sum()
    assert max(map(repeats, long)) > 0 and max(map(repeats, long_unrepeated)) == 0


@pytest.mark.slow
def test_what_a_causal_decoder_writes_is_scored_by_the_same_evaluator(tmp_path):
    chosen = whole_config("contrastive_generative", "smoke")
    chosen.model.caption_mode = "causal"
    chosen.model.text_decoder = {"vocab_size": None, "width": 16, "depth": 1, "heads": 2}
    chosen.model.update({"bos_id": None, "eos_id": None, "max_length": 6})
    chosen.model.decoding = {"name": "greedy"}
    chosen.objectives.caption = {"name": "caption"}
    pictures = whole_config("mmretinal_v2", "smoke").stages.knowledge.evaluators.captioning
    chosen.evaluators = {"captioning": pictures}
    (made,) = experiment.build_all(chosen, tmp_path)
    assert made.model.eos_id == 3 and made.model.max_length == 6
    state = loop.fresh_state(made, loop.abstract_state(made))
    results = made.evaluators["captioning"].run(state)
    assert {"cider_d", "nearest_cider_d", "cider_d_over_nearest"} <= set(results.scores)
    assert results.scores["cider_d"].count > 8 and len(results.gallery) == 8


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    """FFA-IR by picture and by case, MM-Retinal, and both vocabularies."""
    folder = tmp_path_factory.mktemp("corpora")
    for corpus in ("ffa_ir", "mm_retinal"):
        getattr(paired_samples, f"sample_{corpus}")(folder / corpus)
    # The sample's only case of the validation part lacks a picture, and would be left out.
    paired_samples.put(folder / "ffa_ir" / "FAIR/c2/5.jpg", paired_samples.jpeg(9))
    annotation = folder / "ffa_ir" / "ffair_annotation.json"
    cases = json.loads(annotation.read_text())
    cases["train"]["c0"] = {"Image_path": ["FAIR/c2/5.jpg"], "En_Report": " "}
    annotation.write_text(json.dumps(cases))
    # One angiogram with a Chinese caption only.
    paired_samples.put(folder / "mm_retinal" / "FFA" / "figure01-02.jpg", paired_samples.jpeg(8))
    with open(folder / "mm_retinal" / "FFA_translated_v1.csv", "a", encoding="utf-8") as file:
        file.write("figure01-02,渗漏,\n")
    build_beside("ffa_ir", folder, "images")
    build_beside("ffa_ir", folder, "cases", unit="case", max_images=16)
    build_beside("mm_retinal", folder)
    bert_vocabulary(folder / "vocab.txt")
    known = words.vocabulary(["A leak, late."], 1)
    (folder / "words.txt").write_text("".join(f"{word}\n" for word in known))
    return folder


class Kept(logging.Handler):
    """What was logged."""

    def __init__(self):
        super().__init__()
        self.messages = []

    def emit(self, record):
        self.messages.append(record.getMessage())


@pytest.fixture(scope="module")
def published(corpora, tmp_path_factory):
    """Variant -> (its two stages, what was logged as they were built), built once."""

    @functools.cache
    def make(variant):
        chosen = whole_config("ffa_captioner", variant)
        chosen.data_dir = str(corpora)
        del chosen.stages.contrastive.restore_from  # the folders of weights are not there
        chosen.stages.contrastive.tokenizer.vocab = str(corpora / "vocab.txt")
        chosen.stages.captioner.tokenizer.vocab = str(corpora / "words.txt")
        logger, kept = logging.getLogger(), Kept()
        level = logger.level
        logger.setLevel(logging.INFO)
        logger.addHandler(kept)
        try:
            stages = experiment.build_all(chosen, tmp_path_factory.mktemp(variant))
        finally:
            logger.removeHandler(kept)
            logger.setLevel(level)
        return stages, kept.messages

    return make


def test_full_reads_the_corpora_as_they_lie_on_a_disk(published):
    (contrastive, captioner), _ = published("full")
    for rows in contrastive.data.example().values():
        assert rows["image"].shape == (24, 512, 512, 3) and rows["text"].shape == (24, 256)
    streams = captioner.data.example()
    assert set(streams) == {"reports", "expert"}
    for rows in streams.values():
        assert rows["image"].shape == (128, 224, 224, 3) and rows["text"].shape == (128, 90)
    case = captioner.evaluators["captioning"].test.example()
    assert case["images"].shape == (8, 16, 224, 224, 3) and "image" not in case
    assert case["images_mask"][0].tolist() == [True] + [False] * 15
    assert captioner.settings.keep.best == "eval/validation/cider_d"


def test_records_without_a_report_are_left_out_and_counted(published):
    stages, messages = published("full")
    said = " ".join(line for line in messages if "ban mode 'exact' on 'caption'" in line)
    assert "ffa_ir/images:train: kept 2 and dropped 1 of 3 records" in said
    assert "mm_retinal/default:train: kept 1 and dropped 1 of 2 records" in said
    for stage in stages:
        assert sorted(stage.data.records.values()) == [1, 2]
        for rows in next(stage.data.batches(0, 1)).values():
            assert (rows["text_mask"].sum(1) > 2).all()  # more than the two ends


def test_public_angiograms_are_augmented_and_expert_ones_are_not(published):
    def changes(variant, stream):
        (contrastive, _), _ = published(variant)
        specs = contrastive.settings.streams[stream]["transforms"]
        return [spec["name"] for spec in specs if spec["name"].startswith(("random", "color"))]

    assert changes("full", "public") == ["random_affine", "color_jitter"]
    assert changes("released", "public") == ["random_flip", "random_affine", "color_jitter"]
    assert changes("full", "expert") == changes("released", "expert") == []


def test_training_crops_see_what_lies_beside_the_middle():
    # A wide picture whose columns differ: the short side becomes 256, then any 224 pixels are cut.
    wide = np.broadcast_to(np.linspace(0, 255, 512).astype(np.uint8)[:, None], (256, 512, 3))
    row = {"image": simplejpeg.encode_jpeg(np.ascontiguousarray(wide), 95)}
    config = whole_config("ffa_captioner", "full").to_dict()
    decode, crop, _ = config["stages"]["captioner"]["streams"]["reports"]["transforms"]
    decoded = build(transforms.TRANSFORMS, decode).map(row)
    crop = build(transforms.TRANSFORMS, crop)
    left = [
        int(crop.random_map(decoded, np.random.default_rng(seed))["image"][:, 0].mean())
        for seed in range(50)
    ]
    # From column 0 to 288 of 512; of the square in the middle it would be 128 to 160.
    assert min(left) < 20 and 120 < max(left) < 148


def test_what_the_released_captioner_does_otherwise(published):
    full, released = (published(variant)[0][1] for variant in ("full", "released"))
    evaluator = released.evaluators["captioning"]
    assert evaluator.length == 90 and evaluator.image == "image"
    assert evaluator.test.example()["image"].shape == (64, 224, 224, 3)
    text = released.data.example()["reports"]["text"]
    assert not text[:, 0].any() and full.data.example()["reports"]["text"][0, 0] == 2
    assert released.model.bos_id == released.model.eos_id == 0
    augmented = released.settings.streams["reports"]["transforms"]
    flips = [spec for spec in augmented if spec["name"] == "random_flip"]
    assert flips == [{"name": "random_flip", "swap_sides": False}]
    names = [spec["name"] for spec in full.settings.streams["reports"]["transforms"]]
    assert "random_flip" not in names
