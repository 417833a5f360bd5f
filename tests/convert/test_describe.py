"""What a folder says of a run is what its checkpoints are; of released weights, what is known."""

import dataclasses
import hashlib

import folders
import numpy as np
import pytest
from runs import assert_same_bits, built, whole_config

import retina_jax
from data_pipelines.errors import InputError
from retina_jax import experiment
from retina_jax.convert import card_sections, describe, files, model_folder, rules
from retina_jax.convert.formats import SOURCES
from retina_jax.train import loop, restore, run_directory
from retina_jax.train.checkpoint import Checkpointer

pytestmark = pytest.mark.fast
CLASSES = ["cataract", "normal eye", "large cup"]
# One head of 64 columns, which is what the width of a published BERT tells.
FLAIRS = {"name": "dual",
          "towers": {"image": {"name": "resnet", "depth": 18, "width": 4},
                     "text": folders.bert(width=64, heads=1, pool="masked_mean")},
          "dim": 8}  # fmt: skip
PHOTOGRAPH = np.random.default_rng(3).integers(0, 256, (40, 50, 3), np.uint8)


def saved(name, workdir, step=7, **options):
    """A run that has a checkpoint of its first parameters, and its experiment."""
    (made,) = experiment.build_all(whole_config(name), workdir, **options)
    state = loop.fresh_state(made, loop.abstract_state(made))
    state = state.replace(step=np.int32(step))
    checkpointer = Checkpointer(workdir / "checkpoints")
    checkpointer.save(state)
    checkpointer.close()
    run_directory.check_run_directory(workdir, dataclasses.replace(made, total=step), step)
    return made, state


def test_an_exported_run_answers_as_its_own_evaluation(tmp_path, caplog):
    made, state = saved("flair", tmp_path / "run")
    variables = restore.read_variables(tmp_path / "run" / "checkpoints")
    described = describe.run(tmp_path / "run", step=7, licence="MIT")
    assert "has not finished; this is its step 7" in caplog.text
    model_folder.write_folder(tmp_path / "model", described, variables)
    loaded = retina_jax.load(tmp_path / "model")
    (trained,) = loaded.description.source["trained"]
    assert trained["dataset"] == "synthetic_retina/smoke" and trained["split"] == "public"
    assert loaded.description.source["step"] == 7
    assert_same_bits(loaded.variables["params"], state.params)
    assert_same_bits(loaded.variables["batch_stats"], state.model_state["batch_stats"])
    evaluator = made.evaluators["zeroshot"]
    assert loaded.classes == tuple(evaluator.classes)
    assert loaded.description.template == evaluator.template
    encoded = evaluator.encoder.encode_dataset(state, evaluator.data, "embed", ["image"])["image"]
    logits = np.exp(np.float64(state.params["logit_scale"])) * np.float64(
        encoded[:2] @ evaluator.prototypes(state).T
    )
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    for row in range(2):
        found = loaded.zero_shot(evaluator.data.source[row]["image"])
        np.testing.assert_allclose(list(found.values()), expected[row], atol=1e-5)


NAMES = ("contrastive_generative", "ffa_captioner", "fundus_oct_clip", "keepfit", "mmretinal_v2",
         "retclip")  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_every_kind_of_run_is_described_as_it_is(tmp_path, name):
    """The description of a run has the variables that its checkpoints have."""
    for made in built(name):
        workdir = experiment.stage_directory(tmp_path, made.name)
        workdir.mkdir(exist_ok=True)
        run_directory.check_run_directory(workdir, made, 0)
        described = describe.run(workdir, step=0)
        state = loop.abstract_state(made)
        saved = rules.shapes_of(rules.flatten({"params": state.params, **state.model_state}))
        assert rules.abstract(dict(described.model), described.image_size) == saved
        example = made.data.example()
        streams = example.values() if all(isinstance(v, dict) for v in example.values()) else ()
        for batch in streams or (example,):
            if described.transforms:
                readers = described.preprocessing().readers
                shapes = {key: batch[key].shape[1:] for key in readers}
                pictures = {"image": PHOTOGRAPH, "eyes": PHOTOGRAPH, "images": PHOTOGRAPH,
                            "oct": np.stack([PHOTOGRAPH[..., 0]] * 4)}  # fmt: skip
                found = described.preprocessing()({k: pictures[k] for k in readers}, eye="OD")
                assert {key: found[key].shape[1:] for key in readers} == shapes


def test_an_exported_run_comes_back_from_the_layout_of_the_original_code(tmp_path):
    variables = folders.variables(folders.description(tmp_path, model=FLAIRS))
    tensors = rules.export(SOURCES["flair"], FLAIRS, variables)
    files.write_safetensors(tmp_path / "mine.safetensors", tensors, {"format": "pt"})
    read = files.read_tensors(tmp_path / "mine.safetensors")
    assert "text_model.model.encoder.layer.0.attention.self.query.weight" in read
    assert read["vision_model.model.conv1.weight"].shape == (4, 3, 7, 7)
    back = rules.convert(SOURCES["flair"], read, pool="masked_mean")
    assert_same_bits(back.variables, variables)


