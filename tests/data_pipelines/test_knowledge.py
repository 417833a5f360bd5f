"""Descriptions of classes: complete, short, distinct, and replaceable by a user's file."""

from __future__ import annotations

import json
import pickle
import re

import pytest

from data_pipelines import knowledge
from data_pipelines.errors import InputError

SHIPPED = {name: knowledge.load(name) for name in knowledge.MODALITIES}
DR_GRADES = [
    f"{grade} diabetic retinopathy"
    for grade in ("no", "mild", "moderate", "severe", "proliferative")
]
# The classes of FLAIR's transfer experiments, of ODIR and of the embedded data.
CFP_CLASSES = [
    *DR_GRADES, "normal", "diabetic retinopathy", "diabetic macular edema", "glaucoma",
    "no glaucoma", "age related macular degeneration", "drusen", "pathologic myopia", "cataract",
    "hypertensive retinopathy", "no hypertensive retinopathy", "retinitis pigmentosa",
    "macular hole", "central serous chorioretinopathy", "epiretinal membrane",
    "branch retinal vein occlusion", "central retinal vein occlusion", "retinal artery occlusion",
    "choroidal neovascularization", "vitreomacular interface disease",
    *(f"myopic maculopathy grade {n}" for n in ("cero", "one", "two", "three", "four")),
]  # fmt: skip
EMBEDDED = [*DR_GRADES[1:], "normal", "glaucoma", "age related macular degeneration"]
EMBEDDED += ["pathologic myopia", "cataract", "diabetic retinopathy"]


@pytest.mark.parametrize(
    ("modality", "classes"),
    [
        ("cfp", CFP_CLASSES),
        ("ffa", [*EMBEDDED, "non-perfusion", "leakage", "choroidal neovascularization"]),
        ("oct", [*EMBEDDED, "choroidal neovascularization", "diabetic macular edema", "drusen"]),
    ],
)
def test_classes_are_described(modality, classes):
    assert [name for name in classes if name not in SHIPPED[modality].classes] == []


@pytest.mark.parametrize("modality", knowledge.MODALITIES)
def test_descriptions_read_well_in_a_sentence(modality):
    known = SHIPPED[modality]
    for name, texts in known.classes.items():
        assert 2 <= len(texts) <= 5, name
        assert re.search(r"(19|20)\d\d", known.sources[name]), f"{name} has no source"
        for text in texts:
            assert len(text.split()) <= 16 and not text.endswith("."), text
            assert text[0].islower() or text.startswith("Bruch"), text
            assert text.isascii() and "{" not in text and "[" not in text, text


@pytest.mark.parametrize("modality", knowledge.MODALITIES)
def test_no_two_classes_share_a_description(modality):
    texts = [text for found in SHIPPED[modality].classes.values() for text in found]
    assert len(texts) == len(set(texts))


def test_class_names_do_not_lead_to_another_class():
    """'no glaucoma' must not be described by signs of glaucoma, nor the reverse."""
    known = SHIPPED["cfp"].classes
    for name in ("glaucoma", "hypertensive retinopathy", "diabetic retinopathy"):
        assert set(known[f"no {name}"]).isdisjoint(known[name])


def test_templates():
    assert knowledge.template("cfp") == "A fundus photograph of {}"
    assert "fluorescein" in knowledge.template("ffa") and "tomography" in knowledge.template("oct")
    assert SHIPPED["cfp"].sentence("glaucoma") == "A fundus photograph of glaucoma"
    assert SHIPPED["cfp"].sentence("drusen", "noisy") == "A noisy fundus photograph of drusen"
    with pytest.raises(InputError, match="no template for 'test'"):
        knowledge.template("cfp", "test")


@pytest.mark.parametrize(
    "name", ["Age-related macular degeneration.", "age related  macular_degeneration"]
)
def test_spelling_of_a_class_makes_no_difference(name):
    expected = SHIPPED["cfp"].classes["age related macular degeneration"]
    assert SHIPPED["cfp"].descriptions(name) == expected
    edema = SHIPPED["oct"].classes["diabetic macular edema"]
    assert SHIPPED["oct"].descriptions("Diabetic macular oedema") == edema
    assert SHIPPED["cfp"].descriptions("a disease nobody knows") == ()


def test_a_users_dictionary(tmp_path):
    path = tmp_path / "flair.json"
    path.write_text(json.dumps({"drusen": ["Drusen", "yellow  spots", "yellow spots"], "x": []}))
    found = knowledge.load(str(path))
    assert found.classes == {"drusen": ("yellow spots",), "x": ()}
    assert found.templates == SHIPPED["cfp"].templates and found.sources == {}
    assert knowledge.read(path, "oct").templates == SHIPPED["oct"].templates


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ("[]", "has to hold an object"),
        ("{}", "has to hold an object"),
        ('{"drusen": "yellow"}', "descriptions of 'drusen'"),
        ('{"drusen": [1]}', "descriptions of 'drusen'"),
        ('{"drusen": [" "]}', "descriptions of 'drusen'"),
        ('{"templates": {"train": "x"}, "classes": {"a": ["b"]}}', "template 'train'"),
        ('{"templates": 3, "classes": {"a": ["b"]}}', "template 'train'"),
    ],
)
def test_a_bad_file_is_one_sentence(tmp_path, content, message):
    path = tmp_path / "mine.json"
    path.write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        knowledge.load(str(path))
    assert "\n" not in str(caught.value) and "mine.json" in str(caught.value)


def test_unknown_names_and_files():
    with pytest.raises(InputError, match="There is no knowledge 'octa'"):
        knowledge.load("octa")
    with pytest.raises(InputError, match="Cannot read"):
        knowledge.load("absent.json")


def test_knowledge_travels_to_worker_processes():
    assert pickle.loads(pickle.dumps(SHIPPED["cfp"])) == SHIPPED["cfp"]


def test_as_a_mapping_it_knows_other_spellings():
    shipped = knowledge.load("cfp")
    key = "age related macular degeneration"
    assert shipped["Age-related macular degeneration."] == shipped.classes[key]
    assert shipped.get("a class nobody knows", ()) == ()
    assert set(shipped) == set(shipped.classes) and len(shipped) == len(shipped.classes)
