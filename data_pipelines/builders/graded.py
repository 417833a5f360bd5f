"""Corpora that are pictures and one table for each of their parts; they differ in its columns.

Tables and pictures are found by name at any depth, capitals aside, so that the archive of the
authors and the usual mirrors are both read as they are unpacked. Docstrings say "recalled" where
a licence, a layout or a number could not be looked up.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import ClassVar

from data_pipelines.builders import corpus, table, tree
from data_pipelines.builders.entries import Entries, Listing, Numbered, Ref, Unusable
from data_pipelines.builders.labels import RETINOPATHY, whole
from data_pipelines.builders.table import Table
from data_pipelines.builders.tree import FileTree
from data_pipelines.text.texts import plain

# Words of a grade above 0, as annotators and tables write them; more words, such as "suspected" or
# "with", make another statement of it.
_GRADE = re.compile(
    r"(?:(?P<stage>mild|moderate|severe) non[ -]?proliferative|(?:severe )?proliferative)"
    r"(?: diabetic)? retinopathy"
)
_STAGES = {"mild": "1", "moderate": "2", "severe": "3", None: "4"}


def keyword_list(cell: str) -> list[str]:
    """Splits a cell at full-width and plain commas; each keyword once, in lower case."""
    words = (word.strip().lower() for word in re.split("[，,]", cell))
    return list(dict.fromkeys(word for word in words if word))


def retinopathy_grade(keywords: Sequence[str]) -> str:
    """Returns the grade of diabetic retinopathy that keywords tell, a name of `RETINOPATHY`, or ''.

    A keyword tells it as a whole: "moderate non proliferative retinopathy", or a name itself.
    Of several grades the worst one counts. "Normal fundus", "diabetic retinopathy" and "suspected
    diabetic retinopathy" tell none.
    """
    names = {name: grade for grade, name in RETINOPATHY.items()}
    found = [""]
    for keyword in map(plain, keywords):
        told = _GRADE.fullmatch(keyword)
        found.append(_STAGES[told["stage"]] if told else names.get(keyword, ""))
    return RETINOPATHY.get(max(found), "")


@dataclasses.dataclass(frozen=True)
class Part:
    """One table and where its pictures lie.

    Attributes:
        tables: file names it may have.
        folders: the same as in `FileTree.picture`.
        split: that its rows belong to; '' where the corpus has none.
    """

    tables: tuple[str, ...]
    folders: tuple[str, ...] = ()
    split: str = ""


@dataclasses.dataclass(eq=False, kw_only=True)
class TablesConfig(corpus.CorpusConfig):
    """What to build.

    Attributes:
        columns: {field: column} where a copy of the corpus has other names than the original.
    """

    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Tables:
    """What the tables of a corpus look like.

    Attributes:
        layout: the rest of the sentence "expected is ...".
        parts: the parts of each layout, as `present` takes them.
        columns: {field: names of its column}, as `table.read` takes them; 'image' and 'labels'
            must be there, 'patient' and 'eye' may be, all others become text fields.
        names: {cell of the field 'labels': label}.
        modality: the modality of all pictures.
    """

    layout: str
    parts: tuple[tuple[Part, ...], ...]
    columns: Mapping[str, tuple[str, ...]]
    names: Mapping[str, str] = dataclasses.field(default_factory=dict)
    modality: str = "cfp"

    @property
    def extra(self) -> tuple[str, ...]:
        """The fields that are only kept as text."""
        return tuple(
            name for name in self.columns if name not in ("image", "labels", "patient", "eye")
        )


class Graded(corpus.Corpus):
    """TFDS builder of a corpus of tables; one record is one picture.

    A corpus sets `TABLES` and, where one column does not tell the label, overrides `labels`.
    """

    config_class = TablesConfig
    TABLES: ClassVar[Tables]

    def listing(self, config: TablesConfig) -> Listing:
        """Returns an entry for every row of the tables.

        Raises:
            InputError: none of the tables is there, or one lacks a column.
        """
        files, tables = tree.index(config.root, config.follow_links), self.TABLES
        found, remarks = present(files, tables.parts, tables.layout)
        rows = Numbered()
        columns: dict[str, str] = {}
        for part, name in found:
            found = table.read(
                files.root / name, config.columns, tables.columns, ("image", "labels")
            )
            columns |= found.columns
            for line, cells in found.rows:
                image = ""
                try:
                    row = by_field(found, cells)
                    image = row["image"]
                    labels = self.labels(row, table.named(found, cells) or {})
                    path = files.picture(image, part.folders, name)
                    fields = {
                        field: row.get(field, "") for field in ("patient", "eye", *tables.extra)
                    }
                    fields |= {
                        "labels": labels,
                        "modality": tables.modality,
                        "dataset": self.name,
                        "split": part.split,
                    }
                    rows.keep({"image": (Ref(path),)}, fields)
                except Unusable as error:
                    rows.skip(image, error.reason, f"line {line} of {name}: {error}")
        return Listing(rows.entries, tuple(rows.skipped), remarks, tables.extra, columns)

    def labels(self, row: Mapping[str, str], cells: Mapping[str, str]) -> list[str]:
        """Returns the labels of a row.

        Args:
            row: {field: cell}.
            cells: {column: cell}, also of columns without a field.

        Raises:
            Unusable: the row has no label that the corpus knows.
        """
        del cells
        if row["labels"] not in self.TABLES.names:
            known = ", ".join(self.TABLES.names)
            raise Unusable("unknown grade", f"'{row['labels']}' is none of {known}")
        return [self.TABLES.names[row["labels"]]]


def present(
    files: FileTree, layouts: Sequence[Sequence[Part]], expected: str
) -> tuple[list[tuple[Part, str]], tuple[str, ...]]:
    """Returns the parts whose tables are there, with their paths, and a remark on each other part.

    Args:
        files: the files of the corpus.
        layouts: the parts of each layout; the first one is read of which any table is there, of
            several layouts the first one whose first table is.
        expected: the rest of the sentence "expected is ...".

    Raises:
        InputError: no table is there.
    """
    for parts in layouts:
        if len(layouts) > 1 and files.table(parts[0].tables) is None:
            continue
        paths = [files.table(part.tables) for part in parts]
        found = [(part, path) for part, path in zip(parts, paths, strict=True) if path is not None]
        if found:
            return found, tuple(
                f"there is no '{part.tables[0]}', so the part '{part.split}' is left out"
                for part, path in zip(parts, paths, strict=True)
                if path is None
            )
    raise files.missing([parts[0].tables[0] for parts in layouts], expected)


def by_field(found: Table, cells: Sequence[str]) -> dict[str, str]:
    """Returns {field: cell} of a row; whole numbers are without the '.0' of spreadsheets.

    Raises:
        Unusable: the row has not one cell for each column, or names no picture.
    """
    row = table.named(found, cells)
    if row is None:
        detail = f"{len(cells)} where the header has {len(found.header)}"
        raise Unusable("wrong number of cells", detail)
    fields = {field: whole(row[column]) for field, column in found.columns.items()}
    if not fields.get("image", "-"):
        raise Unusable("no image named", "the cell is empty")
    return fields


class Idrid(Graded):
    """IDRiD, its grading part: photographs of a clinic in Nanded, India.

    Get: IEEE DataPort, "Indian Diabetic Retinopathy Image Dataset (IDRiD)", the archive
    "B. Disease Grading"; unpack it. Licence: CC BY 4.0.

        python -m data_pipelines.build --dataset=idrid --source=FOLDER

    Expected, at any depth: ``a. IDRiD_Disease Grading_Training Labels.csv`` and
    ``b. IDRiD_Disease Grading_Testing Labels.csv`` (columns ``Image name``, ``Retinopathy grade``,
    ``Risk of macular edema``), pictures ``a. Training Set/IDRiD_001.jpg`` and
    ``b. Testing Set/IDRiD_001.jpg``.

    Statistics: 413 for training (grades 0-4: 134, 20, 136, 74, 49), 103 for testing. Some files
    are byte-identical. The extra field ``dme_grade`` is the risk of macular edema, '0' to '2'.
    """

    TABLES: ClassVar[Tables] = Tables(
        layout="the unpacked 'B. Disease Grading' with '1. Original Images' and '2. Groundtruths'",
        parts=(
            (
                Part(
                    (
                        "a. IDRiD_Disease Grading_Training Labels.csv",
                        "IDRiD_Disease Grading_Training Labels.csv",
                    ),
                    ("a. training set", "training set"),
                    "train",
                ),
                Part(
                    (
                        "b. IDRiD_Disease Grading_Testing Labels.csv",
                        "IDRiD_Disease Grading_Testing Labels.csv",
                    ),
                    ("b. testing set", "testing set"),
                    "test",
                ),
            ),
        ),
        columns={
            "image": ("image_name",),
            "labels": ("retinopathy_grade",),
            "dme_grade": ("risk_of_macular_edema",),
        },
        names=RETINOPATHY,
    )


class Aptos(Graded):
    """APTOS 2019 Blindness Detection: photographs of Aravind Eye Hospital, India.

    Get: the Kaggle competition "aptos2019-blindness-detection" (an account and its rules).
    Licence: rules of the competition (recalled).

        python -m data_pipelines.build --dataset=aptos --source=FOLDER

    Expected, at any depth: ``train.csv`` (columns ``id_code``, ``diagnosis``) and
    ``train_images/ID.png``. The pictures of the competition's ``test.csv`` have no public grades
    and are not read. A mirror that divides the graded ones into ``train_1.csv``, ``valid.csv`` and
    ``test.csv`` with a folder of pictures for each keeps those splits.

    Statistics: 3,662 graded pictures. Patients are not named.
    """

    TABLES: ClassVar[Tables] = Tables(
        layout="'train.csv' (id_code, diagnosis) and 'train_images/ID.png'",
        parts=(
            (
                Part(("train_1.csv",), ("train_images",), "train"),
                Part(("valid.csv",), ("val_images",), "validation"),
                Part(("test.csv",), ("test_images",), "test"),
            ),
            (Part(("train.csv",), ("train_images",)),),
        ),
        columns={"image": ("id_code",), "labels": ("diagnosis",)},
        names=RETINOPATHY,
    )


class Messidor(Graded):
    """Messidor-2 with the adjudicated grades of Krause and others (Ophthalmology 2018).

    Get: pictures from ADCIS ("Messidor-2", after registration), the grades ``messidor_data.csv``
    from Kaggle ("google-brain/messidor2-dr-grades"); put both into one folder. Licence: research
    and education, not to be passed on (recalled).

        python -m data_pipelines.build --dataset=messidor --source=FOLDER

    Expected, at any depth: ``messidor_data.csv`` (columns ``image_id``, ``adjudicated_dr_grade``,
    ``adjudicated_dme``, ``adjudicated_gradable``; a mirror calls the first two ``id_code`` and
    ``diagnosis``), pictures under any folder, and ``messidor-2.csv`` of ADCIS (``left;right``, a
    row for each examination), which tells patients and eyes. Some names differ from those of the
    table in ``.JPG``.

    Statistics: 1,744 gradable pictures (grades 0-4: 1017, 270, 347, 75, 35) of 1,748. The extra
    field ``dme`` is '1' for referable macular edema, else '0'.
    """

    TABLES: ClassVar[Tables] = Tables(
        layout="'messidor_data.csv' (image_id, adjudicated_dr_grade, ...) beside a folder IMAGES",
        parts=((Part(("messidor_data.csv",)),),),
        columns={
            "image": ("image_id", "id_code"),
            "labels": ("adjudicated_dr_grade", "diagnosis"),
            "dme": ("adjudicated_dme",),
            "gradable": ("adjudicated_gradable",),
        },
        names=RETINOPATHY,
    )

    def labels(self, row: Mapping[str, str], cells: Mapping[str, str]) -> list[str]:
        """Returns the grade, or raises `Unusable` for a picture that could not be graded."""
        if row.get("gradable") == "0":
            raise Unusable("not gradable", "adjudicated_gradable is 0")
        return super().labels(row, cells)

    def listing(self, config: TablesConfig) -> Listing:
        """Returns an entry for every row, with the patient and the eye that the pairs tell.

        Raises:
            InputError: see `Graded.listing`.
        """
        found = super().listing(config)
        files = tree.index(config.root, config.follow_links)
        name = files.table(("messidor-2.csv",))
        if name is None:
            remark = (
                "there is no 'messidor-2.csv' with the pairs of eyes, so both eyes of a "
                "patient may come into different splits"
            )
            return dataclasses.replace(found, remarks=(*found.remarks, remark))
        pairs = table.read(
            files.root / name, {}, {side: (side,) for side in ("left", "right")}, ("left", "right")
        )
        known = {
            _stem(cell): (f"examination {number}", side)
            for number, (_, cells) in enumerate(pairs.rows, 1)
            for side, cell in by_field(pairs, cells).items()
        }
        entries = Entries(
            dataclasses.replace(entry, fields={**entry.fields, "patient": patient, "eye": eye})
            for entry in found.entries
            for patient, eye in [known.get(_stem(entry.name), ("", ""))]
        )
        return dataclasses.replace(found, entries=entries)


def _stem(name: str) -> str:
    return name.strip().lower().rsplit("/", 1)[-1].rsplit(".", 1)[0]
