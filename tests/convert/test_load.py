"""A loaded folder answers as the evaluators of a run do, and says what it cannot answer."""

import logging
import re

import folders
import jax
import numpy as np
import pytest
from evaluated_runs import Rows
from PIL import Image
from runs import ROOT, assert_same_bits, python

import retina_jax
from data_pipelines import pipelines
from data_pipelines.errors import InputError
from retina_jax.build import build
from retina_jax.convert import model_folder
from retina_jax.evals.encoder import Encoder
from retina_jax.evals.zeroshot import ZeroShot
from retina_jax.models import MODELS
from retina_jax.train import sharding
from retina_jax.types import TrainState

pytestmark = pytest.mark.fast
CLASSES = ["cataract", "normal eye", "large cup"]
PHOTOGRAPH = np.random.default_rng(3).integers(0, 256, (40, 50, 3), np.uint8)


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
    records = Rows([{"image": path.read_bytes()}])
    data = pipelines.evaluate(
        records, described.preprocessing().transforms, batch_size=1, keys=["image"], num_threads=1
    )
    tokenizer = build(model_folder.tokenizers.TOKENIZERS, described.tokenizer)
    evaluator = ZeroShot(encoder, tokenizer, data, classes, length=8, **options)
    images = encoder.encode_dataset(state, data, "embed", ["image"])["image"]
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


def test_single_texts_of_classes_are_padded_together(tmp_path, jpeg):
    """As FLAIR's README calls the model: one list of texts, which gives its logits."""
    model = folders.dual(pool="flair")
    folders.write(tmp_path, model=model, padding="longest")
    loaded = retina_jax.load(tmp_path / "model")
    names = ["normal", "a large left cup"]
    image = loaded.embed(loaded.preprocess(jpeg))["image"][0]

    def ratio(texts):
        first, second = texts @ image * loaded._encoder.scale(loaded._state)
        return first - second

    together = ratio(loaded.texts(names))
    apart = ratio(np.concatenate([loaded.texts([name]) for name in names]))
    found = loaded.zero_shot(jpeg, names, "{}")
    assert np.log(found[names[0]] / found[names[1]]) == pytest.approx(together, abs=1e-4)
    assert abs(together - apart) > 1e-3


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


def classifier(**options):
    model = {"name": "tower", "key": "image", "tower": folders.VIT, **options}
    return {"model": model, "tokenizer": None, "text_length": None, "template": None}


def test_a_classifier_names_its_classes(tmp_path, jpeg):
    described = folders.write(tmp_path, **classifier(classes=3))
    loaded = retina_jax.load(tmp_path / "model")
    found = loaded.classify(jpeg, force=True)
    head = folders.variables(described)["params"]["head"]
    logits = loaded.features(jpeg)["image"][0] @ head["kernel"] + head["bias"]
    expected = np.exp(logits) / np.exp(logits).sum()
    assert tuple(found) == described.classes
    np.testing.assert_allclose(list(found.values()), expected, rtol=1e-4)


def test_an_encoder_names_no_disease(tmp_path, jpeg):
    folders.write(tmp_path, **classifier())
    loaded = retina_jax.load(tmp_path / "model")
    with pytest.raises(InputError, match="no head that classifies, so it names no disease"):
        loaded.classify(jpeg)
    with pytest.raises(InputError, match="cannot read texts: it has no tower that embeds them"):
        loaded.zero_shot(jpeg)
    with pytest.raises(InputError, match="writes no texts"):
        loaded.report(jpeg)


def test_scores_without_names_are_not_given_any(tmp_path, jpeg):
    folders.write(tmp_path, **classifier(classes=5))
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
    assert "'tiny' has the licence CC-BY-NC-4.0" in caplog.text
    for part in ("licence: CC-BY-NC-4.0", "cite: Nobody", "classes: normal, glaucoma, cataract",
                 "left behind: pooler.dense.weight (nothing reads it)",
                 "not in the original: params/x, 0"):  # fmt: skip
        assert part in shown


@pytest.mark.parametrize(("licence", "warned"), [("MIT", False), (None, True)])
def test_a_free_licence_is_no_warning_and_none_is_one(tmp_path, caplog, licence, warned):
    folders.write(tmp_path, licence=licence)
    with caplog.at_level(logging.WARNING):
        retina_jax.load(tmp_path / "model")
    assert ("names no licence" in caplog.text) is warned and bool(caplog.records) is warned


def test_importing_the_package_imports_no_jax():
    code = "import sys, retina_jax; print('jax' in sys.modules); retina_jax.load; " \
           "print('jax' in sys.modules)"  # fmt: skip
    assert python("-c", code).stdout.split() == ["False", "True"]
    with pytest.raises(AttributeError, match="has no attribute 'lod'"):
        retina_jax.lod  # noqa: B018


def test_the_guide_shows_what_works(tmp_path, monkeypatch, jpeg, capsys):
    folders.write(tmp_path)
    (tmp_path / "model").rename(tmp_path / "flair")
    monkeypatch.chdir(tmp_path)
    for guide in ("docs/convert.md", "README.md"):
        blocks = re.findall(r"```python\n(.*?)```", (ROOT / guide).read_text("utf-8"), re.DOTALL)
        (code,) = (block for block in blocks if "retina_jax.load" in block)
        exec(compile(code, guide, "exec"), {})
        assert "'macular hole': 0." in capsys.readouterr().out
        assert len(code.splitlines()) <= 5
