"""Fundus-OCT: both pictures of an eye stay as they lie, and the configs are what they say."""

import ast
import dataclasses
import math

import jax
import numpy as np
import paired_samples as samples
import pytest
from absl import flags
from runs import ROOT, config, whole_config

from data_pipelines import build as builds
from data_pipelines import pipelines, transforms
from data_pipelines.images import functional
from data_pipelines.synthetic import causes, fundus, oct, records, synthetic_retina
from data_pipelines.text import tokenizers
from retina_jax import cli, experiment, inputs
from retina_jax.build import build
from retina_jax.models import MODELS

NAMES = ("fundus_oct_clip", "fundus_oct_cloob")
SIZE, SLICES = 64, 5
TOKENIZER = tokenizers.TOKENIZERS["sentencepiece"]()


def built(specs):
    return [build(transforms.TRANSFORMS, spec) for spec in specs]


def steps(augment):
    """The transforms of `:demo`, built."""
    chosen = config("fundus_oct_clip", "demo")
    training = chosen.to_dict()["streams"]["pairs"]["transforms"]
    # The first three read a record, the others change it at random.
    return built(training if augment else training[:3])


def passed(record, augment=False, seed=0):
    rng = np.random.default_rng(seed)
    for step in steps(augment):
        record = step.random_map(record, rng) if hasattr(step, "random_map") else step.map(record)
    return record


def pair(eye):
    """The record of an eye as the embedded data set has it, without the losses of JPEG."""
    volume = oct.render(eye, SLICES, SIZE)
    picture = fundus.render(eye, SIZE)
    return {"image": records.png(picture), "oct": records.png(volume.reshape(-1, SIZE)),
            "oct_slices": SLICES, "eye": eye.side}  # fmt: skip


@pytest.fixture(scope="module")
def left():
    """A left eye of the test split of the embedded pairs."""
    start = records.SPLITS.index("test") * 100_000_000
    eye = causes.sample_patient(0, start + 5).left
    assert eye.side == "OS"
    return eye


def likeness(one, other):
    return np.corrcoef(np.float64(one).ravel(), np.float64(other).ravel())[0, 1]


def test_a_record_of_the_embedded_pairs_is_that_eye(left):
    """So that what holds of `pair` holds of the data set."""
    recipe = next(
        c.recipe for c in synthetic_retina.SyntheticRetina.BUILDER_CONFIGS if c.name == "demo_pairs"
    )
    assert (recipe.image_size, recipe.oct_slices) == (SIZE, SLICES)
    assert recipe.patients[3] * 2 >= 1000  # enough test eyes for a pool of 1,000
    stored = records.patient_records(recipe, "test", 5)[0]
    assert stored["eye"] == "OS" and stored["oct"] == pair(left)["oct"]
    drawn, kept = (functional.decode_image(r["image"]) for r in (pair(left), stored))
    assert likeness(drawn, kept) > 0.98


def test_both_pictures_of_a_left_eye_become_those_of_a_right_one(left):
    """An eye drawn as a right one is the mirror image of it drawn as a left one, in both."""
    right = dataclasses.replace(left, side="OD")
    for key in ("image", "oct"):
        assert likeness(passed(pair(right))[key], passed({**pair(left), "eye": "OD"})[key]) < 0.975
    turned, kept = passed(pair(left)), passed(pair(right))
    assert turned["eye"] == kept["eye"] == "OD"
    for key, shape in (("image", (SIZE, SIZE, 3)), ("oct", (SLICES, SIZE, SIZE, 1))):
        assert turned[key].shape == shape and turned[key].dtype == np.uint8
        assert likeness(turned[key], kept[key]) > 0.99
    # B-scans stay in their order, each with its depth downwards.
    np.testing.assert_array_equal(turned["oct"], kept["oct"])


def test_the_augmentation_changes_both_and_mirrors_neither(left):
    plain = passed(pair(left))
    drawn = [passed(pair(left), augment=True, seed=seed) for seed in range(12)]
    for key, axis in (("image", 1), ("oct", 2)):
        made = {row[key].tobytes() for row in drawn}
        assert len(made) == 12 and plain[key].tobytes() not in made
        for row in drawn:
            assert row[key].shape == plain[key].shape and row["eye"] == "OD"
            mirrored = likeness(row[key], np.flip(plain[key], axis))
            assert likeness(row[key], plain[key]) > mirrored + 0.03


