"""Tiny folders of image-text corpora, in the exact form in which these lie on disk.

Each function fills a folder with noise pictures and sentences of our own.
"""

import base64
import csv
import io
import json
import pathlib

import corpora
import numpy as np
import simplejpeg
from corpora import write_csv as table
from picture_files import encode
from PIL import Image

from data_pipelines import build


def jpeg(seed: int) -> bytes:
    """A JPEG of 24 x 32 pixels."""
    pixels = np.random.default_rng(seed).integers(0, 255, (24, 32, 3), dtype=np.uint8)
    return simplejpeg.encode_jpeg(pixels, 90)


def png(seed: int) -> bytes:
    """A PNG of 24 x 32 pixels."""
    return encode(np.random.default_rng(seed).integers(0, 255, (24, 32), dtype=np.uint8))


def put(path: pathlib.Path, data: bytes) -> None:
    """Writes a file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def read_as_gbk(text: str) -> str:
    """UTF-8 as it looks when it is taken for GBK: what does not pair becomes one '?'."""
    data, shown, place = text.encode(), "", 0
    while place < len(data):
        pair = data[place : place + 2]
        if pair[0] <= 0x80:
            shown, place = shown + ("€" if pair[0] == 0x80 else chr(pair[0])), place + 1
        else:
            whole = len(pair) == 2 and pair[1] >= 0x40 and pair[1] != 0x7F
            shown, place = shown + (pair.decode("gb18030") if whole else "?"), place + 2
    return shown


def built(
    dataset: str, folder: pathlib.Path, data_dir: pathlib.Path, **options: object
) -> tuple[dict[str, list[dict]], str, list[dict[str, str]]]:
    """Builds a corpus; returns ({split: records}, what was said, the skipped rows)."""
    said = build.build(dataset, "own", str(data_dir), source=str(folder), processes=1, **options)
    records, skipped = corpora.records(dataset, data_dir), corpora.skipped(dataset, data_dir)
    kept = sum(map(len, records.values()))
    assert f"{kept + len(skipped)} rows read" in said
    return records, said, skipped


def sample_mm_retinal(folder: pathlib.Path) -> None:
    """Version 1: three tables, ids without ending, .png and .jpg."""
    header = ["Image_ID", "cn_caption", "en_caption"]
    table(folder / "CFP_translated_v1.csv", [
        header, ["figure01-01A", "右眼底正常", "A normal fundus, right eye"],
        ["figure01-02", "视盘凹陷扩大", "An enlarged cup."], ["figure01-03", "缺图", "No picture"],
    ])  # fmt: skip
    table(folder / "FFA_translated_v1.csv", [header, ["figure01-01A", "渗漏", "Leakage."]])
    table(folder / "OCT_translated_v1.csv",
          [header, ["figure02-07B", "裂孔", "A hole."], ["figure02-08", "", ""]])  # fmt: skip
    put(folder / "CFP" / "figure01-01A.png", png(1))
    put(folder / "CFP" / "figure01-02.jpg", jpeg(2))
    put(folder / "FFA" / "figure01-01A.jpg", jpeg(3))
    put(folder / "OCT" / "figure02-07B.jpeg", jpeg(4))
    put(folder / "OCT" / "figure02-08.jpg", jpeg(5))


def sample_retcop(folder: pathlib.Path) -> None:
    """RetCoP's table of MM-Retinal: CRLF, empty columns, and Chinese that was read as GBK."""
    whole, broken = "正常儿童右眼眼底彩像", "正常人右眼眼底彩像"
    pairs = [(whole, "Fundus of a child"), (broken, "Fundus of the right eye"),
             (broken, '"Fundus, right eye, with 1,000 drusen"'), (broken, ""), ("", ""),
             (whole, '"Drusen, small"')]  # fmt: skip
    lines = ["Image_ID,Label,cn_caption,en_caption" + "," * 6]
    for i, (chinese, english) in enumerate(pairs):
        name = f"39_MM_Retinal_dataset/CFP/figure0{i}.jpg"
        put(folder / name, jpeg(10 + i))
        shown = read_as_gbk(f"{chinese},{english}")
        cells = next(csv.reader([shown])) if "?" not in shown else _as_saved(shown)
        cells = [name, "Macular disease", *cells]
        stream = io.StringIO()
        csv.writer(stream, lineterminator="").writerow(cells + [""] * (10 - len(cells)))
        lines.append(stream.getvalue())
    put(folder / "39_MM_Retinal_dataset.csv", "\r\n".join([*lines, ""]).encode())


def _as_saved(shown: str) -> list[str]:
    """The cells of a line whose quote is not at the start of a cell: quotes are plain there."""
    return shown.split(",")


def sample_keepfit_ffa(folder: pathlib.Path) -> None:
    """KeepFIT's table of angiograms: the caption is the one category."""
    table(folder / "FFA.csv", [
        ["", "image", "atributes", "categories"],
        [0, "MM_Retinal_dataset_v1/FFA/figure01.jpg", "[]", "['Late phase; a leak, small']"],
        [1, "MM_Retinal_dataset_v1/FFA/figure02.jpg", "[]", '["A bull\'s-eye shape"]'],
    ])  # fmt: skip
    put(folder / "FFA" / "figure01.jpg", jpeg(1))
    put(folder / "FFA" / "figure02.png", png(2))


