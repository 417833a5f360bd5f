"""Descriptions of classes: complete, short, distinct, and replaceable by a user's file."""

import json
import pickle
import re

import pytest

from data_pipelines.errors import InputError
from data_pipelines.text import knowledge

pytestmark = pytest.mark.fast

SHIPPED = {name: knowledge.load(name) for name in knowledge.MODALITIES}
DR_GRADES = [
    f"{grade} diabetic retinopathy"
    for grade in ("no", "mild", "moderate", "severe", "proliferative")
]
# Findings of RFMiD, which is no experiment here, and other labels of public photographs.
CFP_CLASSES = [
    *DR_GRADES, "diabetic macular edema", "central serous chorioretinopathy", "epiretinal membrane",
    "branch retinal vein occlusion", "central retinal vein occlusion", "retinal artery occlusion",
    "choroidal neovascularization", "vitreomacular interface disease", "a disease", "media haze",
    "drusen", "tessellation", "laser scar", "macular scar", "optic disc cupping",
    "tortuous vessels", "asteroid hyalosis", "optic disc pallor", "optic disc edema", "shunt",
    "anterior ischemic optic neuropathy", "parafoveal telangiectasia", "retinal traction",
    "retinitis", "chorioretinitis", "exudates", "retinal pigment epithelium changes",
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
    for name in ("glaucoma", "hypertensive retinopathy", "diabetic retinopathy", "hypertensive"):
        assert set(known[f"no {name}"]).isdisjoint(known[name])


# The totals of the published tables; the files of Kermany and ODIR differ between releases.
TOTALS = {
    "02_MESSIDOR": 1744, "25_REFUGE": 400, "13_FIVES": 800, "08_ODIR200x3": 600, "05_20x3": 60,
    "36_ACRIMA": 746, "36_ACRIMA_KeepFIT": 705, "CAT_MYA_2": 60, "MHL_RP_2": 30,
    "37_DeepDRiD_train_eval": 1600, "37_DeepDRiD_test": 400, "38_MMAC23A_train": 990,
    "38_MMAC23A_test": 215, "38_MMAC23B_test": 33, "CGI_HRDC_Task1": 712, "CGI_HRDC_Task2": 712,
    "AMD": 400, "TAOP_train": 3000, "TAOP_test": 297, "MPOS": 600, "OCTID": 572, "OCTDL": 2064,
    "RETINAL_OCT_C8": 24000, "ODIR": None, "KERMANY_OCT": None,
}  # fmt: skip


@pytest.mark.parametrize("name", TOTALS)
def test_an_experiment_names_described_classes(name):
    found = knowledge.experiment(name)
    assert found.n == TOTALS[name] and len(set(found.classes)) == len(found.classes) >= 2
    if found.counts is not None:
        assert len(found.counts) == len(found.classes) and sum(found.counts) == found.n
    known = SHIPPED[found.modality].classes
    described = [category for category in found.classes if 2 <= len(known.get(category, ())) <= 5]
    if name.startswith("TAOP"):
        assert described == [] and "not for zero-shot" in found.note
    else:
        assert described == list(found.classes)


def test_experiments_keep_their_order():
    assert set(knowledge.experiments()) == set(TOTALS)
    assert knowledge.experiment("AMD").classes == ("age related macular degeneration", "normal")
    assert knowledge.experiment("AMD").counts == (89, 311)
    assert list(knowledge.experiment("02_MESSIDOR").classes) == DR_GRADES
    assert knowledge.experiment("36_ACRIMA").counts == (379, 367)
    assert [name[-4:] for name in knowledge.experiment("38_MMAC23A_test").classes] == [
        "cero", " one", " two", "hree", "four"
    ]  # fmt: skip
    with pytest.raises(InputError, match="There is no experiment 'MESSIDOR': name one of 02_MESSI"):
        knowledge.experiment("MESSIDOR")


def test_templates():
    for modality, words in (("cfp", "fundus photograph"), ("ffa", "fluorescein"), ("oct", "tomog")):
        assert words in SHIPPED[modality].templates["inference"]
    assert SHIPPED["cfp"].sentence("glaucoma") == "A fundus photograph of glaucoma"
    assert SHIPPED["cfp"].sentence("drusen", "noisy") == "A noisy fundus photograph of drusen"


@pytest.mark.parametrize(
    "name", ["Age-related macular degeneration.", "age related  macular_degeneration"]
)
def test_spelling_of_a_class_makes_no_difference(name):
    expected = SHIPPED["cfp"].classes["age related macular degeneration"]
    assert SHIPPED["cfp"].descriptions(name) == expected
    ischemic = SHIPPED["cfp"].classes["anterior ischemic optic neuropathy"]
    assert SHIPPED["cfp"].descriptions("Anterior Ischaemic Optic Neuropathy") == ischemic
    bleeding = knowledge.Knowledge("mine", {}, {"vitreous haemorrhage": ("red haze",)}, {})
    assert bleeding["Vitreous hemorrhage"] == ("red haze",)
    edema = SHIPPED["oct"].classes["diabetic macular edema"]
    assert SHIPPED["oct"].descriptions("Diabetic macular oedema") == edema
    assert SHIPPED["cfp"].descriptions("a disease nobody knows") == ()


@pytest.mark.parametrize("modality", knowledge.MODALITIES)
def test_other_names_of_a_class_find_it_and_nothing_else(modality):
    known = SHIPPED[modality]
    assert known.aliases and set(known.aliases.values()) <= set(known.classes)
    plain = [knowledge._plain(name) for name in (*known.classes, *known.aliases)]
    assert len(plain) == len(set(plain))
    for name, category in known.aliases.items():
        assert known[name.upper()] == known.classes[category]
        assert name not in known.classes


FLAIR = '''
"""Dictionaries for prompts."""

# A comment.
definitions = {"no diabetic retinopathy": ["no diabetic retinopathy", "no microaneurysms."],
               "shunt": ["collateral vessels"
                         " of large caliber"],
               "scar": ["scar"]}
datasets = ["01_EYEPACS", "03_IDRID"]
'''


def test_flairs_own_file_is_read_as_it_is(tmp_path):
    path = tmp_path / "dictionary.py"
    path.write_bytes(b"\xef\xbb\xbf" + FLAIR.replace("\n", "\r\n").encode())
    found = knowledge.load(str(path))
    assert found.classes == {"no diabetic retinopathy": ("no microaneurysms",),
                             "shunt": ("collateral vessels of large caliber",),
                             "scar": ()}  # fmt: skip
    assert found["No Diabetic-Retinopathy"] == ("no microaneurysms",)
    assert found.templates == SHIPPED["cfp"].templates


@pytest.mark.parametrize(("content", "message"),
                         [("import os\n" + FLAIR, "Line 1 .* no assignment of a literal"),
                          (FLAIR + "open('owned', 'w')\n", "no assignment of a literal"),
                          (FLAIR + "definitions['a'] = ['b']\n", "no assignment of a literal"),
                          (FLAIR + "definitions = {'a': ['b']}\n", "once, it does 2 times"),
                          (FLAIR + "x = open('owned', 'w')\n", "literals only"),
                          ("a = b = definitions = {'a': ['b']}", "no assignment of a literal"),
                          ("definitions = {'a': [open('owned', 'w').name]}", "literals only"),
                          ("definitions = {'a': [x for x in 'bc']}", "literals only"),
                          ("definitions = {'a': [f'{1}']}", "literals only"),
                          ("definitions = {'a': ['b' * 10**9]}", "literals only"),
                          ("definitions = {**{}, 'a': ['b']}", "literals only"),
                          ("definitions = dict(a=['b'])", "literals only"),
                          ("definitions = {[]: ['b']}", "literals only"),
                          ("definitions = " + "[" * 100_000, "literals only"),
                          ("definitions = " + "-" * 100_000 + "1", "literals only"),
                          ("definitions = {'a': ['b']", "literals only"),
                          ("definitions = {'a': ['\x00']}", "literals only"),
                          ("", "once, it does 0 times"),
                          ("definitions = {}", "has to hold an object"),
                          ("definitions = {1: ['b']}", "has to hold an object"),
                          ("definitions = ['b']", "has to hold an object"),
                          ("definitions = {'a': ('b',)}", "descriptions of 'a'")])  # fmt: skip
def test_python_is_parsed_and_never_run(tmp_path, monkeypatch, content, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        knowledge.load(str(tmp_path / "mine.py"))
    assert "\n" not in str(caught.value) and "mine.py" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.py"]


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
        (
            '{"templates": {"train": "[ATR] [CLS]", "inference": "{}"}, '
            '"classes": {"a": {"descriptions": ["b"], "also": "cd"}}}',
            "'also' of 'a'",
        ),
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
