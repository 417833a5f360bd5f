"""Every shipped config: its smoke variant runs, its full variant is a real model."""

import ast
import json
import math
import re
import types
from pathlib import Path

import corpora
import jax
import numpy as np
import paired_samples
import pytest
from runs import ROOT, SYSTEMS, assert_same_bits, bert_vocabulary, config, logged, program

from data_pipelines.errors import InputError
from retina_jax import experiment, inputs
from retina_jax.build import build
from retina_jax.convert import examples
from retina_jax.models import MODELS
from retina_jax.settings import complete
from retina_jax.train import loop, restore

# Those of images with texts or labels; the captioner has tests of its own.
PAIRED = [name for name in SYSTEMS if name != "ffa_captioner"]


# One of the two configs of fundus-OCT pairs, which differ in the loss.
@pytest.mark.parametrize("name", [name for name in PAIRED if name != "fundus_oct_clip"])
def test_smoke_trains_to_a_finite_loss_and_a_page(name, smoke_run, tmp_path):
    done = smoke_run(name)
    assert "Traceback" not in done.stderr
    stages = sorted(done.workdir.rglob("metrics.jsonl"))
    assert stages
    for stage in stages:
        losses = logged(stage.parent).values()
        assert losses and all(map(math.isfinite, losses))
    for words in ("retrieval", "linear_probe", "chance", "Page: "):
        assert words in done.stdout
    assert ("zeroshot" in done.stdout) != name.startswith("fundus_oct")  # no texts, no prompts
    # Its first minute is told, phase by phase; tables of parameters are files, not lines.
    assert "The model" in done.stderr and "Compiling the step took" in done.stderr
    kept = re.findall(r"(?m)^\d\d:\d\d:\d\d (.* kept .*)", done.stderr)
    assert len(set(kept)) == len(kept)
    told = re.findall(r"(?m)^\d\d:\d\d:\d\d ", done.stderr)
    assert "| Name " not in done.stderr and 8 < len(told) < 25 * len(stages)
    for stage in stages:
        assert {"Tracing the step", "Compiling the step"} <= set(
            json.loads((stage.parent / "phases.json").read_text())
        )
        assert "kernel" in (stage.parent / "parameters.txt").read_text()
    page = Path(done.stdout.split("Page: ")[1].strip())
    assert page.stat().st_size > 20_000 and "balanced accuracy" in page.read_text().lower()


# Pairs of streams with a writer, and both eyes of patients.
@pytest.mark.parametrize("name", ["mmretinal_v2", "retclip"])
def test_the_command_line_scores_a_checkpoint_as_its_run_did(name, smoke_run, tmp_path):
    done = smoke_run(name)
    again = program("retina_jax.evaluate", *done.arguments, f"--output={tmp_path}")
    assert again.returncode == 0, again.stderr[-3000:]
    outside = json.loads((tmp_path / "results.json").read_text())
    stored = map(Path.read_text, done.workdir.rglob("results.json"))
    inside = next(results for results in map(json.loads, stored) if results["scores"])
    assert outside["scores"] == inside["scores"] and outside["step"] == inside["step"]


@pytest.mark.parametrize("name", SYSTEMS)
def test_docstring_has_its_commands(name):
    text = ast.get_docstring(ast.parse((ROOT / "configs" / f"{name}.py").read_text("utf-8")))
    for variant in ("", ":smoke", ":full"):
        assert f"retina-jax train --config={name}{variant}" in text


@pytest.mark.parametrize("name", SYSTEMS)
def test_an_unknown_variant_lists_those_there_are(name):
    listed = "choose from full, (released, )?(scratch, )?demo, smoke"
    with pytest.raises(ValueError, match=f"no variant 'ful'; {listed}"):
        config(name, "ful")


NEEDED = {
    "contrastive_generative": {"flair/default", "odir/default", "fives/default", "aptos/default"},
    "ffa_captioner": {"ffa_ir/images", "ffa_ir/cases", "mm_retinal/default"},
    "fundus_oct_clip": {"fundus_oct/default", "fundus_oct/downstream"},
    "fundus_oct_cloob": {"fundus_oct/default", "fundus_oct/downstream"},
    "flair": {"flair/default"},
    "keepfit": {"flair/default", "mm_retinal/default"},
    "mmretinal_v2": {"text_corpus/ophthalmology", "flair/default", "mm_retinal/default"},
    "retclip": {"ret_clip/default"},
}