def sample_flair(folder: pathlib.Path, graded: bool = False) -> None:
    """Two tables beside a folder of data sets, one of them spelt as the other project does.

    graded: with a second class in the first table, for prompts of that alone.
    """
    header = ["", "image", "atributes", "categories"]
    second = [3, "03_IDRID/Set A/IDRiD_02.jpg", "[]", "['no diabetic retinopathy']"]
    table(folder / "dataframes" / "pretraining" / "03_IDRID.csv", [
        header, [0, "03_IDRID/Set A//IDRiD_01.jpg", "[]", "['mild diabetic retinopathy']"],
        [1, "03_IDRID/Set A/IDRiD_02.jpg", "['noisy']", "['']"],
        [2, "03_IDRID/Set A/IDRiD_02.jpg", "", ""], *([second] if graded else []),
    ])  # fmt: skip
    table(folder / "dataframes" / "pretraining" / "08_ODIR.csv", [
        header, [0, "08_ODIR-5K/a#1 & b%20c.jpg", "['clean']", "['Glaucoma', \"macula's hole\"]"],
        [1, "08_ODIR-5K/gone.jpg", "[]", "[]"], [2, "29_AIROGS/0.jpg", "[]", "['no glaucoma']"],
    ])  # fmt: skip
    put(folder / "datasets" / "03_IDRiD" / "set a" / "IDRiD_01.jpg", jpeg(1))
    put(folder / "datasets" / "03_IDRiD" / "set a" / "IDRiD_02.JPG", jpeg(2))
    put(folder / "datasets" / "08_ODIR-5K" / "a#1 & b%20c.jpg", jpeg(3))


def sample_ffa_ir(folder: pathlib.Path, derived: bool = False) -> None:
    """Three cases; the second has the most pictures, one of them missing."""
    cases = {
        "train": {"c1": {"Image_path": ["FAIR/c1/1.jpg", "FAIR/c1/2.jpg"],
                         "En_Report": "A leak, late.", "Ch_Report": "晚期渗漏", "Age": 61}},
        "val": {"c2": {"Image_path": [f"FAIR/c2/{i}.jpg" for i in range(6)],
                       "En_Report": "No leak.", "Lesion": {"x": [1, 2]}}},
        "test": {"c3": {"Image_path": ["FAIR/c3/1.jpg"], "En_Report": ""},
                 "c4": {"Image_path": [], "En_Report": "No picture."}},
    }  # fmt: skip
    for i, path in enumerate(
        p for part in cases.values() for case in part.values() for p in case["Image_path"]
    ):
        if path != "FAIR/c2/5.jpg":
            put(folder / path, jpeg(20 + i))
    if not derived:
        put(folder / "ffair_annotation.json", json.dumps(cases, ensure_ascii=False).encode())
        return
    keys = ["Image_path", "En_Report", "Ch_Report"]
    rows = [
        [split, name, *(str(case.get(key, "")) for key in keys)]
        for split, part in cases.items()
        for name, case in part.items()
    ]
    table(folder / "fair_annotation.csv", [["\ufeffSplit", "name", *keys], *rows])


def sample_ret_clip(folder: pathlib.Path) -> None:
    """Two splits of pairs in base64, of both alphabets, and rows that cannot be used."""
    plain = base64.b64encode(jpeg(1)).decode()
    other = base64.urlsafe_b64encode(png(2)).decode()
    put(folder / "train_imgs.tsv", "".join([
        f"p1\t{plain}\t{other}\n", f"p2\t\t{plain}\r\n", "p3\t\t\n", f"p4\t{plain}\t{plain}\n",
        f"p1\t{plain}\t{plain}\n", "p5 no cells\n", "p7\ta\tb\tc\n", f"p6\t!!\t{plain}\n",
    ]).encode())  # fmt: skip
    texts = [{"text_id": 7, "text": "双眼\u2028视盘边界清", "image_ids": ["p1"]},
             {"text_id": 8, "text": "Drusen.", "image_ids": ["p2", "p9", "p6"]},
             {"text_id": 9, "text": "Nobody.", "image_ids": []}]  # fmt: skip
    lines = [json.dumps(text, ensure_ascii=False) for text in texts] + ["{broken", ""]
    put(folder / "train_texts.jsonl", "\n".join(lines).encode())
    put(folder / "test_imgs.tsv", f"10\t{plain}\t{plain}".encode())
    put(folder / "test_texts.jsonl",
        b"\xef\xbb\xbf" + json.dumps({"text_id": "1\ud800", "text": "Normal.",
                                      "image_ids": [10, "\ud800"]}).encode())  # fmt: skip


def sample_fundus_oct(folder: pathlib.Path) -> None:
    """A folder for each eye, with a volume of each kind, and pairs without a side."""
    volume = np.random.default_rng(0).integers(0, 255, (5, 24, 32), dtype=np.uint8)
    put(folder / "a" / "OD" / "fundus.jpg", jpeg(1))
    for i in (1, 2, 10):
        put(folder / "a" / "OD" / "oct" / f"{i}.png", png(i))
    put(folder / "b" / "visit 2" / "OS" / "fundus.png", png(2))
    stream = io.BytesIO()
    np.save(stream, volume)
    put(folder / "b" / "visit 2" / "OS" / "oct.npy", stream.getvalue())
    put(folder / "left_eye" / "fundus.jpg", jpeg(3))
    pages = [Image.fromarray(scan) for scan in volume]
    pages[0].save(folder / "left_eye" / "oct.tif", save_all=True, append_images=pages[1:])
    put(folder / "left_eye" / "fundus.txt", b"a note")
    put(folder / "f" / "od" / "fundus.jpg", jpeg(6))
    put(folder / "f" / "od" / "oct.npy", stream.getvalue())
    put(folder / "c" / "OD" / "fundus.jpg", jpeg(4))
    put(folder / "d" / "OD" / "oct.npy", stream.getvalue())
    put(folder / "e" / "OD" / "fundus.jpg", jpeg(5))
    put(folder / "e" / "OD" / "fundus.png", png(5))
    put(folder / "e" / "OD" / "oct.npy", stream.getvalue())