def test_converted_weights_are_described_by_registry_source_and_file(tmp_path, caplog):
    variables = folders.variables(folders.description(tmp_path, model=FLAIRS))
    file = tmp_path / "flair.safetensors"
    files.write_safetensors(file, rules.export(SOURCES["flair"], FLAIRS, variables))
    tensors = files.read_tensors(file) | {
        "text_model.model.pooler.dense.weight": np.zeros((64, 64), np.float32),
        "text_model.model.pooler.dense.bias": np.zeros(64, np.float32),
    }
    converted = rules.convert(SOURCES["flair"], tensors)
    vocabulary = str(folders.vocabulary(tmp_path))
    described = describe.released(converted, file, tokenizer=vocabulary)
    assert described.title == "flair" and described.licence == "Apache-2.0"
    assert described.template == "A fundus photograph of {}" and described.padding == "longest"
    assert described.text_length == 12  # the positions of this one; 77 in the released
    assert described.transforms == ({"name": "decode", "size": 512, "fit": "canvas"},)
    assert "instead of 533.32 MB" in described.terms
    sharp = describe.released(rules.convert(SOURCES["flair"], tensors, antialias=False), file)
    assert sharp.transforms == ({**described.transforms[0], "antialias": False},)
    with pytest.raises(InputError, match="antialias of 'flair' is true or false, not no"):
        rules.convert(SOURCES["flair"], tensors, antialias="no")
    assert described.source["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert any("pooler" in name for name in described.ignored)
    sure = describe.released(converted, file, tokenizer=vocabulary, release="flair", title="mine",
                             licence="mine alone", template="{}")  # fmt: skip
    assert "by its names" not in sure.terms and "instead of 533.32 MB" in caplog.text
    assert (sure.title, sure.licence, sure.template) == ("mine", "mine alone", "{}")
    assert describe.released(converted, file).tokenizer is None
    assert "Without --tokenizer=FILE (vocab.txt of Bio_ClinicalBERT)" in caplog.text
    model_folder.write_folder(tmp_path / "flair", described, converted.variables)
    assert set(retina_jax.load(tmp_path / "flair").zero_shot(PHOTOGRAPH, CLASSES)) == set(CLASSES)


def test_a_vocabulary_of_another_size_is_a_sentence(tmp_path):
    model = {**FLAIRS, "towers": {**FLAIRS["towers"], "text": folders.bert(width=64, heads=1,
             vocab_size=99)}}  # fmt: skip
    variables = folders.variables(folders.description(tmp_path, model=model))
    file = tmp_path / "flair.safetensors"
    files.write_safetensors(file, rules.export(SOURCES["flair"], model, variables))
    converted = rules.convert(SOURCES["flair"], files.read_tensors(file))
    with pytest.raises(InputError, match="vocab_size is 99, the tokenizer's 16"):
        describe.released(converted, file, tokenizer=str(folders.vocabulary(tmp_path)))


def test_a_random_crop_to_a_size_becomes_a_decoding_to_it():
    specs = whole_config("retclip", "full").streams.patients.to_dict()["transforms"]
    (eyes,) = describe.picture_transforms(specs)
    assert eyes["name"] == "eyes" and eyes["size"] == 224 and eyes["fit"] == "squash"


def test_runs_that_are_none_are_sentences(tmp_path):
    with pytest.raises(InputError, match="There is no run in"):
        describe.run_record(tmp_path)
    for stage in ("text", "image"):
        (tmp_path / stage / "checkpoints").mkdir(parents=True)
        (tmp_path / stage / "config.json").write_text("{")
    with pytest.raises(InputError, match="several stages: choose --src=.*image or --src=.*text"):
        describe.run_record(tmp_path)
    with pytest.raises(InputError, match="is damaged"):
        describe.run_record(tmp_path / "text")


def test_photographs_of_data_prepared_in_different_ways_are_left_alone(caplog):
    one, other = {"size": 512, "crop": "none"}, {"size": 256, "crop": "none"}
    assert describe._preparation({"a": one, "b": {**one, "libraries": {"pillow": "1"}}}) == one
    assert describe._preparation({"a": None, "b": None}) is None and not caplog.records
    assert describe._preparation({"a": one, "b": other}) is None
    assert "prepared in different ways" in caplog.text


def test_what_a_run_started_from_is_named_and_a_threshold_has_what_it_reached():
    none = {"stage": None, "probe": None}
    origins = {"image": {**none, "path": "package:efficientnet-lite0"},
               "text": {**none, "path": "elsewhere/runs/mine"},
               "head": {**none, "path": None, "probe": "records"}}  # fmt: skip
    package, run = describe._starts(origins)
    assert package.startswith("package:efficientnet-lite0 (EfficientNet-Lite0, natural photo")
    assert "ImageNet" in package and run == "mine"
    point = {"labels": ["dr"], "value": 0.0055, "rule": "sensitivity>=.9", "n_pos": 9, "n_neg": 25,
             "sensitivity": 1.0, "specificity": 0.08}  # fmt: skip
    assert card_sections.operating_point("refer", point) == (
        "refer: dr at 0.0055 (sensitivity>=.9, chosen on 9 validation records with and 25 without, "
        "on which its sensitivity is 1.000 and its specificity 0.080; few events)"
    )
    many = {**point, "n_pos": 100, "n_neg": 100, "sensitivity": None}
    assert card_sections.operating_point("refer", many).endswith("with and 100 without)")
