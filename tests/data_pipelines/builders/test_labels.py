"""What tables say: nothing in many spellings, classes in many columns, codes that need names."""

import pathlib
from collections.abc import Sequence
from typing import Any

import corpora
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines import build
from data_pipelines.builders import account, entries, labels, table
from data_pipelines.errors import InputError
from data_pipelines.records import sources
from data_pipelines.text import texts

pytestmark = pytest.mark.fast

NOTHING = ("", "nan", "NaN", "None", "NA", "N/A", "null", "-", " nan ")


def read(folder: pathlib.Path, rows: Sequence[Sequence[Any]], **chosen: str) -> entries.Listing:
    options = labels.LabelOptions(
        chosen.pop("separator", ""), labels.class_names(chosen.pop("names", ""))
    )
    corpora.write_csv(folder / "manifest.csv", rows)
    found = table.read(folder / "manifest.csv", chosen)
    return table.listing(found, dataset="own", modality="cfp", options=options)


def told(listing: entries.Listing) -> list[list[str]]:
    return [entry.fields["labels"] for entry in listing.entries]


@pytest.mark.parametrize("nothing", NOTHING)
def test_nothing_is_nothing_in_every_column(tmp_path: pathlib.Path, nothing: str) -> None:
    header = ["image", "label", "patient", "caption", "caption_zh", "eye", "split", "modality",
              "duplicate_of", "dataset", "age"]  # fmt: skip
    (entry,) = read(tmp_path, [header, ["a.png", *[nothing] * 10]]).entries
    expected = dict.fromkeys(table.ALIASES, "") | {"labels": [], "attributes": [], "age": ""}
    del expected["image"]
    assert entry.fields == expected | {"modality": "cfp", "dataset": "own"}
    assert read(tmp_path, [["image"], [nothing], ["b.png"]]).entries[0].name == "b.png"
    assert labels.split(f"dr;{nothing}", "") == labels.split(f"['dr', '{nothing}']", "") == ["dr"]


def test_accents_are_compared_whatever_their_encoding(tmp_path: pathlib.Path) -> None:
    rows = [["image", "label"], ["a", "Ödem"], ["b", "O\u0308dem"]]
    assert told(read(tmp_path, rows)) == [["ödem"], ["ödem"]]
    assert texts.text_group("Ödem") == texts.text_group("O\u0308dem")
    assert texts.plain("Ödem") == texts.plain("O\u0308dem")


@pytest.mark.parametrize(
    "column", ["level", "diagnosis", "dx", "class", "label_id", "DR_grade", "Class Name"]
)
def test_the_label_columns_of_public_corpora(tmp_path: pathlib.Path, column: str) -> None:
    assert told(read(tmp_path, [["id_code", column], ["a", "Drusen"]])) == [["drusen"]]
    with pytest.raises(InputError, match=rf"column {column}\) look like codes \(0, 2\)"):
        read(tmp_path, [["id_code", column], ["a", "0"], ["b", "2.0"], ["c", "drusen"]])


@pytest.mark.parametrize(
    ("cells", "names", "expected"),
    [
        (["0", "1.0", "2"], "0:normal, 1: Mild NPDR ,2:moderate", ["normal", "mild npdr",
                                                                    "moderate"]),
        (["0", "4", ""], "icdr5", ["no diabetic retinopathy",
                                   "proliferative diabetic retinopathy"]),
        (["N", "d", "glaucoma"], "n:normal,D:diabetes", ["normal", "diabetes", "glaucoma"]),
        (["yes", "no", "no"], "yes:glaucoma,no:no glaucoma", ["glaucoma", "no glaucoma",
                                                              "no glaucoma"]),
    ],
)  # fmt: skip
def test_codes_get_their_names(
    tmp_path: pathlib.Path, cells: list[str], names: str, expected: list[str]
) -> None:
    rows = [["image", "label"], *([f"{i}.png", cell] for i, cell in enumerate(cells))]
    assert sum(told(read(tmp_path, rows, names=names)), []) == expected
    with pytest.raises(InputError, match="look like codes .*--label_names=0:normal.*icdr5"):
        read(tmp_path, rows)
    with pytest.raises(InputError, match="look like codes"):
        read(tmp_path, [*rows, ["x.png", "7"]], names=names)


def test_codes_of_words_are_spelled_as_columns_and_folders_are(tmp_path: pathlib.Path) -> None:
    rows = [["image", "label"], ["a", "stage_1"], ["b", "STAGE 2"], ["c", "Stage_2"]]
    found = told(read(tmp_path, rows, names="stage_1:mild,stage 2:moderate"))
    assert found == [["mild"], ["moderate"], ["moderate"]]


@pytest.mark.parametrize("names", ["normal", "0:", "0:a,0.0:b", "0:a,b"])
def test_names_of_codes_are_pairs(names: str) -> None:
    with pytest.raises(InputError, match="label_names"):
        labels.class_names(names)


