"""The command that converts a folder: manifest, skipped files, privacy, same bytes twice."""

import csv
import pathlib
import struct

import numpy as np
import pytest
from PIL import Image

from data_pipelines import build, clinical
from data_pipelines.clinical import __main__ as command
from data_pipelines.clinical import export
from data_pipelines.images import functional

TOMOGRAM = "1.2.840.10008.5.1.4.1.1.77.1.5.4"


@pytest.fixture
def picture() -> np.ndarray:
    """A uint8 [40 48 3] photograph."""
    y, x = np.mgrid[:40, :48]
    return np.stack([200 - 2 * x, 3 * y, x + y], -1).astype(np.uint8)


@pytest.fixture
def source(dicom_file, xml_folder, topcon_file, groups, picture, tmp_path) -> pathlib.Path:
    """12 entries below 'Secretfolder': 4 that can be read, and 8 that are skipped."""
    folder = tmp_path / "Secretfolder"
    (folder / "sub").mkdir(parents=True)
    volume = np.stack([np.full((6, 8), 500 * t, np.uint16) for t in range(3)])
    frames = [groups.frame(position=(0, 0, z)) for z in (0.2, 0, 0.1)]
    dicom_file(picture, ImageLaterality="R", ImageType=["ORIGINAL", "PRIMARY", "", "COLOR"]).rename(
        folder / "Secretname.dcm"
    )
    dicom_file(volume, sop=TOMOGRAM, PerFrameFunctionalGroupsSequence=frames,
               SharedFunctionalGroupsSequence=groups.shared(),
               AcquisitionDate="20200102").rename(folder / "sub" / "Secretname_OCT")  # fmt: skip
    bscans = np.random.default_rng(0).integers(0, 255, (2, 6, 9), dtype=np.uint8)
    xml_folder(bscans, picture[..., 0]).parent.rename(folder / "Secretexport")
    fundus = struct.pack("<4IBI", 48, 40, 24, 1, 0, picture.size) + picture[..., ::-1].tobytes()
    topcon_file({"@IMG_OBS": fundus, "@PATIENT_INFO_02": b"SECRETID77".ljust(900, b"\0"),
                 "@CAPTURE_INFO": b"\1" + b"\0" * 12}).rename(folder / "c.fds")  # fmt: skip
    (folder / "copy.dcm").write_bytes((folder / "Secretname.dcm").read_bytes())
    dicom_file(picture, BurnedInAnnotation="YES").rename(folder / "burnt.dcm")
    (folder / "cut.dcm").write_bytes((folder / "Secretname.dcm").read_bytes()[:-90])
    outside = dicom_file(picture[:9])
    (folder / "link.dcm").symlink_to(outside)
    (folder / "sub" / "up").symlink_to(tmp_path)
    return folder


def run(source: pathlib.Path, output: pathlib.Path, *options: str) -> int:
    return command.main([f"--source={source}", f"--output={output}", *options])


