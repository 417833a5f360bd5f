"""Folders of models: the same bits back, whole or not at all, and sentences about broken ones."""

import dataclasses
import hashlib
import json
import os

import folders
import numpy as np
import pytest
from runs import assert_same_bits

from data_pipelines.errors import InputError
from retina_jax.convert import files, model_folder, rules

pytestmark = pytest.mark.fast
PROJECTION = "params/image_projection/kernel"


def edit(folder, **changes):
    """Changes config.json; a value of None takes the key out."""
    path = folder / model_folder.CONFIG
    about = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: v for key, v in about.items() if v is not None}))


def rewrite(folder, change):
    """Writes other tensors, and their hash into config.json."""
    tensors, _ = files.read_safetensors(folder / model_folder.WEIGHTS)
    tensors = {name: np.array(value) for name, value in tensors.items()}
    change(tensors)
    (folder / model_folder.WEIGHTS).unlink()
    files.write_safetensors(folder / model_folder.WEIGHTS, tensors)
    digest = hashlib.sha256((folder / model_folder.WEIGHTS).read_bytes()).hexdigest()
    edit(folder, weights={"file": model_folder.WEIGHTS, "sha256": digest, "parameters": 0})


def refusal(folder):
    with pytest.raises(InputError) as caught:
        model_folder.read_folder(folder)
    return str(caught.value)


def test_a_folder_gives_back_the_same_bits_and_the_same_description(tmp_path):
    given = folders.description(tmp_path, knowledge={"glaucoma": ("a large cup",)})
    variables = folders.variables(given)
    about = model_folder.write_folder(tmp_path / "model", given, variables)
    described, read = model_folder.read_folder(tmp_path / "model")
    assert rules.flatten(read).keys() == rules.flatten(variables).keys()
    assert_same_bits(read, variables)
    vocabulary = tmp_path / "model" / "vocab.txt"
    assert vocabulary.read_bytes() == folders.vocabulary(tmp_path).read_bytes()
    tokenizer = {**given.tokenizer, "vocab": str(vocabulary)}
    assert described == dataclasses.replace(given, tokenizer=tokenizer)
    weights = (tmp_path / "model" / model_folder.WEIGHTS).read_bytes()
    assert about["weights"]["sha256"] == hashlib.sha256(weights).hexdigest()


def test_a_folder_that_moves_still_knows_its_tokenizer(tmp_path):
    folders.write(tmp_path)
    (tmp_path / "model").rename(tmp_path / "elsewhere")
    described, _ = model_folder.read_folder(tmp_path / "elsewhere")
    assert described.tokenizer["vocab"] == str(tmp_path / "elsewhere" / "vocab.txt")


def test_the_card_has_licence_citation_classes_and_what_was_left_behind(tmp_path):
    ignored = {f"bert.pooler.{i}": "nothing reads it" for i in range(8)}
    folders.write(tmp_path, ignored=ignored, licence=None, terms="Its authors give no licence.")
    card = (tmp_path / "model" / model_folder.CARD).read_text()
    assert card.startswith("---\n") and 'license: "unknown"' in card.split("---")[1]
    for part in ("Licence: none given", "Its authors give no licence.", "Nobody, Nothing, 2026",
                 "normal, glaucoma, cataract", "a photograph of {}",
                 "and 2 more (nothing reads it)", "not validated for clinical"):  # fmt: skip
        assert part in card


def test_writing_lists_all_that_is_unknown_missing_or_of_another_shape(tmp_path):
    given = folders.description(tmp_path)
    variables = folders.variables(given)
    variables["params"]["stray"] = {"kernel": np.zeros(3, np.float32)}
    variables["params"]["other"] = np.zeros(3, np.float32)
    del variables["params"]["logit_scale"]
    del variables["params"]["text_projection"]
    variables["params"]["image_projection"]["kernel"] = np.zeros((8, 16), np.float32)
    with pytest.raises(InputError) as caught:
        model_folder.write_folder(tmp_path / "model", given, variables)
    for part in ("2 unknown to the model (params/other, params/stray/kernel)",
                 "2 missing (params/logit_scale, params/text_projection/kernel)",
                 f"{PROJECTION} has shape (8, 16) instead of (16, 8)"):  # fmt: skip
        assert part in str(caught.value)
    assert not (tmp_path / "model").exists()


def test_reading_lists_all_that_is_unknown_missing_or_of_another_shape(tmp_path):
    folders.write(tmp_path)

    def change(tensors):
        tensors["params/stray"] = tensors.pop("params/logit_scale")
        tensors[PROJECTION] = np.zeros((8, 16), np.float32)

    rewrite(tmp_path / "model", change)
    sentence = refusal(tmp_path / "model")
    for part in ("1 unknown to the model (params/stray)", "1 missing (params/logit_scale)",
                 f"{PROJECTION} has shape (8, 16) instead of (16, 8)"):  # fmt: skip
        assert part in sentence


