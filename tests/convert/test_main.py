"""python -m retina_jax.convert: what it writes, what it says, and runs that start from it."""

import re
from pathlib import Path

import jax
import numpy as np
import pytest
from convert import parity
from runs import assert_same_bits, config, program

from data_pipelines.errors import InputError
from retina_jax import experiment
from retina_jax.convert import files, formats, model_folder, rules
from retina_jax.train import restore

HEADS = "--option=heads=4"


def command(folder: Path, source: str, src: str, dst: str, *more: str) -> tuple[str, ...]:
    """Arguments about files in `folder`."""
    return f"--source={source}", f"--src={folder / src}", f"--dst={folder / dst}", *more


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """A folder of what all command lines wrote, and {name of a line: how it ended}."""
    folder = tmp_path_factory.mktemp("converted")
    state, _ = parity.stored("bert")
    files.write_safetensors(folder / "bert.bin", state)
    (folder / "cut.bin").write_bytes((folder / "bert.bin").read_bytes()[:-7])
    wrong = {name: value for name, value in state.items() if "layer.1.output.dense" not in name}
    files.write_safetensors(folder / "wrong.bin", {**wrong, "bert.encoder.extra": np.ones(2)})
    broken = {name: value.copy() for name, value in state.items()}
    broken["bert.embeddings.LayerNorm.bias"].flat[0] = np.nan
    files.write_safetensors(folder / "nan.bin", broken)
    lines = {
        "nan": command(folder, "bert", "nan.bin", "x", HEADS),
        "nan, asked for": command(folder, "bert", "nan.bin", "nan", HEADS, "--allow_nonfinite"),
        "folder": command(folder, "bert", "bert.bin", "folder", HEADS),
        "checkpoint": command(folder, "bert", "bert.bin", "ckpt", HEADS, "--layout=checkpoint"),
        "back": command(folder, "folder", "folder", "back.safetensors", "--layout=bert"),
        "other layout": command(folder, "folder", "folder", "x", "--layout=flair"),
        "other source": command(folder, "flair", "bert.bin", "x"),
        "no source": command(folder, "flare", "bert.bin", "x"),
        "no layout": command(folder, "bert", "bert.bin", "x", "--layout=onnx"),
        "no option": command(folder, "bert", "bert.bin", "x", "--option=head=4"),
        "no value": command(folder, "bert", "bert.bin", "x", "--option=heads"),
        "no positions": command(folder, "bert", "bert.bin", "x", HEADS, "--image_size=64"),
        "cut off": command(folder, "bert", "cut.bin", "x", HEADS),
        "wrong": command(folder, "bert", "wrong.bin", "x", HEADS),
        "no file": command(folder, "bert", "nowhere.bin", "x"),
        "no package": ("--src=package:lite9", f"--dst={folder / 'x'}"),
        "no dst": ("--source=bert", f"--src={folder / 'bert.bin'}"),
        "taken": command(folder, "bert", "bert.bin", "folder", HEADS),
        "no run": command(folder, "run", ".", "x"),
        "options of a folder": command(folder, "folder", "folder", "x", HEADS),
        "list": ("--list",),
    }
    return folder, {name: program("retina_jax.convert", *line) for name, line in lines.items()}


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("other layout", "The layout of 'flair' has no place for"),
        ("other source", "bert.bin: The file does not look like 'flair'; it looks like 'bert'."),
        ("no source", "There is no source 'flare'; choose from"),
        ("no layout", "There is no layout 'onnx'; choose from"),
        ("no option", "The source 'bert' has no option 'head'. It accepts: heads, pool. Did you m"),
        ("no value", "--option=heads is no NAME=VALUE."),
        ("no positions", "so there are no positions for image_size to resample"),
        ("cut off", "cut.bin is cut off or no safetensors file"),
        ("wrong", "has no use for 1 of its tensors (bert.encoder.extra); it lacks 2 that are need"),
        ("no file", "nowhere.bin does not exist."),
        ("nan", "nan.bin has NaN or infinite numbers in bert.embeddings.LayerNorm.bias: get it"),
        ("no package", "There is no package of weights 'lite9'; choose from efficientnet-lite0"),
        ("no dst", "Name --dst, or --list to see the sources."),
        ("taken", "folder exists and is not empty; choose another --dst."),
        ("no run", "There is no run in"),
        ("options of a folder", "--source=folder has no options; the model is what it is."),
    ],
)
def test_a_mistake_is_one_sentence(made, line, sentence):
    folder, ended = made
    done = ended[line]
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 2 and done.stdout == "" and sentence in last, done.stderr
    assert "Traceback" not in done.stderr and not (folder / "x").exists()


