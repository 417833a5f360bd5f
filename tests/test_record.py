"""What a run records is whole: it says every option, and makes the same run and the same model."""

import dataclasses
import functools
import inspect
import json

import jax
import pytest
from runs import SYSTEMS, built, whole_config

from data_pipelines.errors import InputError
from retina_jax import experiment, record
from retina_jax.build import build
from retina_jax.models import MODELS
from retina_jax.models.keepfit_v2 import LocalInjection, TiedTextDecoder
from retina_jax.models.layers import PUBLISHED_BOUND
from retina_jax.models.towers import TOWERS
from retina_jax.objectives import OBJECTIVES
from retina_jax.settings import complete
from retina_jax.train import environment, loop, run_directory


def settings_of(made):
    return record.resolve(record.tree(made.settings), made.calls)


def recorded(made, workdir):
    """What `config.json` has."""
    workdir.mkdir(exist_ok=True)
    run_directory.check_run_directory(workdir, made, 0)
    return json.loads((workdir / "config.json").read_text())


def names_of(entry):
    """Options that a config can hold; `bias_init` is a function."""
    fields = {"self", "parent", "name", "bias_init"}
    return set(inspect.signature(entry).parameters) - fields


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_model_is_the_same_from_its_config_and_from_its_record(name, tmp_path):
    for made in built(name):
        model = build(MODELS, recorded(made, tmp_path / f"a{made.name}")["resolved"]["model"])
        batch = loop.on_device_shapes(made.data.example())
        keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
        init = functools.partial(model.init, train=True)
        shapes = jax.eval_shape(init, keys, batch)
        assert dict(shapes) == {"params": made.shapes.params, **made.shapes.model_state}


def test_a_record_is_a_config_that_records_itself(tmp_path):
    (made,) = built("flair")
    found = recorded(made, tmp_path)["resolved"]
    assert settings_of(experiment.build_all(found, tmp_path)[0]) == found


def test_every_option_is_recorded_of_blocks_in_blocks_too(tmp_path):
    made = built("mmretinal_v2")[1]
    found = recorded(made, tmp_path)["resolved"]
    model = found["model"]
    entries = {
        "keepfit": (model, MODELS["keepfit"]),
        "image": (model["towers"]["image"], TOWERS["vit"]),
        "text": (model["towers"]["text"], TOWERS["bert"]),
        "local": (model["local"], LocalInjection),
        "decoder": (model["local"]["decoder"], TiedTextDecoder),
        "objective": (found["objectives"]["expert"], OBJECTIVES["contrastive"]),
    }
    for name, (options, entry) in entries.items():
        assert names_of(entry) <= set(options), name
    assert model["local"]["decoding"]["name"] == "beam"
    assert model["towers"]["text"]["vocab_size"] == model["local"]["decoder"]["vocab_size"] == 2000
    assert model["local"]["decoder"]["width"] == model["local"]["width"]  # from the injection
    assert found["optimization"]["optimizer"]["b2"] == 0.999
    assert found["streams"]["public"]["transforms"][0]["antialias"] is True
    assert found["evaluators"]["linear_probe"]["test"]["transforms"][0]["antialias"] is True
    assert found["most_skipped"] == 20
    assert found["keep"] == {"last": 2, "best": None, "patience": None}


def test_what_was_given_is_beside_it(tmp_path):
    (made,) = experiment.build_all({**whole_config("flair").to_dict(), "seed": 3}, tmp_path)
    found = recorded(made, tmp_path)
    assert found["given"]["seed"] == found["resolved"]["seed"] == 3
    assert "scale_init" not in found["given"]["model"]
    assert found["resolved"]["model"]["scale_init"] == 1 / 0.07


@pytest.fixture(scope="module")
def flair(tmp_path_factory):
    """(settings, experiment) of a run without evaluators."""
    settings = {**whole_config("flair").to_dict(), "evaluators": {}}
    return settings, experiment.build_all(settings, tmp_path_factory.mktemp("run"))[0]


def old_record(made):
    """A config.json as it was when it had the settings alone, of each those that were named."""
    older = json.loads(json.dumps(dataclasses.asdict(made.settings)))
    older["restore_from"] = None
    older["objectives"]["contrastive"].pop("blockwise", None)
    return {**older, "preparation": {}}


def test_a_folder_of_before_goes_on_under_a_config_that_says_the_same(flair, tmp_path):
    settings, made = flair
    path = tmp_path / "config.json"
    path.write_text(json.dumps(old_record(made)))
    run_directory.check_run_directory(tmp_path, made, 0)
    assert {"given", "preparation", "resolved"} < set(json.loads(path.read_text()))
    path.write_text(json.dumps(old_record(made)))
    spelt = {
        **settings,
        "model": {**settings["model"], "learn_scale": True, "scale_max": PUBLISHED_BOUND},
    }
    run_directory.check_run_directory(tmp_path, experiment.build_all(spelt, tmp_path)[0], 0)


def test_an_option_that_a_folder_of_before_did_not_name_had_its_default(flair, tmp_path):
    settings, made = flair
    (tmp_path / "config.json").write_text(json.dumps(old_record(made)))
    other = {**settings, "model": {**settings["model"], "learn_scale": False}}
    (changed,) = experiment.build_all(other, tmp_path)
    told = "another model: model.learn_scale is false instead of true;"
    with pytest.raises(InputError, match=told):
        run_directory.check_run_directory(tmp_path, changed, 0)


def test_origins_are_compared_by_what_they_bring(flair, tmp_path):
    _, made = flair

    def starting(**restore_from):
        settings = {**made.given, "restore_from": restore_from}
        return dataclasses.replace(made, settings=complete("The config", settings))

    old = old_record(made) | {
        "restore_from": {"path": "old", "take": ["text", "image"], "ignore": []}
    }
    (tmp_path / "config.json").write_text(json.dumps(old))
    same = {"path": "old", "take": ("image", "text"), "ignore": ("head",)}
    run_directory.check_run_directory(tmp_path, starting(both=same), 0)
    other = {**same, "take": {"image": "image", "text": "words"}}
    with pytest.raises(InputError, match='restore_from.0.take.* is "words" instead of "text"'):
        run_directory.check_run_directory(tmp_path, starting(both=other), 0)


def test_a_damaged_record_is_one_sentence(tmp_path):
    for text in ("{", "[1]", '{"seed": 1}'):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(InputError, match=r"config\.json") as error:
            record.read_file(tmp_path / "config.json")
        assert "\n" not in str(error.value)


def test_each_start_is_a_line_and_no_want_of_the_machine_ends_a_run(tmp_path, monkeypatch):
    environment.append_start(tmp_path, 0)
    monkeypatch.setenv("PATH", "")  # no git
    monkeypatch.delenv("HOME", raising=False)
    environment.append_start(tmp_path, 7)
    environment.append_start(tmp_path / "nowhere", 7)
    first, second = map(json.loads, (tmp_path / "starts.jsonl").read_text().splitlines())
    assert (first["step"], second["step"], second["commit"]) == (0, 7, None)
    assert first["versions"]["jax"] == jax.__version__ and first["processes"] == 1
    assert sum(first["devices"].values()) == jax.device_count()
    assert first["command"] and first["python"].startswith("3.") and first["time"]