@pytest.mark.parametrize("name", SYSTEMS)
def test_full_says_how_to_get_the_corpora(name, tmp_path):
    with pytest.raises(InputError) as error:
        experiment.build_all(config(name, "full", data_dir=str(tmp_path)), tmp_path)
    message = str(error.value)
    assert str(tmp_path) in message and "\n" not in message
    named = set(re.findall(r"[a-z_]+/\w+(?=: )", message))
    assert named == NEEDED[name]  # all of them at once, each with its command
    assert len(re.findall(r"python -m data_pipelines\.(?:build|prepare)", message)) == len(named)


@pytest.mark.parametrize("name", ["contrastive_generative", "flair", "keepfit", "mmretinal_v2"])
def test_full_reads_the_corpora_as_they_lie_on_a_disk(name, tmp_path):
    """Its data, batches of the published size; the model is not made."""
    side = 224 if name == "contrastive_generative" else 512
    vocab = tmp_path / "vocab.txt"
    bert_vocabulary(vocab)
    for address in NEEDED[name]:
        corpus, _, own = address.partition("/")
        folder = tmp_path / corpus
        if corpus == "text_corpus":
            text = b"Drusen lie under the RPE.\n\nThe cup is large.\n"
            paired_samples.put(folder / "a.txt", text)
        else:
            where = paired_samples if hasattr(paired_samples, f"sample_{corpus}") else corpora
            more = {"graded": True} if corpus == "flair" else {}
            getattr(where, f"sample_{corpus}")(folder, **more)
        corpora.build_beside(corpus, tmp_path, own)
    chosen = config(name, "full", data_dir=str(tmp_path))
    for part in chosen.stages.values() if "stages" in chosen else [chosen]:
        if "restore_from" in part:  # the folders of weights are not there
            del part.restore_from
        if "towers" in part.model and part.model.towers.image.name == "resnet":
            part.model.towers.image.depth = 18  # of the model nothing is asked
        if part.tokenizer.name == "wordpiece":
            part.tokenizer.vocab = str(vocab)
        elif "path" in part.tokenizer:
            del part.tokenizer["path"]
    for stage in experiment.build_all(chosen, tmp_path / "run"):
        batch = stage.data.example()
        for stream in batch.values() if isinstance(next(iter(batch.values())), dict) else [batch]:
            assert stream["text"].shape[0] in (24, 48, 128, 256)
            if "image" in stream:
                assert stream["image"].shape[1:] == (side, side, 3)


# ResNet-50 without its classifier, Bio_ClinicalBERT without its pooler, two projections to 512
# without bias, one temperature; the reference attention has four 512 x 512 matrices.
FLAIR = 23_508_032 + 107_719_680 + (2048 + 768) * 512 + 1
KEEPFIT = FLAIR + 4 * 512 * 512
# The local injection: a query extractor, an exchange with expert queries, and a decoder over the
# same vocabulary.
INJECTION = 9_495_040 + 3_154_432 + 27_459_072


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("flair", FLAIR), ("keepfit", KEEPFIT), ("mmretinal_v2", KEEPFIT + INJECTION)],
)
def test_full_is_the_published_model(name, parameters):
    settings = config(name, "full").to_dict()
    stage = list(settings.get("stages", {"": settings}).values())[-1]
    model = build(MODELS, stage["model"])
    pair = {"image": jax.ShapeDtypeStruct((2, 512, 512, 3), "uint8"),
            "text": jax.ShapeDtypeStruct((2, 77), "int32"),
            "text_mask": jax.ShapeDtypeStruct((2, 77), "bool")}  # fmt: skip
    batch = pair if name == "flair" else {"public": pair, "expert": pair}
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    shapes = jax.eval_shape(lambda b: model.init(keys, b, train=True), batch)
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes["params"]))
    assert count == parameters


# The specs of what the folders hold that `:full` starts from, as published.
_TOWER = {"name": "tower", "key": "image", "classes": 1000}
_VIT = {"name": "vit", "activation": "quick_gelu", "pre_norm": True, "patch_bias": False}
_CHINESE = {"image": _VIT, "text": {"name": "bert", "vocab_size": 21_128, "pool": "cls"}}
_FLAIR = {"image": {"name": "resnet", "depth": 50},
          "text": {"name": "bert", "vocab_size": 28_996, "pool": "flair"}}  # fmt: skip