def test_what_was_chosen_and_broken_weights_that_were_asked_for_are_said(made):
    chosen = next(line for line in made[1]["folder"].stderr.splitlines() if "Chosen for" in line)
    assert "'bert': " in chosen and re.search("pool [a-z_]+ of 'bert'", chosen)
    done = made[1]["nan, asked for"]
    assert done.returncode == 0 and "LayerNorm.bias, as is accepted" in done.stderr


def test_what_is_left_behind_is_said(made):
    done = made[1]["folder"]
    assert done.returncode == 0
    assert done.stdout.startswith("text_mlm of ") and "is now in" in done.stdout
    said = [line for line in done.stderr.splitlines() if "Left behind: " in line]
    line = "Left behind: cls.predictions.decoder.weight (the same as bert.embeddings.word"
    assert sum(line in other for other in said) == 1, said
    assert len(said) == len({line.partition("(")[2] for line in said})  # a line for each reason


def test_the_folder_the_checkpoint_and_the_layout_are_the_same_model(made):
    folder, done = made
    assert done["checkpoint"].returncode == done["back"].returncode == 0
    state, _ = parity.stored("bert")
    expected = rules.convert(formats.SOURCES["bert"], state, heads=4)
    description, variables = model_folder.read_folder(folder / "folder")
    assert dict(description.model) == expected.spec
    found = restore.read_variables(folder / "ckpt" / "checkpoints")
    for tree in (variables, found):
        assert jax.tree.structure(tree) == jax.tree.structure(expected.variables)
        assert_same_bits(tree, expected.variables)
    back = files.read_tensors(folder / "back.safetensors")
    assert sorted(back) == sorted(state)
    for name, value in state.items():
        np.testing.assert_array_equal(back[name], value, err_msg=name)


def test_the_list_has_all_sources(made):
    done = made[1]["list"]
    assert done.returncode == 0
    assert all(f"{name}: " in done.stdout for name in formats.SOURCES)


TAKE = {"take": ("text",), "ignore": ("mlm_head",)}


def start(folder: Path, **spec):
    """What the smoke run of FLAIR starts from, with the text tower of the converted model."""
    settings = config("flair", restore_from=spec)
    encoder = model_folder.read_folder(folder / "folder")[0].model["encoder"]
    settings.model.towers.text = {**encoder, "vocab_size": None}
    tokenize = settings.streams.public.transforms[-2]
    tokenize["length"] = encoder["max_length"]
    # The stored model has fewer words than the run's tokenizer.
    return experiment.build_all(settings, folder / "run")[0].warm_start


@pytest.mark.parametrize("written", ["folder", "ckpt"])
def test_a_run_starts_from_a_converted_model(made, written):
    """The text tower is taken; a vocabulary of another size is a sentence."""
    folder, _ = made
    begin = start(folder, path=str(folder / written), **TAKE)
    _, variables = model_folder.read_folder(folder / "folder")
    new = {"params": {"text": jax.tree.map(np.zeros_like, variables["params"]["text"]),
                      "image": {"x": np.zeros(2, np.float32)}}}  # fmt: skip
    merged = begin(new)
    assert_same_bits(merged["params"]["text"], variables["params"]["text"])
    assert_same_bits(merged["params"]["image"], new["params"]["image"])
    table = new["params"]["text"]["word_embedding"]["embedding"]
    new["params"]["text"]["word_embedding"]["embedding"] = np.zeros((len(table) + 1, 32))
    with pytest.raises(InputError, match=r"word_embedding/embedding of shape \(60, 32\) instead"):
        begin(new)


@pytest.mark.parametrize(("spec", "sentence"),
                         [({"path": "nowhere/at/all"},
                           "restore_from.path is no directory: nowhere/at/all."),
                          ({"path": "x", "stage": "flair"},
                           "from a 'path' or from a 'probe', one of them."),
                          ({}, "from a 'path' or from a 'probe', one of them."),
                          ({"paht": "x"}, "restore_from has no option 'paht'.")])  # fmt: skip
def test_a_start_that_is_not_there_is_told_before_anything_is_compiled(made, spec, sentence):
    with pytest.raises(InputError, match=sentence):
        start(made[0], **spec, **TAKE)


def test_variables_are_not_written_over_others(tmp_path):
    restore.write_variables(tmp_path / "c", {"params": {"x": np.ones(2, np.float32)}}, {"a": 1})
    with pytest.raises(InputError, match="c is not empty; choose another --dst."):
        restore.write_variables(tmp_path / "c", {"params": {"x": np.zeros(2)}}, {})
    assert restore.newest_step(tmp_path / "c") == 0
    found = restore.read_variables(tmp_path / "c")
    assert list(found) == ["params"]
    np.testing.assert_array_equal(found["params"]["x"], np.ones(2))
    with pytest.raises(InputError, match=r"no checkpoint 5 in .*; there are \[0\]"):
        restore.read_variables(tmp_path / "c", step=5)