FLAGS = [["image", "normal", "Macular_Hole", "amd", "sex"], ["a", "1", "0", "", "1"],
         ["b", "0", "1.0", "1", "0"], ["c", "0", "0", "0", "1"]]  # fmt: skip


def test_a_column_for_each_class(tmp_path: pathlib.Path) -> None:
    with pytest.raises(InputError, match="4 columns hold only 0 and 1 .normal, Macular_Hole, amd"):
        read(tmp_path, FLAGS)
    found = read(tmp_path, FLAGS, label="normal,macular hole,AMD")
    assert told(found) == [["normal"], ["macular hole", "amd"], []] and found.extra == ("sex",)
    found = read(tmp_path, FLAGS, labels="normal,Macular_Hole", names="normal:no disease")
    assert told(found) == [["no disease"], ["macular hole"], []]
    assert told(read(tmp_path, FLAGS, labels="")) == [[], [], []]
    captioned = [[*row, "caption" if i == 0 else "Words."] for i, row in enumerate(FLAGS)]
    found = read(tmp_path, captioned)
    assert told(found) == [[], [], []] and "4 columns hold only 0 and 1" in found.remarks[0]
    with pytest.raises(InputError, match=r"look like codes \(n\)"):
        read(tmp_path, [["image", "N", "Drusen"], ["a", "0", "1"]], labels="N,Drusen")


def test_several_columns_of_names(tmp_path: pathlib.Path) -> None:
    rows = [["image", "left", "right"], ["a", "DR", "drusen;DR"], ["b", "nan", "amd"]]
    assert told(read(tmp_path, rows, labels="left,right")) == [["dr", "drusen"], ["amd"]]


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["DR; AMD", "DR|AMD"], [["dr", "amd"], ["dr", "amd"]]),
        (["['DR', 'AMD']", "DR"], [["dr", "amd"], ["dr"]]),
        (["unlabelled (child, study)", "unlabelled (adult, study)"], None),
        (["retinopathy, in the child", "normal"], None),
        (["edema, macular; DR", "edema, optic; DR"], [["edema, macular", "dr"],
                                                      ["edema, optic", "dr"]]),
    ],
)  # fmt: skip
def test_lists_and_commas_of_names(
    tmp_path: pathlib.Path, cells: list[str], expected: list[list[str]] | None
) -> None:
    rows = [["image", "label"], *([f"{i}.png", cell] for i, cell in enumerate(cells))]
    assert told(read(tmp_path, rows)) == (expected or [[cell] for cell in cells])


def test_commas_that_separate_labels_are_asked_about(tmp_path: pathlib.Path) -> None:
    rows = [["image", "label"], ["a", "DR, AMD"], ["b", "DR,Glaucoma"], ["c", "DR"]]
    with pytest.raises(InputError, match="'DR, AMD' in column 'label'.*--label_separator=,"):
        read(tmp_path, rows)
    assert told(read(tmp_path, rows, separator=",")) == [["dr", "amd"], ["dr", "glaucoma"], ["dr"]]
    assert told(read(tmp_path, rows, separator=";"))[0] == ["dr, amd"]