def test_a_batch_has_one_pair_of_a_patient(tmp_path):
    settings = config("fundus_oct_clip", "smoke").to_dict()
    context = inputs.Context(TOKENIZER, str(tmp_path))
    (stream,) = inputs.streams(settings["streams"], "pairs", context, 1).values()
    patients = dataclasses.replace(stream, transforms=(transforms.Group(source="patient"),))
    data = pipelines.train({"": patients}, seed=0)
    with data.batches(0, 12) as batches:
        for batch in batches:
            assert len(set(batch["group"].tolist())) == len(batch["group"]) == 8


@pytest.mark.parametrize("name", NAMES)
def test_full_reads_pairs_as_they_lie_on_a_disk(name, tmp_path):
    volume = np.random.default_rng(0).integers(0, 255, (40, 24, 32), dtype=np.uint8)
    rows = [("fundus", "oct", "patient", "eye", "split")]
    for i in range(12):
        samples.put(tmp_path / "source" / f"{i}.jpg", samples.jpeg(i))
        np.save(tmp_path / "source" / f"{i}.npy", np.roll(volume, i, axis=2))
        rows.append(
            (f"{i}.jpg", f"{i}.npy", f"p{i}", "OS" if i % 2 else "OD", "train" if i < 8 else "test")
        )
    samples.table(tmp_path / "source" / "pairs.csv", rows)
    builds.build("fundus_oct", "default", str(tmp_path), source=str(tmp_path / "source"), slices=20,
                 processes=1)  # fmt: skip
    chosen = config(name, "full", data_dir=str(tmp_path))
    del chosen.restore_from  # the folders of weights are not there
    del chosen.corpora["fundus_oct/downstream"]  # which `config` does not evaluate
    assert chosen.streams.pairs.batch_size == 512
    chosen.streams.pairs.batch_size = 8
    (stage,) = experiment.build_all(chosen, tmp_path / "run")
    batch = stage.data.example()
    assert batch["image"].shape == (8, 224, 224, 3) and batch["oct"].shape == (8, 20, 224, 224, 1)
    evaluator = whole_config(name, "full").evaluators.retrieval
    assert evaluator.right == "eye" and tuple(evaluator.pools) == (100, 1000)
    data = inputs.evaluations(
        {"a": evaluator.to_dict()}, inputs.Context(TOKENIZER, str(tmp_path)), ()
    )["a"].data["data"]
    assert data.example()["oct"].shape[1:] == (20, 224, 224, 1)


