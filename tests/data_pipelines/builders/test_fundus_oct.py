"""Pairs of fundus and OCT, by folders or by a table."""

import io

import numpy as np
import paired_samples as samples
import pytest
from device_files import write_vol
from PIL import Image

from data_pipelines.errors import InputError


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def all_records(records):
    return {r["id"].split("/fundus")[0]: r for part in records.values() for r in part}


def test_folders(tmp_path):
    samples.sample_fundus_oct(tmp_path / "source")
    records, _, skipped = samples.built("fundus_oct", tmp_path / "source", tmp_path, slices=2)
    found = all_records(records)
    told = {name: (r["patient"], r["eye"], len(r["oct"])) for name, r in found.items()}
    assert told == {"a/OD": ("a", "OD", 2), "b/visit 2/OS": ("b", "OS", 2), "left_eye": ("", "", 2),
                    "f/od": ("f", "", 2)}  # fmt: skip
    assert found["a/OD"]["image"] == samples.jpeg(1)
    assert list(found["a/OD"]["oct"]) == [samples.png(1), samples.png(10)]
    volume = np.random.default_rng(0).integers(0, 255, (5, 24, 32), dtype=np.uint8)
    for name in ("b/visit 2/OS", "left_eye"):
        np.testing.assert_array_equal([pixels(b) for b in found[name]["oct"]], volume[[1, 3]])
    assert {(row["image"], row["reason"]) for row in skipped} == {
        ("c/OD", "no OCT volume"),
        ("d/OD", "no fundus picture"),
        ("e/OD", "several fundus pictures"),
    }


def test_table(tmp_path):
    samples.sample_fundus_oct(tmp_path / "source")
    samples.table(tmp_path / "source" / "pairs.csv", [
        ["Fundus", "Volume", "patient", "eye", "visit", "spacing_mm", "split"],
        ["a/OD/fundus.jpg", "a/OD/oct", "a", "right", "2020-01-01", "0.01", "train"],
        ["left_eye/fundus.jpg", "left_eye/oct.tif", "b", "OS", "", "", "test"],
        ["left_eye/fundus.jpg", "", "b", "OS", "", "", "test"],
        ["", "left_eye/oct.tif", "b", "OS", "", "", "test"],
        ["a/OD/fundus.jpg", "b/oct.npy", "a", "right", "", "", "train"],
    ])  # fmt: skip
    records, _, skipped = samples.built("fundus_oct", tmp_path / "source", tmp_path)
    assert {split: len(part) for split, part in records.items()} == {"train": 1, "test": 1}
    record = records["train"][0]
    assert (record["eye"], record["visit"], record["spacing_mm"]) == ("OD", "2020-01-01", "0.01")
    assert len(record["oct"]) == 3 and len(records["test"][0]["oct"]) == 5
    assert [row["reason"] for row in skipped] == ["no oct named", "no image named",
                                                  "no such file"]  # fmt: skip


def test_what_a_volume_lacks_is_told(tmp_path):
    """A file that is cut off, one of flow, one of other bits, and one that is nearly black."""
    source = tmp_path / "source"
    slo, bscans = np.full((4, 5), 9, np.uint8), np.full((3, 12, 16), 0.0625, np.float32)
    bscans[:, 3:9] = 1
    names = ("cut/oct.vol", "deep/oct.npy", "dim/oct.npy", "flow/oct_angio.vol")
    for name in names:
        samples.put(source / name.split("/")[0] / "fundus.jpg", samples.jpeg(1))
    write_vol(source / names[0], bscans, slo)
    whole = (source / names[0]).read_bytes()
    (source / names[0]).write_bytes(whole[:-5])
    values = np.linspace(0, 65535, 3 * 12 * 16).reshape(3, 12, 16).astype(np.uint16)
    np.save(source / names[1], values)
    np.save(source / names[2], values >> 4)
    write_vol(source / names[3], bscans, slo)
    lines = ["fundus,oct,patient"]
    lines += [f"{name.split('/')[0]}/fundus.jpg,{name},{name[0]}" for name in names]
    (source / "pairs.csv").write_text("\n".join(lines))
    records, summary, skipped = samples.built("fundus_oct", source, tmp_path)
    found = all_records(records)
    assert {name: len(record["oct"]) for name, record in found.items()} == {
        "cut": 2, "deep": 3, "dim": 3,
    }  # fmt: skip
    assert max(pixels(data).max() for data in found["dim"]["oct"]) == 15
    for words in (
        "0 to 65535 became 0 to 255 in the whole",
        "1 records are dark, with no value above 15 of 255; the first is dim/fundus.jpg",
        "1 records are of files with something to be said, listed in remarks.csv",
    ):
        assert words in summary
    (path,) = tmp_path.rglob("remarks.csv")
    assert "2,cut/fundus.jpg,Of its 3 B-scans 1 are missing or damaged: 3." in path.read_text()
    assert [(row["reason"], row["detail"]) for row in skipped] == [
        ("not one volume", "oct_angio.vol holds 0 OCT volumes and 1 of angiography.")
    ]


@pytest.mark.fast
@pytest.mark.parametrize(("options", "words"),
                         [({}, "neither pairs.csv nor a folder with fundus"),
                          ({"csv": "other.csv"}, "cannot be read"),
                          ({"csv": "../pairs.csv"}, "file name inside"),
                          ({"slices": 0}, "at least 1"),
                          ({"unit": "patient"}, "unit of fundus_oct is pair")])  # fmt: skip
def test_mistakes_are_one_sentence(tmp_path, options, words):
    with pytest.raises(InputError, match=words):
        samples.built("fundus_oct", tmp_path, tmp_path / "data", **options)
    samples.put(tmp_path / "pairs.csv", b"fundus,patient\n")
    with pytest.raises(InputError, match="No column names the oct"):
        samples.built("fundus_oct", tmp_path, tmp_path / "data")
