"""What a run starts from: several origins, the pixels that they know, and the table."""

import json
import logging

import jax
import numpy as np
import pytest
from runs import assert_same_bits

from data_pipelines.errors import InputError
from retina_jax import origins
from retina_jax.build import build
from retina_jax.convert import model_folder
from retina_jax.models import MODELS
from retina_jax.settings import complete
from retina_jax.train import restore

pytestmark = pytest.mark.fast
VIT = {"name": "vit", "width": 16, "depth": 1, "heads": 2, "mlp_dim": 16, "patch_size": 8,
       "pool": "cls"}  # fmt: skip
BERT = {"name": "bert", "vocab_size": 30, "width": 16, "depth": 1, "heads": 2, "mlp_dim": 16,
        "max_length": 8}  # fmt: skip
PHOTOGRAPHS = {"name": "tower", "key": "image", "tower": VIT, "mean": [0.5] * 3, "std": [0.25] * 3}
SENTENCES = {"name": "tower", "key": "findings", "tower": BERT}
NEW = {"name": "dual", "towers": {"image": VIT, "text": BERT}, "dim": 4,
       "mean": (0.5,) * 3, "std": (0.25,) * 3}  # fmt: skip


def variables(spec, seed, size=32):
    """Random variables of a model, drawn without compiling."""
    made = build(MODELS, spec)
    keys = spec.get("towers") or [spec["key"]]
    rows = {"image": np.zeros((1, size, size, 3), np.uint8)}
    for key in ("text", "findings"):
        rows |= {key: np.zeros((1, 8), np.int32), f"{key}_mask": np.ones((1, 8), bool)}
    rows = {k: v for k, v in rows.items() if k.removesuffix("_mask") in keys}
    shapes = jax.eval_shape(made.init, jax.random.key(0), rows)
    random = np.random.default_rng(seed)
    return jax.tree.map(lambda x: random.normal(size=x.shape).astype(x.dtype), shapes)


def folder(path, spec, seed, converted=None):
    """A model as a folder."""
    decode = ({"name": "decode", "size": 32},) if spec["key"] == "image" else ()
    about = model_folder.Description(
        title="a model", model=spec, transforms=decode, image_size=32 if decode else None,
        source={"converted": converted} if converted else {},
    )  # fmt: skip
    made = variables(spec, seed)
    model_folder.write_folder(path, about, made)
    return made


def given_settings(model=NEW, size=32, **origins_given):
    """What a config of a stage gives."""
    stream = {"dataset": "x", "transforms": ({"name": "decode", "size": size},)}
    return {
        "model": model, "streams": {"public": stream}, "objectives": {"c": {"name": "contrastive"}},
        "optimization": {"learning_rate": 1.0, "optimizer": {}, "schedule": {}},
        "total": {"steps": 1}, **origins_given,
    }  # fmt: skip


