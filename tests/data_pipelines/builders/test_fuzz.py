"""Whatever lies in the folder of a corpus, there are rows or one sentence, and rows are counted."""

import base64
import csv
import io
import json
import pathlib
import shutil
import struct
import tempfile
import zlib

import numpy as np
import openpyxl
import paired_samples as samples
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines import build
from data_pipelines.errors import InputError

# The same examples in every run: a failure elsewhere can be had here.
fuzzed = settings(max_examples=60, deadline=None, derandomize=True, database=None)


def bomb(width: int = 100_000) -> bytes:
    """A PNG of a few bytes that claims width x width pixels."""
    header = struct.pack(">IIBBBBB", width, width, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 1000)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def array(shape: tuple[int, ...]) -> bytes:
    """The header of an .npy file that claims a shape, and few bytes."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        stream, {"descr": "|u1", "fortran_order": False, "shape": shape}
    )
    return stream.getvalue() + b"\0" * 100


PICTURES = {
    "good.jpg": samples.jpeg(1), "good.png": samples.png(2), "CFP/good.png": samples.png(3),
    "bomb.png": bomb(), "cut.jpg": samples.jpeg(1)[:-300], "text.jpg": b"no picture",
    "empty.jpg": b"", "sub/deep.jpg/good.jpg": samples.jpeg(4),
    "huge.npy": array((10**5,) * 3), "zip.npy": b"PK\x03\x04" + b"\0" * 30,
    "short.npy": array((3, 20, 30)), "flat.npy": array((3, 0, 30)), "bomb.tif": bomb(),
}  # fmt: skip
NAMES = [*PICTURES, "sub/deep.jpg", "gone.jpg", "../x", "/x", "C:\\x", "a\0b", "", "CFP", ".",
         "sub//good.png", "GOOD.JPG", "x" * 300]  # fmt: skip
names = st.sampled_from(NAMES) | st.text(max_size=8)
texts = st.sampled_from(["", 'A sentence, with "quotes"', "视盘边界清", "['a', 'b']", "['']", "nan",
                         "[[", "train", "test", "OD", "é\u2028\n", "=1+1"])  # fmt: skip
cells = texts | st.text(max_size=12)
ENCODINGS = ["utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "gb18030", "latin-1"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    for name, data in PICTURES.items():
        samples.put(folder / name, data)
    return folder


def outcome(dataset: str, folder: pathlib.Path, **options: object) -> tuple[int, int] | None:
    """Lists and reads a corpus; returns (records, skipped rows), or None for an error."""
    with tempfile.TemporaryDirectory() as stage:
        try:
            listed = build.list_corpus(dataset, "own", {"source": str(folder), **options})
            rows = listed.rows
            made = type(listed)(
                config=listed.builder_config, listed=listed, stage=stage, processes=1
            )
            plan = made.plan
        except InputError as error:
            assert str(error).isprintable() and len(str(error)) < 2000
            return None
        numbers = [row.number for row in (*rows.entries, *rows.skipped)]
        assert len(set(numbers)) == len(numbers) == plan.kept + len(plan.skipped)
        made.finish(pathlib.Path(stage))
        records = [record for part in plan.rows for _, record in made.records(part)]
        assert len(records) == plan.kept
        return plan.kept, len(plan.skipped)


def written(rows: list[list[str]], dialect: tuple[str, str, int], encoding: str) -> bytes:
    stream = io.StringIO(newline="")
    delimiter, ends, quoting = dialect
    # The writer leaves a lone carriage return without quotes, which then ends the row.
    rows = [[cell.replace("\r", " ") for cell in row] for row in rows]
    csv.writer(stream, delimiter=delimiter, lineterminator=ends, quoting=quoting).writerows(rows)
    return stream.getvalue().encode(encoding, "replace")


dialects = st.tuples(st.sampled_from(",;\t"), st.sampled_from(["\n", "\r\n"]),
                     st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))  # fmt: skip
HEADERS = {
    "manifest": ("manifest.csv", ["image", "caption", "label", "patient", "eye", "split"]),
    "fundus_oct": ("pairs.csv", ["fundus", "oct", "labels", "patient", "visit"]),
    "mm_retinal": ("CFP.csv", ["Image_ID", "Label", "cn_caption", "en_caption", "", ""]),
    "flair": ("a.csv", ["", "image", "atributes", "categories"]),
    "ffa_ir": ("fair_annotation.csv", ["Split", "name", "Image_path", "En_Report", "Other"]),
}  # fmt: skip


def put_alone(folder: pathlib.Path, name: str, data: bytes) -> None:
    """Writes a table after removing those of other examples."""
    for path in folder.iterdir():
        if path.suffix in (".csv", ".json", ".xlsx", ".tsv", ".jsonl"):
            path.unlink()
    samples.put(folder / name, data)


@pytest.mark.parametrize("dataset", HEADERS)
@fuzzed
@given(data=st.data())
def test_tables(pictures, dataset, data):
    """Rows with missing, extra and odd cells; the right number of them where nothing is broken."""
    name, header = HEADERS[dataset]
    widths = st.sampled_from([len(header)] * 5 + [len(header) - 1, len(header) + 1, 0])
    rows = data.draw(
        st.lists(
            widths.flatmap(lambda n: st.lists(names | cells, min_size=n, max_size=n)), max_size=6
        )
    )
    encoding = data.draw(st.sampled_from(ENCODINGS))
    put_alone(pictures, name, written([header, *rows], data.draw(dialects), encoding))
    found = outcome(dataset, pictures)
    if found is not None and dataset != "ffa_ir" and encoding.startswith("utf"):
        assert sum(found) == sum(any(cell.strip() for cell in row) for row in rows)


@pytest.mark.parametrize("dataset", HEADERS)
@fuzzed
@given(content=st.binary(max_size=200), head=st.booleans(),
       mark=st.sampled_from([b"", b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff"]),
       repeat=st.sampled_from([1, 1, 1, 2000]))  # fmt: skip
def test_random_bytes_in_tables(pictures, dataset, content, head, mark, repeat):
    name, header = HEADERS[dataset]
    start = ",".join(header).encode() + b"\r\n" if head else b""
    put_alone(pictures, name, mark + start + content * repeat)
    outcome(dataset, pictures)


@fuzzed
@given(content=st.binary(max_size=100), place=st.floats(0, 1), size=st.integers(0, 30))
def test_random_bytes_in_workbooks(pictures, content, place, size):
    stream = io.BytesIO()
    book = openpyxl.Workbook()
    for row in (["image", "caption"], ["good.jpg", "one"], ["gone.jpg", 2]):
        book.active.append(row)
    book.save(stream)
    data, start = stream.getvalue(), int(place * len(stream.getvalue()))
    put_alone(pictures, "CFP.xlsx", data[:start] + content + data[start + size :])
    outcome("mm_retinal", pictures)


# JSON can spell half of a pair of UTF-16, which no file can hold.
halves = st.sampled_from(["\ud800", "a\udcff"])
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | cells | names | halves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(cells, inner, max_size=3),
    max_leaves=6,
)
cases = st.fixed_dictionaries({},
                              optional={"Image_path": st.lists(names | halves, max_size=4) | values,
                                        "En_Report": values, "Other": values, "split": values,
                                        "image": values})  # fmt: skip


@pytest.mark.parametrize("unit", ["image", "case"])
@fuzzed
@given(content=st.dictionaries(st.sampled_from(["train", "val", "test", "all", ""]) | cells,
                               st.dictionaries(cells | halves, cases | values, max_size=3) | values,
                               max_size=3),
       cut=st.sampled_from([None, None, None, 5, -1, -9]), junk=st.binary(max_size=3))  # fmt: skip
def test_annotations(pictures, unit, content, cut, junk):
    data = json.dumps(content).encode()
    data = data if cut is None else data[:cut] + junk + data[cut + 3 :]
    put_alone(pictures, "ffair_annotation.json", data)
    found = outcome("ffa_ir", pictures, unit=unit)
    if found is not None and cut is None and unit == "case":
        assert sum(found) == sum(map(len, content.values()))


EYES = [base64.b64encode(PICTURES[name]) for name in ("good.jpg", "bomb.png", "cut.jpg")]
eyes = st.sampled_from([*EYES, b"", b" ", b"=", b"AAA", b"-_-_"]) | st.binary(max_size=6)
patients = st.sampled_from(["p1", "p2", "7", "é"])
pairs = st.fixed_dictionaries(
    {},
    optional={
        "text_id": values,
        "text": cells | values,
        "image_ids": st.lists(patients, max_size=3) | st.lists(patients | values, max_size=3),
    },
)


@fuzzed
@given(
    rows=st.lists(
        st.tuples(patients.map(str.encode), eyes, eyes)
        | st.tuples(eyes, eyes)
        | st.tuples(st.binary(max_size=4), eyes, eyes, eyes),
        max_size=5,
    ),
    lines=st.lists(
        pairs.map(lambda pair: json.dumps(pair).encode()) | st.binary(max_size=20), max_size=5
    ),
    ends=st.sampled_from([b"\n", b"\r\n"]),
    mark=st.sampled_from([b"", b"\xef\xbb\xbf"]),
)
def test_pairs_of_files(pictures, rows, lines, ends, mark):
    put_alone(pictures, "train_imgs.tsv", mark + ends.join(b"\t".join(row) for row in rows))
    samples.put(pictures / "train_texts.jsonl", mark + ends.join(lines))
    outcome("ret_clip", pictures)


MAGIC = [b"", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"II*\0", b"BM", b"RIFF\0\0\0\0WEBPVP8 ",
         b"GIF89a", b"P6 9 9 255 ", b"PK\x03\x04", b"\x93NUMPY\x01\0", b"%!PS-Adobe"]  # fmt: skip
whole = st.sampled_from([samples.jpeg(1), samples.png(1), array((3, 4, 5))])


@st.composite
def spoiled(draw):
    """A picture or array with some bytes replaced, or random ones after those of a format."""
    if draw(st.booleans()):
        return draw(st.sampled_from(MAGIC)) + draw(st.binary(max_size=60))
    data = bytearray(draw(whole))
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, min(len(data), 200) - 1))
        data[place : place + 4] = draw(st.binary(max_size=6))
    return bytes(data)


@settings(fuzzed, max_examples=200)
@given(data=spoiled(), suffix=st.sampled_from([".jpg", ".png", ".tif", ".npy", ""]))
def test_pictures(pictures, data, suffix):
    for path in pictures.glob("spoiled*"):
        path.unlink()
    samples.put(pictures / f"spoiled{suffix}", data)
    lines = ["fundus,oct", f"good.jpg,spoiled{suffix}", f"spoiled{suffix},CFP"]
    put_alone(pictures, "pairs.csv", "\n".join(lines).encode())
    found = outcome("fundus_oct", pictures)
    assert found is None or sum(found) == 2


@fuzzed
@given(files=st.dictionaries(st.sampled_from(["a.txt", "b/c.txt", "é.txt", "a\nb.txt", "\udcff.txt",
                                              "\udce9/x.txt"]),
                             st.binary(max_size=60) | cells.map(str.encode),
                             min_size=1))  # fmt: skip
def test_texts(pictures, files):
    folder = pictures / "texts"
    shutil.rmtree(folder, ignore_errors=True)
    for name, data in files.items():
        samples.put(folder / name, data)
    outcome("text_corpus", folder)


def test_a_bomb_is_refused_by_its_header(pictures):
    put_alone(pictures, "manifest.csv", b"image\nbomb.png\ngood.jpg\n")
    assert outcome("manifest", pictures) == (1, 1)
    put_alone(
        pictures,
        "pairs.csv",
        b"fundus,oct\n"
        + b"\n".join(
            f"good.jpg,{name}".encode()
            for name in ("bomb.tif", "huge.npy", "zip.npy", "short.npy", "flat.npy", "CFP")
        ),
    )
    assert outcome("fundus_oct", pictures) == (1, 5)
