"""SynFundus-1M: a million synthetic photographs, of which a table tells the conditions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from data_pipelines.builders import corpus, table
from data_pipelines.builders.entries import Entries, Entry, Listing, Ref, Skipped, Unusable
from data_pipelines.builders.graded import TablesConfig, by_field
from data_pipelines.builders.labels import RETINOPATHY
from data_pipelines.builders.tree import FileTree

_TABLE, _GRADE = "SynFundus-1M_gen_cond.csv", "dr_grade"
_PARTS, _IN_PART = 20, 50_000
_FLAGS = {"is_amd": "age related macular degeneration", "is_aon": "anomalies of the optic nerve",
          "is_crp": "choroidal retinal pathology", "is_dm": "degenerative myopia",
          "is_dme": "diabetic macular edema", "is_em": "epiretinal membrane", "is_gc": "glaucoma",
          "is_htr": "hypertensive retinopathy", "is_pm": "pathologic myopia",
          "is_rvo": "retinal vein occlusion"}  # fmt: skip
_COLUMNS = {"image": ("idx",), _GRADE: (_GRADE,), **{flag: (flag,) for flag in _FLAGS}}
# Labels that alone do not make a picture worth keeping (KeepFIT, prepare_partitions.py).
_DROPPED = frozenset((RETINOPATHY["0"], _FLAGS["is_crp"], _FLAGS["is_dm"]))


class Synfundus(corpus.Corpus):
    """SynFundus-1M (arXiv 2312.00377): photographs made by a diffusion model.

    Get: GitHub, "parap1uie-s/SynFundus-1M", which tells where the archives are. Licence: not
    stated in what could be read.

        python -m data_pipelines.build --dataset=synfundus --source=FOLDER

    Expected in FOLDER itself: ``SynFundus-1M_gen_cond.csv`` with the columns ``dr_grade`` (0-4) and
    ``is_amd``, ``is_aon``, ``is_crp``, ``is_dm``, ``is_dme``, ``is_em``, ``is_gc``, ``is_htr``,
    ``is_pm``, ``is_rvo`` (0 or 1), and the pictures ``Part0/0.png`` to ``Part19/....png``, 50,000
    in each part and the rest in the last. The number of a picture is the column ``idx``, or the
    place of its row from 0 where there is none. What the letters stand for is recalled for aon and
    crp.

    Labels, as KeepFIT has them: the grade and the conditions; "normal" where there is neither. Rows
    without retinopathy whose only conditions are crp or dm are skipped and counted.

    Statistics: 1,000,018 pictures. Patients do not exist. Other columns become text fields.
    """

    config_class = TablesConfig
    LAYOUT: ClassVar[str] = f"'{_TABLE}' beside the folders Part0 to Part{_PARTS - 1}"

    def listing(self, config: TablesConfig) -> Listing:
        """Returns an entry for every row; pictures are looked for when they are read.

        Raises:
            InputError: the table is not there, or lacks a column.
        """
        # A million files are not listed: where they are is known.
        files = FileTree(config.root, {})
        if not (config.root / _TABLE).is_file():
            raise files.missing([_TABLE], self.LAYOUT)
        found = table.read(config.root / _TABLE, config.columns, _COLUMNS, (_GRADE, *_FLAGS))
        extra = table.extra_fields(found.extra)
        entries = Entries()
        skipped: list[Skipped] = []
        for place, (line, cells) in enumerate(found.rows):
            path = ""
            try:
                row = by_field(found, cells)
                path = picture(row.get("image", str(place)))
                by_column = table.named(found, cells) or {}
                fields = {"modality": "cfp", "dataset": self.name, "labels": labels(row)}
                fields |= {field: by_column[column] for column, field in extra.items()}
                entries.append(Entry(line, {"image": (Ref(path),)}, fields))
            except Unusable as error:
                skipped.append(Skipped(line, path, error.reason, str(error)))
        return Listing(entries, tuple(skipped), (), tuple(extra.values()))


def picture(index: str) -> str:
    """Returns the path of a picture by its number, or raises `Unusable` for what is no number."""
    if not index.isdecimal():
        raise Unusable("no image named", f"'{index}' is no number")
    number = int(index)
    return f"Part{min(_PARTS - 1, number // _IN_PART)}/{number}.png"


def labels(row: Mapping[str, str]) -> list[str]:
    """Returns the labels of a row, or raises `Unusable` where it is to be left out.

    Args:
        row: {field: cell}.
    """
    grade = row[_GRADE]
    odd = next((row[name] for name in _FLAGS if row[name] not in ("0", "1")), None)
    if grade not in RETINOPATHY or odd is not None:
        raise Unusable("unknown grade", f"'{grade if odd is None else odd}'")
    found = [RETINOPATHY[grade], *(name for flag, name in _FLAGS.items() if row[flag] == "1")]
    if found == [RETINOPATHY["0"]]:
        return ["normal"]
    if _DROPPED.issuperset(found):
        raise Unusable("only degenerative myopia or choroidal pathology", ", ".join(found[1:]))
    return found