def table(path: pathlib.Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def key_file(tmp_path, key) -> str:
    """The option that names the key."""
    (tmp_path / "key").write_bytes(key)
    return f"--key_file={tmp_path / 'key'}"


def contents(folder: pathlib.Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def test_files_in_are_files_converted_and_skipped(source, tmp_path, key_file, capsys, picture):
    output = tmp_path / "out"
    assert run(source, output, key_file) == 0
    printed = capsys.readouterr().out
    names = table(tmp_path / "out.sources.csv")
    rows, skipped = table(output / "manifest.csv"), table(output / "skipped.csv")
    # 4 readable files and the 3 pictures of the XML export, a copy, burnt-in, cut, and two links.
    assert len(names) == 12 and len(skipped) == 8
    assert sum(not row["skipped_because"] for row in names) == 4
    assert "12 files found" in printed and "4 converted to 5 rows" in printed
    assert "8 skipped" in printed
    assert "2 It is a link" in printed and "3 It is no clinical" in printed
    read = {row["source"] for row in names if not row["skipped_because"]}
    assert {row["pair"] for row in rows} == {f"{source}-0" for source in read}
    assert [row["file"] for row in rows] == sorted(row["file"] for row in rows)
    assert not list(tmp_path.glob(".converting-*"))

    by_kind = {}
    for row in rows:
        by_kind.setdefault(row["kind"], []).append(row)
        assert len(row["patient"]) == 32
    assert len({row["patient"] for row in rows}) == 1  # one person in three formats
    (localizer,) = by_kind["scanning_laser"]
    dicom, xml = sorted(by_kind["volume"], key=lambda row: -int(row["bscans"]))
    assert xml["pair"] == localizer["pair"] and xml["eye"] == localizer["eye"] == "OS"
    (pair,) = table(output / "pairs.csv")
    assert (pair["fundus"], pair["oct"]) == (localizer["file"], xml["volume"])
    assert (pair["eye"], pair["patient"], pair["modality"]) == ("OS", xml["patient"], "unknown")
    assert (dicom["eye"], dicom["eye_origin"], dicom["date"]) == ("", "", "2020-01-02")
    assert [float(dicom[f"{axis}_mm"]) for axis in ("between", "down", "across")] == pytest.approx(
        [0.1, 0.004, 0.011]
    )
    assert "1 rows name no eye" in printed
    scans = [np.asarray(Image.open(p)) for p in sorted((output / dicom["volume"]).iterdir())]
    assert [int(scan[0, 0]) for scan in scans] == [500, 1000, 0] and scans[0].dtype == np.uint16
    assert dicom["file"] == f"{dicom['volume']}/0001.png"
    layers = np.load(output / xml["layers"])
    assert list(layers) == ["ILM"] and layers["ILM"].shape == (2, 9)
    for row in by_kind["photograph"]:
        assert np.array_equal(np.asarray(Image.open(output / row["file"])), picture)
        assert row["eye_origin"] == "file"
    assert {row["modality"] for row in by_kind["photograph"]} == {"cfp", "unknown"}


def test_no_identifier_comes_out(source, tmp_path, key_file, capsys):
    output = tmp_path / "out"
    assert run(source, output, key_file, "--allow_burned_in") == 0
    printed = "".join(capsys.readouterr())
    for name, data in contents(output).items():
        for text in (name.encode(), data):
            assert b"secret" not in text.lower() and b"19331122" not in text, name
            assert "secret".encode("utf-16-le") not in text.lower(), name
    # The folder is the user's own word; nothing of the files is printed.
    assert "secret" not in printed.lower()


def test_two_runs_give_identical_bytes(source, tmp_path, key_file):
    for name in ("a", "b"):
        assert run(source, tmp_path / name, key_file) == 0
    first, second = contents(tmp_path / "a"), contents(tmp_path / "b")
    assert first == second and len(first) > 8
    assert (tmp_path / "a.sources.csv").read_bytes() == (tmp_path / "b.sources.csv").read_bytes()


def test_the_user_can_name_the_eye(source, tmp_path, capsys):
    listing = tmp_path / "eyes.csv"
    listing.write_text("file,eye\nsub/Secretname_OCT,left\nSecretname.dcm,OS\n")
    assert run(source, tmp_path / "out", f"--override={listing}") == 0
    rows = table(tmp_path / "out" / "manifest.csv")
    overridden = {(row["kind"], row["eye"]) for row in rows if row["eye_origin"] == "override"}
    assert overridden == {("volume", "OS"), ("photograph", "OS")}
    assert all(row["eye"] for row in rows) and not any(row["patient"] for row in rows)
    printed = capsys.readouterr().out
    assert "name no eye" not in printed and "without --key_file" in printed
    for line, words in (
        ("absent.dcm,OD", "not in"),
        ("c.fds,both", "OD or OS"),
        ("c.fds,OD\nc.fds,OS", "both eyes"),
    ):
        listing.write_text(f"file,eye\n{line}\n")
        assert run(source, tmp_path / "other", f"--override={listing}") == 2
        assert words in capsys.readouterr().err
    listing.write_text("file\nc.fds\n")
    assert run(source, tmp_path / "other", f"--override={listing}") == 2
    assert "no column 'eye'" in capsys.readouterr().err and not (tmp_path / "other").exists()


def test_folders_that_cannot_be_used(source, tmp_path, capsys, key):
    for output, words in ((source / "out", "inside the source"), (source.parent, "not empty")):
        before = sorted(source.parent.rglob("*"))
        assert run(source, output) == 2
        assert words in capsys.readouterr().err and sorted(source.parent.rglob("*")) == before
    assert run(tmp_path / "absent", tmp_path / "out") == 2
    (tmp_path / "short").write_bytes(key[:5])
    assert run(source, tmp_path / "out", f"--key_file={tmp_path / 'short'}") == 2
    assert run(source, tmp_path / "out", f"--key_file={tmp_path / 'none'}") == 2
    assert not (tmp_path / "out").exists() and len(capsys.readouterr().err.splitlines()) == 3


def test_nothing_to_convert_is_no_success(tmp_path, capsys):
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "note.txt").write_text("no scan")
    assert run(tmp_path / "source", tmp_path / "out") == 2
    assert "0 converted" in capsys.readouterr().out
    assert len(table(tmp_path / "out" / "skipped.csv")) == 1


def test_the_manifest_can_be_built(source, tmp_path, key_file, capsys):
    output = tmp_path / "out"
    assert run(source, output, key_file) == 0
    assert (build.main(["--dataset=manifest", "--name=clinic", f"--source={output}",
                        f"--data_dir={tmp_path / 'data'}"]) == 0)  # fmt: skip
    printed = capsys.readouterr().out
    assert "5 kept" in printed and "0 skipped" in printed
    assert (build.main(["--dataset=fundus_oct", "--name=clinic", f"--source={output}", "--slices=2",
                        f"--data_dir={tmp_path / 'data'}"]) == 0)  # fmt: skip
    assert "1 kept" in capsys.readouterr().out


def test_real_vol_files(retina_data, tmp_path, key_file):
    pairs = retina_data / "spectralis_pairs"
    output = tmp_path / "out"
    assert run(pairs / "vol", output, key_file) == 0
    rows = table(output / "manifest.csv")
    assert len(rows) == 6 and {row["eye"] for row in rows} == {"OD"}
    names = {
        f"{row['source']}-0": pathlib.Path(row["file"]).stem
        for row in table(tmp_path / "out.sources.csv")
    }
    for row in rows:
        part = "bscan" if row["kind"] == "volume" else "slo"
        real = pairs / "images" / f"{names[row['pair']]}_{part}.png"
        assert np.array_equal(functional.decode_image((output / row["file"]).read_bytes()),
                              functional.decode_image(real.read_bytes()))  # fmt: skip


def test_both_eyes_of_a_file_are_two_pairs(tmp_path, monkeypatch, capsys):
    picture, volume = np.zeros((4, 4), np.uint8), np.zeros((2, 3, 4), np.uint8)
    scans = tuple(
        clinical.Scan(kind, array, laterality=eye, source="a", series=series)
        for series, eye in enumerate(("OD", "OS"))
        for kind, array in (("volume", volume), ("scanning_laser", picture))
    )
    # A third series with two pictures does not say which one its volume lies on.
    scans += tuple(
        clinical.Scan(kind, array, source="a", series=2)
        for kind, array in (("volume", volume), ("photograph", picture), ("photograph", picture))
    )
    # A fourth one of flow is no structural OCT, whatever lies beside it.
    scans += (
        clinical.Scan("volume", volume, modality="octa", source="a", series=3),
        clinical.Scan("scanning_laser", picture, source="a", series=3, remarks=("Half is lost.",)),
    )
    monkeypatch.setattr(export, "read_anonymous", lambda *arguments: scans)
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "x.e2e").write_bytes(b"CMDb")
    assert run(tmp_path / "source", tmp_path / "out") == 0
    pairs = table(tmp_path / "out" / "pairs.csv")
    assert [(row["fundus"], row["oct"], row["eye"]) for row in pairs] == [
        ("a/1.png", "a/0", "OD"),
        ("a/3.png", "a/2", "OS"),
    ]
    assert "note: 1 rows have remarks" in capsys.readouterr().out
    rows = table(tmp_path / "out" / "manifest.csv")
    assert [row["remarks"] for row in rows if row["remarks"]] == ["Half is lost."]


def test_floats_are_written_as_documented():
    array = np.array([[[0.0, 0.5, 0.9999, 1.0, np.nan]]], np.float32)
    assert export.encoded(array).tolist() == [[[0, 127, 254, 255, 0]]]
    assert clinical.Scan("volume", array).patient is None


def test_an_output_that_cannot_be_made_is_a_sentence(source, capsys):
    assert run(source, pathlib.Path("/proc/q/out")) == 2
    assert "clinical: Cannot write in /proc/q: No such file or directory; name another folder." in (
        capsys.readouterr().err
    )
