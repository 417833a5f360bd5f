"""Pictures of a prepared data set are seen as its evaluation reads them."""

import corpora
import numpy as np
import pytest
from PIL import Image
from prediction import asked

from data_pipelines import build, quality
from data_pipelines.images.preparation import Preparation
from data_pipelines.records import sources
from data_pipelines.transforms import TRANSFORMS
from retina_jax.build import build as made
from retina_jax.prediction.rows import Watch

PREPARED = {"size": 100}
DECODE = {"name": "decode", "size": 32}
DATASET, FILES = "manifest/own:test", "files/[0-3].png"


class Seen(asked.Redness):
    """Keeps what it is shown."""

    def outputs(self, batch, method):
        self.shown = batch["image"]
        return super().outputs(batch, method)


def photograph(i):
    """A disc with a pattern of its own, the redder the greater i."""
    coarse = np.random.default_rng(i).integers(0, 30, (12, 12, 1), dtype=np.uint8)
    pattern = Image.fromarray(coarse[..., 0]).resize((320, 320), Image.Resampling.BICUBIC)
    disc = asked.photograph(130 + 20 * i)
    return np.where(disc > 20, disc + np.asarray(pattern)[..., None], disc).astype(np.uint8)


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """Photographs that lie aside on their canvas, and 'manifest/own' prepared of them."""
    folder = tmp_path_factory.mktemp("stored")
    (folder / "files").mkdir()
    rows = [["file", "patient", "split", "label"]]
    for i in range(5):
        canvas = np.zeros((360, 480, 3), np.uint8)
        canvas[10:330, 20 + i : 340 + i] = photograph(i)
        Image.fromarray(canvas).save(folder / "files" / f"{i}.png")
        rows.append([f"{i}.png", f"p{i}", "train" if i == 4 else "test", "cup"])
    corpora.write_csv(folder / "files" / "manifest.csv", rows)
    build.build("manifest", "own", str(folder / "data"), source=str(folder / "files"), processes=1,
                preparation=Preparation(**PREPARED))  # fmt: skip
    return folder


def rows(originals, source, folder, **description):
    model = Seen(asked.described(folder, preparation=PREPARED, **description))
    job, entries, _ = asked.job(model, [source], data_dir=str(originals / "data"))
    found = [row for table in job.tables(entries, Watch()) for row in table.to_pylist()]
    order = np.argsort([row["record"] for row in found])
    return [found[i] for i in order], model.shown[order]


@pytest.fixture(scope="module")
def stored(originals):
    """The records' pictures, in the order of their files."""
    source = sources.load("manifest/own", "test", str(originals / "data"))
    return [one["image"] for one in sorted((source[i] for i in range(4)), key=lambda r: r["id"])]


def test_records_of_a_prepared_data_set_are_not_prepared_again(originals, stored, tmp_path):
    decode = made(TRANSFORMS, DECODE)
    expected = [decode.map({"image": data})["image"] for data in stored]
    for given in (DATASET, originals / FILES):
        found, shown = rows(originals, given, tmp_path)
        np.testing.assert_array_equal(shown, expected)
        assert [row["quality"] for row in found] == ["ok"] * 4
        assert found[0]["p_cup"] is not None


def test_a_picture_is_judged_by_limits_of_what_they_were_made_from(originals, stored, tmp_path):
    figures = [quality.of_bytes(data).figures for data in stored]
    sharp, red = ([one[name] for one in figures] for name in ("sharpness", "red_blue"))
    usual = {"sharpness": (min(sharp), max(sharp)), "red_blue": (sorted(red)[1], max(red))}
    file = quality.of_bytes((originals / "files" / "3.png").read_bytes())
    assert file.figures["sharpness"] > max(sharp)
    for given in (DATASET, originals / FILES):
        found, _ = rows(originals, given, tmp_path, quality=usual)
        reasons = [row["quality_reasons"] for row in found]
        assert reasons == ["low_red_blue", None, None, None]


def test_of_a_picture_of_another_size_than_the_prepared_its_pixels_are_counted():
    small = asked.photograph(side=90)
    assert quality.judge(small, prepared=100).reasons == ("few_pixels",)
    assert quality.judge(small, prepared=90).reasons == ()
    assert quality.judge(small).state == "ungradable"
