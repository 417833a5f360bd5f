"""What the options of the benchmark of recipes change, and which patients each run has."""

import pytest

from benchmarks import recipes
from retina_jax import settings

KEPT = {"base", "test_time_flip", "pixels_224", "pixels_320", "pixels_128", "steps_400",
        "steps_800"}  # fmt: skip


@pytest.fixture
def numbers(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Twenty records in five folds."""
    found = {f"r{i}": i % recipes.FOLDS for i in range(20)}
    monkeypatch.setattr(recipes, "folds", lambda data_dir: found)
    return found


@pytest.mark.fast
@pytest.mark.parametrize("option", recipes.OPTIONS)
def test_an_option_is_a_run_of_its_own(numbers, option):
    """Each changes something that settings accept, and none another fold."""
    base, changed = (recipes.get_config(f"{name},1,work,data") for name in ("base", option))
    assert settings.complete(option, changed).optimization
    assert (changed["optimization"], changed["streams"], changed["objectives"]) != (
        base["optimization"], base["streams"], base["objectives"]
    ) or option in KEPT  # fmt: skip
    learned = set(changed["streams"]["public"]["where"]["id"])
    for probe in changed["evaluators"].values():
        assert set(probe["train"]["where"]["id"]) == learned
        assert {numbers[name] for name in probe["test"]["where"]["id"]} == {1}
    assert {numbers[name] for name in learned} == {0, 2, 3, 4}


@pytest.mark.fast
def test_a_classifier_of_one_set_has_three_kinds_of_patients(numbers, monkeypatch):
    """It learns from three folds, chooses on another and is judged on the seed's."""
    given = {}

    def made(config):
        given.update(config)
        data = {"where": config["where"]}
        head = {"name": "head", "data": data}
        return {
            "evaluators": {"validation": head, "test": {**head, "validation": data}},
            "streams": {"records": data},
            "optimization": {"ema": 0.99, "rules": RULES},
        }

    monkeypatch.setattr(recipes.classifier, "settings", made)
    config = recipes.get_config("idrid,2,work,data")
    judged, chosen = config["evaluators"]["idrid"], config["evaluators"]["validation"]
    parts = (config["streams"]["records"], chosen["data"], judged["data"])
    assert [{numbers[name] for name in part["where"]["id"]} for part in parts] == [
        {0, 1, 4}, {3}, {2}
    ]  # fmt: skip
    assert judged["validation"] == chosen["data"] and config["at_end"] == ("idrid",)
    assert given["labels"] == "dr_grade" and "test" not in (given["train"], given["test"])
    raw, whole = (recipes.get_config(f"idrid+{name},2,work,data")["optimization"]
                  for name in ("raw_weights", "one_rate"))  # fmt: skip
    assert raw["ema"] is None and whole["rules"] == (("image/.*", {"decay": False}),)


@pytest.mark.fast
@pytest.mark.parametrize("option, rate", [("", None), ("+text_low", 0.03), ("+text_free", 1 / 3)])
def test_flair_begins_with_the_classifier_of_its_seed(numbers, option, rate):
    """From its tower, on its patients, and another text tower is the only difference."""
    config = recipes.get_config(f"flair{option},2,work,data")
    started = recipes.get_config("steps_400,2,work,data")
    assert config["restore_from"]["image"]["path"] == "work/steps_4002"
    assert "stage" not in config["restore_from"]["image"]
    learned, judged = (config[name] for name in ("streams", "evaluators"))
    assert learned["public"]["where"] == started["streams"]["public"]["where"]
    shown = judged.pop("zeroshot")["data"]
    assert {numbers[name] for name in shown["where"]["id"]} == {2}
    assert shown["transforms"][0]["size"] == 160 and judged == started["evaluators"]
    rules = dict(config["optimization"]["rules"])
    assert rules["text/.*"] == ({"frozen": True} if rate is None else {"learning_rate": rate})
    assert rules[r"image/.*"] == dict(started["optimization"]["rules"])[r"image/.*"]


@pytest.mark.fast
def test_what_flair_begins_with_is_trained_first(monkeypatch, tmp_path):
    begun = []

    def begin(command, check):
        begun.append(command[-2].split(":")[-1])

    monkeypatch.setattr(recipes.subprocess, "run", begin)
    for folder in ("steps_4001", "flair+text_low1"):
        (tmp_path / folder).mkdir()
    recipes.run("flair+text_low", 1, "data", tmp_path)
    assert begun == [f"steps_400,1,{tmp_path},data", f"flair+text_low,1,{tmp_path},data"]


@pytest.mark.fast
@pytest.mark.parametrize("options", ["idrid,oct", "base,idrid", "flair,base", "flair,oct"])
def test_only_what_has_the_same_patients_is_compared(options, monkeypatch, tmp_path):
    monkeypatch.setattr(recipes, "run", None)
    given = ["recipes", f"--data_dir={tmp_path}", f"--workdir={tmp_path}", f"--options={options}"]
    monkeypatch.setattr("sys.argv", given)
    with pytest.raises(SystemExit, match="all of one data set, or of none"):
        recipes.main()


RULES = (("image/.*", {"layer_decay": 0.95, "decay": False}),)