STARTS = {
    "resnet18": {**_TOWER, "tower": {"name": "resnet", "depth": 18}},
    "resnet50": {**_TOWER, "tower": {"name": "resnet", "depth": 50}},
    "r3d18": {**_TOWER, "key": "oct", "tower": {"name": "resnet3d"}},
    "clinical_bert": {"name": "text_mlm", "encoder": {"name": "bert", "vocab_size": 28_996}},
    "flair": {"name": "dual", "towers": _FLAIR},
    "chinese_clip": {"name": "dual", "towers": _CHINESE},
    "mae": {**_TOWER, "tower": {"name": "vit", "eps": 1e-6}, "classes": None},
    "clip": {"name": "dual", "towers": {"image": _VIT, "text": {"name": "clip_text"}}},
}


def test_full_trains_on_none_of_the_sets_that_flair_is_tested_on():
    numbers = {f"{n:02d}" for n in range(1, 39)} - {"02", "13", "22", "25", "36", "37", "38"}
    streams = [config("flair", "full").streams.public, config("keepfit", "full").streams.public]
    for stream, left_out in zip(streams, (set(), {"05"}), strict=True):
        assert {name[:2] for name in stream.where.dataset} == numbers - left_out


@pytest.mark.parametrize(
    ("name", "variant", "begun"),
    [
        ("flair", "full", {"resnet50", "clinical_bert"}),
        ("keepfit", "full", {"flair"}),
        ("keepfit", "released", {"flair"}),
        ("mmretinal_v2", "full", {"resnet50", "clinical_bert"}),
        ("mmretinal_v2", "full,no_text", {"resnet50", "clinical_bert"}),
        ("mmretinal_v2", "full,joint", {"clinical_bert"}),
        ("ffa_captioner", "full", {"resnet50", "clinical_bert"}),
        ("retclip", "full", {"chinese_clip"}),
        ("fundus_oct_clip", "full", {"resnet18", "r3d18"}),
        ("fundus_oct_cloob", "full", {"resnet18", "r3d18"}),
        ("contrastive_generative", "full,mae", {"mae"}),
        ("contrastive_generative", "full,clip", {"clip"}),
        ("contrastive_generative", "full", set()),
    ],
)
def test_full_starts_from_what_is_published(name, variant, begun):
    made = config(name, variant).to_dict()
    found = set()
    for stage in made.get("stages", {"": made}).values():
        given = [o for o in complete(name, stage).restore_from.values() if o.path is not None]
        shapes = _shapes(stage["model"]) if given else {}
        for origin in given:
            found.add(origin.path)
            there = _shapes(STARTS[origin.path])
            # Neither part nor number is without its place.
            assert set(there) == set(origin.take) | set(origin.ignore)
            for part in origin.take:
                assert shapes[part] == there[part], (origin.path, part)
    assert found == begun


def _shapes(spec):
    """{part: names and shapes of its parameters} of a model of MODELS."""
    size = 21_128 if "21128" in str(spec) else 28_996
    tokenizer = types.SimpleNamespace(vocab_size=size, bos_id=101, eos_id=102)
    spec = inputs.with_vocabulary(spec, tokenizer)
    model, batch = build(MODELS, spec), examples.example(spec, 224)
    if spec["name"] == "coca_mim":
        batch["patch_mask"] = np.arange(196)[None] < 147
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    made = jax.eval_shape(lambda: model.init(keys, batch, train=True))["params"]
    return {part: jax.tree.map(lambda leaf: leaf.shape, tree) for part, tree in made.items()}


@pytest.mark.parametrize("name", SYSTEMS)
def test_scratch_starts_from_nothing(name):
    variant = "full,scratch" if name == "mmretinal_v2" else "scratch"
    made = config(name, variant).to_dict()
    stages = made.get("stages", {"": made})
    for stage in stages.values():
        for origin in complete(name, stage).restore_from.values():
            assert origin.path is None and origin.stage in stages


def test_keepfit_scratch_trains_from_a_flair_stage():
    stages = config("keepfit", "scratch").to_dict()["stages"]
    flair, keepfit = (set(_shapes(stages[name]["model"])) for name in ("flair", "keepfit"))
    taken = set(stages["keepfit"]["restore_from"]["take"])
    assert taken == flair and keepfit - taken == {"attention"}


@pytest.mark.slow
def test_the_same_settings_give_the_same_bits(smoke_run, tmp_path):
    (made,) = experiment.build_all(config("flair"), tmp_path)
    loop.train(made, tmp_path)
    first, again = smoke_run("flair").workdir, tmp_path
    assert_same_bits(*(restore.read_variables(run / "checkpoints") for run in (first, again)))