@pytest.mark.parametrize(
    ("word", "column"),
    [("label", "level"), ("Labels", "LEVEL"), ("class", " level "), ("category", "Level")],
)
def test_the_obvious_spellings_of_a_column(tmp_path: pathlib.Path, word: str, column: str) -> None:
    rows = [["image", "label", "Level"], ["a", "x ray", "drusen"]]
    assert told(read(tmp_path, rows, **{word: column})) == [["drusen"]]


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        ({"lable": "level"}, "no field 'lable' .did you mean 'labels'"),
        ({"label": "levle"}, "no column 'levle' for labels .did you mean 'Level'"),
        ({"label": "Level", "class": "label"}, "Two columns are given for labels"),
    ],
)
def test_what_is_misspelt_gets_a_hint(
    tmp_path: pathlib.Path, chosen: dict[str, str], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        read(tmp_path, [["image", "label", "Level"], ["a", "x", "y"]], **chosen)


def test_a_build_ends_with_what_it_made_of_the_columns(tmp_path: pathlib.Path) -> None:
    for i in range(4):
        corpora.picture(tmp_path / "source" / f"{i}.png")
    rows = [["image", "dx", "patient", "age"], *([f"{i}.png", "", f"p{i}", "50"] for i in range(5))]
    rows[1][1], rows[2][1], rows[3][1] = "DR;AMD", "DR", "nan"
    corpora.write_csv(tmp_path / "source" / "manifest.csv", rows)
    text = build.build("manifest", "own", str(tmp_path), source=str(tmp_path / "source"),
                       processes=1)  # fmt: skip
    lines = [" ".join(line.split()) for line in text.splitlines()]
    # The last row has no picture, so its cells do not count.
    for line in ("column became filled distinct example", "image image 4 4 0.png",
                 "dx labels 2 2 dr; amd", "patient patient 4 4 p0", "age age 4 1 50",
                 "2 classes: dr 2, amd 1", "note: 2 of 4 records have no label",
                 "1 no such file"):  # fmt: skip
        assert line in lines
    with pytest.raises(SystemExit):
        build.main(["--dataset=manifest", "--colum"])
    assert build.main(["--dataset=manifest", "--source=.", "--column", "label"]) == 2


def test_many_classes_are_cut(tmp_path: pathlib.Path) -> None:
    rows = [["image", "label"], *([f"{i}.png", f"class {i}"] for i in range(60))]
    found = read(tmp_path, rows)
    last = account.lines(found, [True] * len(found.entries))[-1]
    assert last.startswith("60 classes: class 0 1, ") and last.endswith(", and 20 more")


cell = st.sampled_from([*NOTHING, "0", "1", "1.0", "2", "DR", "dr, amd", "a;b", "['dr', 1]",
                        "yes", "normal", "[[", "é", "x" * 50]) | st.text(max_size=4)  # fmt: skip
columns = ["label", "dx", "normal", "DR", "N", "patient", "caption", "sex"]
header = st.lists(st.sampled_from(columns), max_size=4, unique=True)


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(data=st.data())
def test_whatever_a_table_says_it_is_understood_or_refused(
    data: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    names = ["image", *data.draw(header)]
    row = st.tuples(*[cell] * len(names))
    rows = data.draw(st.lists(row, max_size=6))
    chosen = data.draw(st.sampled_from([{}, {"labels": ",".join(names[1:])}, {"labels": ""}]))
    chosen = {**chosen, "names": data.draw(st.sampled_from(["", "icdr5", "n:normal,yes:glaucoma"]))}
    try:
        found = read(tmp_path_factory.getbasetemp(), [names, *rows], **chosen)
    except InputError as error:
        assert "\n" not in str(error)
        return
    blank = sum(not any(one.strip() for one in cells) for cells in rows)
    assert len(found.entries) + len(found.skipped) == len(rows) - blank
    for entry in found.entries:
        values = [*entry.fields["labels"], *filter(None, map(str, entry.fields.values()))]
        assert not any(labels.is_code(label) for label in entry.fields["labels"])
        assert all(value.casefold() not in ("nan", "none", "n/a", "null") for value in values)


def test_prompts_of_tables_that_were_not_understood_are_refused(
    data_dir: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from data_pipelines import pipelines
    from data_pipelines import transforms as T

    source = sources.load("synthetic_retina/smoke", "public", data_dir)
    column = source.column
    stream = pipelines.Stream(source, (T.Prompt(),), 2)
    pipelines.train({"public": stream}, seed=0)
    for values, words in (
        ([[]], "records of .* have an empty 'labels', so every prompt"),
        ([["dr"], [], ["DR "]], "an empty 'labels' and the others have 'dr'"),
        ([["dr"], ["DR "]], "all [0-9]+ records of .* have the 'labels' 'dr'"),
        ([["0"], ["1.0"], ["dr"]], "'0' in 'labels' of .* is a code"),
    ):
        cells = [values[i % len(values)] for i in range(len(source))]
        monkeypatch.setattr(source, "column", lambda field, cells=cells: cells)
        with pytest.raises(InputError, match=f"Stream 'public': prompt: .*{words}"):
            pipelines.train({"public": stream}, seed=0)
    monkeypatch.setattr(source, "column", column)


def test_a_comma_is_asked_about_where_another_row_has_a_semicolon(tmp_path: pathlib.Path) -> None:
    rows = [["image", "label"], ["a", "dr, amd"], ["b", "glaucoma; amd"], ["c", "dr, x"]]
    with pytest.raises(InputError, match="'dr, amd' in column 'label' .* several labels"):
        read(tmp_path, rows)


def test_a_slip_in_a_column_of_a_class_is_named(tmp_path: pathlib.Path) -> None:
    rows = [["image", "dr", "amd"], ["a", "1", "0"], ["b", "0", "2"], ["c", "0", "1"]]
    with pytest.raises(InputError, match=r"Column 'amd' .*\(beside dr\) holds 2, where 0 and 1"):
        read(tmp_path, rows, labels="dr,amd")


def test_one_patient_and_one_label_however_they_are_written(tmp_path: pathlib.Path) -> None:
    rows = [["image", "label", "patient", "split"], ["a", "mild  DR", "1", "1"],
            ["b", "mild dr", "1.0", "1.0"]]  # fmt: skip
    found = read(tmp_path, rows)
    assert told(found) == [["mild dr"]] * 2
    assert {(e.fields["patient"], e.fields["split"]) for e in found.entries} == {("1", "1")}


def test_texts_are_counted_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(account, "_GATHERED", 2)
    cells = ["", "b", "a", "b", "c", "", "a", "d", "e", "e"]
    rows = tuple(entries.Entry(i, {}, {"note": text}) for i, text in enumerate(cells))
    found = entries.Listing(rows, columns={"note": "Note"})
    _, line = account.lines(found, [True] * 9 + [False])
    assert line.split() == ["Note", "note", "7", "5", "b"]
