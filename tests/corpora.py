"""Tiny samples of public corpora, as their files lie on a disk: names, folders, headers, quirks.

Every picture is noise of its own. `sample_NAME(folder)` writes the sample of one corpus.
"""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from picture_files import encode

from data_pipelines import build
from data_pipelines.records import sources, storage

SIZE = (20, 16)
RFMID_FINDINGS = (
    "DR,ARMD,MH,DN,MYA,BRVO,TSLN,ERM,LS,MS,CSR,ODC,CRVO,TV,AH,ODP,ODE,ST,AION,PT,RT,RS,CRS,EDN,"
    "RPEC,MHL,RP,CWS,CB,ODPM,PRH,MNF,HR,CRAO,TD,CME,PTCR,CF,VH,MCA,VS,BRAO,PLQ,HPED,CL"
).split(",")
ODIR_HEADER = (
    "ID,Patient Age,Patient Sex,Left-Fundus,Right-Fundus,Left-Diagnostic Keywords,"
    "Right-Diagnostic Keywords,N,D,G,C,A,H,M,O"
).split(",")


def built(dataset: str, source: Path, data_dir: Path, **options: Any) -> dict[str, list[dict]]:
    """Builds a corpus and returns {split: records}."""
    build.build(dataset, "own", str(data_dir), source=str(source), processes=1, **options)
    return records(dataset, data_dir)


def build_beside(corpus: str, folder: Path, name: str = "default", **options: Any) -> None:
    """Builds the corpus that lies in `folder`/`corpus` into the data folder `folder`."""
    if corpus == "flair":  # whose tables lie apart from its pictures
        options = {"csv": "*/*/*.csv", "images": "datasets", **options}
    build.build(corpus, name, str(folder), source=str(folder / corpus), processes=1, **options)


def records(dataset: str, data_dir: Path, name: str = "own") -> dict[str, list[dict]]:
    """Returns {split: records} of what was built, by `built` where it has no other name."""
    splits = tfds.builder_from_directory(storage.find(f"{dataset}/{name}", data_dir)).info.splits
    opened = {split: sources.load(f"{dataset}/{name}", split, data_dir) for split in splits}
    return {split: [source[i] for i in range(len(source))] for split, source in opened.items()}


def homes(found: dict[str, list[dict]]) -> dict[str, str]:
    """Returns {patient: split} of {split: records}, where no patient may be in two splits."""
    result: dict[str, str] = {}
    for split, rows in found.items():
        for row in rows:
            assert result.setdefault(row["patient"], split) == split, row["patient"]
    return result


def skipped(dataset: str, data_dir: Path) -> list[dict[str, str]]:
    """Returns the rows that the build of `built` left out."""
    with open(storage.find(f"{dataset}/own", data_dir) / "skipped.csv", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def picture(path: Path) -> None:
    """Writes a picture that depends on its path only."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(list(path.as_posix().encode()))
    pixels = rng.integers(0, 255, (*SIZE, 3), dtype=np.uint8)
    path.write_bytes(encode(pixels, "PNG" if path.suffix.lower() == ".png" else "JPEG"))


def write_csv(path: Path, rows: Sequence[Sequence[Any]], end: str = "\n") -> None:
    """Writes rows, the header first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator=end).writerows(rows)


def write_xlsx(path: Path, rows: Sequence[Sequence[Any]]) -> None:
    """Writes rows, the header first, as the first sheet of a workbook."""
    import openpyxl

    path.parent.mkdir(parents=True, exist_ok=True)
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(list(row))
    book.save(path)


