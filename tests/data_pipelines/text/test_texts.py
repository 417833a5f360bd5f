"""Sentences of reports change places without changing what is said of which eye."""

import itertools

import numpy as np
import pytest

from data_pipelines import transforms as T
from data_pipelines.errors import InputError
from data_pipelines.synthetic import causes, report
from data_pipelines.text import texts

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("Clear media. C/D 0.5! Normal?", ["Clear media.", "C/D 0.5!", "Normal?"]),
        ("mild npdr. no edema", ["mild npdr.", "no edema"]),
        ("Lesions, e.g. drusen, vs. normal. Grade by J. Smith.",
         ["Lesions, e.g. drusen, vs. normal.", "Grade by J. Smith."]),
        ("眼底正常。杯盘比0.4！屈光间质清", ["眼底正常。", "杯盘比0.4！", "屈光间质清"]),
        ("Drusen; normal disc. Clear", ["Drusen; normal disc.", "Clear"]),
        ("left eye: drusen; right eye: normal", ["left eye: drusen;", "right eye: normal"]),
        ("First line\nsecond line", ["First line", "second line"]),
        ("", []),
        (" . ", ["."]),
    ],
)  # fmt: skip
def test_sentences_end_where_they_end(text: str, parts: list[str]) -> None:
    assert texts.sentences(text) == parts


def test_what_follows_a_side_stays_with_it() -> None:
    english = "Aged 59. Right eye: normal. Clear media. Left eye: glaucoma. C/D 0.8."
    assert texts.passages(english) == ["Aged 59.", "Right eye: normal. Clear media.",
                                       "Left eye: glaucoma. C/D 0.8."]  # fmt: skip
    chinese = "女性，56岁。右眼：青光眼。杯盘比0.8。左眼：正常。印象：正常。"
    assert texts.passages(chinese) == ["女性，56岁。", "右眼：青光眼。杯盘比0.8。",
                                       "左眼：正常。印象：正常。"]  # fmt: skip
    run_on = "left eye: drusen. macular edema; right eye: normal"
    assert texts.passages(run_on) == ["left eye: drusen. macular edema", "right eye: normal"]


def test_join_ends_what_is_open() -> None:
    assert texts.join(["Clear media", "Normal disc"]) == "Clear media. Normal disc"
    assert texts.join(["右眼正常", "左眼：AMD；", "清"]) == "右眼正常。左眼：AMD。清"
    assert texts.join(["One."]) == "One." and texts.join([]) == ""


def orders(text: str, number: int = 60, **options: object) -> set[str]:
    transform = T.Sentences(**options)
    return {transform.random_map({"caption": text}, np.random.default_rng(seed))["caption"]
            for seed in range(number)}  # fmt: skip


def test_all_orders_are_drawn_and_no_word_changes() -> None:
    parts = ("One drusen.", "Two cups.", "Three discs.")
    expected = {" ".join(order) for order in itertools.permutations(parts)}
    assert orders(" ".join(parts), 200) == expected
    assert orders("A single sentence") == {"A single sentence"} and orders("") == {""}
    assert orders("One. Two. Three.", shuffle=False) == {"One. Two. Three."}


def test_sides_stay_true_in_every_order() -> None:
    text = "Macular oedema. Right eye: normal. Clear media. Left eye: glaucoma. C/D 0.8."
    right, left = "Right eye: normal. Clear media.", "Left eye: glaucoma. C/D 0.8."
    assert orders(text) == {f"Macular oedema. {right} {left}", f"Macular oedema. {left} {right}"}


@pytest.mark.parametrize("language", ["en", "zh"])
def test_reports_keep_what_they_say_of_each_eye(language: str) -> None:
    for number in range(40):
        rng = np.random.default_rng(number)
        patient = causes.sample_patient(0, number)
        text = report.patient_report(patient, language, rng)
        person, first, second = texts.passages(text)
        (swapped,) = orders(text) - {text}
        assert swapped == texts.join([person, second, first])
        right = ("right", "OD") if language == "en" else ("右",)
        assert any(word in first.lower() + first for word in right)
        assert not any(word in second.lower() + second for word in right)


def test_dropping_keeps_one_part_and_is_a_share() -> None:
    text = "One. Two. Three. Four."
    assert orders(text, drop=1.0, shuffle=False) == {"One.", "Two.", "Three.", "Four."}
    transform = T.Sentences(drop=0.5)
    kept = [transform.random_map({"caption": text}, np.random.default_rng(s))["caption"].count(".")
            for s in range(400)]  # fmt: skip
    assert 2.4 < np.mean(kept) < 2.6, "of four, one always stays and three do half of the time"
    with pytest.raises(InputError, match="0..1"):
        T.Sentences(drop=2)
    with pytest.raises(InputError, match="one text, got list"):
        T.Sentences().random_map({"caption": ["a"]}, np.random.default_rng(0))


def test_text_groups_are_stable_and_blind_to_case() -> None:
    assert texts.text_group("glaucoma") == texts.text_group(" Glaucoma ")
    assert texts.text_group("glaucoma") == 1893621554, "ids must not change between runs"
    names = [f"class {i}" for i in range(2000)]
    ids = {int(texts.text_group(name)) for name in names}
    assert len(ids) == 2000 and min(ids) >= 0


@pytest.mark.parametrize(
    ("side", "spellings"),
    [
        ("OD", "OD od O.D. R r R. (R) RE Right right_eye Right-Eye oculus_dexter 右眼".split()),
        ("OS", "OS O.S. L L. LE left LeftEye left_side oculus-sinister 左".split()),
        ("OD", ["Right eye", "right (OD)", "RE - right eye", "Oculus dexter", " OD "]),
        ("OD", ["rechts", "Rechtes Auge", "RA", "œil droit", "Ojo derecho", "occhio destro"]),
        ("OS", ["links", "linkes Auge", "LA", "Li.", "OG", "œil gauche", "OI", "occhio sinistro"]),
        ("", ["", " ", "nan", "None", "N/A", "-"]),
        (
            None,
            ["OU", "both", "left right", "OD/OS", "B", "U", "1", "R2", "unknown", "eye", "Auge"],
        ),
    ],
)
def test_one_vocabulary_of_eyes(side: str | None, spellings: list[str]) -> None:
    assert {spelling: texts.named_eye(spelling) for spelling in spellings} == dict.fromkeys(
        spellings, side
    )
