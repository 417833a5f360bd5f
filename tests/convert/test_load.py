"""A loaded folder answers as the evaluators of a run do, and says what it cannot answer."""

from __future__ import annotations

import dataclasses
import logging

import folders
import jax
import numpy as np
import pytest
from PIL import Image
from runs import assert_same_bits, python, whole_config

import retina_jax
from data_pipelines import pipelines, single
from data_pipelines.errors import InputError
from data_pipelines.preparation import Preparation
from data_pipelines.transforms import Decode
from retina_jax import experiment
from retina_jax.build import build
from retina_jax.convert import describe, hub, rules
from retina_jax.evals.base import Encoder
from retina_jax.evals.zeroshot import ZeroShot
from retina_jax.models import MODELS
from retina_jax.train import identity, loop, restore, sharding
from retina_jax.train.checkpoint import Checkpointer
from retina_jax.types import TrainState

pytestmark = pytest.mark.fast
CLASSES = ["cataract", "normal eye", "large cup"]
PHOTOGRAPH = np.random.default_rng(3).integers(0, 256, (40, 50, 3), np.uint8)


class Records(list):
    """A source of records given as dicts."""

    name = "in_memory/records"


@pytest.fixture
def jpeg(tmp_path):
    path = tmp_path / "photograph.jpg"
    Image.fromarray(PHOTOGRAPH).save(path)
    return path


def evaluated(described, path, classes, **options):
    """Probabilities by the evaluator of zero-shot and its encoder."""
    variables = folders.variables(described)
    mesh = sharding.make_mesh(1, 1, jax.devices()[:1])
    encoder = Encoder(build(MODELS, described.model), mesh)
    state = TrainState(0, variables["params"], {}, None, None)
    records = Records([{"image": path.read_bytes()}])
    data = pipelines.evaluate(
        records, described.preprocessing().transforms, batch_size=1, keys=["image"], num_threads=1
    )
    tokenizer = build(hub.tokenizers.TOKENIZERS, described.tokenizer)
    evaluator = ZeroShot(encoder, tokenizer, data, classes, length=8, **options)
    images = encoder.over(state, data, "embed", ["image"])["image"]
    similarity = (images @ evaluator.prototypes(state).T)[0].astype(np.float64)
    scale = np.clip(np.exp(np.float64(variables["params"]["logit_scale"])), 1, 100)
    weights = np.exp(scale * similarity)
    return weights / weights.sum()


@pytest.mark.parametrize("options", [
    {"template": "a photograph of {}"},
    {"template": "{}", "knowledge": {"large cup": ["glaucoma", "left eye"]}, "mode": "define",
     "renormalize": True},
])  # fmt: skip
def test_zero_shot_has_the_probabilities_of_the_evaluators_encoder(tmp_path, jpeg, options):
    described = folders.write(tmp_path, **options)
    loaded = retina_jax.load(tmp_path / "model")
    found = loaded.zero_shot(jpeg, CLASSES)
    assert list(found) == CLASSES and sum(found.values()) == pytest.approx(1)
    assert len(set(np.round(list(found.values()), 4))) == 3
    expected = evaluated(described, jpeg, CLASSES, **options)
    np.testing.assert_allclose(list(found.values()), expected, atol=2e-6)


def test_classes_and_template_are_its_own_unless_others_are_given(tmp_path, jpeg):
    folders.write(tmp_path)
    loaded = retina_jax.load(tmp_path / "model")
    own = loaded.zero_shot(jpeg)
    assert tuple(own) == loaded.classes == ("normal", "glaucoma", "cataract")
    assert own == loaded.zero_shot(jpeg, loaded.classes, "a photograph of {}")
    assert own != loaded.zero_shot(jpeg, template="left eye {}")
    with pytest.raises(InputError, match="needs a {}"):
        loaded.zero_shot(jpeg, template="left eye")


def test_variables_are_those_of_the_folder(tmp_path):
    described = folders.write(tmp_path)
    assert_same_bits(retina_jax.load(tmp_path / "model").variables, folders.variables(described))


def test_longest_padding_is_that_of_the_prompts_of_a_class(tmp_path):
    model = folders.dual(pool="flair")
    folders.write(tmp_path, model=model, padding="longest")
    loaded = retina_jax.load(tmp_path / "model")
    alone, with_longer = loaded.texts(["normal"])[0], loaded.texts(["normal", "a large left cup"])
    assert np.abs(alone - with_longer[0]).max() > 1e-3

    def padded(length):
        ids, mask = loaded.tokenizer.encode("normal", length)
        return loaded.embed({"text": ids[None], "text_mask": mask[None]})["text"][0]

    np.testing.assert_allclose(alone, padded(3), atol=1e-6)
    np.testing.assert_allclose(with_longer[0], padded(6), atol=1e-6)


