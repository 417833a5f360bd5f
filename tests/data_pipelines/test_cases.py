"""What a user may name as pictures, and what of it is read for which model."""

import device_files
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from data_pipelines.cases.listing import listed
from data_pipelines.cases.reading import Opener
from data_pipelines.errors import InputError
from data_pipelines.transforms.pictures import Decode
from data_pipelines.transforms.volumes import Volume

pytestmark = pytest.mark.fast
PIXELS = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    (folder / "below").mkdir(parents=True)
    (folder / "__MACOSX").mkdir()
    for name in ("b.png", "a.PNG", "below/c.png", "__MACOSX/d.png", ".e.png"):
        Image.fromarray(PIXELS).save(folder / name, "PNG")
    (folder / "notes.md").write_text("x")
    return folder


def records(*sources, **options):
    return listed([str(source) for source in sources], **options).entries["record"].to_pylist()


def test_a_folder_a_pattern_and_a_file(photos):
    assert records(photos) == ["a.PNG", "b.png"]
    found = listed([str(photos)])
    assert found.remarks == (
        f"1 files in {photos} are no pictures, and are left out",
        f"1 folders in {photos} are left out; --recursive takes them",
    )
    assert found.entries["size"].to_pylist() == [(photos / n).stat().st_size
                                                 for n in ("a.PNG", "b.png")]  # fmt: skip
    assert records(photos, recursive=True) == ["a.PNG", "b.png", "below/c.png"]
    assert records(photos / "*.png") == ["b.png"]
    assert records(f"{photos}/**/*.png", recursive=True) == ["b.png", "below/c.png"]
    assert records(photos / "b.png") == ["b.png"]
    assert records(photos, photos / "below") == ["photos/a.PNG", "photos/b.png", "below/c.png"]