@pytest.mark.slow
def test_full_predicts_for_other_patients_as_on_the_poster(tmp_path):
    """The OCT encoder and one linear layer, frozen and fine-tuned; tables leave targets out."""
    rows = [("fundus", "oct", "patient", "eye", "good_acuity", "high_treatment_need",
             "central_thickness", "split")]  # fmt: skip
    for i in range(12):
        samples.put(tmp_path / "source" / f"{i}.jpg", samples.jpeg(i))
        np.save(tmp_path / "source" / f"{i}.npy", np.full((20, 8, 8), i, np.uint8))
        thickness = "" if i == 5 else f"{280 + i}.5"
        split = "train" if i < 8 else "validation" if i < 10 else "test"
        targets = (str(i % 2), str(i // 2 % 2), thickness)
        rows.append((f"{i}.jpg", f"{i}.npy", f"p{i}", "OD", *targets, split))
    samples.table(tmp_path / "source" / "pairs.csv", rows)
    builds.build("fundus_oct", "downstream", str(tmp_path), source=str(tmp_path / "source"),
                 processes=1, columns={"labels": ""})  # fmt: skip
    evaluators = whole_config("fundus_oct_cloob", "full").evaluators.to_dict()
    assert evaluators.pop("retrieval")["data"]["dataset"] == "fundus_oct/default"
    tasks = {"good_acuity": "auc", "high_need": "auc", "thickness": "r2"}
    assert set(evaluators) == {f"{task}_{kind}" for task in tasks for kind in ("probe", "finetune")}
    context = inputs.Context(TOKENIZER, str(tmp_path))
    made = inputs.evaluations(evaluators, context, ())
    for name, settings in evaluators.items():
        task, _, kind = name.rpartition("_")
        assert settings["name"] == {"probe": "linear_probe", "finetune": "finetune"}[kind]
        assert settings["metrics"] == (tasks[task],) and settings["image"] == "oct"
        assert settings["folds"] == 5 and "test" not in settings
        data = made[name].data["train"]
        batch = next(data.batches())
        numbers = [int(name.split("p")[-1]) for name in data.source.column("patient")]
        assert batch["oct"].shape[1:] == (20, 224, 224, 1) and "image" not in batch
        if task == "thickness":
            assert len(data) == 11 and batch["target"][:11].tolist() == [280.5 + i for i in numbers]
        else:
            expected = [i % 2 if task == "good_acuity" else i // 2 % 2 for i in numbers]
            assert len(data) == 12 and batch["label"][:12].tolist() == expected


def shapes_of(model):
    batch = {"image": jax.ShapeDtypeStruct((2, 224, 224, 3), "uint8"),
             "oct": jax.ShapeDtypeStruct((2, 20, 224, 224, 1), "uint8")}  # fmt: skip
    made = build(MODELS, model)
    return jax.eval_shape(lambda b: made.init(jax.random.key(0), b, train=True), batch)


@pytest.mark.parametrize(("name", "temperatures"), [(NAMES[0], 1), (NAMES[1], 0)])
def test_full_is_resnet_18_and_r3d_18(name, temperatures):
    model = config(name, "full").to_dict()["model"]
    shapes = shapes_of(model)
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes["params"]))
    towers = 11_176_512 + 33_147_456  # 33,166,272 with a stem of three channels
    assert count == towers + 2 * 512 * 512 + temperatures
    assert set(shapes) == {"params", "batch_stats"}
    for tower in model["towers"].values():
        tower["norm"] = "group"
    assert set(shapes_of(model)) == {"params"}  # so that a batch may pass in microbatches


def test_the_two_differ_in_the_loss_and_the_temperature_only():
    clip, cloob = (config(name, "full").to_dict() for name in NAMES)
    assert clip["objectives"].pop("contrastive") == {"name": "contrastive",
                                                     "pairs": (("image", "oct"),)}  # fmt: skip
    assert cloob["objectives"].pop("contrastive") == {"name": "contrastive",
                                                      "pairs": (("image", "oct"),), "kind": "cloob",
                                                      "inv_tau": 30.0, "beta": 8.0}  # fmt: skip
    assert cloob["model"].pop("learn_scale") is False
    assert clip == cloob


OPTIONS = [
    ("model.towers.image.depth=50", 23_508_032, 33_147_456),
    ("model.towers.image={'name': 'vit'}", 85_798_656, 33_147_456),
    (
        "model.towers.oct={'name': 'attention_mil', 'encoder': {'name': 'resnet', 'depth': 18}}",
        11_176_512,
        11_176_512 + 512 * 128 + 128 + 128,
    ),
]


@pytest.mark.parametrize(("option", "image", "volume"), OPTIONS)
def test_the_options_of_the_docstring_are_those_towers(option, image, volume, monkeypatch):
    key, _, value = option.partition("=")
    path = ROOT / "configs" / "fundus_oct_clip.py"
    text = " ".join(ast.get_docstring(ast.parse(path.read_text("utf-8"))).split())
    assert f'--config.{key}="{value}"' in text or f"--config.{option}" in text
    values = flags.FlagValues()
    flag = cli.define_config("config", "", values)
    given = [f"--config={ROOT}/configs/fundus_oct_clip.py:full", f"--config.{option}"]
    monkeypatch.setattr("sys.argv", ["program", *given])  # where config_flags looks for options
    values(["program", *given])
    shapes = shapes_of(flag.value.to_dict()["model"])["params"]
    counts = {
        tower: sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes[tower]))
        for tower in ("image", "oct")
    }
    assert counts == {"image": image, "oct": volume}
