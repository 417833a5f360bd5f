"""The configs of KeepFIT V1 and V2: what is published, what each word of a variant changes."""

import functools
from pathlib import Path

import corpora
import jax
import numpy as np
import paired_samples
import pytest
from runs import bert_vocabulary
from runs import whole_config as config

from data_pipelines import build as builds
from data_pipelines.errors import InputError
from data_pipelines.records import sources
from data_pipelines.text import tokenizers
from retina_jax import experiment, starts
from retina_jax.settings import complete
from retina_jax.train import loop

RNG = jax.random.key(0)


def knowledge(variant):
    """The settings of the last stage of KeepFIT V2."""
    return config("mmretinal_v2", variant).to_dict()["stages"]["knowledge"]


# --------------------------------------------------------------------------- KeepFIT V1


def test_keepfit_full_has_the_published_recipe():
    stage = config("keepfit", "full").to_dict()
    public, expert = stage["streams"]["public"], stage["streams"]["expert"]
    assert public["batch_size"] == expert["batch_size"] == 24
    # The 30 sets of KeepFIT, one of them in two spellings.
    assert "05_1000x39" not in public["where"]["dataset"] and len(public["where"]["dataset"]) == 31
    assert public["ban"] == {"mode": "exact"} and "balance" not in public
    assert expert["replacement"] and "replacement" not in public
    augmentations = {"random_flip", "random_affine", "color_jitter"}
    assert augmentations < {spec["name"] for spec in public["transforms"]}
    # Raw captions of pictures as they are: no prompt, no knowledge, no augmentation.
    assert [spec["name"] for spec in expert["transforms"]] == ["decode", "group", "tokenize"]
    (prompt,) = [spec for spec in public["transforms"] if spec["name"] == "prompt"]
    assert prompt["knowledge"] == "cfp" and "06_EYENET" in prompt["excluded"]
    lengths = {spec["length"] for s in (public, expert) for spec in s["transforms"]
               if spec["name"] == "tokenize"}  # fmt: skip
    assert lengths == {256}
    schedule = stage["optimization"]["schedule"]
    assert schedule["horizon"] == {"epochs": 100} and schedule["warmup"] == {"epochs": 1}
    assert stage["weights"] == {"reference": 100.0}
    assert stage["objectives"]["reference"] == {"name": "reference"}
    assert "reference" not in stage["model"]  # normalises over the expert items
    assert stage["model"]["towers"]["text"]["pool"] == "flair"
    stages = config("keepfit", "scratch").to_dict()["stages"]
    totals = [part["total"] for part in stages.values()]
    assert totals == [{"epochs": 14}, {"epochs": 26}] and stage["total"] == totals[1]


def test_keepfit_released_differs_from_full_in_two_places():
    def leaves(tree, path=()):
        if not isinstance(tree, dict):
            return {path: tree}
        return {k: v for key, part in tree.items() for k, v in leaves(part, (*path, key)).items()}

    full, released = (leaves(config("keepfit", v).to_dict()) for v in ("full", "released"))
    changed = {path: released[path] for path in released if released[path] != full.get(path)}
    assert not set(full) - set(released) and changed == {
        ("model", "reference", "softmax_axis"): "heads",
        ("objectives", "expert", "groups"): False,
    }


# --------------------------------------------------------------------------- KeepFIT V2

LOCAL = {"caption", "injection"}
GLOBAL = {"expert", "reference"}


@pytest.mark.parametrize(("variant", "terms"),
                         [("full", {"public"} | GLOBAL | LOCAL),
                          ("full,no_global", {"public"} | LOCAL),
                          ("full,no_local", {"public"} | GLOBAL),
                          ("full,no_global,no_local", {"public"}),
                          ("full,appearance",
                           {"public", "appearance"} | GLOBAL | LOCAL)])  # fmt: skip
def test_an_ablation_leaves_out_its_terms(variant, terms):
    stage = knowledge(variant)
    assert set(stage["objectives"]) == terms
    assert ("local" not in stage["model"]) == ("no_local" in variant)
    assert ("reference" in stage["weights"]) == ("reference" in terms)
    assert stage["weights"].get("injection") == (0.5 if "injection" in terms else None)
    embedded = knowledge(variant.replace("full", "smoke"))
    assert ("captioning" in embedded["evaluators"]) == ("no_local" not in variant)


def test_without_textual_pre_training_the_towers_start_afresh():
    made, whole = config("mmretinal_v2", "scratch,no_text"), config("mmretinal_v2", "scratch")
    assert list(made.stages) == ["knowledge"] and "restore_from" not in made.stages.knowledge
    assert list(whole.stages) == ["text", "knowledge"]
    first = whole.stages.text.model.encoder.to_dict()
    assert first == whole.stages.knowledge.model.towers.text.to_dict()


