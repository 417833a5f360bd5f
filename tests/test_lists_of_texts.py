"""One text is one text: where several are meant, a text alone is refused, not read as letters."""

import dataclasses

import numpy as np
import pytest
from runs import config

from data_pipelines import transforms
from data_pipelines.errors import InputError
from data_pipelines.text import texts, train_tokenizer
from data_pipelines.transforms.targets import Label, MultiLabel
from retina_jax import build, experiment
from retina_jax.evals import EVALUATORS, zeroshot
from retina_jax.loading import PretrainedModel
from retina_jax.models import MODELS
from retina_jax.models.towers import TOWERS
from retina_jax.objectives import OBJECTIVES

TABLES = {**EVALUATORS, **MODELS, **TOWERS, **OBJECTIVES, **transforms.TRANSFORMS}


def several():
    """(entry, option) of every option of a config that is several texts, and of none else."""
    for name, entry in TABLES.items():
        fields = dataclasses.fields(entry) if dataclasses.is_dataclass(entry) else ()
        for field in fields:
            kind = str(field.type)
            if "str" in kind.replace("tuple[str", "").replace("Sequence[str", "").split(" | "):
                continue
            if kind.startswith(("Sequence[str]", "tuple[str, ...]", "Classes")):
                yield name, field.name


def test_every_option_of_several_texts_refuses_one():
    found = list(several())
    assert {("zeroshot", "classes"), ("label", "classes"), ("reference", "texts")} <= set(found)
    for name, option in found:
        with pytest.raises(InputError, match=f"'{option}' is a list of texts, and 'glaucoma' is"):
            build.check_options(name, TABLES[name], {option: "glaucoma"})


def test_a_setting_of_several_texts_refuses_one(tmp_path):
    made = config("mmretinal_v2")
    with made.unlocked():
        made.order = "text"
    with pytest.raises(InputError, match="'order' is a list of texts, and 'text' is one"):
        experiment.build_all(made, tmp_path)


@pytest.mark.parametrize("wrong", ["glaucoma", b"x", 3, None, ["a", 1], [None]])
def test_what_is_no_list_of_texts(wrong):
    with pytest.raises(InputError, match="'classes' is a list of texts"):
        texts.listed(wrong, "classes")
    with pytest.raises(InputError, match="'texts' is a list of texts"):
        train_tokenizer.train(wrong, 400)


@pytest.mark.parametrize("names", [["normal", "a", "normal"], ["AMD", "amd"], ["a b", "a  b"]])
def test_a_name_comes_once(names):
    with pytest.raises(InputError, match=f"'classes' has '{names[-1]}' twice"):
        texts.distinct(names, "classes")
    for transform in (Label, MultiLabel):
        with pytest.raises(InputError, match="twice, as two classes"):
            transform(classes=tuple(names))
    assert texts.distinct(["a", "b"], "classes") == ["a", "b"]
    Label(classes=(("AMD", "amd"), "b"))  # synonyms
    with pytest.raises(InputError, match="'classes' has 'b' twice"):
        Label(classes=(("a", "b"), "b"))  # a record is of one class, but may have several labels
    found = MultiLabel(classes=(("a", "b"), "b", "c")).map({"labels": ["b"]})["labels"]
    np.testing.assert_array_equal(found, [1, 1, 0])


def test_classes_of_the_same_prompts_are_one_class():
    def embed(prompts):
        return np.ones((len(prompts), 2), np.float32)

    assert zeroshot.prototypes([["a", "b"], ["b"]], embed).shape == (2, 2)
    with pytest.raises(InputError, match=r"the same prompts, \['b'\]"):
        zeroshot.prototypes([["b"], ["a"], ["b"]], embed)


def test_a_model_that_is_asked_with_one_text():
    about = type("About", (), {"text_length": 8, "title": "x", "classes": ("a",), "template": None})
    model = PretrainedModel(about, object(), {}, None, None)
    with pytest.raises(InputError, match="'texts' is a list of texts, got 'glaucoma'"):
        model.texts("glaucoma")
    for wrong in ("glaucoma", [0, 1], ["a", "a"], []):
        with pytest.raises(InputError, match="'classes'"):
            model.zero_shot("x.jpg", wrong)