def test_one_changed_byte_is_noticed(tmp_path):
    folders.write(tmp_path)
    path = tmp_path / "model" / model_folder.WEIGHTS
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert "its SHA-256 is another" in refusal(tmp_path / "model")


@pytest.mark.parametrize("stage", ["write_safetensors", "card", "replace"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch, stage, error):
    given = folders.description(tmp_path)
    variables = folders.variables(given)
    before = sorted(tmp_path.iterdir())
    write = files.write_safetensors

    def interrupt(path, *rest, **options):
        if stage == "write_safetensors":
            write(path, *rest, **options)  # so that there is a part to leave
        raise error

    owner, name = {"write_safetensors": (model_folder.files, stage),
                   "card": (model_folder.card, "text"), "replace": (os, stage)}[stage]  # fmt: skip
    monkeypatch.setattr(owner, name, interrupt)
    with pytest.raises(KeyboardInterrupt if error is KeyboardInterrupt else InputError):
        model_folder.write_folder(tmp_path / "model", given, variables)
    monkeypatch.undo()
    assert sorted(tmp_path.iterdir()) == before
    # And the next one is not in its way.
    model_folder.write_folder(tmp_path / "model", given, variables)


def test_a_folder_with_files_in_it_is_left_alone(tmp_path):
    given = folders.description(tmp_path)
    (tmp_path / "model").mkdir()  # an empty one will do
    model_folder.write_folder(tmp_path / "model", given, folders.variables(given))
    before = (tmp_path / "model" / model_folder.WEIGHTS).read_bytes()
    with pytest.raises(InputError, match="exists and is not empty"):
        model_folder.write_folder(tmp_path / "model", given, folders.variables(given, seed=1))
    assert (tmp_path / "model" / model_folder.WEIGHTS).read_bytes() == before


def test_a_tokenizer_without_its_file_is_a_sentence(tmp_path):
    spec = {"name": "wordpiece", "vocab": str(tmp_path / "lost.txt")}
    given = folders.description(tmp_path, tokenizer=spec)
    with pytest.raises(InputError, match=r"there is no .*lost.txt.*--tokenizer=FILE"):
        model_folder.write_folder(tmp_path / "model", given, folders.variables(given))
    assert not (tmp_path / "model").exists()


def test_the_shipped_tokenizer_goes_with_the_model(tmp_path):
    model = folders.dual(vocab_size=2000)
    folders.write(tmp_path, tokenizer={"name": "sentencepiece"}, model=model)
    described, _ = model_folder.read_folder(tmp_path / "model")
    assert described.tokenizer["path"] == str(tmp_path / "model" / "tokenizer.model")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"format": "another"}, "was not written by this library"),
        ({"version": 2}, "has version 2 of its format, this library reads 1: install a newer"),
        ({"licens": "MIT"}, "has no option 'licens'. It accepts"),
        ({"model": None}, "missing"),
        ({"model": {"name": "os.system"}}, "There is no 'os.system' here"),
        ({"model": {"name": "dual", "towers": {"image": folders.VIT}, "dims": 8}},
         "no option 'dims'"),
        ({"tokenizer": {"name": "wordpiece", "vocab": "../secret.txt"}}, "names '../secret.txt'"),
        ({"weights": None}, "its SHA-256 is another"),
        ({"weights": "x"}, "its SHA-256 is another"),
    ],
)  # fmt: skip
def test_a_config_that_is_not_ours_is_a_sentence(tmp_path, changes, sentence):
    folders.write(tmp_path)
    edit(tmp_path / "model", **changes)
    assert sentence in refusal(tmp_path / "model")


def test_what_is_no_folder_of_a_model_is_a_sentence(tmp_path):
    assert "has no config.json" in refusal(tmp_path)
    assert "has no config.json" in refusal(tmp_path / "nowhere")
    folders.write(tmp_path)
    (tmp_path / "model" / model_folder.CONFIG).write_text('{"format": ')
    assert "is damaged" in refusal(tmp_path / "model")
    (tmp_path / "model" / model_folder.CONFIG).write_text("[]")
    assert "was not written by this library" in refusal(tmp_path / "model")


def test_a_folder_without_its_weights_is_a_sentence(tmp_path):
    folders.write(tmp_path)
    (tmp_path / "model" / model_folder.WEIGHTS).unlink()
    assert f"has no {model_folder.WEIGHTS}" in refusal(tmp_path / "model")


def test_a_run_is_told_how_it_becomes_a_model(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "config.json").write_text("{}")
    assert f"--source=run --src={tmp_path} --dst=DIR" in refusal(tmp_path)
