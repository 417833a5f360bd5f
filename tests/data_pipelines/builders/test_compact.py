"""Rows by the million: what is read of them is what was appended, in little memory."""

from types import SimpleNamespace

from data_pipelines.builders import staging, table
from data_pipelines.builders.compact import Compact
from data_pipelines.builders.entries import Entries, Entry, Ref


def _entry(k: int) -> Entry:
    fields = {"patient": f"p{k // 2:07d}", "labels": ["dr", "amd"][: k % 3], "eye": "OD"}
    return Entry(k, {"image": (Ref(f"images/{k:07d}.png", k, None),)}, fields)


def test_items_are_those_that_were_appended_wherever_they_lie() -> None:
    rows, entries = Entries(map(_entry, range(2500))), [_entry(k) for k in range(2500)]
    assert list(rows) == list(rows) == entries and len(rows) == 2500
    for place in (0, 1023, 1024, 2047, 2048, 2499, -1, -2500):  # in a block, at its ends, in none
        assert rows[place] == entries[place]
    assert rows[1000:2100] == entries[1000:2100] and rows[::-700] == entries[::-700]
    rows.append(_entry(7))
    assert rows[2500] == _entry(7) and rows[-2] == entries[-1]
    assert not Entries() and list(Entries()) == []


def test_items_of_any_fields_and_texts_lie_in_one_block() -> None:
    odd = ["", "\0", "\udcff.png", '",[]{}', "\u2028", "left\nright", "\U0001f441"]
    entries = [
        Entry(1, {}, {}),
        Entry(2, {}, {"id": "2"}),
        Entry(3, {"left": (), "right": (Ref("a.png"), Ref("b.png"))}, {"id": "", "labels": odd}),
        Entry(4, {"right": (Ref("a.tsv", 0, 7),), "left": (Ref("b.tsv", 9),)}, {"labels": []}),
        *(Entry(k, {"image": (Ref(text),)}, {text: text}) for k, text in enumerate(odd, 5)),
    ] * 100
    rows = Entries(entries)
    assert len(rows._blocks) == 1 and rows._open
    assert list(rows) == entries
    assert [list(entry.fields) for entry in rows] == [list(entry.fields) for entry in entries]


def test_a_row_takes_less_than_a_hundred_bytes() -> None:
    rows = Entries(map(_entry, range(10_240)))
    assert not rows._open
    assert sum(len(data) for _, data in rows._blocks) < 100 * len(rows)


def test_a_listing_keeps_no_object_a_row(tmp_path) -> None:
    path = tmp_path / "table.csv"
    lines = [f"{k}.png,dr,p{k}" for k in range(3000)]
    path.write_text("\n".join(["image,label,patient", *lines]), "utf-8")
    read = table.read(path, {})
    listing = table.listing(read, dataset="d", modality="cfp")
    for rows in (read.rows, listing.entries):
        assert isinstance(rows, Compact) and len(rows) == 3000 and len(rows._open) < 1024
    assert listing.entries[2999].name == "2999.png"


def test_chunks_are_made_as_they_are_needed(tmp_path, monkeypatch) -> None:
    asked: list[int] = []
    chunk = staging.Stage._chunk
    monkeypatch.setattr(
        staging.Stage, "_chunk", lambda self, i: (asked.append(i), chunk(self, i))[1]
    )
    monkeypatch.setattr(staging, "_write_chunk", lambda task: len(asked))
    recipe = staging.StagingOptions(
        source=str(tmp_path), pictures={}, texts=(), lists=(), preparation=None, slices=None,
        follow_links=False,
    )  # fmt: skip
    listing = table.Listing(Entries(map(_entry, range(staging.CHUNK * 3))))
    stage = staging.Stage(listing, recipe, tmp_path)
    monkeypatch.setattr(staging, "Statuses", lambda folder, number: SimpleNamespace(scales={}))
    done: list[int] = []
    real = staging.processes.each
    monkeypatch.setattr(
        staging.processes,
        "each",
        lambda *given: (done.append(number) or number for number in real(*given)),
    )
    stage.fill(1)
    assert done == [1, 2, 3], "a chunk is unpacked when it is written, not before"