def test_both_eyes_of_a_patient_or_one(tmp_path, jpeg):
    model = {**folders.dual(), "name": "tripartite"}
    folders.write(tmp_path, model=model, transforms=({"name": "eyes", "size": folders.SIZE},))
    loaded = retina_jax.load(tmp_path / "model")
    other = PHOTOGRAPH[:, ::-1]
    both, swapped = loaded.zero_shot((jpeg, other)), loaded.zero_shot((other, jpeg))
    assert both != swapped
    one = loaded.zero_shot(jpeg)
    for same in (loaded.zero_shot((jpeg, None)), loaded.zero_shot((None, jpeg))):
        np.testing.assert_allclose(list(same.values()), list(one.values()), atol=1e-6)
    with pytest.raises(InputError, match="a left and a right eye, not 3 pictures"):
        loaded.zero_shot([jpeg] * 3)


def classifier(tmp_path, **options):
    model = {"name": "tower", "key": "image", "tower": folders.VIT, **options}
    return {"model": model, "tokenizer": None, "text_length": None, "template": None}


def test_a_classifier_names_its_classes(tmp_path, jpeg):
    described = folders.write(tmp_path, **classifier(tmp_path, classes=3))
    loaded = retina_jax.load(tmp_path / "model")
    found = loaded.classify(jpeg)
    head = folders.variables(described)["params"]["head"]
    logits = loaded.features(jpeg)["image"][0] @ head["kernel"] + head["bias"]
    expected = np.exp(logits) / np.exp(logits).sum()
    assert tuple(found) == described.classes
    np.testing.assert_allclose(list(found.values()), expected, rtol=1e-4)


def test_an_encoder_names_no_disease(tmp_path, jpeg):
    folders.write(tmp_path, **classifier(tmp_path))
    loaded = retina_jax.load(tmp_path / "model")
    with pytest.raises(InputError, match="no head that classifies, so it names no disease"):
        loaded.classify(jpeg)
    with pytest.raises(InputError, match="cannot read texts: it has no tower that embeds them"):
        loaded.zero_shot(jpeg)
    with pytest.raises(InputError, match="writes no texts"):
        loaded.report(jpeg)


def test_scores_without_names_are_not_given_any(tmp_path, jpeg):
    folders.write(tmp_path, **classifier(tmp_path, classes=5))
    with pytest.raises(InputError, match="scores 5 classes and has 3 names"):
        retina_jax.load(tmp_path / "model").classify(jpeg)


def test_a_model_without_its_tokenizer_or_classes_says_so(tmp_path, jpeg):
    folders.write(tmp_path, tokenizer=None, classes=())
    loaded = retina_jax.load(tmp_path / "model")
    with pytest.raises(InputError, match="has no tokenizer; convert it again with --tokenizer"):
        loaded.zero_shot(jpeg, CLASSES)
    with pytest.raises(InputError, match="has no classes of its own; name some"):
        loaded.zero_shot(jpeg)


def test_terms_and_what_was_left_behind_are_shown(tmp_path, caplog):
    ignored = {"pooler.dense.weight": "nothing reads it"}
    folders.write(tmp_path, licence="CC-BY-NC-4.0", ignored=ignored, filled={"params/x": "0"})
    with caplog.at_level(logging.WARNING):
        shown = str(retina_jax.load(tmp_path / "model"))
    assert "The licence of 'tiny' is CC-BY-NC-4.0" in caplog.text
    for part in ("licence: CC-BY-NC-4.0", "cite: Nobody", "classes: normal, glaucoma, cataract",
                 "left behind: pooler.dense.weight (nothing reads it)",
                 "not in the original: params/x, 0"):  # fmt: skip
        assert part in shown


@pytest.mark.parametrize(("licence", "warned"), [("MIT", False), (None, True)])
def test_a_free_licence_is_no_warning_and_none_is_one(tmp_path, caplog, licence, warned):
    folders.write(tmp_path, licence=licence)
    with caplog.at_level(logging.WARNING):
        retina_jax.load(tmp_path / "model")
    assert ("none given" in caplog.text) is warned and bool(caplog.records) is warned


def test_importing_the_package_imports_no_jax():
    code = "import sys, retina_jax; print('jax' in sys.modules); retina_jax.load; " \
           "print('jax' in sys.modules)"  # fmt: skip
    assert python("-c", code).stdout.split() == ["False", "True"]
    with pytest.raises(AttributeError, match="has no attribute 'lod'"):
        retina_jax.lod  # noqa: B018


def test_paths_bytes_and_pixels_give_what_the_pipeline_gives(jpeg):
    made = single.Preprocessing((Decode(16),))
    expected = Decode(16).map({"image": jpeg.read_bytes()})["image"]
    for given in (jpeg, str(jpeg), jpeg.read_bytes(), np.asarray(Image.open(jpeg))):
        batch = made(given)
        assert set(batch) == {"image"}
        np.testing.assert_array_equal(batch["image"], expected[None])


def test_photographs_are_prepared_as_the_data_set_was(jpeg):
    dark = np.zeros((80, 120, 3), np.uint8)
    yy, xx = np.mgrid[:80, :120]
    dark[(yy - 40) ** 2 + (xx - 50) ** 2 < 30**2] = (180, 90, 40)
    prepared = single.Preprocessing((Decode(32),), Preparation(size=64, format="png"))
    seen = prepared(dark)["image"][0, ..., 0]
    assert seen[16, 1] > 90 and seen[1, 16] > 90  # the field fills the square
    assert single.Preprocessing((Decode(32),))(dark)["image"][0, 10, 1, 0] < 20
    scan = prepared(dark, modality="oct")["image"][0, ..., 0]
    assert scan[16, 1] < 20  # of B-scans nothing is cut away