def test_a_link_out_of_the_folder_and_a_ragged_row_are_left_out_and_told(photos, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    Image.fromarray(PIXELS).save(tmp_path / "elsewhere/f.png")
    (photos / "link").symlink_to(tmp_path / "elsewhere")
    for recursive, expected in ((False, 2), (True, 3)):
        found = listed([str(photos)], recursive=recursive)
        assert len(found.entries) == expected
        assert "1 folders in" in found.remarks[-1] and "links out of it" in found.remarks[-1]
    text = "image,patient,dose\nphotos/b.png,p1,0,8\nphotos/a.PNG,p2,1\n,p3,2\n"
    (tmp_path / "ragged.csv").write_text(text)
    found = listed([str(tmp_path / "ragged.csv")])
    assert found.entries["patient"].to_pylist() == ["p2"]
    assert "1 rows of" in found.remarks[0] and "another number of cells" in found.remarks[0]
    assert "1 rows of" in found.remarks[1] and "name no picture" in found.remarks[1]


def test_pictures_of_one_name_in_two_places_are_no_duplicates(photos, tmp_path):
    for site in "ab":
        folder = tmp_path / site / "photos"
        folder.mkdir(parents=True)
        Image.fromarray(PIXELS).save(folder / "1.png")
        (tmp_path / site / "list.txt").write_text("photos\\1.png\n")
    for name in ("photos", "list.txt"):
        with pytest.raises(InputError, match="call different pictures 'photos/1.png'.*--recursive"):
            records(tmp_path / "a" / name, tmp_path / "b" / name)
    whole = ["synthetic_retina/smoke:test", "synthetic_retina/smoke:validation+test"]
    assert sorted(records(*whole)) == sorted(records(whole[1])) != sorted(records(whole[0]))
    found = listed([str(tmp_path / "a/list.txt"), f"{tmp_path}/a/../a/list.txt"])
    assert found.entries["size"].to_pylist() == [(tmp_path / "a/photos/1.png").stat().st_size]
    assert "1 entries name a picture that an earlier one names too" in found.remarks[0]


def test_tables_say_whose_pictures_they_name(photos, tmp_path):
    text = ("Path,Patient ID,side,modality,site,study_date\nphotos/b,7.0,right,FA,x,2020-01-02\n"
            "photos\\below\\c.png,8,OU,,,\nphotos/gone.png,,,,,\n,9,,,,\n")  # fmt: skip
    (tmp_path / "visits.csv").write_text(text)
    lines = [line.split(",") for line in text.splitlines()]
    columns = dict(zip(lines[0], zip(*lines[1:], strict=True), strict=True))
    pq.write_table(pa.table({k: list(v) for k, v in columns.items()}), tmp_path / "visits.parquet")
    for name in ("visits.csv", "visits.parquet"):
        found = listed([str(tmp_path / name)], keep=["site"])
        first, second, third = found.entries.to_pylist()
        expected = {"patient": "7", "eye": "OD", "modality": "ffa", "in_site": "x",
                    "date": "2020-01-02", "device": ""}  # fmt: skip
        assert {name: first[name] for name in expected} == expected
        assert first["record"] == "photos/b" and first["place"].endswith("photos/b.png")
        assert (second["record"], second["eye"]) == ("photos/below/c.png", "")
        assert third["size"] == -1
        assert "names no picture" in found.remarks[0] or "name no picture" in found.remarks[0]
        assert "1 rows of" in found.remarks[1] and "neither left nor right" in found.remarks[1]
    named = {"image": "site", "patient": "Path"}
    (tmp_path / "odd.tsv").write_text("site\tPath\nphotos/b.png\tp\nphotos/b.png\tq\n")
    found = listed([str(tmp_path / "odd.tsv")], columns=named)
    assert found.entries["patient"].to_pylist() == ["p"] and "are left out" in found.remarks[0]
    (tmp_path / "list.txt").write_text("photos/a.PNG\n\nphotos/b.png\n")
    assert records(tmp_path / "list.txt") == ["photos/a.PNG", "photos/b.png"]


@pytest.mark.parametrize(("source", "message"), [
    ("nowhere", "There is no"), ("*.gif", "No picture is like"), ("photos/notes.md", "no picture"),
    ("empty", "names no picture"), ("nested", "add --recursive"), ("gs://a/b", "are not read"),
    ("table.csv", "No column names the image files"),
])  # fmt: skip
def test_what_names_nothing_is_one_sentence(photos, tmp_path, source, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "nested" / "below").mkdir(parents=True)
    (tmp_path / "table.csv").write_text("x,y\n1,2\n")
    given = source if ":" in source else str(tmp_path / source)
    with pytest.raises(InputError, match=message):
        listed([given])


def entry(path, **facts):
    (found,) = listed([str(path)]).entries.to_pylist()
    return {**found, **facts}


def test_a_file_of_pages_is_a_volume(tmp_path):
    path = tmp_path / "scan.tif"
    pages = [Image.fromarray(np.full((8, 9), 10 * i, np.uint8)) for i in range(3)]
    pages[0].save(path, save_all=True, append_images=pages[1:])
    frames, _ = Opener(Decode(32), "oct").frames(entry(path))
    assert [frame.record for frame in frames] == ["scan.tif#0", "scan.tif#1", "scan.tif#2"]
    assert [int(frame.shown[0, 0]) for frame in frames] == [0, 10, 20]
    (volume,), _ = Opener(Volume(2, 8), "oct").frames(entry(path))
    assert volume.record == "scan.tif" and len(volume.pictures) == 3
    with pytest.raises(InputError, match="an OCT volume, and the model is for photographs"):
        Opener(Decode(32), "cfp").frames(entry(path))


def test_an_array_and_a_folder_of_scans_are_read_wherever_they_are(tmp_path, monkeypatch):
    (tmp_path / "real/eye").mkdir(parents=True)
    (tmp_path / "linked").symlink_to(tmp_path / "real")
    np.save(tmp_path / "real/scan.npy", np.zeros((3, 8, 9), np.uint8))
    for i in range(3):
        Image.fromarray(PIXELS).save(tmp_path / f"real/eye/{i}.png")
    (tmp_path / "real/eyes.csv").write_text("image\neye\n")
    monkeypatch.chdir(tmp_path)
    for folder in ("real", "linked"):
        for name in ("scan.npy", "eyes.csv"):
            (volume,), _ = Opener(Volume(2, 8), "oct").frames(entry(f"{folder}/{name}"))
            assert len(volume.pictures) == 3


def test_a_file_of_a_device_tells_its_own(tmp_path):
    path = tmp_path / "a.dcm"
    device_files.write_dicom(path, PIXELS, ImageLaterality="L", AcquisitionDateTime="20240102")
    (frame,), skipped = Opener(Decode(32), "cfp", key=b"k" * 16).frames(entry(path))
    assert (frame.record, frame.facts["eye"], skipped) == ("a.dcm#0", "OS", 0)
    assert len(frame.facts["patient"]) == 32 and len(frame.sha256) == 64
    np.testing.assert_array_equal(frame.pictures, PIXELS)
    unkeyed = Opener(Decode(32), "cfp").frames(entry(path, patient="p", eye="OD"))[0][0]
    assert (unkeyed.facts["patient"], unkeyed.facts["eye"]) == ("p", "OD")
    with pytest.raises(InputError, match="the model is for 'oct'"):
        Opener(Decode(32), "oct").frames(entry(path))


def test_a_built_data_set_is_read_by_its_split():
    source = "synthetic_retina/smoke:test"
    found = listed([source])
    assert found.entries["place"].to_pylist()[0] == source and len(found.entries) > 1
    first = found.entries.slice(0, 1).to_pylist()[0]
    assert first["record"].startswith("synthetic_retina/smoke/") and first["patient"]
    (frame,), _ = Opener(Decode(32), first["modality"] or "cfp").frames(first)
    assert isinstance(frame.pictures, bytes) and len(frame.sha256) == 64