@pytest.mark.parametrize("words", ["demo", "oct", "no_text", "scratch", "joint", "smoke"])
@pytest.mark.parametrize("installed", [True, False])
def test_the_demonstration_begins_with_imagenet_where_it_is_installed(
    installed, words, monkeypatch
):
    monkeypatch.setattr(starts, "has_lite0", lambda: installed)
    stage = knowledge(words)
    begins = installed and words in ("demo", "oct", "no_text")
    assert ("image" in stage.get("restore_from", {})) == begins
    assert (stage["model"]["towers"]["image"] == starts.LITE0) == begins
    assert (stage["model"].get("mean") == starts.LITE0_PIXELS["mean"]) == begins
    assert ("rules" in stage["optimization"]) == begins
    complete("knowledge", stage)


def test_modalities_are_one_model_or_joint():
    assert set(knowledge("full")["streams"]) == {"public", "expert"}
    where = knowledge("full,oct")["streams"]["expert"]["where"]
    assert where == {"modality": "oct"}
    joint = {f"{m}_{kind}" for m in ("cfp", "ffa", "oct") for kind in ("public", "expert")}
    assert set(knowledge("full,joint")["streams"]) == set(knowledge("joint")["streams"]) == joint
    assert set(knowledge("demo")["streams"]) == set(knowledge("smoke")["streams"])
    assert set(knowledge("demo,cfp,oct")["streams"]) == {n for n in joint if "ffa" not in n}
    # Statistics of three modalities would fit none of them.
    assert knowledge("full,joint")["model"]["towers"]["image"]["norm"] == "group"
    assert "norm" not in knowledge("full")["model"]["towers"]["image"]


@pytest.mark.parametrize("words", ["smoke,full", "cfp,joint", "no_local,appearance"])
def test_words_that_exclude_each_other_are_told(words):
    with pytest.raises(ValueError, match="exclude each other; leave one out"):
        config("mmretinal_v2", words)


def test_textual_pre_training_masks_whole_words_and_has_a_preset():
    full, retcop = (config("mmretinal_v2", v).stages.text for v in ("full", "full,retcop_stage0"))
    for stage in (full, retcop):
        (mask,) = [spec for spec in stage.streams.text.transforms if spec["name"] == "mask_tokens"]
        assert mask["whole_words"] and mask["probability"] == 0.15
    assert retcop.streams.text.batch_size == 96 and retcop.total.to_dict() == {"epochs": 1000}
    assert retcop.streams.text.transforms[0]["length"] == 112
    assert retcop.optimization.optimizer.to_dict() == {
        "name": "adamw", "weight_decay": 0.05, "b1": 0.9, "b2": 0.95
    }  # fmt: skip
    assert retcop.optimization.learning_rate == 1e-5
    schedule = {"name": "cosine", "warmup": {"epochs": 40}}
    assert retcop.optimization.schedule.to_dict() == schedule
    with pytest.raises(ValueError, match="'retcop_stage0' needs 'full'"):
        config("mmretinal_v2", "retcop_stage0")


def test_words_of_the_embedded_texts_are_masked_whole(tmp_path):
    settings = config("mmretinal_v2", "smoke,cfp")
    del settings.stages.knowledge
    (text,) = experiment.build_all(settings, tmp_path)
    tokenizer, batch = tokenizers.TOKENIZERS["sentencepiece"](), next(text.data.batches(0, 1))
    special = (tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id)
    several = 0
    for ids, masked in zip(batch["text"], batch["masked"], strict=True):
        number, real = np.cumsum(tokenizer.word_starts(ids)), ~np.isin(ids, special)
        for word in np.unique(number[real]):
            pieces = masked[(number == word) & real]
            assert pieces.all() or not pieces.any()
            several += bool(pieces.all()) and len(pieces) > 1
    assert several > 0


@functools.cache
def built(variant):
    """The last stage of that `:smoke`, without evaluators."""
    settings = config("mmretinal_v2", f"smoke,{variant}")
    settings.stages.knowledge.evaluators = {}
    return experiment.build_all(settings, Path("unused"))[-1]


def traced(made):
    """Shapes of the loss's results."""
    batch, state = loop.on_device_shapes(made.data.example()), made.shapes
    return jax.eval_shape(made.loss, state.params, state.model_state, batch, RNG)[1]


def test_joint_batches_have_the_sentences_of_their_modality():
    made = built("joint")
    tokenizer, batch = tokenizers.TOKENIZERS["sentencepiece"](), next(made.data.batches(0, 1))
    begins = {"cfp": "A fundus photograph of", "ffa": "A fundus fluorescein angiography image of",
              "oct": "An optical coherence tomography scan of"}  # fmt: skip
    for modality, words in begins.items():
        for ids in batch[f"{modality}_public"]["text"]:
            assert tokenizer.decode(ids).startswith(words.lower())
        grey = [np.ptp(batch[f"{modality}_{kind}"]["image"].astype(int), axis=-1).mean()
                for kind in ("public", "expert")]  # fmt: skip
        assert (min(grey) > 10) if modality == "cfp" else (max(grey) < 3)


