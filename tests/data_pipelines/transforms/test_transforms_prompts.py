"""Prompts: a class, its descriptions and attributes, and the sentence they stand in."""

import numpy as np
import pytest

from data_pipelines import transforms as T
from data_pipelines.errors import InputError
from data_pipelines.text import knowledge

pytestmark = pytest.mark.fast

KNOWLEDGE = {"glaucoma": ["large cup", "thin rim"]}


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def drawn(prompt: T.Prompt, record: dict, number: int = 60) -> set[str]:
    return {prompt.random_map(record, rng(seed))["prompt"] for seed in range(number)}


def test_prompt_draws_labels_and_descriptions_uniformly() -> None:
    prompt = T.Prompt("A photograph of  {}", knowledge={"glaucoma": ["large cup", "thin rim"]})
    record = {"labels": ["glaucoma", "cataract"]}
    results = [prompt.random_map(record, rng(seed)) for seed in range(600)]
    counts = {text: sum(r["prompt"] == f"A photograph of {text}" for r in results)
              for text in ("cataract", "glaucoma", "large cup", "thin rim")}  # fmt: skip
    assert sum(counts.values()) == 600
    assert 250 < counts.pop("cataract") < 350 and all(60 < n < 140 for n in counts.values())
    assert all(r["category"] == "glaucoma" for r in results if "cataract" not in r["prompt"]), (
        "the target keeps the raw class"
    )


def test_prompt_without_labels() -> None:
    result = T.Prompt().random_map({"labels": []}, rng())
    assert result["prompt"] == "A fundus photograph of" and result["category"] == ""
    assert T.Prompt().random_map({"labels": "glaucoma"}, rng())["category"] == "glaucoma"
    with pytest.raises(InputError, match="one {}"):
        T.Prompt("A fundus photograph")
    with pytest.raises(InputError, match="at most one"):
        T.Prompt("A [ATR] [ATR] {}")


def test_descriptions_replace_follow_or_define_the_name() -> None:
    record = {"labels": ["glaucoma"]}
    expected = {"replace": {"glaucoma", "large cup", "thin rim"},
                "append": {"glaucoma, large cup", "glaucoma, thin rim"},
                "define": {"glaucoma: large cup", "glaucoma: thin rim"}}  # fmt: skip
    for mode, texts in expected.items():
        prompt = T.Prompt("{}", knowledge=KNOWLEDGE, mode=mode)
        assert drawn(prompt, record) == texts
        assert prompt.random_map(record, rng())["category"] == "glaucoma"
        assert drawn(prompt, {"labels": ["cataract"]}) == {"cataract"}
        assert drawn(prompt, {"labels": []}) == {""}


def test_some_datasets_keep_plain_names() -> None:
    excluded = ("06_EYENET", "11_STARE", "08_ODIR-5K", "31_JICHI")
    prompt = T.Prompt("{}", knowledge=KNOWLEDGE, excluded=excluded)
    assert drawn(prompt, {"labels": ["glaucoma"], "dataset": "11_STARE"}) == {"glaucoma"}
    assert len(drawn(prompt, {"labels": ["glaucoma"], "dataset": "01_EYEPACS"})) == 3
    with pytest.raises(InputError, match="no field 'dataset'"):
        prompt.random_map({"labels": ["glaucoma"]}, rng())


def test_attributes_have_their_place() -> None:
    prompt = T.Prompt("A [ATR] fundus photograph of {}", attributes="attributes")
    record = {"labels": ["glaucoma"], "attributes": ["low quality", "noisy"]}
    assert drawn(prompt, record) == {"A low quality fundus photograph of glaucoma",
                                     "A noisy fundus photograph of glaucoma"}  # fmt: skip
    assert drawn(prompt, {**record, "attributes": []}) == {"A fundus photograph of glaucoma"}
    assert drawn(prompt, {**record, "attributes": "noisy"}) == {
        "A noisy fundus photograph of glaucoma"
    }
    with pytest.raises(InputError, match="name the field of 'attributes'"):
        T.Prompt("A [ATR] fundus photograph of {}")
    with pytest.raises(InputError, match="no field 'attributes'"):
        prompt.random_map({"labels": ["glaucoma"]}, rng())


def test_medkcos_template_of_oct() -> None:
    """Spelt as released; without an attribute its blank closes up."""
    prompt = T.Prompt(
        template="A [ATR] Optical coherence tomography(OCT) photograph of {}", attributes="looks"
    )
    record = {"labels": ["drusen"], "looks": ["noisy"]}
    said = [prompt.random_map({**record, "looks": looks}, rng())["prompt"]
            for looks in (["noisy"], [])]  # fmt: skip
    assert said == ["A noisy Optical coherence tomography(OCT) photograph of drusen",
                    "A Optical coherence tomography(OCT) photograph of drusen"]  # fmt: skip


@pytest.mark.parametrize("modality", knowledge.MODALITIES)
def test_the_modality_chooses_template_and_knowledge(modality: str) -> None:
    shipped = knowledge.load(modality)
    prompt = T.Prompt(modality="modality", attributes="attributes")
    category = next(iter(shipped.classes))
    record = {"labels": [category], "modality": modality, "attributes": []}
    template = shipped.templates["inference"]
    words = (category, *shipped.descriptions(category))
    assert drawn(prompt, record, 200) == {template.replace("{}", word) for word in words}
    with_attribute = drawn(prompt, {**record, "attributes": ["noisy"]}, 200)
    assert with_attribute == {shipped.sentence(word, "noisy") for word in words}
    own = T.Prompt("{}", modality="modality", mode="define")
    assert drawn(own, record, 200) == {f"{category}: {word}" for word in words[1:]}


def test_a_modality_is_never_a_path() -> None:
    prompt = T.Prompt(modality="modality")
    for modality in ("slo", "", "../secret.json"):
        with pytest.raises(InputError, match="can be cfp, ffa, oct"):
            prompt.random_map({"labels": ["normal"], "modality": modality}, rng())
    with pytest.raises(InputError, match="leave 'knowledge' out"):
        T.Prompt(knowledge=KNOWLEDGE, modality="modality")


def test_loaded_knowledge_brings_its_template() -> None:
    prompt = T.Prompt(knowledge=knowledge.load("oct"))
    assert drawn(prompt, {"labels": ["a class of no book"]}) == {
        "An optical coherence tomography scan of a class of no book"
    }
