"""The embedded TFDS data set: complete records, disjoint splits, the same bytes every time."""

import concurrent.futures.process
import dataclasses
import io
import os

import numpy as np
import pytest
from PIL import Image

from data_pipelines import processes
from data_pipelines.records import sources
from data_pipelines.synthetic import causes, oct, records, synthetic_retina

CONTRACT = {
    "id", "image", "modality", "caption", "caption_zh", "labels", "patient", "eye", "dataset",
}  # fmt: skip
CONFIGS = {
    config.name: config.recipe for config in synthetic_retina.SyntheticRetina.BUILDER_CONFIGS
}


def small(name: str, patients: int = 8) -> records.SyntheticSpec:
    """The recipe of a config with few patients and small pictures."""
    recipe = CONFIGS[name]
    counts = tuple(min(count, patients) for count in recipe.patients)
    return dataclasses.replace(recipe, patients=counts, image_size=32)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The smoke config, built."""
    folder = tmp_path_factory.mktemp("tfds")
    builder = synthetic_retina.SyntheticRetina(config="smoke", data_dir=folder, processes=1)
    builder.download_and_prepare()
    return builder


def test_a_built_data_set_has_every_field_and_split(built):
    counts = {name: split.num_examples for name, split in built.info.splits.items()}
    assert counts == {"public": 48, "expert": 32, "validation": 16, "test": 48}
    record = built.as_data_source("test")[0]
    assert set(record) >= CONTRACT | {"diagnosis", "dr_grade", "cup_to_disc", "amd_stage", "age"}
    image = Image.open(io.BytesIO(record["image"]))
    assert image.size == (32, 32) and image.mode == "RGB"
    assert record["eye"] in (b"OD", b"OS") and record["modality"] == b"cfp"
    assert record["dataset"] == b"synthetic_retina" and record["caption"]


def test_only_public_eyes_lack_captions(built):
    for split in records.SPLITS:
        texts = {bool(row["caption"]) for row in built.as_data_source(split)}
        texts |= {bool(row["caption_zh"]) for row in built.as_data_source(split)}
        assert texts == {split != "public"}


def test_splits_share_no_patient_and_no_picture(built):
    rows = {split: list(built.as_data_source(split)) for split in records.SPLITS}
    for field in ("patient", "image"):
        seen = [{row[field] for row in part} for part in rows.values()]
        assert len(set.union(*seen)) == sum(len(part) for part in seen)


def test_every_class_is_in_the_test_split():
    recipe = CONFIGS["demo"]
    start = records.SPLITS.index("test") * 100_000_000
    eyes = [
        e
        for i in range(recipe.patients[3])
        for e in causes.sample_patient(recipe.seed, start + i).eyes
    ]
    counts = {name: sum(e.diagnosis == name for e in eyes) for name in causes.DIAGNOSES}
    assert min(counts.values()) >= 50, counts
    for grade in range(1, 5):
        assert sum(e.dr_grade == grade for e in eyes) >= 20
    known = {*causes.DIAGNOSES, *causes.DR_LABELS, "hypertensive retinopathy",
             "diabetic macular edema"} - {"diabetic retinopathy"}  # fmt: skip
    assert {label for e in eyes for label in e.labels} == known
    assert all(e.labels == ("normal",) for e in eyes if e.diagnosis == "normal")


def test_the_number_of_processes_does_not_change_a_byte():
    recipe = dataclasses.replace(small("smoke_multimodal"), patients=(50, 0, 0, 0))
    alone = list(records.generate(recipe, "public"))
    with processes.workers(2) as executor:
        assert len(alone) == 100 and alone == list(records.generate(recipe, "public", executor))


def test_workers_that_cannot_start_are_done_without(caplog):
    recipe = dataclasses.replace(small("smoke"), patients=(50, 0, 0, 0))
    with processes.workers(2) as executor:
        with pytest.raises(concurrent.futures.process.BrokenProcessPool):
            executor.submit(os._exit, 1).result()
        rows = list(records.generate(recipe, "public", executor))
    assert rows == list(records.generate(recipe, "public"))
    assert "could not start" in caplog.text


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_records_fit_the_features_of_every_config(name):
    recipe = small(name, patients=3)
    for split, count in zip(records.SPLITS, recipe.patients, strict=True):
        rows = list(records.generate(recipe, split))
        assert len(rows) == count * {"eye": 2, "patient": 1, "text": 4}[recipe.unit]
        assert len({row["id"] for row in rows}) == len(rows)
        for row in rows:
            assert set(row) == set(synthetic_retina.features(recipe))
            assert recipe.unit != "eye" or set(row) >= CONTRACT


def test_pictures_of_one_record_show_the_same_eye():
    recipe = small("demo_multimodal", patients=2)
    row = next(records.generate(recipe, "test"))
    volume = np.asarray(Image.open(io.BytesIO(row["oct"])))
    assert volume.shape == (recipe.oct_slices * 32, 32) and row["oct_slices"] == recipe.oct_slices
    eye = causes.sample_patient(recipe.seed, int(row["patient"][1:])).left
    assert np.array_equal(volume.reshape(-1, 32, 32), oct.render(eye, recipe.oct_slices, 32))
    assert Image.open(io.BytesIO(row["ffa"])).mode == "L"


def test_patients_have_two_eyes_and_the_labels_of_both():
    for row in records.generate(small("patients", patients=16), "test"):
        both = {*row["left_labels"], *row["right_labels"]}
        assert set(row["labels"]) == (both - {"normal"} or {"normal"})
        assert row["left_image"] != row["right_image"] and row["report"] and row["report_zh"]


def test_texts_come_in_both_languages():
    rows = list(records.generate(small("reports"), "test"))
    assert {row["language"] for row in rows} == {"en", "zh"}
    for row in rows:
        assert row["text"].isascii() == (row["language"] == "en")


def test_few_texts_are_the_first_of_the_many():
    few, many = (records.generate(CONFIGS[name], "public") for name in ("smoke_reports", "reports"))
    assert [row == next(many) for row in few] == [True] * 64


@pytest.mark.parametrize("name", ["smoke", "smoke_patients", "smoke_reports"])
def test_the_size_is_known_beforehand(name, tmp_path):
    """The progress of a build tells the time left."""
    sources.load(f"synthetic_retina/{name}", "test", str(tmp_path))
    builder = synthetic_retina.SyntheticRetina(config=name, data_dir=str(tmp_path))
    built = {split: info.num_examples for split, info in builder.info.splits.items()}
    assert built == builder.sizes