def test_no_picture_of_a_test_set_is_trained_on(tmp_path):
    settings = config("mmretinal_v2", "smoke,joint")
    stages = settings.to_dict()["stages"].values()
    streams = [s for stage in stages for s in stage["streams"].values()]
    tests = [data for stage in stages for e in stage.get("evaluators", {}).values()
             for key, data in e.items() if key in ("data", "test")]  # fmt: skip
    assert len(streams) == 7 and len(tests) == 12

    def patients(specs):
        loaded = [sources.load(spec["dataset"], spec["split"]) for spec in specs]
        return {name for source in loaded for name in source.column("patient")}

    assert not patients(streams) & patients(tests)
    # It is no matter of care: such a run does not begin.
    settings.stages.knowledge.streams.oct_expert.split = "test"
    with pytest.raises(InputError, match="The evaluation '.*' would be scored on training data"):
        experiment.build_all(settings, tmp_path)


@pytest.mark.parametrize(
    "variant", ["joint", "no_text", "ffa,no_global", "oct,no_local", "cfp,no_global,no_local"]
)
def test_each_variant_has_a_loss_and_weights_that_fit(variant):
    made = built(variant)
    metrics, after = traced(made)
    assert {"loss", "scale"} < set(metrics)
    assert jax.tree.structure(after) == jax.tree.structure(made.shapes.model_state)


def test_codes_of_patches_need_a_codebook_and_take_it(tmp_path):
    settings = config("mmretinal_v2", "smoke,cfp,appearance")
    settings.stages.knowledge.evaluators = {}
    path = tmp_path / "mine.npy"
    settings.stages.knowledge.model.local.appearance.codebook = str(path)

    def trace():
        return traced(experiment.build_all(settings, tmp_path)[-1])[0]

    with pytest.raises(InputError, match="Cannot read the codebook .*mine.npy"):
        trace()
    np.save(path, np.random.default_rng(0).uniform(size=(6, 4, 4, 3)).astype(np.float32))
    assert {"appearance/public", "appearance/expert"} <= set(trace())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Public sets of all modalities, MM-Retinal, texts and a vocabulary, each in a tiny sample."""
    folder = tmp_path_factory.mktemp("corpora")
    samples = {"flair": paired_samples.sample_flair, "ffa_ir": paired_samples.sample_ffa_ir,
               "mm_retinal": paired_samples.sample_mm_retinal,
               "kermany_oct": corpora.sample_kermany_oct}  # fmt: skip
    for name, sample in samples.items():
        sample(folder / name)
        corpora.build_beside(name, folder)
    paired_samples.put(folder / "texts" / "a.txt", b"Drusen lie under the RPE.\n\nCupping.\n")
    builds.build("text_corpus", "ophthalmology", str(folder), source=str(folder / "texts"))
    bert_vocabulary(folder / "vocab.txt")
    return folder


# Joint training reads the corpora of all three, angiograms are those of one modality by itself.
@pytest.mark.parametrize(
    "words", [*(pytest.param(word, marks=pytest.mark.slow) for word in ("ffa", "oct")), "joint"]
)
def test_full_reads_the_corpora_of_each_modality(words, folder, tmp_path):
    settings = config("mmretinal_v2", f"full,{words}")
    settings.data_dir = str(folder)
    for stage in settings.stages.values():
        stage.tokenizer.vocab = str(folder / "vocab.txt")
        del stage.restore_from  # the folders of weights are not there
    settings.stages.knowledge.model.towers.image.depth = 18  # of the model nothing is asked
    text, made = experiment.build_all(settings, tmp_path)
    assert next(text.data.batches(0, 1))["masked"].any()
    batch, several = next(made.data.batches(0, 1)), words == "joint"
    modalities = ("cfp", "ffa", "oct") if several else (words,)
    prefixes = [f"{modality}_" if several else "" for modality in modalities]
    assert set(batch) == {f"{p}{kind}" for p in prefixes for kind in ("public", "expert")}
    for rows in batch.values():
        assert rows["image"].shape == ((16 if several else 48), 512, 512, 3)
        assert np.ptp(rows["image"].reshape(len(rows["image"]), -1), axis=1).min() > 0
        assert rows["text"].shape[1] == 256 and (rows["text_mask"].sum(1) > 2).all()
    for modality, prefix in zip(modalities, prefixes, strict=True):
        # The sample of angiograms has one case to train on, the others have several labels.
        groups = batch[f"{prefix}public"]["group"]
        assert len(set(groups.tolist())) >= (1 if modality == "ffa" else 2)
