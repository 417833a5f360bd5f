"""ODIR-5K: both eyes of a patient, with the annotators' keywords for each."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, ClassVar

from data_pipelines.builders import corpus, shapes, table, tree
from data_pipelines.builders.entries import Listing, Numbered, Ref, Unusable
from data_pipelines.builders.graded import (
    Part,
    TablesConfig,
    by_field,
    keyword_list,
    present,
    retinopathy_grade,
)

_FLAGS = "NDGCAHMO"
_COLUMNS = {
    "patient": ("id",),
    "age": ("patient_age",),
    "sex": ("patient_sex",),
    "left_image": ("left_fundus",),
    "right_image": ("right_fundus",),
    "left_keywords": ("left_diagnostic_keywords",),
    "right_keywords": ("right_diagnostic_keywords",),
    **{flag: (flag.lower(),) for flag in _FLAGS},
    # Only in the table that has a row for each eye.
    "image": ("filename",),
}
# The originals; the cropped copies of the mirror only where those are not there.
_FOLDERS = ("training images", "odir-5k_training_images", "odir-5k_training_dataset",
            "preprocessed_images")  # fmt: skip
_LAYOUTS = (
    # Each patient is one row, with a picture of each eye ...
    (
        Part(("training annotation (English).xlsx",), ("training set", "training_set"), "train"),
        Part(
            ("off-site test annotation (English).xlsx",),
            ("off-site test set", "off-site_test_set"),
            "validation",
        ),
        Part(
            ("on-site test annotation (English).xlsx",),
            ("on-site test set", "on-site_test_set"),
            "test",
        ),
    ),
    (
        Part(
            (
                "ODIR-5K_Training_Annotations(Updated)_V2.xlsx",
                "ODIR-5K_Training_Annotations(Updated)_V2.csv",
                "ODIR-5K_Training_Annotations.xlsx",
                "ODIR-5K_Training_Annotations.csv",
                "data.xlsx",
            ),
            _FOLDERS,
        ),
    ),
    # ... or each eye is one.
    (Part(("full_df.csv",), _FOLDERS),),
)
# What annotators wrote of pictures that show no fundus.
_NO_FUNDUS = ("no fundus image", "anterior segment image")


class Odir(corpus.Corpus):
    """ODIR-5K, Ocular Disease Intelligent Recognition (Peking University, challenge of 2019).

    Get: odir2019.grand-challenge.org (registration), or the mirror on Kaggle
    ("andrewmvd/ocular-disease-recognition-odir5k"), or the release with both test parts, OIA-ODIR.
    Licence: terms of the challenge, research only, not open.

        python -m data_pipelines.build --dataset=odir --source=FOLDER --unit=patient

    Expected, at any depth, the first of these that is there:

    - OIA-ODIR: ``training annotation (English).xlsx``, ``off-site test annotation (English).xlsx``
      (here 'validation') and ``on-site test annotation (English).xlsx`` ('test'), pictures in
      ``Training Set/Images/0_left.jpg`` and so on;
    - ``ODIR-5K_Training_Annotations(Updated)_V2.xlsx``, or ``data.xlsx`` of the mirror, with
      ``Training Images/0_left.jpg``;
    - ``full_df.csv`` of the mirror: one row for each eye.

    Columns: ``ID``, ``Patient Age``, ``Patient Sex``, ``Left-Fundus``, ``Right-Fundus``,
    ``Left-Diagnostic Keywords``, ``Right-Diagnostic Keywords``, ``N``, ``D``, ``G``, ``C``, ``A``,
    ``H``, ``M``, ``O``; ``full_df.csv`` also has ``filename``. A row of a patient counts as two,
    one for each picture.

    The caption is the keywords of the eye, the labels are the same in lower case; keywords are
    separated by a full-width comma. Extra fields: ``age``, ``sex``, ``patient_flags``, the letters
    of N D G C A H M O that are 1 for the patient (both eyes), and ``dr_grade``, the grade of
    diabetic retinopathy that the keywords tell, 'mild diabetic retinopathy' to 'proliferative
    diabetic retinopathy' as in IDRiD, else ''.

    Statistics: 3,500 patients for training (7,000 pictures; 6,392 rows in ``full_df.csv``), and
    500 + 1,000 for the two tests (recalled). Of 4,878 eyes of a mirror 1,314 are graded: 432 mild,
    729 moderate, 135 severe, 18 proliferative.
    """

    config_class = TablesConfig
    LAYOUT: ClassVar[str] = (
        "'ODIR-5K_Training_Annotations(Updated)_V2.xlsx', the tables of "
        "OIA-ODIR, or 'full_df.csv', and pictures '0_left.jpg'"
    )

    def listing(self, config: TablesConfig) -> Listing:
        """Returns an entry for every eye of every row.

        Raises:
            InputError: no table is there, or it lacks a column.
        """
        files = tree.index(config.root, config.follow_links)
        found, remarks = present(files, _LAYOUTS, self.LAYOUT)
        rows = Numbered()
        for part, name in found:
            found = table.read(files.root / name, config.columns, _COLUMNS, tuple(_COLUMNS)[:-1])
            sides = ("",) if "image" in found.columns else tuple(shapes.SIDES)
            for (line, cells), side in itertools.product(found.rows, sides):
                image = ""
                try:
                    row = by_field(found, cells)
                    image = row[f"{side}_image".lstrip("_")]
                    fields = {
                        **_fields(row, side or _side(image)),
                        "dataset": self.name,
                        "split": part.split,
                    }
                    path = files.picture(image, part.folders, name)
                    rows.keep({"image": (Ref(path),)}, fields)
                except Unusable as error:
                    rows.skip(image, error.reason, f"line {line} of {name}: {error}")
        extra = ("age", "sex", "patient_flags", "dr_grade")
        return Listing(rows.entries, tuple(rows.skipped), remarks, extra)


def _side(image: str) -> str:
    side = next((side for side in shapes.SIDES if f"_{side}." in image.lower()), None)
    if side is None:
        raise Unusable("eye unknown", f"'{image}' is neither a left nor a right eye")
    return side


def _fields(row: Mapping[str, str], side: str) -> dict[str, Any]:
    """Returns the fields of an eye, or raises `Unusable` for a picture that shows no fundus."""
    keywords = keyword_list(row[f"{side}_keywords"])
    if any(word in _NO_FUNDUS for word in keywords):
        raise Unusable("no fundus picture", f"it is described as {', '.join(keywords)}")
    return {
        "modality": "cfp",
        "patient": row["patient"],
        "eye": shapes.SIDES[side],
        "caption": ", ".join(keywords),
        "labels": keywords,
        "age": row["age"],
        "sex": row["sex"],
        "patient_flags": " ".join(flag for flag in _FLAGS if row[flag] == "1"),
        "dr_grade": retinopathy_grade(keywords),
    }