def sample_idrid(folder: Path) -> None:
    """The grading part beside the localization part, which has the same pictures."""
    for letter, part, number in (("a", "Training", 6), ("b", "Testing", 3)):
        rows = [["Image name", "Retinopathy grade", "Risk of macular edema ", *[""] * 9]]
        for i in range(1, number + 1):
            name = f"IDRiD_{i:03d}"
            images = f"1. Original Images/{letter}. {part} Set/{name}.jpg"
            picture(folder / "B. Disease Grading" / images)
            picture(folder / "C. Localization" / images)
            # The empty columns are only in the table of the training part.
            rows.append([name, (i - 1) % 5, i % 3, *[""] * 9][: 12 if letter == "a" else 3])
        rows[0] = rows[0][: len(rows[1])]
        table = f"{letter}. IDRiD_Disease Grading_{part} Labels.csv"
        write_csv(folder / "B. Disease Grading" / "2. Groundtruths" / table, rows, "\r\n")


def sample_aptos(folder: Path) -> None:
    """The files of the competition; those of its test have no grades."""
    names = [f"{i:03x}c0ffee12" for i in range(10)]
    write_csv(
        folder / "train.csv",
        [["id_code", "diagnosis"], *([name, i % 5] for i, name in enumerate(names))],
    )
    write_csv(folder / "test.csv", [["id_code"], ["0005cfc8afb6"]])
    for name in names:
        picture(folder / "train_images" / f"{name}.png")
    picture(folder / "test_images" / "0005cfc8afb6.png")


def sample_messidor(folder: Path) -> None:
    """Both ways of naming files; a picture that is not gradable; pairs of eyes."""
    names = [f"20051020_4{i:04d}_0100_PP.png" for i in range(6)]
    names += [f"IM00{i:04d}.jpg" for i in range(6)]
    rows = [[name, i % 5, i % 2, 1] for i, name in enumerate(names)]
    rows[3][1:] = ["", "", 0]
    header = ["image_id", "adjudicated_dr_grade", "adjudicated_dme", "adjudicated_gradable"]
    write_csv(folder / "messidor_data.csv", [header, *rows])
    # On disk the second half is in capitals.
    for name in names:
        picture(folder / "IMAGES" / name.replace(".jpg", ".JPG"))
    pairs = [";".join(names[i : i + 2]) for i in range(0, 12, 2)]
    (folder / "messidor-2.csv").write_text("\n".join(["left;right", *pairs]) + "\n")


def sample_rfmid(folder: Path) -> None:
    """The numbers of the pictures start anew in each part."""
    for letter, part, number in (("a", "Training", 4), ("b", "Validation", 2), ("c", "Testing", 2)):
        rows: list[list[Any]] = [["ID", "Disease_Risk", *RFMID_FINDINGS]]
        for i in range(1, number + 1):
            flags = [int(i % 2 == 0 and name in ("MHL", "EDN")) for name in RFMID_FINDINGS]
            rows.append([i, int(i % 2 == 0), *flags])
            picture(folder / "1. Original Images" / f"{letter}. {part} Set" / f"{i}.png")
        write_csv(folder / "2. Groundtruths" / f"{letter}. RFMiD_{part}_Labels.csv", rows)


