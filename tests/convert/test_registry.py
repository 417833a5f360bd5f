"""The registry says what SOURCES can read, and nothing is ever fetched."""

import ast
import dataclasses
import hashlib
import re
from pathlib import Path

import pytest

from data_pipelines.errors import InputError
from data_pipelines.text.tokenizers import TOKENIZERS
from data_pipelines.transforms import Decode
from retina_jax.convert import registry
from retina_jax.convert.efficientnet import STATISTICS
from retina_jax.convert.formats import SOURCES

pytestmark = pytest.mark.fast
# Families of which the registry names no release.
GENERIC = {"chinese_clip_resnet", "efficientnet_timm"}
RELEASED = registry.released()


def test_registry_and_sources_are_in_step():
    named = {entry.source for entry in RELEASED.values()}
    assert named == set(SOURCES) - GENERIC


@pytest.mark.parametrize("name", RELEASED)
def test_an_entry_is_complete(name):
    entry = RELEASED[name]
    assert entry.where and entry.modality and entry.towers and entry.citation
    assert entry.sha256 is None or re.fullmatch("[0-9a-f]{64}", entry.sha256)
    assert entry.megabytes is None or re.fullmatch(r"\d+(\.\d+)?", entry.megabytes)
    assert entry.template is None or "{}" in entry.template
    assert (entry.tokenizer is None) == ("text" not in entry.towers)
    if entry.tokenizer:
        assert entry.tokenizer["name"] in TOKENIZERS and entry.tokenizer_file and entry.text_length


def efficientnet(name):
    """What a file of that release is converted to."""
    variant = name.removeprefix("efficientnet_")
    mean, std = STATISTICS["lite" if variant.startswith("lite") else "imagenet"]
    return {"tower": {"variant": variant}, "mean": mean, "std": std}


@pytest.mark.parametrize(
    "name", [n for n, e in RELEASED.items() if e.preprocessing and e.source not in registry.LAYOUTS]
)
def test_preprocessing_is_that_of_the_source(name):
    entry = RELEASED[name]
    ours, theirs = entry.preprocessing, SOURCES[entry.source].preprocessing
    if entry.source == "efficientnet":  # each of the family has its own
        theirs = SOURCES[entry.source].preprocessing_of(efficientnet(name))
    for key in ("size", "fit", "short_side", "mean", "std"):
        value, other = ours.get(key), theirs.get(key)
        assert (list(value) if isinstance(value, list) else value) == (
            list(other) if isinstance(other, tuple) else other
        )
    Decode(ours["size"], fit=ours["fit"], short_side=ours.get("short_side"))


def test_the_cased_vocabulary_is_read_in_lower_case():
    for name in ("flair", "keepfit_cfp", "keepfit_cfp_half", "keepfit_ffa"):
        entry = RELEASED[name]
        assert entry.tokenizer == {"name": "wordpiece", "lower_case": True}
        assert "Bio_ClinicalBERT" in entry.tokenizer_file


def test_the_table_shows_every_release_and_says_where_no_licence_is_given():
    lines = registry.table().splitlines()
    assert len(lines) == len(RELEASED) + 2
    for line, (name, entry) in zip(lines[2:], RELEASED.items(), strict=True):
        assert line.startswith(name) and (entry.licence or "none given") in line
        assert entry.where in line
    assert "767.61 MB" in next(line for line in lines if line.startswith("retclip"))


def sized(path, number):
    with open(path, "wb") as file:
        file.truncate(number)  # without its bytes
    return path


def test_a_file_of_another_size_than_released_is_warned_of(tmp_path):
    wrong = sized(tmp_path / "ret-clip.pt", 700_000_000)
    sentence = registry.warning("retclip", wrong)
    assert "700.00 MB instead of 767.61 MB" in sentence and "may be incomplete" in sentence


def test_nothing_is_said_where_nothing_is_known(tmp_path):
    file = sized(tmp_path / "any.pth", 10)
    assert registry.warning("captioner", file) == ""
    assert registry.warning("bert", file) == ""  # it may be one of those of unknown size
    assert registry.warning("timm", file) == ""


def test_a_file_of_another_hash_than_released_is_warned_of(tmp_path, monkeypatch):
    file = tmp_path / "weights"
    file.write_bytes(b"weights")
    entry = {**vars(RELEASED["flair"]), "megabytes": None}
    known = registry.Released(**{**entry, "sha256": hashlib.sha256(b"weights").hexdigest()})
    monkeypatch.setattr(registry, "released", lambda: {"flair": known})
    assert registry.warning("flair", file) == ""
    file.write_bytes(b"Weights")
    assert "instead of" in registry.warning("flair", file)


def test_facts_are_what_all_candidates_agree_on(tmp_path, monkeypatch):
    file = sized(tmp_path / "model.safetensors", 123)
    assert registry.facts("flair", file)["name"] == "flair"
    keepfit = registry.facts("keepfit", file)
    assert keepfit["licence"] is None and keepfit["text_length"] == 256
    assert "name" not in keepfit and "modality" not in keepfit  # photographs or angiograms
    bert = registry.facts("bert", file)
    assert "licence" not in bert and bert["tokenizer"]["name"] == "wordpiece"
    assert registry.facts("bert", file, "roberta_wwm_ext")["licence"] == "Apache-2.0"
    # Of a layout that anybody's weights have, nothing is said before size or hash tell.
    assert registry.facts("timm", file) == registry.facts("open_clip", file) == {}
    chinese = registry.facts("chinese_clip", file)  # it is not ViLReF, whose size is known
    assert chinese["name"] == "chinese_clip" and chinese["licence"] == "MIT"
    hashed = dataclasses.replace(RELEASED["retfound_green"], megabytes="0.00", sha256=None)
    with monkeypatch.context() as patched:
        patched.setattr(registry, "released", lambda: {**RELEASED, "retfound_green": hashed})
        assert registry.facts("timm", file)["preprocessing"]["size"] == 392
    small = sized(tmp_path / "model.safetensors", 90_868_376)
    assert "name" not in registry.facts("bert", small)  # its hash is another
    entry = dataclasses.replace(RELEASED["all_minilm_l6_v2"], sha256=None)
    monkeypatch.setattr(registry, "released", lambda: {**RELEASED, "all_minilm_l6_v2": entry})
    assert registry.facts("bert", small)["name"] == "all_minilm_l6_v2"  # by its size


def test_a_release_of_another_source_is_a_sentence(tmp_path):
    with pytest.raises(InputError, match="no release 'retclip' of 'flair'; known are flair"):
        registry.facts("flair", tmp_path, "retclip")


def test_nothing_in_convert_can_reach_the_network():
    reaches = {"urllib", "http", "socket", "ssl", "ftplib", "requests", "huggingface_hub",
               "subprocess"}  # fmt: skip
    for path in Path(registry.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            assert not {name.split(".")[0] for name in names} & reaches, path