def started(given, model=NEW, size=32, stage=None):
    """The warm start of a stage, without its data."""
    settings = complete("The config", given_settings(model, size, restore_from=given))
    return origins.warm_start(settings, lambda name: stage)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A tower of photographs of 32 pixels and a tower of sentences, as folders."""
    path = tmp_path_factory.mktemp("origins")
    held = {"image": folder(path / "image", PHOTOGRAPHS, 1, converted="timm"),
            "text": folder(path / "text", SENTENCES, 2)}  # fmt: skip
    return path, held


def both(path, **image):
    return {"image": {"path": str(path / "image"), "take": ("image",), **image},
            "text": {"path": str(path / "text"), "take": {"text": "findings"}}}  # fmt: skip


def test_parts_of_several_origins_arrive_bit_by_bit_and_the_rest_stays(made, caplog):
    path, held = made
    fresh = variables(NEW, 3)
    with caplog.at_level(logging.INFO):
        begun = started(both(path))(fresh)
    assert_same_bits(begun["params"]["image"], held["image"]["params"]["image"])
    assert_same_bits(begun["params"]["text"], held["text"]["params"]["findings"])
    for part in ("image_projection", "text_projection", "logit_scale"):
        assert_same_bits(begun["params"][part], fresh["params"][part])
    (table,) = [r.getMessage() for r in caplog.records if "starts from" in r.getMessage()]
    rows = {line.split()[0]: line.split(maxsplit=2)[1:] for line in table.splitlines()[1:]}
    count = sum(x.size for x in jax.tree.leaves(held["image"]["params"]))
    assert rows["image"] == [f"{count:,}", str(path / "image")]
    assert rows["text"][1] == f"{path / 'text'} (findings)"
    assert rows["logit_scale"] == ["1", "random"] and len(rows) == 6


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda g: list(g.values()), "restore_from is one origin or several by name, .* a list"),
        (lambda g: {**g, "more": g["image"]}, "restore_from.more and restore_from.image both fill "
         "'image'; take it from one"),
        (lambda g: {**g, "text": {"path": g["text"]["path"]}}, "restore_from text: missing a "
         "required argument: 'take'"),
        (lambda g: {**g, "text": {"take": ("text",)}}, "restore_from.text starts from a 'stage'"),
        (lambda g: {**g, "text": {**g["text"], "take": "text"}}, r"write \('text',\)"),
        (lambda g: {**g, "text": {**g["text"], "take": {"words": "findings"}}},
         r"restore_from.text.take names 'words', but the new model has \['image', "),
        (lambda g: {**g, "text": {**g["text"], "take": ("text",), "ignore": ("findings",)}},
         r"restore_from.text.take names 'text', but the checkpoint to start from has \['findings"),
        (lambda g: {**g, "text": {**g["text"], "take": ()}},
         r"has \['findings'\] which restore_from.text neither takes nor ignores"),
    ],
)  # fmt: skip
def test_origins_that_do_not_fit_are_one_sentence(made, change, sentence):
    with pytest.raises(InputError, match=sentence) as refusal:
        started(change(both(made[0])))(variables(NEW, 3))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("model", "size", "sentence"),
    [
        ({"mean": None}, 32, r"unlike those of this run: mean \(0.5, 0.5, 0.5\) instead of not"),
        ({"std": (0.3,) * 3}, 32, r"unlike those of this run: std \(0.25, .* instead of \(0.3, "),
        ({}, 48, "unlike those of this run: 32 instead of 48 pixels; give the model"),
    ],
)
def test_a_tower_that_saw_other_pixels_is_refused_unless_asked_for(made, model, size, sentence):
    path, held = made
    spec = {**NEW, **model}
    fresh = variables(spec, 3, size)
    with pytest.raises(InputError, match=r"restore_from.image takes 'image', .*" + sentence):
        started(both(path), spec, size)(fresh)
    begun = started(both(path, allow_other_pixels=True), spec, size)(fresh)["params"]
    kernel = held["image"]["params"]["image"]["patch_embedding"]["kernel"]
    assert_same_bits(begun["image"]["patch_embedding"]["kernel"], kernel)
    assert begun["image"]["position_embedding"].shape == (1 + (size // 8) ** 2, 16)


def test_pixels_do_not_matter_to_a_tower_of_texts(made):
    path, held = made
    given = {"path": str(path / "text"), "take": {"text": "findings"}}
    begun = started(given, {**NEW, "mean": None}, 48)(variables(NEW, 3))
    assert_same_bits(begun["params"]["text"], held["text"]["params"]["findings"])


def test_positions_are_resampled_as_the_format_does_it_and_else_refused(made, tmp_path):
    path, held = made
    begun = started(both(path, allow_other_pixels=True), size=48)(variables(NEW, 3, 48))
    old = held["image"]["params"]["image"]["position_embedding"]
    new = begun["params"]["image"]["position_embedding"]
    np.testing.assert_array_equal(new[0], old[0])  # the class token
    weights = origins.formats.SOURCES["timm"].rules(PHOTOGRAPHS)
    (rule,) = [rule for rule in weights if rule.change.resizes]
    np.testing.assert_array_equal(new, rule.change.to_ours(old[None], new.shape))
    folder(tmp_path / "own", PHOTOGRAPHS, 1)  # of a run, for which there is no rule
    given = {"path": str(tmp_path / "own"), "take": ("image",), "allow_other_pixels": True}
    with pytest.raises(InputError, match=r"position_embedding of shape \(17, 16\) instead of \(37"):
        started(given, size=48)(variables(NEW, 3, 48))


def test_the_pixels_of_a_run_and_of_a_bare_checkpoint(tmp_path, caplog):
    """A run says all in its config, a converted checkpoint mean and deviation, others nothing."""
    held = variables(PHOTOGRAPHS, 1)
    about = {"model": PHOTOGRAPHS, "source": {"converted": "timm"}}
    restore.write_variables(tmp_path / "bare" / "checkpoints", held, json.loads(json.dumps(about)))
    restore.write_variables(tmp_path / "none" / "checkpoints", held, {})
    restore.write_variables(tmp_path / "run" / "checkpoints", held, {})
    record = json.dumps(given_settings(PHOTOGRAPHS, 48))
    (tmp_path / "run" / "config.json").write_text(record)
    fresh = variables(NEW, 3)
    for name, sentence in (("bare", None), ("none", None), ("run", "48 instead of 32 pixels")):
        given = {"stage": name, "take": ("image",)}
        start = started(given, stage=tmp_path / name)
        if sentence:
            with pytest.raises(InputError, match=sentence):
                start(fresh)
        else:
            assert_same_bits(start(fresh)["params"]["image"], held["params"]["image"])
    told = [r.getMessage() for r in caplog.records if "on which pictures" in r.getMessage()]
    assert len(told) == 1 and str(tmp_path / "none") in told[0]
    with pytest.raises(InputError, match=r"mean \(0.5, 0.5, 0.5\) instead of not set"):
        started({"stage": "x", "take": ("image",)}, {**NEW, "mean": None},
                stage=tmp_path / "bare")(fresh)  # fmt: skip


def test_stages_are_compared_before_any_is_run():
    start = {"stage": "first", "take": ("image",), "ignore": ("head",)}
    for size, allowed, refused in ((32, False, False), (48, False, True), (48, True, False)):
        origin = {**start, "allow_other_pixels": allowed}
        stages = {"first": complete("first", given_settings(PHOTOGRAPHS, size)),
                  "last": complete("last", given_settings(restore_from={"a": origin}))}  # fmt: skip
        if not refused:
            origins.check_stages(stages["last"], stages)
            continue
        with pytest.raises(InputError, match="restore_from.a takes 'image', .* 48 instead of 32 p"):
            origins.check_stages(stages["last"], stages)


@pytest.mark.parametrize("kind", ["folder", "run", "checkpoint"])
def test_what_lies_elsewhere_is_compared_before_its_weights_are_read(tmp_path, kind, monkeypatch):
    held, place = variables(PHOTOGRAPHS, 1), tmp_path / "start"
    about = {"model": PHOTOGRAPHS, "source": {"converted": "timm"}}
    if kind == "folder":
        folder(place, PHOTOGRAPHS, 1)
    else:
        restore.write_variables(place / "checkpoints", held, json.loads(json.dumps(about)))
    if kind == "run":
        (place / "config.json").write_text(json.dumps(given_settings(PHOTOGRAPHS)))
    monkeypatch.setattr(restore, "read_variables", None)
    monkeypatch.setattr(model_folder, "read_folder", None)
    given = {"path": str(place), "take": ("image",)}
    started(given).check()
    with pytest.raises(InputError, match=r"restore_from takes 'image', .*: mean \(0.5, 0.5, 0"):
        started(given, {**NEW, "mean": (0.4,) * 3}).check()
    started({**given, "allow_other_pixels": True}, {**NEW, "mean": (0.4,) * 3}).check()
    if kind != "checkpoint":  # which does not tell the size
        with pytest.raises(InputError, match="32 instead of 48 pixels"):
            started(given, size=48).check()


def test_only_what_takes_a_tower_of_pictures_is_opened_before(tmp_path, caplog):
    """Nothing is known of an empty directory, nor has to be for a text tower."""
    started({"path": str(tmp_path), "take": ("text",)}).check()
    restore.write_variables(tmp_path / "bare" / "checkpoints", variables(PHOTOGRAPHS, 1), {})
    started({"path": str(tmp_path / "bare"), "take": ("image",)}).check()
    with pytest.raises(InputError, match="checkpoint"):
        started({"path": str(tmp_path), "take": ("image",)}).check()