def sample_octdl(folder: Path) -> None:
    """Patients with several B-scans; file names without suffix."""
    header = ["file_name", "disease", "subcategory", "condition", "patient_id", "eye", "sex",
              "year", "image_width", "image_hight"]  # fmt: skip
    rows = []
    for i in range(10):
        disease = ("AMD", "NO", "DME", "ERM", "VID")[i // 2]
        name = f"{disease.lower()}_{1000 + i}_1"
        rows.append([name, disease, "MNV" if disease == "AMD" else "", "active", i // 2,
                     ("OD", "OS")[i % 2], "f", "1950.0", *SIZE])  # fmt: skip
        picture(folder / "OCTDL" / disease / f"{name}.jpg")
    write_csv(folder / "OCTDL_labels.csv", [header, *rows])


def sample_fives(folder: Path) -> None:
    """Numbers start anew in each part; a mask lies beside each picture."""
    for part, number in (("train", 8), ("test", 4)):
        for i in range(number):
            for kind in ("Original", "Ground truth"):
                picture(folder / "FIVES" / part / kind / f"{i + 1}_{'ADGN'[i % 4]}.png")
        (folder / "FIVES" / part / "Original" / "Thumbs.db").write_bytes(b"x")


def sample_acrima(folder: Path) -> None:
    """Healthy eyes first; some suffixes are in capitals."""
    names = [f"Im{i:03d}_ACRIMA.jpg" for i in range(1, 6)]
    names += [f"Im{i}_g_ACRIMA.jpg" for i in range(310, 314)] + ["Im702_g_ACRIMA.JPG"]
    for name in names:
        picture(folder / "Database" / "Images" / name)


def sample_kermany_oct(folder: Path) -> None:
    """A patient in two parts, a number in two classes, and what macOS adds to archives."""
    names = [
        f"train/{kind}/{kind}-{1000 + 10 * k + i}-{j}.jpeg"
        for k, kind in enumerate(("CNV", "DME", "DRUSEN", "NORMAL"))
        for i in range(2)
        for j in (1, 2)
    ]
    names += ["train/CNV/CNV-2001-1.jpeg", "train/CNV/CNV-2001-2.jpeg", "test/CNV/CNV-2001-1.jpeg",
              "test/NORMAL/NORMAL-1000-1.jpeg", "val/DME/DME-3001-1.jpeg",
              "train/DME/DME-3001-2.jpeg"]  # fmt: skip
    for name in names:
        picture(folder / "OCT2017 " / name)
    (folder / "OCT2017 " / "train" / "CNV" / ".DS_Store").write_bytes(b"x")
    (folder / "__MACOSX").mkdir()
    (folder / "__MACOSX" / "._CNV-1000-1.jpeg").write_bytes(b"x")


def sample_octid(folder: Path) -> None:
    """A folder of each class, and the delineations of another archive."""
    folders = {"NORMAL": "Normal-Retinal-OCT-images", "MH": "Macular-Hole-Retinal-OCT-images",
               "AMRD": "Age-related-Macular-Degeneration-Retinal-OCT-images",
               "CSR": "Central-serous-retinopathy-retinal-OCT-images",
               "DR": "Diabetic-Retinopathy-Retinal-OCT-Images"}  # fmt: skip
    for code, name in folders.items():
        for i in (1, 2):
            picture(folder / name / f"{code}{i}.jpeg")
    picture(folder / "Manual_Segmentation" / "delineation.png")


def sample_refuge(folder: Path) -> None:
    """The three archives of the challenge, with masks that have the names of the pictures."""
    train = folder / "REFUGE-Training400" / "Training400"
    masks = folder / "Annotation-Training400" / "Disc_Cup_Masks"
    for code, name in (("g", "Glaucoma"), ("n", "Non-Glaucoma")):
        for i in (1, 2, 3):
            picture(train / name / f"{code}{i:04d}.jpg")
            picture(masks / name / f"{code}{i:04d}.bmp")
    validation = [["ID", "ImgName", "Fovea_X", "Fovea_Y", "Glaucoma Label"]]
    test = [["ID", "ImgName", "Label(Glaucoma=1)", "Fovea_X", "Fovea_Y"]]
    for i in (1, 2):
        picture(folder / "REFUGE-Validation400" / f"V{i:04d}.jpg")
        picture(folder / "REFUGE-Test400" / "Test400" / f"T{i:04d}.jpg")
        validation.append([i, f"V{i:04d}.jpg", 1.5, 2.5, i - 1])
        test.append([i, f"T{i:04d}.jpg", 2 - i, 1.5, 2.5])
    picture(folder / "REFUGE-Validation400" / "V0003.jpg")  # of no row
    write_xlsx(folder / "REFUGE-Validation400-GT" / "Fovea_locations.xlsx", validation)
    write_xlsx(folder / "REFUGE-Test-GT" / "Glaucoma_label_and_Fovea_location.xlsx", test)


def sample_refuge_mirror(folder: Path) -> None:
    """Three folders with an index each; that of the test tells no classes."""
    for part, names in {
        "train": ("g0001", "n0001"),
        "val": ("V0001", "V0002"),
        "test": ("T0001",),
    }.items():
        rows = {}
        for i, name in enumerate(names):
            picture(folder / part / "Images" / f"{name}.jpg")
            picture(folder / part / "Images_Square" / f"{name}.jpg")
            rows[str(i)] = {"ImgName": f"{name}.jpg", "Fovea_X": 1.5, "Label": i}
        if part == "test":
            rows = {key: {"ImgName": row["ImgName"]} for key, row in rows.items()}
        (folder / part / "index.json").write_text(json.dumps(rows))


def odir_rows() -> list[list[Any]]:
    """Returns the rows of eight patients: several keywords, and a photograph of no fundus."""
    rows = []
    for i in range(8):
        left = ("cataract", "normal fundus", "drusen，Mild nonproliferative retinopathy",
                "anterior segment image")[i % 4]  # fmt: skip
        rows.append([i, 50 + i, ("Female", "Male")[i % 2], f"{i}_left.jpg", f"{i}_right.jpg", left,
                     "normal fundus", int(i % 4 == 1), int(i % 4 == 2), 0, int(i % 4 == 0), 0, 0, 0,
                     int(i % 4 > 1)])  # fmt: skip
    return rows


def sample_odir(folder: Path) -> None:
    """The mirror: the workbook, the table of eyes, the originals and their cropped copies."""
    top, rows = folder / "ODIR-5K" / "ODIR-5K", odir_rows()
    write_xlsx(top / "data.xlsx", [ODIR_HEADER, *rows])
    for i in range(8):
        for side in ("left", "right"):
            picture(top / "Training Images" / f"{i}_{side}.jpg")
            picture(folder / "preprocessed_images" / f"{i}_{side}.jpg")
    picture(top / "Testing Images" / "937_left.jpg")
    extra = ["filepath", "labels", "target", "filename"]
    eyes = [
        [*row, f"../input/ODIR-5K/Training Images/{name}", "['N']", "[1, 0]", name]
        for row in rows
        for name in row[3:5]
    ]
    write_csv(folder / "full_df.csv", [[*ODIR_HEADER, *extra], *eyes])


def sample_oia_odir(folder: Path) -> None:
    """The release with both test parts."""
    parts = {"Training Set": "training", "Off-site Test Set": "off-site test",
             "On-site Test Set": "on-site test"}  # fmt: skip
    for number, (name, title) in enumerate(parts.items()):
        rows = [row[:] for row in odir_rows()[:2]]
        for row in rows:
            row[0] += 100 * number
            row[3:5] = [f"{row[0]}_left.jpg", f"{row[0]}_right.jpg"]
            for image in row[3:5]:
                picture(folder / name / "Images" / image)
        write_xlsx(folder / name / "Annotation" / f"{title} annotation (English).xlsx",
                   [ODIR_HEADER, *rows])  # fmt: skip


def sample_synfundus(folder: Path) -> None:
    """Rows of the parts 0, 1 and 19; grades, conditions, and two rows to be dropped."""
    flags = ["is_amd", "is_aon", "is_crp", "is_dm", "is_dme", "is_em", "is_gc", "is_htr", "is_pm",
             "is_rvo"]  # fmt: skip
    other = ["is_fundus", "is_optic_disc_readable", "is_retinal_region_readable"]
    rows = []
    for index, grade, chosen in (
        (0, 0, ()),
        (1, 2, ("is_dme",)),
        (2, 0, ("is_gc",)),
        (3, 0, ("is_crp", "is_dm")),
        (4, 1, ("is_dm",)),
        (50_000, 0, ("is_amd", "is_dm")),
        (1_000_017, 4, ()),
        (5, 0, ("is_dm",)),
        (6, 7, ()),
    ):
        rows.append([index, grade, index % 2, *(int(name in chosen) for name in flags), 1, 1, 1])
        picture(folder / f"Part{min(19, index // 50_000)}" / f"{index}.png")
    write_csv(folder / "SynFundus-1M_gen_cond.csv",
              [["idx", "dr_grade", "eye_side", *flags, *other], *rows])  # fmt: skip