def test_volumes_sides_and_several_inputs():
    specs = ({"name": "decode", "size": 16}, {"name": "volume", "slices": 2, "size": 8},
             {"name": "canonical_laterality", "source": ("image", "oct")})  # fmt: skip
    described = hub.Description(title="", model={}, transforms=specs)
    made = described.preprocessing()
    volume = np.random.default_rng(0).integers(0, 256, (4, 20, 24), np.uint8)
    right = made({"image": PHOTOGRAPH, "oct": volume}, eye="OD")
    left = made({"image": PHOTOGRAPH, "oct": list(volume)}, eye="OS")
    assert right["oct"].shape == (1, 2, 8, 8, 1) and right["image"].shape == (1, 16, 16, 3)
    for key in ("image", "oct"):
        np.testing.assert_array_equal(left[key], np.flip(right[key], axis=3 if key == "oct" else 2))
    alone = made({"oct": volume}, eye="OS")
    assert set(alone) == {"oct"}
    np.testing.assert_array_equal(alone["oct"], left["oct"])
    for given, sentence in ((volume, "give some of them by name"), ({}, r"not \[\]"),
                            ({"text": "a"}, r"not \['text'\]")):  # fmt: skip
        with pytest.raises(InputError, match=sentence):
            made(given, eye="OD")
    with pytest.raises(InputError, match="Say which eye it is"):
        made({"image": PHOTOGRAPH})


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("nowhere.jpg", "cannot be read"),
        (np.zeros((4, 4, 3), np.float32), r"are uint8 \[H W 3\] or \[H W\], got float32"),
        (np.zeros((4, 4, 4), np.uint8), "are uint8"),
        (7, "not int"),
        (b"no picture", "picture"),
    ],
)
def test_what_is_no_picture_is_a_sentence(given, sentence):
    with pytest.raises(InputError, match=sentence):
        single.Preprocessing((Decode(16),))(given)


def saved(name, workdir, step=7, **options):
    """A run that has a checkpoint of its first parameters, and its experiment."""
    (made,) = experiment.build_all(whole_config(name), workdir, **options)
    state = loop.fresh_state(made, loop.abstract_state(made))
    state = state.replace(step=np.int32(step))
    checkpointer = Checkpointer(workdir / "checkpoints")
    checkpointer.save(state)
    checkpointer.close()
    identity.claim(workdir, dataclasses.replace(made, total=step), step)
    return made, state


def test_an_exported_run_answers_as_its_own_evaluation(tmp_path, caplog):
    made, state = saved("flair", tmp_path / "run")
    variables = restore.read_variables(tmp_path / "run" / "checkpoints")
    described = describe.run(tmp_path / "run", step=7, licence="MIT")
    assert "has not finished; this is its step 7" in caplog.text
    hub.write_folder(tmp_path / "model", described, variables)
    loaded = retina_jax.load(tmp_path / "model")
    assert loaded.description.source == {"run": "run", "step": 7}
    assert_same_bits(loaded.variables["params"], state.params)
    assert_same_bits(loaded.variables["batch_stats"], state.model_state["batch_stats"])
    evaluator = made.evaluators["zeroshot"]
    assert loaded.classes == tuple(evaluator.classes)
    assert loaded.description.template == evaluator.template
    encoded = evaluator.encoder.over(state, evaluator.data, "embed", ["image"])["image"]
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
    for made in experiment.build_all(whole_config(name), tmp_path):
        workdir = experiment.stage_directory(tmp_path, made.name)
        workdir.mkdir(exist_ok=True)
        identity.claim(workdir, made, 0)
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


def test_a_random_crop_to_a_size_becomes_a_decoding_to_it():
    specs = whole_config("retclip", "full").streams.patients.to_dict()["transforms"]
    (eyes,) = describe._pictures(specs)
    assert eyes["name"] == "eyes" and eyes["size"] == 224 and eyes["fit"] == "squash"


def test_runs_that_are_none_are_sentences(tmp_path):
    with pytest.raises(InputError, match="There is no run in"):
        describe.run_config(tmp_path)
    for stage in ("text", "image"):
        (tmp_path / stage).mkdir()
        (tmp_path / stage / "config.json").write_text("{")
    with pytest.raises(InputError, match="several stages: choose --src=.*image or --src=.*text"):
        describe.run_config(tmp_path)
    with pytest.raises(InputError, match="is damaged"):
        describe.run_config(tmp_path / "text")


def test_photographs_of_data_prepared_in_different_ways_are_left_alone(caplog):
    one, other = {"size": 512, "crop": "none"}, {"size": 256, "crop": "none"}
    assert describe._preparation({"a": one, "b": {**one, "libraries": {"pillow": "1"}}}) == one
    assert describe._preparation({"a": None, "b": None}) is None and not caplog.records
    assert describe._preparation({"a": one, "b": other}) is None
    assert "prepared in different ways" in caplog.text
