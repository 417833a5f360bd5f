"""What users get wrong ends in one sentence that says what, where and what to do."""

import csv
import dataclasses
import json
import re
import shutil

import corpora
import numpy as np
import pytest
from picture_files import encode
from runs import config, program

from data_pipelines import batch, build
from data_pipelines.errors import InputError
from retina_jax import experiment
from retina_jax.train import loop


def sentence(done):
    """The program's only complaint; it must be one line, without a traceback."""
    assert done.returncode == 2, done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    told = re.compile(r"\d\d:\d\d:\d\d ")  # what goes on, not a complaint
    lines = [line for line in done.stderr.splitlines() if line and not told.match(line)]
    assert len(lines) == 1, done.stderr
    return lines[0]


def train(*arguments, workdir="unused"):
    return program("retina_jax.main", f"--workdir={workdir}", *arguments)


def photograph(shade=120):
    noise = np.random.default_rng(shade).integers(0, 60, (40, 40, 3))
    return encode((noise + shade).astype(np.uint8), "JPEG")


@pytest.fixture
def folder(tmp_path):
    """Twelve good photographs and, in the rows of the manifest, four kinds of broken ones."""
    source = tmp_path / "source"
    source.mkdir()
    rows = [["file", "label", "patient"]]
    for i in range(12):
        (source / f"{i}.jpg").write_bytes(photograph(shade=60 + 5 * i))
        label = ("normal", "drusen")[i % 2]
        rows.append([f"{i}.jpg", label, f"p{i}"])
    (source / "half.jpg").write_bytes(photograph()[:400])
    (tmp_path / "outside.jpg").write_bytes(photograph())
    (source / "link.jpg").symlink_to(tmp_path / "outside.jpg")
    for name in ("half.jpg", "../outside.jpg", "link.jpg", "missing.jpg"):
        rows.append([name, "normal", "x"])
    corpora.write_csv(source / "manifest.csv", rows)
    return source


def test_a_misspelt_config_key():
    message = sentence(train("--config=configs/flair.py:smoke", "--config.optimisation.clip=1"))
    assert "optimisation" in message and "optimization" in message


def test_a_misspelt_option_of_a_spec(tmp_path):
    made = config("flair")
    made.model.towers.image.widht = 8
    with pytest.raises(InputError, match="'resnet' has no option 'widht'.*Did you mean 'width'"):
        loop.abstract_state(experiment.build_all(made, tmp_path)[0])


def test_a_misspelt_setting_of_a_stage(tmp_path):
    made = config("mmretinal_v2")
    made.stages.text.sede = 3
    with pytest.raises(InputError, match="Stage 'text' of the config has no option 'sede'"):
        experiment.build_all(made, tmp_path)


def test_truncated_missing_and_climbing_pictures_are_counted_and_left_out(folder, tmp_path):
    data = tmp_path / "data"
    done = program(
        "data_pipelines.build", "--dataset=manifest", "--name=mine",
        f"--source={folder}", f"--data_dir={data}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "16 rows read" in done.stdout and "12 kept" in done.stdout
    assert "4 skipped" in done.stdout
    (listed,) = data.rglob("skipped.csv")
    rows = list(csv.DictReader(listed.open()))
    assert {row["image"] for row in rows} == {
        "half.jpg", "../outside.jpg", "link.jpg", "missing.jpg"
    }  # fmt: skip
    assert all(row["reason"] for row in rows)


def test_a_wrong_column(folder, tmp_path):
    done = program(
        "data_pipelines.build", "--dataset=manifest", "--name=mine",
        f"--source={folder}", f"--data_dir={tmp_path}", "--column", "caption=keywords",
    )  # fmt: skip
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "keywords" in done.stderr and "file" in done.stderr and "patient" in done.stderr


def test_a_field_that_the_records_lack_names_those_there_are(folder, tmp_path):
    build.build("manifest", "mine", str(tmp_path), source=str(folder))
    made = config("flair", data_dir=str(tmp_path))
    made.streams.public.dataset, made.streams.public.split = "manifest/mine", "train"
    made.streams.public.batch_size = 4
    made.streams.public.transforms[1]["source"] = "picture"
    with pytest.raises(InputError, match="no field 'picture'; the record has attributes, caption"):
        experiment.build_all(made, tmp_path)


def test_nan_pixels_in_a_batch_name_the_key():
    image = np.zeros((2, 4, 4, 3), np.float32)
    image[1, 2, 3, 0] = np.nan
    with pytest.raises(InputError, match="public.*image.*NaN"):
        batch.check({"public": {"image": image}, "expert": {"image": np.zeros_like(image)}})


class Poisoned:
    """Training data whose photographs are NaN from batch `first` on."""

    def __init__(self, data, first):
        self._data, self._first = data, first

    def example(self):
        return self._convert(self._data.example(), False)

    def _convert(self, rows, broken):
        image = rows["image"].astype(np.float32) / 255
        return {**rows, "image": np.full_like(image, np.nan) if broken else image}

    def batches(self, start=0, stop=None):
        for k, rows in enumerate(self._data.batches(start, stop), start):
            yield self._convert(rows, k >= self._first)


def test_non_finite_steps_are_skipped_counted_and_fatal_in_a_row(tmp_path):
    every = {"log": {"steps": 1}, "evaluate": {"steps": 0}, "checkpoint": {"steps": 0}}
    (made,) = experiment.build_all(
        config("flair", total={"steps": 30}, every=every, most_skipped=3), tmp_path
    )
    made = dataclasses.replace(made, data=Poisoned(made.data, first=2))
    with pytest.raises(InputError, match="not finite in 3 steps in a row up to step 5.*pixels"):
        loop.train(made, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["train/skipped_steps"] for line in lines] == [0, 0, 1, 2, 3]
    assert lines[1]["train/gradient_norm"] > 0 and lines[2]["train/gradient_norm"] is None


def test_a_checkpoint_of_another_model(smoke_run, tmp_path):
    workdir = shutil.copytree(smoke_run("flair").workdir, tmp_path / "run")
    before = (workdir / "config.json").read_text()
    message = sentence(
        train("--config=configs/flair.py:smoke", "--config.model.dim=24", workdir=workdir)
    )
    assert "of another model" in message and "image_projection" in message
    assert "another --workdir" in message
    assert (workdir / "config.json").read_text() == before


def test_no_checkpoint_to_evaluate(tmp_path):
    arguments = ("--config=configs/flair.py:smoke", f"--workdir={tmp_path}")
    done = program("retina_jax.evaluate", *arguments)
    assert "There is no checkpoint" in sentence(done)


def test_a_data_set_that_is_not_built():
    message = sentence(
        train("--config=configs/flair.py:smoke", "--config.streams.public.dataset=manifest/none")
    )
    assert "manifest/none" in message and "python -m data_pipelines.build" in message
